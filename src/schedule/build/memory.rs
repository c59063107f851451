//! Who touched which bytes of one buffer last.
//!
//! Segments of bytes that were touched alike lie in order, in short runs: a step is found by looking at the run used
//! last, else by halving, and from there its segments are walked. Runs are short so that a segment in between moves
//! few others.
#![forbid(unsafe_code)]

use crate::schedule::Range;

/// A run that grows to so many segments is cut in half.
const RUN_SEGMENTS: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// None of them empty; segments disjoint and ascending.
    runs: Vec<Vec<Segment>>,
    /// The run used last.
    last: usize,
}

#[derive(Clone, Debug)]
struct Segment {
    start: usize,
    end: usize,
    writer: Option<u32>,
    /// Since it was written: mostly one, which then costs no allocation.
    reader: Option<u32>,
    more_readers: Vec<u32>,
}

impl Segment {
    fn new(start: usize, end: usize, writer: Option<u32>, reader: Option<u32>) -> Segment {
        Segment { start, end, writer, reader, more_readers: Vec::new() }
    }

    fn read(&mut self, step: u32, needed: &mut Vec<u32>) {
        needed.extend(self.writer);
        match self.reader {
            None => self.reader = Some(step),
            Some(_) => self.more_readers.push(step),
        }
    }

    /// What a writer has to wait for.
    fn add_users(&self, needed: &mut Vec<u32>) {
        if self.reader.is_none() {
            needed.extend(self.writer);
        }
        needed.extend(self.reader.iter().chain(&self.more_readers));
    }
}

/// A run, and a segment in it or the place behind its last.
#[derive(Clone, Copy)]
struct Place {
    run: usize,
    index: usize,
}

impl Memory {
    /// The first segment that ends behind `offset`.
    fn find(&mut self, offset: usize) -> Place {
        let ends_behind = |run: &Vec<Segment>| run.last().is_some_and(|last| last.end > offset);
        let is_last = self.runs.get(self.last).is_some_and(ends_behind)
            && (self.last == 0 || !ends_behind(&self.runs[self.last - 1]));
        if !is_last {
            self.last = self.runs.partition_point(|run| !ends_behind(run));
        }
        let index = match self.runs.get(self.last) {
            Some(run) => run.partition_point(|segment| segment.end <= offset),
            None => 0,
        };
        Place { run: self.last, index }
    }

    fn get(&mut self, place: Place) -> Option<&mut Segment> {
        self.runs.get_mut(place.run)?.get_mut(place.index)
    }

    /// The place behind.
    fn after(&self, place: Place) -> Place {
        let is_within = place.index + 1 < self.runs[place.run].len();
        if is_within {
            Place { run: place.run, index: place.index + 1 }
        } else {
            Place { run: place.run + 1, index: 0 }
        }
    }

    /// Puts a segment in front of a place; where it lies.
    fn insert(&mut self, place: Place, segment: Segment) -> Place {
        let mut place = place;
        // In front of a run is behind the one before it, where there is one.
        if place.index == 0 && place.run > 0 {
            place = Place { run: place.run - 1, index: self.runs[place.run - 1].len() };
        }
        if self.runs.is_empty() {
            self.runs.push(Vec::with_capacity(RUN_SEGMENTS));
        }
        let run = &mut self.runs[place.run];
        if run.len() == RUN_SEGMENTS {
            // What is filled in order leaves full runs behind.
            let half = if place.index == RUN_SEGMENTS { RUN_SEGMENTS } else { RUN_SEGMENTS / 2 };
            let mut rest = Vec::with_capacity(RUN_SEGMENTS);
            rest.extend(run.drain(half..));
            self.runs.insert(place.run + 1, rest);
            if place.index >= half {
                place = Place { run: place.run + 1, index: place.index - half };
            }
        }
        self.runs[place.run].insert(place.index, segment);
        place
    }

    /// Makes `offset` a border within the segment at `place`; the place of its second half.
    fn split(&mut self, place: Place, offset: usize) -> Place {
        let before = &mut self.runs[place.run][place.index];
        let mut after = before.clone();
        before.end = offset;
        after.start = offset;
        let behind = self.after(place);
        self.insert(behind, after)
    }

