//! Operators that a program makes.

use std::ffi::{c_int, c_void};

use crate::abi::convert::{answer, bad, data_type, not_null};
use crate::abi::types::{CommHandle, ResultNumber};
use crate::abi::wall;
use crate::comm::handle;
use crate::error::Result;
use crate::op::{Address, DataType, Scalar};

/// `ncclScalarDevice`: where it lies, read when the operation runs.
const DEVICE: c_int = 0;
/// `ncclScalarHostImmediate`: read now.
const IMMEDIATE: c_int = 1;
/// `ncclNumOps`, the first number of a made operator.
const FIRST: c_int = 5;

/// # Safety
/// `operator` is NULL or writable; an immediate `scalar` is NULL or readable as one `data_type`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pncclRedOpCreatePreMulSum(
    operator: *mut c_int,
    scalar: *const c_void,
    data_type: c_int,
    residence: c_int,
    comm: CommHandle,
) -> ResultNumber {
    const CALL: &str = "ncclRedOpCreatePreMulSum";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            not_null(CALL, "op", operator)?;
            let data_type = self::data_type(CALL, data_type)?;
            // SAFETY: passed on from this function's contract.
            let scalar = unsafe { scalar_of(CALL, scalar, data_type, residence) }?;
            let number = comm.create_pre_mul_sum(data_type, scalar)?;
            // SAFETY: passed on from this function's contract.
            unsafe { answer(CALL, "op", operator, number) }
        })
    })
}

/// # Safety
/// If it is immediate, `scalar` is NULL or readable as one `data_type`.
unsafe fn scalar_of(
    call: &'static str,
    scalar: *const c_void,
    data_type: DataType,
    residence: c_int,
) -> Result<Scalar> {
    if scalar.is_null() {
        return bad(call, "scalar", "is NULL", "pass the address of one value of the type");
    }
    match residence {
        DEVICE => Ok(Scalar::At(Address(scalar.addr()))),
        IMMEDIATE => {
            let mut bytes = [0; 8];
            let size_bytes = data_type.size_bytes();
            // SAFETY: no type has more than 8 bytes, and by the contract so many are readable there.
            unsafe { std::ptr::copy_nonoverlapping(scalar.cast(), bytes.as_mut_ptr(), size_bytes) };
            Ok(Scalar::Immediate(bytes))
        }
        _ => bad(
            call,
            "residence",
            format_args!("is {residence}"),
            "pass ncclScalarDevice (0) or ncclScalarHostImmediate (1)",
        ),
    }
}

#[unsafe(no_mangle)]
extern "C" fn pncclRedOpDestroy(operator: c_int, comm: CommHandle) -> ResultNumber {
    const CALL: &str = "ncclRedOpDestroy";
    wall::plain(CALL, || {
        handle::with(CALL, comm.addr(), |comm| {
            if operator < FIRST {
                let problem = format_args!("is {operator}, which nobody made");
                return bad(CALL, "op", problem, "pass what ncclRedOpCreatePreMulSum made");
            }
            comm.destroy_operator(operator)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_now_or_later() {
        let value = 2.5_f64;
        let place = (&raw const value).cast();
        // SAFETY: `value` is one double.
        let read = |data_type, residence| unsafe { scalar_of("f", place, data_type, residence) };
        assert_eq!(read(DataType::Float64, IMMEDIATE), Ok(Scalar::Immediate(value.to_ne_bytes())));
        assert_eq!(read(DataType::Float64, DEVICE), Ok(Scalar::At(Address(place.addr()))));
        let Ok(Scalar::Immediate(bytes)) = read(DataType::Float16, IMMEDIATE) else {
            panic!("not immediate")
        };
        assert_eq!((&bytes[..2], &bytes[2..]), (&value.to_ne_bytes()[..2], &[0; 6][..]), "no byte too many");
        assert!(read(DataType::Int8, 2).unwrap_err().to_string().contains("residence is 2"));
        // SAFETY: NULL is allowed.
        assert!(unsafe { scalar_of("f", std::ptr::null(), DataType::Int8, IMMEDIATE) }.is_err());
    }
}
