//! What a training framework sends in one step, as a list of actions: the messages of a pipeline stage boundary,
//! of a layer of experts, of parameters gathered layer by layer, of many small allgathers.
//!
//! All sizes are bytes. A message lies in the sender's input and in the receiver's result at offsets that both
//! can compute, so that what must arrive is known without asking.
#![forbid(unsafe_code)]

use super::contender::Request;
use super::operation::Operation;

/// Layers of `zero3`; with eight small parameters each, hundreds of small allgathers.
const LAYERS: usize = 24;
/// The hidden size whose norms and biases `zero3` gathers, in elements of two bytes.
const HIDDEN: usize = 2048;
/// Norms' weights and biases, and the biases of a layer, in hidden sizes.
const SMALL_PARAMETERS: [usize; 8] = [1, 1, 1, 1, 3, 1, 4, 1];
/// Weights of a layer, in quarters of the size that is asked for: query-key-value, output, in, out.
const LARGE_QUARTERS: [usize; 4] = [3, 1, 4, 4];
/// Tensors of a framework do not share lines.
const ALIGNMENT_BYTES: usize = 64;
/// A token's row of a dispatch, so that shares of experts are whole rows.
const TOKEN_BYTES: usize = 16;

/// One thing that a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// What follows is one group.
    Open,
    /// The group ends; everything in it is done.
    Close,
    /// Sends from an offset of the input.
    Send { peer: usize, offset: usize, bytes: usize },
    /// Receives to an offset of the result what lies at `origin` in the peer's input.
    Receive { peer: usize, offset: usize, bytes: usize, origin: usize },
    /// Gathers so many bytes of each rank, from the input to the result.
    AllGather { source: usize, target: usize, bytes: usize },
}

/// What this rank does in one step; empty for operations that are one call.
pub(crate) fn actions(request: &Request) -> Vec<Action> {
    match request.operation {
        Operation::Neox => grouped(neox(request, true)),
        Operation::NeoxLone => neox(request, true),
        Operation::NeoxBulk => grouped(neox(request, false)),
        Operation::Moe => moe(request),
        Operation::Zero3 => zero3(request),
        Operation::Gathers => gathers(request),
        _ => Vec::new(),
    }
}

/// The bytes of input and result that the actions touch.
pub(crate) fn buffer_bytes(request: &Request) -> (usize, usize) {
    let (mut read, mut written) = (0, 0);
    for action in actions(request) {
        match action {
            Action::Send { offset, bytes, .. } => read = read.max(offset + bytes),
            // The peer's input is laid out like ours, and every input is filled as far as anybody reads it.
            Action::Receive { offset, bytes, origin, .. } => {
                read = read.max(origin + bytes);
                written = written.max(offset + bytes);
            }
            Action::AllGather { source, target, bytes } => {
                read = read.max(source + bytes);
                written = written.max(target + bytes * request.ranks);
            }
            Action::Open | Action::Close => {}
        }
    }
    (read, written)
}

/// What this rank gets from others.
pub(crate) fn received_bytes(request: &Request) -> usize {
    let of = |action| match action {
        Action::Receive { bytes, .. } => bytes,
        Action::AllGather { bytes, .. } => bytes * (request.ranks - 1),
        _ => 0,
    };
    actions(request).into_iter().map(of).sum()
}

/// How many messages this rank sends, an allgather counted as one.
pub(crate) fn message_count(request: &Request) -> usize {
    let counts = |action: &Action| matches!(action, Action::Send { .. } | Action::AllGather { .. });
    actions(request).iter().filter(|action| counts(action)).count()
}

fn grouped(inner: Vec<Action>) -> Vec<Action> {
    let around = std::iter::once(Action::Open).chain(inner);
    around.chain(std::iter::once(Action::Close)).collect()
}

/// Hands out places one after the other.
struct Places(usize);

impl Places {
    fn take(&mut self, bytes: usize) -> usize {
        let place = self.0;
        self.0 = (place + bytes).next_multiple_of(ALIGNMENT_BYTES);
        place
    }
}

