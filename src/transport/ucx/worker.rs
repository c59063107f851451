//! UCX as one object that cannot be used wrongly: the only file that calls it.
//!
//! A [`Worker`] sends messages that it owns and hands out messages that it owns. UCX never sees memory of the
//! user: what it still reads or writes when a communicator has ended is a buffer of ours. One thread at a time
//! calls it (`&mut self`), and everything that UCX calls back runs within [`Worker::progress`] or another call of
//! that thread.

use std::collections::VecDeque;
use std::ffi::{CString, c_void};
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use ucx_sys::types::{
    AmHandlerParams, AmReceiveParams, Context, Endpoint, EndpointParams, ErrorHandler, Params, RequestParams,
    Status, WorkerParams,
};
use ucx_sys::{Answer, Library, answer, bits, no_request_params};

use super::buffer::{Buffer, Pool};
use super::frame::Header;
use crate::error::{Error, Result};

/// The number of our messages among the active messages of a worker.
const OUR_NUMBER: u32 = 83;
/// Where pieces are announced, those of more bytes are, so that they arrive in the receiver's buffer without a copy.
const ANNOUNCED_ABOVE_BYTES: usize = 16 << 10;
/// How long a segment of TCP is, alike on all ranks: in UCX's own of 8 KiB a piece would be many, each with its calls
/// of the system.
pub(super) const SEGMENTS: [(&str, &str); 2] = [("TCP_TX_SEG_SIZE", "64k"), ("TCP_RX_SEG_SIZE", "64k")];
/// How often UCX is asked in one go while it does something.
const ROUNDS: u32 = 16;
/// How long the end of a worker waits for its endpoints to close.
const CLOSE_ROUNDS: u32 = 100_000;

/// What the callbacks fill while UCX makes progress.
#[derive(Default)]
struct Inbox {
    pool: Pool,
    messages: VecDeque<(Header, Buffer)>,
    /// Messages that were announced, with UCX's handle.
    announced: Vec<(Header, *mut c_void, usize)>,
    refused_count: u64,
}

/// Where the error handler of an endpoint notes its failure.
struct Alarm {
    /// 0 while nothing failed.
    status: AtomicI32,
    /// The worker's own, which outlives every endpoint.
    any: *const AtomicBool,
}

struct Connected {
    endpoint: Endpoint,
    alarm: *mut Alarm,
}

/// A message that UCX has not sent yet.
struct Sending {
    request: *mut c_void,
    buffer: Buffer,
}

/// An announced message that is on its way into its buffer.
struct Receiving {
    request: *mut c_void,
    header: Header,
    buffer: Buffer,
}

/// An endpoint that was told to close.
struct Closing {
    request: *mut c_void,
    alarm: *mut Alarm,
}

/// One worker, its context and its endpoints.
pub(super) struct Worker {
    library: &'static Library,
    context: Context,
    worker: ucx_sys::types::Worker,
    inbox: *mut Inbox,
    any_alarm: *mut AtomicBool,
    endpoints: Vec<Option<Connected>>,
    sending: Vec<Sending>,
    receiving: Vec<Receiving>,
    closing: Vec<Closing>,
    /// Longer messages are announced.
    eager_bytes: usize,
}

// SAFETY: the pointers lead to memory that only this object and UCX's worker use, and the worker is made for
// calls by any one thread at a time.
unsafe impl Send for Worker {}

/// What UCX shows, which may be nothing.
///
/// # Safety
/// As many bytes are readable there as long as the result is used.
unsafe fn readable<'a>(place: *const u8, bytes: usize) -> &'a [u8] {
    match bytes {
        0 => &[],
        // SAFETY: this function's contract.
        _ => unsafe { std::slice::from_raw_parts(place, bytes) },
    }
}

