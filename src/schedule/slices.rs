//! Inside hosts, then between them: as many ranks of every host as the smallest host has ranks are its rails,
//! and each rail carries its slice between hosts, so that all of a host's links work. With one rail all goes
//! through a leader, and what a host sends to another is one message.
//!
//! ```text
//! rail of a rank = its place on its host modulo the number of rails; its owner = the first such rank there
//! AllReduce:      slice r to owner r of the host, which sums;  owners of a rail: AllReduce between hosts;
//!                 owner r sends slice r to all ranks of the host
//! ReduceScatter:  the blocks of rail r to owner r of the host, which sums;  owners: ReduceScatter between
//!                 hosts of each host's blocks;  owner sends each block to its rank
//! AllGather:      blocks to owners;  owners: AllGather between hosts;  owners send all to all of the host
//! Broadcast:      the root sends slice r to owner r of its host;  along a tree of hosts;  owners send to all
//! Reduce:         the same backwards, sums on the way
//! AlltoAll:       see `mesh`
//! ```
//! 1. Between hosts the work of a rail is that of `group`, for any number of hosts.
//! 2. Hosts may hold different numbers of ranks: who owns no rail gives to an owner and takes from it.
//! 3. Each slice is summed once per host and once between hosts, by one rank: all results have the same bits.
#![forbid(unsafe_code)]

mod mesh;

use super::group::{Group, Sums, all_gather, push_range, reduce_scatter};
use super::task::{Input, Slots, Task, piece, pieces, within};
use super::{Builder, Plan, Range, SOURCE, TARGET, tree};
use crate::op::Kind;

/// Pieces of a rail that may be in use at once. First guess, to be measured.
const PIECES_HELD: usize = 4;
/// Of the tree of hosts.
const HOST_RADIX: u32 = 2;

pub(super) fn plan(task: &Task<'_>, name: &'static str, most_rails: u32) -> Option<Plan> {
    let mut builder = task.builder(name);
    let rails = Rails::new(task, most_rails);
    match task.call.kind {
        Kind::AllReduce => all_reduce(task, &rails, &mut builder),
        Kind::ReduceScatter => scatter_sums(task, &rails, &mut builder),
        Kind::AllGather => gather_all(task, &rails, &mut builder),
        Kind::Broadcast => broadcast(task, &rails, &mut builder),
        Kind::Reduce => reduce(task, &rails, &mut builder),
        Kind::AlltoAll => mesh::all_to_all(task, &rails, &mut builder),
        _ => return None,
    }
    Some(builder.finish())
}

/// Where one rank stands on its host.
struct Rails {
    hosts: Vec<Vec<u32>>,
    /// This rank's host.
    host: usize,
    /// Its place there.
    place: usize,
    /// How many rails there are.
    count: usize,
}

impl Rails {
    fn new(task: &Task<'_>, most: u32) -> Rails {
        let hosts = task.hosts.groups(task.ranks());
        let host = hosts.iter().position(|host| host.contains(&task.rank)).unwrap_or(0);
        let place = hosts[host].iter().position(|&rank| rank == task.rank).unwrap_or(0);
        let smallest = hosts.iter().map(Vec::len).min().unwrap_or(1);
        Rails { host, place, count: smallest.min(most as usize), hosts }
    }

    /// The ranks of this host.
    fn local(&self) -> &[u32] {
        &self.hosts[self.host]
    }

    fn is_owner(&self) -> bool {
        self.place < self.count
    }

    /// The rail of this rank.
    fn rail(&self) -> usize {
        self.place % self.count
    }

    /// The owner of this rank's rail on this host.
    fn owner(&self) -> u32 {
        self.local()[self.rail()]
    }

    /// The places on this host from the one after this rank's, around.
    fn places_after(&self) -> impl Iterator<Item = usize> + use<> {
        let (place, count) = (self.place, self.local().len());
        (1..count).map(move |distance| (place + distance) % count)
    }

