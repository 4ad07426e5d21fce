//! The kdump-compressed container: where everything goes, and the parts that are not page data.

use std::time::{SystemTime, UNIX_EPOCH};

use zerocopy::{FromZeros, IntoBytes};

use super::Level;
use super::bitmap::Bitmap;
use super::compress::Codec;
use crate::abi::diskdump::{
    DUMP_DH_COMPRESSED_INCOMPLETE, DUMP_DH_EXCLUDED_VMEMMAP, DiskDumpHeader, HEADER_VERSION, KdumpSubHeader,
    NewUtsname, PageDesc, SIGNATURE,
};
use crate::error::{Context, Result};
use crate::mem::{PAGE_SIZE, Range, VirtAddr};
use crate::target::Sink;
use crate::vmcore::{AddressSpace, Vmcore, elf};

/// Bytes of a block: the page size.
const BLOCK: u64 = PAGE_SIZE;
/// `status` in the header.
const STATUS_OFFSET: u64 = std::mem::offset_of!(DiskDumpHeader, status) as u64;
/// Most note bytes that are carried over: 16 device dumps of 16 MiB leave room for every CPU's registers.
const MAX_NOTES: u64 = 256 << 20;

/// The file's parts, all known before the first page is read.
#[derive(Clone)]
pub struct Container {
    header: DiskDumpHeader,
    sub_header: KdumpSubHeader,
    notes: Vec<Range>,
    bitmap_blocks: u64,
    /// Offset of the first descriptor.
    pub descriptors: u64,
    /// Offset of the first page's data.
    pub data: u64,
}

impl Container {
    /// Lays out the dump of `kept` pages of `core`.
    pub fn new(core: &Vmcore, kept: u64, level: Level, codec: Codec) -> Self {
        let (notes, size_note) = note_areas(core);
        // Readers refuse a dump without a bitmap, even of no page.
        let max_mapnr = core.end().0.div_ceil(BLOCK).max(1);
        let sub_blocks = (size_of::<KdumpSubHeader>() as u64 + size_note).div_ceil(BLOCK);
        let bitmap_blocks = 2 * max_mapnr.div_ceil(8).div_ceil(BLOCK);
        let descriptors = (1 + sub_blocks + bitmap_blocks) * BLOCK;
        let data = descriptors + kept * size_of::<PageDesc>() as u64;
        let mut header = DiskDumpHeader::new_zeroed();
        header.signature = SIGNATURE;
        header.header_version.set(HEADER_VERSION);
        header.utsname = utsname(core);
        header.tv_sec.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64));
        // What a dump that is filtered again lacks, its copy lacks.
        let before = core.dump().is_some_and(|dump| dump.header.lacks_struct_pages());
        let before = if before { DUMP_DH_EXCLUDED_VMEMMAP } else { 0 };
        header.status.set(codec.flag() | DUMP_DH_COMPRESSED_INCOMPLETE | before);
        header.block_size.set(BLOCK as u32);
        header.sub_hdr_size.set(sub_blocks as u32);
        header.bitmap_blocks.set(u32::try_from(bitmap_blocks).unwrap_or(u32::MAX));
        header.max_mapnr.set(u32::try_from(max_mapnr).unwrap_or(u32::MAX));
        header.nr_cpus.set(core.notes().cpus.min(i32::MAX as u32) as i32);
        let mut sub_header = KdumpSubHeader::new_zeroed();
        sub_header.phys_base.set(core.phys_base().unwrap_or(0));
        sub_header.dump_level.set(i32::from(level.bits()));
        sub_header.max_mapnr_64.set(max_mapnr);
        if size_note != 0 {
            let start = BLOCK + size_of::<KdumpSubHeader>() as u64;
            sub_header.offset_note.set(start);
            sub_header.size_note.set(size_note);
            if let Some((offset, size)) = core.notes().vmcoreinfo_at.and_then(|at| place(&notes, at)) {
                sub_header.offset_vmcoreinfo.set(start + offset);
                sub_header.size_vmcoreinfo.set(size);
            }
        }
        Self { header, sub_header, notes, bitmap_blocks, descriptors, data }
    }

    /// The file of a split dump that has the page frames `pfns`, of which `kept` have a descriptor. All but the borders is
    /// the same in all of them.
    pub fn part(&self, pfns: &std::ops::Range<u64>, kept: u64) -> Self {
        let mut part = self.clone();
        part.sub_header.split.set(1);
        part.sub_header.start_pfn.set(pfns.start.min(u64::from(u32::MAX)));
        part.sub_header.end_pfn.set(pfns.end.min(u64::from(u32::MAX)));
        part.sub_header.start_pfn_64.set(pfns.start);
        part.sub_header.end_pfn_64.set(pfns.end);
        part.data = part.descriptors + kept * size_of::<PageDesc>() as u64;
        part
    }

    /// Page frames the bitmaps cover.
    pub fn max_mapnr(&self) -> u64 {
        self.sub_header.max_mapnr_64.get()
    }

    /// Says that struct pages are left out.
    pub fn lacks_struct_pages(&mut self) {
        self.header.status.set(self.header.status.get() | DUMP_DH_EXCLUDED_VMEMMAP);
    }

    /// Writes everything in front of the descriptors, the header first and marked incomplete.
    ///
    /// # Errors
    /// The sink's.
    pub fn begin(&self, core: &Vmcore, ram: &Bitmap, kept: &Bitmap, sink: &dyn Sink) -> Result<()> {
        let mut block = vec![0u8; BLOCK as usize];
        block[..size_of::<DiskDumpHeader>()].copy_from_slice(self.header.as_bytes());
        let what = || "write the dump's header";
        marked(&block, STATUS_OFFSET as usize, sink).context(what)?;
        if sink.rewrites() {
            // Readers want the bitmaps inside the file: from here on they open it, however soon this ends.
            sink.write_at(self.descriptors - BLOCK, &[0; BLOCK as usize]).context(what)?;
        }
        sink.write_at(BLOCK, self.sub_header.as_bytes()).context(|| "write the dump's sub header")?;
        copy_notes(core, &self.notes, BLOCK + size_of::<KdumpSubHeader>() as u64, sink)?;
        let half = self.bitmap_blocks / 2;
        for (i, bitmap) in [ram, kept].into_iter().enumerate() {
            let start = self.descriptors - self.bitmap_blocks * BLOCK + i as u64 * half * BLOCK;
            for chunk in 0..half {
                // Blocks of zeros are left as holes; the last is written, so that the bitmaps are inside the file.
                let block = bitmap.block(chunk);
                if block.is_some() || chunk + 1 == half {
                    let bytes = block.unwrap_or([0; BLOCK as usize]);
                    sink.write_at(start + chunk * BLOCK, &bytes).context(|| "write the dump's bitmaps")?;
                }
            }
        }
        Ok(())
    }

    /// The last write of a dump: takes the mark of the header away, if it is `complete`.
    ///
    /// # Errors
    /// The sink's.
    pub fn end(&self, complete: bool, sink: &dyn Sink) -> Result<()> {
        let status = self.header.status.get();
        end(STATUS_OFFSET, [status, status & !DUMP_DH_COMPRESSED_INCOMPLETE], complete, sink)
    }
}

