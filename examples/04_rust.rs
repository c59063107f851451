//! From Rust, without C in between: two ranks, each on a thread of its own, average a vector.
//!
//! ```text
//! cargo run --release --example 04_rust
//! ```
//!
//! A call is an [`Op`]: which operation, of what, where it lies. With no stream, the call returns when its work
//! is done, so the vectors outlive it.

use std::thread;

use shoal::comm::{Comm, Options, UniqueId, unique_id};
use shoal::error::Result;
use shoal::group;
use shoal::op::{Address, DataType, Kind, Op, Reduction, Scalar, Shape};

const RANKS: u32 = 2;

fn average(rank: u32, id: &UniqueId) -> Result<Vec<f64>> {
    let comm = Comm::init_rank(RANKS, id, rank, Options::default())?;
    let mine: Vec<f64> = (0..4).map(|place| f64::from(rank * 100 + place)).collect();
    let mut mean = vec![0.0; mine.len()];
    let shape = Shape {
        kind: Kind::AllReduce,
        data_type: DataType::Float64,
        reduction: Reduction::Avg,
        peer: 0,
        count: mine.len(),
        in_place: false,
    };
    let op = Op {
        shape,
        source: Address(mine.as_ptr() as usize),
        target: Address(mean.as_mut_ptr() as usize),
        scalar: Scalar::None,
    };
    group::submit("the average", &comm, 0, &op, None)?;
    comm.destroy()?;
    Ok(mean)
}

fn main() -> Result<()> {
    let id = unique_id()?;
    let means = thread::scope(|scope| {
        let ranks: Vec<_> = (0..RANKS).map(|rank| scope.spawn(move || average(rank, &id))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect::<Result<Vec<_>>>()
    })?;
    for (rank, mean) in means.iter().enumerate() {
        println!("rank {rank} of {RANKS}: the mean is {mean:?}");
    }
    Ok(())
}
