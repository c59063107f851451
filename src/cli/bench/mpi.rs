//! MPI as a contender: the same loop and buffers, over the MPI that this program was built with.
//!
//! Each operation is the call that MPI has for it, at its honest best: non-blocking calls and one wait where
//! several messages travel together.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use mpi::ffi;

use super::contender::{Call, Contender, Request};
use super::operation::{Operation, WINDOW};
use super::pattern::Action;
use crate::cli::Failure;
use crate::cli::machine::Memory;
use crate::op::{DataType, Reduction};

const TAG: c_int = 0;

/// MPI_COMM_WORLD of this process.
pub(super) struct World {
    comm: ffi::MPI_Comm,
    requests: Vec<ffi::MPI_Request>,
    /// What stands for "my data are in the target already"; MPI libraries differ in the pointer.
    in_place: *const c_void,
    version: String,
    token: Memory,
}

impl World {
    /// Starts MPI; the launcher's rank must be MPI's.
    pub(super) fn join(rank: usize, ranks: usize) -> Result<World, Failure> {
        // SAFETY: called once in a process, on the only thread that will call MPI; null arguments are
        // allowed since MPI 2.
        check("MPI_Init", unsafe { ffi::MPI_Init(null_mut(), null_mut()) })?;
        // SAFETY: MPI was just started, so that its constants are set.
        let comm = unsafe { ffi::RSMPI_COMM_WORLD };
        let (mut mpi_rank, mut mpi_ranks) = (0, 0);
        // SAFETY: MPI writes one int each.
        unsafe {
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(comm, &raw mut mpi_rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(comm, &raw mut mpi_ranks))?;
        }
        if (mpi_rank as usize, mpi_ranks as usize) != (rank, ranks) {
            return Err(Failure(format!(
                "the launcher says rank {rank} of {ranks}, and MPI says {mpi_rank} of {mpi_ranks}: \
                 this program was built with another MPI than the launcher's"
            )));
        }
        let version = library_version()?;
        let in_place = if version.starts_with("Open MPI") { 1_usize } else { usize::MAX };
        let token = Memory::heap(64);
        Ok(World { comm, requests: Vec::new(), in_place: in_place as *const c_void, version, token })
    }

    /// Rank 0's bytes, on every rank.
    pub(super) fn share_id(&self, mut bytes: [u8; 128]) -> Result<[u8; 128], Failure> {
        let (place, count) = (bytes.as_mut_ptr().cast(), int(bytes.len())?);
        // SAFETY: MPI was started; it writes at most `count` bytes to the array, which lives during the call.
        let code = unsafe { ffi::MPI_Bcast(place, count, ffi::RSMPI_UINT8_T, 0, self.comm) };
        check("MPI_Bcast", code)?;
        Ok(bytes)
    }

    fn collective(&self, call: &Call<'_>) -> Result<(), Failure> {
        let request = *call.request();
        let Request { operation, rank, .. } = request;
        let (element, count, root) =
            (element_of(request.data_type)?, int(request.count)?, int(request.root)?);
        let (comm, same) = (self.comm, call.is_in_place());
        let source = call.source().cast::<c_void>();
        let target = call.target().cast::<c_void>();
        // In place, the rank whose data lie in the target already says so; elsewhere a root alone does.
        let input = if same { self.in_place } else { source };
        let at_root = rank == request.root;
        // SAFETY: the call vouches that both places hold what the operation reads and writes; blocking calls
        // are done with them when they return. MPI ignores the side that a rank does not need.
        let code = unsafe {
            match operation {
                Operation::AllReduce => {
                    ffi::MPI_Allreduce(input, target, count, element, operator_of(request.reduction)?, comm)
                }
                Operation::Reduce => {
                    let input = if same && at_root { self.in_place } else { source };
                    ffi::MPI_Reduce(
                        input,
                        target,
                        count,
                        element,
                        operator_of(request.reduction)?,
                        root,
                        comm,
                    )
                }
                Operation::Broadcast => self.broadcast(call, count, element, root),
                Operation::AllGather => {
                    ffi::MPI_Allgather(input, count, element, target, count, element, comm)
                }
                Operation::ReduceScatter => {
                    let operator = operator_of(request.reduction)?;
                    ffi::MPI_Reduce_scatter_block(source, target, count, element, operator, comm)
                }
                Operation::AllToAll => ffi::MPI_Alltoall(input, count, element, target, count, element, comm),
                Operation::Gather => {
                    ffi::MPI_Gather(input, count, element, target, count, element, root, comm)
                }
                Operation::Scatter => {
                    let output = if same { self.in_place.cast_mut() } else { target };
                    ffi::MPI_Scatter(source, count, element, output, count, element, root, comm)
                }
                Operation::Barrier => ffi::MPI_Barrier(comm),
                _ => return Err(Failure(format!("no collective {}", operation.name()))),
            }
        };
        check(operation.name(), code)
    }

