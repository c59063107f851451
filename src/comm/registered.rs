//! What a program has registered with a communicator: buffers, which is a matter of this rank alone, and
//! windows, which are opened by all ranks together and which peers write.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::Comm;
use crate::engine::driver::Endpoint;
use crate::engine::one_sided::{OneSided, Signal};
use crate::error::{Error, Result};
use crate::op::{Address, DataType, Kind, Manner, Op, Reduction, Scalar, Shape};
use crate::system::arena::{Arena, PLACES, Recent};
use crate::transport::shm::{Facts, Opened, Reach};

static REGISTERED: Arena<Registered> = Arena::new();

thread_local! {
    static RECENT: Recent<Registered> = const { Recent::new() };
}

/// What a handle names.
#[derive(Debug)]
struct Registered {
    comm: Weak<Comm>,
    what: What,
}

#[derive(Debug)]
enum What {
    Buffer,
    Window(Window),
}

impl What {
    const fn name(&self) -> &'static str {
        match self {
            What::Buffer => "a registered buffer",
            What::Window(_) => "a window",
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The handles of one communicator.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<Vec<usize>>);

impl Handles {
    fn add(&self, call: &'static str, comm: &Arc<Comm>, what: What) -> Result<usize> {
        let registered = Arc::new(Registered { comm: Arc::downgrade(comm), what });
        let handle = REGISTERED.insert(registered).ok_or_else(|| {
            Error::usage(
                call,
                format_args!("{PLACES} buffers and windows are registered in this process already"),
                "deregister some",
            )
        })?;
        lock(&self.0).push(handle);
        Ok(handle)
    }

    fn forget(&self, handle: usize) -> Option<Arc<Registered>> {
        lock(&self.0).retain(|known| *known != handle);
        REGISTERED.remove(&RECENT, handle)
    }

    /// The end of the communicator is the end of all of them.
    pub(super) fn forget_all(&self) {
        for handle in std::mem::take(&mut *lock(&self.0)) {
            drop(REGISTERED.remove(&RECENT, handle));
        }
    }
}

/// A window, as this rank sees it.
#[derive(Debug)]
struct Window {
    endpoint: Arc<Endpoint>,
    address: Address,
    /// `None` once it is closed.
    opened: Mutex<Option<Opened>>,
    /// Of each rank.
    facts: Vec<Facts>,
    /// The ways to the peers that were put to.
    reaches: Mutex<Vec<Option<Arc<Reach>>>>,
}

impl Window {
    fn reach(&self, call: &'static str, peer: u32) -> Result<Arc<Reach>> {
        let mut reaches = lock(&self.reaches);
        let place = &mut reaches[peer as usize];
        if let Some(reach) = place {
            return Ok(Arc::clone(reach));
        }
        let facts = &self.facts[peer as usize];
        let reach = Arc::new(self.endpoint.engine().transport().reach(call, peer, facts)?);
        *place = Some(Arc::clone(&reach));
        Ok(reach)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        close(&self.endpoint, lock(&self.opened).take());
    }
}

fn close(endpoint: &Endpoint, opened: Option<Opened>) {
    if let Some(opened) = opened {
        endpoint.engine().transport().near().close_window(&opened);
    }
}

/// A window that is being opened: every rank tells every rank where its part lies.
pub struct Registration {
    comm: Arc<Comm>,
    endpoint: Arc<Endpoint>,
    address: Address,
    opened: Option<Opened>,
    told: Vec<u8>,
    gathered: Vec<u8>,
    write: Box<dyn FnOnce(usize)>,
}

impl Registration {
    /// Opens this rank's part. `write` gets the handle once all ranks have opened theirs.
    ///
    /// # Errors
    /// The communicator cannot take it.
    pub fn new(
        call: &'static str,
        comm: &Arc<Comm>,
        address: Address,
        bytes: usize,
        write: Box<dyn FnOnce(usize)>,
    ) -> Result<Registration> {
        let endpoint = Arc::clone(comm.usable(call)?);
        let opened = endpoint.engine().transport().near().open_window(address, bytes)?;
        let told = opened.facts.to_bytes().to_vec();
        let gathered = vec![0; told.len() * comm.ranks() as usize];
        Ok(Registration {
            comm: Arc::clone(comm),
            endpoint,
            address,
            opened: Some(opened),
            told,
            gathered,
            write,
        })
    }

    /// Whose window it is.
    #[must_use]
    pub fn comm(&self) -> &Arc<Comm> {
        &self.comm
    }

    /// The exchange between the ranks; done before [`Self::finish`].
    #[must_use]
    pub fn op(&mut self) -> Op {
        let shape = Shape {
            count: self.told.len(),
            peer: 0,
            kind: Kind::AllGather,
            data_type: DataType::Uint8,
            reduction: Reduction::Sum,
            manner: Manner::PLAIN,
        };
        let source = Address(self.told.as_ptr().expose_provenance());
        let target = Address(self.gathered.as_mut_ptr().expose_provenance());
        Op { shape, source, target, scalar: Scalar::None }
    }