/// Writes the headers `head` of a dump, with the mark in the four bytes at `mark`; where they can't be written again,
/// without these.
///
/// # Errors
/// The sink's.
pub(super) fn marked(head: &[u8], mark: usize, sink: &dyn Sink) -> Result<()> {
    if sink.rewrites() {
        return sink.write_at(0, head);
    }
    let behind = mark + 4;
    sink.write_at(0, &head[..mark])?;
    sink.write_at(behind as u64, &head[behind..])
}

/// Writes the second of `marks` to `mark` if the dump is `complete`. Where [`marked`] left them out, else the first.
///
/// # Errors
/// The sink's.
pub(super) fn end(mark: u64, marks: [u32; 2], complete: bool, sink: &dyn Sink) -> Result<()> {
    if sink.rewrites() && !complete {
        return Ok(());
    }
    sink.write_at(mark, &marks[usize::from(complete)].to_le_bytes()).context(|| "mark the dump complete, or not")
}

/// Copies the note `areas` one behind the other to `to`.
///
/// # Errors
/// The sink's.
pub(super) fn copy_notes(core: &Vmcore, areas: &[Range], mut to: u64, sink: &dyn Sink) -> Result<()> {
    let mut buffer = vec![0u8; 64 << 10];
    for area in areas {
        let mut from = area.start();
        while from < area.end() {
            let len = buffer.len().min((area.end() - from) as usize);
            let part = &mut buffer[..len];
            // What can't be read stays zero: readers stop at a note without a name.
            if !elf::read_full(core.input(), from, part).is_ok_and(|n| n == len) {
                part.fill(0);
            }
            sink.write_at(to, part).context(|| "write the dump's notes")?;
            from += len as u64;
            to += len as u64;
        }
    }
    Ok(())
}

/// The note areas that are carried over, and their bytes together.
pub(super) fn note_areas(core: &Vmcore) -> (Vec<Range>, u64) {
    let mut total = 0;
    let mut areas = Vec::new();
    for area in &core.notes().areas {
        let len = area.len().min(MAX_NOTES - total);
        areas.extend(Range::with_len(area.start(), len).filter(|a| !a.is_empty()));
        total += len;
    }
    (areas, total)
}

/// Where the range `wanted` of the vmcore lies among the concatenated `areas`.
fn place(areas: &[Range], wanted: Range) -> Option<(u64, u64)> {
    let mut before = 0;
    for area in areas {
        if area.contains_range(wanted) {
            return Some((before + wanted.start() - area.start(), wanted.len()));
        }
        before += area.len();
    }
    None
}

/// The crashed kernel's names: from its memory, else the release from VMCOREINFO.
pub(super) fn utsname(core: &Vmcore) -> NewUtsname {
    let mut names = NewUtsname::new_zeroed();
    if let Some(found) = read_utsname(core) {
        return found;
    }
    let fill = |field: &mut [u8; 65], text: &str| {
        let n = text.len().min(64);
        field[..n].copy_from_slice(&text.as_bytes()[..n]);
    };
    fill(&mut names.sysname, "Linux");
    // libkdumpfile takes the architecture from here.
    fill(&mut names.machine, "x86_64");
    fill(&mut names.release, core.vmcoreinfo().and_then(|i| i.get("OSRELEASE")).unwrap_or_default());
    names
}

fn read_utsname(core: &Vmcore) -> Option<NewUtsname> {
    let info = core.vmcoreinfo()?;
    let at = info.symbol("init_uts_ns")?;
    let space = AddressSpace::of(core, info);
    let reader = core.reader();
    // Before its offset was exported the names followed a reference count of 4 bytes.
    let offsets = info.offset("uts_namespace.name").map_or(vec![0, 4], |o| vec![o]);
    offsets.into_iter().find_map(|offset| {
        let mut names = NewUtsname::new_zeroed();
        space.read(&reader, VirtAddr(at.wrapping_add(offset as u64)), names.as_mut_bytes()).ok()?;
        names.sysname.starts_with(b"Linux\0").then_some(names)
    })
}
