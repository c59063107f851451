//! Two workers exchange: as threads and as processes, over shared memory and over TCP, by tags, by active
//! messages, by puts into mapped memory; and connect and close many times. Every wait is bounded.

use std::ffi::{CString, c_uint, c_void};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ucx_sys::types::{
    AmHandlerParams, AmReceiveParams, Endpoint, EndpointParams, MapParams, Params, StatusPointer, Worker,
    WorkerParams,
};
use ucx_sys::{Answer, Library, USUAL_NAMES, answer, bits, no_request_params};

const PATIENCE: Duration = Duration::from_secs(30);
const SHARED_MEMORY: &str = "self,posix,sysv,cma";
const TCP: &str = "self,tcp";
const AM_SMALL: c_uint = 7;

/// UCX, where the variable says or where it usually is: so other versions are tried.
fn load() -> Library {
    let loaded = match std::env::var_os("UCX_SYS_TEST_LIBRARY") {
        Some(path) => Library::load([path]),
        None => Library::load(USUAL_NAMES),
    };
    loaded.unwrap_or_else(|missing| panic!("{missing}"))
}

/// One end: a context, its worker, and at most one peer.
struct End {
    library: Library,
    context: *mut c_void,
    worker: Worker,
    endpoint: Endpoint,
}

impl End {
    fn new(transports: &str) -> End {
        let library = load();
        let functions = library.functions;
        let (mut config, mut context, mut worker) = (null_mut(), null_mut(), null_mut());
        // SAFETY: zeros are values of these structures, and their masks name the fields that are set. The
        // outputs are written before they are used; the configuration is released once.
        unsafe {
            assert_eq!((functions.config_read)(null(), null(), &raw mut config), bits::OK);
            let value = CString::new(transports).unwrap();
            let modified = (functions.config_modify)(config, c"TLS".as_ptr(), value.as_ptr());
            assert_eq!(modified, bits::OK);
            let params = Params {
                mask: bits::PARAM_FIELD_FEATURES,
                features: bits::FEATURE_TAG | bits::FEATURE_AM | bits::FEATURE_RMA,
                ..std::mem::zeroed()
            };
            let (major, minor) = ucx_sys::API_VERSION;
            let made = (functions.init_version)(major, minor, &raw const params, config, &raw mut context);
            (functions.config_release)(config);
            assert_eq!(made, bits::OK, "{}", library.explain(made));
            let params = WorkerParams {
                mask: bits::WORKER_PARAM_FIELD_THREAD_MODE,
                thread_mode: bits::THREAD_MODE_SINGLE,
                ..std::mem::zeroed()
            };
            let made = (functions.worker_create)(context, &raw const params, &raw mut worker);
            assert_eq!(made, bits::OK, "{}", library.explain(made));
        }
        End { library, context, worker, endpoint: null_mut() }
    }

    fn address(&self) -> Vec<u8> {
        let (mut address, mut length) = (null_mut(), 0);
        // SAFETY: UCX hands out `length` bytes, which are copied and then given back.
        unsafe {
            let got =
                (self.library.functions.worker_get_address)(self.worker, &raw mut address, &raw mut length);
            assert_eq!(got, bits::OK);
            let bytes = std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec();
            (self.library.functions.worker_release_address)(self.worker, address);
            bytes
        }
    }

    fn connect(&mut self, address: &[u8]) {
        // SAFETY: as in `new`; UCX copies the address before it returns.
        let made = unsafe {
            let params = EndpointParams {
                mask: bits::EP_PARAM_FIELD_REMOTE_ADDRESS,
                address: address.as_ptr().cast(),
                ..std::mem::zeroed()
            };
            (self.library.functions.ep_create)(self.worker, &raw const params, &raw mut self.endpoint)
        };
        assert_eq!(made, bits::OK, "{}", self.library.explain(made));
    }

    fn progress(&self) {
        // SAFETY: the worker lives, and this thread is the only one that calls it.
        if unsafe { (self.library.functions.worker_progress)(self.worker) } == 0 {
            std::thread::yield_now();
        }
    }

    fn wait(&self, pointer: StatusPointer) {
        match answer(pointer) {
            Answer::Done => {}
            Answer::Failed(status) => panic!("{}", self.library.explain(status)),
            Answer::Pending(request) => {
                let start = Instant::now();
                // SAFETY: the request came from this worker and is given back once.
                while unsafe { (self.library.functions.request_check_status)(request) } == bits::INPROGRESS {
                    assert!(start.elapsed() < PATIENCE, "a request never ended");
                    self.progress();
                }
                // SAFETY: as above.
                unsafe { (self.library.functions.request_free)(request) };
            }
        }
    }

    fn send(&self, tag: u64, bytes: &[u8]) -> StatusPointer {
        let params = no_request_params();
        // SAFETY: callers wait for the request while the bytes live.
        unsafe {
            (self.library.functions.tag_send)(
                self.endpoint,
                bytes.as_ptr().cast(),
                bytes.len(),
                tag,
                &raw const params,
            )
        }
    }

