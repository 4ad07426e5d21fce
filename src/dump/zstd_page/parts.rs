//! What a page is made of: literals, and repeats of what came before.

use crate::dump::padded::{MAX_INPUT, Padded};

/// Bits of a hash.
const HASH_BITS: u32 = 12;
/// Up to this distance five bytes are a repeat, and six from further away.
const NEARBY: usize = 128;
/// Behind this many bytes from the end no repeat is looked for.
const TAIL: usize = 8;
/// After so many bytes (as a power of two) without a repeat steps get a byte longer.
const STEP: u32 = 6;
/// So many pages in a row are taken apart like one at most: then there may be a better way.
const MOST_ALIKE: u32 = 64;
/// Extra bits of each code of a count of literals.
const LITERAL_BITS: [u8; 36] =
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
/// Extra bits of each code of a length.
const LENGTH_BITS: [u8; 53] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2,
    3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];
static LITERAL_CODES: [Code; 64] = codes(&LITERAL_BITS);
static LENGTH_CODES: [Code; 128] = codes(&LENGTH_BITS);

/// How a value is written.
#[derive(Clone, Copy)]
struct Code {
    /// The least value of this code.
    from: u16,
    bits: u8,
    code: u8,
}

/// The code of each small value. Behind them codes go by the highest bit.
const fn codes<const N: usize>(bits: &[u8]) -> [Code; N] {
    let mut codes = [Code { from: 0, bits: 0, code: 0 }; N];
    let (mut at, mut code) = (0, 0);
    while at < N {
        let from = at as u16;
        while at < N && at < from as usize + (1 << bits[code]) {
            codes[at] = Code { from, bits: bits[code], code: code as u8 };
            at += 1;
        }
        code += 1;
    }
    codes
}

#[inline(always)]
fn code<const N: usize>(table: &[Code; N], value: usize, above: u8) -> Code {
    if value < N {
        return table[value];
    }
    let bits = value.ilog2() as u8;
    Code { from: 1 << bits, bits, code: bits + above }
}

/// So many literals, then a repeat.
#[derive(Clone, Copy, Default)]
pub struct Sequence {
    /// The bits that the codes leave open: of the literals' count, the length and the distance.
    pub extra: u64,
    /// How many there are.
    pub bits: u8,
    /// Codes of the count of literals, of the distance and of the length.
    pub codes: [u8; 3],
}

/// Where a repeat is on its page, where what it repeats is, and its length.
#[derive(Clone, Copy, Default)]
struct Place {
    start: u16,
    from: u16,
    len: u16,
}

/// The last page's parts.
pub struct Parts {
    /// The length of the page.
    len: usize,
    /// How many pages in a row may still be taken apart like it, and how many that were at first.
    alike: u32,
    patience: u32,
    table: Box<[u16; 1 << HASH_BITS]>,
    page: Padded,
    literals: Padded,
    literal_count: usize,
    sequences: Box<[Sequence; MAX_INPUT / 4]>,
    places: Box<[Place; MAX_INPUT / 4]>,
    sequence_count: usize,
    /// How often each code comes, in the order of [`Sequence::codes`].
    pub counts: [[u16; 64]; 3],
}

impl Parts {
    pub fn new() -> Self {
        Self {
            len: 0,
            alike: 0,
            patience: 0,
            table: Box::new([0; 1 << HASH_BITS]),
            page: Padded::new(),
            literals: Padded::new(),
            literal_count: 0,
            sequences: Box::new([Sequence::default(); MAX_INPUT / 4]),
            places: Box::new([Place::default(); MAX_INPUT / 4]),
            sequence_count: 0,
            counts: [[0; 64]; 3],
        }
    }

