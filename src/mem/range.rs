//! Half-open ranges of addresses and sorted sets of them.
//!
//! `[start, end)` everywhere; inclusive input (`/proc/iomem`) enters through [`Range::from_inclusive`] only.

use std::fmt;

/// `start <= x < end`. Holding one proves `start <= end`; an empty range has `start == end`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    start: u64,
    end: u64,
}

impl Range {
    /// `[start, end)`; `None` if `end < start`.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }

    /// `len` bytes from `start`; `None` if the end would not fit in 64 bits.
    pub const fn with_len(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// `[first, last]` as `/proc/iomem` prints it. A `last` of `u64::MAX` loses its last byte.
    pub const fn from_inclusive(first: u64, last: u64) -> Option<Self> {
        Self::new(first, last.saturating_add(1))
    }

    /// First address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First address behind the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Bytes.
    pub const fn len(self) -> u64 {
        self.end.wrapping_sub(self.start)
    }

    /// Whether there is no byte in it.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `address` lies inside.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether all of `other` lies inside; an empty `other` does if its start is within or at the end.
    pub const fn contains_range(self, other: Range) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The common part; `None` if there is none.
    pub fn intersect(self, other: Range) -> Option<Range> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Range { start, end })
    }

    /// Whether a byte lies in both.
    pub fn overlaps(self, other: Range) -> bool {
        self.intersect(other).is_some()
    }

    /// Shrunk to whole multiples of `align` (a power of two): `0x1-0x3001` by 0x1000 is `0x1000-0x3000`.
    pub fn align_inward(self, align: u64) -> Range {
        let mask = align.wrapping_sub(1);
        let end = self.end & !mask;
        let start = self.start.checked_add(mask).map_or(end, |s| s & !mask).min(end);
        Range { start, end }
    }

    /// Grown to whole multiples of `align` (a power of two); `None` where that leaves 64 bits.
    pub fn align_outward(self, align: u64) -> Option<Range> {
        let mask = align.wrapping_sub(1);
        Some(Range { start: self.start & !mask, end: self.end.checked_add(mask)? & !mask })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of addresses: sorted, disjoint, non-empty ranges with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + ExactSizeIterator + '_ {
        self.0.iter().copied()
    }

    /// Number of ranges.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no address.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Addresses in the set.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|r| r.len()).sum()
    }

    /// The range that holds `address`.
    pub fn find(&self, address: u64) -> Option<Range> {
        let i = self.0.partition_point(|r| r.end <= address);
        self.0.get(i).copied().filter(|r| r.contains(address))
    }

    /// Whether all of `range` is in the set.
    pub fn contains_range(&self, range: Range) -> bool {
        range.is_empty() || self.find(range.start).is_some_and(|r| r.contains_range(range))
    }

    /// Adds `range`, merging what touches it.
    pub fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|r| r.end < range.start);
        let to = self.0.partition_point(|r| r.start <= range.end);
        let merged = self
            .0
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(range, |a, r| Range { start: a.start.min(r.start), end: a.end.max(r.end) });
        self.0.splice(from..to, [merged]);
    }

    /// Takes `range` out.
    pub fn remove(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|r| r.end <= range.start);
        let to = self.0.partition_point(|r| r.start < range.end);
        let mut rest = Vec::with_capacity(2);
        for r in self.0.get(from..to).unwrap_or_default() {
            if r.start < range.start {
                rest.push(Range { start: r.start, end: range.start });
            }
            if range.end < r.end {
                rest.push(Range { start: range.end, end: r.end });
            }
        }
        self.0.splice(from..to, rest);
    }

    /// The part inside `window`.
    pub fn within(&self, window: Range) -> Ranges {
        self.iter().filter_map(|r| r.intersect(window)).collect()
    }
}

impl FromIterator<Range> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range>>(iter: I) -> Self {
        let mut sorted: Vec<Range> = iter.into_iter().filter(|r| !r.is_empty()).collect();
        sorted.sort_unstable();
        let mut out: Vec<Range> = Vec::with_capacity(sorted.len());
        for r in sorted {
            match out.last_mut() {
                Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                _ => out.push(r),
            }
        }
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).expect("start <= end")
    }

    #[test]
    fn inclusive_input_gains_its_last_byte() {
        assert_eq!(Range::from_inclusive(0x1000, 0x1fff), Some(range(0x1000, 0x2000)));
        assert_eq!(Range::from_inclusive(0, u64::MAX), Some(range(0, u64::MAX)));
        assert_eq!(Range::from_inclusive(2, 0), None);
    }

    #[test]
    fn alignment_near_the_edges() {
        assert_eq!(range(1, 0x3001).align_inward(0x1000), range(0x1000, 0x3000));
        assert_eq!(range(1, 0xfff).align_inward(0x1000).len(), 0);
        assert_eq!(range(1, u64::MAX).align_outward(0x1000), None);
    }

    /// The specification: a set of small numbers.
    fn bits(ranges: &Ranges) -> u64 {
        (0..64).filter(|b| ranges.find(*b).is_some()).fold(0, |m, b| m | 1 << b)
    }

    proptest! {
        #[test]
        fn sets_behave_like_bit_masks(ops in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40)) {
            let (mut set, mut model) = (Ranges::new(), 0u64);
            for (add, a, b) in ops {
                let r = range(a.min(b), a.max(b));
                let mask = (r.start()..r.end()).fold(0u64, |m, b| m | 1 << b);
                if add { set.insert(r); model |= mask } else { set.remove(r); model &= !mask }
                prop_assert_eq!(bits(&set), model);
                prop_assert_eq!(set.total(), u64::from(model.count_ones()));
                prop_assert!(set.0.windows(2).all(|w| w[0].end < w[1].start));
                prop_assert_eq!(&set.iter().collect::<Ranges>(), &set);
            }
        }
    }
}
