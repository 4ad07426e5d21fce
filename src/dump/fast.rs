//! LZO1X and snappy for pages: one search for repeats, two ways to write them down. Decoders are in [`crate::codec`].

use super::padded::{MAX_INPUT, Padded};

/// Bits of a hash. A page has 4096 places; as many slots are quicker cleared than twice as many, and keep enough apart.
const HASH_BITS: u32 = 12;
/// Behind this many bytes from the end no repeat begins.
const TAIL: usize = 12;
/// Repeats in LZO's short form.
const SHORT_LEN: usize = 8;
const SHORT_DISTANCE: usize = 0x800;
/// The longest repeat whose length is in LZO's instruction.
const INSTRUCTION_LEN: usize = 33;
/// The longest repeat of snappy's, and what is left of a longer one that can't be cut there.
const COPY_LEN: usize = 64;
const COPY_LESS: usize = 60;
/// The longest distance of an instruction of three bytes: longer inputs are not for this.
const _: () = assert!(MAX_INPUT <= 0x4000);

/// Where each hash was last seen on the page at hand.
pub struct Finder {
    table: Box<[u16; 1 << HASH_BITS]>,
    page: Padded,
    /// What is written, and may be longer than a page.
    out: Padded,
}

impl Default for Finder {
    fn default() -> Self {
        Self { table: Box::new([0; 1 << HASH_BITS]), page: Padded::new(), out: Padded::new() }
    }
}

/// A repeat, and the literals before it.
struct Found {
    /// Where the literals are, and how many.
    at: usize,
    count: usize,
    distance: usize,
    len: usize,
}

