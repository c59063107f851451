//! Sizes, offsets and numbers agree with the headers that are installed (Debian: libucx-dev).

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use ucx_sys::bits;
use ucx_sys::types::*;

/// What C says of a list of expressions.
fn from_headers(expressions: &[&str]) -> BTreeMap<String, u64> {
    let mut source =
        String::from("#include <stdio.h>\n#include <stddef.h>\n#include <ucp/api/ucp.h>\nint main(void) {\n");
    for expression in expressions {
        source +=
            &format!("printf(\"%s = %llu\\n\", \"{expression}\", (unsigned long long)({expression}));\n");
    }
    source += "return 0;\n}\n";
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("ucx-layout-{}-{call}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, program) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&file, source).unwrap();
    let built = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&file).output().unwrap();
    let words = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "UCX's headers do not compile; install libucx-dev: {words}");
    let said = Command::new(&program).output().unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    let text = String::from_utf8(said.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (expression, value) = line.rsplit_once(" = ").unwrap();
            (expression.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn compare(ours: &[(&str, u64)]) {
    let expressions: Vec<&str> = ours.iter().map(|(expression, _)| *expression).collect();
    let theirs = from_headers(&expressions);
    for (expression, value) in ours {
        assert_eq!(theirs[*expression], *value, "{expression}");
    }
}

macro_rules! offsets {
    ($($c:literal, $rust:ty: $($field:ident = $name:literal),*;)*) => {
        [$($((concat!("offsetof(", $c, ", ", $name, ")"), offset_of!($rust, $field) as u64)),*),*]
    };
}

#[test]
fn fields_lie_where_the_headers_say() {
    compare(&offsets! {
        "ucp_params_t", Params: features = "features", request_size = "request_size",
            request_init = "request_init", request_cleanup = "request_cleanup",
            tag_sender_mask = "tag_sender_mask", mt_workers_shared = "mt_workers_shared",
            estimated_num_eps = "estimated_num_eps", estimated_num_ppn = "estimated_num_ppn", name = "name";
        "ucp_worker_params_t", WorkerParams: thread_mode = "thread_mode", cpu_mask = "cpu_mask",
            events = "events", user_data = "user_data", event_fd = "event_fd", flags = "flags",
            name = "name", am_alignment = "am_alignment", client_id = "client_id";
        "ucp_worker_attr_t", WorkerAttributes: thread_mode = "thread_mode", address_flags = "address_flags",
            address = "address", address_length = "address_length", max_am_header = "max_am_header",
            name = "name", max_debug_string = "max_debug_string";
        "ucp_ep_params_t", EndpointParams: address = "address", error_mode = "err_mode",
            error_handler = "err_handler", user_data = "user_data", flags = "flags",
            socket_address = "sockaddr", connection_request = "conn_request", name = "name",
            local_socket_address = "local_sockaddr";
        "ucp_err_handler_t", ErrorHandler: argument = "arg";
        "ucs_sock_addr_t", SocketAddress: length = "addrlen";
        "ucp_mem_map_params_t", MapParams: address = "address", length = "length", flags = "flags",
            protection = "prot", memory_type = "memory_type";
        "ucp_tag_recv_info_t", TagInfo: length = "length";
        "ucp_request_param_t", RequestParams: flags = "flags", request = "request", callback = "cb",
            datatype = "datatype", user_data = "user_data", reply_buffer = "reply_buffer",
            memory_type = "memory_type", receive_info = "recv_info", memory = "memh";
        "ucp_am_handler_param_t", AmHandlerParams: id = "id", flags = "flags", callback = "cb",
            argument = "arg";
        "ucp_am_recv_param_t", AmReceiveParams: reply_endpoint = "reply_ep";
        "ucp_dt_iov_t", Slice: bytes = "length";
    });
}

#[test]
fn what_ucx_reads_by_value_has_its_size() {
    compare(&[
        ("sizeof(ucs_status_t)", size_of::<Status>() as u64),
        ("sizeof(ucp_tag_recv_info_t)", size_of::<TagInfo>() as u64),
        ("sizeof(ucp_dt_iov_t)", size_of::<Slice>() as u64),
        ("sizeof(ucs_memory_type_t)", 4),
        ("sizeof(ucs_cpu_set_t)", 128),
    ]);
}

macro_rules! numbers {
    ($($prefix:literal: $($name:ident),*;)*) => {
        [$($((concat!($prefix, stringify!($name)), bits::$name as u64)),*),*]
    };
}

#[test]
fn numbers_are_those_of_the_headers() {
    compare(&numbers! {
        "UCS_": INPROGRESS, THREAD_MODE_SINGLE, THREAD_MODE_SERIALIZED, THREAD_MODE_MULTI,
            MEMORY_TYPE_HOST, MEMORY_TYPE_CUDA;
        "UCP_": PARAM_FIELD_FEATURES, PARAM_FIELD_REQUEST_SIZE, PARAM_FIELD_TAG_SENDER_MASK,
            PARAM_FIELD_MT_WORKERS_SHARED, PARAM_FIELD_ESTIMATED_NUM_EPS, PARAM_FIELD_ESTIMATED_NUM_PPN,
            PARAM_FIELD_NAME, FEATURE_TAG, FEATURE_RMA, FEATURE_WAKEUP, FEATURE_AM,
            WORKER_PARAM_FIELD_THREAD_MODE, WORKER_PARAM_FIELD_EVENTS, WORKER_PARAM_FIELD_FLAGS,
            WORKER_PARAM_FIELD_NAME, WORKER_FLAG_IGNORE_REQUEST_LEAK, WAKEUP_TX, WAKEUP_RX,
            WORKER_ATTR_FIELD_THREAD_MODE, WORKER_ATTR_FIELD_ADDRESS, WORKER_ATTR_FIELD_ADDRESS_FLAGS,
            WORKER_ATTR_FIELD_MAX_AM_HEADER, WORKER_ADDRESS_FLAG_NET_ONLY, EP_PARAM_FIELD_REMOTE_ADDRESS,
            EP_PARAM_FIELD_ERR_HANDLING_MODE, EP_PARAM_FIELD_ERR_HANDLER, EP_PARAM_FIELD_USER_DATA,
            EP_PARAM_FIELD_NAME, ERR_HANDLING_MODE_NONE, ERR_HANDLING_MODE_PEER, EP_CLOSE_FLAG_FORCE,
            MEM_MAP_PARAM_FIELD_ADDRESS, MEM_MAP_PARAM_FIELD_LENGTH, MEM_MAP_PARAM_FIELD_FLAGS,
            MEM_MAP_PARAM_FIELD_PROT, MEM_MAP_PARAM_FIELD_MEMORY_TYPE, MEM_MAP_NONBLOCK, MEM_MAP_ALLOCATE,
            OP_ATTR_FIELD_REQUEST, OP_ATTR_FIELD_CALLBACK, OP_ATTR_FIELD_USER_DATA, OP_ATTR_FIELD_DATATYPE,
            OP_ATTR_FIELD_FLAGS, OP_ATTR_FIELD_MEMORY_TYPE, OP_ATTR_FIELD_RECV_INFO, OP_ATTR_FIELD_MEMH,
            OP_ATTR_FLAG_NO_IMM_CMPL, OP_ATTR_FLAG_FAST_CMPL, OP_ATTR_FLAG_FORCE_IMM_CMPL,
            OP_ATTR_FLAG_MULTI_SEND, AM_HANDLER_PARAM_FIELD_ID, AM_HANDLER_PARAM_FIELD_FLAGS,
            AM_HANDLER_PARAM_FIELD_CB, AM_HANDLER_PARAM_FIELD_ARG, AM_FLAG_WHOLE_MSG,
            AM_FLAG_PERSISTENT_DATA, AM_SEND_FLAG_REPLY, AM_SEND_FLAG_EAGER, AM_SEND_FLAG_RNDV,
            AM_RECV_ATTR_FIELD_REPLY_EP, AM_RECV_ATTR_FLAG_DATA, AM_RECV_ATTR_FLAG_RNDV;
    });
    compare(&[
        ("UCS_ERR_CONNECTION_RESET", bits::ERR_CONNECTION_RESET as i64 as u64),
        ("UCS_ERR_ENDPOINT_TIMEOUT", bits::ERR_ENDPOINT_TIMEOUT as i64 as u64),
        ("UCS_ERR_CANCELED", bits::ERR_CANCELED as i64 as u64),
        ("UCS_ERR_LAST", bits::ERR_LAST as i64 as u64),
        ("ucp_dt_make_contig(1)", bits::DATATYPE_BYTES),
        ("ucp_dt_make_iov()", bits::DATATYPE_IOV),
    ]);
}