unsafe extern "C" fn take(
    argument: *mut c_void,
    header: *const c_void,
    header_bytes: usize,
    data: *mut c_void,
    bytes: usize,
    params: *const AmReceiveParams,
) -> Status {
    // SAFETY: `argument` is the inbox that was registered with this function. It lives as long as the worker, and
    // nobody else uses it while the worker is called.
    let inbox = unsafe { &mut *argument.cast::<Inbox>() };
    // SAFETY: UCX gives a valid structure.
    if unsafe { (*params).attributes } & bits::AM_RECV_ATTR_FLAG_RNDV != 0 {
        // SAFETY: UCX gives `header_bytes` bytes, readable during the call.
        let header = unsafe { readable(header.cast(), header_bytes) };
        let Some(header) = Header::decode(header).filter(|_| bytes <= super::PIECE_BYTES) else {
            inbox.refused_count += 1;
            return bits::OK;
        };
        inbox.announced.push((header, data, bytes));
        return bits::INPROGRESS;
    }
    // SAFETY: UCX gives `bytes` bytes, readable during the call.
    let whole = unsafe { readable(data.cast(), bytes) };
    let split = whole.split_at_checked(Header::BYTES);
    let known = split.and_then(|(header, rest)| Some((Header::decode(header)?, rest)));
    let Some((header, rest)) =
        known.filter(|(_, rest)| rest.len() <= super::PIECE_BYTES && header_bytes == 0)
    else {
        inbox.refused_count += 1;
        return bits::OK;
    };
    let mut buffer = inbox.pool.take(rest.len());
    buffer.data_mut().copy_from_slice(rest);
    inbox.messages.push_back((header, buffer));
    bits::OK
}

unsafe extern "C" fn note_failure(argument: *mut c_void, _endpoint: Endpoint, status: Status) {
    // SAFETY: `argument` is the alarm that was registered with the endpoint, freed only after UCX has closed it;
    // the worker's own flag outlives it.
    unsafe {
        let alarm = &*argument.cast::<Alarm>();
        alarm.status.store(i32::from(status), Ordering::Relaxed);
        (*alarm.any).store(true, Ordering::Relaxed);
    }
}

/// What UCX refused, with what to do.
fn refused(library: &Library, what: &str, status: Status) -> Error {
    Error::system(
        format!("UCX {}: {what}", version(library)),
        library.explain(status),
        "look at its own messages with UCX_LOG_LEVEL=info; UCX_TLS and UCX_NET_DEVICES say what it may use",
    )
}

/// A context, to be given back.
fn make_context(library: &Library, settings: &[(&str, &str)]) -> Result<Context> {
    let f = &library.functions;
    let (mut config, mut context) = (null_mut(), null_mut());
    // SAFETY: without a prefix and a file; the output is used only if the call was good.
    let read = unsafe { (f.config_read)(null(), null(), &raw mut config) };
    if read != bits::OK {
        return Err(refused(library, "reading its configuration", read));
    }
    for (name, value) in settings {
        let (Ok(c_name), Ok(c_value)) = (CString::new(*name), CString::new(*value)) else { continue };
        // SAFETY: the configuration is alive, both are C strings that outlive the call.
        let set = unsafe { (f.config_modify)(config, c_name.as_ptr(), c_value.as_ptr()) };
        if set != bits::OK {
            let why = library.explain(set);
            crate::trace::log::info(format_args!("UCX does not take {name}={value}: {why}"));
        }
    }
    // SAFETY: zeros are a value of the structure, and its mask names the field that is set; the configuration is
    // released once, and not used afterwards.
    let made = unsafe {
        let params = Params {
            mask: bits::PARAM_FIELD_FEATURES,
            features: bits::FEATURE_AM | bits::FEATURE_WAKEUP,
            ..std::mem::zeroed()
        };
        let (major, minor) = ucx_sys::API_VERSION;
        let made = (f.init_version)(major, minor, &raw const params, config, &raw mut context);
        (f.config_release)(config);
        made
    };
    if made == bits::OK { Ok(context) } else { Err(refused(library, "making a context", made)) }
}

