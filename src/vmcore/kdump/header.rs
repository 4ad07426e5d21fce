//! What the headers of one file of a dump say, and its two bitmaps.

use zerocopy::FromBytes;

use super::{PAGE, invalid};
use crate::abi::diskdump::{
    DUMP_DH_COMPRESSED_INCOMPLETE, DUMP_DH_COMPRESSED_LZO, DUMP_DH_COMPRESSED_SNAPPY, DUMP_DH_COMPRESSED_ZLIB,
    DUMP_DH_COMPRESSED_ZSTD, DUMP_DH_EXCLUDED_VMEMMAP, DiskDumpHeader, HEADER_VERSION, KdumpSubHeader, NewUtsname,
    SIGNATURE,
};
use crate::error::{Error, Result};
use crate::mem::bitmap::{Bitmap, CHUNK};
use crate::mem::{PAGE_SIZE, Range};
use crate::vmcore::elf::read_full;
use crate::vmcore::input::Input;
use crate::vmcore::le::index;
use crate::vmcore::notes::Notes;

/// Page frames of the largest machine of x86_64: 52 bits of address.
const MAX_PFN: u64 = 1 << 40;

/// What the headers say.
#[derive(Clone)]
pub struct Header {
    /// `header_version`.
    pub version: i32,
    /// The crashed kernel's names.
    pub names: NewUtsname,
    /// When the dump was taken, seconds since 1970.
    pub time: i64,
    /// `status`: codec and marks, `DUMP_DH_*`.
    pub status: u32,
    /// CPUs, as the writer counted them.
    pub cpus: u32,
    /// Classes that were left out; 0 if the version does not say.
    pub level: u8,
    /// `phys_base` of the crashed kernel.
    pub phys_base: Option<u64>,
    /// Page frames the bitmaps cover.
    pub max_mapnr: u64,
    /// Whether this is a part of a split dump.
    pub split: bool,
    /// The notes, a range of the file.
    pub notes: Option<Range>,
    /// VMCOREINFO's text, a range of the file.
    pub vmcoreinfo: Option<Range>,
    /// What was erased, a range of the file, or of that part which says it.
    pub eraseinfo: Option<Range>,
}

impl Header {
    /// Whether the writer did not come to its end.
    pub const fn incomplete(&self) -> bool {
        self.status & DUMP_DH_COMPRESSED_INCOMPLETE != 0
    }

    /// Whether struct pages of pages that were left out were left out too (makedumpfile -e).
    pub const fn lacks_struct_pages(&self) -> bool {
        self.status & DUMP_DH_EXCLUDED_VMEMMAP != 0
    }

    /// What people call the codec the header names; pages may be packed otherwise, or not at all.
    pub const fn codec(&self) -> &'static str {
        if self.status & DUMP_DH_COMPRESSED_ZLIB != 0 {
            "zlib"
        } else if self.status & DUMP_DH_COMPRESSED_LZO != 0 {
            "lzo"
        } else if self.status & DUMP_DH_COMPRESSED_SNAPPY != 0 {
            "snappy"
        } else if self.status & DUMP_DH_COMPRESSED_ZSTD != 0 {
            "zstd"
        } else {
            "none"
        }
    }
}

/// What the headers of one file say, and where its bitmaps are.
pub(super) struct Opened {
    pub(super) input: Box<dyn Input>,
    pub(super) raw: DiskDumpHeader,
    pub(super) header: Header,
    pub(super) pfns: std::ops::Range<u64>,
    pub(super) bitmaps: u64,
    /// Blocks of one bitmap.
    pub(super) blocks: u64,
    /// Whether there are two bitmaps.
    pub(super) partial: bool,
    pub(super) descriptors: u64,
}

/// Whether a file with these first bytes is a kdump-compressed dump.
pub fn is_kdump(head: &[u8]) -> bool {
    head.starts_with(&SIGNATURE)
}

fn range(offset: u64, size: u64, version_has_it: bool) -> Option<Range> {
    Range::with_len(offset, size).filter(|r| version_has_it && offset != 0 && !r.is_empty())
}

