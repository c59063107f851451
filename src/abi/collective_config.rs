//! `ncclCollConfig_t`: wishes for one collective.
//!
//! `algSelection` is honoured, and so are the options in `ext` that carry our vendor's number (`shoal.h`).
//! Numbers of thread blocks and policies of GPUs are checked as far as the interface checks them, and have no
//! meaning on host memory.

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;

use crate::abi::convert::bad;
use crate::abi::structure::{Copy, Kind};
use crate::abi::types::{CollectiveConfig, ConfigOption, MAGIC};
use crate::error::Result;

/// `SHOAL_CONFIG_VENDOR`: ours among the vendors of options.
const VENDOR: c_int = 0x53_484c;
/// `SHOAL_OPTION_ALGORITHM`: a string like `algSelection`, which other libraries do not see; it wins.
const ALGORITHM: c_int = 1;
/// `SHOAL_OPTION_COALESCE`: 0 runs the call by itself, where it could run at once with others of its group.
const COALESCE: c_int = 2;
/// A list that is longer is taken for a circle.
const OPTIONS_MOST: usize = 1024;

/// What a caller wishes for one collective.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Names of algorithms; empty leaves the choice to the table.
    pub(super) selection: String,
    /// Whether a selection that cannot be had is an error.
    pub(super) forced: bool,
    /// Whether it shares nothing with others of its group.
    pub(super) alone: bool,
}

/// What the caller wishes; NULL wishes nothing.
///
/// # Safety
/// `config` is NULL, or readable for as many bytes as its first field says; the strings in it end, and so does
/// its list of options, all of them readable.
pub(super) unsafe fn wishes(call: &'static str, config: *const CollectiveConfig) -> Result<Wishes> {
    if config.is_null() {
        return Ok(Wishes::default());
    }
    let kind = Kind {
        call,
        argument: "config",
        magic: MAGIC,
        least_bytes: LEAST_BYTES,
        remedy: "start from NCCL_COLLCONFIG_INITIALIZER",
    };
    // SAFETY: passed on from this function's contract.
    let copy = unsafe { kind.copy::<{ size_of::<CollectiveConfig>() }>(config.cast()) }?;
    let forced = forced(call, &copy)?;
    check(call, &copy)?;
    let selection = copy.pointer::<c_char>(offset_of!(CollectiveConfig, algorithm_selection));
    // SAFETY: by the contract it is NULL or a string.
    let mut selection = unsafe { text(selection) };
    // SAFETY: passed on from this function's contract.
    let own = unsafe { options(call, copy.pointer(offset_of!(CollectiveConfig, extensions))) }?;
    let (own, alone) = own;
    if let Some(own) = own {
        selection = own;
    }
    Ok(Wishes { selection: selection.into_owned(), forced, alone })
}

/// The structure as it first was, in 2.31.
const LEAST_BYTES: usize = offset_of!(CollectiveConfig, launch_completion_event);

fn forced<const N: usize>(call: &'static str, copy: &Copy<N>) -> Result<bool> {
    match copy.number(offset_of!(CollectiveConfig, force_algorithm_selection)) {
        None | Some(1) => Ok(true),
        Some(0) => Ok(false),
        Some(other) => bad(
            call,
            "config.forceAlgSelection",
            format_args!("is {other}"),
            "pass 1 if an impossible selection is an error, 0 if the library may choose then",
        ),
    }
}

fn check<const N: usize>(call: &'static str, copy: &Copy<N>) -> Result<()> {
    let policy = copy.number(offset_of!(CollectiveConfig, cta_policy));
    if let Some(policy) = policy.filter(|policy| !(0..=3).contains(policy)) {
        let problem = format_args!("is {policy}, not from 0 to 3");
        return bad(call, "config.CTAPolicy", problem, "leave it at NCCL_CONFIG_UNDEF_INT if in doubt");
    }
    let event = copy.pointer::<c_void>(offset_of!(CollectiveConfig, launch_completion_event));
    if !event.is_null() {
        let problem = "names a CUDA event, and on host memory nobody would record it";
        return bad(call, "config.launchCompletionEvent", problem, "pass NULL on every rank");
    }
    Ok(())
}

/// # Safety
/// `place` is NULL or a string.
unsafe fn text<'a>(place: *const c_char) -> Cow<'a, str> {
    if place.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: the same contract.
    unsafe { CStr::from_ptr(place) }.to_string_lossy()
}