impl Worker {
    /// A worker. `settings` are values of UCX's configuration, by their names without the prefix; `announces`: long
    /// messages are announced, and fetched by the receiver.
    pub(super) fn new(
        library: &'static Library,
        settings: &[(&str, &str)],
        announces: bool,
    ) -> Result<Worker> {
        let f = &library.functions;
        let context = make_context(library, settings)?;
        let mut worker = null_mut();
        // SAFETY: zeros are a value of the structure, and its mask names the field that is set; the context is alive.
        let made = unsafe {
            let params = WorkerParams {
                mask: bits::WORKER_PARAM_FIELD_THREAD_MODE,
                thread_mode: bits::THREAD_MODE_SERIALIZED,
                ..std::mem::zeroed()
            };
            (f.worker_create)(context, &raw const params, &raw mut worker)
        };
        if made != bits::OK {
            // SAFETY: the context has no worker.
            unsafe { (f.cleanup)(context) };
            return Err(refused(library, "making a worker", made));
        }
        let worker = Worker {
            library,
            context,
            worker,
            inbox: Box::into_raw(Box::default()),
            any_alarm: Box::into_raw(Box::default()),
            endpoints: Vec::new(),
            sending: Vec::new(),
            receiving: Vec::new(),
            closing: Vec::new(),
            eager_bytes: if announces { ANNOUNCED_ABOVE_BYTES } else { super::PIECE_BYTES },
        };
        let params = AmHandlerParams {
            mask: bits::AM_HANDLER_PARAM_FIELD_ID
                | bits::AM_HANDLER_PARAM_FIELD_FLAGS
                | bits::AM_HANDLER_PARAM_FIELD_CB
                | bits::AM_HANDLER_PARAM_FIELD_ARG,
            id: OUR_NUMBER,
            flags: bits::AM_FLAG_WHOLE_MSG,
            callback: Some(take),
            argument: worker.inbox.cast(),
        };
        // SAFETY: the worker is alive; the inbox lives until the worker is destroyed.
        let set = unsafe { (f.set_am_handler)(worker.worker, &raw const params) };
        if set == bits::OK { Ok(worker) } else { Err(refused(library, "taking messages", set)) }
    }

    fn inbox(&mut self) -> &mut Inbox {
        // SAFETY: made in `new`, freed in `drop`; UCX uses it only while this object calls it, which needs the
        // same exclusive borrow.
        unsafe { &mut *self.inbox }
    }

    /// Where peers reach it; only UCX understands it.
    pub(super) fn address(&self) -> Result<Vec<u8>> {
        let (mut address, mut length) = (null_mut(), 0);
        let f = &self.library.functions;
        // SAFETY: the worker is alive. UCX hands out `length` bytes, which are copied and then given back once.
        unsafe {
            let got = (f.worker_get_address)(self.worker, &raw mut address, &raw mut length);
            if got != bits::OK {
                let cause = self.library.explain(got);
                return Err(Error::system("asking UCX for its address", cause, "look at UCX_LOG_LEVEL=info"));
            }
            let bytes = std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec();
            (f.worker_release_address)(self.worker, address);
            Ok(bytes)
        }
    }

    /// A descriptor that becomes readable when there is something to do, once armed.
    pub(super) fn event_descriptor(&self) -> Result<RawFd> {
        let mut descriptor = -1;
        // SAFETY: the worker is alive, the output is a valid place.
        let got = unsafe { (self.library.functions.worker_get_efd)(self.worker, &raw mut descriptor) };
        if got == bits::OK {
            return Ok(descriptor);
        }
        Err(Error::system("asking UCX for what wakes", self.library.explain(got), "use other UCX_TLS"))
    }

    /// Arms the descriptor; false if there is something to do right now.
    pub(super) fn arm(&mut self) -> bool {
        // SAFETY: the worker is alive.
        let armed = unsafe { (self.library.functions.worker_arm)(self.worker) };
        armed == bits::OK
    }

