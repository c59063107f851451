//! The settings, as programs read them: by handle with a type, or by name as text.
//!
//! A key is the name of a setting or of its alias. A handle is a number that is never followed. What is
//! answered is what is in force, and it does not change while the process lives, so the texts live as long.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;
use std::sync::OnceLock;

use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::ResultNumber;
use crate::abi::wall;
use crate::config::{Config, SETTINGS, Setting, Value, foreign};
use crate::error::Result;
use crate::trace::log;

/// `ncclParamHandle_t`, never followed.
type Handle = *mut c_void;

/// A name, and what is in force for it.
struct Key {
    row: &'static Setting,
    name: CString,
    text: CString,
}

/// Handles are addresses in here: nobody else's memory, and nothing to find in it.
static PLACES: [u8; 512] = [0; 512];

fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let config = Config::get();
        let text_of = |row: &Setting| match config.value(row.name) {
            Some(value) => value.shown().replace('\0', ""),
            None => row.default.to_owned(),
        };
        let named = |row: &'static Setting| {
            std::iter::once(row.name).chain(row.aliases.iter().copied()).map(move |name| Key {
                row,
                name: CString::new(name).unwrap_or_default(),
                text: CString::new(text_of(row)).unwrap_or_default(),
            })
        };
        SETTINGS.iter().flat_map(named).take(PLACES.len()).collect()
    })
}

/// The key of that name.
///
/// # Safety
/// `name` is NULL or a string.
unsafe fn find(call: &'static str, name: *const c_char) -> Result<(usize, &'static Key)> {
    not_null(call, "key", name)?;
    // SAFETY: it is not NULL, so by the contract a string lies there.
    let name = unsafe { CStr::from_ptr(name) };
    if let Some(found) = keys().iter().enumerate().find(|(_, key)| key.name.as_c_str() == name) {
        return Ok(found);
    }
    let name = name.to_string_lossy();
    match foreign::reason(&name) {
        Some(why) => {
            let problem = format_args!("{name} is ignored here: {why}");
            bad(call, "key", problem, "ncclParamGetAllParameterKeys lists the settings there are")
        }
        None => {
            let problem = format_args!("{name:?} is no setting");
            bad(call, "key", problem, "ncclParamGetAllParameterKeys lists the settings there are")
        }
    }
}

fn key_of(call: &'static str, handle: Handle) -> Result<&'static Key> {
    not_null(call, "h", handle)?;
    match handle.addr().checked_sub(PLACES.as_ptr().addr()).and_then(|index| keys().get(index)) {
        Some(key) => Ok(key),
        None => bad(call, "h", format_args!("{handle:p} is no handle"), "pass what ncclParamBind gave"),
    }
}

/// # Safety
/// `place` is NULL or writable; `name` is NULL or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclParamBind(place: *mut Handle, name: *const c_char) -> ResultNumber {
    const CALL: &str = "ncclParamBind";
    wall::plain(CALL, || {
        not_null(CALL, "out", place)?;
        // SAFETY: passed on from this function's contract.
        let (index, _) = unsafe { find(CALL, name) }?;
        // SAFETY: likewise.
        unsafe { answer(CALL, "out", place, PLACES.as_ptr().wrapping_add(index).cast_mut().cast()) }
    })
}

/// A value that is a whole number, as the settings are written: decimal, or hexadecimal after 0x.
fn number(key: &Key) -> Option<i128> {
    let text = key.text.to_str().ok()?.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    digits.map_or_else(|| text.parse().ok(), |digits| i128::from_str_radix(digits, 16).ok())
}

/// A whole number in the type that is asked for.
fn whole<T: TryFrom<i128>>(call: &'static str, key: &Key) -> Result<T> {
    match number(key).and_then(|number| T::try_from(number).ok()) {
        Some(value) => Ok(value),
        None => bad(
            call,
            "h",
            format_args!(
                "is bound to {}, which is {:?}: not a number of this type",
                key.name.to_string_lossy(),
                key.text.to_string_lossy()
            ),
            "read it with ncclParamGetStr, or with a type that holds it",
        ),
    }
}

macro_rules! typed {
    ($($twin:ident $of:ty)*) => {$(
        /// # Safety
        /// `place` is NULL or writable.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $twin(handle: Handle, place: *mut $of) -> ResultNumber {
            // The name without the p of the twin.
            let call = stringify!($twin).split_at(1).1;
            wall::plain(call, || {
                not_null(call, "out", place)?;
                let value: $of = whole(call, key_of(call, handle)?)?;
                // SAFETY: passed on from this function's contract.
                unsafe { answer(call, "out", place, value) }
            })
        }
    )*};
}

typed! {
    pncclParamGetI8 i8 pncclParamGetI16 i16 pncclParamGetI32 i32 pncclParamGetI64 i64
    pncclParamGetU8 u8 pncclParamGetU16 u16 pncclParamGetU32 u32 pncclParamGetU64 u64
}

/// # Safety
/// `place` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclParamGetStr(handle: Handle, place: *mut *const c_char) -> ResultNumber {
    const CALL: &str = "ncclParamGetStr";
    wall::plain(CALL, || {
        let key = key_of(CALL, handle)?;
        // SAFETY: passed on from this function's contract.
        unsafe { answer(CALL, "out", place, key.text.as_ptr()) }
    })
}