    fn receive(&self, tag: u64, bytes: &mut [u8]) {
        let params = no_request_params();
        // SAFETY: the bytes are borrowed until the request has ended.
        let request = unsafe {
            (self.library.functions.tag_receive)(
                self.worker,
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                tag,
                u64::MAX,
                &raw const params,
            )
        };
        self.wait(request);
    }

    fn swap(&self, tag: u64, mine: &[u8], yours: &mut [u8]) {
        let sent = self.send(tag, mine);
        self.receive(tag, yours);
        self.wait(sent);
    }

    /// Closes the endpoint once both sides are done with it.
    fn close(&mut self) {
        let (mut there, params) = ([0], no_request_params());
        self.swap(u64::MAX - 1, &[1], &mut there);
        // SAFETY: the endpoint is closed once, and nothing is in flight on it.
        let request = unsafe { (self.library.functions.ep_close)(self.endpoint, &raw const params) };
        self.wait(request);
        self.endpoint = null_mut();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: both are ended once, the worker first; requests were waited for.
        unsafe {
            (self.library.functions.worker_destroy)(self.worker);
            (self.library.functions.cleanup)(self.context);
        }
    }
}

fn pattern(who: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + usize::from(who) * 3) as u8).collect()
}

/// Both ends swap messages of many sizes.
fn converse(end: &End, who: u8) {
    for (tag, bytes) in [0, 1, 8, 64, 1000, 8192, 100_000, 3_000_000].into_iter().enumerate() {
        let (mine, mut yours) = (pattern(who, bytes), vec![0; bytes]);
        end.swap(tag as u64, &mine, &mut yours);
        assert_eq!(yours, pattern(1 - who, bytes), "{bytes} bytes");
    }
}

/// Runs `body` on two threads that know each other's address.
fn pair(transports: &'static str, body: fn(&mut End, u8)) {
    let (to_one, at_one) = mpsc::channel();
    let (to_two, at_two) = mpsc::channel();
    let run = move |who: u8, tell: mpsc::Sender<Vec<u8>>, hear: mpsc::Receiver<Vec<u8>>| {
        let mut end = End::new(transports);
        tell.send(end.address()).unwrap();
        end.connect(&hear.recv_timeout(PATIENCE).unwrap());
        body(&mut end, who);
        end.close();
        // Nobody destroys a worker that the other may still ask for.
        tell.send(Vec::new()).unwrap();
        let start = Instant::now();
        while hear.try_recv().is_err() {
            assert!(start.elapsed() < PATIENCE, "the other end never closed");
            end.progress();
        }
    };
    let other = std::thread::spawn(move || run(1, to_one, at_two));
    run(0, to_two, at_one);
    other.join().unwrap();
}

#[test]
fn threads_over_shared_memory() {
    pair(SHARED_MEMORY, |end, who| converse(end, who));
}

#[test]
fn threads_over_tcp() {
    pair(TCP, |end, who| converse(end, who));
}

#[test]
fn connecting_and_closing_many_times() {
    for transports in [SHARED_MEMORY, TCP] {
        for _ in 0..10 {
            pair(transports, |end, who| {
                let mut yours = [0];
                end.swap(1, &[who], &mut yours);
                assert_eq!(yours, [1 - who]);
            });
        }
    }
}

/// What the handler below was given.
#[derive(Default)]
struct Taken {
    messages: Vec<(Vec<u8>, Vec<u8>)>,
}

unsafe extern "C" fn take(
    argument: *mut c_void,
    header: *const c_void,
    header_bytes: usize,
    data: *mut c_void,
    bytes: usize,
    params: *const AmReceiveParams,
) -> i8 {
    // SAFETY: the argument is the `Taken` that was registered, whose thread is the one that progresses; header
    // and data hold as many bytes as UCX says, unless the data were only announced.
    unsafe {
        assert_eq!((*params).attributes & bits::AM_RECV_ATTR_FLAG_RNDV, 0, "small messages come whole");
        let header = std::slice::from_raw_parts(header.cast::<u8>(), header_bytes).to_vec();
        let data = std::slice::from_raw_parts(data.cast::<u8>(), bytes).to_vec();
        (*argument.cast::<Taken>()).messages.push((header, data));
    }
    bits::OK
}