    /// Begins to connect to the worker at `address`, in UCX's own time. The number stands for the endpoint.
    pub(super) fn connect(&mut self, address: &[u8]) -> std::result::Result<usize, String> {
        let made = match self.connect_as(address, bits::ERR_HANDLING_MODE_PEER) {
            // Shared memory of UCX 1.13 tells no failures; where it is all that is allowed that has to do.
            Err(bits::ERR_UNREACHABLE) => self.connect_as(address, bits::ERR_HANDLING_MODE_NONE),
            made => made,
        };
        made.map_err(|status| self.library.explain(status))
    }

    fn connect_as(&mut self, address: &[u8], error_mode: u32) -> std::result::Result<usize, Status> {
        let place = self.endpoints.iter().position(Option::is_none).unwrap_or(self.endpoints.len());
        let alarm = Box::into_raw(Box::new(Alarm { status: AtomicI32::new(0), any: self.any_alarm }));
        let mut endpoint = null_mut();
        // SAFETY: zeros are a value of the structure, and its mask names the fields that are set. The address came
        // from a peer that proved who it is, and UCX copies it. The alarm lives until the endpoint is closed.
        let made = unsafe {
            let params = EndpointParams {
                mask: bits::EP_PARAM_FIELD_REMOTE_ADDRESS
                    | bits::EP_PARAM_FIELD_ERR_HANDLING_MODE
                    | bits::EP_PARAM_FIELD_ERR_HANDLER,
                address: address.as_ptr().cast(),
                error_mode,
                error_handler: ErrorHandler { callback: Some(note_failure), argument: alarm.cast() },
                ..std::mem::zeroed()
            };
            (self.library.functions.ep_create)(self.worker, &raw const params, &raw mut endpoint)
        };
        if made != bits::OK {
            // SAFETY: UCX made no endpoint, so nobody knows the alarm.
            drop(unsafe { Box::from_raw(alarm) });
            return Err(made);
        }
        if place == self.endpoints.len() {
            self.endpoints.push(None);
        }
        self.endpoints[place] = Some(Connected { endpoint, alarm });
        Ok(place)
    }

    /// A buffer for a message of `bytes`.
    pub(super) fn buffer(&mut self, bytes: usize) -> Buffer {
        self.inbox().pool.take(bytes)
    }

    /// Gives a buffer back.
    pub(super) fn recycle(&mut self, buffer: Buffer) {
        self.inbox().pool.put(buffer);
    }

    /// Sends a message, in UCX's own time. Messages to one endpoint may overtake one another.
    pub(super) fn send(
        &mut self,
        endpoint: usize,
        header: &Header,
        mut buffer: Buffer,
    ) -> std::result::Result<(), String> {
        buffer.set_header(header);
        let Some(connected) = self.endpoints.get(endpoint).and_then(Option::as_ref) else {
            self.recycle(buffer);
            return Err("it is not connected".into());
        };
        // What is announced shows its header at once. Else the header is the start of the data, since UCX sends one
        // range faster than two.
        let (flags, header, data) = if buffer.bytes() > self.eager_bytes {
            (bits::AM_SEND_FLAG_RNDV, buffer.header(), buffer.data())
        } else {
            (bits::AM_SEND_FLAG_EAGER, &[][..], buffer.whole())
        };
        let params = RequestParams { mask: bits::OP_ATTR_FIELD_FLAGS, flags, ..no_request_params() };
        // SAFETY: the endpoint is open. Header and data lie in the buffer's own allocation, which does not move and
        // is kept until the request has ended.
        let pointer = unsafe {
            (self.library.functions.am_send)(
                connected.endpoint,
                OUR_NUMBER,
                header.as_ptr().cast(),
                header.len(),
                data.as_ptr().cast(),
                data.len(),
                &raw const params,
            )
        };
        match answer(pointer) {
            Answer::Done => self.recycle(buffer),
            Answer::Pending(request) => self.sending.push(Sending { request, buffer }),
            Answer::Failed(status) => {
                self.recycle(buffer);
                return Err(self.library.explain(status));
            }
        }
        Ok(())
    }

