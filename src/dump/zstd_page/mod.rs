//! zstd frames of single pages (RFC 8878): one block each, made for speed at this size.
//!
//! libzstd spends most of a page on what pays for itself later in a file: tables it clears, statistics it sorts. Here
//! code lengths come from logarithms ([`huffman`]), tables have at most 64 states ([`fse`]), and little waits for what was
//! done just before: on a page, that is what takes time.

mod bits;
mod fse;
mod huffman;
mod parts;

use bits::{Bits, Buffer, ROOM};
use fse::{Shares, Table};
use huffman::Codes;
use parts::Parts;

use super::padded::MAX_INPUT;

/// Inputs shorter than this have another header: they are not for this.
const MIN_INPUT: usize = 256;
/// What is before a block: magic number, descriptor, length less 256, block header.
const HEADER: usize = 10;
/// The magic number and a descriptor: one segment, its length in two bytes, no checksum.
const BEGIN: [u8; 5] = [0x28, 0xb5, 0x2f, 0xfd, 0x60];
/// Fewer literals than this are not worth a code.
const MIN_CODED: usize = 128;
/// From so many literals on they are in four streams.
const FOUR_STREAMS: usize = 1024;
/// Fewer sequences than this are not worth a table.
const MIN_OWN_TABLE: usize = 25;
/// What a table's description takes, in 256ths of a bit, with what its making must save, and more for each code that comes.
const DESCRIPTION: u32 = 60 << 8;
const DESCRIPTION_OF_CODE: u32 = 7 << 8;

/// Shares of the tables nobody describes, of 64, 32 and 64 (RFC 8878, 3.1.1.3.2.2).
const LITERAL_SHARES: [i8; 36] =
    [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1];
const OFFSET_SHARES: [i8; 29] =
    [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1];
const LENGTH_SHARES: [i8; 53] = [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
];

/// A thread's encoder.
pub struct Encoder {
    parts: Parts,
    coder: Coder,
    out: Box<Buffer>,
    /// The last page's section of sequences, and its length.
    sequences: Box<Buffer>,
    length: usize,
}

/// A kind of code: of counts of literals, of distances, of lengths.
struct Kind {
    /// The table nobody describes.
    given: Table,
    /// What each code takes by it, in 256ths of a bit.
    cost: [u32; 64],
    /// The last page's own table.
    own: Table,
}

struct Coder {
    codes: Codes,
    kinds: [Kind; 3],
    log2: Log2,
}

/// Whether [`Encoder::encode`] is for a page of this length.
pub fn fits(page: &[u8]) -> bool {
    (MIN_INPUT..=MAX_INPUT).contains(&page.len())
}

impl Default for Encoder {
    /// One with all tables it needs, some 250 KB, of which a page of 4 KiB uses a fifth.
    fn default() -> Self {
        let log2 = Log2::new();
        let shares =
            [Shares::given(&LITERAL_SHARES, 6), Shares::given(&OFFSET_SHARES, 5), Shares::given(&LENGTH_SHARES, 6)];
        let kinds = shares.map(|shares| {
            let mut given = Table::empty();
            given.fill(&shares);
            Kind { given, cost: shares.cost(&log2), own: Table::empty() }
        });
        let coder = Coder { codes: Codes::new(), kinds, log2 };
        let [out, sequences] = [(); 2].map(|()| Box::new([0; ROOM + 8]));
        Self { parts: Parts::new(), coder, out, sequences, length: 0 }
    }
}

impl Encoder {
    /// Writes `page` as a frame to `out`; its length in bytes. `None` if it does not fit, or has fewer bytes than
    /// [`MIN_INPUT`] or more than [`MAX_INPUT`].
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if !fits(page) {
            return None;
        }
        if !self.parts.take(page) {
            self.length = self.coder.sequences(&self.parts, &mut self.sequences, 0);
        }
        let frame = &mut *self.out;
        frame[..5].copy_from_slice(&BEGIN);
        frame[5..7].copy_from_slice(&((page.len() - 256) as u16).to_le_bytes());
        let at = self.coder.literals(self.parts.literals(), frame, HEADER);
        let end = at + self.length;
        frame[at..end].copy_from_slice(&self.sequences[..self.length]);
        let size = end - HEADER;
        // A compressed block, the last one. It must be shorter than what it stands for.
        frame[7..10].copy_from_slice(&(size << 3 | 2 << 1 | 1).to_le_bytes()[..3]);
        let room = out.get_mut(..end).filter(|_| size < page.len())?;
        room.copy_from_slice(&frame[..end]);
        Some(end)
    }
}

