//! LZO1X and snappy for pages: one search for repeats, two ways to write them down. Decoders are in [`crate::codec`].

use super::padded::{MAX_INPUT, Padded};

/// Bits of a hash. A page has 4096 places; twice as many slots keep most of them apart.
const HASH_BITS: u32 = 13;
/// Behind this many bytes from the end no repeat begins.
const TAIL: usize = 12;
/// Repeats in LZO's short form.
const SHORT_LEN: usize = 8;
const SHORT_DISTANCE: usize = 0x800;
/// The longest distance of an instruction of three bytes: longer inputs are not for this.
const _: () = assert!(MAX_INPUT <= 0x4000);

/// Where each hash was last seen on the page at hand.
pub struct Finder {
    table: Box<[u16; 1 << HASH_BITS]>,
    page: Padded,
}

impl Default for Finder {
    fn default() -> Self {
        Self { table: Box::new([0; 1 << HASH_BITS]), page: Padded::new() }
    }
}

impl Finder {
    /// Calls `found` with the literals before each repeat, its distance and its length; the literals left at the end.
    fn search<'a>(&mut self, page: &'a [u8], mut found: impl FnMut(&'a [u8], usize, usize)) -> &'a [u8] {
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
            found(&page[anchor..at], at - from, len);
            at += len;
            anchor = at;
            step = 32;
        }
        &page[anchor..]
    }

    /// Writes `page` as an LZO1X stream to `out`; its length, `None` if it does not fit or is longer than
    /// [`MAX_INPUT`].
    pub fn lzo(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if page.len() > MAX_INPUT {
            return None;
        }
        let mut out = Out { bytes: out, len: 0 };
        let rest = self.search(page, |literals, distance, len| {
            lzo_literals(&mut out, literals);
            let distance = distance - 1;
            if len <= SHORT_LEN && distance < SHORT_DISTANCE {
                out.put((len - 1) << 5 | (distance & 7) << 2);
                out.put(distance >> 3);
                return;
            }
            lzo_length(&mut out, 32, len - 2, 31);
            out.put(distance << 2);
            out.put(distance >> 6);
        });
        lzo_literals(&mut out, rest);
        out.append(&[17, 0, 0]);
        out.finish()
    }

    /// Writes `page` as a snappy block to `out`; its length, `None` if it does not fit or is longer than
    /// [`MAX_INPUT`].
    pub fn snappy(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        if page.len() > MAX_INPUT {
            return None;
        }
        let mut out = Out { bytes: out, len: 0 };
        let mut size = page.len();
        while size >= 0x80 {
            out.put(size | 0x80);
            size >>= 7;
        }
        out.put(size);
        let rest = self.search(page, |literals, distance, mut len| {
            snappy_literals(&mut out, literals);
            // Pieces of at most 64, none of them shorter than a copy can be.
            while len > 0 {
                let now = if len < 68 { len.min(64 - 4 * usize::from(len > 64)) } else { 64 };
                if now < 12 && distance < 0x800 {
                    out.put(1 | (now - 4) << 2 | (distance >> 8) << 5);
                    out.put(distance);
                } else {
                    out.put(2 | (now - 1) << 2);
                    out.put(distance);
                    out.put(distance >> 8);
                }
                len -= now;
            }
        });
        snappy_literals(&mut out, rest);
        out.finish()
    }
}

/// Output that may turn out too small; then `len` says by how much.
struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    /// Appends the low byte of `value`.
    fn put(&mut self, value: usize) {
        if let Some(byte) = self.bytes.get_mut(self.len) {
            *byte = value as u8;
        }
        self.len += 1;
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    fn finish(self) -> Option<usize> {
        (self.len <= self.bytes.len()).then_some(self.len)
    }
}

/// `value` in the low bits of an instruction, or 0 there and what is above `max` behind it.
fn lzo_length(out: &mut Out<'_>, instruction: usize, value: usize, max: usize) {
    if value <= max {
        return out.put(instruction | value);
    }
    out.put(instruction);
    let mut rest = value - max;
    while rest > 255 {
        out.put(0);
        rest -= 255;
    }
    out.put(rest);
}

fn lzo_literals(out: &mut Out<'_>, literals: &[u8]) {
    match literals.len() {
        0 => {}
        count if out.len == 0 && count <= 238 => out.put(17 + count),
        count @ 1..=3 => {
            // In the last instruction's distance, which is its next to last byte.
            let at = out.len - 2;
            if let Some(byte) = out.bytes.get_mut(at) {
                *byte |= count as u8;
            }
        }
        count => lzo_length(out, 0, count - 3, 15),
    }
    out.append(literals);
}

fn snappy_literals(out: &mut Out<'_>, literals: &[u8]) {
    let Some(last) = literals.len().checked_sub(1) else { return };
    match last {
        0..60 => out.put(last << 2),
        60..256 => {
            out.put(60 << 2);
            out.put(last);
        }
        _ => {
            out.put(61 << 2);
            out.put(last);
            out.put(last >> 8);
        }
    }
    out.append(literals);
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
        for len in [1, 2, 3, 4, 11, 12, 13, 238, 239, 4095, 4096, MAX_INPUT] {
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
