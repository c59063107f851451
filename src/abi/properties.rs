//! What a communicator is and can do.

use std::ffi::{c_int, c_uint};

use crate::abi::convert::{answer, bad, not_null};
use crate::abi::types::{CommHandle, CommProperties, MAGIC, ResultNumber};
use crate::abi::wall;
use crate::comm::{Comm, handle};
use crate::error::{Error, Result};

/// How much of the structure programs know that were compiled with a header below this version.
const KNOWN_BYTES: [(c_uint, usize); 3] = [(22904, 36), (23100, 56), (23200, 144)];
/// Size, magic and version, which stay the caller's.
const HEAD_BYTES: usize = 16;

/// # Safety
/// `properties` is NULL, or writable for as many bytes as its first field says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommQueryProperties(
    comm: CommHandle,
    properties: *mut CommProperties,
) -> ResultNumber {
    const CALL: &str = "ncclCommQueryProperties";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            not_null(CALL, "props", properties)?;
            let known = of(comm, comm.hash(CALL)?);
            // SAFETY: it is not NULL; the rest is this function's contract.
            unsafe { fill(CALL, properties.cast(), &known) }
        })
    })
}

/// `NCCL_SUSPEND_MEM`
const SUSPEND_MEMORY: c_int = 1;

/// Without a flag there is nothing to give back, and nothing is suspended.
#[unsafe(no_mangle)]
extern "C" fn pncclCommSuspend(comm: CommHandle, flags: c_int) -> ResultNumber {
    const CALL: &str = "ncclCommSuspend";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| match flags {
            0 => comm.check_born(CALL),
            SUSPEND_MEMORY => comm.suspend(CALL),
            _ => bad(CALL, "flags", format_args!("is {flags:#x}"), "pass NCCL_SUSPEND_MEM (1)"),
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclCommResume(comm: CommHandle) -> ResultNumber {
    const CALL: &str = "ncclCommResume";
    wall::plain(CALL, || handle::with(CALL, comm.addr(), |comm| comm.resume(CALL)))
}

/// On the host device "GPU memory" is the shared memory of the communicator, measured (what really takes memory
/// in the parts that this process has mapped), and what it has allocated for peers on other hosts.
///
/// # Safety
/// `value` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommMemStats(comm: CommHandle, statistic: c_int, value: *mut u64) -> ResultNumber {
    const CALL: &str = "ncclCommMemStats";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            not_null(CALL, "value", value)?;
            let taken = comm.taken(CALL)?;
            let number = match statistic {
                0 => taken.spare_bytes,
                1 => u64::from(comm.is_suspended()),
                2 => taken.lasting_bytes,
                3 => taken.lasting_bytes + taken.spare_bytes,
                _ => {
                    let remedy = "pass ncclStatGpuMemSuspend (0) to ncclStatGpuMemTotal (3)";
                    return bad(CALL, "stat", format_args!("is {statistic}"), remedy);
                }
            };
            // SAFETY: passed on from this function's contract.
            unsafe { answer(CALL, "value", value, number) }
        })
    })
}

/// Writes what the caller's structure has room for and its header knows.
///
/// # Safety
/// `place` is writable for as many bytes as its first word says.
unsafe fn fill(call: &'static str, place: *mut u8, known: &CommProperties) -> Result<()> {
    // SAFETY: whatever its age, the structure starts with size, magic and version.
    let (size_bytes, magic, version) = unsafe {
        let words = place.add(8).cast::<c_uint>();
        (place.cast::<usize>().read_unaligned(), words.read_unaligned(), words.add(1).read_unaligned())
    };
    if magic != MAGIC || size_bytes < HEAD_BYTES {
        return Err(Error::usage(
            call,
            format_args!("props has {size_bytes} bytes and the magic {magic:#x}, not {MAGIC:#x}"),
            "start from NCCL_COMM_PROPERTIES_INITIALIZER",
        ));
    }
    let row = KNOWN_BYTES.iter().find(|(below, _)| version < *below);
    let end = row.map_or(size_of::<CommProperties>(), |(_, bytes)| *bytes).min(size_bytes);
    let source = (&raw const *known).cast::<u8>();
    // SAFETY: both are as long as `end` or longer, the caller's by its own word; ours is no part of it.
    unsafe { std::ptr::copy_nonoverlapping(source.add(HEAD_BYTES), place.add(HEAD_BYTES), end - HEAD_BYTES) };
    Ok(())
}

fn of(comm: &Comm, hash: u64) -> CommProperties {
    CommProperties {
        size: 0,
        magic: 0,
        version: 0,
        rank: comm.rank().cast_signed(),
        rank_count: comm.ranks().cast_signed(),
        cuda_device: comm.device(),
        nvml_device: comm.device(),
        device_api_support: 0,
        multimem_support: 0,
        padding: [0; 2],
        gin_type: NONE,
        lsa_team_count: comm.ranks().cast_signed(),
        host_rma_support: 1,
        padding_rma: [0; 3],
        railed_gin_type: NONE,
        padding_gin: [0; 4],
        comm_hash: hash,
        gin_min_stride: 0,
        gin_connection_type: NONE,
        gin_support: [0; 64],
        device_comm_bytes: 0,
        cft_support: 0,
        cft_multicast_support: 0,
        cft_counted_support: 0,
        padding_end: [0; 5],
    }
}

/// No kernels that drive a network card.
const NONE: c_int = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> CommProperties {
        // SAFETY: numbers only, for which all ones is a value.
        unsafe { std::mem::transmute([0xff_u8; size_of::<CommProperties>()]) }
    }

    /// Which bytes were written into a structure of this size and version.
    fn written(size_bytes: usize, version: c_uint) -> usize {
        let mut place = [0_u8; 256];
        place[..8].copy_from_slice(&size_bytes.to_ne_bytes());
        place[8..12].copy_from_slice(&MAGIC.to_ne_bytes());
        place[12..16].copy_from_slice(&version.to_ne_bytes());
        // SAFETY: the array is longer than any size here.
        unsafe { fill("f", place.as_mut_ptr(), &known()) }.expect("sound");
        place[16..].iter().position(|byte| *byte == 0).map_or(256, |at| at + 16)
    }

    #[test]
    fn each_version_gets_what_it_knows_and_has_room_for() {
        assert_eq!(written(56, 22907), 56);
        assert_eq!(written(40, 22903), 36);
        assert_eq!(written(144, 23102), 144);
        assert_eq!(written(152, 23203), 152);
        assert_eq!(written(200, 24000), 152);
        assert_eq!(written(152, 22907), 56);
        assert_eq!(written(20, 23203), 20);
    }

    #[test]
    fn what_was_not_initialized_is_refused() {
        let mut place = [0_u8; 256];
        // SAFETY: the array is longer than its size says.
        let error = unsafe { fill("f", place.as_mut_ptr(), &known()) }.unwrap_err();
        assert!(error.to_string().contains("NCCL_COMM_PROPERTIES_INITIALIZER"));
        assert_eq!(place, [0; 256]);
    }
}
