//! A page with room behind it, so that loads need not be checked: what encoders search for repeats.

/// The longest page that fits, in bytes.
pub const MAX_INPUT: usize = 1 << 14;
/// How far behind a page a load may reach.
pub const WIDE: usize = 16;
/// Indices are cut to this, twice what is needed: none that is meant wraps around.
const ROOM: usize = 2 * MAX_INPUT;

/// A copy of a page, or of a part of it. Behind its end there may be anything.
pub struct Padded(Box<[u8; ROOM + WIDE]>);

impl Padded {
    /// One of zeros.
    pub fn new() -> Self {
        Self(Box::new([0; ROOM + WIDE]))
    }

    /// Makes it a copy of `page`, which has at most [`MAX_INPUT`] bytes.
    pub fn fill(&mut self, page: &[u8]) {
        self.0[..page.len()].copy_from_slice(page);
    }

    /// The first `len` bytes.
    pub fn first(&self, len: usize) -> &[u8] {
        &self.0[..len]
    }

    #[inline(always)]
    pub fn load4(&self, at: usize) -> u32 {
        let at = at % ROOM;
        self.0[at..at + 4].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    #[inline(always)]
    pub fn load8(&self, at: usize) -> u64 {
        let at = at % ROOM;
        self.0[at..at + 8].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Writes `word` to `at`.
    #[inline(always)]
    pub fn store4(&mut self, at: usize, word: u32) {
        let at = at % ROOM;
        self.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// Adds `bits` to the byte at `at`.
    #[inline(always)]
    pub fn or(&mut self, at: usize, bits: u8) {
        self.0[at % ROOM] |= bits;
    }

    /// Copies `count` bytes of `from`, those at `start`, to `at`; up to [`WIDE`] of them at once.
    #[inline(always)]
    pub fn copy(&mut self, at: usize, from: &Self, start: usize, count: usize) {
        let (at, start) = (at % ROOM, start % ROOM);
        self.0[at..at + WIDE].copy_from_slice(&from.0[start..start + WIDE]);
        if count > WIDE {
            self.0[at..at + count].copy_from_slice(&from.0[start..start + count]);
        }
    }

    /// How many bytes from `a` on are the same as from `b` on, the later place, before `end`.
    #[inline(always)]
    pub fn common(&self, a: usize, b: usize, end: usize) -> usize {
        let differ = |len| self.load8(a + len) ^ self.load8(b + len);
        let same = |differ: u64| (differ.trailing_zeros() / 8) as usize;
        // The first sixteen bytes without a branch, since most repeats are short.
        let (first, second) = (differ(0), differ(8));
        if first | second != 0 {
            return if first != 0 { same(first) } else { 8 + same(second) }.min(end - b);
        }
        let mut len = 16;
        while b + len < end {
            let differ = differ(len);
            if differ != 0 {
                return (len + same(differ)).min(end - b);
            }
            len += 8;
        }
        end - b
    }

    /// How many of the eight bytes before `a` and `b` are the same; none if there are not so many before `a`.
    #[inline(always)]
    pub fn common_before(&self, a: usize, b: usize) -> usize {
        if a < 8 {
            return 0;
        }
        ((self.load8(a - 8) ^ self.load8(b - 8)).leading_zeros() / 8) as usize
    }
}