impl Finder {
    /// Calls `found` for each repeat; where the literals begin that are left at the end.
    #[inline(always)]
    fn search(&mut self, page: &[u8], mut found: impl FnMut(&mut Padded, &Padded, Found)) -> usize {
        self.page.fill(page);
        // A slot nobody has filled says that the hash was seen at the page's beginning: a look there tells.
        self.table.fill(0);
        let (table, copy) = (&mut self.table, &self.page);
        let limit = page.len().saturating_sub(TAIL);
        let (mut anchor, mut at) = (0, 1);
        // Where nothing repeats, steps get longer.
        let mut step = 32;
        while at < limit {
            let word = copy.load4(at);
            let slot = &mut table[(word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize];
            let from = usize::from(*slot);
            *slot = at as u16;
            if copy.load4(from) != word {
                at += step >> 5;
                step += 1;
                continue;
            }
            let len = 4 + copy.common(from + 4, at + 4, page.len());
            found(&mut self.out, copy, Found { at: anchor, count: at - anchor, distance: at - from, len });
            at += len;
            anchor = at;
            step = 32;
        }
        anchor
    }

    /// Writes `page` as an LZO1X stream to `out`; its length, `None` if it does not fit or is longer than
    /// [`MAX_INPUT`].
    pub fn lzo(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if page.len() > MAX_INPUT {
            return None;
        }
        let mut to = 0;
        let rest = self.search(page, |out, page, Found { at, count, distance, len }| {
            to = lzo_literals(out, to, page, at, count);
            let distance = distance - 1;
            if len <= INSTRUCTION_LEN {
                // Both forms at once: which one it is, nobody could foretell.
                let short = (len <= SHORT_LEN) & (distance < SHORT_DISTANCE);
                let two = (len - 1) << 5 | (distance & 7) << 2 | (distance >> 3) << 8;
                let three = 32 | (len - 2) | distance << 10;
                out.store4(to, if short { two } else { three } as u32);
                to += 3 - usize::from(short);
                return;
            }
            to = lzo_length(out, to, 32, len - 2, 31);
            out.store4(to, (distance << 2) as u32);
            to += 2;
        });
        if rest < page.len() {
            to = lzo_literals(&mut self.out, to, &self.page, rest, page.len() - rest);
        }
        self.out.store4(to, 17);
        self.finish(to + 3, out)
    }

    /// Writes `page` as a snappy block to `out`; its length, `None` if it does not fit or is longer than
    /// [`MAX_INPUT`].
    pub fn snappy(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if page.len() > MAX_INPUT {
            return None;
        }
        let (mut to, mut size) = (0, page.len());
        while size >= 0x80 {
            self.out.store4(to, (size | 0x80) as u32);
            to += 1;
            size >>= 7;
        }
        self.out.store4(to, size as u32);
        to += 1;
        let rest = self.search(page, |out, page, Found { at, count, distance, mut len }| {
            to = snappy_literals(out, to, page, at, count);
            // In pieces, none of them shorter than a copy can be.
            while len > COPY_LEN {
                let now = if len < COPY_LEN + 4 { COPY_LESS } else { COPY_LEN };
                out.store4(to, (2 | (now - 1) << 2 | distance << 8) as u32);
                to += 3;
                len -= now;
            }
            let short = (len < 12) & (distance < 0x800);
            let two = 1 | (len.wrapping_sub(4) & 7) << 2 | (distance >> 8) << 5 | (distance & 255) << 8;
            let three = 2 | (len - 1) << 2 | distance << 8;
            out.store4(to, if short { two } else { three } as u32);
            to += 3 - usize::from(short);
        });
        to = snappy_literals(&mut self.out, to, &self.page, rest, page.len() - rest);
        self.finish(to, out)
    }

    /// Gives away the `len` bytes that were written, if they fit.
    fn finish(&self, len: usize, out: &mut [u8]) -> Option<usize> {
        out.get_mut(..len)?.copy_from_slice(self.out.first(len));
        Some(len)
    }
}

/// `value` in the low bits of an instruction, or 0 there and what is above `max` behind it; where that ends.
fn lzo_length(out: &mut Padded, mut to: usize, instruction: usize, value: usize, max: usize) -> usize {
    if value <= max {
        out.store4(to, (instruction | value) as u32);
        return to + 1;
    }
    out.store4(to, instruction as u32);
    to += 1;
    let mut rest = value - max;
    while rest > 255 {
        out.store4(to, 0);
        to += 1;
        rest -= 255;
    }
    out.store4(to, rest as u32);
    to + 1
}

/// Writes `count` literals from `at` of `page` on; where they end.
#[inline(always)]
fn lzo_literals(out: &mut Padded, mut to: usize, page: &Padded, at: usize, count: usize) -> usize {
    if count <= 3 && to > 0 {
        // In the last instruction's distance, which is its next to last byte.
        out.or(to - 2, count as u8);
        out.store4(to, page.load4(at));
        return to + count;
    }
    if to == 0 && count <= 238 {
        out.store4(0, 17 + count as u32);
        to = 1;
    } else {
        to = lzo_length(out, to, 0, count - 3, 15);
    }
    out.copy(to, page, at, count);
    to + count
}

/// Writes `count` literals from `at` of `page` on; where they end.
#[inline(always)]
fn snappy_literals(out: &mut Padded, mut to: usize, page: &Padded, at: usize, count: usize) -> usize {
    let last = count.wrapping_sub(1);
    match count {
        0..=60 => {
            out.store4(to, (last << 2) as u32);
            to += usize::from(count > 0);
        }
        61..=256 => {
            out.store4(to, (60 << 2 | last << 8) as u32);
            to += 2;
        }
        _ => {
            out.store4(to, (61 << 2 | last << 8) as u32);
            to += 3;
        }
    }
    out.copy(to, page, at, count);
    to + count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use proptest::prelude::*;

    /// Both formats give the page back, whatever the table holds of others; their lengths.
    fn round_trip(finder: &mut Finder, page: &[u8]) -> [usize; 2] {
        let mut out = vec![0; page.len() + page.len() / 8 + 64];
        let lzo = finder.lzo(page, &mut out).expect("room enough");
        let mut plain = Vec::new();
        codec::lzo::decode(&out[..lzo], &mut plain, page.len()).expect("LZO");
        assert!(plain == page, "LZO");
        assert!(finder.lzo(page, &mut out[..lzo - 1]).is_none(), "a byte too few");
        let snappy = finder.snappy(page, &mut out).expect("room enough");
        plain.clear();
        codec::snappy::decode(&out[..snappy], &mut plain, page.len()).expect("snappy");
        assert!(plain == page, "snappy");
        [lzo, snappy]
    }

    #[test]
    fn pages_come_back_and_get_smaller() {
        let mut finder = Finder::default();
        for len in [0, 1, 2, 3, 4, 11, 12, 13, 238, 239, 4095, 4096, MAX_INPUT] {
            round_trip(&mut finder, &vec![7; len]);
            let text: Vec<u8> = (0..len).map(|i| (i / 40 + i % 7) as u8).collect();
            round_trip(&mut finder, &text);
        }
        let [lzo, snappy] = round_trip(&mut finder, &[7; 4096]);
        assert!(lzo < 40 && snappy < 260, "{lzo} {snappy}");
        assert!(finder.lzo(&[0; MAX_INPUT + 1], &mut [0; 1 << 16]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            pages in proptest::collection::vec(
                proptest::collection::vec((0u8..6, 1usize..90, 0usize..300), 0..90), 1..4
            ),
        ) {
            let mut finder = Finder::default();
            for parts in pages {
                let mut page = Vec::new();
                for (byte, len, back) in parts {
                    match page.len().checked_sub(back) {
                        Some(from) if back > 0 => (from..from + len).for_each(|i| page.push(page[i])),
                        _ => page.extend((0..len).map(|i| byte.wrapping_mul(i as u8 ^ 0x55))),
                    }
                }
                page.truncate(MAX_INPUT);
                if !page.is_empty() {
                    round_trip(&mut finder, &page);
                }
            }
        }
    }
}