    /// The window is there.
    ///
    /// # Errors
    /// There are too many.
    pub fn finish(mut self) -> Result<()> {
        let facts: Vec<Facts> =
            self.gathered.as_chunks::<{ Facts::BYTES }>().0.iter().map(Facts::from_bytes).collect();
        let window = Window {
            endpoint: Arc::clone(&self.endpoint),
            address: self.address,
            opened: Mutex::new(self.opened.take()),
            reaches: Mutex::new(facts.iter().map(|_| None).collect()),
            facts,
        };
        let handle = self.comm.registered.add("ncclCommWindowRegister", &self.comm, What::Window(window))?;
        let write = std::mem::replace(&mut self.write, Box::new(|_| {}));
        write(handle);
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        close(&self.endpoint, self.opened.take());
    }
}

impl Comm {
    /// A handle for a buffer. Nothing else is kept of it: on host memory no path is faster for it.
    ///
    /// # Errors
    /// The communicator is not usable, or too much is registered.
    pub fn register_buffer(self: &Arc<Self>) -> Result<usize> {
        const CALL: &str = "ncclCommRegister";
        self.usable(CALL)?;
        self.registered.add(CALL, self, What::Buffer)
    }

    /// Ends a handle of a buffer.
    ///
    /// # Errors
    /// It is none of this communicator's.
    pub fn deregister_buffer(self: &Arc<Self>, handle: usize) -> Result<()> {
        const CALL: &str = "ncclCommDeregister";
        self.check_own(CALL)?;
        match self.registered(CALL, "handle", handle)?.what {
            What::Buffer => {
                drop(self.registered.forget(handle));
                Ok(())
            }
            What::Window(_) => {
                Err(wrong_kind(CALL, "handle", handle, "a window", "ncclCommWindowDeregister"))
            }
        }
    }

    /// Closes this rank's part of a window. Afterwards no peer writes it.
    ///
    /// # Errors
    /// The handle names no window of this communicator.
    pub fn deregister_window(self: &Arc<Self>, handle: usize) -> Result<()> {
        const CALL: &str = "ncclCommWindowDeregister";
        self.check_own(CALL)?;
        let registered = self.registered(CALL, "win", handle)?;
        let window = window(CALL, handle, &registered)?;
        // Puts through it that are under way keep the way to the peer, not this rank's part.
        close(&window.endpoint, lock(&window.opened).take());
        drop(self.registered.forget(handle));
        Ok(())
    }

    /// Where this rank's part of a window lies.
    ///
    /// # Errors
    /// The handle names no window of this communicator.
    pub fn window_address(self: &Arc<Self>, handle: usize) -> Result<Address> {
        const CALL: &str = "ncclWinGetUserPtr";
        self.check_own(CALL)?;
        let registered = self.registered(CALL, "win", handle)?;
        Ok(window(CALL, handle, &registered)?.address)
    }

    /// The put of `bytes` at `source` into a window of a peer, and the signal behind it.
    ///
    /// # Errors
    /// The handle names no window of this communicator, the bytes do not fit, or the peer's memory cannot be
    /// reached from here.
    pub fn put(
        self: &Arc<Self>,
        handle: usize,
        offset: usize,
        source: Address,
        bytes: usize,
        signal: Signal,
    ) -> Result<OneSided> {
        const CALL: &str = "ncclPutSignal";
        let registered = self.registered(CALL, "peerWin", handle)?;
        let window = window(CALL, handle, &registered)?;
        let window_bytes = window.facts[signal.peer as usize].window_bytes();
        if offset.checked_add(bytes).is_none_or(|end| end > window_bytes) {
            return Err(Error::argument(
                CALL,
                "peerWinOffset",
                format_args!(
                    "is {offset}, with {bytes} bytes to write, and rank {} registered {window_bytes} bytes",
                    signal.peer
                ),
                "stay within the peer's window",
            ));
        }
        let reach = window.reach(CALL, signal.peer)?;
        Ok(OneSided::Put { reach, offset, source, bytes, signal })
    }

    fn registered(
        self: &Arc<Self>,
        call: &'static str,
        argument: &'static str,
        handle: usize,
    ) -> Result<Arc<Registered>> {
        let Some(registered) = REGISTERED.get(handle) else {
            let problem = match REGISTERED.is_ours(handle) {
                true => format!("{handle:#x} was deregistered before, or went with its communicator"),
                false => format!("{handle:#x} was not made by this library"),
            };
            return Err(Error::argument(call, argument, problem, REMEDY));
        };
        if !std::ptr::eq(registered.comm.as_ptr(), Arc::as_ptr(self)) {
            let problem = format_args!("{handle:#x} is {} of another communicator", registered.what.name());
            return Err(Error::argument(
                call,
                argument,
                problem,
                "pass the communicator it was registered with",
            ));
        }
        Ok(registered)
    }
}

const REMEDY: &str = "pass what ncclCommRegister or ncclCommWindowRegister made on this communicator, once";

fn window<'a>(call: &'static str, handle: usize, registered: &'a Registered) -> Result<&'a Window> {
    match &registered.what {
        What::Window(window) => Ok(window),
        What::Buffer => Err(wrong_kind(call, "win", handle, "a registered buffer", "ncclCommDeregister")),
    }
}

#[cold]
fn wrong_kind(
    call: &'static str,
    argument: &'static str,
    handle: usize,
    what: &'static str,
    ending: &'static str,
) -> Error {
    Error::argument(call, argument, format_args!("{handle:#x} is {what}"), format_args!("{ending} ends it"))
}