impl Coder {
    /// Writes the section of literals at `out[at]`; where it ends.
    fn literals(&mut self, literals: &[u8], out: &mut Buffer, at: usize) -> usize {
        let count = literals.len();
        if count < MIN_CODED {
            return plain_literals(literals, count, 0, out, at);
        }
        let counts = histogram(literals);
        let most = usize::from(counts.iter().copied().max().unwrap_or(0));
        if most == count {
            return plain_literals(&literals[..1], count, 1, out, at);
        }
        // Where all come equally often there is nothing to gain.
        if most > (count >> 7) + 4
            && let Some(end) = self.coded_literals(literals, &counts, out, at)
        {
            return end;
        }
        plain_literals(literals, count, 0, out, at)
    }

    /// `None` if codes do not make them shorter.
    fn coded_literals(&mut self, literals: &[u8], counts: &[u16; 256], out: &mut Buffer, at: usize) -> Option<usize> {
        let count = literals.len();
        self.codes.fill(counts, count, &self.log2);
        let header = 3 + usize::from(count >= 1 << 10) + usize::from(count >= 1 << 14);
        if self.codes.bits as usize / 8 + header + 8 >= count {
            return None;
        }
        let start = at + header;
        let mut end = self.codes.describe(out, start)?;
        if count < FOUR_STREAMS {
            end = self.codes.encode(literals, out, end);
        } else {
            // The lengths of the first three come before them.
            let lengths = end;
            end += 6;
            for (i, part) in literals.chunks(count.div_ceil(4)).enumerate() {
                let from = end;
                end = self.codes.encode(part, out, end);
                if i < 3 {
                    out[lengths + 2 * i..][..2].copy_from_slice(&((end - from) as u16).to_le_bytes());
                }
            }
        }
        let packed = end - start;
        if packed + header >= count {
            return None;
        }
        let (count, packed) = (count as u64, packed as u64);
        let word = match header {
            3 => 2 | count << 4 | packed << 14,
            4 => 2 | 2 << 2 | count << 4 | packed << 18,
            _ => 2 | 3 << 2 | count << 4 | packed << 22,
        };
        out[at..start].copy_from_slice(&word.to_le_bytes()[..header]);
        Some(end)
    }

    /// Writes the section of sequences at `out[at]`; where it ends.
    fn sequences(&mut self, parts: &Parts, out: &mut Buffer, mut at: usize) -> usize {
        let sequences = parts.sequences();
        let count = sequences.len();
        if count >= 128 {
            out[at] = (count >> 8) as u8 | 128;
            at += 1;
        }
        out[at] = count as u8;
        at += 1;
        let Some((end, before)) = sequences.split_last() else { return at };
        let modes = at;
        at += 1;
        out[modes] = 0;
        let mut tables = [false; 3];
        for (i, (kind, counts)) in self.kinds.iter_mut().zip(&parts.counts).enumerate() {
            let mode = kind.choose(counts, count, &self.log2, out, &mut at);
            out[modes] |= mode << (6 - 2 * i);
            tables[i] = mode != 0;
        }
        let [literals, offsets, lengths] =
            [0, 1, 2].map(|i| if tables[i] { &self.kinds[i].own } else { &self.kinds[i].given });
        let mut out = Bits::new(out, at);
        let [ll, of, ml] = end.codes;
        let (mut literal, mut offset, mut length) = (literals.begin(ll), offsets.begin(of), lengths.begin(ml));
        out.put(end.extra, end.bits.into());
        for sequence in before.iter().rev() {
            let [ll, of, ml] = sequence.codes;
            let (of, of_bits) = offsets.next(&mut offset, of);
            let (ml, ml_bits) = lengths.next(&mut length, ml);
            let (ll, ll_bits) = literals.next(&mut literal, ll);
            // Put together first: what is held waits for as little as can be.
            let states = of.rotate_right(of_bits) >> (ml_bits & 63) | ml.rotate_right(ml_bits);
            let states = states >> (ll_bits & 63) | ll.rotate_right(ll_bits);
            out.flush();
            out.put_codes(states, (of_bits + ml_bits + ll_bits).into());
            if sequence.bits > 24 {
                out.flush();
            }
            out.put(sequence.extra, sequence.bits.into());
        }
        out.flush();
        lengths.end(length, &mut out);
        offsets.end(offset, &mut out);
        literals.end(literal, &mut out);
        out.finish()
    }
}

