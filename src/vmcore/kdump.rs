//! A saved dump in the kdump-compressed format (makedumpfile, QEMU, ourselves), read as the memory it holds: one file,
//! or all parts of a split one. Header versions 1 to 6 of 64-bit machines with pages of 4 KiB.
//!
//! As an [`Input`] it has three areas: the bytes of the (first) file, a note made here if the file has VMCOREINFO but no
//! notes, and from [`MEMORY`] on physical memory. Pages that a dump lacks, because they were left out or never written,
//! read as ENODATA.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use zerocopy::FromBytes;

use super::elf::{Layout, Load, read_full};
use super::input::Input;
use super::le::{index, wide};
use super::notes::Notes;
use crate::abi::diskdump::{
    DUMP_DH_COMPRESSED_INCOMPLETE, DUMP_DH_COMPRESSED_LZO, DUMP_DH_COMPRESSED_SNAPPY, DUMP_DH_COMPRESSED_ZLIB,
    DUMP_DH_COMPRESSED_ZSTD, DUMP_DH_EXCLUDED_VMEMMAP, DiskDumpHeader, HEADER_VERSION, KdumpSubHeader, NewUtsname,
    PageDesc, SIGNATURE,
};
use crate::codec::{lzo, snappy};
use crate::error::{Context, Error, Kind, Result};
use crate::mem::bitmap::{Bitmap, CHUNK};
use crate::mem::{PAGE_SIZE, Range};

const PAGE: usize = 4096;
/// Where the note made here starts in the input.
const NOTE: u64 = 1 << 61;
/// Where physical address 0 is in the input.
const MEMORY: u64 = 1 << 62;
/// Page frames of the largest machine of x86_64: 52 bits of address.
const MAX_PFN: u64 = 1 << 40;
/// Longest VMCOREINFO that is read.
const MAX_VMCOREINFO: u64 = 4 << 20;
/// Longest list of memory ranges that is made from the first bitmap; beyond it holes are part of the last range.
const MAX_RUNS: usize = 1 << 16;
/// Unpacked pages kept for reads of less than a page: page tables are read eight bytes at a time.
const CACHED: u64 = 256;

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
    /// What was erased, a range of the file.
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

/// One file.
pub struct Part {
    /// Its bytes.
    pub input: Box<dyn Input>,
    /// Page frames whose descriptors it has.
    pub pfns: std::ops::Range<u64>,
    /// Offset of its first descriptor.
    pub descriptors: u64,
    /// How many descriptors it has.
    pub count: u64,
    /// Pages in the second bitmap in front of `pfns`.
    first: u64,
}

/// What the headers of one file say, and where its bitmaps are.
struct Opened {
    input: Box<dyn Input>,
    raw: DiskDumpHeader,
    header: Header,
    pfns: std::ops::Range<u64>,
    bitmaps: u64,
    /// Blocks of one bitmap.
    blocks: u64,
    /// Whether there are two bitmaps.
    partial: bool,
    descriptors: u64,
}

type Slot = Mutex<Option<(u64, Box<[u8; PAGE]>)>>;

/// A dump. Shared by threads.
pub struct Kdump {
    /// What the headers say; of a split dump, those of its first part.
    pub header: Header,
    parts: Vec<Part>,
    ram: Bitmap,
    described: Bitmap,
    /// For each chunk of the second bitmap, how many page frames before it are in.
    ranks: Vec<u64>,
    note: Vec<u8>,
    decoders: Mutex<Vec<Decoder>>,
    cache: Vec<Slot>,
    scanned: OnceLock<Scan>,
    /// Page frames that belong to parts of the split dump which were not given.
    gaps: Vec<std::ops::Range<u64>>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

/// The input's way to say that it does not hold something.
fn absent() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NODATA.raw_os_error())
}

fn corrupt() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::BADMSG.raw_os_error())
}

/// Whether a file with these first bytes is a kdump-compressed dump.
pub fn is_kdump(head: &[u8]) -> bool {
    head.starts_with(&SIGNATURE)
}

fn range(offset: u64, size: u64, version_has_it: bool) -> Option<Range> {
    Range::with_len(offset, size).filter(|r| version_has_it && offset != 0 && !r.is_empty())
}