    /// The places on this host from the one before this rank's, around.
    fn places_before(&self) -> impl Iterator<Item = usize> + use<> {
        let (place, count) = (self.place, self.local().len());
        (1..count).map(move |distance| (place + count - distance) % count)
    }

    /// The ranks of `rail` on a host.
    fn on(&self, host: usize, rail: usize) -> impl Iterator<Item = u32> + '_ {
        self.hosts[host].iter().skip(rail).step_by(self.count).copied()
    }

    /// The owners of this rank's rail, by host; `None` if it is not one of them.
    fn column(&self, task: &Task<'_>) -> Option<Group> {
        Group::of(task, self.hosts.iter().map(|host| host[self.rail()]).collect())
    }
}

/// One piece of every rail's data to its owner, who sums; nothing left over for who owns no rail.
fn sum_at_owners(
    rails: &Rails,
    builder: &mut Builder,
    input: &mut Input,
    own: impl Fn(usize) -> Range,
    into: impl FnOnce(&mut Builder, Range) -> Range,
) -> Option<Range> {
    for place in rails.places_after().filter(|&place| place < rails.count) {
        let from = input.take(builder, own(place));
        builder.send(rails.local()[place], from);
    }
    if !rails.is_owner() {
        return None;
    }
    let mine = own(rails.place);
    let mut sum = input.take(builder, mine);
    if rails.local().len() > 1 {
        let into = into(builder, mine);
        for place in rails.places_before() {
            builder.recv_reduce(rails.local()[place], sum, into, false);
            sum = into;
        }
    }
    Some(sum)
}

fn all_reduce(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes());
    let mut input = Input::new(builder, task, rails.local().len() + 1, piece_bytes);
    let column = rails.column(task);
    let hosts = rails.hosts.len() as u32;
    for part in pieces(task.whole(SOURCE), task.part_bytes(task.call.bytes())) {
        let slice = |rail: usize| task.cut(part, rail as u32, rails.count as u32);
        for index in 0..slice(0).bytes.div_ceil(piece_bytes) {
            let own = |rail: usize| piece(slice(rail), index, piece_bytes);
            let sum = sum_at_owners(rails, builder, &mut input, own, |_, own| own.of(TARGET));
            if let Some(sum) = sum {
                builder.copy(sum, own(rails.place).of(TARGET));
            }
        }
        if let Some(column) = column.as_ref().filter(|_| rails.is_owner()) {
            let mine = slice(rails.place).of(TARGET);
            let own = |host: u32| task.cut(mine, host, hosts);
            let sum = |distance: u32, _| own(column.after(distance));
            let sums = Sums { own: &own, sum: &sum, piece_bytes };
            reduce_scatter(task, builder, column, &mut Input::as_it_is(), &sums);
            all_gather(task, builder, column, None, |host, ranges| push_range(ranges, own(host)));
            for place in rails.places_after() {
                task.send_all(builder, rails.local()[place], &[mine]);
            }
        }
        for place in rails.places_before().filter(|&place| place < rails.count) {
            task.receive_all(builder, rails.local()[place], &[slice(place).of(TARGET)]);
        }
    }
}