impl Kind {
    /// Which table is to be used for codes that come as often as `counts` says, `total` in all: mode 0 the given one, 1 the
    /// own one, of a single code, and 2 the own one. What describes it is written at `out[at]`.
    fn choose(&mut self, counts: &[u16; 64], total: usize, log2: &Log2, out: &mut Buffer, at: &mut usize) -> u8 {
        let symbols = counts.iter().rposition(|count| *count > 0).map_or(1, |last| last + 1);
        if usize::from(counts[symbols - 1]) == total && total > 2 {
            out[*at] = (symbols - 1) as u8;
            *at += 1;
            self.own.single(symbols - 1);
            return 1;
        }
        if total < MIN_OWN_TABLE {
            return 0;
        }
        let (mut given, mut own) = (0, DESCRIPTION);
        let all = log2.of(total);
        for (count, cost) in counts[..symbols].iter().zip(&self.cost) {
            let each = all.saturating_sub(log2.of((*count).into()));
            given += u32::from(*count) * cost;
            own += u32::from(*count) * u32::from(each) + if *count > 0 { DESCRIPTION_OF_CODE } else { 0 };
        }
        if own >= given {
            return 0;
        }
        let shares = Shares::of(&counts[..symbols], total as u32);
        *at = shares.describe(out, *at);
        self.own.fill(&shares);
        2
    }
}

/// Logarithms of counts to base 2, in 256ths.
struct Log2(Box<[u16; 2 * MAX_INPUT]>);

impl Log2 {
    fn new() -> Self {
        let mut table = Box::new([0; 2 * MAX_INPUT]);
        for (value, log2) in table.iter_mut().enumerate().skip(1) {
            // The fraction bit by bit: squaring doubles a logarithm.
            let mut mantissa = (value as u64) << (31 - value.ilog2());
            *log2 = value.ilog2() as u16;
            for _ in 0..8 {
                mantissa = (mantissa * mantissa) >> 31;
                let bit = mantissa >> 32;
                mantissa >>= bit;
                *log2 = *log2 << 1 | bit as u16;
            }
        }
        Self(table)
    }

    /// That of `value`, at most [`MAX_INPUT`]; 0 for none.
    fn of(&self, value: usize) -> u16 {
        self.0[value % (2 * MAX_INPUT)]
    }
}

/// Literals as they are (kind 0), or one that comes `count` times (kind 1).
fn plain_literals(literals: &[u8], count: usize, kind: u32, out: &mut Buffer, at: usize) -> usize {
    let (word, header) = match count as u32 {
        n @ 0..32 => (kind | n << 3, 1),
        n @ 32..4096 => (kind | 1 << 2 | n << 4, 2),
        n => (kind | 3 << 2 | n << 4, 3),
    };
    let start = at + header;
    out[at..start].copy_from_slice(&word.to_le_bytes()[..header]);
    out[start..start + literals.len()].copy_from_slice(literals);
    start + literals.len()
}

