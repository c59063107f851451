//! Thin bindings to UCX's `ucp` interface, loaded at run time.
//!
//! Only functions, structures and bits that UCX 1.13 has and 1.22 still has: no field moved between the two,
//! structures only grew at their ends, and what is beyond our part is never read, because every structure says
//! by its mask which of its fields count. Contexts are made with `ucp_init_version(1, 13)`, so that a newer
//! library keeps the promises of 1.13. `tests/layout.rs` compares sizes and offsets with the installed headers.
//!
//! Nothing here is safe, and nothing decides: who calls keeps UCX's rules. [`Library::load`] is the way in.
//!
//! | file | what it holds |
//! |---|---|
//! | [`types`] | handles, structures, callbacks |
//! | [`bits`] | masks, flags, numbers |
//! | here | the functions, found by name |

pub mod bits;
pub mod types;

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};

use types::{
    Address, AmHandlerParams, Config, Context, Endpoint, EndpointParams, MapParams, Memory, Params,
    RemoteKey, RequestParams, Status, StatusPointer, TagInfo, Worker, WorkerAttributes, WorkerParams,
};

/// The version of the interface that callers of this crate are written for.
pub const API_VERSION: (c_uint, c_uint) = (1, 13);

/// Where UCX is looked for when nobody says where: the dynamic linker's own places.
pub const USUAL_NAMES: [&str; 2] = ["libucp.so.0", "libucp.so"];

/// Why there is no UCX: each place that was tried, with the words of the dynamic linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Place and reason.
    pub tried: Vec<(PathBuf, String)>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("UCX 1.13 or newer cannot be loaded (Debian: libucx0; PyPI: libucx-cu12)")?;
        self.tried.iter().try_for_each(|(path, why)| write!(formatter, "; {}: {why}", path.display()))
    }
}

impl std::error::Error for Missing {}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident: $symbol:literal => fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, as C sees them; UCX's documentation says what each wants and promises.
        #[derive(Clone, Copy, Debug)]
        pub struct Functions {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Finds every function in the library.
            fn find(handle: &Handle) -> Result<Functions, String> {
                Ok(Functions {
                    $($name: {
                        // SAFETY: the type is the one that UCX's header gives to this name, and the handle
                        // outlives the copy, since both end up in one `Library`.
                        let found = unsafe {
                            handle.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                                concat!($symbol, "\0").as_bytes(),
                            )
                        };
                        *found.map_err(|_| format!("it has no {}; it is too old", $symbol))?
                    },)*
                })
            }
        }

        /// The names that [`Library::load`] looks up.
        pub const SYMBOLS: &[&str] = &[$($symbol),*];
    };
}