    /// Lets UCX do what can be done now. Whether it did anything.
    pub(super) fn progress(&mut self) -> bool {
        let mut has_moved = false;
        for _ in 0..ROUNDS {
            // SAFETY: the worker is alive.
            if unsafe { (self.library.functions.worker_progress)(self.worker) } == 0 {
                break;
            }
            has_moved = true;
            // What came is looked at first: the next look is a call of the system.
            if self.is_calm() {
                break;
            }
        }
        if has_moved {
            self.take_announced();
            self.look_after_requests();
        }
        has_moved
    }

    /// Whether something came, and nothing of ours is under way.
    fn is_calm(&mut self) -> bool {
        self.sending.is_empty() && self.receiving.is_empty() && !self.inbox().messages.is_empty()
    }

    /// Fetches what was announced.
    fn take_announced(&mut self) {
        while let Some((header, announcement, bytes)) = self.inbox().announced.pop() {
            let mut buffer = self.buffer(bytes);
            let params = no_request_params();
            // SAFETY: the announcement came from this worker and is used once. The data go to the buffer's own
            // allocation, which does not move and is kept until the request has ended.
            let pointer = unsafe {
                (self.library.functions.am_receive_data)(
                    self.worker,
                    announcement,
                    buffer.data_mut().as_mut_ptr().cast(),
                    bytes,
                    &raw const params,
                )
            };
            match answer(pointer) {
                Answer::Done => self.inbox().messages.push_back((header, buffer)),
                Answer::Pending(request) => self.receiving.push(Receiving { request, header, buffer }),
                // The endpoint's error handler says why.
                Answer::Failed(_) => self.recycle(buffer),
            }
        }
    }

    fn is_under_way(&self, request: *mut c_void) -> bool {
        // SAFETY: the request came from this worker and was not given back.
        unsafe { (self.library.functions.request_check_status)(request) == bits::INPROGRESS }
    }

    /// Ends a request that is not under way any more; how it ended.
    fn end(&self, request: *mut c_void) -> Status {
        // SAFETY: as above; it is given back once, since its owner is taken out of its list.
        unsafe {
            let status = (self.library.functions.request_check_status)(request);
            (self.library.functions.request_free)(request);
            status
        }
    }

    fn look_after_requests(&mut self) {
        let mut at = 0;
        while at < self.sending.len() {
            if self.is_under_way(self.sending[at].request) {
                at += 1;
                continue;
            }
            let sent = self.sending.swap_remove(at);
            self.end(sent.request);
            self.recycle(sent.buffer);
        }
        at = 0;
        while at < self.receiving.len() {
            if self.is_under_way(self.receiving[at].request) {
                at += 1;
                continue;
            }
            let received = self.receiving.swap_remove(at);
            if self.end(received.request) == bits::OK {
                self.inbox().messages.push_back((received.header, received.buffer));
            } else {
                self.recycle(received.buffer);
            }
        }
        at = 0;
        while at < self.closing.len() {
            if self.is_under_way(self.closing[at].request) {
                at += 1;
                continue;
            }
            let closed = self.closing.swap_remove(at);
            self.end(closed.request);
            // SAFETY: UCX has closed the endpoint, so nobody knows the alarm any more.
            drop(unsafe { Box::from_raw(closed.alarm) });
        }
    }

    /// The next message that came.
    pub(super) fn poll_message(&mut self) -> Option<(Header, Buffer)> {
        self.inbox().messages.pop_front()
    }

    /// An endpoint that failed since it was last asked, and UCX's words. It is to be closed.
    pub(super) fn poll_failure(&mut self) -> Option<(usize, String)> {
        // SAFETY: made in `new`, freed in `drop`.
        let any = unsafe { &*self.any_alarm };
        if !any.load(Ordering::Relaxed) {
            return None;
        }
        for (place, connected) in self.endpoints.iter().enumerate() {
            let Some(connected) = connected else { continue };
            // SAFETY: the endpoint is open, so its alarm lives.
            let status = unsafe { (*connected.alarm).status.load(Ordering::Relaxed) };
            if status != 0 {
                let status = Status::try_from(status).unwrap_or(bits::ERR_LAST);
                return Some((place, self.library.explain(status)));
            }
        }
        any.store(false, Ordering::Relaxed);
        None
    }