#[test]
fn active_messages_arrive_in_order() {
    for transports in [SHARED_MEMORY, TCP] {
        pair(transports, |end, who| {
            let taken = Box::into_raw(Box::<Taken>::default());
            let handler = AmHandlerParams {
                mask: bits::AM_HANDLER_PARAM_FIELD_ID
                    | bits::AM_HANDLER_PARAM_FIELD_CB
                    | bits::AM_HANDLER_PARAM_FIELD_ARG,
                id: AM_SMALL,
                flags: 0,
                callback: Some(take),
                argument: taken.cast(),
            };
            // SAFETY: the handler's argument lives until the end of this body, when all messages have come.
            let set = unsafe { (end.library.functions.set_am_handler)(end.worker, &raw const handler) };
            assert_eq!(set, bits::OK);
            for number in 0..20_u8 {
                let (header, data) = ([who, number], pattern(who, usize::from(number) * 13));
                let params = no_request_params();
                // SAFETY: header and data live until the request has ended.
                let request = unsafe {
                    (end.library.functions.am_send)(
                        end.endpoint,
                        AM_SMALL,
                        header.as_ptr().cast(),
                        header.len(),
                        data.as_ptr().cast(),
                        data.len(),
                        &raw const params,
                    )
                };
                end.wait(request);
            }
            let start = Instant::now();
            // SAFETY: only this thread touches what the pointer names, and not while the worker progresses.
            let count = || unsafe {
                let messages = &(*taken).messages;
                messages.len()
            };
            while count() < 20 {
                assert!(start.elapsed() < PATIENCE, "active messages are missing");
                end.progress();
            }
            // SAFETY: made by `Box::into_raw` above; the close behind this body sends none of these messages.
            let taken = unsafe { Box::from_raw(taken) };
            for (number, (header, data)) in taken.messages.iter().enumerate() {
                assert_eq!(header, &[1 - who, number as u8]);
                assert_eq!(data, &pattern(1 - who, number * 13));
            }
        });
    }
}

#[test]
fn puts_reach_mapped_memory() {
    pair(SHARED_MEMORY, |end, who| {
        let functions = end.library.functions;
        let mut here = vec![0_u8; 4096];
        let (mut memory, mut key, mut key_bytes) = (null_mut(), null_mut(), 0);
        // SAFETY: `here` outlives its mapping; the key's bytes are copied and then given back.
        let packed = unsafe {
            let params = MapParams {
                mask: bits::MEM_MAP_PARAM_FIELD_ADDRESS | bits::MEM_MAP_PARAM_FIELD_LENGTH,
                address: here.as_mut_ptr().cast(),
                length: here.len(),
                ..std::mem::zeroed()
            };
            assert_eq!((functions.mem_map)(end.context, &raw const params, &raw mut memory), bits::OK);
            let got = (functions.rkey_pack)(end.context, memory, &raw mut key, &raw mut key_bytes);
            assert_eq!(got, bits::OK);
            let bytes = std::slice::from_raw_parts(key.cast::<u8>(), key_bytes).to_vec();
            (functions.rkey_buffer_release)(key);
            bytes
        };
        let mut theirs = vec![0; packed.len()];
        end.swap(1, &packed, &mut theirs);
        let mut place = [0; 8];
        end.swap(2, &(here.as_ptr() as u64).to_le_bytes(), &mut place);
        let mine = pattern(who, 4096);
        let params = no_request_params();
        let mut remote = null_mut();
        // SAFETY: the peer's memory stays mapped until the swap below; `mine` outlives the put and the flush.
        unsafe {
            assert_eq!(
                (functions.rkey_unpack)(end.endpoint, theirs.as_ptr().cast(), &raw mut remote),
                bits::OK
            );
            end.wait((functions.put)(
                end.endpoint,
                mine.as_ptr().cast(),
                mine.len(),
                u64::from_le_bytes(place),
                remote,
                &raw const params,
            ));
            end.wait((functions.ep_flush)(end.endpoint, &raw const params));
        }
        let mut there = [0];
        end.swap(3, &[1], &mut there);
        assert_eq!(here, pattern(1 - who, 4096));
        // SAFETY: given back once each, and the swap said that the peer's put is done.
        unsafe {
            (functions.rkey_destroy)(remote);
            assert_eq!((functions.mem_unmap)(end.context, memory), bits::OK);
        }
    });
}

/// One of two processes: its address goes out and the peer's comes in over pipes.
fn speak(transports: &str, who: u8, from: &mut dyn Read, to: &mut dyn Write) {
    let mut end = End::new(transports);
    let mine = end.address();
    to.write_all(&(mine.len() as u64).to_le_bytes()).unwrap();
    to.write_all(&mine).unwrap();
    to.flush().unwrap();
    let mut length = [0; 8];
    from.read_exact(&mut length).unwrap();
    let mut theirs = vec![0; u64::from_le_bytes(length) as usize];
    from.read_exact(&mut theirs).unwrap();
    end.connect(&theirs);
    converse(&end, who);
    end.close();
}

#[test]
fn processes_over_both() {
    // The other process is this test again, told so by words that the harness takes for names to skip.
    if let Some(transports) = std::env::args().skip_while(|word| word != "--transports").nth(2) {
        return speak(&transports, 1, &mut std::io::stdin(), &mut std::io::stderr());
    }
    for transports in [SHARED_MEMORY, TCP] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["processes_over_both", "--exact", "--nocapture", "--test-threads=1"]);
        command.args(["--skip", "--transports", "--skip", transports]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut from, mut to) = (child.stderr.take().unwrap(), child.stdin.take().unwrap());
        speak(transports, 0, &mut from, &mut to);
        let status = child.wait().unwrap();
        assert!(status.success(), "the other process failed over {transports}");
    }
}
