//! What is measured side by side.
#![forbid(unsafe_code)]

use clap::ValueEnum;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// 8 B, 64 KiB and 4 MiB of every operation on two ranks; many small messages; 4 and 8 ranks.
    Full,
    /// Every operation at 8 B and 64 KiB on two ranks.
    Quick,
    /// From one byte to 64 MiB, to see that no size falls off a cliff.
    Sweep,
}

/// What one start of a contender measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) ranks: usize,
    pub(super) ops: &'static str,
    pub(super) sizes: &'static str,
    pub(super) data_type: &'static str,
    pub(super) messages: usize,
    /// Whether the floor between the two ranks is measured along with this library.
    pub(super) floor: bool,
}

const fn pair(ops: &'static str, sizes: &'static str, data_type: &'static str) -> Block {
    Block { ranks: 2, ops, sizes, data_type, messages: 1, floor: true }
}

const OPERATIONS: &str = "allreduce,allgather,reducescatter,alltoall,broadcast,sendrecv";

impl Suite {
    /// The blocks in the order in which they are measured.
    pub(super) fn blocks(self) -> Vec<Block> {
        match self {
            Suite::Quick => vec![pair(OPERATIONS, "8,64K", "float")],
            Suite::Full => vec![
                pair(OPERATIONS, "8,64K,4M", "float"),
                pair("rate", "8,64,512,4K", "uint8"),
                Block { floor: false, ..pair("barrier", "8", "float") },
                Block { messages: 64, ..pair("exchange,packed", "8,64,256,1K", "uint8") },
                Block { messages: 256, ..pair("exchange,packed", "256", "uint8") },
                Block { ranks: 4, floor: false, ..pair("allreduce,barrier", "8", "float") },
                Block { ranks: 8, floor: false, ..pair("allreduce,barrier", "8", "float") },
            ],
            Suite::Sweep => vec![
                pair(
                    "allreduce,reducescatter",
                    "8,16,64,256,1K,2K,4K,8K,16K,32K,64K,128K,256K,512K,1M,4M,16M,64M",
                    "float",
                ),
                pair(
                    "sendrecv,broadcast,allgather,alltoall",
                    "1,2,8,16,64,256,1K,2K,4K,8K,16K,32K,64K,128K,256K,512K,1M,4M,16M,64M",
                    "uint8",
                ),
            ],
        }
    }
}

impl Block {
    /// The options of `shoal bench` that mean this block.
    pub(super) fn arguments(&self, seconds: f64) -> Vec<String> {
        let (messages, seconds) = (self.messages.to_string(), seconds.to_string());
        let options = [
            ("--op", self.ops),
            ("--sizes", self.sizes),
            ("--datatype", self.data_type),
            ("--messages", &messages),
            ("--seconds", &seconds),
            ("--in-place", "0"),
            ("--format", "json"),
            ("--timeout", "60"),
        ];
        options.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Arguments, Command};
    use clap::Parser;

    #[test]
    fn every_block_is_something_that_bench_understands() {
        for suite in Suite::value_variants() {
            for block in suite.blocks() {
                let arguments = block.arguments(0.1);
                let words = ["shoal".to_owned(), "bench".to_owned()].into_iter().chain(arguments);
                let Command::Bench(options) = Arguments::try_parse_from(words).unwrap().command else {
                    panic!("not bench");
                };
                assert_eq!(options.op.0.len(), block.ops.split(',').count());
                assert_eq!(options.sizes.len(), block.sizes.split(',').count());
            }
        }
    }
}
