//! The buffers of a call: guards on both sides, contents before, and what they must be after.

use shoal::op::{Address, DataType, Kind, Op, Reduction, Scalar, Shape};

use super::dice::{Dice, mix};
use super::oracle::{self, Oracle};
use super::program::{Action, Call, Collective, Program};

const GUARD_BYTES: usize = 64;
const GUARD: u8 = 0xa5;
const PAGE_BYTES: usize = 4096;

/// Where memory comes from.
#[derive(Clone, Copy)]
pub struct Pool {
    /// At least as many bytes, aligned to a page.
    pub take: fn(usize) -> *mut u8,
    pub give: unsafe fn(*mut u8, usize),
}

impl Pool {
    /// The allocator of the program.
    pub const ORDINARY: Pool = Pool { take: take_ordinary, give: give_ordinary };
}

fn layout(bytes: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(bytes, PAGE_BYTES).expect("a layout")
}

fn take_ordinary(bytes: usize) -> *mut u8 {
    // SAFETY: no block is empty, since it has guards.
    unsafe { std::alloc::alloc(layout(bytes)) }
}

unsafe fn give_ordinary(pointer: *mut u8, bytes: usize) {
    // SAFETY: the caller gives back what it took, with the same size.
    unsafe { std::alloc::dealloc(pointer, layout(bytes)) }
}

/// Bytes between guards, reached by the library through their address.
struct Block {
    pool: Pool,
    base: *mut u8,
    total_bytes: usize,
    start: usize,
    bytes: usize,
}

impl Block {
    fn new(pool: Pool, bytes: usize, shift_bytes: usize, seed: u64) -> Block {
        let start = GUARD_BYTES + shift_bytes;
        let total_bytes = start + bytes + GUARD_BYTES;
        let base = (pool.take)(total_bytes);
        assert!(!base.is_null(), "no memory");
        let mut contents = vec![GUARD; total_bytes];
        Dice::new(seed).fill(&mut contents[start..start + bytes]);
        // SAFETY: the block is fresh and as long as the contents.
        unsafe { base.copy_from(contents.as_ptr(), total_bytes) };
        Block { pool, base, total_bytes, start, bytes }
    }

    fn address(&self) -> Address {
        Address(self.base.expose_provenance() + self.start)
    }

    fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.total_bytes];
        // SAFETY: the block is that long; copying keeps no reference into memory that others write.
        unsafe { self.base.copy_to(bytes.as_mut_ptr(), self.total_bytes) };
        bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes);
        // SAFETY: within the block, as just checked, and nobody else uses it now.
        unsafe { self.base.add(self.start + offset).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// The bytes between the guards, if the guards are whole.
    fn contents(&self) -> Result<Vec<u8>, String> {
        let mut all = self.all();
        let end = self.start + self.bytes;
        for (at, byte) in all.iter().enumerate() {
            if (at < self.start || at >= end) && *byte != GUARD {
                let place = at as isize - self.start as isize;
                return Err(format!("the byte at {place} beside a buffer of {} was overwritten", self.bytes));
            }
        }
        all.truncate(end);
        Ok(all.split_off(self.start))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: taken from this pool with this size; the library is done with it, or never starts again.
        unsafe { (self.pool.give)(self.base, self.total_bytes) };
    }
}

/// One call's memory.
pub struct Placement {
    call: Call,
    rank: u32,
    /// The source, the target, or one block that holds both.
    blocks: Vec<Block>,
    before: Vec<Vec<u8>>,
    /// The block and the offset of the target, and its length.
    target: Option<(usize, usize, usize)>,
    scalar: Option<Block>,
    op: Op,
}

impl Placement {
    /// Memory for `call` of `world`, filled.
    pub fn new(program: &Program, oracle: &Oracle, call: Call, world: u32, pool: Pool) -> Placement {
        let action = &program.actions[call.action];
        let rank = program.rank_in(action.comm(), world);
        let detail = action.detail(rank, call.side);
        let kind = action.kind(call.side);
        let mut placement = Placement {
            call,
            rank,
            blocks: Vec::new(),
            before: Vec::new(),
            target: None,
            scalar: None,
            op: Op {
                shape: Shape {
                    count: action.count_bytes() / detail.data_type.size_bytes(),
                    peer: action.peer(call.side),
                    kind,
                    data_type: detail.data_type,
                    reduction: Reduction::Sum,
                    in_place: false,
                },
                source: Address::NULL,
                target: Address::NULL,
                scalar: Scalar::None,
            },
        };
        placement.lay_out(program, oracle, action, pool);
        if let Action::Collective(collective) = action {
            placement.op.shape.reduction = collective.reduction;
            if collective.reduction == Reduction::PreMulSum {
                placement.add_scalar(collective, detail.scalar_is_pointer);
            }
        }
        placement
    }

