//! What is measured side by side: suites are lists of blocks, as data.
#![forbid(unsafe_code)]

use clap::ValueEnum;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Small, large, crowd and patterns.
    Full,
    /// Every operation at 8 B and 64 KiB on two ranks.
    Quick,
    /// Many small messages, their rate, and everything at 8 B, on two ranks.
    Small,
    /// 1 to 64 MiB on two ranks, on ordinary memory and on the library's.
    Large,
    /// 4 and 8 ranks on the cores that there are.
    Crowd,
    /// What frameworks send: a pipeline's stage boundary, a layer of experts.
    Patterns,
    /// Messages of every size, alone and 64 in a group: what the pictures show.
    Curve,
    /// From one byte to 64 MiB, to see that no size falls off a cliff.
    Sweep,
    /// Between hosts (--hosts 2): messages, many small ones, stage boundaries, collectives.
    Hosts,
}

/// What one start of a contender measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) ranks: usize,
    pub(super) ops: &'static str,
    pub(super) sizes: &'static str,
    pub(super) data_type: &'static str,
    pub(super) messages: usize,
    /// Whether the floor between the two ranks is measured along with this library.
    pub(super) floor: bool,
    /// Whether this library is measured on its own kind of memory too.
    pub(super) mapped: bool,
    /// Further options of `shoal bench`.
    pub(super) more: &'static [&'static str],
}

const fn pair(ops: &'static str, sizes: &'static str, data_type: &'static str) -> Block {
    Block { ranks: 2, ops, sizes, data_type, messages: 1, floor: true, mapped: false, more: &[] }
}

const fn messages(messages: usize, sizes: &'static str) -> Block {
    Block { messages, ..pair("exchange,packed", sizes, "uint8") }
}

const fn crowd(ranks: usize) -> Block {
    Block { ranks, floor: false, ..pair("allreduce,barrier", "8", "float") }
}

const fn boundary(sizes: &'static str, more: &'static [&'static str]) -> Block {
    Block { floor: false, more, ..pair("neox,neoxlone", sizes, "uint8") }
}

/// What UCX, which moves messages and no more, has.
const OF_MESSAGES: [&str; 8] =
    ["sendrecv", "exchange", "packed", "rate", "alltoall", "neox", "neoxlone", "moe"];

const OPERATIONS: &str = "allreduce,allgather,reducescatter,alltoall,broadcast,sendrecv";

const QUICK: &[Block] = &[pair(OPERATIONS, "8,64K", "float")];

const SMALL: &[Block] = &[
    messages(64, "8,64,256,1K,4K"),
    messages(256, "256"),
    pair("rate", "8,64,512,4K", "uint8"),
    pair("sendrecv", "8,4K,64K,4M", "uint8"),
    pair("allreduce,allgather,reducescatter,alltoall,broadcast", "8,64K,4M", "float"),
    Block { floor: false, ..pair("barrier", "8", "float") },
];

const LARGE: &[Block] = &[
    Block { mapped: true, ..pair("allreduce,reducescatter", "1M,4M,16M,64M", "float") },
    Block { mapped: true, ..pair("allgather,alltoall", "1M,4M,16M,64M", "float") },
];

const CROWD: &[Block] = &[crowd(4), crowd(8)];

/// The last boundary is that of a model of 1.3 billion parameters: b = 4, t = 2, s = 2048, h = 2048.
const PATTERNS: &[Block] = &[
    boundary("256,4K,64K", &["--tensor", "2,4,8"]),
    boundary("16M", &["--tensor", "2", "--mask", "8M"]),
    Block { messages: 8, floor: false, ..pair("moe", "896,64K", "uint8") },
    Block { floor: false, ..pair("zero3", "4K,64K", "uint8") },
];

const CURVE: &[Block] = &[
    messages(64, "8,16,32,64,128,256,512,1K,2K,4K,8K,16K,32K,64K"),
    pair("sendrecv", "8,16,32,64,128,256,512,1K,2K,4K,8K,16K,32K,64K,256K,1M,4M", "uint8"),
];

const SWEEP: &[Block] = &[
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
];

/// Two sizes a decade.
const DECADES: &str = "8,64,256,1K,4K,16K,64K,256K,1M,4M,16M,64M";

const fn between(ranks: usize, ops: &'static str) -> Block {
    Block { ranks, floor: false, ..pair(ops, DECADES, "float") }
}

const HOSTS: &[Block] = &[
    Block { floor: false, ..pair("sendrecv", "8,1K,64K,1M,64M", "uint8") },
    Block { floor: false, ..messages(64, "64,1K") },
    Block { floor: false, ..messages(256, "256") },
    Block { floor: false, ..boundary("256,4K,64K", &["--tensor", "2"]) },
    between(2, "allreduce"),
    between(2, "allgather"),
    between(2, "alltoall"),
    between(4, "allreduce"),
    between(4, "allgather"),
    between(4, "alltoall"),
];

impl Suite {
    /// Whether it is measured between hosts.
    pub(super) const fn needs_hosts(self) -> bool {
        matches!(self, Suite::Hosts)
    }

    /// The blocks in the order in which they are measured.
    pub(super) fn blocks(self) -> Vec<Block> {
        match self {
            Suite::Full => [SMALL, LARGE, CROWD, PATTERNS].concat(),
            Suite::Quick => QUICK.to_vec(),
            Suite::Small => SMALL.to_vec(),
            Suite::Large => LARGE.to_vec(),
            Suite::Crowd => CROWD.to_vec(),
            Suite::Patterns => PATTERNS.to_vec(),
            Suite::Curve => CURVE.to_vec(),
            Suite::Sweep => SWEEP.to_vec(),
            Suite::Hosts => HOSTS.to_vec(),
        }
    }
}

impl Block {
    /// Whether anything of it is made of messages alone.
    pub(super) fn has_messages(&self) -> bool {
        self.ops.split(',').any(|op| OF_MESSAGES.contains(&op))
    }

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
        let common = options.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]);
        common.chain(self.more.iter().map(|word| (*word).to_owned())).collect()
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

    #[test]
    fn blocks_without_messages_are_known() {
        let without: Vec<_> =
            Suite::Full.blocks().into_iter().filter(|block| !block.has_messages()).collect();
        let ops: Vec<_> = without.iter().map(|block| block.ops).collect();
        assert_eq!(
            ops,
            ["barrier", "allreduce,reducescatter", "allreduce,barrier", "allreduce,barrier", "zero3"]
        );
    }
}
