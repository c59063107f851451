//! Inputs and the comparison of results with what a naive computation says they must be.
#![forbid(unsafe_code)]

use super::contender::Request;
use super::operation::{Operation, WINDOW};
use super::pattern::{self, Action};
use super::values::{self, Recipe};

/// What memory holds before a result is written; no input looks like it everywhere.
const POISON: u8 = 0xa5;

/// The seeded inputs of one request.
pub(crate) struct Check {
    request: Request,
    recipe: Recipe,
}

impl Check {
    /// The check of a request.
    pub(crate) fn new(request: Request, seed: u64) -> Check {
        let reduction = request.operation.reduces().then_some(request.reduction);
        let recipe = Recipe { data_type: request.data_type, reduction, ranks: request.ranks, seed };
        Check { request, recipe }
    }

    /// Fills the buffers of the call out of place.
    pub(crate) fn fill(&self, source: &mut [u8], target: &mut [u8]) {
        let (read, written) = self.request.buffer_bytes();
        target[..written].fill(POISON);
        self.write_source(&mut source[..read]);
    }

    /// Fills the one buffer of the call in place (or both, where this rank's do not coincide).
    pub(crate) fn fill_in_place(&self, source: &mut [u8], target: &mut [u8]) {
        if !self.request.shares_buffer() {
            return self.fill(source, target);
        }
        let (read, written) = self.request.buffer_bytes();
        target[..read.max(written)].fill(POISON);
        let from = if read < written { self.request.in_place_offset() } else { 0 };
        self.write_source(&mut target[from..from + read]);
    }

    /// Where the result starts in the target buffer of the call in place.
    pub(crate) fn result_offset_in_place(&self) -> usize {
        let (read, written) = self.request.buffer_bytes();
        if self.request.shares_buffer() && read > written { self.request.in_place_offset() } else { 0 }
    }

    /// How many elements of the result are not what they must be.
    pub(crate) fn wrong(&self, result: &[u8]) -> u64 {
        if self.request.operation.is_pattern() {
            return pattern::actions(&self.request).iter().map(|action| self.wrong_of(action, result)).sum();
        }
        let element_bytes = self.request.data_type.size_bytes();
        let (_, written) = self.request.buffer_bytes();
        let tolerance = self.recipe.tolerance();
        (0..written / element_bytes)
            .filter(|index| {
                let Some(expected) = self.expected(*index) else { return false };
                let found = values::read(self.request.data_type, result, *index);
                let is_right = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
                // A result that is no number is not right either.
                !is_right
            })
            .count() as u64
    }

    /// How many bytes that an action of a pattern brought are not what they must be.
    fn wrong_of(&self, action: &Action, result: &[u8]) -> u64 {
        let differ = |place: usize, bytes: usize, rank: usize, origin: usize| {
            let found = |index: usize| values::read(self.request.data_type, result, place + index);
            let expected = |index: usize| self.recipe.value(rank, origin + index);
            (0..bytes).filter(|index| found(*index) != expected(*index)).count() as u64
        };
        match *action {
            Action::Receive { peer, offset, bytes, origin } => differ(offset, bytes, peer, origin),
            Action::AllGather { source, target, bytes } => {
                (0..self.request.ranks).map(|rank| differ(target + rank * bytes, bytes, rank, source)).sum()
            }
            Action::Open | Action::Close | Action::Send { .. } => 0,
        }
    }

    fn write_source(&self, source: &mut [u8]) {
        let rank = self.request.rank;
        values::write(self.request.data_type, source, |index| self.recipe.value(rank, index));
    }

