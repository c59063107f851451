//! `ncclConfig_t`: read as far as the caller's own size reaches, never written.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem::offset_of;

use crate::abi::convert::bad;
use crate::abi::types::{Config, MAGIC, UNDEFINED};
use crate::comm::Options;
use crate::error::Result;

/// A number in the structure, and what it may be.
struct Field {
    name: &'static str,
    offset: usize,
    /// Callers compiled before this version do not know of it, whatever lies there.
    since: c_uint,
    least: c_int,
    most: c_int,
}

/// The numbers that have wrong values. All others are wishes about GPUs, and are not looked at.
const CHECKED: [Field; 9] = [
    field("config.blocking", offset_of!(Config, blocking), 21400, 0, 1),
    field("config.cgaClusterSize", offset_of!(Config, cga_cluster_size), 21700, 0, 8),
    field("config.minCTAs", offset_of!(Config, min_ctas), 21700, 1, c_int::MAX),
    field("config.maxCTAs", offset_of!(Config, max_ctas), 21700, 1, c_int::MAX),
    field("config.splitShare", offset_of!(Config, split_share), 21800, 0, 1),
    field("config.collnetEnable", offset_of!(Config, collnet_enable), 22700, 0, 1),
    field("config.CTAPolicy", offset_of!(Config, cta_policy), 22700, 0, 3),
    field("config.shrinkShare", offset_of!(Config, shrink_share), 22700, 0, 1),
    field("config.nvlsCTAs", offset_of!(Config, nvls_ctas), 22700, 1, c_int::MAX),
];
const BLOCKING: usize = 0;
const NAME_SINCE: c_uint = 22700;
const HEAD_BYTES: usize = offset_of!(Config, blocking);

const fn field(name: &'static str, offset: usize, since: c_uint, least: c_int, most: c_int) -> Field {
    Field { name, offset, since, least, most }
}

/// What the caller asks for; `None` for NULL, which asks for nothing, or for what a parent has.
///
/// # Safety
/// `config` is NULL, or readable for as many bytes as its first field says (which comes from
/// `NCCL_CONFIG_INITIALIZER` or is checked here), and the strings in it end.
pub(super) unsafe fn options(call: &'static str, config: *const Config) -> Result<Option<Options>> {
    if config.is_null() {
        return Ok(None);
    }
    // SAFETY: whatever its age, the structure starts with its size.
    let size_bytes = unsafe { config.cast::<usize>().read_unaligned() };
    if size_bytes < HEAD_BYTES {
        return bad(call, "config", format_args!("says that it has {size_bytes} bytes"), REMEDY);
    }
    let mut bytes = [0; size_of::<Config>()];
    let known_bytes = size_bytes.min(bytes.len());
    // SAFETY: the structure is readable for its size, the array is as long, and nobody else knows the array.
    unsafe { std::ptr::copy_nonoverlapping(config.cast::<u8>(), bytes.as_mut_ptr(), known_bytes) };
    let reader = Reader { call, bytes: &bytes[..known_bytes] };
    reader.check()?;
    let is_blocking = reader.number(&CHECKED[BLOCKING]).map(|value| value != 0);
    let name = reader.name_pointer();
    if name.is_null() {
        return Ok(Some(Options { name: None, is_blocking }));
    }
    // SAFETY: by the contract of this function a string lies there.
    let name = unsafe { CStr::from_ptr(name) };
    Ok(Some(Options { name: Some(name.to_string_lossy().into_owned()), is_blocking }))
}

const REMEDY: &str = "start from NCCL_CONFIG_INITIALIZER";

struct Reader<'a> {
    call: &'static str,
    bytes: &'a [u8],
}

