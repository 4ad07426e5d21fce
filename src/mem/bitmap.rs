//! One bit for each page frame, in chunks that are all 0, all 1, or 4 KiB of bits: a terabyte that is mostly free costs
//! a few hundred kilobytes, and a chunk is exactly one block of a dump's bitmap and one x86_64 memory section.

use std::ops::Range;

/// Page frames in a chunk.
pub const CHUNK: u64 = 4096 * 8;
/// Words of a chunk.
pub const WORDS: usize = 512;
/// A chunk without a page frame.
const ZERO: u32 = 0;
/// A chunk with all of them.
const ONE: u32 = 1;
/// From here on: the number of the chunk's bits in `Bitmap::dense`, and this.
const DENSE: u32 = 2;

/// A set of page frame numbers. 2^36 of them, which is more than x86_64 can address, take 8 MiB and what is dense.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    chunks: Vec<u32>,
    dense: Vec<Box<[u64]>>,
    /// Places in `dense` that no chunk uses any more.
    unused: Vec<u32>,
}

/// Chunk, and the bits in it, of each chunk that `pfns` touches.
fn split(pfns: Range<u64>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (first, last) = (pfns.start / CHUNK, pfns.end.div_ceil(CHUNK));
    (first..last).filter_map(move |chunk| {
        let start = pfns.start.max(chunk * CHUNK) - chunk * CHUNK;
        let end = pfns.end.min((chunk + 1) * CHUNK) - chunk * CHUNK;
        (start < end).then_some((chunk as usize, start as usize..end as usize))
    })
}

/// The bits of word `word` that lie in `bits`.
fn mask(word: usize, bits: &Range<usize>) -> u64 {
    let (from, to) = (bits.start.max(word * 64), bits.end.min(word * 64 + 64));
    match to.saturating_sub(from) {
        0 => 0,
        64 => u64::MAX,
        n => ((1 << n) - 1) << (from - word * 64),
    }
}

/// Removes `bits` of one chunk and returns how many of them were in.
pub fn clear_bits(words: &mut [u64; WORDS], bits: Range<usize>) -> u64 {
    change_bits(words, bits, false)
}

fn change_bits(words: &mut [u64], bits: Range<usize>, to: bool) -> u64 {
    let touched = bits.start / 64..bits.end.div_ceil(64);
    let mut changed = 0;
    for (i, word) in words.iter_mut().enumerate().take(touched.end).skip(touched.start) {
        let affected = mask(i, &bits) & if to { !*word } else { *word };
        *word ^= affected;
        changed += u64::from(affected.count_ones());
    }
    changed
}

impl Bitmap {
    /// The empty set of page frames below `end`.
    pub fn new(end: u64) -> Self {
        Self { chunks: vec![ZERO; end.div_ceil(CHUNK) as usize], ..Self::default() }
    }

    /// First page frame it has no room for.
    pub fn end(&self) -> u64 {
        self.chunks() * CHUNK
    }

    /// Chunks it has room for.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Adds `pfns`; what lies behind the last chunk is passed over.
    pub fn set(&mut self, pfns: Range<u64>) {
        self.change(pfns, true);
    }

    /// Removes `pfns` and returns how many of them were in.
    pub fn clear(&mut self, pfns: Range<u64>) -> u64 {
        self.change(pfns, false)
    }

    /// Removes what is not in `other` and returns how many that were.
    pub fn keep_common(&mut self, other: &Bitmap) -> u64 {
        let mut removed = 0;
        for chunk in 0..self.chunks() {
            if self.is_empty(chunk) {
                continue;
            }
            let (mut words, others) = (self.words(chunk), other.words(chunk));
            let before: u32 = words.iter().map(|w| w.count_ones()).sum();
            words.iter_mut().zip(others).for_each(|(mine, its)| *mine &= its);
            let after: u32 = words.iter().map(|w| w.count_ones()).sum();
            removed += u64::from(before - after);
            self.put(chunk, &words);
        }
        removed
    }

    /// Returns how many bits changed.
    fn change(&mut self, pfns: Range<u64>, to: bool) -> u64 {
        let mut changed = 0;
        for (index, bits) in split(pfns) {
            let Some(chunk) = self.chunks.get(index).copied() else { break };
            let uniform = match chunk {
                ZERO => Some(false),
                ONE => Some(true),
                _ => None,
            };
            if uniform == Some(to) {
                continue;
            }
            if bits.len() == CHUNK as usize && uniform.is_some() {
                self.chunks[index] = if to { ONE } else { ZERO };
                changed += CHUNK;
                continue;
            }
            if let Some(value) = uniform {
                self.spread(index, value);
            }
            let Some(words) = self.dense.get_mut(self.chunks[index].wrapping_sub(DENSE) as usize) else { break };
            changed += change_bits(words, bits, to);
            let goal = if to { u64::MAX } else { 0 };
            if words.iter().all(|w| *w == goal) {
                self.unused.push(self.chunks[index] - DENSE);
                self.chunks[index] = if to { ONE } else { ZERO };
            }
        }
        changed
    }