/// A pipeline's stages in a row. Forward goes metadata, activations and mask; back go metadata and gradients,
/// as large as the activations. The order is that in which the framework calls.
fn neox(request: &Request, with_metadata: bool) -> Vec<Action> {
    let metadata_bytes = 8 * (7 + request.tensor);
    let data_bytes = request.bytes();
    let mut places = Places(0);
    let mut message = |bytes| (places.take(bytes), bytes);
    let forward = [message(metadata_bytes), message(data_bytes), message(request.mask_bytes)];
    let back = [message(metadata_bytes), message(data_bytes)];
    let first = usize::from(!with_metadata);
    let (forward, back) = (&forward[first..], &back[first..]);
    let Request { rank, ranks, .. } = *request;
    let (left, right) = (rank.checked_sub(1), Some(rank + 1).filter(|next| *next < ranks));
    let send = |peer, messages: &[(usize, usize)]| -> Vec<Action> {
        messages.iter().map(|&(offset, bytes)| Action::Send { peer, offset, bytes }).collect()
    };
    let receive = |peer, messages: &[(usize, usize)]| -> Vec<Action> {
        let one = |&(offset, bytes)| Action::Receive { peer, offset, bytes, origin: offset };
        messages.iter().map(one).collect()
    };
    let mut actions = Vec::new();
    actions.extend(left.map(|peer| receive(peer, forward)).unwrap_or_default());
    actions.extend(right.map(|peer| send(peer, forward)).unwrap_or_default());
    actions.extend(right.map(|peer| receive(peer, back)).unwrap_or_default());
    actions.extend(left.map(|peer| send(peer, back)).unwrap_or_default());
    actions
        .retain(|action| !matches!(action, Action::Send { bytes: 0, .. } | Action::Receive { bytes: 0, .. }));
    actions
}

/// How many bytes `from` sends to expert `expert` of `to`: uneven, the same on every rank, on average
/// `mean_bytes`, at most twice as many.
fn share(from: usize, to: usize, expert: usize, mean_bytes: usize) -> usize {
    let mixed = (from * 31 + to * 17 + expert * 7 + 5).wrapping_mul(0x9e37_79b9) >> 7;
    let rows_max = 2 * mean_bytes / TOKEN_BYTES;
    if rows_max == 0 { mean_bytes } else { mixed % (rows_max + 1) * TOKEN_BYTES }
}

/// A layer of experts: the sizes that everybody needs to know, the tokens to their experts, the results back.
/// The size is what goes to each peer on average; `messages` is the number of experts of each rank, and each
/// gets a message of its own.
fn moe(request: &Request) -> Vec<Action> {
    let Request { rank, ranks, messages: experts, .. } = *request;
    let mean_bytes = (request.bytes() / experts).max(1);
    let slot_bytes = (2 * mean_bytes).max(TOKEN_BYTES).next_multiple_of(ALIGNMENT_BYTES);
    let sizes_bytes = (8 * experts).next_multiple_of(ALIGNMENT_BYTES);
    let dispatch = sizes_bytes * ranks;
    let combine = dispatch + slot_bytes * experts * ranks;
    let slot = |area: usize, peer: usize, expert: usize| area + (peer * experts + expert) * slot_bytes;
    let mut actions = Vec::new();
    let peers = || (1..ranks).map(move |distance| (rank + distance) % ranks);
    let sizes = peers().flat_map(|peer| {
        let (bytes, mine) = (8 * experts, peer * sizes_bytes);
        let send = Action::Send { peer, offset: mine, bytes };
        [send, Action::Receive { peer, offset: mine, bytes, origin: rank * sizes_bytes }]
    });
    actions.extend(grouped(sizes.collect()));
    // In the first area a rank sends its tokens; in the second it sends back what it was sent.
    for (area, returns) in [(dispatch, false), (combine, true)] {
        let mut group = Vec::new();
        for peer in peers() {
            for expert in 0..experts {
                let (out, back) =
                    (share(rank, peer, expert, mean_bytes), share(peer, rank, expert, mean_bytes));
                let (sent, received) = if returns { (back, out) } else { (out, back) };
                let (offset, origin) = (slot(area, peer, expert), slot(area, rank, expert));
                if sent > 0 {
                    group.push(Action::Send { peer, offset, bytes: sent });
                }
                if received > 0 {
                    group.push(Action::Receive { peer, offset, bytes: received, origin });
                }
            }
        }
        actions.extend(grouped(group));
    }
    actions
}

/// Parameters gathered layer by layer, one group a layer: norms and biases among weights, of which the largest
/// has `size` bytes on each rank.
fn zero3(request: &Request) -> Vec<Action> {
    let ranks = request.ranks;
    let small = SMALL_PARAMETERS.map(|times| (times * HIDDEN * 2 / ranks).max(1));
    let large = LARGE_QUARTERS.map(|quarters| (request.bytes() * quarters / 4).max(1));
    // As the parameters of a layer follow one another: norm, attention, norm, the two wide weights.
    let order = [small[0], small[1], large[0], small[4], large[1], small[5], small[2], small[3], large[2]];
    let order = order.into_iter().chain([small[6], large[3], small[7]]);
    let (mut sources, mut targets) = (Places(0), Places(0));
    let mut actions = Vec::new();
    for _ in 0..LAYERS {
        let one = |bytes| {
            let (source, target) = (sources.take(bytes), targets.take(bytes * ranks));
            Action::AllGather { source, target, bytes }
        };
        actions.extend(grouped(order.clone().map(one).collect()));
    }
    actions
}

