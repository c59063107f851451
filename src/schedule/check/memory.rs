//! One rank's memory: what every byte means and who touched it last.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::TermId;

/// Some bytes of one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bytes: usize,
    pub(super) term: TermId,
    /// The offset in the ranks' sources that the first byte comes from.
    pub(super) origin: usize,
}

impl Part {
    /// What is left behind the first `bytes`.
    pub(super) fn behind(self, bytes: usize) -> Option<Part> {
        (self.bytes > bytes).then(|| Part { bytes: self.bytes - bytes, origin: self.origin + bytes, ..self })
    }
}

/// Appends a part, joined with the last one where the two are one.
pub(super) fn push_part(parts: &mut Vec<Part>, part: Part) {
    match parts.last_mut() {
        Some(last) if last.term == part.term && last.origin + last.bytes == part.origin => {
            last.bytes += part.bytes;
        }
        _ => parts.push(part),
    }
}

#[derive(Clone, Debug)]
struct Segment {
    part: Part,
    writer: Option<usize>,
    readers: Vec<usize>,
}

/// By first byte; disjoint; what is absent was never written.
#[derive(Debug, Default)]
pub(super) struct Memory {
    segments: BTreeMap<usize, Segment>,
}

impl Memory {
    /// What a source holds before anything ran: data that comes from `origin` on.
    pub(super) fn fill(&mut self, start: usize, bytes: usize, term: TermId, origin: usize) {
        if bytes > 0 {
            let part = Part { bytes, term, origin };
            self.segments.insert(start, Segment { part, writer: None, readers: Vec::new() });
        }
    }

    fn split(&mut self, at: usize) {
        let Some((&start, before)) = self.segments.range_mut(..at).next_back() else { return };
        let Some(rest) = before.part.behind(at - start) else { return };
        let after = Segment { part: rest, ..before.clone() };
        before.part.bytes = at - start;
        self.segments.insert(at, after);
    }

    /// What lies there; `step` must come behind whoever wrote it.
    pub(super) fn read(
        &mut self,
        start: usize,
        bytes: usize,
        step: usize,
        is_ordered: impl Fn(usize, usize) -> bool,
    ) -> Result<Vec<Part>, String> {
        self.split(start);
        self.split(start + bytes);
        let mut parts = Vec::new();
        let mut next = start;
        for (&at, segment) in self.segments.range_mut(start..start + bytes) {
            if at != next {
                break;
            }
            if segment.writer.is_some_and(|writer| !is_ordered(writer, step)) {
                return Err(format!("step {step} reads without waiting for step {:?}", segment.writer));
            }
            segment.readers.push(step);
            push_part(&mut parts, segment.part);
            next += segment.part.bytes;
        }
        if next != start + bytes {
            return Err(format!("step {step} reads what was never written"));
        }
        Ok(parts)
    }

    /// Puts `parts` there; `step` must come behind whoever touched it.
    pub(super) fn write(
        &mut self,
        start: usize,
        parts: Vec<Part>,
        step: usize,
        is_ordered: impl Fn(usize, usize) -> bool,
    ) -> Result<(), String> {
        let end = start + parts.iter().map(|part| part.bytes).sum::<usize>();
        self.split(start);
        self.split(end);
        while let Some((&at, segment)) = self.segments.range(start..end).next() {
            let mut earlier = segment.readers.iter().chain(&segment.writer);
            if let Some(other) = earlier.find(|&&other| !is_ordered(other, step)) {
                return Err(format!("step {step} writes without waiting for step {other}"));
            }
            self.segments.remove(&at);
        }
        let mut at = start;
        for part in parts {
            self.segments.insert(at, Segment { part, writer: Some(step), readers: Vec::new() });
            at += part.bytes;
        }
        Ok(())
    }
}
