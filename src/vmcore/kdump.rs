//! A saved dump in the kdump-compressed format (makedumpfile, QEMU, ourselves), read as the memory it holds: one file,
//! or all parts of a split one. Header versions 1 to 6 of 64-bit machines with pages of 4 KiB.
//!
//! As an [`Input`] it has three areas: the bytes of the (first) file, a note made here if the file has VMCOREINFO but no
//! notes, and from [`MEMORY`] on physical memory. Pages that a dump lacks, because they were left out or never written,
//! read as ENODATA.

mod header;
mod pages;

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use super::elf::{Layout, Load, read_full};
use super::input::Input;
use super::le::{index, wide};
use crate::abi::diskdump::{DUMP_DH_COMPRESSED_INCOMPLETE, DiskDumpHeader};
use crate::error::{Context, Error, Kind, Result};
use crate::mem::bitmap::{Bitmap, CHUNK};
use crate::mem::{PAGE_SIZE, Range};
use header::Opened;
pub use header::{Header, headers, is_kdump};
pub use pages::{CODECS, Pages};
use pages::{Decoder, Scan};

const PAGE: usize = 4096;
/// Where the note made here starts in the input.
const NOTE: u64 = 1 << 61;
/// Where physical address 0 is in the input.
const MEMORY: u64 = 1 << 62;
/// Longest VMCOREINFO that is read.
const MAX_VMCOREINFO: u64 = 4 << 20;
/// Longest list of memory ranges that is made from the first bitmap; beyond it holes are part of the last range.
const MAX_RUNS: usize = 1 << 16;
/// Unpacked pages kept for reads of less than a page: page tables are read eight bytes at a time.
const CACHED: u64 = 256;

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
    /// What was erased, a range of this file: makedumpfile says it in the last one only.
    pub eraseinfo: Option<Range>,
    /// Pages in the second bitmap in front of `pfns`.
    first: u64,
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
            let (input, descriptors, eraseinfo) = (file.input, file.descriptors, file.header.eraseinfo);
            self.header.eraseinfo = self.header.eraseinfo.or(eraseinfo);
            self.parts.push(Part { input, pfns: file.pfns, descriptors, count, eraseinfo, first });
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
