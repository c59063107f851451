//! What can be measured: its buffers, its sizes, and how a time becomes a bandwidth.
#![forbid(unsafe_code)]

use clap::ValueEnum;

/// Messages in flight of the rate measurement.
pub const WINDOW: usize = 64;

/// A measured operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Operation {
    /// Everyone gets the reduction of everyone's data.
    AllReduce,
    /// The root gets the reduction of everyone's data.
    Reduce,
    /// Everyone gets the root's data.
    Broadcast,
    /// Everyone gets everyone's data.
    AllGather,
    /// Each rank gets its slice of the reduction.
    ReduceScatter,
    /// Each rank sends slice i to rank i.
    AllToAll,
    /// The root gets everyone's data.
    Gather,
    /// Each rank gets its slice of the root's data.
    Scatter,
    /// 2 ranks: half a ping-pong, the one-way latency; more: everyone to its right neighbour.
    SendRecv,
    /// -m messages to each peer, both ways, in one group.
    Exchange,
    /// The same bytes as exchange, packed by hand into one message a peer.
    Packed,
    /// 64 messages one way from even to odd ranks, then an answer; the time of one message.
    Rate,
    /// Nobody leaves before all came; NCCL has none, so a reduction of one element.
    Barrier,
    /// A pipeline's stage boundary: three messages forward, two back, in one group; the size is the data's.
    Neox,
    /// The same messages as lone calls in the framework's order.
    NeoxLone,
    /// Data and mask alone, in one group: what neox adds to.
    NeoxBulk,
    /// A layer of experts: sizes, dispatch, combine; -m experts a rank, the size is what goes to each peer.
    Moe,
    /// Parameters gathered layer by layer: hundreds of small allgathers among large ones of the size.
    Zero3,
    /// -m allgathers in one group; the size is what each rank gives to each.
    Gathers,
}

impl Operation {
    /// What `all` means: the operations of nccl-tests.
    pub const ALL: [Operation; 9] = [
        Operation::AllReduce,
        Operation::Reduce,
        Operation::Broadcast,
        Operation::AllGather,
        Operation::ReduceScatter,
        Operation::AllToAll,
        Operation::Gather,
        Operation::Scatter,
        Operation::SendRecv,
    ];