    pub(super) fn read(&mut self, range: Range, step: u32, needed: &mut Vec<u32>) {
        let mut place = self.find(range.offset);
        let mut next = range.offset;
        while next < range.end() {
            let start = self.get(place).map_or(usize::MAX, |segment| segment.start);
            if start > next {
                let end = start.min(range.end());
                place = self.insert(place, Segment::new(next, end, None, Some(step)));
                next = end;
            } else if start < next {
                place = self.split(place, next);
                continue;
            } else {
                let end = self.runs[place.run][place.index].end;
                if end > range.end() {
                    let after = self.split(place, range.end());
                    // The cut may have moved the first half too; it lies in front of the second.
                    place = self.before(after);
                }
                let segment = &mut self.runs[place.run][place.index];
                segment.read(step, needed);
                next = segment.end;
            }
            place = self.after(place);
        }
    }

    /// The place in front.
    fn before(&self, place: Place) -> Place {
        match place.index.checked_sub(1) {
            Some(index) => Place { run: place.run, index },
            None => Place { run: place.run - 1, index: self.runs[place.run - 1].len() - 1 },
        }
    }

    pub(super) fn write(&mut self, range: Range, step: u32, needed: &mut Vec<u32>) {
        let mut place = self.find(range.offset);
        if self.get(place).is_some_and(|segment| segment.start < range.offset) {
            place = self.split(place, range.offset);
        }
        let mut has_written = false;
        while let Some(segment) = self.get(place).filter(|segment| segment.start < range.end()) {
            segment.add_users(needed);
            if segment.end > range.end() {
                segment.start = range.end();
                break;
            }
            if has_written {
                self.remove(&mut place);
                continue;
            }
            *segment = Segment::new(range.offset, range.end(), Some(step), None);
            has_written = true;
            place = self.after(place);
        }
        if !has_written {
            self.insert(place, Segment::new(range.offset, range.end(), Some(step), None));
        }
    }

    /// Takes out the segment at a place, which is then that of the one behind it.
    fn remove(&mut self, place: &mut Place) {
        self.runs[place.run].remove(place.index);
        if self.runs[place.run].is_empty() {
            self.runs.remove(place.run);
            place.index = 0;
        } else if place.index == self.runs[place.run].len() {
            *place = Place { run: place.run + 1, index: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::TARGET;

    /// Byte by byte.
    #[derive(Clone, Default)]
    struct Byte {
        writer: Option<u32>,
        readers: Vec<u32>,
    }

    fn naive(bytes: &mut [Byte], is_write: bool, step: u32) -> Vec<u32> {
        let mut needed = Vec::new();
        for byte in bytes {
            if is_write && !byte.readers.is_empty() {
                needed.extend(&byte.readers);
            } else {
                needed.extend(byte.writer);
            }
            if is_write {
                *byte = Byte { writer: Some(step), readers: Vec::new() };
            } else {
                byte.readers.push(step);
            }
        }
        needed
    }

    #[test]
    fn agrees_with_every_byte_by_itself() {
        let mut state = 11_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        // Few bytes, so that ranges meet; and many, so that runs are cut.
        for (bytes, longest, steps) in [(16, 6, 200), (100, 30, 400), (4000, 12, 3000), (3000, 900, 500)] {
            for _ in 0..5 {
                let mut memory = Memory::default();
                let mut oracle = vec![Byte::default(); bytes];
                for step in 0..steps {
                    let offset = next(bytes);
                    let range = Range::new(TARGET, offset, 1 + next(longest.min(bytes - offset)));
                    let is_write = next(2) == 0;
                    let mut needed = Vec::new();
                    if is_write {
                        memory.write(range, step, &mut needed);
                    } else {
                        memory.read(range, step, &mut needed);
                    }
                    let mut expected = naive(&mut oracle[offset..range.end()], is_write, step);
                    for list in [&mut needed, &mut expected] {
                        list.sort_unstable();
                        list.dedup();
                    }
                    assert_eq!(needed, expected, "step {step} of {bytes} bytes");
                    let all = || memory.runs.iter().flatten();
                    assert!(memory.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_SEGMENTS));
                    assert!(all().zip(all().skip(1)).all(|(one, other)| one.end <= other.start));
                    assert!(all().all(|segment| segment.start < segment.end));
                }
            }
        }
    }
}
