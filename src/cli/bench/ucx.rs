//! UCX's own interface as a contender: the same loop and buffers over tagged messages, at their honest best:
//! receives are posted before sends, several messages have one wait, and what is done at once is not waited for.
//!
//! UCX moves messages and has no collectives, so only what is made of messages is measured. Its transports are
//! those that its own variables name (`UCX_TLS`).

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use ucx_sys::types::{Endpoint, EndpointParams, Params, RequestParams, StatusPointer, Worker, WorkerParams};
use ucx_sys::{Answer, Library, USUAL_NAMES, answer, bits, no_request_params};

use super::contender::{Call, Contender, Request};
use super::operation::{Operation, WINDOW};
use super::pattern::Action;
use crate::cli::Failure;
use crate::cli::board::Seat;
use crate::cli::machine::Memory;

/// How long closing may take; nothing is in flight by then.
const CLOSING: Duration = Duration::from_secs(5);
/// How many times a wait looks before it looks for the failure of others.
const LOOKS: u64 = 1 << 22;

/// One rank's end: a worker, and an endpoint to every other rank.
pub(super) struct Ends {
    library: Library,
    context: *mut c_void,
    worker: Worker,
    /// By rank; null for this one.
    endpoints: Vec<Endpoint>,
    pending: Vec<*mut c_void>,
    params: RequestParams,
    rank: usize,
    /// Ranks share cores, so who waits gives its core away.
    crowded: bool,
    patience: Duration,
    token: Memory,
}

impl Ends {
    /// Makes this rank's end and meets the others.
    pub(super) fn join(seat: &Seat, crowded: bool, patience: Duration) -> Result<Ends, Failure> {
        let library = Library::load(USUAL_NAMES).map_err(|missing| Failure(missing.to_string()))?;
        let mut ends = Ends {
            library,
            context: null_mut(),
            worker: null_mut(),
            endpoints: Vec::new(),
            pending: Vec::new(),
            params: no_request_params(),
            rank: seat.rank(),
            crowded,
            patience,
            token: Memory::heap(64),
        };
        ends.open()?;
        let addresses = seat.share_bytes(&ends.address()?)?;
        for (rank, address) in addresses.iter().enumerate() {
            let endpoint = if rank == ends.rank { null_mut() } else { ends.connect(address)? };
            ends.endpoints.push(endpoint);
        }
        // The first message between two ranks connects them; it is no part of a measurement.
        let peers: Vec<usize> = (0..seat.ranks()).filter(|peer| *peer != ends.rank).collect();
        let place = ends.token.at(0);
        for peer in &peers {
            ends.start_receive(place, 1, *peer)?;
        }
        for peer in &peers {
            ends.start_send(place, 1, *peer)?;
        }
        ends.wait_for_all()?;
        Ok(ends)
    }

    fn check(&self, call: &str, status: ucx_sys::types::Status) -> Result<(), Failure> {
        if status == bits::OK {
            Ok(())
        } else {
            Err(Failure(format!("{call}: {}", self.library.explain(status))))
        }
    }

    fn open(&mut self) -> Result<(), Failure> {
        let functions = self.library.functions;
        let (major, minor) = ucx_sys::API_VERSION;
        // SAFETY: zeros are values of both structures, and their masks name the fields that are set; UCX writes
        // one handle for each call; a null configuration means the variables' one.
        unsafe {
            let params = Params {
                mask: bits::PARAM_FIELD_FEATURES,
                features: bits::FEATURE_TAG,
                ..std::mem::zeroed()
            };
            let made =
                (functions.init_version)(major, minor, &raw const params, null(), &raw mut self.context);
            self.check("ucp_init", made)?;
            let params = WorkerParams {
                mask: bits::WORKER_PARAM_FIELD_THREAD_MODE,
                thread_mode: bits::THREAD_MODE_SINGLE,
                ..std::mem::zeroed()
            };
            let made = (functions.worker_create)(self.context, &raw const params, &raw mut self.worker);
            self.check("ucp_worker_create", made)
        }
    }

    fn address(&self) -> Result<Vec<u8>, Failure> {
        let (mut address, mut length) = (null_mut(), 0);
        // SAFETY: UCX hands out `length` bytes, which are copied and then given back.
        unsafe {
            let functions = self.library.functions;
            let got = (functions.worker_get_address)(self.worker, &raw mut address, &raw mut length);
            self.check("ucp_worker_get_address", got)?;
            let bytes = std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec();
            (functions.worker_release_address)(self.worker, address);
            Ok(bytes)
        }
    }