    /// Gives a uniform chunk bits of its own.
    fn spread(&mut self, index: usize, value: bool) {
        let fill = if value { u64::MAX } else { 0 };
        let place = match self.unused.pop() {
            Some(place) => {
                self.dense[place as usize].fill(fill);
                place
            }
            None => {
                self.dense.push(vec![fill; WORDS].into_boxed_slice());
                self.dense.len() as u32 - 1
            }
        };
        self.chunks[index] = place + DENSE;
    }

    /// Replaces the bits of a chunk; one behind the last chunk is passed over.
    pub fn put(&mut self, chunk: u64, words: &[u64; WORDS]) {
        if chunk >= self.chunks() {
            return;
        }
        let index = chunk as usize;
        let uniform = match words[0] {
            0 => Some(ZERO),
            u64::MAX => Some(ONE),
            _ => None,
        };
        let uniform = uniform.filter(|_| words.iter().all(|w| *w == words[0]));
        match (uniform, self.chunks[index]) {
            (Some(value), old) => {
                if old >= DENSE {
                    self.unused.push(old - DENSE);
                }
                self.chunks[index] = value;
                return;
            }
            (None, ZERO | ONE) => self.spread(index, false),
            (None, _) => {}
        }
        self.dense[(self.chunks[index] - DENSE) as usize].copy_from_slice(words);
    }

    /// The bits of a chunk.
    pub fn words(&self, chunk: u64) -> [u64; WORDS] {
        match self.chunks.get(chunk as usize) {
            None | Some(&ZERO) => [0; WORDS],
            Some(&ONE) => [u64::MAX; WORDS],
            Some(n) => self.dense[(n - DENSE) as usize].as_ref().try_into().unwrap_or([0; WORDS]),
        }
    }

    /// Whether `pfn` is in.
    pub fn get(&self, pfn: u64) -> bool {
        match self.chunks.get((pfn / CHUNK) as usize) {
            None | Some(&ZERO) => false,
            Some(&ONE) => true,
            Some(n) => {
                let bit = pfn % CHUNK;
                self.dense[(n - DENSE) as usize][(bit / 64) as usize] >> (bit % 64) & 1 != 0
            }
        }
    }

    /// How many are in.
    pub fn count(&self) -> u64 {
        (0..self.chunks()).map(|chunk| self.count_in(chunk)).sum()
    }

    /// How many of `chunk` are in.
    pub fn count_in(&self, chunk: u64) -> u64 {
        match self.chunks.get(chunk as usize) {
            None | Some(&ZERO) => 0,
            Some(&ONE) => CHUNK,
            Some(n) => self.dense[(n - DENSE) as usize].iter().map(|w| u64::from(w.count_ones())).sum(),
        }
    }

    /// How many below `pfn` in the same chunk are in.
    pub fn count_before(&self, pfn: u64) -> u64 {
        let bit = pfn % CHUNK;
        match self.chunks.get((pfn / CHUNK) as usize) {
            None | Some(&ZERO) => 0,
            Some(&ONE) => bit,
            Some(n) => {
                let words = &self.dense[(n - DENSE) as usize];
                let (whole, rest) = ((bit / 64) as usize, bit % 64);
                let below: u64 = words[..whole].iter().map(|w| u64::from(w.count_ones())).sum();
                below + u64::from((words[whole] & ((1 << rest) - 1)).count_ones())
            }
        }
    }

    /// Whether any of `pfns` is in.
    pub fn any(&self, pfns: Range<u64>) -> bool {
        self.next_in(pfns).is_some()
    }

    /// Whether no page frame of `chunk` is in.
    pub fn is_empty(&self, chunk: u64) -> bool {
        matches!(self.chunks.get(chunk as usize), None | Some(&ZERO))
    }