fn scatter_sums(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    let piece_bytes = task.piece_bytes(task.call.bytes() * task.ranks() as usize);
    let mut input = Input::new(builder, task, rails.local().len() + 1, piece_bytes);
    let owners: Vec<Vec<u32>> = (0..rails.count)
        .map(|rail| (0..rails.hosts.len()).flat_map(|host| rails.on(host, rail)).collect())
        .collect();
    let mut aside = None;
    for part in task.block_parts() {
        let own_count = if rails.is_owner() { owners[rails.place].len() } else { 0 };
        let aside = *aside.get_or_insert_with(|| builder.scratch(own_count * part.bytes));
        let runs: Vec<_> = owners.iter().map(|owners| runs_of(task, owners, part)).collect();
        let run_count = runs.iter().map(Vec::len).max().unwrap_or(0);
        let longest_bytes = runs.iter().flatten().map(|(_, run)| run.bytes).max().unwrap_or(0);
        for (number, index) in (0..run_count)
            .flat_map(|number| (0..longest_bytes.div_ceil(piece_bytes)).map(move |index| (number, index)))
        {
            let own = |rail: usize| match runs[rail].get(number) {
                Some(&(_, run)) => piece(run, index, piece_bytes),
                None => Range::new(SOURCE, 0, 0),
            };
            let into = |own: Range| {
                let start = runs[rails.rail()].get(number).map_or(0, |(start, _)| *start);
                within(aside, start + index * piece_bytes, own.bytes)
            };
            if let Some(sum) = sum_at_owners(rails, builder, &mut input, own, |_, own| into(own)) {
                builder.copy(sum, into(sum));
            }
        }
        let column = rails.column(task).filter(|_| rails.is_owner());
        let Some(column) = column else {
            task.receive_all(builder, rails.owner(), &[part.of(TARGET)]);
            continue;
        };
        // Where each host's blocks begin.
        let mut starts = vec![0];
        for host in 0..rails.hosts.len() {
            starts.push(starts[host] + rails.on(host, rails.place).count());
        }
        let own = |host: u32| {
            let [first, end] = [starts[host as usize], starts[host as usize + 1]];
            within(aside, first * part.bytes, (end - first) * part.bytes)
        };
        let sum = |distance: u32, _| own(column.after(distance));
        let sums = Sums { own: &own, sum: &sum, piece_bytes };
        reduce_scatter(task, builder, &column, &mut Input::as_it_is(), &sums);
        for (rank, number) in rails.on(rails.host, rails.place).zip(starts[rails.host]..) {
            let from = within(aside, number * part.bytes, part.bytes);
            if rank == task.rank {
                builder.copy(from, part.of(TARGET));
            } else {
                task.send_all(builder, rank, &[from]);
            }
        }
    }
}

/// The parts of the blocks of some ranks, joined where they lie side by side, each with where it starts if all
/// of them do.
fn runs_of(task: &Task<'_>, ranks: &[u32], part: Range) -> Vec<(usize, Range)> {
    let mut runs: Vec<(usize, Range)> = Vec::new();
    for (number, &rank) in ranks.iter().enumerate() {
        let own = within(task.slice(SOURCE, rank), part.offset, part.bytes);
        match runs.last_mut() {
            Some((_, run)) if run.end() == own.offset => run.bytes += own.bytes,
            _ => runs.push((number * part.bytes, own)),
        }
    }
    runs
}

fn gather_all(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    let own = task.slice(TARGET, task.rank);
    builder.copy(task.whole(SOURCE), own);
    // The blocks of a rail but for those of one rank.
    let blocks = |rail: usize, without: u32| {
        let mut ranges = Vec::new();
        for rank in (0..rails.hosts.len()).flat_map(|host| rails.on(host, rail)) {
            if rank != without {
                push_range(&mut ranges, task.slice(TARGET, rank));
            }
        }
        ranges
    };
    if rails.is_owner() {
        for rank in rails.on(rails.host, rails.place).skip(1) {
            task.receive_all(builder, rank, &[task.slice(TARGET, rank)]);
        }
        if let Some(column) = rails.column(task) {
            all_gather(task, builder, &column, None, |host, ranges| {
                for rank in rails.on(host as usize, rails.place) {
                    push_range(ranges, task.slice(TARGET, rank));
                }
            });
        }
        for place in rails.places_after() {
            let peer = rails.local()[place];
            task.send_all(builder, peer, &blocks(rails.place, peer));
        }
    } else {
        task.send_all(builder, rails.owner(), &[own]);
    }
    for place in rails.places_before().filter(|&place| place < rails.count) {
        task.receive_all(builder, rails.local()[place], &blocks(place, task.rank));
    }
}

/// Where the root stands, and the tree of hosts from its host.
struct Rooted {
    is_root_host: bool,
    /// The root's place on its host.
    root_place: usize,
    /// The hosts above and below this one.
    parent: Option<usize>,
    children: Vec<usize>,
}