    /// Element `index` of this rank's result; `None` where the operation promises nothing.
    fn expected(&self, index: usize) -> Option<f64> {
        let Request { operation, root, count, messages, rank, ranks, .. } = self.request;
        let value = |rank, index| self.recipe.value(rank, index);
        match operation {
            Operation::AllReduce => Some(self.recipe.reduced(index)),
            Operation::Reduce => (rank == root).then(|| self.recipe.reduced(index)),
            Operation::Broadcast => Some(value(root, index)),
            Operation::AllGather => Some(value(index / count, index % count)),
            Operation::ReduceScatter => Some(self.recipe.reduced(rank * count + index)),
            Operation::AllToAll => Some(value(index / count, rank * count + index % count)),
            Operation::Gather => (rank == root).then(|| value(index / count, index % count)),
            Operation::Scatter => Some(value(root, rank * count + index)),
            Operation::SendRecv => Some(value((rank + ranks - 1) % ranks, index)),
            Operation::Exchange | Operation::Packed => {
                let share = count * messages;
                let peer = index / share;
                (peer != rank).then(|| value(peer, rank * share + index % share))
            }
            Operation::Rate => (rank % 2 == 1 && index < count * WINDOW).then(|| value(rank - 1, index)),
            Operation::Barrier => None,
            // These are compared action by action.
            Operation::Neox
            | Operation::NeoxLone
            | Operation::NeoxBulk
            | Operation::Moe
            | Operation::Zero3
            | Operation::Gathers => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Reduction};

    fn request(operation: Operation, rank: usize, ranks: usize) -> Request {
        let (data_type, reduction) = (DataType::Int32, Reduction::Sum);
        let (tensor, mask_bytes) = (0, 0);
        Request {
            operation,
            data_type,
            reduction,
            root: 1,
            count: 5,
            messages: 3,
            tensor,
            mask_bytes,
            rank,
            ranks,
        }
    }

    fn inputs(operation: Operation, ranks: usize) -> Vec<Vec<i64>> {
        (0..ranks)
            .map(|rank| {
                let check = Check::new(request(operation, rank, ranks), 3);
                let (read, written) = check.request.buffer_bytes();
                let (mut source, mut target) = (vec![0; read], vec![0; written]);
                check.fill(&mut source, &mut target);
                assert!(target.iter().all(|byte| *byte == POISON));
                source.chunks(4).map(|b| i64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
            })
            .collect()
    }

    /// Results made from the inputs by hand, one operation at a time.
    fn result(operation: Operation, inputs: &[Vec<i64>], rank: usize) -> Vec<i64> {
        let ranks = inputs.len();
        let sum = |index: usize| inputs.iter().map(|input| input[index]).sum();
        match operation {
            Operation::AllReduce | Operation::Reduce => (0..5).map(sum).collect(),
            Operation::Broadcast => inputs[1].clone(),
            Operation::AllGather | Operation::Gather => inputs.concat(),
            Operation::ReduceScatter => (rank * 5..rank * 5 + 5).map(sum).collect(),
            Operation::AllToAll => inputs.iter().flat_map(|i| i[rank * 5..rank * 5 + 5].to_vec()).collect(),
            Operation::Scatter => inputs[1][rank * 5..rank * 5 + 5].to_vec(),
            Operation::SendRecv => inputs[(rank + ranks - 1) % ranks].clone(),
            Operation::Exchange | Operation::Packed => {
                inputs.iter().flat_map(|i| i[rank * 15..rank * 15 + 15].to_vec()).collect()
            }
            Operation::Rate if rank % 2 == 1 => inputs[rank - 1].clone(),
            _ => inputs[rank].clone(),
        }
    }

    #[test]
    fn right_results_are_right_and_wrong_ones_are_counted() {
        use clap::ValueEnum;
        for operation in Operation::value_variants().iter().filter(|operation| !operation.is_pattern()) {
            for ranks in [2, 3, 4] {
                let inputs = inputs(*operation, ranks);
                for rank in 0..ranks {
                    let check = Check::new(request(*operation, rank, ranks), 3);
                    let right = result(*operation, &inputs, rank);
                    let bytes = |values: &[i64]| -> Vec<u8> {
                        values.iter().flat_map(|value| (*value as i32).to_le_bytes()).collect()
                    };
                    assert_eq!(check.wrong(&bytes(&right)), 0, "{operation:?} {rank}/{ranks}");
                    let promised = (0..right.len()).filter(|index| check.expected(*index).is_some()).count();
                    let off: Vec<i64> = right.iter().map(|value| value ^ 1).collect();
                    assert_eq!(check.wrong(&bytes(&off)), promised as u64);
                }
            }
        }
    }

    #[test]
    fn patterns_are_compared_byte_by_byte() {
        let patterns = [Operation::Neox, Operation::Moe, Operation::Zero3, Operation::Gathers];
        for (operation, ranks) in patterns.into_iter().zip([3, 3, 2, 3]) {
            let of = |rank| Request {
                data_type: DataType::Uint8,
                count: 100,
                tensor: 2,
                mask_bytes: 50,
                ..request(operation, rank, ranks)
            };
            let inputs: Vec<Vec<u8>> = (0..ranks)
                .map(|rank| {
                    let (read, written) = of(rank).buffer_bytes();
                    let mut source = vec![0; read];
                    Check::new(of(rank), 3).fill(&mut source, &mut vec![0; written]);
                    source
                })
                .collect();
            let mut result = vec![POISON; of(1).buffer_bytes().1];
            for action in pattern::actions(&of(1)) {
                match action {
                    Action::Receive { peer, offset, bytes, origin } => {
                        result[offset..offset + bytes].copy_from_slice(&inputs[peer][origin..origin + bytes]);
                    }
                    Action::AllGather { source, target, bytes } => {
                        for (rank, input) in inputs.iter().enumerate() {
                            result[target + rank * bytes..][..bytes]
                                .copy_from_slice(&input[source..source + bytes]);
                        }
                    }
                    _ => {}
                }
            }
            let check = Check::new(of(1), 3);
            assert_eq!(check.wrong(&result), 0, "{operation:?}");
            *result.last_mut().unwrap() ^= 1;
            assert_eq!(check.wrong(&result), 1, "{operation:?}");
        }
    }

    #[test]
    fn in_place_inputs_lie_where_the_interface_says() {
        for (operation, rank, from, result) in [
            (Operation::AllReduce, 0, 0, 0),
            (Operation::AllGather, 2, 40, 0),
            (Operation::ReduceScatter, 2, 0, 40),
            (Operation::Gather, 1, 20, 0),
            (Operation::Scatter, 1, 0, 20),
        ] {
            let check = Check::new(request(operation, rank, 3), 3);
            let mut source = vec![0; 60];
            let mut target = vec![0; 60];
            check.fill_in_place(&mut source, &mut target);
            let (read, _) = check.request.buffer_bytes();
            let mut expected = vec![0; read];
            check.write_source(&mut expected);
            assert_eq!(target[from..from + read], expected, "{operation:?}");
            assert_eq!(check.result_offset_in_place(), result);
        }
    }
}