/// The algorithms that our own options name, and whether the call is to be alone. Options of other vendors are
/// passed over.
///
/// # Safety
/// `option` is NULL or the first of a list of readable options; the strings of ours end.
unsafe fn options<'a>(
    call: &'static str,
    mut option: *const ConfigOption,
) -> Result<(Option<Cow<'a, str>>, bool)> {
    let mut selection = None;
    let mut coalesce = None;
    for _ in 0..OPTIONS_MOST {
        if option.is_null() {
            return Ok((selection, coalesce == Some(false)));
        }
        // SAFETY: it is not NULL, so by the contract an option lies there.
        let ConfigOption { next, vendor, number, value } = unsafe { option.read_unaligned() };
        option = next;
        if vendor != VENDOR {
            continue;
        }
        let is_new = match number {
            // SAFETY: by the contract this option holds a string, or NULL.
            ALGORITHM => selection.replace(unsafe { text(value.cast()) }).is_none(),
            COALESCE => coalesce.replace(flag(call, value)?).is_none(),
            _ => {
                let problem = format_args!("holds option {number} of Shoal, which it does not know");
                return bad(call, "config.ext", problem, "pass the SHOAL_OPTION_... of this shoal.h");
            }
        };
        if !is_new {
            let problem = format_args!("holds option {number} of Shoal twice");
            return bad(call, "config.ext", problem, "pass each option once");
        }
    }
    let problem = format_args!("goes on after {OPTIONS_MOST} options");
    bad(call, "config.ext", problem, "pass a list that ends with NULL")
}

/// A union read as its int, the first four bytes of it.
fn flag(call: &'static str, value: *const c_void) -> Result<bool> {
    let bytes = value.addr().to_ne_bytes();
    match c_int::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            let problem = format_args!("sets SHOAL_OPTION_COALESCE to {other}");
            bad(call, "config.ext", problem, "pass 0 or 1")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null;

    fn config() -> CollectiveConfig {
        CollectiveConfig {
            size: size_of::<CollectiveConfig>(),
            magic: MAGIC,
            version: 23203,
            extensions: null(),
            min_ctas: c_int::MIN,
            max_ctas: c_int::MIN,
            nvls_ctas: c_int::MIN,
            cga_cluster_size: c_int::MIN,
            algorithm_selection: null(),
            force_algorithm_selection: 1,
            cta_policy: c_int::MIN,
            user_profiler_tag: 0,
            launch_completion_event: null(),
        }
    }

    fn read(config: &CollectiveConfig) -> Result<Wishes> {
        // SAFETY: a local structure, whose strings and options are constants or locals of the test.
        unsafe { wishes("f", config) }
    }

    fn refusal(change: impl FnOnce(&mut CollectiveConfig)) -> String {
        let mut config = config();
        change(&mut config);
        read(&config).unwrap_err().to_string()
    }

    #[test]
    fn the_initializer_wishes_nothing() {
        assert_eq!(read(&config()), Ok(Wishes { forced: true, ..Wishes::default() }));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { wishes("f", null()) }, Ok(Wishes::default()));
        let odd = CollectiveConfig {
            min_ctas: 9,
            max_ctas: 1,
            version: 99999,
            user_profiler_tag: 1 << 63,
            force_algorithm_selection: 0,
            algorithm_selection: c"ring".as_ptr(),
            ..config()
        };
        assert_eq!(read(&odd), Ok(Wishes { selection: "ring".into(), ..Wishes::default() }));
    }

    #[test]
    fn wrong_values_are_named() {
        assert!(refusal(|config| config.size = 56).contains("56 bytes"));
        assert!(refusal(|config| config.magic = 1).contains("magic 0x1"));
        assert!(refusal(|config| config.force_algorithm_selection = 2).contains("forceAlgSelection is 2"));
        assert!(refusal(|config| config.cta_policy = 4).contains("CTAPolicy is 4"));
        let event =
            refusal(|config| config.launch_completion_event = config.extensions.wrapping_add(1).cast());
        assert!(event.contains("launchCompletionEvent"));
    }

    #[test]
    fn our_options_are_found_among_others() {
        let text: *const c_void = c"tree".as_ptr().cast();
        let own = ConfigOption { next: null(), vendor: VENDOR, number: ALGORITHM, value: text };
        let coalesce = ConfigOption { next: &raw const own, vendor: VENDOR, number: COALESCE, value: null() };
        let foreign = ConfigOption { next: &raw const coalesce, vendor: 3, number: 1, value: null() };
        let mut config = config();
        config.extensions = &raw const foreign;
        config.algorithm_selection = c"ring".as_ptr();
        let expected = Wishes { selection: "tree".into(), forced: true, alone: true };
        assert_eq!(read(&config), Ok(expected));

        let twice = ConfigOption { next: &raw const foreign, ..coalesce };
        config.extensions = &raw const twice;
        assert!(read(&config).unwrap_err().to_string().contains("option 2 of Shoal twice"));
        let unknown = ConfigOption { next: null(), vendor: VENDOR, number: 77, value: null() };
        config.extensions = &raw const unknown;
        assert!(read(&config).unwrap_err().to_string().contains("option 77"));
        let mut circle = ConfigOption { next: null(), vendor: 3, number: 1, value: null() };
        circle.next = &raw const circle;
        config.extensions = &raw const circle;
        assert!(read(&config).unwrap_err().to_string().contains("goes on"));
    }
}