    fn connect(&self, address: &[u8]) -> Result<Endpoint, Failure> {
        let mut endpoint = null_mut();
        // SAFETY: as in `open`; UCX copies the address before it returns.
        let made = unsafe {
            let params = EndpointParams {
                mask: bits::EP_PARAM_FIELD_REMOTE_ADDRESS,
                address: address.as_ptr().cast(),
                ..std::mem::zeroed()
            };
            (self.library.functions.ep_create)(self.worker, &raw const params, &raw mut endpoint)
        };
        self.check("ucp_ep_create", made)?;
        Ok(endpoint)
    }

    #[inline]
    fn keep(&mut self, call: &str, pointer: StatusPointer) -> Result<(), Failure> {
        match answer(pointer) {
            Answer::Done => Ok(()),
            Answer::Pending(request) => {
                self.pending.push(request);
                Ok(())
            }
            Answer::Failed(status) => self.check(call, status),
        }
    }

    /// The tag says who sent; messages between two ranks match in order.
    #[inline]
    fn start_send(&mut self, place: *const u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        // SAFETY: the place lies in the call's memory, which outlives `wait_for_all`; the endpoint is open.
        let pointer = unsafe {
            let (endpoint, tag) = (self.endpoints[peer], self.rank as u64);
            (self.library.functions.tag_send)(endpoint, place.cast(), bytes, tag, &raw const self.params)
        };
        self.keep("ucp_tag_send_nbx", pointer)
    }

    #[inline]
    fn start_receive(&mut self, place: *mut u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        // SAFETY: as in `start_send`; the worker is open.
        let pointer = unsafe {
            let (worker, tag) = (self.worker, peer as u64);
            let params = &raw const self.params;
            (self.library.functions.tag_receive)(worker, place.cast(), bytes, tag, u64::MAX, params)
        };
        self.keep("ucp_tag_recv_nbx", pointer)
    }

    /// Waits until nothing is in flight, the oldest first.
    #[inline]
    fn wait_for_all(&mut self) -> Result<(), Failure> {
        let functions = self.library.functions;
        let (mut looks, mut start) = (0_u64, None);
        for index in 0..self.pending.len() {
            let request = self.pending[index];
            loop {
                // SAFETY: the request came from this worker and was not given back.
                let status = unsafe { (functions.request_check_status)(request) };
                if status != bits::INPROGRESS {
                    // SAFETY: it is done, and is given back once.
                    unsafe { (functions.request_free)(request) };
                    self.check("a message", status)?;
                    break;
                }
                // SAFETY: the worker is open, and only this thread calls it.
                let moved = unsafe { (functions.worker_progress)(self.worker) };
                if moved == 0 && self.crowded {
                    std::thread::yield_now();
                }
                looks += 1;
                if looks.is_multiple_of(LOOKS)
                    && start.get_or_insert_with(Instant::now).elapsed() > self.patience
                {
                    return Err(Failure(format!("UCX moved nothing for {} s", self.patience.as_secs())));
                }
            }
        }
        self.pending.clear();
        Ok(())
    }

    fn send(&mut self, place: *const u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        self.start_send(place, bytes, peer)?;
        self.wait_for_all()
    }

    fn receive(&mut self, place: *mut u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        self.start_receive(place, bytes, peer)?;
        self.wait_for_all()
    }

    fn send_receive(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let bytes = call.request().bytes();
        let (right, left) = call.neighbours();
        match (call.request().ranks, call.request().rank) {
            (2, 0) => {
                self.send(call.source(), bytes, 1)?;
                self.receive(call.target(), bytes, 1)
            }
            (2, _) => {
                self.receive(call.target(), bytes, 0)?;
                self.send(call.source(), bytes, 0)
            }
            _ => {
                self.start_receive(call.target(), bytes, left)?;
                self.start_send(call.source(), bytes, right)?;
                self.wait_for_all()
            }
        }
    }

    fn exchange(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let (messages, bytes) = (call.request().messages, call.request().bytes());
        for peer in call.peers() {
            for message in 0..messages {
                let place = call.target().wrapping_add(call.message_offset(peer, message));
                self.start_receive(place, bytes, peer)?;
            }
        }
        for peer in call.peers() {
            for message in 0..messages {
                let place = call.source().wrapping_add(call.message_offset(peer, message));
                self.start_send(place, bytes, peer)?;
            }
        }
        self.wait_for_all()
    }