/// How often each byte comes. Four tables: one would wait for itself where bytes repeat.
fn histogram(bytes: &[u8]) -> [u16; 256] {
    let mut tables = [[0u16; 256]; 4];
    let (blocks, rest) = bytes.as_chunks::<4>();
    for block in blocks {
        for (table, byte) in tables.iter_mut().zip(block) {
            table[usize::from(*byte)] += 1;
        }
    }
    for byte in rest {
        tables[0][usize::from(*byte)] += 1;
    }
    let [mut sum, b, c, d] = tables;
    for (i, sum) in sum.iter_mut().enumerate() {
        *sum += b[i] + c[i] + d[i];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What libzstd makes of the frame is the page; the frame's length, `None` for a page that does not get shorter.
    fn comes_back(encoder: &mut Encoder, page: &[u8]) -> Option<usize> {
        let mut out = vec![0; page.len()];
        let len = encoder.encode(page, &mut out)?;
        let plain = zstd::bulk::decompress(&out[..len], page.len()).expect("a frame libzstd reads");
        assert!(plain == page, "another page");
        Some(len)
    }

    /// The same, and by itself it does so too, and fits no byte less.
    fn round_trip(encoder: &mut Encoder, page: &[u8]) -> Option<usize> {
        let len = comes_back(encoder, page)?;
        let mut alone = Encoder::default();
        let whole = comes_back(&mut alone, page).expect("shorter by itself");
        assert_eq!(alone.encode(page, &mut vec![0; whole - 1]), None, "a byte too few");
        Some(len)
    }

    fn noise(len: usize, mask: u8) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8 & mask
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn pages_of_every_kind_come_back() {
        let mut encoder = Encoder::default();
        for len in [MIN_INPUT, 257, 1023, 1024, 4095, 4096, 8192, MAX_INPUT - 1, MAX_INPUT] {
            assert!(round_trip(&mut encoder, &vec![7; len]).expect("shorter") < 32);
            let text: Vec<u8> = (0..len).map(|i| (i / 40 + i % 7) as u8).collect();
            assert!(round_trip(&mut encoder, &text).expect("shorter") < len / 2 + 32);
            // Literals alone, with codes of all lengths, and with codes of one.
            for mask in [1, 3, 15] {
                assert!(round_trip(&mut encoder, &noise(len, mask)).is_some(), "{len} {mask}");
            }
            round_trip(&mut encoder, &noise(len, 63));
            round_trip(&mut encoder, &noise(len, 127));
            assert_eq!(round_trip(&mut encoder, &noise(len, 255)), None);
            let skewed: Vec<u8> = noise(len, 255).iter().map(|b| (b.leading_zeros() as u8 * 31) ^ (b & 1)).collect();
            assert!(round_trip(&mut encoder, &skewed).is_some());
            // Words of a table of pointers.
            let words: Vec<u8> =
                (0..len).map(|i| if i % 8 > 4 { 0xff } else { ((i / 8 * 0x9e37) >> (i % 8)) as u8 }).collect();
            assert!(round_trip(&mut encoder, &words).is_some());
        }
        for len in [0, 1, MIN_INPUT - 1, MAX_INPUT + 1] {
            assert_eq!(encoder.encode(&vec![0; len], &mut vec![0; len + 64]), None, "{len}");
        }
    }

    /// A page of structs of 64 bytes of unused memory, the first of them at `address`.
    fn struct_pages(address: u64, len: usize) -> Vec<u8> {
        let words = |at: u64| [0x17_ffff_c000_0000, at + 8, at + 8, 0, 0, 0, 0xffff_ffff, 0];
        (address..).step_by(64).flat_map(words).flat_map(u64::to_le_bytes).take(len).collect()
    }

    #[test]
    fn pages_alike_come_back_whatever_differs_and_take_little_more() {
        let mut encoder = Encoder::default();
        let (mut alike, mut alone) = (0, 0);
        for i in 0..300 {
            let mut page = struct_pages(0xffff_ea00_0123_0000 + i * 4096, 4096);
            match i % 97 {
                // In a repeat, in a literal, in the last bytes.
                11 => page[2100] ^= 0x55,
                12 => page[1] ^= 0x55,
                13 => page[4095] ^= 0x55,
                // Of another length, and pages of another kind between.
                14 => page.truncate(3000),
                15 => page = noise(4096, 255),
                // In use, each struct other than the one before.
                16..40 => page.iter_mut().step_by(61).for_each(|byte| *byte = byte.wrapping_mul(i as u8)),
                _ => {}
            }
            alike += comes_back(&mut encoder, &page).unwrap_or(page.len());
            alone += comes_back(&mut Encoder::default(), &page).unwrap_or(page.len());
        }
        assert!(alike * 100 <= alone * 101, "{alike} bytes, each by itself {alone}");
    }

    #[test]
    fn counts_that_need_the_longest_codes_do_not_break_them() {
        let mut encoder = Encoder::default();
        // Each symbol comes 1.6 times as often as the one before: a tree would be as deep as there are symbols.
        let mut page = Vec::new();
        let (mut a, mut b) = (1, 1);
        for symbol in 0..40u8 {
            page.extend(std::iter::repeat_n(symbol, a));
            (a, b) = (b, a + b);
            if page.len() + a > MAX_INPUT {
                break;
            }
        }
        // Shuffled by a step that shares no factor with the length, so that little repeats.
        let len = page.len() - usize::from(page.len() % 2 == 0);
        let shuffled: Vec<u8> = (0..len).map(|i| page[i * 7919 % len]).collect();
        assert!(round_trip(&mut encoder, &shuffled).is_some_and(|l| l < len / 2));
    }

    #[test]
    fn logarithms_are_right() {
        let log2 = Log2::new();
        assert_eq!(log2.of(0), 0);
        for value in 1..=MAX_INPUT {
            assert_eq!(log2.of(value), ((value as f64).log2() * 256.0) as u16, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            pages in proptest::collection::vec(
                (proptest::collection::vec((any::<u8>(), 1usize..90, 0usize..3000), 1..300), 1u8..=255), 1..4
            ),
        ) {
            let mut encoder = Encoder::default();
            for (parts, mask) in pages {
                let mut page = noise(MIN_INPUT, mask);
                for (byte, len, back) in parts {
                    match page.len().checked_sub(back) {
                        Some(from) if back > 0 => (from..from + len).for_each(|i| page.push(page[i])),
                        _ => page.extend((0..len).map(|i| (byte.wrapping_mul(i as u8 ^ 0x55)) & mask)),
                    }
                }
                page.truncate(MAX_INPUT);
                round_trip(&mut encoder, &page);
            }
        }
    }
}