    /// The 4096 bytes of `chunk` as they stand in the file; `None` if all are zero.
    pub fn block(&self, chunk: u64) -> Option<[u8; 4096]> {
        let mut block = [0; 4096];
        for (bytes, word) in block.chunks_exact_mut(8).zip(self.words(chunk)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        (!self.is_empty(chunk)).then_some(block)
    }

    /// Replaces `chunk` by the 4096 bytes that stand in a file; one behind the last chunk is passed over.
    pub fn set_block(&mut self, chunk: u64, block: &[u8; 4096]) {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.put(chunk, &words);
    }

    /// The first page frame at or behind `from` that is in.
    pub fn next(&self, from: u64) -> Option<u64> {
        self.next_in(from..u64::MAX)
    }

    /// The first of `pfns` that is in; what lies behind them costs nothing.
    pub fn next_in(&self, pfns: Range<u64>) -> Option<u64> {
        self.from(pfns.clone()).filter(|pfn| *pfn < pfns.end)
    }

    /// The first at or behind the first of `pfns` that is in, looked for in no chunk behind them.
    fn from(&self, pfns: Range<u64>) -> Option<u64> {
        let mut pfn = pfns.start;
        while pfn < pfns.end
            && let Some(chunk) = self.chunks.get((pfn / CHUNK) as usize)
        {
            match *chunk {
                ONE => return Some(pfn),
                ZERO => {}
                n => {
                    let bit = pfn % CHUNK;
                    let first = (bit / 64) as usize;
                    for (i, word) in self.dense[(n - DENSE) as usize].iter().enumerate().skip(first) {
                        let word = if i == first { word & (u64::MAX << (bit % 64)) } else { *word };
                        if word != 0 {
                            return Some(pfn - bit + i as u64 * 64 + u64::from(word.trailing_zeros()));
                        }
                    }
                }
            }
            pfn = (pfn / CHUNK + 1) * CHUNK;
        }
        None
    }

    /// The runs of page frames that are in, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from)?;
            let mut end = start + 1;
            while self.get(end) {
                // Whole chunks at once: most memory is in long runs.
                let whole = end % CHUNK == 0 && self.chunks.get((end / CHUNK) as usize) == Some(&ONE);
                end += if whole { CHUNK } else { 1 };
            }
            from = end;
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn uniform_chunks_cost_nothing() {
        let mut map = Bitmap::new(4 * CHUNK);
        map.set(0..3 * CHUNK);
        assert!(map.dense.is_empty());
        assert_eq!(map.clear(CHUNK - 1..CHUNK + 1), 2);
        assert_eq!((map.count(), map.get(CHUNK - 1), map.get(CHUNK - 2)), (3 * CHUNK - 2, false, true));
        assert_eq!(map.clear(0..CHUNK), CHUNK - 1);
        assert!(map.is_empty(0), "a chunk that lost its last bit is a zero chunk again");
        assert_eq!(map.next(0), Some(CHUNK + 1));
        assert_eq!(map.block(3), None);
        map.set(CHUNK..CHUNK + 1);
        assert!(map.unused.len() == map.dense.len(), "so is one that is full");
    }

    #[test]
    fn what_two_have_in_common() {
        let (mut map, mut other) = (Bitmap::new(3 * CHUNK), Bitmap::new(2 * CHUNK));
        map.set(10..2 * CHUNK + 7);
        other.set(CHUNK - 3..CHUNK + 5);
        assert_eq!(map.keep_common(&other), 2 * CHUNK - 3 - 8);
        assert!(map.runs().eq(std::iter::once(CHUNK - 3..CHUNK + 5)));
        assert!(map.any(0..CHUNK - 2) && !map.any(0..CHUNK - 3) && !map.any(CHUNK + 5..u64::MAX));
    }

    #[test]
    fn as_much_as_x86_64_can_address_takes_8_mib_and_what_is_dense() {
        let mut map = Bitmap::new(1 << 36);
        map.set(0..1 << 36);
        map.clear(1 << 35..(1 << 35) + 1);
        assert_eq!((map.chunks.capacity() * 4, map.dense.len()), (8 << 20, 1));
        assert_eq!(map.count(), (1 << 36) - 1);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(ops in proptest::collection::vec((any::<bool>(), 0..3 * CHUNK, 0..9_000u64), 0..8)) {
            let (mut map, mut model) = (Bitmap::new(3 * CHUNK), BTreeSet::new());
            for (add, start, len) in ops {
                let pfns = start..start + len;
                if add {
                    map.set(pfns.clone());
                    model.extend(pfns.filter(|p| *p < 3 * CHUNK));
                } else {
                    let before = model.len();
                    model.retain(|p| !pfns.contains(p));
                    prop_assert_eq!(map.clear(pfns), (before - model.len()) as u64);
                }
            }
            let mut found = BTreeSet::new();
            let mut at = map.next(0);
            while let Some(pfn) = at {
                found.insert(pfn);
                at = map.next(pfn + 1);
            }
            prop_assert_eq!(map.count(), model.len() as u64);
            prop_assert_eq!(map.runs().map(|r| r.end - r.start).sum::<u64>(), model.len() as u64);
            let mut copy = Bitmap::new(3 * CHUNK);
            for chunk in 0..3 {
                copy.set_block(chunk, &map.block(chunk).unwrap_or([0; 4096]));
                prop_assert_eq!(map.count_before(chunk * CHUNK + 777), model.range(chunk * CHUNK..chunk * CHUNK + 777).count() as u64);
            }
            prop_assert_eq!(copy.runs().collect::<Vec<_>>(), map.runs().collect::<Vec<_>>());
            prop_assert_eq!(found, model);
        }
    }
}