/// The bytes of a value: eight of a whole number, else the text with its end.
///
/// # Safety
/// `out` is NULL, or writable for `most` bytes; `length` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclParamGet(
    handle: Handle,
    out: *mut c_void,
    most: c_int,
    length: *mut c_int,
) -> ResultNumber {
    const CALL: &str = "ncclParamGet";
    wall::plain(CALL, || {
        let key = key_of(CALL, handle)?;
        not_null(CALL, "out", out)?;
        not_null(CALL, "len", length)?;
        let number = number(key).and_then(|number| i64::try_from(number).ok()).map(i64::to_ne_bytes);
        let bytes = number.as_ref().map_or(key.text.as_bytes_with_nul(), |bytes| bytes.as_slice());
        // SAFETY: passed on from this function's contract. The length that is needed, or that was written.
        unsafe { answer(CALL, "len", length, c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)) }?;
        if usize::try_from(most).is_ok_and(|most| most >= bytes.len()) {
            // SAFETY: `out` is writable for `most` bytes, which is enough; no caller's buffer is one of ours.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len()) };
            return Ok(());
        }
        let problem = format_args!("is {most}, and the value has {} bytes", bytes.len());
        bad(CALL, "maxLen", problem, "pass a buffer of at least as many bytes as *len says")
    })
}

/// # Safety
/// `name` is NULL or a string; `value` and `length` are NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclParamGetParameter(
    name: *const c_char,
    value: *mut *const c_char,
    length: *mut c_int,
) -> ResultNumber {
    const CALL: &str = "ncclParamGetParameter";
    wall::plain(CALL, || {
        not_null(CALL, "key", name)?;
        // SAFETY: passed on from this function's contract, here and below. A name that is none answers NULL.
        unsafe {
            answer(CALL, "value", value, null())?;
            answer(CALL, "valueLen", length, 0)?;
            let (_, key) = find(CALL, name)?;
            answer(CALL, "value", value, key.text.as_ptr())?;
            answer(CALL, "valueLen", length, c_int::try_from(key.text.as_bytes().len()).unwrap_or(c_int::MAX))
        }
    })
}

/// # Safety
/// `table` and `length` are NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclParamGetAllParameterKeys(
    table: *mut *const *const c_char,
    length: *mut c_int,
) -> ResultNumber {
    const CALL: &str = "ncclParamGetAllParameterKeys";
    thread_local! {
        static TABLE: RefCell<Vec<*const c_char>> = const { RefCell::new(Vec::new()) };
    }
    wall::plain(CALL, || {
        not_null(CALL, "table", table)?;
        not_null(CALL, "tableLen", length)?;
        TABLE.with_borrow_mut(|names| {
            names.clear();
            names.extend(keys().iter().map(|key| key.name.as_ptr()));
            // SAFETY: passed on from this function's contract; the table is this thread's until it asks again.
            unsafe {
                answer(CALL, "table", table, names.as_ptr())?;
                answer(CALL, "tableLen", length, c_int::try_from(names.len()).unwrap_or(c_int::MAX))
            }
        })
    })
}

/// Every setting with what it is and who said so, into the log whatever its level.
#[unsafe(no_mangle)]
extern "C" fn pncclParamDumpAll() {
    wall::value((), || {
        let config = Config::get();
        let mut lines = String::from("=== Shoal's settings ===\n");
        for key in keys().iter().filter(|key| key.name.as_bytes() == key.row.name.as_bytes()) {
            let row = key.row;
            let also = row.aliases.iter().map(|alias| format!(", also {alias}")).collect::<String>();
            let origin = config.value(row.name).map(Value::said_by).unwrap_or_default();
            let text = key.text.to_string_lossy();
            let shown = if text.is_empty() { "<unset>" } else { &text };
            let default = if row.default.is_empty() { "<unset>" } else { row.default };
            lines += &format!("{}{also}: {}\n", row.name, row.help);
            lines += &format!("    Current value={shown} set_by={origin} default={default}\n");
        }
        log::dump(&lines);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key { row: &SETTINGS[0], name: c"X".into(), text: CString::new(text).unwrap() }
    }

    #[test]
    fn numbers_fit_their_type_or_are_refused() {
        assert_eq!(whole::<i8>("f", &key("-128")), Ok(-128));
        assert_eq!(whole::<u64>("f", &key("0x10")), Ok(16));
        for (text, fits) in [("300", false), ("255", true), ("-1", false), ("auto", false), ("", false)] {
            assert_eq!(whole::<u8>("f", &key(text)).is_ok(), fits, "{text}");
        }
        let told = whole::<u8>("f", &key("300")).unwrap_err().to_string();
        assert!(
            told.starts_with("f: h is bound to X, which is \"300\": not a number of this type; "),
            "{told}"
        );
    }

    #[test]
    fn every_name_has_its_own_place() {
        let count = SETTINGS.iter().map(|row| 1 + row.aliases.len()).sum::<usize>();
        assert_eq!(keys().len(), count);
        for index in [0, count - 1] {
            let handle = PLACES.as_ptr().wrapping_add(index).cast_mut().cast();
            assert!(key_of("f", handle).is_ok_and(|key| std::ptr::eq(key, &raw const keys()[index])));
        }
        assert!(key_of("f", PLACES.as_ptr().wrapping_add(count).cast_mut().cast()).is_err());
        assert!(key_of("f", std::ptr::without_provenance_mut(8)).is_err());
    }
}
