//! Memory that peers can map. Until it can, ordinary memory.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::op::Address;

static BLOCKS: Mutex<Option<HashMap<usize, Vec<u128>>>> = Mutex::new(None);

/// Zeroed memory of `bytes`, aligned for everything.
///
/// # Errors
/// There is not enough.
pub fn allocate(bytes: usize) -> Result<Address> {
    let mut block = Vec::<u128>::new();
    block
        .try_reserve_exact(bytes.div_ceil(16))
        .map_err(|cause| Error::system(format_args!("allocating {bytes} bytes"), cause, "ask for less"))?;
    block.resize(bytes.div_ceil(16), 0);
    let address = block.as_ptr().addr();
    let mut blocks = BLOCKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    blocks.get_or_insert_default().insert(address, block);
    Ok(Address(address))
}

/// Gives back what [`allocate`] gave.
///
/// # Errors
/// It did not give it.
pub fn free(address: Address) -> Result<()> {
    let mut blocks = BLOCKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match blocks.as_mut().and_then(|blocks| blocks.remove(&address.0)) {
        Some(_) => Ok(()),
        None => Err(Error::argument(
            "ncclMemFree",
            "ptr",
            format_args!("{:#x} did not come from ncclMemAlloc", address.0),
            "pass what it returned, once",
        )),
    }
}