impl Rooted {
    fn new(task: &Task<'_>, rails: &Rails) -> Rooted {
        let root = task.call.root;
        let count = rails.hosts.len();
        let root_host = rails.hosts.iter().position(|host| host.contains(&root)).unwrap_or(0);
        let root_place = rails.hosts[root_host].iter().position(|&rank| rank == root).unwrap_or(0);
        let place = (rails.host + count - root_host) % count;
        let (parent, children) = tree::places(place as u32, count as u32, HOST_RADIX);
        let host_at = |place: u32| (place as usize + root_host) % count;
        Rooted {
            is_root_host: place == 0,
            root_place,
            parent: parent.map(host_at),
            children: children.into_iter().map(|(child, _)| host_at(child)).collect(),
        }
    }
}

fn broadcast(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    let rooted = Rooted::new(task, rails);
    let buffer = if task.is_root() { SOURCE } else { TARGET };
    let slice = |rail: usize| task.cut(task.whole(buffer), rail as u32, rails.count as u32);
    let piece_bytes = task.piece_bytes(slice(0).bytes);
    for index in 0..slice(0).bytes.div_ceil(piece_bytes) {
        let of = |rail: usize| piece(slice(rail), index, piece_bytes);
        if task.is_root() {
            for place in rails.places_after().filter(|&place| place < rails.count) {
                builder.send(rails.local()[place], of(place));
            }
        }
        if rails.is_owner() {
            let mine = of(rails.place);
            if !task.is_root() {
                let from = match rooted.parent {
                    Some(host) => rails.hosts[host][rails.place],
                    None => task.call.root,
                };
                builder.recv(from, mine);
            }
            for &host in rooted.children.iter().rev() {
                builder.send(rails.hosts[host][rails.place], mine);
            }
            for place in rails.places_after() {
                if !(rooted.is_root_host && place == rooted.root_place) {
                    builder.send(rails.local()[place], mine);
                }
            }
        }
        if !task.is_root() {
            for place in rails.places_before().filter(|&place| place < rails.count) {
                // The root may own a rail: its slice comes from it like those of other owners.
                builder.recv(rails.local()[place], of(place));
            }
        }
    }
    if task.is_root() {
        builder.copy(task.whole(SOURCE), task.whole(TARGET));
    }
}

fn reduce(task: &Task<'_>, rails: &Rails, builder: &mut Builder) {
    let rooted = Rooted::new(task, rails);
    let slice = |rail: usize| task.cut(task.whole(SOURCE), rail as u32, rails.count as u32);
    let piece_bytes = task.piece_bytes(slice(0).bytes);
    let mut input = Input::new(builder, task, rails.local().len() + 1, piece_bytes);
    let mut aside = (!task.is_root()).then(|| Slots::new(builder, PIECES_HELD, piece_bytes));
    for index in 0..slice(0).bytes.div_ceil(piece_bytes) {
        let of = |rail: usize| piece(slice(rail), index, piece_bytes);
        let mine = of(rails.rail());
        let into = aside.as_mut().map_or(mine.of(TARGET), |slots| slots.take(mine.bytes));
        if let Some(mut sum) = sum_at_owners(rails, builder, &mut input, of, |_, _| into) {
            for &host in &rooted.children {
                builder.recv_reduce(rails.hosts[host][rails.place], sum, into, false);
                sum = into;
            }
            match rooted.parent {
                Some(host) => _ = builder.send(rails.hosts[host][rails.place], sum),
                // Somebody's data was added here, for there are two ranks at least: the sum lies there.
                None => settle_for_root(task, builder, into),
            }
        }
        if task.is_root() {
            for place in rails.places_before().filter(|&place| place < rails.count) {
                builder.recv(rails.local()[place], of(place).of(TARGET));
            }
        }
    }
}

/// The sum of a slice on the root's host: it is there, or goes there.
fn settle_for_root(task: &Task<'_>, builder: &mut Builder, sum: Range) {
    task.settle(builder, sum);
    if !task.is_root() {
        builder.send(task.call.root, sum);
    }
}