    /// MPI broadcasts from and into one buffer; out of place the root copies its own data, as NCCL's does.
    ///
    /// # Safety
    /// As the collective's: the call vouches for its places.
    unsafe fn broadcast(
        &self,
        call: &Call<'_>,
        count: c_int,
        element: ffi::MPI_Datatype,
        root: c_int,
    ) -> c_int {
        let request = call.request();
        let (source, target) = (call.source(), call.target());
        if request.rank == request.root && !call.is_in_place() {
            // SAFETY: both places hold the message, and they do not overlap out of place.
            unsafe { std::ptr::copy_nonoverlapping(source, target, request.bytes()) };
        }
        // SAFETY: the target holds the message on every rank.
        unsafe { ffi::MPI_Bcast(target.cast(), count, element, root, self.comm) }
    }

    fn start_send(&mut self, place: *const u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        // SAFETY: MPI was started.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        let (bytes, peer, comm) = (int(bytes)?, int(peer)?, self.comm);
        // SAFETY: the place lies in the call's memory, which outlives `wait_for_all`.
        let code = unsafe {
            ffi::MPI_Isend(place.cast(), bytes, ffi::RSMPI_UINT8_T, peer, TAG, comm, &raw mut request)
        };
        self.requests.push(request);
        check("MPI_Isend", code)
    }

    fn start_receive(&mut self, place: *mut u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        // SAFETY: MPI was started.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        let (bytes, peer, comm) = (int(bytes)?, int(peer)?, self.comm);
        // SAFETY: as in `start_send`.
        let code = unsafe {
            ffi::MPI_Irecv(place.cast(), bytes, ffi::RSMPI_UINT8_T, peer, TAG, comm, &raw mut request)
        };
        self.requests.push(request);
        check("MPI_Irecv", code)
    }

    fn wait_for_all(&mut self) -> Result<(), Failure> {
        let count = int(self.requests.len())?;
        // SAFETY: the requests were started and not waited for; statuses are not wanted.
        let code = unsafe { ffi::MPI_Waitall(count, self.requests.as_mut_ptr(), ffi::RSMPI_STATUSES_IGNORE) };
        self.requests.clear();
        check("MPI_Waitall", code)
    }

    fn send(&self, place: *const u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        let (bytes, peer) = (int(bytes)?, int(peer)?);
        // SAFETY: the place lies in memory that outlives the blocking call.
        let code = unsafe { ffi::MPI_Send(place.cast(), bytes, ffi::RSMPI_UINT8_T, peer, TAG, self.comm) };
        check("MPI_Send", code)
    }

    fn receive(&self, place: *mut u8, bytes: usize, peer: usize) -> Result<(), Failure> {
        let (bytes, peer) = (int(bytes)?, int(peer)?);
        // SAFETY: as in `send`; the status is not wanted.
        let code = unsafe {
            let ignore = ffi::RSMPI_STATUS_IGNORE;
            ffi::MPI_Recv(place.cast(), bytes, ffi::RSMPI_UINT8_T, peer, TAG, self.comm, ignore)
        };
        check("MPI_Recv", code)
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

    /// Does what a pattern says: in a group non-blocking calls and one wait, outside blocking ones. Gathering
    /// has no message of its own to wait for, so it is MPI's blocking call everywhere.
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
                    let place = call.source().wrapping_add(offset);
                    if grouped {
                        self.start_send(place, bytes, peer)
                    } else {
                        self.send(place, bytes, peer)
                    }?;
                }
                Action::Receive { peer, offset, bytes, .. } => {
                    let place = call.target().wrapping_add(offset);
                    if grouped {
                        self.start_receive(place, bytes, peer)
                    } else {
                        self.receive(place, bytes, peer)
                    }?;
                }
                Action::AllGather { source, target, bytes } => {
                    let (from, to) = (call.source().wrapping_add(source), call.target().wrapping_add(target));
                    let count = int(bytes)?;
                    // SAFETY: the call vouches for both places, and its actions' ranges lie inside them.
                    let code = unsafe {
                        let element = ffi::RSMPI_UINT8_T;
                        ffi::MPI_Allgather(from.cast(), count, element, to.cast(), count, element, self.comm)
                    };
                    check("MPI_Allgather", code)?;
                }
            }
        }
        Ok(())
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
}