    fn all_to_all(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let bytes = call.request().bytes();
        for peer in call.peers() {
            self.start_receive(call.target().wrapping_add(peer * bytes), bytes, peer)?;
        }
        for peer in call.peers() {
            self.start_send(call.source().wrapping_add(peer * bytes), bytes, peer)?;
        }
        let own = self.rank * bytes;
        // SAFETY: the call vouches that both places hold a share for each rank; they do not overlap, since this
        // operation has no form in place.
        unsafe { std::ptr::copy_nonoverlapping(call.source().add(own), call.target().add(own), bytes) };
        self.wait_for_all()
    }

    fn rate(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let Request { rank, ranks, .. } = *call.request();
        let bytes = call.request().bytes();
        let token = self.token.at(0);
        if rank.is_multiple_of(2) {
            if rank + 1 >= ranks {
                return Ok(());
            }
            for message in 0..WINDOW {
                self.start_send(call.source().wrapping_add(message * bytes), bytes, rank + 1)?;
            }
            self.wait_for_all()?;
            return self.receive(token, 1, rank + 1);
        }
        for message in 0..WINDOW {
            self.start_receive(call.target().wrapping_add(message * bytes), bytes, rank - 1)?;
        }
        self.wait_for_all()?;
        self.send(token, 1, rank - 1)
    }

    /// Does what a pattern says: in a group all at once and one wait, outside one after the other.
    fn perform(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        let mut grouped = false;
        for action in call.actions() {
            match *action {
                Action::Open => grouped = true,
                Action::Close => {
                    grouped = false;
                    self.wait_for_all()?;
                }
                Action::Send { peer, offset, bytes } => {
                    self.start_send(call.source().wrapping_add(offset), bytes, peer)?;
                }
                Action::Receive { peer, offset, bytes, .. } => {
                    self.start_receive(call.target().wrapping_add(offset), bytes, peer)?;
                }
                Action::AllGather { .. } => return Err(lacks(call.request())),
            }
            if !grouped {
                self.wait_for_all()?;
            }
        }
        Ok(())
    }

    /// Ends every endpoint, in bounded time.
    fn close(&mut self) -> Result<(), Failure> {
        let (functions, start) = (self.library.functions, Instant::now());
        for endpoint in std::mem::take(&mut self.endpoints) {
            if endpoint.is_null() {
                continue;
            }
            // SAFETY: the endpoint is open, and taken so that it is closed once; nothing is in flight on it.
            let pointer = unsafe { (functions.ep_close)(endpoint, &raw const self.params) };
            let Answer::Pending(request) = answer(pointer) else { continue };
            // SAFETY: the request came from this worker and is given back once, below.
            while unsafe { (functions.request_check_status)(request) } == bits::INPROGRESS {
                if start.elapsed() > CLOSING {
                    return Err(Failure("UCX does not close its endpoints".into()));
                }
                // SAFETY: as in `wait_for_all`.
                unsafe { (functions.worker_progress)(self.worker) };
                std::thread::yield_now();
            }
            // SAFETY: as above.
            unsafe { (functions.request_free)(request) };
        }
        Ok(())
    }
}

fn lacks(request: &Request) -> Failure {
    Failure(format!("UCX has no {}; it moves messages", request.operation.name()))
}

impl Contender for Ends {
    fn describe(&self) -> String {
        let (major, minor, release) = self.library.version;
        format!("UCX {major}.{minor}.{release}")
    }

    fn supports(&self, request: &Request, _in_place: bool) -> Result<(), Failure> {
        match request.operation {
            Operation::SendRecv
            | Operation::Exchange
            | Operation::Packed
            | Operation::Rate
            | Operation::AllToAll
            | Operation::Neox
            | Operation::NeoxLone
            | Operation::NeoxBulk
            | Operation::Moe => Ok(()),
            _ => Err(lacks(request)),
        }
    }

    #[inline]
    fn run(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        match call.request().operation {
            Operation::SendRecv => self.send_receive(call),
            Operation::Exchange | Operation::Packed => self.exchange(call),
            Operation::Rate => self.rate(call),
            Operation::AllToAll => self.all_to_all(call),
            operation if operation.is_pattern() => self.perform(call),
            _ => Err(lacks(call.request())),
        }
    }

    fn allocate(&self, _bytes: usize) -> Result<Memory, Failure> {
        Err(Failure("UCX is measured on ordinary memory; use --memory heap".into()))
    }

    fn touch(&mut self) {
        // SAFETY: the worker is open.
        unsafe { (self.library.functions.worker_progress)(self.worker) };
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.close()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let functions = self.library.functions;
        // SAFETY: both are given back once, the worker first; requests of a failed run die with the worker.
        unsafe {
            if !self.worker.is_null() {
                (functions.worker_destroy)(self.worker);
            }
            if !self.context.is_null() {
                (functions.cleanup)(self.context);
            }
        }
    }
}