    /// Closes an endpoint at once; what was on its way is lost.
    pub(super) fn close(&mut self, endpoint: usize) {
        let Some(connected) = self.endpoints.get_mut(endpoint).and_then(Option::take) else { return };
        let params = RequestParams {
            mask: bits::OP_ATTR_FIELD_FLAGS,
            flags: bits::EP_CLOSE_FLAG_FORCE,
            ..no_request_params()
        };
        // SAFETY: the endpoint is open, was just taken out of the list, and is closed once.
        let pointer = unsafe { (self.library.functions.ep_close)(connected.endpoint, &raw const params) };
        match answer(pointer) {
            Answer::Pending(request) => self.closing.push(Closing { request, alarm: connected.alarm }),
            // SAFETY: UCX has closed the endpoint, so nobody knows the alarm any more.
            _ => drop(unsafe { Box::from_raw(connected.alarm) }),
        }
    }

    /// How many messages came that nobody of ours sent.
    pub(super) fn refused_count(&mut self) -> u64 {
        self.inbox().refused_count
    }

    /// Whether messages of ours wait to be sent.
    pub(super) fn is_sending(&self) -> bool {
        !self.sending.is_empty()
    }

    /// How much memory the messages take that `rank` of the communicator `key` sends, or that are being fetched for it.
    pub(super) fn under_way_bytes(&self, key: u128, rank: u32) -> usize {
        let sent = self.sending.iter().map(|sending| &sending.buffer).filter(|buffer| {
            let header = Header::decode(buffer.header());
            header.is_some_and(|header| (header.key, header.source) == (key, rank))
        });
        let fetched = self.receiving.iter().filter(|one| (one.header.key, one.header.target) == (key, rank));
        sent.chain(fetched.map(|one| &one.buffer)).map(Buffer::taken_bytes).sum()
    }

    /// How much memory waits for the next messages.
    pub(super) fn kept_bytes(&mut self) -> usize {
        self.inbox().pool.kept_bytes()
    }

    /// Gives back what waits for the next messages.
    pub(super) fn give_back(&mut self) {
        self.inbox().pool.clear();
    }

    /// How many endpoints are open.
    pub(super) fn endpoint_count(&self) -> usize {
        self.endpoints.iter().flatten().count()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        (0..self.endpoints.len()).for_each(|endpoint| self.close(endpoint));
        for _ in 0..CLOSE_ROUNDS {
            if self.closing.is_empty() && self.sending.is_empty() && self.receiving.is_empty() {
                break;
            }
            // SAFETY: the worker is alive.
            unsafe { (self.library.functions.worker_progress)(self.worker) };
            self.look_after_requests();
        }
        // SAFETY: both are ended once, the worker first, and nobody calls it afterwards.
        unsafe {
            (self.library.functions.worker_destroy)(self.worker);
            (self.library.functions.cleanup)(self.context);
        }
        // What UCX did not give back within the rounds above stays where it is: no memory is freed of which it is
        // not known that nobody writes it.
        self.sending.drain(..).for_each(|sending| std::mem::forget(sending.buffer));
        self.receiving.drain(..).for_each(|receiving| std::mem::forget(receiving.buffer));
        // SAFETY: made in `new`; with the worker gone nobody calls back.
        unsafe {
            drop(Box::from_raw(self.inbox));
            drop(Box::from_raw(self.any_alarm));
        }
    }
}

/// The version, for people.
pub(super) fn version(library: &Library) -> String {
    let (major, minor, release) = library.version;
    format!("{major}.{minor}.{release}")
}
