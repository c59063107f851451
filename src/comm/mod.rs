//! A communicator's life.
//!
//! ```text
//!          Suspended
//!              |
//! Unborn --> Live --> Finalizing --> Finalized --.
//!   |         '--> Revoked ----------------------+--> Gone
//!   '--> Stillborn ------------------------------'
//! ```
//! | | from | by |
//! |---|---|---|
//! | `Unborn` | nothing | a call of init, Split, Shrink or Grow: the handle is there at once, the ranks meet in the call, at the end of its group, or behind it (non-blocking) |
//! | `Live` | `Unborn` | the ranks have met |
//! | `Stillborn` | `Unborn` | they have not; a blocking caller gets the error and no handle |
//! | `Suspended` | `Live`, and back | Suspend, Resume: nothing starts meanwhile, and memory is given back |
//! | `Revoked` | `Live` | Revoke, or Shrink with its flag: what ran is stopped, children can still be born |
//! | `Finalizing`, `Finalized` | `Live` | Finalize: nothing new starts, what was started is awaited |
//! | `Gone` | each of them | Abort, from any thread and at any time; Destroy |
//!
//! Beside this stands what is under way for it (`life::Work`): its own birth, children being born, a finalize
//! behind the caller's back. Abort cancels all of it. GetAsyncError says that it goes on, or how it failed. That a
//! communicator failed (a peer died, ranks disagreed) is no stage of its life but known by its engine: nothing
//! starts on it, Split and Grow among it; all else is as the stage says.
//!
//! `birth` makes a rank out of a session in which ranks met, `far` its lines to other hosts, `births` runs several at once, `children` is Split,
//! Shrink and Grow, `ends` is Finalize, Revoke, Destroy and Abort, `operators` keeps what RedOpCreatePreMulSum made,
//! `registered` buffers and windows, `metrics` tells what they count, `rest` is Suspend and Resume, `handle` gives numbers to C programs, `bootstrap` is how ranks find each other.

mod birth;
pub mod births;
pub mod bootstrap;
pub mod children;
mod ends;
mod far;
pub mod handle;
mod life;
mod metrics;
mod operators;
pub mod registered;
mod rest;
pub mod table;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::config::Config;
use crate::engine::counts::Counter;
use crate::engine::driver::Endpoint;
use crate::error::{Code, Error, Result};
use crate::op::{DataType, Op, Reduction, Scalar, Wish};
use crate::system::fork;
use crate::tune::selection::select;
use bootstrap::Kin;
use children::Family;
use life::{Life, Stage, Status, Work};
use operators::Operators;

pub use birth::{init_rank, unique_id};

/// The bytes of a unique id, as they pass the interface.
pub type UniqueId = [u8; 128];

/// What a caller may ask for at birth. What it leaves open a child inherits from its parent.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A name for logs.
    pub name: Option<String>,
    /// Whether calls wait for what they begin; they do if nobody says.
    pub is_blocking: Option<bool>,
}

impl Options {
    /// What holds: a setting goes before the caller's word.
    fn settle(self, config: &Config) -> Options {
        let is_blocking = config.comm_blocking.or(self.is_blocking);
        Options { name: self.name, is_blocking: Some(is_blocking.unwrap_or(true)) }
    }
}

/// What a communicator has once it was born.
#[derive(Debug)]
struct Body {
    rank: u32,
    ranks: u32,
    endpoint: Arc<Endpoint>,
    /// By which children are born, until it ends.
    kin: Mutex<Option<Kin>>,
}

/// One rank's end of a communicator.
#[derive(Debug)]
pub struct Comm {
    stage: Stage,
    /// The fork generation it was made in.
    generation: u32,
    rank: AtomicU32,
    ranks: AtomicU32,
    body: OnceLock<Body>,
    options: Options,
    work: Work,
    family: Family,
    operators: Operators,
    registered: registered::Handles,
}

/// A rank or a number of ranks that only the birth will tell. No root or peer is out of its range; that the
/// communicator is not born is said after the arguments were looked at.
const UNTOLD: u32 = i32::MAX.unsigned_abs();

impl Comm {
    /// Meets the other ranks of `id` and becomes rank `rank` of `ranks`. Bounded by the settings; it does not wait if
    /// the communicator is to be a non-blocking one.
    ///
    /// # Errors
    /// Who did not come, or what the system refused.
    pub fn init_rank(ranks: u32, id: &UniqueId, rank: u32, options: Options) -> Result<Arc<Comm>> {
        let birth = init_rank("Comm::init_rank", ranks, vec![*id], rank, options);
        let child = birth.child().cloned();
        births::run(vec![birth])?;
        child.ok_or_else(|| Error::Internal("a birth without a child".into()))
    }

    /// One that will be rank `rank` of `ranks`, as far as that is known before the birth.
    fn unborn(seat: Option<(u32, u32)>, options: Options) -> Arc<Comm> {
        let (rank, ranks) = seat.unwrap_or((UNTOLD, UNTOLD));
        Arc::new(Comm {
            stage: Stage::new(),
            generation: fork::generation(),
            rank: rank.into(),
            ranks: ranks.into(),
            body: OnceLock::new(),
            options,
            work: Work::default(),
            family: Family::default(),
            operators: Operators::default(),
            registered: registered::Handles::default(),
        })
    }

