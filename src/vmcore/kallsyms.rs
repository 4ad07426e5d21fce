//! The kernel's own symbol table (kernel/kallsyms.c, scripts/kallsyms.c), read out of its memory.
//!
//! Names are strings of tokens; a table expands each of the 256. Addresses are 32-bit numbers whose meaning changed: up to
//! 6.14 below a base if negative and absolute (per CPU) if not, then above the base, at last relative to their own place.
//! Which it is follows from symbols that VMCOREINFO names too.

use super::image::Image;
use super::le::{index, u16_at, u32_at, wide};
use super::vmcoreinfo::VmcoreInfo;
use crate::mem::PAGE_SIZE;

/// More symbols than any kernel has.
const MAX_SYMBOLS: u32 = 1 << 22;
/// Tokens, and what an index of 16 bits reaches together with the last of them.
const TOKENS: usize = 256;
const MAX_TOKENS: u64 = (1 << 16) + 512;
/// Symbols in VMCOREINFO that tell how addresses are written.
const ANCHORS: [&str; 4] = ["_stext", "init_uts_ns", "prb", "swapper_pg_dir"];
/// Entries of 256 names each that `kallsyms_markers` has at most.
const MAX_MARKERS: usize = 1 << 14;

/// Where the tables are, and what tokens stand for.
pub struct Kallsyms {
    names: u64,
    count: u32,
    tokens: Vec<u8>,
    token_index: Vec<u8>,
    offsets: u64,
    base: u64,
}

impl Kallsyms {
    /// By the addresses in VMCOREINFO, which 6.0 and later export.
    pub fn told(image: &Image<'_>, info: &VmcoreInfo) -> Option<Self> {
        let symbol = |name: &str| info.symbol(&format!("kallsyms_{name}"));
        let base = symbol("relative_base").and_then(|at| image.u64(at)).unwrap_or(0);
        let count = image.u32(symbol("num_syms")?)?;
        Self::new(
            image,
            symbol("names")?,
            count,
            symbol("token_table")?,
            symbol("token_index")?,
            symbol("offsets")?,
            base,
        )
    }

    fn new(image: &Image<'_>, names: u64, count: u32, table: u64, index: u64, offsets: u64, base: u64) -> Option<Self> {
        let token_index = image.bytes(index, wide(TOKENS).saturating_mul(2));
        let tokens = image.bytes(table, MAX_TOKENS);
        // The first token is at the start of the table, the others behind.
        let first = u16_at(&token_index, 0)? == 0 && u16_at(&token_index, 2)? != 0;
        (first && count != 0 && count <= MAX_SYMBOLS).then_some(Self {
            names,
            count,
            tokens,
            token_index,
            offsets,
            base,
        })
    }

    /// By the shape of its tables, in the order of kernels before 6.2 (offsets, base, number, names, markers, tokens,
    /// index): the digits stand for themselves. Those since 6.0 tell.
    pub fn found(image: &Image<'_>, start: u64) -> Option<Self> {
        const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
        image.search(start, &mut |va, bytes| {
            let places = bytes.windows(DIGITS.len()).enumerate().filter(|(_, w)| *w == DIGITS);
            places.filter_map(|(at, _)| Self::around(image, va.checked_add(wide(at))?)).next()
        })
    }

    /// The tables whose token '0' is at `digit`.
    fn around(image: &Image<'_>, digit: u64) -> Option<Self> {
        // 48 strings lie before it, each behind a NUL.
        let before = image.bytes(digit.checked_sub(4096)?, 4096);
        let mut ends = before.iter().enumerate().rev().filter(|(_, b)| **b == 0).map(|(i, _)| i);
        let end = ends.nth(48)?;
        let table = digit.checked_sub(wide(4096usize.checked_sub(end.checked_add(1)?)?))?;
        let tokens = image.bytes(table, MAX_TOKENS);
        let mut length = 0usize;
        for token in tokens.split(|b| *b == 0).take(TOKENS) {
            length = length.checked_add(token.len())?.checked_add(1)?;
        }
        let token_index = table.checked_add(wide(length))?.checked_next_multiple_of(8)?;
        let zero = image.bytes(token_index.checked_add(96)?, 2);
        if u64::from(u16_at(&zero, 0)?) != digit.checked_sub(table)? {
            return None;
        }
        let (markers, entries, last) = markers(image, table)?;
        // The number of names is 8 bytes before them, and the markers say how many it can be.
        let newest = markers.checked_sub(u64::from(last))?;
        for back in (0..1u64 << 16).step_by(8) {
            let names = (newest & !7).checked_sub(back)?;
            let (count, base_at) = (image.u64(names.checked_sub(8)?)?, names.checked_sub(16)?);
            if count.div_ceil(256) == wide(entries) {
                let count = u32::try_from(count).ok()?;
                let offsets = base_at.checked_sub(u64::from(count).checked_mul(4)?.checked_next_multiple_of(8)?)?;
                return Self::new(image, names, count, table, token_index, offsets, image.u64(base_at)?);
            }
        }
        None
    }

