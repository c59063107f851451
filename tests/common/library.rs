//! The library as a C program calls it: its exported functions, with errors in words.

use std::ffi::{CStr, c_char, c_int, c_void};

use shoal::op::{Kind, Op, Reduction, Scalar};

use super::memory::Pool;

/// `ncclUniqueId`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

/// `ncclComm_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Comm(*mut c_void);

// SAFETY: a handle is a number to the library, which takes it from any thread.
unsafe impl Send for Comm {}

/// `shoalStream_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stream(*mut c_void);

// SAFETY: as above.
unsafe impl Send for Stream {}

impl Stream {
    pub const NULL: Stream = Stream(std::ptr::null_mut());
}

type Data = *const c_void;
type Target = *mut c_void;

unsafe extern "C" {
    fn pncclGetUniqueId(id: *mut UniqueId) -> c_int;
    fn pncclGetLastError(comm: Comm) -> *const c_char;
    fn pncclCommInitRank(comm: *mut Comm, ranks: c_int, id: UniqueId, rank: c_int) -> c_int;
    fn pncclCommFinalize(comm: Comm) -> c_int;
    fn pncclCommDestroy(comm: Comm) -> c_int;
    fn pncclCommAbort(comm: Comm) -> c_int;
    fn pncclGroupStart() -> c_int;
    fn pncclGroupEnd() -> c_int;
    fn pncclMemAlloc(place: *mut *mut c_void, bytes: usize) -> c_int;
    fn pncclMemFree(memory: *mut c_void) -> c_int;
    fn pncclRedOpCreatePreMulSum(
        operator: *mut c_int,
        scalar: Data,
        data_type: c_int,
        residence: c_int,
        comm: Comm,
    ) -> c_int;
    fn pncclRedOpDestroy(operator: c_int, comm: Comm) -> c_int;
    fn pncclAllReduce(s: Data, t: Target, n: usize, of: c_int, by: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclReduce(
        s: Data,
        t: Target,
        n: usize,
        of: c_int,
        by: c_int,
        root: c_int,
        c: Comm,
        on: Stream,
    ) -> c_int;
    fn pncclReduceScatter(s: Data, t: Target, n: usize, of: c_int, by: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclBroadcast(s: Data, t: Target, n: usize, of: c_int, root: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclAllGather(s: Data, t: Target, n: usize, of: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclAlltoAll(s: Data, t: Target, n: usize, of: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclGather(s: Data, t: Target, n: usize, of: c_int, root: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclScatter(s: Data, t: Target, n: usize, of: c_int, root: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclSend(s: Data, n: usize, of: c_int, peer: c_int, c: Comm, on: Stream) -> c_int;
    fn pncclRecv(t: Target, n: usize, of: c_int, peer: c_int, c: Comm, on: Stream) -> c_int;
    fn shoalStreamCreate(place: *mut Stream) -> c_int;
    fn shoalStreamSynchronize(stream: Stream) -> c_int;
    fn shoalStreamQuery(stream: Stream) -> c_int;
    fn shoalStreamDestroy(stream: Stream) -> c_int;
}

const IN_PROGRESS: c_int = 7;

fn verdict(call: &str, result: c_int) -> Result<(), String> {
    if result == 0 {
        return Ok(());
    }
    // SAFETY: the text is never NULL, and valid until the next error of this thread.
    let text = unsafe { CStr::from_ptr(pncclGetLastError(Comm(std::ptr::null_mut()))) };
    Err(format!("{call} returned {result}: {}", text.to_string_lossy()))
}

pub fn unique_id() -> Result<UniqueId, String> {
    let mut id = UniqueId([0; 128]);
    // SAFETY: `id` is writable.
    verdict("ncclGetUniqueId", unsafe { pncclGetUniqueId(&mut id) })?;
    Ok(id)
}

impl Comm {
    /// A handle to be filled by [`Self::init`].
    pub const NULL: Comm = Comm(std::ptr::null_mut());

    /// Becomes a rank of a new communicator; inside a group the handle is there at its end.
    ///
    /// # Safety
    /// The place stays where it is until the group's end.
    pub unsafe fn init(&mut self, ranks: u32, id: UniqueId, rank: u32) -> Result<(), String> {
        // SAFETY: the caller's promise.
        let result = unsafe { pncclCommInitRank(self, ranks as c_int, id, rank as c_int) };
        verdict("ncclCommInitRank", result)
    }

    pub fn finalize(self) -> Result<(), String> {
        // SAFETY: handles are checked by the library.
        verdict("ncclCommFinalize", unsafe { pncclCommFinalize(self) })
    }

    pub fn destroy(self) -> Result<(), String> {
        // SAFETY: as above.
        verdict("ncclCommDestroy", unsafe { pncclCommDestroy(self) })
    }

    pub fn abort(self) -> Result<(), String> {
        // SAFETY: as above.
        verdict("ncclCommAbort", unsafe { pncclCommAbort(self) })
    }

    /// The number of the operator of `op`; made for it if it is a PreMulSum.
    ///
    /// # Safety
    /// A scalar in memory stays there until the operation ran.
    pub unsafe fn operator(self, op: &Op) -> Result<c_int, String> {
        let (scalar, residence) = match &op.scalar {
            Scalar::None => return Ok(op.shape.reduction as c_int),
            Scalar::Immediate(bytes) => (bytes.as_ptr().cast(), 1),
            Scalar::At(place) => (std::ptr::with_exposed_provenance(place.0), 0),
        };
        let mut operator = 0;
        // SAFETY: the scalar is readable, now or until the operation ran.
        let result = unsafe {
            pncclRedOpCreatePreMulSum(&mut operator, scalar, op.shape.data_type as c_int, residence, self)
        };
        verdict("ncclRedOpCreatePreMulSum", result)?;
        Ok(operator)
    }

    /// Forgets an operator, if it was made.
    pub fn destroy_operator(self, operator: c_int) -> Result<(), String> {
        if operator <= Reduction::Avg as c_int {
            return Ok(());
        }
        // SAFETY: numbers and handles are checked by the library.
        verdict("ncclRedOpDestroy", unsafe { pncclRedOpDestroy(operator, self) })
    }

    /// Makes the call of `op`.
    ///
    /// # Safety
    /// The memory of `op` is as its kind demands, until the operation is done.
    pub unsafe fn call(self, op: &Op, by: c_int, on: Stream) -> Result<(), String> {
        let s: Data = std::ptr::with_exposed_provenance(op.source.0);
        let t: Target = std::ptr::with_exposed_provenance_mut(op.target.0);
        let (n, of, peer) = (op.shape.count, op.shape.data_type as c_int, op.shape.peer as c_int);
        // SAFETY: the caller's promise.
        let result = unsafe {
            match op.shape.kind {
                Kind::AllReduce => pncclAllReduce(s, t, n, of, by, self, on),
                Kind::Reduce => pncclReduce(s, t, n, of, by, peer, self, on),
                Kind::Broadcast => pncclBroadcast(s, t, n, of, peer, self, on),
                Kind::AllGather => pncclAllGather(s, t, n, of, self, on),
                Kind::ReduceScatter => pncclReduceScatter(s, t, n, of, by, self, on),
                Kind::AlltoAll => pncclAlltoAll(s, t, n, of, self, on),
                Kind::Gather => pncclGather(s, t, n, of, peer, self, on),
                Kind::Scatter => pncclScatter(s, t, n, of, peer, self, on),
                Kind::Send => pncclSend(s, n, of, peer, self, on),
                Kind::Recv => pncclRecv(t, n, of, peer, self, on),
            }
        };
        verdict(op.shape.kind.name(), result)
    }
}

pub fn group_start() -> Result<(), String> {
    // SAFETY: it has no precondition.
    verdict("ncclGroupStart", unsafe { pncclGroupStart() })
}

pub fn group_end() -> Result<(), String> {
    // SAFETY: it has no precondition of its own.
    verdict("ncclGroupEnd", unsafe { pncclGroupEnd() })
}

impl Stream {
    pub fn create() -> Result<Stream, String> {
        let mut stream = Stream::NULL;
        // SAFETY: the place is writable.
        verdict("shoalStreamCreate", unsafe { shoalStreamCreate(&mut stream) })?;
        Ok(stream)
    }

    pub fn synchronize(self) -> Result<(), String> {
        // SAFETY: handles are checked by the library.
        verdict("shoalStreamSynchronize", unsafe { shoalStreamSynchronize(self) })
    }

    pub fn is_done(self) -> Result<bool, String> {
        // SAFETY: as above.
        match unsafe { shoalStreamQuery(self) } {
            IN_PROGRESS => Ok(false),
            result => verdict("shoalStreamQuery", result).map(|()| true),
        }
    }

    pub fn destroy(self) -> Result<(), String> {
        // SAFETY: as above.
        verdict("shoalStreamDestroy", unsafe { shoalStreamDestroy(self) })
    }
}

/// Memory of `ncclMemAlloc`.
pub const MAPPED: Pool = Pool { take: take_mapped, give: give_mapped };

fn take_mapped(bytes: usize) -> *mut u8 {
    let mut place = std::ptr::null_mut();
    // SAFETY: the place is writable.
    let result = unsafe { pncclMemAlloc(&mut place, bytes) };
    verdict("ncclMemAlloc", result).expect("memory");
    place.cast()
}

unsafe fn give_mapped(pointer: *mut u8, _bytes: usize) {
    // SAFETY: the caller gives back what it took.
    verdict("ncclMemFree", unsafe { pncclMemFree(pointer.cast()) }).expect("it was taken");
}
