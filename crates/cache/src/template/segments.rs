//! Leads from a place in a rewritten template back to the author's.

use std::ops::Range;

/// What the rewritten text is made of, first to last, without gaps.
#[derive(Debug, Default)]
pub(super) struct Segments(Vec<Segment>);

#[derive(Debug)]
struct Segment {
    /// Where it starts in the rewritten text.
    start: usize,
    length: usize,
    /// What it was copied from, or what it stands for.
    source: Range<usize>,
    copied: bool,
}

impl Segments {
    /// Appends a piece of the source.
    pub(super) fn copied(&mut self, source: Range<usize>) {
        self.push(source.len(), source, true);
    }

    /// Appends text of ours that stands for a piece of the source, such as a whole tag.
    pub(super) fn generated(&mut self, length: usize, stands_for: Range<usize>) {
        self.push(length, stands_for, false);
    }

    fn push(&mut self, length: usize, source: Range<usize>, copied: bool) {
        if length > 0 {
            let start = self.0.last().map_or(0, |last| last.start + last.length);
            self.0.push(Segment { start, length, source, copied });
        }
    }

    /// Returns what of the source a range of the rewritten text comes from.
    pub(super) fn source_range(&self, range: Range<usize>) -> Range<usize> {
        let start = self.at(range.start).map_or(0, |segment| segment.source_start(range.start));
        let last = range.end.saturating_sub(1).max(range.start);
        let end = self.at(last).map_or(start, |segment| segment.source_end(last));
        start..end.max(start)
    }

    /// Tells whether the text at an index of the rewritten text is ours.
    pub(super) fn is_generated(&self, index: usize) -> bool {
        self.at(index).is_some_and(|segment| !segment.copied)
    }

    /// Returns the segment that an index of the rewritten text lies in; past the end it is the last one.
    fn at(&self, index: usize) -> Option<&Segment> {
        let after = self.0.partition_point(|segment| segment.start <= index);
        self.0.get(after.checked_sub(1)?)
    }
}

impl Segment {
    fn source_start(&self, index: usize) -> usize {
        let offset = if self.copied { index - self.start } else { 0 };
        (self.source.start + offset).min(self.source.end)
    }

    fn source_end(&self, index: usize) -> usize {
        if self.copied { self.source_start(index + 1) } else { self.source.end }
    }
}