functions! {
    /// Major, minor and release number.
    get_version: "ucp_get_version" => fn(*mut c_uint, *mut c_uint, *mut c_uint);
    /// Reads the configuration, with an optional prefix for its variables and an optional file.
    config_read: "ucp_config_read" => fn(*const c_char, *const c_char, *mut *mut Config) -> Status;
    /// Sets one value of a configuration.
    config_modify: "ucp_config_modify" => fn(*mut Config, *const c_char, *const c_char) -> Status;
    /// Gives a configuration back.
    config_release: "ucp_config_release" => fn(*mut Config);
    /// Makes a context for callers of the interface of that version.
    init_version: "ucp_init_version" =>
        fn(c_uint, c_uint, *const Params, *const Config, *mut Context) -> Status;
    /// Ends a context, whose workers are gone.
    cleanup: "ucp_cleanup" => fn(Context);
    /// Makes a worker.
    worker_create: "ucp_worker_create" => fn(Context, *const WorkerParams, *mut Worker) -> Status;
    /// Ends a worker and the endpoints that are left.
    worker_destroy: "ucp_worker_destroy" => fn(Worker);
    /// Answers what the mask asks.
    worker_query: "ucp_worker_query" => fn(Worker, *mut WorkerAttributes) -> Status;
    /// The worker's address, to be given back.
    worker_get_address: "ucp_worker_get_address" => fn(Worker, *mut *mut Address, *mut usize) -> Status;
    /// Gives an address back.
    worker_release_address: "ucp_worker_release_address" => fn(Worker, *mut Address);
    /// Does what can be done now; not 0 if something was done.
    worker_progress: "ucp_worker_progress" => fn(Worker) -> c_uint;
    /// A descriptor that becomes readable when there is something to do, once armed.
    worker_get_efd: "ucp_worker_get_efd" => fn(Worker, *mut c_int) -> Status;
    /// Arms the descriptor; busy if there is something to do right now.
    worker_arm: "ucp_worker_arm" => fn(Worker) -> Status;
    /// Wakes whoever waits at the descriptor.
    worker_signal: "ucp_worker_signal" => fn(Worker) -> Status;
    /// Finishes what was sent, on all endpoints.
    worker_flush: "ucp_worker_flush_nbx" => fn(Worker, *const RequestParams) -> StatusPointer;
    /// Puts what comes after behind what came before.
    worker_fence: "ucp_worker_fence" => fn(Worker) -> Status;
    /// Says who takes active messages of a number.
    set_am_handler: "ucp_worker_set_am_recv_handler" => fn(Worker, *const AmHandlerParams) -> Status;
    /// Makes an endpoint.
    ep_create: "ucp_ep_create" => fn(Worker, *const EndpointParams, *mut Endpoint) -> Status;
    /// Ends an endpoint.
    ep_close: "ucp_ep_close_nbx" => fn(Endpoint, *const RequestParams) -> StatusPointer;
    /// Finishes what was sent on an endpoint.
    ep_flush: "ucp_ep_flush_nbx" => fn(Endpoint, *const RequestParams) -> StatusPointer;
    /// Sends an active message: number, header, data.
    am_send: "ucp_am_send_nbx" =>
        fn(Endpoint, c_uint, *const c_void, usize, *const c_void, usize, *const RequestParams) -> StatusPointer;
    /// Fetches the data of an active message that were announced only.
    am_receive_data: "ucp_am_recv_data_nbx" =>
        fn(Worker, *mut c_void, *mut c_void, usize, *const RequestParams) -> StatusPointer;
    /// Gives back the data of an active message that the handler kept.
    am_data_release: "ucp_am_data_release" => fn(Worker, *mut c_void);
    /// Sends under a tag.
    tag_send: "ucp_tag_send_nbx" =>
        fn(Endpoint, *const c_void, usize, u64, *const RequestParams) -> StatusPointer;
    /// Receives what matches a tag under a mask.
    tag_receive: "ucp_tag_recv_nbx" =>
        fn(Worker, *mut c_void, usize, u64, u64, *const RequestParams) -> StatusPointer;
    /// Whether something matches; nothing is taken if the flag is 0.
    tag_probe: "ucp_tag_probe_nb" => fn(Worker, u64, u64, c_int, *mut TagInfo) -> *mut c_void;
    /// Makes memory known.
    mem_map: "ucp_mem_map" => fn(Context, *const MapParams, *mut Memory) -> Status;
    /// Forgets memory.
    mem_unmap: "ucp_mem_unmap" => fn(Context, Memory) -> Status;
    /// A key with which peers reach memory, to be released.
    rkey_pack: "ucp_rkey_pack" => fn(Context, Memory, *mut *mut c_void, *mut usize) -> Status;
    /// Gives a packed key back.
    rkey_buffer_release: "ucp_rkey_buffer_release" => fn(*mut c_void);
    /// Unpacks a peer's key.
    rkey_unpack: "ucp_ep_rkey_unpack" => fn(Endpoint, *const c_void, *mut RemoteKey) -> Status;
    /// Gives an unpacked key back.
    rkey_destroy: "ucp_rkey_destroy" => fn(RemoteKey);
    /// Writes into a peer's memory.
    put: "ucp_put_nbx" =>
        fn(Endpoint, *const c_void, usize, u64, RemoteKey, *const RequestParams) -> StatusPointer;
    /// Reads a peer's memory.
    get: "ucp_get_nbx" =>
        fn(Endpoint, *mut c_void, usize, u64, RemoteKey, *const RequestParams) -> StatusPointer;
    /// How a request stands.
    request_check_status: "ucp_request_check_status" => fn(*mut c_void) -> Status;
    /// Asks a request to end; it still has to be waited for.
    request_cancel: "ucp_request_cancel" => fn(Worker, *mut c_void);
    /// Gives a request back.
    request_free: "ucp_request_free" => fn(*mut c_void);
    /// A status in words.
    status_string: "ucs_status_string" => fn(Status) -> *const c_char;
}

/// UCX, loaded. It stays loaded: its own threads may still run in it.
#[derive(Debug)]
pub struct Library {
    /// What can be called.
    pub functions: Functions,
    /// Where it was found.
    pub path: PathBuf,
    /// Major, minor, release.
    pub version: (u32, u32, u32),
    /// Sets an option of the process, as every version since 1.13 can.
    set_option: Option<unsafe extern "C" fn(*const c_char, *const c_char) -> Status>,
}

