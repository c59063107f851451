//! Registered memory, and calls that need no doing of the peer.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{null_mut, without_provenance_mut};

use crate::abi::convert::{answer, bad, data_type, not_null, rank_of, stream_of};
use crate::abi::types::{CommHandle, ResultNumber, StreamHandle, WaitDescription, WindowHandle};
use crate::abi::wall;
use crate::comm::registered::Registration;
use crate::comm::{Comm, handle};
use crate::engine::one_sided::{Awaited, CONTEXTS, OneSided, SIGNALS, Signal};
use crate::error::{Error, Result};
use crate::group;
use crate::op::Address;

/// All the flags of `ncclCommWindowRegister` that there are.
const FLAGS: c_int = 0x0f;

/// A buffer that can be registered: some memory.
fn buffer(call: &'static str, start: *mut c_void, bytes: usize) -> Result<Address> {
    if start.is_null() {
        return bad(call, "buff", "is NULL", "pass memory");
    }
    if bytes == 0 || start.addr().checked_add(bytes).is_none() || isize::try_from(bytes).is_err() {
        let problem = format_args!("is {bytes}");
        return bad(call, "size", problem, "pass the bytes of the buffer, at least one");
    }
    Ok(Address(start.expose_provenance()))
}

/// # Safety
/// `place` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommRegister(
    comm: CommHandle,
    start: *mut c_void,
    bytes: usize,
    place: *mut *mut c_void,
) -> ResultNumber {
    const CALL: &str = "ncclCommRegister";
    // SAFETY: passed on from this function's contract, here and below.
    let write = |handle| unsafe { answer::<*mut c_void>(CALL, "handle", place, handle) };
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            write(null_mut())?;
            buffer(CALL, start, bytes)?;
            write(without_provenance_mut(comm.register_buffer()?))
        })
    })
}

/// NULL, which other libraries give for what they do not register, is accepted.
#[unsafe(no_mangle)]
extern "C" fn pncclCommDeregister(comm: CommHandle, handle: *mut c_void) -> ResultNumber {
    const CALL: &str = "ncclCommDeregister";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            if handle.is_null() { Ok(()) } else { comm.deregister_buffer(handle.addr()) }
        })
    })
}

/// # Safety
/// `place` is NULL, or writable until this call or the outermost ncclGroupEnd has returned. The buffer is
/// readable and writable, by this rank and its peers, until it is deregistered or the communicator has ended.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclCommWindowRegister(
    comm: CommHandle,
    start: *mut c_void,
    bytes: usize,
    place: *mut WindowHandle,
    flags: c_int,
) -> ResultNumber {
    const CALL: &str = "ncclCommWindowRegister";
    wall::grouped(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            // SAFETY: passed on from this function's contract.
            unsafe { answer::<WindowHandle>(CALL, "win", place, null_mut()) }?;
            let address = buffer(CALL, start, bytes)?;
            if flags & !FLAGS != 0 {
                let problem = format_args!("is {flags:#x}");
                return bad(CALL, "winFlags", problem, "pass an or of NCCL_WIN_... flags");
            }
            let write = Box::new(move |handle| {
                // SAFETY: it is not NULL, since `answer` wrote there, and this function's contract still holds:
                // registrations end before the call, or the outermost ncclGroupEnd, returns.
                unsafe { place.write_unaligned(without_provenance_mut(handle)) }
            });
            group::register(Registration::new(CALL, comm, address, bytes, write)?)
        })
    })
}

/// NULL, which other libraries give for what they do not register, is accepted.
#[unsafe(no_mangle)]
extern "C" fn pncclCommWindowDeregister(comm: CommHandle, window: WindowHandle) -> ResultNumber {
    const CALL: &str = "ncclCommWindowDeregister";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            if window.is_null() { Ok(()) } else { comm.deregister_window(window.addr()) }
        })
    })
}

/// # Safety
/// `place` is NULL or writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclWinGetUserPtr(
    comm: CommHandle,
    window: WindowHandle,
    place: *mut *mut c_void,
) -> ResultNumber {
    const CALL: &str = "ncclWinGetUserPtr";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            not_null(CALL, "outUserPtr", place)?;
            let address = comm.window_address(window.addr())?;
            // SAFETY: passed on from this function's contract.
            unsafe { answer(CALL, "outUserPtr", place, std::ptr::with_exposed_provenance_mut(address.0)) }
        })
    })
}

