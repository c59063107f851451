//! A communicator's life.
//!
//! ```text
//! init_rank -> Live -> finalize -> Finalized -> destroy -> Gone     (Live <-> Suspended by suspend, resume)
//!                 \-> abort ---------------------------->'
//! ```
//! `birth` brings a rank into being, `births` several at once, `operators` keeps what RedOpCreatePreMulSum made, `registered` buffers and windows, `handle` gives numbers
//! to C programs, `bootstrap` is how ranks find each other.

mod birth;
pub mod births;
pub mod bootstrap;
pub mod handle;
mod operators;
pub mod registered;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::engine::driver::Endpoint;
use crate::error::{Code, Error, Result};
use crate::op::{DataType, Op, Reduction, Scalar, Wish};
use crate::system::fork;
use crate::transport::shm::Taken;
use crate::tune::selection::select;
use operators::Operators;

pub use birth::unique_id;

/// The bytes of a unique id, as they pass the interface.
pub type UniqueId = [u8; 128];

/// What a caller may ask for at birth.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A name for logs.
    pub name: Option<String>,
    /// Becomes true when nobody wants the communicator any more while it is being born.
    pub cancel: Arc<AtomicBool>,
}

/// Where a communicator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Life {
    Live,
    Suspended,
    Finalized,
    Gone,
}

/// One rank's end of a communicator.
#[derive(Debug)]
pub struct Comm {
    rank: u32,
    ranks: u32,
    endpoint: Arc<Endpoint>,
    /// A [`Life`].
    life: AtomicU8,
    operators: Operators,
    registered: registered::Handles,
    /// The fork generation it was born in.
    generation: u32,
}

impl Comm {
    /// Meets the other ranks of `id` and becomes rank `rank` of `ranks`. Blocks, bounded by the settings.
    ///
    /// # Errors
    /// Who did not come, or what the system refused.
    pub fn init_rank(ranks: u32, id: &UniqueId, rank: u32, options: Options) -> Result<Arc<Comm>> {
        birth::init_rank(ranks, id, rank, &options)
    }

    fn new(rank: u32, ranks: u32, endpoint: Arc<Endpoint>) -> Arc<Comm> {
        Arc::new(Comm {
            rank,
            ranks,
            endpoint,
            life: AtomicU8::new(Life::Live as u8),
            operators: Operators::default(),
            registered: registered::Handles::default(),
            generation: fork::generation(),
        })
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

    /// A number for the communicator that all its ranks see alike.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let id = self.endpoint.engine().transport().segment().id();
        (id ^ id >> 64) as u64
    }

    /// What runs its batches.
    #[inline]
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether a call that starts work makes sense.
    ///
    /// # Errors
    /// It was finalized, destroyed or aborted, or belongs to the parent of this process.
    #[inline]
    pub fn check_usable(&self, call: &'static str) -> Result<()> {
        if self.life.load(Ordering::Acquire) == Life::Live as u8 && self.generation == fork::generation() {
            return Ok(());
        }
        Err(self.unusable(call))
    }

    /// Whether it is this process's own, and not its parent's.
    ///
    /// # Errors
    /// It belongs to the parent of this process.
    #[inline]
    pub fn check_own(&self, call: &'static str) -> Result<()> {
        if self.generation == fork::generation() { Ok(()) } else { Err(self.unusable(call)) }
    }

    #[cold]
    fn unusable(&self, call: &'static str) -> Error {
        if self.generation != fork::generation() {
            return Error::usage(
                call,
                "the communicator was made before this process was forked, and stays its parent's",
                "make a communicator in the child",
            );
        }
        if self.life.load(Ordering::Acquire) == Life::Suspended as u8 {
            return Error::usage(call, "the communicator is suspended", "call ncclCommResume first");
        }
        let how = if self.life.load(Ordering::Acquire) == Life::Finalized as u8 {
            "finalized"
        } else {
            "destroyed or aborted"
        };
        Error::usage(call, format_args!("the communicator was {how}"), "make a new communicator")
    }

    /// What happened behind the caller's back; `Success` if nothing did.
    #[must_use]
    pub fn async_error(&self) -> Code {
        match self.endpoint.check() {
            None => Code::Success,
            Some(error) => {
                crate::error::set_last(&error);
                error.code()
            }
        }
    }

