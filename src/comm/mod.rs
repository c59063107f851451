//! A communicator's life.

pub mod bootstrap;
pub mod handle;

use std::sync::Arc;

use crate::error::{Code, Error, Result};
use crate::op::{DataType, Reduction, Scalar};

/// The bytes of a unique id, as they pass the interface.
pub type UniqueId = [u8; 128];

/// What a caller may ask for at birth.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A name for logs.
    pub name: Option<String>,
}

/// One rank's end of a communicator.
#[derive(Debug)]
pub struct Comm {
    rank: u32,
    ranks: u32,
}

/// Makes the id that the ranks of a new communicator share.
///
/// # Errors
/// No socket could be opened.
pub fn unique_id() -> Result<UniqueId> {
    Err(Error::Internal("not built yet".into()))
}

impl Comm {
    /// Meets the other ranks of `id` and becomes rank `rank` of `ranks`. Blocks, bounded by the settings.
    ///
    /// # Errors
    /// Who did not come, or what the system refused.
    pub fn init_rank(_ranks: u32, _id: &UniqueId, _rank: u32, _options: Options) -> Result<Arc<Comm>> {
        Err(Error::Internal("not built yet".into()))
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many ranks there are.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// The device, 0 on the host.
    #[must_use]
    pub fn device(&self) -> i32 {
        0
    }

    /// What happened behind the caller's back; `Success` if nothing did.
    #[must_use]
    pub fn async_error(&self) -> Code {
        Code::Success
    }

    /// Waits until all that was started is done; afterwards nothing can be started.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn finalize(&self) -> Result<()> {
        Err(Error::Internal("not built yet".into()))
    }

    /// Finalizes if that was not done, and gives everything back.
    ///
    /// # Errors
    /// What went wrong meanwhile; everything is given back all the same.
    pub fn destroy(&self) -> Result<()> {
        Err(Error::Internal("not built yet".into()))
    }

    /// Stops what runs, from any thread, and gives everything back. Afterwards nobody touches the user's
    /// memory.
    pub fn abort(&self) {}

    /// A new operator that multiplies by `scalar` before it sums; its number is `NumOps` (5) or above.
    ///
    /// # Errors
    /// None left.
    pub fn create_pre_mul_sum(&self, _data_type: DataType, _scalar: Scalar) -> Result<i32> {
        Err(Error::Internal("not built yet".into()))
    }

    /// Forgets the operator.
    ///
    /// # Errors
    /// There is no such operator on this communicator.
    pub fn destroy_operator(&self, _operator: i32) -> Result<()> {
        Err(Error::Internal("not built yet".into()))
    }

    /// What the operator number of a call means for elements of `data_type`.
    ///
    /// # Errors
    /// Unknown, destroyed, or made for another type.
    pub fn operator(
        &self,
        _call: &'static str,
        _operator: i32,
        _data_type: DataType,
    ) -> Result<(Reduction, Scalar)> {
        Err(Error::Internal("not built yet".into()))
    }
}
