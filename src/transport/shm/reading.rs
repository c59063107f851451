//! Whether a peer's memory can be read by the kernel's help.

use std::sync::atomic::Ordering;

use super::Here;
use crate::system::{attach, lock};

/// Whether the peer's memory can be read by the kernel's help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// Not tried yet.
    Unknown,
    /// The peer's number here, and the word that proves that it is the peer and where it lies there.
    Works { pid: i32, proof: u64, proof_address: u64 },
    /// Why not.
    Refused(String),
}

/// The peer's process by its number here, from the kernel.
pub(super) fn process_of(here: &Here, peer: u32) -> Option<i32> {
    if here.is_local(peer) {
        return i32::try_from(std::process::id()).ok();
    }
    lock::holder(here.segment.file(), u64::from(peer)).filter(|pid| *pid > 0)
}

pub(super) fn try_attach(here: &Here, peer: u32) -> std::result::Result<Attach, String> {
    if !here.settings.attach {
        return Err("SHOAL_CMA=0".into());
    }
    let pid = process_of(here, peer).ok_or("it is in another process namespace")?;
    let control = here.segment.control(peer);
    let proof = control.proof.load(Ordering::Relaxed);
    let proof_address = control.proof_address.load(Ordering::Relaxed);
    // SAFETY: no bytes are written.
    let result = unsafe { attach::read(pid, proof_address, 0, std::ptr::null_mut(), 0) };
    match result {
        Ok((word, _)) if word == proof && proof != 0 => Ok(Attach::Works { pid, proof, proof_address }),
        Ok(_) => Err("another process has its number here".into()),
        Err(cause) => Err(cause.to_string()),
    }
}