    /// Waits until all that was started is done; afterwards nothing can be started.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn finalize(&self) -> Result<()> {
        self.check_usable("ncclCommFinalize")?;
        let drained = self.endpoint.drain();
        self.life.store(Life::Finalized as u8, Ordering::Release);
        drained
    }

    /// Waits until all that was started is done, and gives back what memory a resting communicator can do
    /// without. Until [`Self::resume`] nothing can be started.
    ///
    /// # Errors
    /// What went wrong meanwhile; the communicator is then not suspended.
    pub fn suspend(&self) -> Result<()> {
        const CALL: &str = "ncclCommSuspend";
        self.check_usable(CALL)?;
        if !self.change(Life::Live, Life::Suspended) {
            return Err(self.unusable(CALL));
        }
        if let Err(error) = self.endpoint.drain() {
            self.change(Life::Suspended, Life::Live);
            return Err(error);
        }
        let mut engine = self.endpoint.engine();
        engine.rest();
        engine.transport().rest();
        Ok(())
    }

    /// Ends a suspension. Memory comes back as it is used.
    ///
    /// # Errors
    /// It is not suspended.
    pub fn resume(&self) -> Result<()> {
        const CALL: &str = "ncclCommResume";
        self.check_own(CALL)?;
        if !self.is_suspended() {
            self.check_usable(CALL)?;
            return Err(Error::usage(CALL, "the communicator is not suspended", "suspend it first"));
        }
        self.endpoint.engine().transport().go_on();
        self.change(Life::Suspended, Life::Live);
        Ok(())
    }

    /// Whether it is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.life.load(Ordering::Acquire) == Life::Suspended as u8
    }

    /// How much memory the communicator takes in this process, measured.
    #[must_use]
    pub fn taken(&self) -> Taken {
        self.endpoint.engine().transport().taken()
    }

    /// Goes from one state to another; false if it was in a third one.
    fn change(&self, from: Life, to: Life) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.life.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Finalizes if that was not done, and gives everything back.
    ///
    /// # Errors
    /// What went wrong meanwhile; everything is given back all the same.
    pub fn destroy(&self) -> Result<()> {
        self.check_own("ncclCommDestroy")?;
        let drained = match self.life.load(Ordering::Acquire) {
            life if life == Life::Live as u8 => self.endpoint.drain(),
            _ => Ok(()),
        };
        if self.life.swap(Life::Gone as u8, Ordering::AcqRel) != Life::Gone as u8 {
            self.endpoint.close();
            self.registered.forget_all();
        }
        // What went wrong with earlier work was reported there; leaving is not made to fail by it.
        drop(drained);
        Ok(())
    }

    /// Stops what runs, from any thread, and gives everything back. Afterwards nobody touches the user's
    /// memory.
    ///
    /// # Errors
    /// It belongs to the parent of this process, for which nothing changes.
    pub fn abort(&self) -> Result<()> {
        self.check_own("ncclCommAbort")?;
        if self.life.swap(Life::Gone as u8, Ordering::AcqRel) != Life::Gone as u8 {
            self.endpoint.abort();
            self.registered.forget_all();
        }
        Ok(())
    }

    /// Which algorithm `op` takes if its caller allows those that `selection` names.
    ///
    /// # Errors
    /// The selection is forced and cannot be had.
    pub fn wish(&self, call: &'static str, op: &Op, selection: &str, forced: bool) -> Result<Wish> {
        match select(selection, op.kind, forced) {
            Ok(allowed) if allowed.is_empty() => Ok(Wish::NONE),
            Ok(allowed) => Ok(self.endpoint.engine().wish(op, &allowed)),
            Err(problem) => Err(Error::argument(
                call,
                "config.algSelection",
                format_args!("is {selection:?}; it {problem}"),
                "name others, or set forceAlgSelection to 0",
            )),
        }
    }

    /// A new operator that multiplies by `scalar` before it sums; its number is `NumOps` (5) or above.
    ///
    /// # Errors
    /// None left, or the communicator is not usable.
    pub fn create_pre_mul_sum(&self, data_type: DataType, scalar: Scalar) -> Result<i32> {
        self.check_usable("ncclRedOpCreatePreMulSum")?;
        self.operators.create(data_type, scalar)
    }

    /// Forgets the operator.
    ///
    /// # Errors
    /// There is no such operator on this communicator.
    pub fn destroy_operator(&self, operator: i32) -> Result<()> {
        self.operators.destroy(operator)
    }

    /// What the operator number of a call means for elements of `data_type`.
    ///
    /// # Errors
    /// Unknown, destroyed, or made for another type.
    #[inline]
    pub fn operator(
        &self,
        call: &'static str,
        operator: i32,
        data_type: DataType,
    ) -> Result<(Reduction, Scalar)> {
        match operator {
            0 => Ok((Reduction::Sum, Scalar::None)),
            1 => Ok((Reduction::Prod, Scalar::None)),
            2 => Ok((Reduction::Max, Scalar::None)),
            3 => Ok((Reduction::Min, Scalar::None)),
            4 => Ok((Reduction::Avg, Scalar::None)),
            _ => self.operators.find(call, operator, data_type),
        }
    }
}