/// The words of a call for a signal, checked.
fn signal(call: &'static str, comm: &Comm, peer: c_int, number: c_int, context: c_int) -> Result<Signal> {
    let peer = rank_of(call, "peer", peer, comm.ranks())?;
    let below = |argument, number: c_int, most: u32| match u32::try_from(number) {
        Ok(number) if number < most => Ok(number),
        _ => {
            let (problem, remedy) = (format_args!("is {number}"), format_args!("pass 0 to {}", most - 1));
            Err(Error::argument(call, argument, problem, remedy))
        }
    };
    let number = below("sigIdx", number, SIGNALS)?;
    Ok(Signal { peer, index: below("ctx", context, CONTEXTS)? * SIGNALS + number })
}

fn no_flags(call: &'static str, flags: c_uint) -> Result<()> {
    match flags {
        0 => Ok(()),
        _ => bad(call, "flags", format_args!("is {flags:#x}"), "pass 0, there are none yet"),
    }
}

/// # Safety
/// The source is readable, and written by nobody, until the operation is done. Everything else is checked.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclPutSignal(
    source: *const c_void,
    count: usize,
    data_type: c_int,
    peer: c_int,
    window: WindowHandle,
    offset: usize,
    number: c_int,
    context: c_int,
    flags: c_uint,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    const CALL: &str = "ncclPutSignal";
    wall::grouped(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            let data_type = self::data_type(CALL, data_type)?;
            let signal = signal(CALL, comm, peer, number, context)?;
            no_flags(CALL, flags)?;
            if source.is_null() && count > 0 {
                let problem = format_args!("is NULL, with a count of {count}");
                return bad(CALL, "localbuff", problem, "pass memory, or a count of 0");
            }
            let Some(bytes) = count.checked_mul(data_type.size_bytes()) else {
                let problem = format_args!("is {count}, more than memory holds");
                return bad(CALL, "count", problem, "pass the count in elements");
            };
            let put = comm.put(window.addr(), offset, Address(source.expose_provenance()), bytes, signal)?;
            group::submit_one_sided(CALL, comm, put, stream_of(CALL, stream)?)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn pncclSignal(
    peer: c_int,
    number: c_int,
    context: c_int,
    flags: c_uint,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    const CALL: &str = "ncclSignal";
    wall::grouped(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            let signal = signal(CALL, comm, peer, number, context)?;
            no_flags(CALL, flags)?;
            group::submit_one_sided(CALL, comm, OneSided::Signal(signal), stream_of(CALL, stream)?)
        })
    })
}

/// # Safety
/// `descriptions` is NULL, or readable for `count` of them during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclWaitSignal(
    count: c_int,
    descriptions: *const WaitDescription,
    comm: CommHandle,
    stream: StreamHandle,
) -> ResultNumber {
    const CALL: &str = "ncclWaitSignal";
    wall::grouped(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            let Ok(count @ 1..) = usize::try_from(count) else {
                return bad(
                    CALL,
                    "nDesc",
                    format_args!("is {count}"),
                    "pass how many descriptors, 1 or more",
                );
            };
            if descriptions.is_null() {
                return bad(CALL, "signalDescs", "is NULL", "pass as many descriptors as nDesc says");
            }
            let list = (0..count).map(|place| {
                // SAFETY: it is not NULL and `place` is below `count`, so by this function's contract a
                // description lies there; nothing is asked of its alignment.
                awaited(CALL, comm, unsafe { descriptions.add(place).read_unaligned() })
            });
            let wait = OneSided::Wait(list.collect::<Result<Vec<_>>>()?);
            group::submit_one_sided(CALL, comm, wait, stream_of(CALL, stream)?)
        })
    })
}

fn awaited(call: &'static str, comm: &Comm, description: WaitDescription) -> Result<Awaited> {
    let WaitDescription { count, peer, number, context } = description;
    let signal = signal(call, comm, peer, number, context)?;
    match u64::try_from(count) {
        Ok(count @ 1..) => Ok(Awaited { signal, count }),
        _ => bad(call, "signalDescs", format_args!("has an opCnt of {count}"), "wait for 1 signal or more"),
    }
}
