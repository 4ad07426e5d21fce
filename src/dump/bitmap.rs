//! One bit for each page frame, in chunks that are all 0, all 1, or 4 KiB of bits: a terabyte that is mostly free costs
//! a few hundred kilobytes, and a chunk is exactly one block of the dump's bitmap and one x86_64 memory section.

use std::ops::Range;

/// Page frames in a chunk.
pub const CHUNK: u64 = 4096 * 8;
const WORDS: usize = 512;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Chunk {
    #[default]
    Zero,
    One,
    Dense(Box<[u64; WORDS]>),
}

/// A set of page frame numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    chunks: Vec<Chunk>,
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

impl Bitmap {
    /// The empty set of page frames below `end`.
    pub fn new(end: u64) -> Self {
        Self { chunks: vec![Chunk::Zero; end.div_ceil(CHUNK) as usize] }
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

    /// Returns how many bits changed.
    fn change(&mut self, pfns: Range<u64>, to: bool) -> u64 {
        let mut changed = 0;
        for (index, bits) in split(pfns) {
            let Some(chunk) = self.chunks.get_mut(index) else { break };
            let uniform = match chunk {
                Chunk::Zero => Some(false),
                Chunk::One => Some(true),
                Chunk::Dense(_) => None,
            };
            if uniform == Some(to) {
                continue;
            }
            if bits.len() == CHUNK as usize && uniform.is_some() {
                *chunk = if to { Chunk::One } else { Chunk::Zero };
                changed += CHUNK;
                continue;
            }
            if let Some(value) = uniform {
                *chunk = Chunk::Dense(Box::new([if value { u64::MAX } else { 0 }; WORDS]));
            }
            if let Chunk::Dense(words) = chunk {
                for (i, word) in words.iter_mut().enumerate().take(bits.end.div_ceil(64)).skip(bits.start / 64) {
                    let affected = mask(i, &bits) & if to { !*word } else { *word };
                    *word ^= affected;
                    changed += u64::from(affected.count_ones());
                }
                if words.iter().all(|w| *w == 0) {
                    *chunk = Chunk::Zero;
                }
            }
        }
        changed
    }

    /// Whether `pfn` is in.
    pub fn get(&self, pfn: u64) -> bool {
        match self.chunks.get((pfn / CHUNK) as usize) {
            None | Some(Chunk::Zero) => false,
            Some(Chunk::One) => true,
            Some(Chunk::Dense(words)) => {
                let bit = pfn % CHUNK;
                words[(bit / 64) as usize] >> (bit % 64) & 1 != 0
            }
        }
    }

    /// How many are in.
    pub fn count(&self) -> u64 {
        let chunk = |c: &Chunk| match c {
            Chunk::Zero => 0,
            Chunk::One => CHUNK,
            Chunk::Dense(words) => words.iter().map(|w| u64::from(w.count_ones())).sum(),
        };
        self.chunks.iter().map(chunk).sum()
    }

    /// Whether no page frame of `chunk` is in.
    pub fn is_empty(&self, chunk: u64) -> bool {
        matches!(self.chunks.get(chunk as usize), None | Some(Chunk::Zero))
    }

    /// The 4096 bytes of `chunk` as they stand in the file; `None` if all are zero.
    pub fn block(&self, chunk: u64) -> Option<[u8; 4096]> {
        match self.chunks.get(chunk as usize)? {
            Chunk::Zero => None,
            Chunk::One => Some([0xff; 4096]),
            Chunk::Dense(words) => {
                let mut block = [0; 4096];
                for (bytes, word) in block.chunks_exact_mut(8).zip(words.iter()) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                Some(block)
            }
        }
    }

    /// The first page frame at or behind `from` that is in.
    pub fn next(&self, from: u64) -> Option<u64> {
        let mut pfn = from;
        while let Some(chunk) = self.chunks.get((pfn / CHUNK) as usize) {
            match chunk {
                Chunk::One => return Some(pfn),
                Chunk::Zero => {}
                Chunk::Dense(words) => {
                    let bit = pfn % CHUNK;
                    let first = (bit / 64) as usize;
                    for (i, word) in words.iter().enumerate().skip(first) {
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
        assert!(map.chunks.iter().all(|c| !matches!(c, Chunk::Dense(_))));
        assert_eq!(map.clear(CHUNK - 1..CHUNK + 1), 2);
        assert_eq!((map.count(), map.get(CHUNK - 1), map.get(CHUNK - 2)), (3 * CHUNK - 2, false, true));
        assert_eq!(map.clear(0..CHUNK), CHUNK - 1);
        assert!(map.is_empty(0), "a chunk that lost its last bit is a zero chunk again");
        assert_eq!(map.next(0), Some(CHUNK + 1));
        assert_eq!(map.block(3), None);
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
            prop_assert_eq!(found, model);
        }
    }
}