    /// Addresses of the `wanted` symbols that are there; empty if no symbol of `info` tells how addresses are written.
    pub fn symbols(&self, image: &Image<'_>, wanted: &[&str], info: &VmcoreInfo) -> Vec<(String, u64)> {
        let mut cursor = Cursor { image, at: self.names, page: Vec::new(), pos: 0 };
        let mut name = Vec::new();
        let mut found: Vec<(String, [u64; 3])> = Vec::new();
        for i in 0..self.count {
            let Some(()) = self.next(&mut cursor, &mut name) else { break };
            // The first letter is the symbol's type.
            let Some(plain) = name.get(1..).and_then(|n| std::str::from_utf8(n).ok()) else { continue };
            if (wanted.contains(&plain) || ANCHORS.contains(&plain))
                && let Some(addresses) = self.addresses(image, i)
            {
                found.push((plain.to_owned(), addresses));
            }
        }
        let way = (0..3usize).find(|way| {
            let right = |(name, at): &(String, [u64; 3])| info.symbol(name).is_some_and(|va| at.get(*way) == Some(&va));
            found.iter().any(right)
        });
        let Some(way) = way else { return Vec::new() };
        found.retain(|(name, _)| wanted.contains(&name.as_str()));
        found.into_iter().filter_map(|(name, at)| Some((name, *at.get(way)?))).collect()
    }

    /// What the address of symbol `i` is in each of the three ways.
    fn addresses(&self, image: &Image<'_>, i: u32) -> Option<[u64; 3]> {
        let place = self.offsets.wrapping_add(u64::from(i).wrapping_mul(4));
        let offset = image.u32(place)?;
        let signed = i64::from(offset.cast_signed()).cast_unsigned();
        let split =
            if offset.cast_signed() < 0 { self.base.wrapping_sub(1).wrapping_sub(signed) } else { u64::from(offset) };
        Some([split, self.base.wrapping_add(u64::from(offset)), place.wrapping_add(signed)])
    }

    /// Expands the next name.
    fn next(&self, cursor: &mut Cursor<'_, '_>, name: &mut Vec<u8>) -> Option<()> {
        name.clear();
        let mut left = u32::from(cursor.byte()?);
        // Since 6.1 a name of 128 tokens and more has its length in two bytes.
        if left & 0x80 != 0 {
            left = left & 0x7f | u32::from(cursor.byte()?) << 7;
        }
        for _ in 0..left {
            let token = usize::from(cursor.byte()?);
            let at = usize::from(u16_at(&self.token_index, token.checked_mul(2)?)?);
            name.extend(self.tokens.get(at..)?.iter().take_while(|b| **b != 0));
        }
        Some(())
    }
}

/// Address, number of entries and last entry of `kallsyms_markers`, which ends before `table`: ascending from 0.
fn markers(image: &Image<'_>, table: u64) -> Option<(u64, usize, u32)> {
    let start = table.checked_sub(wide(MAX_MARKERS).checked_mul(4)?)?;
    let bytes = image.bytes(start, table.checked_sub(start)?);
    let word = |i: usize| u32_at(&bytes, i.checked_mul(4)?);
    let padding = usize::from(word(MAX_MARKERS.checked_sub(1)?)? == 0);
    let end = MAX_MARKERS.checked_sub(padding)?;
    let last = word(end.checked_sub(1)?)?;
    let (mut above, mut entries) = (last, 1usize);
    while above != 0 {
        entries = entries.checked_add(1)?;
        let here = word(end.checked_sub(entries)?)?;
        if here >= above {
            return None;
        }
        above = here;
    }
    let first = end.checked_sub(entries)?;
    Some((start.checked_add(wide(first).checked_mul(4)?)?, entries, last))
}

/// Reads byte after byte, a page at a time.
struct Cursor<'a, 'b> {
    image: &'a Image<'b>,
    at: u64,
    page: Vec<u8>,
    pos: usize,
}

impl Cursor<'_, '_> {
    fn byte(&mut self) -> Option<u8> {
        if self.pos >= self.page.len() {
            let len = PAGE_SIZE.wrapping_sub(self.at & PAGE_SIZE.wrapping_sub(1));
            self.page = vec![0; index(len)];
            self.image.read(self.at, &mut self.page)?;
            self.at = self.at.checked_add(len)?;
            self.pos = 0;
        }
        let byte = self.page.get(self.pos).copied();
        self.pos = self.pos.saturating_add(1);
        byte
    }
}
