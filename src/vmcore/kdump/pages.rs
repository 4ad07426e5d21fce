//! The pages of a dump: what their descriptors say, and their contents, unpacked.

use std::io;

use zerocopy::FromBytes;

use super::{CACHED, Kdump, PAGE, Part, absent, corrupt};
use crate::abi::diskdump::{
    DUMP_DH_COMPRESSED_LZO, DUMP_DH_COMPRESSED_SNAPPY, DUMP_DH_COMPRESSED_ZLIB, DUMP_DH_COMPRESSED_ZSTD, PageDesc,
};
use crate::codec::{lzo, snappy};
use crate::mem::PAGE_SIZE;
use crate::mem::bitmap::Bitmap;
use crate::vmcore::elf::read_full;
use crate::vmcore::le::{index, wide};

impl Kdump {
    pub(super) fn scan(&self) -> &Scan {
        self.scanned.get_or_init(|| {
            let mut scan = Scan { present: self.described.clone(), gaps: 0, pages: Pages::default() };
            for gap in &self.gaps {
                scan.gaps = scan.gaps.saturating_add(scan.present.clear(gap.clone()));
            }
            for part in &self.parts {
                let (unwritten, shared) = self.scan_part(part, &mut scan);
                scan.pages.unwritten = scan.pages.unwritten.saturating_add(unwritten);
                let (at, pages) = shared;
                let mut block = [1u8; PAGE];
                // Pages of zeros share the first block of the data.
                let there = read_full(part.input.as_ref(), at, &mut block).is_ok_and(|n| n == PAGE);
                if pages != 0 && there && block.iter().all(|b| *b == 0) {
                    scan.pages.zero = scan.pages.zero.saturating_add(pages);
                    let plain = &mut scan.pages.packed[0];
                    *plain = plain.saturating_sub(pages);
                    let again = pages.saturating_sub(1).saturating_mul(PAGE_SIZE);
                    scan.pages.bytes = scan.pages.bytes.saturating_sub(again);
                }
            }
            scan
        })
    }

    /// Takes the pages of `part` that are not there out, and counts the others. Returns how many are not there, the
    /// lowest offset of pages that are not packed, and how many have that.
    fn scan_part(&self, part: &Part, scan: &mut Scan) -> (u64, (u64, u64)) {
        let Scan { present, pages, .. } = scan;
        let mut lowest = (u64::MAX, 0u64);
        const AT_ONCE: usize = 2730;
        let mut buffer = vec![0u8; AT_ONCE.saturating_mul(size_of::<PageDesc>())];
        let (mut missing, mut at) = (0u64, part.pfns.start);
        let mut offset = part.descriptors;
        loop {
            let got = read_full(part.input.as_ref(), offset, &mut buffer).unwrap_or(0);
            let there = buffer.get(..got).unwrap_or_default();
            let mut descriptors = there.chunks_exact(size_of::<PageDesc>());
            if descriptors.len() == 0 {
                // Nothing is behind the end of the file.
                return (missing.saturating_add(present.clear(at..part.pfns.end)), lowest);
            }
            offset = offset.saturating_add(wide(got));
            for bytes in descriptors.by_ref() {
                let Some(pfn) = self.described.next(at).filter(|pfn| *pfn < part.pfns.end) else {
                    return (missing, lowest);
                };
                let descriptor = PageDesc::read_from_bytes(bytes).unwrap_or_default();
                if there_in(part, &descriptor).is_none() {
                    missing = missing.saturating_add(present.clear(pfn..pfn.saturating_add(1)));
                } else {
                    pages.take(&descriptor);
                    let offset = descriptor.offset.get();
                    if descriptor.flags.get() == 0 && offset <= lowest.0 {
                        lowest = (offset, if offset == lowest.0 { lowest.1.saturating_add(1) } else { 1 });
                    }
                }
                at = pfn.saturating_add(1);
            }
        }
    }

    /// Fills `page` with the page frame `pfn`.
    fn page(&self, pfn: u64, page: &mut [u8; PAGE]) -> io::Result<()> {
        if !self.described.get(pfn) {
            return Err(absent());
        }
        let part = self.parts.iter().find(|p| p.pfns.contains(&pfn)).ok_or_else(absent)?;
        let number = self.rank(pfn).saturating_sub(part.first);
        let mut bytes = [0u8; size_of::<PageDesc>()];
        let at = part.descriptors.saturating_add(number.saturating_mul(wide(bytes.len())));
        if read_full(part.input.as_ref(), at, &mut bytes)? < bytes.len() {
            return Err(absent());
        }
        let descriptor = PageDesc::read_from_bytes(&bytes).map_err(|_| corrupt())?;
        let len = there_in(part, &descriptor).ok_or_else(absent)?;
        let mut packed = [0u8; PAGE];
        let packed = packed.get_mut(..len).ok_or_else(corrupt)?;
        if read_full(part.input.as_ref(), descriptor.offset.get(), packed)? < len {
            return Err(absent());
        }
        let pooled = self.decoders.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let mut decoder = pooled.unwrap_or_default();
        let fine = decoder.decode(descriptor.flags.get(), packed, page);
        self.decoders.lock().unwrap_or_else(|e| e.into_inner()).push(decoder);
        if fine { Ok(()) } else { Err(corrupt()) }
    }

