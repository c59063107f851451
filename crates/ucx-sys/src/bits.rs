//! Masks, flags and numbers of UCX 1.13, under their own names without the prefix.
#![allow(missing_docs, reason = "each is UCX's constant of the same name, and UCX documents it")]

use crate::types::Status;

pub const OK: Status = 0;
pub const INPROGRESS: Status = 1;
pub const ERR_NO_RESOURCE: Status = -2;
pub const ERR_IO_ERROR: Status = -3;
pub const ERR_NO_MEMORY: Status = -4;
pub const ERR_INVALID_PARAM: Status = -5;
pub const ERR_UNREACHABLE: Status = -6;
pub const ERR_MESSAGE_TRUNCATED: Status = -9;
pub const ERR_NO_DEVICE: Status = -14;
pub const ERR_BUSY: Status = -15;
pub const ERR_CANCELED: Status = -16;
pub const ERR_UNSUPPORTED: Status = -22;
pub const ERR_NOT_CONNECTED: Status = -24;
pub const ERR_CONNECTION_RESET: Status = -25;
pub const ERR_ENDPOINT_TIMEOUT: Status = -80;
pub const ERR_LAST: Status = -100;

pub const PARAM_FIELD_FEATURES: u64 = 1 << 0;
pub const PARAM_FIELD_REQUEST_SIZE: u64 = 1 << 1;
pub const PARAM_FIELD_TAG_SENDER_MASK: u64 = 1 << 4;
pub const PARAM_FIELD_MT_WORKERS_SHARED: u64 = 1 << 5;
pub const PARAM_FIELD_ESTIMATED_NUM_EPS: u64 = 1 << 6;
pub const PARAM_FIELD_ESTIMATED_NUM_PPN: u64 = 1 << 7;
pub const PARAM_FIELD_NAME: u64 = 1 << 8;

pub const FEATURE_TAG: u64 = 1 << 0;
pub const FEATURE_RMA: u64 = 1 << 1;
pub const FEATURE_WAKEUP: u64 = 1 << 4;
pub const FEATURE_AM: u64 = 1 << 6;

pub const WORKER_PARAM_FIELD_THREAD_MODE: u64 = 1 << 0;
pub const WORKER_PARAM_FIELD_EVENTS: u64 = 1 << 2;
pub const WORKER_PARAM_FIELD_FLAGS: u64 = 1 << 5;
pub const WORKER_PARAM_FIELD_NAME: u64 = 1 << 6;
pub const WORKER_FLAG_IGNORE_REQUEST_LEAK: u64 = 1 << 0;

pub const THREAD_MODE_SINGLE: u32 = 0;
pub const THREAD_MODE_SERIALIZED: u32 = 1;
pub const THREAD_MODE_MULTI: u32 = 2;

pub const WAKEUP_TX: u32 = 1 << 10;
pub const WAKEUP_RX: u32 = 1 << 11;

pub const WORKER_ATTR_FIELD_THREAD_MODE: u64 = 1 << 0;
pub const WORKER_ATTR_FIELD_ADDRESS: u64 = 1 << 1;
pub const WORKER_ATTR_FIELD_ADDRESS_FLAGS: u64 = 1 << 2;
pub const WORKER_ATTR_FIELD_MAX_AM_HEADER: u64 = 1 << 3;
pub const WORKER_ADDRESS_FLAG_NET_ONLY: u32 = 1 << 0;

pub const EP_PARAM_FIELD_REMOTE_ADDRESS: u64 = 1 << 0;
pub const EP_PARAM_FIELD_ERR_HANDLING_MODE: u64 = 1 << 1;
pub const EP_PARAM_FIELD_ERR_HANDLER: u64 = 1 << 2;
pub const EP_PARAM_FIELD_USER_DATA: u64 = 1 << 3;
pub const EP_PARAM_FIELD_NAME: u64 = 1 << 7;
pub const ERR_HANDLING_MODE_NONE: u32 = 0;
pub const ERR_HANDLING_MODE_PEER: u32 = 1;
pub const EP_CLOSE_FLAG_FORCE: u32 = 1 << 0;

pub const MEM_MAP_PARAM_FIELD_ADDRESS: u64 = 1 << 0;
pub const MEM_MAP_PARAM_FIELD_LENGTH: u64 = 1 << 1;
pub const MEM_MAP_PARAM_FIELD_FLAGS: u64 = 1 << 2;
pub const MEM_MAP_PARAM_FIELD_PROT: u64 = 1 << 3;
pub const MEM_MAP_PARAM_FIELD_MEMORY_TYPE: u64 = 1 << 4;
pub const MEM_MAP_NONBLOCK: u32 = 1 << 0;
pub const MEM_MAP_ALLOCATE: u32 = 1 << 1;

pub const MEMORY_TYPE_HOST: u32 = 0;
pub const MEMORY_TYPE_CUDA: u32 = 1;

pub const OP_ATTR_FIELD_REQUEST: u32 = 1 << 0;
pub const OP_ATTR_FIELD_CALLBACK: u32 = 1 << 1;
pub const OP_ATTR_FIELD_USER_DATA: u32 = 1 << 2;
pub const OP_ATTR_FIELD_DATATYPE: u32 = 1 << 3;
pub const OP_ATTR_FIELD_FLAGS: u32 = 1 << 4;
pub const OP_ATTR_FIELD_MEMORY_TYPE: u32 = 1 << 6;
pub const OP_ATTR_FIELD_RECV_INFO: u32 = 1 << 7;
pub const OP_ATTR_FIELD_MEMH: u32 = 1 << 8;
pub const OP_ATTR_FLAG_NO_IMM_CMPL: u32 = 1 << 16;
pub const OP_ATTR_FLAG_FAST_CMPL: u32 = 1 << 17;
pub const OP_ATTR_FLAG_FORCE_IMM_CMPL: u32 = 1 << 18;
pub const OP_ATTR_FLAG_MULTI_SEND: u32 = 1 << 19;

pub const AM_HANDLER_PARAM_FIELD_ID: u64 = 1 << 0;
pub const AM_HANDLER_PARAM_FIELD_FLAGS: u64 = 1 << 1;
pub const AM_HANDLER_PARAM_FIELD_CB: u64 = 1 << 2;
pub const AM_HANDLER_PARAM_FIELD_ARG: u64 = 1 << 3;
pub const AM_FLAG_WHOLE_MSG: u32 = 1 << 0;
pub const AM_FLAG_PERSISTENT_DATA: u32 = 1 << 1;
pub const AM_SEND_FLAG_REPLY: u32 = 1 << 0;
pub const AM_SEND_FLAG_EAGER: u32 = 1 << 1;
pub const AM_SEND_FLAG_RNDV: u32 = 1 << 2;
pub const AM_RECV_ATTR_FIELD_REPLY_EP: u64 = 1 << 0;
pub const AM_RECV_ATTR_FLAG_DATA: u64 = 1 << 16;
pub const AM_RECV_ATTR_FLAG_RNDV: u64 = 1 << 17;

/// `ucp_dt_make_contig(1)`: counts are bytes.
pub const DATATYPE_BYTES: u64 = 1 << 3;
/// `ucp_dt_make_iov()`: the buffer is a list of [`crate::types::Slice`], the count its length.
pub const DATATYPE_IOV: u64 = 2;