    /// The name on the command line and in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Operation::AllReduce => "allreduce",
            Operation::Reduce => "reduce",
            Operation::Broadcast => "broadcast",
            Operation::AllGather => "allgather",
            Operation::ReduceScatter => "reducescatter",
            Operation::AllToAll => "alltoall",
            Operation::Gather => "gather",
            Operation::Scatter => "scatter",
            Operation::SendRecv => "sendrecv",
            Operation::Exchange => "exchange",
            Operation::Packed => "packed",
            Operation::Rate => "rate",
            Operation::Barrier => "barrier",
            Operation::Neox => "neox",
            Operation::NeoxLone => "neoxlone",
            Operation::NeoxBulk => "neoxbulk",
            Operation::Moe => "moe",
            Operation::Zero3 => "zero3",
            Operation::Gathers => "gathers",
        }
    }

    /// Whether values are combined.
    #[must_use]
    pub const fn reduces(self) -> bool {
        matches!(self, Operation::AllReduce | Operation::Reduce | Operation::ReduceScatter)
    }

    /// Whether a root is named.
    #[must_use]
    pub const fn has_root(self) -> bool {
        matches!(self, Operation::Reduce | Operation::Broadcast | Operation::Gather | Operation::Scatter)
    }

    /// Whether it is what a framework does in one step: a list of actions on bytes (see `pattern`).
    #[must_use]
    pub const fn is_pattern(self) -> bool {
        matches!(
            self,
            Operation::Neox
                | Operation::NeoxLone
                | Operation::NeoxBulk
                | Operation::Moe
                | Operation::Zero3
                | Operation::Gathers
        )
    }

    /// Whether it is a pipeline's stage boundary.
    #[must_use]
    pub const fn is_boundary(self) -> bool {
        matches!(self, Operation::Neox | Operation::NeoxLone | Operation::NeoxBulk)
    }

    /// Whether the interface defines it in place.
    #[must_use]
    pub const fn has_in_place(self) -> bool {
        !self.is_pattern()
            && !matches!(
                self,
                Operation::AllToAll
                    | Operation::SendRecv
                    | Operation::Exchange
                    | Operation::Packed
                    | Operation::Rate
                    | Operation::Barrier
            )
    }

    /// Whether the size is the whole buffer of all ranks, of which each call names one rank's share.
    #[must_use]
    pub const fn divides_size(self) -> bool {
        matches!(
            self,
            Operation::AllGather
                | Operation::ReduceScatter
                | Operation::AllToAll
                | Operation::Gather
                | Operation::Scatter
        )
    }

    /// How many elements a call names for `size_bytes`, at least one.
    #[must_use]
    pub const fn count(self, size_bytes: usize, element_bytes: usize, ranks: usize) -> usize {
        let share = match self {
            Operation::Barrier => 1,
            _ if self.divides_size() => size_bytes / ranks / element_bytes,
            _ => size_bytes / element_bytes,
        };
        if share == 0 { 1 } else { share }
    }

    /// The size that `count` elements make: `count`'s inverse, as it is printed.
    #[must_use]
    pub const fn size_bytes(self, count: usize, element_bytes: usize, ranks: usize) -> usize {
        if self.divides_size() { count * element_bytes * ranks } else { count * element_bytes }
    }

    /// How many elements a rank reads, and how many it writes.
    #[must_use]
    pub const fn elements(self, count: usize, ranks: usize, messages: usize) -> (usize, usize) {
        match self {
            Operation::AllGather | Operation::Gather => (count, count * ranks),
            Operation::ReduceScatter | Operation::Scatter => (count * ranks, count),
            Operation::AllToAll => (count * ranks, count * ranks),
            Operation::Exchange | Operation::Packed => (count * ranks * messages, count * ranks * messages),
            Operation::Rate => (count * WINDOW, count * WINDOW),
            _ => (count, count),
        }
    }

    /// How many timed steps one call of the loop makes: a ping-pong two, a window one a message.
    #[must_use]
    pub const fn steps(self, ranks: usize) -> usize {
        match self {
            Operation::SendRecv if ranks == 2 => 2,
            Operation::Rate => WINDOW,
            _ => 1,
        }
    }

    /// What a call moves, for the algorithm bandwidth.
    #[must_use]
    pub const fn moved_bytes(self, size_bytes: usize, ranks: usize, messages: usize) -> usize {
        match self {
            Operation::Exchange | Operation::Packed => size_bytes * messages * ranks.saturating_sub(1),
            Operation::Barrier => 0,
            _ => size_bytes,
        }
    }

    /// Bus bandwidth over algorithm bandwidth, as nccl-tests defines it: what makes the figure comparable
    /// to the hardware's, whatever the number of ranks.
    #[must_use]
    pub fn bus_factor(self, ranks: usize) -> f64 {
        let ranks = ranks as f64;
        match self {
            Operation::AllReduce => 2.0 * (ranks - 1.0) / ranks,
            Operation::AllGather
            | Operation::ReduceScatter
            | Operation::AllToAll
            | Operation::Gather
            | Operation::Scatter => (ranks - 1.0) / ranks,
            _ => 1.0,
        }
    }

    /// How many bytes the busiest of two ranks must at least receive, and whether both do at once.
    #[must_use]
    pub const fn must_receive(self, size_bytes: usize, messages: usize) -> (usize, bool) {
        match self {
            Operation::AllReduce => (size_bytes, true),
            Operation::AllGather | Operation::ReduceScatter | Operation::AllToAll => (size_bytes / 2, true),
            Operation::Gather | Operation::Scatter => (size_bytes / 2, false),
            Operation::Exchange | Operation::Packed => (size_bytes * messages, true),
            Operation::Barrier => (0, true),
            _ => (size_bytes, false),
        }
    }
}

