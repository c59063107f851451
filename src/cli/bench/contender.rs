//! The plug point: whoever can run a call, measured by the same loop over the same buffers.

use std::marker::PhantomData;
use std::rc::Rc;

use super::operation::Operation;
use super::pattern::{self, Action};
use crate::cli::Failure;
use crate::cli::machine::Memory;
use crate::op::{DataType, Reduction};

/// What is asked for, without the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(crate) data_type: DataType,
    pub(crate) reduction: Reduction,
    pub(crate) root: usize,
    /// Elements as the interface counts them.
    pub(crate) count: usize,
    /// Messages to each peer, of an exchange; experts of each rank.
    pub(crate) messages: usize,
    /// How many ranks share a layer, of a stage boundary: its metadata grow with them.
    pub(crate) tensor: usize,
    /// The mask of a stage boundary.
    pub(crate) mask_bytes: usize,
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
}

impl Request {
    /// The bytes of `count` elements.
    pub(crate) fn bytes(&self) -> usize {
        self.count * self.data_type.size_bytes()
    }

    /// The bytes that this rank reads and writes.
    pub(crate) fn buffer_bytes(&self) -> (usize, usize) {
        if self.operation.is_pattern() {
            return pattern::buffer_bytes(self);
        }
        let (read, written) = self.operation.elements(self.count, self.ranks, self.messages);
        (read * self.data_type.size_bytes(), written * self.data_type.size_bytes())
    }

    /// The operation's name with what else makes the case.
    pub(crate) fn label(&self) -> String {
        let name = self.operation.name();
        if !self.operation.is_boundary() {
            return name.to_owned();
        }
        let mask = if self.mask_bytes == self.bytes() {
            String::new()
        } else {
            format!("-mask{}", super::size::display(self.mask_bytes))
        };
        format!("{name}-t{}{mask}", self.tensor)
    }

    /// How far the smaller buffer starts inside the larger one, when in place.
    pub(crate) fn in_place_offset(&self) -> usize {
        match self.operation {
            Operation::AllGather | Operation::ReduceScatter => self.rank * self.bytes(),
            Operation::Gather | Operation::Scatter => self.root * self.bytes(),
            _ => 0,
        }
    }

    /// Whether this rank's buffers coincide in an in-place call: elsewhere than at the root they do not.
    pub(crate) fn shares_buffer(&self) -> bool {
        match self.operation {
            Operation::Gather | Operation::Scatter => self.rank == self.root,
            _ => true,
        }
    }
}

/// A request with its memory: both places are valid for as many bytes as the request reads and writes.
#[derive(Clone)]
pub(crate) struct Call<'memory> {
    request: Request,
    actions: Rc<[Action]>,
    source: *const u8,
    target: *mut u8,
    memory: PhantomData<&'memory Memory>,
}

impl<'memory> Call<'memory> {
    /// The call out of place, from the start of one buffer to the start of the other.
    pub(crate) fn out_of_place(request: Request, source: &'memory Memory, target: &'memory Memory) -> Self {
        let (read, written) = request.buffer_bytes();
        assert!(read <= source.bytes() && written <= target.bytes(), "a call larger than its buffers");
        let actions = pattern::actions(&request).into();
        Call { request, actions, source: source.at(0), target: target.at(0), memory: PhantomData }
    }

    /// The call in place, as the interface defines it for the operation.
    pub(crate) fn in_place(request: Request, source: &'memory Memory, target: &'memory Memory) -> Self {
        if !request.shares_buffer() {
            return Call::out_of_place(request, source, target);
        }
        let (read, written) = request.buffer_bytes();
        let inner = request.in_place_offset();
        let (from, to) = if read < written { (inner, 0) } else { (0, inner) };
        assert!(from + read <= target.bytes() && to + written <= target.bytes(), "a call too large");
        let actions = pattern::actions(&request).into();
        Call { request, actions, source: target.at(from), target: target.at(to), memory: PhantomData }
    }

    /// What is asked for.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// What a pattern does: every range lies inside the places, as `pattern::buffer_bytes` found.
    pub(crate) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Where the input starts.
    pub(crate) fn source(&self) -> *const u8 {
        self.source
    }

    /// Where the result starts.
    pub(crate) fn target(&self) -> *mut u8 {
        self.target
    }

    #[cfg(feature = "mpi")]
    /// Whether input and result are the same place, or one lies in the other.
    pub(crate) fn is_in_place(&self) -> bool {
        let (read, written) = self.request.buffer_bytes();
        let (source, target) = (self.source as usize, self.target as usize);
        source < target + written && target < source + read
    }

    /// Where message number `message` to or from `peer` starts, in bytes from the start of either buffer.
    pub(crate) fn message_offset(&self, peer: usize, message: usize) -> usize {
        (peer * self.request.messages + message) * self.request.bytes()
    }

    /// The peers of this rank in an exchange, each rank's own order starting behind itself.
    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, ranks) = (self.request.rank, self.request.ranks);
        (1..ranks).map(move |distance| (rank + distance) % ranks)
    }

    /// The right and left neighbours.
    pub(crate) fn neighbours(&self) -> (usize, usize) {
        let (rank, ranks) = (self.request.rank, self.request.ranks);
        ((rank + 1) % ranks, (rank + ranks - 1) % ranks)
    }
}

/// A library under measurement, from one rank's side.
pub(crate) trait Contender {
    /// Its name and version, for the results.
    fn describe(&self) -> String;

    /// Whether it can run such calls.
    ///
    /// # Errors
    /// What it lacks.
    fn supports(&self, request: &Request, in_place: bool) -> Result<(), Failure>;

    /// Runs one call to its end on this rank.
    ///
    /// # Errors
    /// The library's own words.
    fn run(&mut self, call: &Call<'_>) -> Result<(), Failure>;

    /// Memory of the library's own kind.
    ///
    /// # Errors
    /// It has none, or has no more.
    fn allocate(&self, bytes: usize) -> Result<Memory, Failure>;

    /// What the library has counted so far, by its own names; nothing where it counts nothing.
    ///
    /// # Errors
    /// The library's own words.
    fn counters(&mut self) -> Result<Vec<(String, u64)>, Failure> {
        Ok(Vec::new())
    }

    /// One call into the library that does nothing, to see what crossing into it costs.
    fn touch(&mut self);

    /// Says good-bye to the other ranks.
    ///
    /// # Errors
    /// The library's own words.
    fn finish(self) -> Result<(), Failure>;
}