impl Opened {
    pub(super) fn read(input: Box<dyn Input>) -> Result<Self> {
        let mut block = [0u8; size_of::<DiskDumpHeader>()];
        let got = read_full(input.as_ref(), 0, &mut block).map_err(|e| Error::io(&e, "read the dump's header"))?;
        if got < block.len() {
            return Err(invalid(format!("it ends after {got} bytes, inside the 464 bytes of a dump's header")));
        }
        let raw = DiskDumpHeader::read_from_bytes(&block).map_err(|_| invalid("its header can't be read"))?;
        let version = raw.header_version.get();
        if version < 1 {
            return Err(invalid(format!("its header_version is {version}, but 1 to {HEADER_VERSION} are known")));
        }
        if raw.block_size.get() != 4096 {
            let size = raw.block_size.get();
            return Err(invalid(format!("its block_size is {size}, but pages of x86_64 have 4096 bytes")));
        }
        let sub_blocks = u64::from(raw.sub_hdr_size.get());
        let mut sub = [0u8; size_of::<KdumpSubHeader>()];
        let room = sub.len().min(index(sub_blocks.saturating_mul(PAGE_SIZE)));
        read_full(input.as_ref(), PAGE_SIZE, sub.get_mut(..room).unwrap_or_default())
            .map_err(|e| Error::io(&e, "read the dump's sub header"))?;
        let sub = KdumpSubHeader::read_from_bytes(&sub).map_err(|_| invalid("its sub header can't be read"))?;
        let max_mapnr = if version >= 6 { sub.max_mapnr_64.get() } else { u64::from(raw.max_mapnr.get()) };
        let bitmap_blocks = u64::from(raw.bitmap_blocks.get());
        let bitmaps = sub_blocks.saturating_add(1).saturating_mul(PAGE_SIZE);
        let descriptors = bitmaps.saturating_add(bitmap_blocks.saturating_mul(PAGE_SIZE));
        // Two bitmaps have at least twice the blocks that one needs.
        let needed = max_mapnr.div_ceil(CHUNK);
        let partial = bitmap_blocks >= needed.saturating_mul(2);
        let blocks = if partial { bitmap_blocks >> 1 } else { bitmap_blocks };
        let split = version >= 2 && sub.split.get() != 0;
        let pfns = match (split, version) {
            (false, _) => 0..max_mapnr,
            (true, 6..) => sub.start_pfn_64.get()..sub.end_pfn_64.get().min(max_mapnr),
            (true, _) => sub.start_pfn.get()..sub.end_pfn.get().min(max_mapnr),
        };
        let header = Header {
            version,
            names: raw.utsname,
            time: raw.tv_sec.get(),
            status: raw.status.get(),
            cpus: u32::try_from(raw.nr_cpus.get()).unwrap_or(0),
            level: u8::try_from(sub.dump_level.get() & 31).unwrap_or(0),
            phys_base: (sub_blocks != 0).then(|| sub.phys_base.get()),
            max_mapnr,
            split,
            notes: range(sub.offset_note.get(), sub.size_note.get(), version >= 4),
            vmcoreinfo: range(sub.offset_vmcoreinfo.get(), sub.size_vmcoreinfo.get(), version >= 3),
            eraseinfo: range(sub.offset_eraseinfo.get(), sub.size_eraseinfo.get(), version >= 5),
        };
        Ok(Self { input, raw, header, pfns, bitmaps, blocks, partial, descriptors })
    }

    /// Whether the writer was stopped before it had written which pages there are: then it has saved none.
    pub(super) fn begun(&self) -> bool {
        // max_mapnr is in the sub header.
        self.header.incomplete() && (self.header.max_mapnr == 0 || self.descriptors > self.input.size())
    }

    /// Whether the bitmaps are there, if they must be, and cover what they should.
    pub(super) fn check(&self) -> Result<()> {
        if self.begun() {
            return Ok(());
        }
        let (max_mapnr, size) = (self.header.max_mapnr, self.input.size());
        if self.descriptors > size {
            return Err(invalid(format!(
                "it ends at {size:#x}, inside its bitmaps, which reach to {:#x}: no page can be found",
                self.descriptors
            )));
        }
        if max_mapnr == 0 || max_mapnr.div_ceil(CHUNK) > self.blocks || max_mapnr > MAX_PFN {
            let blocks = self.raw.bitmap_blocks.get();
            return Err(invalid(format!(
                "its max_mapnr is {max_mapnr:#x}, but its {blocks} bitmap blocks cover other page frames"
            )));
        }
        Ok(())
    }

    /// The two bitmaps. Blocks of a sparse file that were never written are stepped over.
    pub(super) fn bitmaps(&self) -> Result<(Bitmap, Bitmap)> {
        let max = self.header.max_mapnr;
        let mut ram = Bitmap::new(max);
        let mut described = Bitmap::new(max);
        let second = if self.partial { self.blocks.saturating_mul(PAGE_SIZE) } else { 0 };
        let block = |at: u64| -> Result<[u8; PAGE]> {
            let mut block = [0u8; PAGE];
            read_full(self.input.as_ref(), at, &mut block).map_err(|e| Error::io(&e, "read the dump's bitmaps"))?;
            Ok(block)
        };
        let mut chunk = 0u64;
        while chunk < ram.chunks() {
            let at = self.bitmaps.saturating_add(chunk.saturating_mul(PAGE_SIZE));
            let skip = |at: u64| self.input.data_at(at).saturating_sub(at) >> 12;
            let holes = skip(at).min(skip(at.saturating_add(second)));
            if holes != 0 {
                chunk = chunk.saturating_add(holes);
                continue;
            }
            let mut first = block(at)?;
            let other = if self.partial { block(at.saturating_add(second))? } else { first };
            // A page with a descriptor is memory, whatever the first bitmap says.
            first.iter_mut().zip(other).for_each(|(a, b)| *a |= b);
            ram.set_block(chunk, &first);
            described.set_block(chunk, &other);
            chunk = chunk.saturating_add(1);
        }
        // The last block may have bits behind the last page frame.
        let end = ram.chunks().saturating_mul(CHUNK);
        ram.clear(max..end);
        described.clear(max..end);
        Ok((ram, described))
    }
}

/// What the headers and notes of a dump say, be the rest of it there or not.
///
/// # Errors
/// [`Kind::Invalid`] when the headers break the format's rules, or the file ends inside them.
pub fn headers(input: Box<dyn Input>) -> Result<(Header, Notes)> {
    let file = Opened::read(input)?;
    let areas: Vec<Range> = file.header.notes.into_iter().collect();
    let notes = Notes::read(file.input.as_ref(), &areas);
    Ok((file.header, notes))
}