    /// Takes what the birth brought, unless it was aborted meanwhile.
    fn take_body(&self, body: Body) -> Result<()> {
        self.rank.store(body.rank, Ordering::Relaxed);
        self.ranks.store(body.ranks, Ordering::Relaxed);
        let body = self.body.get_or_init(|| body);
        if self.stage.advance(Life::Unborn, Life::Live) {
            return Ok(());
        }
        body.endpoint.abort();
        Err(Error::Aborted("the communicator was aborted while it was being born".into()))
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank.load(Ordering::Relaxed)
    }

    /// How many ranks there are.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks.load(Ordering::Relaxed)
    }

    /// The device, 0 on the host.
    #[must_use]
    pub fn device(&self) -> i32 {
        0
    }

    /// Whether calls wait for what they begin.
    #[must_use]
    pub fn is_blocking(&self) -> bool {
        self.options.is_blocking != Some(false)
    }

    /// What runs its batches, for a call that starts work.
    ///
    /// # Errors
    /// It is not born yet, was revoked, finalized, destroyed or aborted, or belongs to the parent of this process.
    #[inline]
    pub(crate) fn usable(&self, call: &'static str) -> Result<&Arc<Endpoint>> {
        self.usable_endpoint().ok_or_else(|| self.unusable(call))
    }

    /// The same, without a word about what is wrong.
    #[inline]
    pub(crate) fn usable_endpoint(&self) -> Option<&Arc<Endpoint>> {
        let is_own = self.stage.is_live() && self.generation == fork::generation();
        self.body.get().filter(|_| is_own).map(|body| &body.endpoint)
    }

    /// Whether it is this process's own, and not its parent's.
    ///
    /// # Errors
    /// It belongs to the parent of this process.
    #[inline]
    pub fn check_own(&self, call: &'static str) -> Result<()> {
        if self.generation == fork::generation() { Ok(()) } else { Err(self.unusable(call)) }
    }

    /// Whether rank and number of ranks are known.
    ///
    /// # Errors
    /// It belongs to the parent of this process, or is not born yet.
    pub fn check_born(&self, call: &'static str) -> Result<()> {
        self.check_own(call)?;
        if self.body.get().is_some() { Ok(()) } else { Err(self.unusable(call)) }
    }

    /// By which its ranks meet again.
    fn kin(&self, call: &'static str) -> Result<Kin> {
        let kin = self.body.get().map(|body| body.kin.lock().unwrap_or_else(PoisonError::into_inner).clone());
        kin.flatten().ok_or_else(|| self.unusable(call))
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
        const ANEW: &str = "make a new communicator";
        let (how, remedy) = match self.stage.get() {
            Life::Unborn | Life::Live => (
                "is not born yet",
                "end its group, and call ncclCommGetAsyncError until it answers something else than ncclInProgress",
            ),
            Life::Suspended => ("is suspended", "call ncclCommResume first"),
            Life::Stillborn => ("was not born: its ranks did not come together", "abort it"),
            Life::Revoked => ("was revoked", "shrink or split it, or abort it"),
            Life::Finalizing | Life::Finalized => ("was finalized", ANEW),
            Life::Gone => ("was destroyed or aborted", ANEW),
        };
        Error::usage(call, format_args!("the communicator {how}"), remedy)
    }

    /// What happened behind the caller's back; `Success` if nothing did, `InProgress` while something goes on.
    #[must_use]
    pub fn async_error(&self) -> Code {
        let error = match (self.work.status(), self.body.get()) {
            (Status::InProgress, _) => return Code::InProgress,
            (Status::Failed(error), _) => Some(error),
            // Whatever stopped it, it is at rest now, as who revoked it waits to hear.
            (Status::Quiet, Some(_)) if self.stage.get() == Life::Revoked => None,
            (Status::Quiet, Some(body)) => body.endpoint.check(),
            (Status::Quiet, None) if self.stage.get() == Life::Unborn => return Code::InProgress,
            (Status::Quiet, None) => Some(self.unusable("ncclCommGetAsyncError")),
        };
        match error {
            None => Code::Success,
            Some(error) => {
                crate::error::set_last(&error);
                error.code()
            }
        }
    }

    /// A number for the communicator that all its ranks see alike.
    ///
    /// # Errors
    /// It belongs to the parent of this process, or is not born yet.
    pub fn hash(&self, call: &'static str) -> Result<u64> {
        let id = self.born(call)?.engine().transport().id();
        Ok((id ^ id >> 64) as u64)
    }

    /// What this rank has counted since the birth, whatever became of the communicator.
    ///
    /// # Errors
    /// It belongs to the parent of this process, or is not born yet.
    pub fn counters(&self, call: &'static str) -> Result<Vec<Counter>> {
        Ok(self.born(call)?.counters())
    }

    /// Which algorithm `op` takes if its caller allows those that `selection` names.
    ///
    /// # Errors
    /// The communicator is not usable, or the selection is forced and cannot be had.
    pub fn wish(&self, call: &'static str, op: &Op, selection: &str, forced: bool) -> Result<Wish> {
        match select(selection, op.shape.kind, forced) {
            Ok(allowed) if allowed.is_empty() => Ok(Wish::NONE),
            Ok(allowed) => Ok(self.usable(call)?.engine().wish(op, &allowed)),
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
        self.usable("ncclRedOpCreatePreMulSum")?;
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