impl Library {
    /// Loads the first of the places that holds UCX 1.13 or newer.
    ///
    /// Loading it installs UCX's signal handlers for crashes; they are taken away again, since signals belong
    /// to the program.
    ///
    /// # Errors
    /// Every place, with why it did not do.
    pub fn load<P: AsRef<Path>>(places: impl IntoIterator<Item = P>) -> Result<Library, Missing> {
        let mut tried = Vec::new();
        for place in places {
            match Library::load_one(place.as_ref()) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push((place.as_ref().to_owned(), why)),
            }
        }
        Err(Missing { tried })
    }

    fn load_one(path: &Path) -> Result<Library, String> {
        // UCX's modules look for its symbols among those that are seen by all.
        // SAFETY: loading runs UCX's initializers, which any program that links it runs too.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| {
            std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
        })?;
        let functions = Functions::find(&handle)?;
        // SAFETY: UCX declares it without arguments or result, in every version that has it.
        if let Ok(disable) = unsafe { handle.get::<unsafe extern "C" fn()>(b"ucs_debug_disable_signals\0") } {
            // SAFETY: it restores the handlers that were there before, and asks nothing of its caller.
            unsafe { disable() };
        }
        let (mut major, mut minor, mut release) = (0, 0, 0);
        // SAFETY: UCX writes one number each.
        unsafe { (functions.get_version)(&raw mut major, &raw mut minor, &raw mut release) };
        if (major, minor) < API_VERSION || major > API_VERSION.0 {
            return Err(format!("it is version {major}.{minor}; 1.13 to 1.22 are known to work"));
        }
        // SAFETY: the type is the one that UCX's header gives to this name, and it is never unloaded.
        let set_option = unsafe { handle.get(b"ucs_global_opts_set_value\0") }.ok().map(|found| *found);
        // Never unloaded: UCX registers what runs at the program's end.
        std::mem::forget(handle);
        Ok(Library { functions, path: path.to_owned(), version: (major, minor, release), set_option })
    }

    /// Sets how much UCX writes to standard output: `fatal`, `error`, `warn`, `info` or more. What it does not know
    /// changes nothing.
    pub fn set_log_level(&self, level: &str) {
        let Ok(level) = CString::new(level) else { return };
        if let Some(set) = self.set_option {
            // SAFETY: both are C strings that outlive the call, which copies them.
            unsafe { set(c"LOG_LEVEL".as_ptr(), level.as_ptr()) };
        }
    }

    /// A status in UCX's words.
    #[must_use]
    pub fn explain(&self, status: Status) -> String {
        // SAFETY: UCX answers every number with a string; unknown ones with a buffer of its own.
        let words = unsafe { CStr::from_ptr((self.functions.status_string)(status)) };
        format!("{} ({status})", words.to_string_lossy())
    }
}

/// What a call that may finish later answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and there is no request.
    Done,
    /// It goes on; the request must be given back when it is done.
    Pending(*mut c_void),
    /// It failed.
    Failed(Status),
}

/// Reads a status pointer as UCX's macros do: null, a small negative number, or a request.
#[must_use]
#[inline]
pub fn answer(pointer: StatusPointer) -> Answer {
    let last = bits::ERR_LAST as isize;
    match pointer as isize {
        0 => Answer::Done,
        number if number < 0 && number >= last => Answer::Failed(number as Status),
        _ => Answer::Pending(pointer),
    }
}

/// Request parameters that ask for nothing.
#[must_use]
pub const fn no_request_params() -> RequestParams {
    RequestParams {
        mask: 0,
        flags: 0,
        request: null_mut(),
        callback: null_mut(),
        datatype: bits::DATATYPE_BYTES,
        user_data: null_mut(),
        reply_buffer: null_mut(),
        memory_type: 0,
        receive_info: null_mut(),
        memory: null_mut(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_pointers_are_told_apart() {
        assert_eq!(answer(null_mut()), Answer::Done);
        assert_eq!(answer(-25_isize as StatusPointer), Answer::Failed(bits::ERR_CONNECTION_RESET));
        assert_eq!(answer(-100_isize as StatusPointer), Answer::Failed(bits::ERR_LAST));
        let request = 0x7f00_1234_5678_usize as *mut c_void;
        assert_eq!(answer(request), Answer::Pending(request));
    }

    #[test]
    fn what_is_missing_is_named_with_every_place() {
        let missing = Library::load(["/nowhere/libucp.so.0", "/dev/null"]).err().unwrap();
        let words = missing.to_string();
        assert!(words.contains("/nowhere/libucp.so.0: ") && words.contains("/dev/null: "), "{words}");
        assert!(words.contains("libucx0"), "{words}");
    }

    #[test]
    fn what_is_no_ucx_is_refused() {
        let missing = Library::load(["libc.so.6"]).err().unwrap();
        assert!(missing.to_string().contains("it has no ucp_get_version"), "{missing}");
    }
}