    fn lay_out(&mut self, program: &Program, oracle: &Oracle, action: &Action, pool: Pool) {
        let detail = action.detail(self.rank, self.call.side);
        let kind = self.op.shape.kind;
        let unit = action.count_bytes();
        let [source_bytes, target_bytes] = oracle::slices(kind, program.ranks).map(|count| count * unit);
        let (is_read, is_written) = match action {
            Action::Collective(c) => (oracle::is_read(c, self.rank), oracle::is_written(c, self.rank)),
            Action::Message(_) => (kind == Kind::Send, kind == Kind::Recv),
        };
        let input = if is_read { oracle.input(self.call.action, self.rank) } else { Vec::new() };
        let seed = mix(action.seed(), u64::from(self.rank) + 77);
        let shift_bytes = detail.shift * detail.data_type.size_bytes();
        let block = |bytes, seed| Block::new(pool, bytes, shift_bytes, seed);
        if let Some([source_at, target_at]) =
            in_place(kind, self.rank, action, unit).filter(|_| detail.is_in_place)
        {
            let mut both = block(source_bytes.max(target_bytes), seed);
            both.write(source_at, &input);
            self.op.source = both.address().add(source_at);
            self.op.target = both.address().add(target_at);
            self.target = is_written.then_some((0, target_at, target_bytes));
            self.blocks.push(both);
        } else {
            if is_read || !detail.idle_is_null && !kind.is_point_to_point() {
                let mut source = block(source_bytes, seed);
                source.write(0, &input);
                self.op.source = source.address();
                self.blocks.push(source);
            }
            if is_written || !detail.idle_is_null && !kind.is_point_to_point() {
                let target = block(target_bytes, seed + 1);
                self.op.target = target.address();
                self.target = is_written.then_some((self.blocks.len(), 0, target_bytes));
                self.blocks.push(target);
            }
        }
        self.before = self.blocks.iter().map(|block| block.contents().expect("fresh guards")).collect();
    }

    fn add_scalar(&mut self, collective: &Collective, is_pointer: bool) {
        let bytes = oracle::scalar_of(collective, self.rank).to_le_bytes();
        self.op.scalar = Scalar::Immediate(bytes);
        if is_pointer {
            let size = collective.data_type.size_bytes();
            let mut block = Block::new(Pool::ORDINARY, size, 0, 0);
            block.write(0, &bytes[..size]);
            self.op.scalar = Scalar::At(block.address());
            self.scalar = Some(block);
        }
    }

    /// The call as the engine takes it.
    pub fn op(&self) -> Op {
        Op { shape: self.op.shape.at(self.op.source, self.op.target, self.rank), ..self.op }
    }

    pub fn call(&self) -> Call {
        self.call
    }

    /// Whether the call did what it must, and nothing else. Afterwards the memory is spoilt, as a caller may.
    pub fn verify(&mut self, oracle: &Oracle) -> Result<(), String> {
        let expected = oracle.expected(self.call.action, self.rank, self.call.side);
        for (index, block) in self.blocks.iter().enumerate() {
            let mut found = block.contents()?;
            if let (Some((of, at, bytes)), Some(expected)) = (self.target, &expected)
                && of == index
            {
                expected.check(&found[at..at + bytes])?;
                found[at..at + bytes].copy_from_slice(&self.before[index][at..at + bytes]);
            }
            oracle::check_bytes(&self.before[index], &found)
                .map_err(|text| format!("memory that is not to be written changed: {text}"))?;
        }
        Ok(())
    }

    /// The bytes of the target; none where nothing is written.
    pub fn target(&self) -> Vec<u8> {
        let Some((block, at, bytes)) = self.target else { return Vec::new() };
        self.blocks[block].all()[self.blocks[block].start + at..][..bytes].to_vec()
    }

    /// Overwrites everything: who is done with a call may.
    pub fn spoil(&mut self) {
        for block in &mut self.blocks {
            block.write(0, &vec![0xee; block.bytes]);
        }
    }

    /// Whether nothing but what the call may write has changed: for calls that failed.
    pub fn verify_guards(&self) -> Result<(), String> {
        self.blocks.iter().try_for_each(|block| block.contents().map(|_| ()))
    }

    /// The type of a reduction's scalar, with its bytes, for callers that make the operator themselves.
    pub fn data_type(&self) -> DataType {
        self.op.shape.data_type
    }
}

/// Where source and target start in one block, where the interface knows such a form.
fn in_place(kind: Kind, rank: u32, action: &Action, unit: usize) -> Option<[usize; 2]> {
    let own = rank as usize * unit;
    let is_root = matches!(action, Action::Collective(collective) if collective.root == rank);
    match kind {
        Kind::AllReduce | Kind::Reduce | Kind::Broadcast => Some([0, 0]),
        Kind::AllGather => Some([own, 0]),
        Kind::ReduceScatter => Some([0, own]),
        Kind::Gather if is_root => Some([own, 0]),
        Kind::Scatter if is_root => Some([0, own]),
        _ => None,
    }
}