impl Reader<'_> {
    /// The bytes of a field, if the caller's structure holds all of them.
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }

    fn version(&self) -> c_uint {
        self.at(offset_of!(Config, version)).map_or(0, c_uint::from_ne_bytes)
    }

    fn check(&self) -> Result<()> {
        let magic = self.at(offset_of!(Config, magic)).map_or(0, c_uint::from_ne_bytes);
        if magic != MAGIC {
            return bad(
                self.call,
                "config",
                format_args!("has the magic {magic:#x}, not {MAGIC:#x}"),
                REMEDY,
            );
        }
        for field in &CHECKED {
            if let Some(value) = self.number(field)
                && !(field.least..=field.most).contains(&value)
            {
                return self.out_of_range(field, value);
            }
        }
        let both = (self.number(&CHECKED[2]), self.number(&CHECKED[3]));
        if let (Some(least), Some(most)) = both
            && least > most
        {
            let problem = format_args!("is {least}, more than maxCTAs, which is {most}");
            return bad(self.call, "config.minCTAs", problem, "pass minCTAs no larger than maxCTAs");
        }
        Ok(())
    }

    #[cold]
    fn out_of_range(&self, field: &Field, value: c_int) -> Result<()> {
        let (least, most) = (field.least, field.most);
        let problem = format_args!("is {value}, not from {least} to {most}");
        bad(self.call, field.name, problem, "leave it at NCCL_CONFIG_UNDEF_INT if in doubt")
    }

    /// A number that the caller has set.
    fn number(&self, field: &Field) -> Option<c_int> {
        let value = self.at(field.offset).map(c_int::from_ne_bytes)?;
        (self.version() >= field.since && value != UNDEFINED).then_some(value)
    }

    fn name_pointer(&self) -> *const c_char {
        let pointer = self.at(offset_of!(Config, comm_name)).map_or(0, usize::from_ne_bytes);
        if self.version() >= NAME_SINCE {
            std::ptr::with_exposed_provenance(pointer)
        } else {
            std::ptr::null()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure as its initializer leaves it.
    fn fresh() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(size_of::<Config>().to_ne_bytes());
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend(23203_u32.to_ne_bytes());
        while bytes.len() < size_of::<Config>() {
            bytes.extend(UNDEFINED.to_ne_bytes());
        }
        for pointer in [offset_of!(Config, net_name), offset_of!(Config, comm_name)] {
            bytes[pointer..pointer + 8].fill(0);
        }
        bytes
    }

    fn set<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
        bytes[offset..offset + N].copy_from_slice(&value);
    }

    fn read(bytes: &[u8]) -> Result<Options> {
        // SAFETY: every test gives a vector as long as its first field says, or one that says less.
        unsafe { options("ncclCommInitRankConfig", bytes.as_ptr().cast()) }.map(Option::unwrap_or_default)
    }

    #[test]
    fn null_and_fresh_ask_for_nothing() {
        assert!(read(&fresh()).unwrap().name.is_none());
        // SAFETY: NULL is allowed.
        assert!(unsafe { options("f", std::ptr::null()) }.unwrap().is_none());
    }

    #[test]
    fn the_name_is_taken_from_those_who_know_of_it() {
        let mut bytes = fresh();
        let name = c"red";
        set(&mut bytes, offset_of!(Config, comm_name), name.as_ptr().expose_provenance().to_ne_bytes());
        assert_eq!(read(&bytes).unwrap().name.as_deref(), Some("red"));
        set(&mut bytes, offset_of!(Config, version), 22600_u32.to_ne_bytes());
        assert_eq!(read(&bytes).unwrap().name, None, "older than the field");
        set(&mut bytes, offset_of!(Config, version), 99999_u32.to_ne_bytes());
        assert_eq!(read(&bytes).unwrap().name.as_deref(), Some("red"), "newer than ours");
    }

    #[test]
    fn whether_it_blocks_is_taken_from_those_who_say() {
        let mut bytes = fresh();
        assert_eq!(read(&bytes).unwrap().is_blocking, None);
        for (value, is_blocking) in [(0_i32, false), (1, true)] {
            set(&mut bytes, offset_of!(Config, blocking), value.to_ne_bytes());
            assert_eq!(read(&bytes).unwrap().is_blocking, Some(is_blocking));
        }
        // Every size that there was, with the first version of it that has a public header, and one to come.
        let sizes: [(usize, u32); 9] = [
            (24, 21403),
            (40, 21701),
            (48, 21801),
            (72, 22703),
            (80, 22803),
            (88, 22907),
            (96, 23007),
            (120, 23203),
            (160, 24000),
        ];
        for (size_bytes, version) in sizes {
            bytes = fresh();
            set(&mut bytes, offset_of!(Config, blocking), 1_i32.to_ne_bytes());
            bytes.resize(size_bytes, 0xff);
            set(&mut bytes, 0, size_bytes.to_ne_bytes());
            set(&mut bytes, offset_of!(Config, version), version.to_ne_bytes());
            assert_eq!(read(&bytes).unwrap().is_blocking, Some(true), "{size_bytes}");
        }
        let short = offset_of!(Config, blocking);
        set(&mut bytes, 0, short.to_ne_bytes());
        assert_eq!(read(&bytes).unwrap().is_blocking, None, "cut off before it");
    }

    #[test]
    fn every_size_is_read_and_no_further() {
        for size_bytes in 0..200_usize {
            let mut bytes = fresh();
            bytes.resize(200, 0xff);
            // A name that must not be followed when it is cut in half.
            set(&mut bytes, offset_of!(Config, comm_name), 1_usize.to_ne_bytes());
            if size_bytes >= offset_of!(Config, comm_name) + 8 {
                set(&mut bytes, offset_of!(Config, comm_name), 0_usize.to_ne_bytes());
            }
            set(&mut bytes, 0, size_bytes.to_ne_bytes());
            let exact = bytes[..size_bytes.max(8)].to_vec().into_boxed_slice();
            assert_eq!(read(&exact).is_ok(), size_bytes >= HEAD_BYTES, "{size_bytes}");
        }
    }

    #[test]
    fn wrong_magic_and_wrong_values_are_named() {
        let mut bytes = fresh();
        set(&mut bytes, 8, 0x1234_u32.to_ne_bytes());
        assert!(read(&bytes).unwrap_err().to_string().contains("magic 0x1234"));
        for field in &CHECKED {
            for value in [field.least.wrapping_sub(1), field.most.wrapping_add(1)] {
                let mut bytes = fresh();
                set(&mut bytes, field.offset, value.to_ne_bytes());
                let outcome = read(&bytes);
                if value == UNDEFINED {
                    assert!(outcome.is_ok(), "{}", field.name);
                } else {
                    assert!(outcome.unwrap_err().to_string().contains(field.name));
                }
            }
        }
        let mut bytes = fresh();
        set(&mut bytes, offset_of!(Config, min_ctas), 9_i32.to_ne_bytes());
        set(&mut bytes, offset_of!(Config, max_ctas), 8_i32.to_ne_bytes());
        assert!(read(&bytes).unwrap_err().to_string().contains("more than maxCTAs"));
    }
}
