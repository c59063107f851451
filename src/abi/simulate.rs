//! What a group would take.

use std::mem::offset_of;

use crate::abi::convert::not_null;
use crate::abi::structure::Kind;
use crate::abi::types::{ResultNumber, Simulation};
use crate::abi::wall;
use crate::group;

/// Marks an `ncclSimInfo_t` that went through its initializer.
const MAGIC: u32 = 0x7468_5283;

/// Closes the group as `ncclGroupEnd` does, but for this: nothing of it is started, and if it was the
/// outermost, the caller learns what it is estimated to take. A wrong argument closes the group too.
///
/// # Safety
/// `info` is NULL, or writable for as many bytes as its first field says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclGroupSimulateEnd(info: *mut Simulation) -> ResultNumber {
    const CALL: &str = "ncclGroupSimulateEnd";
    wall::grouped(CALL, || {
        let was_open = group::is_open();
        let estimate = group::simulate();
        if !was_open {
            return estimate.map(|_| ());
        }
        not_null(CALL, "simInfo", info)?;
        let kind = Kind {
            call: CALL,
            argument: "simInfo",
            magic: MAGIC,
            least_bytes: size_of::<Simulation>(),
            remedy: "start from NCCL_SIM_INFO_INITIALIZER",
        };
        // SAFETY: it is not NULL; the rest is this function's contract.
        unsafe { kind.copy::<{ size_of::<Simulation>() }>(info.cast_const().cast()) }?;
        if let Some(estimated_ns) = estimate? {
            let estimated_us = (estimated_ns as f64 / 1000.0) as f32;
            let place = info.cast::<u8>().wrapping_add(offset_of!(Simulation, estimated_us));
            // SAFETY: by its own word, which was checked, the structure is as long as ours, so it has the field.
            unsafe { place.cast::<f32>().write_unaligned(estimated_us) };
        }
        Ok(())
    })
}
