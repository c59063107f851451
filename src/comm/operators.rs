//! The operators that RedOpCreatePreMulSum made on one communicator.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::op::{DataType, Reduction, Scalar};

/// The first number that is not built in.
const FIRST: i32 = 5;
/// How many may live at once on one communicator; the interface's numbers would end far later.
const COUNT_MAX: usize = 1 << 20;

/// Operators by number less [`FIRST`].
#[derive(Debug, Default)]
pub(super) struct Operators(Mutex<Vec<Option<(DataType, Scalar)>>>);

impl Operators {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<(DataType, Scalar)>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn create(&self, data_type: DataType, scalar: Scalar) -> Result<i32> {
        let mut list = self.lock();
        let place = list.iter().position(Option::is_none).unwrap_or(list.len());
        if place == COUNT_MAX {
            return Err(Error::usage(
                "ncclRedOpCreatePreMulSum",
                format_args!("{COUNT_MAX} operators live on this communicator already"),
                "destroy some with ncclRedOpDestroy",
            ));
        }
        if place == list.len() {
            list.push(None);
        }
        list[place] = Some((data_type, scalar));
        Ok(FIRST + place as i32)
    }

    pub(super) fn destroy(&self, operator: i32) -> Result<()> {
        if (0..FIRST).contains(&operator) {
            return Err(Error::argument(
                "ncclRedOpDestroy",
                "op",
                format_args!("{operator} is a built-in operator"),
                "destroy only what ncclRedOpCreatePreMulSum made",
            ));
        }
        let place = usize::try_from(i64::from(operator) - i64::from(FIRST)).ok();
        let mut list = self.lock();
        match place.and_then(|place| list.get_mut(place)).and_then(Option::take) {
            Some(_) => Ok(()),
            None => Err(unknown("ncclRedOpDestroy", operator)),
        }
    }

    pub(super) fn find(
        &self,
        call: &'static str,
        operator: i32,
        data_type: DataType,
    ) -> Result<(Reduction, Scalar)> {
        let place = usize::try_from(i64::from(operator) - i64::from(FIRST)).ok();
        let list = self.lock();
        let (made_for, scalar) = place
            .and_then(|place| list.get(place).copied().flatten())
            .ok_or_else(|| unknown(call, operator))?;
        if made_for != data_type {
            return Err(Error::argument(
                call,
                "op",
                format_args!(
                    "{operator} was made for {}, the call is of {}",
                    made_for.name(),
                    data_type.name()
                ),
                "make one operator per type",
            ));
        }
        Ok((Reduction::PreMulSum, scalar))
    }
}

fn unknown(call: &'static str, operator: i32) -> Error {
    Error::argument(
        call,
        "op",
        format_args!("{operator} is no operator of this communicator"),
        "use ncclSum to ncclAvg, or what ncclRedOpCreatePreMulSum made on it and ncclRedOpDestroy did not end",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_live_from_create_to_destroy() {
        let operators = Operators::default();
        let scalar = Scalar::Immediate([1; 8]);
        let first = operators.create(DataType::Float32, scalar).unwrap();
        let second = operators.create(DataType::Int8, scalar).unwrap();
        assert_eq!((first, second), (5, 6));
        assert_eq!(operators.find("f", first, DataType::Float32).unwrap(), (Reduction::PreMulSum, scalar));
        assert!(operators.find("f", first, DataType::Int8).unwrap_err().to_string().contains("float"));
        operators.destroy(first).unwrap();
        assert!(operators.find("f", first, DataType::Float32).is_err());
        assert!(operators.destroy(first).is_err());
        assert!(operators.destroy(3).unwrap_err().to_string().contains("built-in"));
        assert!(operators.destroy(-1).is_err() && operators.find("f", i32::MIN, DataType::Int8).is_err());
        assert_eq!(operators.create(DataType::Int8, scalar).unwrap(), first);
    }
}