/// A time as (algorithm, bus) bandwidth in GB/s, powers of ten.
#[must_use]
pub fn bandwidths(
    operation: Operation,
    size_bytes: usize,
    ranks: usize,
    messages: usize,
    time_us: f64,
) -> (f64, f64) {
    if time_us <= 0.0 {
        return (0.0, 0.0);
    }
    let algorithm = operation.moved_bytes(size_bytes, ranks, messages) as f64 / time_us / 1e3;
    (algorithm, algorithm * operation.bus_factor(ranks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_command_line_takes() {
        for operation in Operation::value_variants() {
            assert_eq!(Operation::from_str(operation.name(), false).as_ref(), Ok(operation));
        }
    }

    #[test]
    fn sizes_follow_nccl_tests() {
        // (operation, size, element, ranks) -> (count, printed size, read, written)
        for (operation, size, element, ranks, expected) in [
            (Operation::AllReduce, 64, 4, 2, (16, 64, 16, 16)),
            (Operation::AllGather, 64, 4, 2, (8, 64, 8, 16)),
            (Operation::ReduceScatter, 64, 4, 4, (4, 64, 16, 4)),
            (Operation::AllToAll, 64, 8, 4, (2, 64, 8, 8)),
            (Operation::AllToAll, 70, 8, 4, (2, 64, 8, 8)),
            (Operation::Gather, 64, 4, 2, (8, 64, 8, 16)),
            (Operation::Scatter, 64, 4, 2, (8, 64, 16, 8)),
            (Operation::Broadcast, 3, 4, 2, (1, 4, 1, 1)),
            (Operation::Barrier, 4096, 1, 2, (1, 1, 1, 1)),
        ] {
            let count = operation.count(size, element, ranks);
            let (read, written) = operation.elements(count, ranks, 1);
            let found = (count, operation.size_bytes(count, element, ranks), read, written);
            assert_eq!(found, expected, "{operation:?}");
        }
    }

    #[test]
    fn printed_sizes_are_fixed_points() {
        for operation in Operation::value_variants() {
            for size in [1, 7, 8, 1000, 65536] {
                for ranks in 1..9 {
                    let count = operation.count(size, 4, ranks);
                    let printed = operation.size_bytes(count, 4, ranks);
                    assert_eq!(operation.count(printed, 4, ranks), count);
                }
            }
        }
    }

    #[test]
    fn bus_factors() {
        for (operation, two, eight) in [
            (Operation::AllReduce, 1.0, 1.75),
            (Operation::AllGather, 0.5, 0.875),
            (Operation::ReduceScatter, 0.5, 0.875),
            (Operation::AllToAll, 0.5, 0.875),
            (Operation::Gather, 0.5, 0.875),
            (Operation::Scatter, 0.5, 0.875),
            (Operation::Broadcast, 1.0, 1.0),
            (Operation::Reduce, 1.0, 1.0),
            (Operation::SendRecv, 1.0, 1.0),
        ] {
            assert_eq!((operation.bus_factor(2), operation.bus_factor(8)), (two, eight), "{operation:?}");
        }
        assert_eq!(Operation::AllReduce.bus_factor(1), 0.0);
    }

    #[test]
    fn bandwidths_are_powers_of_ten() {
        assert_eq!(bandwidths(Operation::AllReduce, 4_000_000, 4, 1, 1000.0), (4.0, 6.0));
        assert_eq!(bandwidths(Operation::Exchange, 1000, 2, 64, 64.0), (1.0, 1.0));
        assert_eq!(bandwidths(Operation::AllReduce, 8, 2, 1, 0.0), (0.0, 0.0));
    }
}
