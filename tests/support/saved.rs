//! Writes kdump-compressed dumps of every version by the format's offsets, and flattens any file.
//!
//! A writer of the tests' own: it shares no structure with the reader it tests.

use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: usize = 4096;
pub const ZLIB: u32 = 1;
pub const LZO: u32 = 2;
pub const SNAPPY: u32 = 4;
pub const INCOMPLETE: u32 = 8;
pub const ZSTD: u32 = 0x20;

/// A dump to be written.
#[derive(Clone, Default)]
pub struct Saved {
    pub version: u32,
    /// How pages are packed.
    pub codec: u32,
    /// More bits of the header's status.
    pub status: u32,
    pub level: u32,
    pub phys_base: u64,
    pub max_mapnr: u64,
    /// Page frames that are memory.
    pub ram: Vec<Range<u64>>,
    /// Page frames with a descriptor; those without data have a zero descriptor.
    pub pages: BTreeMap<u64, Option<Vec<u8>>>,
    pub notes: Vec<u8>,
    /// VMCOREINFO's text, put behind the notes.
    pub info: Vec<u8>,
    /// Whether it is a part, and of which page frames.
    pub part: Option<Range<u64>>,
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Saved {
    pub fn write(&self) -> Vec<u8> {
        let text_at = PAGE + 104 + self.notes.len();
        let sub_blocks = (text_at + self.info.len() - PAGE).div_ceil(PAGE);
        let half = (self.max_mapnr as usize).div_ceil(8 * PAGE);
        let bitmaps = (1 + sub_blocks) * PAGE;
        let descriptors = bitmaps + 2 * half * PAGE;
        let mut out = vec![0u8; descriptors];
        put(&mut out, 0, b"KDUMP   ");
        put(&mut out, 8, &self.version.to_le_bytes());
        for (at, name) in [(12, "Linux"), (77, "host"), (142, "6.1.0-saved"), (272, "x86_64")] {
            put(&mut out, at, name.as_bytes());
        }
        put(&mut out, 408, &1_700_000_000u64.to_le_bytes());
        for (at, value) in [
            (424, self.codec | self.status),
            (428, 4096),
            (432, sub_blocks as u32),
            (436, 2 * half as u32),
            (440, self.max_mapnr.min(0xffff_ffff) as u32),
            (460, 3),
        ] {
            put(&mut out, at, &value.to_le_bytes());
        }
        put(&mut out, PAGE, &self.phys_base.to_le_bytes());
        put(&mut out, PAGE + 8, &self.level.to_le_bytes());
        let covers = self.part.clone().unwrap_or(0..self.max_mapnr);
        if self.part.is_some() {
            put(&mut out, PAGE + 12, &1u32.to_le_bytes());
            put(&mut out, PAGE + 16, &covers.start.to_le_bytes());
            put(&mut out, PAGE + 24, &covers.end.to_le_bytes());
        }
        // What a version does not have holds something else.
        let junk = 0xdead_beef_dead_beefu64;
        let field = |since: u32, value: u64| if self.version >= since { value } else { junk };
        let there = |len: usize, at: usize| if len == 0 { 0 } else { at as u64 };
        for (at, value) in [
            (32, field(3, there(self.info.len(), text_at))),
            (40, field(3, self.info.len() as u64)),
            (48, field(4, there(self.notes.len(), PAGE + 104))),
            (56, field(4, self.notes.len() as u64)),
            (64, field(5, 0)),
            (72, field(5, 0)),
            (80, field(6, if self.part.is_some() { covers.start } else { 0 })),
            (88, field(6, if self.part.is_some() { covers.end } else { 0 })),
            (96, field(6, self.max_mapnr)),
        ] {
            put(&mut out, PAGE + at, &value.to_le_bytes());
        }
        put(&mut out, PAGE + 104, &self.notes);
        put(&mut out, text_at, &self.info);
        for pfn in self.ram.iter().cloned().flatten() {
            out[bitmaps + pfn as usize / 8] |= 1 << (pfn % 8);
        }
        for pfn in self.pages.keys() {
            out[bitmaps + half * PAGE + *pfn as usize / 8] |= 1 << (pfn % 8);
        }
        let mine: Vec<&Option<Vec<u8>>> = self.pages.range(covers).map(|(_, page)| page).collect();
        out.resize(descriptors + mine.len() * 24, 0);
        for (i, page) in mine.into_iter().enumerate() {
            let Some(page) = page else { continue };
            let (flags, data) = match pack(self.codec, page) {
                Some(packed) if packed.len() < PAGE => (self.codec, packed),
                _ => (0, page.clone()),
            };
            let at = out.len() as u64;
            put(&mut out, descriptors + i * 24, &at.to_le_bytes());
            put(&mut out, descriptors + i * 24 + 8, &(data.len() as u32).to_le_bytes());
            put(&mut out, descriptors + i * 24 + 12, &flags.to_le_bytes());
            out.extend(data);
        }
        out
    }
}

fn pack(codec: u32, page: &[u8]) -> Option<Vec<u8>> {
    match codec {
        ZLIB => Some(miniz_oxide::deflate::compress_to_vec_zlib(page, 1)),
        LZO => Some(lzo(page)),
        SNAPPY => Some(snappy(page)),
        ZSTD => zstd::bulk::compress(page, 1).ok(),
        _ => None,
    }
}

/// Literals, and how often their last byte is repeated behind them: at least 40 times, but for the end.
fn runs(page: &[u8]) -> Vec<(&[u8], usize)> {
    let mut out = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < page.len() {
        let same = page[at..].iter().take_while(|b| **b == page[at]).count();
        // Four literals at least, so that no run of them needs a match's spare bits.
        let literals = (at + 1 - start).max(4);
        if same > 60 && start + literals < at + same {
            let repeated = at + same - start - literals;
            out.push((&page[start..start + literals], repeated));
            start = at + same;
        }
        at += same;
    }
    if start < page.len() {
        out.push((&page[start..], 0));
    }
    out
}

/// LZO1X, of literals and repeated bytes only.
fn lzo(page: &[u8]) -> Vec<u8> {
    let long = |out: &mut Vec<u8>, op: u8, value: usize, base: usize| {
        if value <= base {
            out.push(op | value as u8);
            return;
        }
        out.push(op);
        let mut rest = value - base;
        while rest > 255 {
            out.push(0);
            rest -= 255;
        }
        out.push(rest as u8);
    };
    let mut out = Vec::new();
    let runs = runs(page);
    for (i, (literals, repeat)) in runs.iter().enumerate() {
        let few = literals.len() < 4;
        if few {
            // Behind the last match: its spare bits say how many.
            assert_eq!(i + 1, runs.len());
            let spare = out.len() - 2;
            out[spare] |= literals.len() as u8;
        } else {
            long(&mut out, 0, literals.len() - 3, 15);
        }
        out.extend(*literals);
        if *repeat != 0 {
            long(&mut out, 32, repeat - 2, 31);
            out.extend([0, 0]);
        }
    }
    out.extend([17, 0, 0]);
    out
}

/// Snappy, of literals and repeated bytes only.
fn snappy(page: &[u8]) -> Vec<u8> {
    let mut out = vec![page.len() as u8 | 0x80, (page.len() >> 7) as u8];
    for (literals, mut repeat) in runs(page) {
        match literals.len() - 1 {
            n @ 0..60 => out.push((n as u8) << 2),
            n => out.extend([61 << 2, n as u8, (n >> 8) as u8]),
        }
        out.extend(literals);
        while repeat > 0 {
            let now = repeat.min(64);
            out.extend([(now as u8 - 1) << 2 | 2, 1, 0]);
            repeat -= now;
        }
    }
    out
}

/// `file` as a flattened stream of records of `size` bytes; zeros are left out.
pub fn flatten(file: &[u8], size: usize) -> Vec<u8> {
    let mut out = b"makedumpfile".to_vec();
    out.resize(16, 0);
    out.extend([1i64.to_be_bytes(), 1i64.to_be_bytes()].concat());
    out.resize(PAGE, 0);
    let mut record = |at: i64, len: i64, bytes: &[u8]| {
        out.extend([at.to_be_bytes(), len.to_be_bytes()].concat());
        out.extend(bytes);
    };
    // The header comes last, and before it something else in its place.
    record(0, 4, b"KDUM");
    for (i, part) in file.chunks(size).enumerate().rev() {
        if part.iter().any(|b| *b != 0) || (i + 1) * size >= file.len() {
            record((i * size) as i64, part.len() as i64, part);
        }
    }
    record(-1, -1, &[]);
    out
}

/// The file a flattened stream stands for; the stream must be whole.
pub fn unflatten(stream: &[u8]) -> Vec<u8> {
    assert!(stream.starts_with(b"makedumpfile\0\0\0\0"), "magic");
    let mut file = Vec::new();
    let mut rest = &stream[PAGE..];
    loop {
        let word = |at: usize| i64::from_be_bytes(rest[at..at + 8].try_into().expect("8 bytes"));
        let (offset, size) = (word(0), word(8));
        if (offset, size) == (-1, -1) {
            assert_eq!(rest.len(), 16, "nothing is behind the end mark");
            return file;
        }
        let (at, end) = (offset as usize, (offset + size) as usize);
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at..end].copy_from_slice(&rest[16..16 + size as usize]);
        rest = &rest[16 + size as usize..];
    }
}