    pub(super) fn memory_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (pfn, within) = (at >> 12, index(at & 0xfff));
        if within == 0
            && let Some((page, _)) = buf.split_first_chunk_mut::<PAGE>()
        {
            return self.page(pfn, page).map(|()| PAGE);
        }
        let slot = self.cache.get(index(pfn & CACHED.wrapping_sub(1))).ok_or_else(corrupt)?;
        let mut slot = slot.lock().unwrap_or_else(|e| e.into_inner());
        if slot.as_ref().is_none_or(|(cached, _)| *cached != pfn) {
            let mut page = slot.take().map_or_else(|| Box::new([0; PAGE]), |(_, page)| page);
            self.page(pfn, &mut page)?;
            *slot = Some((pfn, page));
        }
        let page = slot.as_ref().map(|(_, page)| page.as_slice()).unwrap_or_default();
        let mut rest = page.get(within..).unwrap_or_default();
        io::Read::read(&mut rest, buf)
    }
}

/// What the descriptors told.
pub(super) struct Scan {
    pub(super) present: Bitmap,
    /// Pages in parts that were not given.
    pub(super) gaps: u64,
    pub(super) pages: Pages,
}

/// What the descriptors of a dump say of its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages packed by each of [`CODECS`], those of zeros that share a block left out.
    pub packed: [u64; CODECS.len()],
    /// Pages of zeros that share a block.
    pub zero: u64,
    /// Pages of the parts given that were never written, or lie behind the end.
    pub unwritten: u64,
    /// Bytes of page data.
    pub bytes: u64,
}

/// How a page may be packed: the flag of its descriptor, and what people call that.
pub const CODECS: [(u32, &str); 6] = [
    (0, "none"),
    (DUMP_DH_COMPRESSED_ZLIB, "zlib"),
    (DUMP_DH_COMPRESSED_LZO, "lzo"),
    (DUMP_DH_COMPRESSED_SNAPPY, "snappy"),
    (DUMP_DH_COMPRESSED_ZSTD, "zstd"),
    (u32::MAX, "unknown"),
];

impl Pages {
    fn take(&mut self, descriptor: &PageDesc) {
        let flags = descriptor.flags.get();
        let which = CODECS.iter().position(|(flag, _)| *flag == flags).unwrap_or(CODECS.len().wrapping_sub(1));
        if let Some(count) = self.packed.get_mut(which) {
            *count = count.saturating_add(1);
        }
        self.bytes = self.bytes.saturating_add(u64::from(descriptor.size.get()));
    }
}

/// Bytes of the page's data, if it was written and is inside the file.
fn there_in(part: &Part, descriptor: &PageDesc) -> Option<usize> {
    let (offset, size) = (descriptor.offset.get(), u64::from(descriptor.size.get()));
    let inside = offset.checked_add(size)? <= part.input.size();
    (offset != 0 && (1..=PAGE_SIZE).contains(&size) && inside).then(|| index(size))
}

/// Contexts of the codecs, used for one page after the other.
#[derive(Default)]
pub(super) struct Decoder {
    zlib: Option<libdeflater::Decompressor>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    out: Vec<u8>,
}

impl Decoder {
    /// Unpacks `packed` to exactly `page`; `false` if that is not what it holds.
    fn decode(&mut self, flags: u32, packed: &[u8], page: &mut [u8; PAGE]) -> bool {
        match flags {
            0 if packed.len() == PAGE => page.copy_from_slice(packed),
            DUMP_DH_COMPRESSED_ZLIB => {
                let zlib = self.zlib.get_or_insert_with(libdeflater::Decompressor::new);
                return zlib.zlib_decompress(packed, page).is_ok_and(|n| n == PAGE);
            }
            DUMP_DH_COMPRESSED_ZSTD => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                let Some(zstd) = &mut self.zstd else { return false };
                return zstd.decompress_to_buffer(packed, page.as_mut_slice()).is_ok_and(|n| n == PAGE);
            }
            DUMP_DH_COMPRESSED_LZO | DUMP_DH_COMPRESSED_SNAPPY => {
                self.out.clear();
                let decode = if flags == DUMP_DH_COMPRESSED_LZO { lzo::decode } else { snappy::decode };
                if decode(packed, &mut self.out, PAGE).is_err() {
                    return false;
                }
                page.copy_from_slice(&self.out);
            }
            _ => return false,
        }
        true
    }
}
