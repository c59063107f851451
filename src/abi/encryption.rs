//! Encryption of sockets: asked for, it is refused, since it would not be done.

use std::ffi::c_int;
use std::mem::offset_of;

use crate::abi::convert::{bad, not_null};
use crate::abi::structure::Kind;
use crate::abi::types::{EncryptionConfig, MAGIC, ResultNumber};
use crate::abi::wall;
use crate::error::Error;

/// `NCCL_ENCRYPTION_MODE_NONE`
const NONE: c_int = 0;
/// `NCCL_ENCRYPTION_MODE_PSK`
const SHARED_KEY: c_int = 1;

/// # Safety
/// `config` is NULL, or readable for as many bytes as its first field says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclSetEncryption(config: *const EncryptionConfig) -> ResultNumber {
    const CALL: &str = "ncclSetEncryption";
    wall::plain(CALL, || {
        not_null(CALL, "config", config)?;
        let kind = Kind {
            call: CALL,
            argument: "config",
            magic: MAGIC,
            least_bytes: size_of::<EncryptionConfig>(),
            remedy: "start from NCCL_ENCRYPTION_CONFIG_INITIALIZER",
        };
        // SAFETY: it is not NULL; the rest is this function's contract.
        let copy = unsafe { kind.copy::<{ size_of::<EncryptionConfig>() }>(config.cast()) }?;
        match copy.number(offset_of!(EncryptionConfig, mode)) {
            None | Some(NONE) => Ok(()),
            Some(SHARED_KEY) => Err(Error::usage(
                CALL,
                "traffic would not be encrypted by this library",
                "pass NCCL_ENCRYPTION_MODE_NONE, and keep the network private; peers prove a secret at birth \
                 in any case",
            )),
            Some(other) => bad(
                CALL,
                "config.mode",
                format_args!("is {other}"),
                "pass NCCL_ENCRYPTION_MODE_NONE (0) or NCCL_ENCRYPTION_MODE_PSK (1)",
            ),
        }
    })
}