impl Contender for World {
    fn describe(&self) -> String {
        self.version.clone()
    }

    fn supports(&self, request: &Request, in_place: bool) -> Result<(), Failure> {
        if request.operation.reduces() {
            operator_of(request.reduction)?;
        }
        if request.operation == Operation::ReduceScatter && in_place {
            // MPI leaves the result at the start of the buffer, NCCL at the rank's own slice.
            return Err(Failure("MPI's in-place form is another one".into()));
        }
        if request.operation == Operation::Barrier {
            return Ok(());
        }
        element_of(request.data_type)?;
        int(request.bytes() * request.messages).map(|_| ())
    }

    #[inline]
    fn run(&mut self, call: &Call<'_>) -> Result<(), Failure> {
        match call.request().operation {
            Operation::SendRecv => self.send_receive(call),
            Operation::Exchange | Operation::Packed => self.exchange(call),
            Operation::Rate => self.rate(call),
            operation if operation.is_pattern() => self.perform(call),
            _ => self.collective(call),
        }
    }

    fn allocate(&self, _bytes: usize) -> Result<Memory, Failure> {
        Err(Failure("MPI is measured on ordinary memory; use --memory heap".into()))
    }

    fn touch(&mut self) {
        let mut rank = 0;
        // SAFETY: MPI writes one int.
        unsafe { ffi::MPI_Comm_rank(self.comm, &raw mut rank) };
        std::hint::black_box(rank);
    }

    fn finish(self) -> Result<(), Failure> {
        // SAFETY: MPI was started, and `self` was the only way to call it.
        check("MPI_Finalize", unsafe { ffi::MPI_Finalize() })
    }
}

/// The first line's words up to the version, for example `Open MPI v4.1.4` or `MPICH 4.0.2`.
fn library_version() -> Result<String, Failure> {
    let mut text = vec![0_u8; 16 * 1024];
    let mut length = 0;
    // SAFETY: both libraries write at most MPI_MAX_LIBRARY_VERSION_STRING bytes, at most 8192.
    let code = unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast(), &raw mut length) };
    check("MPI_Get_library_version", code)?;
    let text = String::from_utf8_lossy(&text[..length.max(0) as usize]).replace(['\t', '\0'], " ");
    let first = text.lines().next().unwrap_or("MPI").split(',').next().unwrap_or("MPI");
    Ok(first.replace("Version:", "").split_whitespace().collect::<Vec<_>>().join(" "))
}

#[inline]
fn check(call: &str, code: c_int) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure(format!("{call} returned {code}"))) }
}

fn int(number: usize) -> Result<c_int, Failure> {
    c_int::try_from(number).map_err(|_| Failure(format!("MPI counts to 2^31, not to {number}")))
}

fn element_of(data_type: DataType) -> Result<ffi::MPI_Datatype, Failure> {
    // SAFETY: the constants are set once MPI is linked.
    unsafe {
        Ok(match data_type {
            DataType::Int8 => ffi::RSMPI_INT8_T,
            DataType::Uint8 => ffi::RSMPI_UINT8_T,
            DataType::Int32 => ffi::RSMPI_INT32_T,
            DataType::Uint32 => ffi::RSMPI_UINT32_T,
            DataType::Int64 => ffi::RSMPI_INT64_T,
            DataType::Uint64 => ffi::RSMPI_UINT64_T,
            DataType::Float32 => ffi::RSMPI_FLOAT,
            DataType::Float64 => ffi::RSMPI_DOUBLE,
            other => return Err(Failure(format!("MPI has no type {}", other.name()))),
        })
    }
}

fn operator_of(reduction: Reduction) -> Result<ffi::MPI_Op, Failure> {
    // SAFETY: as in `element_of`.
    unsafe {
        Ok(match reduction {
            Reduction::Sum => ffi::RSMPI_SUM,
            Reduction::Prod => ffi::RSMPI_PROD,
            Reduction::Max => ffi::RSMPI_MAX,
            Reduction::Min => ffi::RSMPI_MIN,
            other => return Err(Failure(format!("MPI has no reduction {}", other.name()))),
        })
    }
}