/// Allgathers of the same size in one group.
fn gathers(request: &Request) -> Vec<Action> {
    let bytes = request.bytes();
    let (mut sources, mut targets) = (Places(0), Places(0));
    let one = |_| {
        let (source, target) = (sources.take(bytes), targets.take(bytes * request.ranks));
        Action::AllGather { source, target, bytes }
    };
    grouped((0..request.messages).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DataType, Reduction};
    use std::collections::HashMap;

    const PATTERNS: [Operation; 6] = [
        Operation::Neox,
        Operation::NeoxLone,
        Operation::NeoxBulk,
        Operation::Moe,
        Operation::Zero3,
        Operation::Gathers,
    ];

    fn request(operation: Operation, rank: usize, ranks: usize) -> Request {
        Request {
            operation,
            data_type: DataType::Uint8,
            reduction: Reduction::Sum,
            root: 0,
            count: 900,
            messages: 5,
            tensor: 4,
            mask_bytes: 300,
            rank,
            ranks,
        }
    }

    #[test]
    fn every_message_is_received_as_it_was_sent() {
        for operation in PATTERNS {
            for ranks in 1..5 {
                let mut sent: HashMap<(usize, usize), Vec<(usize, usize)>> = HashMap::new();
                let mut received = sent.clone();
                for rank in 0..ranks {
                    for action in actions(&request(operation, rank, ranks)) {
                        match action {
                            Action::Send { peer, offset, bytes } => {
                                sent.entry((rank, peer)).or_default().push((offset, bytes));
                            }
                            Action::Receive { peer, bytes, origin, .. } => {
                                received.entry((peer, rank)).or_default().push((origin, bytes));
                            }
                            _ => {}
                        }
                    }
                }
                assert_eq!(sent, received, "{operation:?} on {ranks} ranks");
            }
        }
    }

    #[test]
    fn results_do_not_overlap_and_groups_close() {
        for operation in PATTERNS {
            for ranks in 2..5 {
                let request = request(operation, ranks - 1, ranks);
                let (mut places, mut open) = (Vec::new(), 0);
                for action in actions(&request) {
                    match action {
                        Action::Open => open += 1,
                        Action::Close => open -= 1,
                        Action::Receive { offset, bytes, .. } => places.push((offset, bytes)),
                        Action::AllGather { target, bytes, .. } => places.push((target, bytes * ranks)),
                        Action::Send { .. } => {}
                    }
                    assert!((0..=1).contains(&open));
                }
                assert_eq!(open, 0);
                places.sort_unstable();
                assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{operation:?}");
                let (_, written) = buffer_bytes(&request);
                assert!(places.last().is_some_and(|(offset, bytes)| offset + bytes == written));
            }
        }
    }

    #[test]
    fn a_stage_boundary_has_the_messages_of_the_framework() {
        for (tensor, metadata) in [(2, 72), (4, 88), (8, 120)] {
            let request = Request { tensor, ..request(Operation::NeoxLone, 0, 2) };
            let found: Vec<_> = actions(&request)
                .into_iter()
                .map(|action| match action {
                    Action::Send { bytes, .. } => (true, bytes),
                    Action::Receive { bytes, .. } => (false, bytes),
                    other => panic!("{other:?}"),
                })
                .collect();
            let expected = [(true, metadata), (true, 900), (true, 300), (false, metadata), (false, 900)];
            assert_eq!(found, expected);
        }
        assert_eq!(message_count(&request(Operation::Neox, 0, 2)), 3);
        assert_eq!(message_count(&request(Operation::NeoxBulk, 1, 2)), 1);
        assert_eq!(received_bytes(&request(Operation::NeoxBulk, 1, 2)), 1200);
    }

    #[test]
    fn parameters_are_hundreds_of_small_ones_among_large_ones() {
        let actions = actions(&Request { count: 1 << 20, ..request(Operation::Zero3, 0, 2) });
        let of = |wanted: fn(usize) -> bool| {
            let fits = |action: &&Action| matches!(action, Action::AllGather { bytes, .. } if wanted(*bytes));
            actions.iter().filter(fits).count()
        };
        assert_eq!((of(|bytes| bytes <= 8192), of(|bytes| bytes > 8192)), (192, 96));
    }
}