    pub fn literals(&self) -> &[u8] {
        self.literals.first(self.literal_count)
    }

    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences[..self.sequence_count]
    }

    /// Takes `page` apart, which has at most [`MAX_INPUT`] bytes. `true` if its sequences are those of the page before.
    pub fn take(&mut self, page: &[u8]) -> bool {
        self.page.fill(page);
        if self.take_alike(page.len()) {
            self.alike -= 1;
            return true;
        }
        let before = (self.len, self.literal_count, self.sequence_count, self.alike);
        // A slot nobody has filled says that the hash was seen at the page's beginning: a look there tells.
        self.table.fill(0);
        self.counts = [[0; 64]; 3];
        let (end, limit) = (page.len(), page.len().saturating_sub(TAIL));
        let page = &self.page;
        let mut out = Out {
            literals: &mut self.literals,
            literal_count: 0,
            sequences: &mut self.sequences,
            places: &mut self.places,
            sequence_count: 0,
            counts: &mut self.counts,
        };
        let table = &mut self.table;
        let mut last = [1usize, 4, 8];
        let (mut anchor, mut at) = (0, 1);
        while at < limit {
            let word = page.load8(at);
            let slot = &mut table[hash(word)];
            let from = usize::from(*slot);
            *slot = at as u16;
            // A repeat at the distance of the last one, a byte further on, costs least.
            let again = at + 1;
            if page.load4(again.saturating_sub(last[0])) == (word >> 8) as u32 && last[0] <= again {
                let len = 4 + page.common(again + 4 - last[0], again + 4, end);
                out.push(page, anchor, again, again - last[0], 1, len);
                at = again + len;
                anchor = at;
                continue;
            }
            // Six bytes, five from nearby: less is hardly shorter than the literals.
            if (page.load8(from) ^ word) << if at - from > NEARBY { 16 } else { 24 } != 0 {
                at += 1 + ((at - anchor) >> STEP);
                continue;
            }
            let len = 4 + page.common(from + 4, at + 4, end);
            let back = page.common_before(from, at).min(at - anchor).min(from);
            let (start, from, len) = (at - back, from - back, len + back);
            let offset = number(&mut last, start - from, start > anchor);
            out.push(page, anchor, start, from, offset, len);
            at = start + len;
            anchor = at;
            table[hash(page.load8(at - 2))] = (at - 2) as u16;
            // Right behind it the distance before the last one is worth a look.
            while at < limit && page.load4(at) == page.load4(at.saturating_sub(last[1])) && last[1] <= at {
                let len = 4 + page.common(at + 4 - last[1], at + 4, end);
                last.swap(0, 1);
                out.push(page, at, at, at - last[0], 1, len);
                at += len;
                anchor = at;
            }
        }
        out.append(page, anchor, end - anchor);
        (self.literal_count, self.sequence_count) = (out.literal_count, out.sequence_count);
        // As long as a new look finds nothing better, the next one can wait for longer.
        let found = (end, self.literal_count, self.sequence_count, 0);
        self.patience = if found == before { (2 * self.patience).clamp(1, MOST_ALIKE) } else { 1 };
        (self.len, self.alike) = (end, self.patience);
        false
    }

    /// Takes the page apart at the places of the page before, if it has the same repeats there and they leave little.
    ///
    /// Struct pages of free memory differ in nothing but the addresses in them, and there are millions.
    fn take_alike(&mut self, len: usize) -> bool {
        if len != self.len || self.literal_count > len / 8 || self.alike == 0 {
            return false;
        }
        let (page, places) = (&self.page, &self.places[..self.sequence_count]);
        let repeats = |place: &Place| {
            let [start, from, len] = [place.start, place.from, place.len].map(usize::from);
            page.common(from, start, start + len) == len
        };
        if !places.iter().all(repeats) {
            return false;
        }
        let (mut anchor, mut count) = (0, 0);
        for place in places {
            let start = usize::from(place.start);
            self.literals.copy(count, page, anchor, start - anchor);
            count += start - anchor;
            anchor = start + usize::from(place.len);
        }
        self.literals.copy(count, page, anchor, len - anchor);
        true
    }
}

struct Out<'a> {
    literals: &'a mut Padded,
    literal_count: usize,
    sequences: &'a mut [Sequence; MAX_INPUT / 4],
    places: &'a mut [Place; MAX_INPUT / 4],
    sequence_count: usize,
    counts: &'a mut [[u16; 64]; 3],
}

impl Out<'_> {
    /// `count` literals from `at` on.
    #[inline(always)]
    fn append(&mut self, page: &Padded, at: usize, count: usize) {
        self.literals.copy(self.literal_count, page, at, count);
        self.literal_count += count;
    }

    /// The literals from `anchor` to `start`, and there a repeat of `len` bytes from `from`, its distance written as
    /// `offset`.
    #[inline(always)]
    fn push(&mut self, page: &Padded, anchor: usize, start: usize, from: usize, offset: usize, len: usize) {
        let count = start - anchor;
        self.append(page, anchor, count);
        let literal = code(&LITERAL_CODES, count, 19);
        let length = code(&LENGTH_CODES, len - 3, 36);
        let distance = offset.ilog2() as u8;
        let extra = (count as u64 - u64::from(literal.from))
            | (len as u64 - 3 - u64::from(length.from)) << literal.bits
            | (offset as u64 ^ 1 << distance) << (literal.bits + length.bits);
        self.counts[0][usize::from(literal.code & 63)] += 1;
        self.counts[1][usize::from(distance & 63)] += 1;
        self.counts[2][usize::from(length.code & 63)] += 1;
        self.sequences[self.sequence_count % (MAX_INPUT / 4)] = Sequence {
            extra,
            bits: literal.bits + length.bits + distance,
            codes: [literal.code, distance, length.code],
        };
        self.places[self.sequence_count % (MAX_INPUT / 4)] =
            Place { start: start as u16, from: from as u16, len: len as u16 };
        self.sequence_count += 1;
    }
}

/// How `distance` is written, `last` being the distances before, and with or without literals before the repeat.
#[inline(always)]
fn number(last: &mut [usize; 3], distance: usize, literals: bool) -> usize {
    let [first, second, third] = *last;
    let same = literals & (distance == first);
    *last = [distance, if same { second } else { first }, if same | (distance == second) { third } else { second }];
    let choice = if literals { [first, second, third] } else { [second, third, first.wrapping_sub(1)] };
    let mut number = distance + 3;
    for at in (0..3).rev() {
        number = if distance == choice[at] { at + 1 } else { number };
    }
    number
}

#[inline(always)]
fn hash(word: u64) -> usize {
    ((word << 24).wrapping_mul(889_523_592_379) >> (64 - HASH_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_pages_that_differ_in_addresses_alone_are_taken_apart_like_one() {
        let mut parts = Parts::new();
        let page = |number: u64| -> Vec<u8> {
            (number * 64..number * 64 + 64)
                .flat_map(|i| [1, i * 64 + 8, i * 64 + 8, 0, 0, 0, 7, 0])
                .flat_map(u64::to_le_bytes)
                .collect()
        };
        let alike = (0x1_0000..0x1_0040).filter(|number| parts.take(&page(*number))).count();
        assert!((48..64).contains(&alike), "{alike} of 64");
        let mut other = page(0x1_0040);
        // Where a repeat ends, it is another.
        other[4000] ^= 1;
        assert!(!parts.take(&other));
        assert!(!parts.take(&page(0x1_0041)[..4000]), "another length");
    }
}
