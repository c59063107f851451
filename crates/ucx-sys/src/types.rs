//! Handles, structures and callbacks of UCX 1.13. Structures are read and written by their masks only, so a
//! newer UCX, whose structures are longer, never reads beyond ours.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ucs_status_t`, which UCX packs into one byte.
pub type Status = i8;
/// `ucs_status_ptr_t`: see [`crate::answer`].
pub type StatusPointer = *mut c_void;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[derive(Debug)] #[repr(C)] pub struct $name { _private: [u8; 0] })*
    };
}

opaque! {
    /// A configuration.
    Config;
    /// A worker's address: so many bytes that only UCX understands.
    Address;
}

/// `ucp_context_h`.
pub type Context = *mut c_void;
/// `ucp_worker_h`.
pub type Worker = *mut c_void;
/// `ucp_ep_h`.
pub type Endpoint = *mut c_void;
/// `ucp_mem_h`.
pub type Memory = *mut c_void;
/// `ucp_rkey_h`.
pub type RemoteKey = *mut c_void;

/// Called with a request when what it stands for was sent.
pub type SendCallback = unsafe extern "C" fn(*mut c_void, Status, *mut c_void);
/// Called with a request when what it stands for was received under a tag.
pub type TagReceiveCallback = unsafe extern "C" fn(*mut c_void, Status, *const TagInfo, *mut c_void);
/// Called with a request when an active message's data have come: with how many bytes.
pub type AmDataCallback = unsafe extern "C" fn(*mut c_void, Status, usize, *mut c_void);
/// Called when an endpoint fails.
pub type ErrorCallback = unsafe extern "C" fn(*mut c_void, Endpoint, Status);
/// Called with an active message: argument, header and its length, data and their length, and what they are.
/// It answers OK if it is done with the data, in progress if it keeps them.
pub type AmReceiveCallback = unsafe extern "C" fn(
    *mut c_void,
    *const c_void,
    usize,
    *mut c_void,
    usize,
    *const AmReceiveParams,
) -> Status;

/// `ucp_params_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Params {
    /// Which fields count.
    pub mask: u64,
    /// What the context will be used for.
    pub features: u64,
    /// Bytes of the caller in front of each request.
    pub request_size: usize,
    /// Prepares a new request.
    pub request_init: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Ends a request for good.
    pub request_cleanup: Option<unsafe extern "C" fn(*mut c_void)>,
    /// Which bits of a tag say who sent.
    pub tag_sender_mask: u64,
    /// Not 0: several threads make workers of this context.
    pub mt_workers_shared: c_int,
    /// About how many peers there will be.
    pub estimated_num_eps: usize,
    /// About how many of them on this machine.
    pub estimated_num_ppn: usize,
    /// A name for messages.
    pub name: *const c_char,
}

/// `ucp_worker_params_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WorkerParams {
    /// Which fields count.
    pub mask: u64,
    /// Which threads will call.
    pub thread_mode: c_uint,
    /// Cores for threads of UCX.
    pub cpu_mask: [u64; 16],
    /// What wakes.
    pub events: c_uint,
    /// Handed back with endpoints.
    pub user_data: *mut c_void,
    /// A descriptor to use for events.
    pub event_fd: c_int,
    /// Flags.
    pub flags: u64,
    /// A name for messages.
    pub name: *const c_char,
    /// How data of active messages are aligned.
    pub am_alignment: usize,
    /// Who this is, for servers.
    pub client_id: u64,
}

/// The front of `ucp_worker_attr_t`; what is behind is never asked for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WorkerAttributes {
    /// Which fields are asked for.
    pub mask: u64,
    /// Which threads may call.
    pub thread_mode: c_uint,
    /// Which kind of address is wanted.
    pub address_flags: u32,
    /// The address, to be given back.
    pub address: *mut Address,
    /// Its bytes.
    pub address_length: usize,
    /// The longest header of an active message.
    pub max_am_header: usize,
    /// A name for messages.
    pub name: [c_char; 32],
    /// The longest text about a request.
    pub max_debug_string: usize,
}

/// `ucp_err_handler_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ErrorHandler {
    /// Who is called.
    pub callback: Option<ErrorCallback>,
    /// With what.
    pub argument: *mut c_void,
}

/// `ucs_sock_addr_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SocketAddress {
    /// A `struct sockaddr`.
    pub address: *const c_void,
    /// Its bytes.
    pub length: u32,
}

/// `ucp_ep_params_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EndpointParams {
    /// Which fields count.
    pub mask: u64,
    /// The peer's address.
    pub address: *const Address,
    /// Whether failures are told.
    pub error_mode: c_uint,
    /// To whom.
    pub error_handler: ErrorHandler,
    /// With what, in place of the handler's own argument.
    pub user_data: *mut c_void,
    /// Flags.
    pub flags: c_uint,
    /// A server's address, where there is one.
    pub socket_address: SocketAddress,
    /// A client's request, where there is one.
    pub connection_request: *mut c_void,
    /// A name for messages.
    pub name: *const c_char,
    /// From which address to connect.
    pub local_socket_address: SocketAddress,
}

/// `ucp_mem_map_params_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MapParams {
    /// Which fields count.
    pub mask: u64,
    /// Where the memory starts.
    pub address: *mut c_void,
    /// Its bytes.
    pub length: usize,
    /// Flags.
    pub flags: c_uint,
    /// Who may do what.
    pub protection: c_uint,
    /// What kind of memory it is.
    pub memory_type: c_uint,
}

/// `ucp_tag_recv_info_t`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct TagInfo {
    /// The tag under which it was sent.
    pub sender_tag: u64,
    /// Its bytes.
    pub length: usize,
}

/// `ucp_request_param_t`. `callback` stands for C's union of callbacks: cast the one that fits the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RequestParams {
    /// Which fields count, and some flags.
    pub mask: u32,
    /// Flags of the call.
    pub flags: u32,
    /// A request of the caller's own.
    pub request: *mut c_void,
    /// Who is told.
    pub callback: *mut c_void,
    /// What the count counts.
    pub datatype: u64,
    /// With what.
    pub user_data: *mut c_void,
    /// Where answers go.
    pub reply_buffer: *mut c_void,
    /// What kind of memory the buffer is.
    pub memory_type: c_uint,
    /// Where the length, or the tag and the length, of what came at once is written.
    pub receive_info: *mut c_void,
    /// The buffer's handle, where it is mapped.
    pub memory: Memory,
}

/// `ucp_am_handler_param_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AmHandlerParams {
    /// Which fields count.
    pub mask: u64,
    /// The messages' number.
    pub id: c_uint,
    /// Flags.
    pub flags: u32,
    /// Who takes them.
    pub callback: Option<AmReceiveCallback>,
    /// With what.
    pub argument: *mut c_void,
}

/// `ucp_am_recv_param_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AmReceiveParams {
    /// What the message is, and which fields count.
    pub attributes: u64,
    /// Where an answer goes.
    pub reply_endpoint: Endpoint,
}

/// `ucp_dt_iov_t`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slice {
    /// Where it starts.
    pub start: *mut c_void,
    /// Its bytes.
    pub bytes: usize,
}