impl Opened {
    fn read(input: Box<dyn Input>) -> Result<Self> {
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
    fn begun(&self) -> bool {
        // max_mapnr is in the sub header.
        self.header.incomplete() && (self.header.max_mapnr == 0 || self.descriptors > self.input.size())
    }

    /// Whether the bitmaps are there, if they must be, and cover what they should.
    fn check(&self) -> Result<()> {
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
    fn bitmaps(&self) -> Result<(Bitmap, Bitmap)> {
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

impl Kdump {
    /// Opens the file in `inputs`, or the parts of one split dump, in any order. `cut` says that one is incomplete,
    /// whatever its header says.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when a header breaks the format's rules, or the files are no parts of one dump.
    pub fn open(inputs: Vec<Box<dyn Input>>, cut: bool) -> Result<Self> {
        let mut files = Vec::with_capacity(inputs.len());
        let several = inputs.len() > 1;
        for (n, input) in (1usize..).zip(inputs) {
            let name = || format!("file {n} of the set");
            let file = Opened::read(input).and_then(|mut file| {
                file.header.status |= if cut { DUMP_DH_COMPRESSED_INCOMPLETE } else { 0 };
                file.check().map(|()| file)
            });
            files.push(if several { file.context(name)? } else { file? });
        }
        files.sort_by_key(|f| f.pfns.start);
        let first = files.first().ok_or_else(|| invalid("no file was given"))?;
        let with_bitmaps = files.iter().find(|file| !file.begun());
        let (ram, described) = with_bitmaps.map_or(Ok(Default::default()), Opened::bitmaps)?;
        let header = first.header.clone();
        let mut ranks = Vec::with_capacity(index(described.chunks()));
        let mut total = 0u64;
        for chunk in 0..described.chunks() {
            ranks.push(total);
            total = total.saturating_add(described.count_in(chunk));
        }
        let mut dump = Self {
            header,
            parts: Vec::new(),
            ram,
            described,
            ranks,
            note: Vec::new(),
            decoders: Mutex::default(),
            cache: (0..CACHED).map(|_| Slot::default()).collect(),
            scanned: OnceLock::new(),
            gaps: Vec::new(),
        };
        dump.take_parts(files)?;
        dump.note = dump.separate_vmcoreinfo();
        Ok(dump)
    }

    fn take_parts(&mut self, files: Vec<Opened>) -> Result<()> {
        use zerocopy::IntoBytes;
        let several = files.len() > 1;
        let mut done = 0u64;
        let raw = files.first().map(|f| f.raw);
        for file in files {
            if several && !file.header.split {
                return Err(invalid(
                    "several files are given, but one of them is a whole dump, not a part of a split one",
                ));
            }
            let same = |raw: DiskDumpHeader| {
                // A part whose writer was stopped has a mark the others lack.
                let [mine, other] = [file.raw, raw].map(|mut header| {
                    header.status.set(header.status.get() | DUMP_DH_COMPRESSED_INCOMPLETE);
                    header
                });
                mine.as_bytes() == other.as_bytes()
            };
            if !raw.is_some_and(same) || file.header.max_mapnr != self.header.max_mapnr {
                return Err(invalid("the files are parts of different dumps: their headers differ"));
            }
            if file.pfns.start < done || file.pfns.end < file.pfns.start {
                return Err(invalid(format!(
                    "page frames from {:#x} to {:#x} are in more than one of the files",
                    file.pfns.start, done
                )));
            }
            if file.pfns.start > done {
                self.gaps.push(done..file.pfns.start);
            }
            done = file.pfns.end;
            self.header.status |= file.header.status;
            let first = self.rank(file.pfns.start);
            let count = self.rank(file.pfns.end).saturating_sub(first);
            let (input, descriptors) = (file.input, file.descriptors);
            self.parts.push(Part { input, pfns: file.pfns, descriptors, count, first });
        }
        if done < self.header.max_mapnr {
            self.gaps.push(done..self.header.max_mapnr);
        }
        Ok(())
    }

    /// A note of the VMCOREINFO that stands outside of the notes, or has none: versions before 4, and QEMU's.
    fn separate_vmcoreinfo(&self) -> Vec<u8> {
        let Some(text) = self.header.vmcoreinfo.filter(|t| t.len() <= MAX_VMCOREINFO) else { return Vec::new() };
        if self.header.notes.is_some_and(|n| n.contains_range(text)) {
            return Vec::new();
        }
        let mut bytes = vec![0u8; index(text.len())];
        let Some(part) = self.parts.first() else { return Vec::new() };
        if !read_full(part.input.as_ref(), text.start(), &mut bytes).is_ok_and(|n| n == bytes.len()) {
            return Vec::new();
        }
        let size = u32::try_from(bytes.len()).unwrap_or(0);
        let mut note: Vec<u8> = [11, size, 0].into_iter().flat_map(u32::to_le_bytes).collect();
        note.extend(b"VMCOREINFO\0\0");
        note.extend(bytes);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    /// How many page frames below `pfn` have a descriptor.
    fn rank(&self, pfn: u64) -> u64 {
        let chunk = pfn.checked_div(CHUNK).unwrap_or(0);
        let before = self.ranks.get(index(chunk)).copied();
        let last = || self.ranks.last().map_or(0, |n| n.saturating_add(self.described.count_in(self.last_chunk())));
        before.map_or_else(last, |n| n.saturating_add(self.described.count_before(pfn)))
    }

    fn last_chunk(&self) -> u64 {
        self.described.chunks().saturating_sub(1)
    }

    /// Where notes, memory and what is missing lie in this input.
    pub(super) fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        let size = self.parts.first().map_or(0, |p| p.input.size());
        if let Some(notes) = self.header.notes {
            let clipped = notes.intersect(Range::with_len(0, size).unwrap_or(notes));
            layout.notes.extend(clipped);
            let cut = notes.len().saturating_sub(clipped.map_or(0, Range::len));
            layout.missing = layout.missing.saturating_add(cut);
        }
        layout.notes.extend(Range::with_len(NOTE, wide(self.note.len())).filter(|n| !n.is_empty()));
        for run in self.ram.runs() {
            let load = |pfns: std::ops::Range<u64>| {
                let start = pfns.start.saturating_mul(PAGE_SIZE);
                let phys = Range::new(start, pfns.end.saturating_mul(PAGE_SIZE))?;
                Some(Load { vaddr: 0, phys, offset: MEMORY.saturating_add(start) })
            };
            if layout.segments.len() == MAX_RUNS {
                layout.segments.extend(load(run.start..self.header.max_mapnr));
                break;
            }
            layout.segments.extend(load(run));
        }
        layout.loads = layout.segments.clone();
        layout
    }

    /// Its files, ascending.
    pub fn files(&self) -> &[Part] {
        &self.parts
    }

    /// Pages the machine had.
    pub const fn ram(&self) -> &Bitmap {
        &self.ram
    }

    /// Pages that were meant to be in the dump: the second bitmap.
    pub const fn described(&self) -> &Bitmap {
        &self.described
    }

    /// Whether the writer was stopped before it had said which pages it saves.
    pub fn has_nothing(&self) -> bool {
        self.header.incomplete() && self.described.next(0).is_none()
    }

    /// Pages whose data the dump has. The first call reads all descriptors.
    pub fn present(&self) -> &Bitmap {
        &self.scan().present
    }

    /// What the descriptors say of the pages. The first call reads all of them.
    pub fn pages(&self) -> Pages {
        self.scan().pages
    }

    /// Pages that were meant to be in the dump but were not written, or lie behind its end.
    pub fn missing(&self) -> u64 {
        let scan = self.scan();
        scan.gaps.saturating_add(scan.pages.unwritten)
    }

    /// Page frames of a split dump whose part was not given.
    pub fn gaps(&self) -> &[std::ops::Range<u64>] {
        &self.gaps
    }

    /// Bytes of all its files together.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|p| p.input.size()).fold(0, u64::saturating_add)
    }

    /// Page frames of the parts that were given, part by part.
    pub fn parts(&self) -> impl Iterator<Item = &std::ops::Range<u64>> {
        self.parts.iter().map(|p| &p.pfns)
    }

    fn scan(&self) -> &Scan {
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

    fn memory_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
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
struct Scan {
    present: Bitmap,
    /// Pages in parts that were not given.
    gaps: u64,
    pages: Pages,
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

/// Bytes of the page's data, if it was written and is inside the file.
fn there_in(part: &Part, descriptor: &PageDesc) -> Option<usize> {
    let (offset, size) = (descriptor.offset.get(), u64::from(descriptor.size.get()));
    let inside = offset.checked_add(size)? <= part.input.size();
    (offset != 0 && (1..=PAGE_SIZE).contains(&size) && inside).then(|| index(size))
}

/// Contexts of the codecs, used for one page after the other.
#[derive(Default)]
struct Decoder {
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

impl Input for Arc<Kdump> {
    fn size(&self) -> u64 {
        MEMORY.saturating_mul(2)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match offset {
            MEMORY.. => self.memory_at(offset.wrapping_sub(MEMORY), buf),
            NOTE.. => self.note.read_at(offset.wrapping_sub(NOTE), buf),
            _ => self.parts.first().map_or(Ok(0), |p| p.input.read_at(offset, buf)),
        }
    }
}
