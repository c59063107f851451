//! C's arguments into our words, each with its own complaint. The checks are inline, the complaints are not.

use std::ffi::c_int;
use std::fmt::Display;

use crate::abi::types::StreamHandle;
use crate::engine::stream::{self, StreamRef};
use crate::error::{Error, Result};
use crate::op::DataType;

/// A bad argument, out of line.
#[cold]
#[inline(never)]
pub(super) fn bad<T>(
    call: &'static str,
    argument: &'static str,
    problem: impl Display,
    remedy: &'static str,
) -> Result<T> {
    Err(Error::argument(call, argument, problem, remedy))
}

/// Refuses NULL.
#[inline]
pub(super) fn not_null<T>(call: &'static str, argument: &'static str, pointer: *const T) -> Result<()> {
    if pointer.is_null() {
        return bad(call, argument, "is NULL", "pass the address of a variable that takes the answer");
    }
    Ok(())
}

/// Writes the answer of a call.
///
/// # Safety
/// `pointer` is NULL, or writable as a `T`.
#[inline]
pub(super) unsafe fn answer<T>(
    call: &'static str,
    argument: &'static str,
    pointer: *mut T,
    value: T,
) -> Result<()> {
    not_null(call, argument, pointer)?;
    // SAFETY: it is not NULL, so by the contract of this function it is writable; nothing is asked of its
    // alignment, and what was there needs no drop since C put it there.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// An element type.
#[inline]
pub(super) fn data_type(call: &'static str, number: c_int) -> Result<DataType> {
    match usize::try_from(number).ok().and_then(|index| DataType::ALL.get(index)) {
        Some(data_type) => Ok(*data_type),
        None => no_such_type(call, number),
    }
}

#[cold]
#[inline(never)]
fn no_such_type(call: &'static str, number: c_int) -> Result<DataType> {
    let problem = format_args!("is {number}");
    bad(call, "datatype", problem, "pass a ncclDataType_t from ncclInt8 (0) to ncclFloat8e5m2 (11)")
}

/// A rank of a communicator.
#[inline]
pub(super) fn rank_of(call: &'static str, argument: &'static str, number: c_int, ranks: u32) -> Result<u32> {
    match u32::try_from(number) {
        Ok(rank) if rank < ranks => Ok(rank),
        _ => no_such_rank(call, argument, number, ranks),
    }
}

#[cold]
#[inline(never)]
fn no_such_rank(call: &'static str, argument: &'static str, number: c_int, ranks: u32) -> Result<u32> {
    bad(
        call,
        argument,
        format_args!("is {number}, and the communicator has {ranks} ranks"),
        "pass a rank from 0 to one less than there are",
    )
}

/// A stream; NULL is the stream whose work is done when the call returns.
#[inline]
pub(super) fn stream_of(call: &'static str, handle: StreamHandle) -> Result<StreamRef> {
    if handle.is_null() {
        return Ok(None);
    }
    stream::resolve(call, handle.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_the_interfaces_numbers() {
        for (number, data_type) in DataType::ALL.into_iter().enumerate() {
            assert_eq!(super::data_type("f", number as c_int), Ok(data_type));
            assert_eq!(data_type as usize, number);
        }
        for number in [-1, 12, 13, c_int::MIN, c_int::MAX] {
            assert!(data_type("f", number).unwrap_err().to_string().contains(&format!("is {number}")));
        }
    }

    #[test]
    fn ranks_are_in_range() {
        assert_eq!(rank_of("f", "root", 3, 4), Ok(3));
        for number in [-1, 4, c_int::MIN, c_int::MAX] {
            assert!(rank_of("f", "root", number, 4).is_err());
        }
    }

    #[test]
    fn answers_need_a_place() {
        let mut place = 0;
        // SAFETY: it is a local variable.
        assert_eq!(unsafe { answer("f", "x", &raw mut place, 5) }, Ok(()));
        assert_eq!(place, 5);
        // SAFETY: NULL is allowed.
        let error = unsafe { answer("f", "x", std::ptr::null_mut(), 5) }.unwrap_err();
        assert!(error.to_string().starts_with("f: x is NULL; "));
    }
}
