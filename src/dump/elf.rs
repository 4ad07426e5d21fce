//! The dump as an ELF core: kept pages as PT_LOADs, left-out ones as memory without file bytes, which reads as zeros.
//!
//! ```text
//! ELF header, marked incomplete until the end | program headers [| section header with their number] | notes | pages
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bitmap::Bitmap;
use super::compress::is_zero;
use super::diskdump::{copy_notes, end, marked, note_areas};
use super::filter::Filtered;
use super::first::{Order, first};
use super::room::{Limited, beyond, check};
use super::workers::{self, Batches, PAGE, lock};
use super::{Progress, Report};
use crate::error::{Context, Error, Result};
use crate::mem::{PAGE_SIZE, Range};
use crate::target::Sink;
use crate::vmcore::elf::{DUMP_ELF_INCOMPLETE, KERNEL_IMAGE};
use crate::vmcore::{Load, Reader, Vmcore};

/// A gap of this many left-out pages ends a PT_LOAD; a shorter one is part of it, as zeros.
const GAP: u64 = 256;
/// Gaps grow up to this while there are more program headers than `e_phnum` counts.
const MAX_GAP: u64 = 1 << 13;
/// Struct pages and what is not the kernel's have segments of their own in runs of this many pages; they grow as gaps do.
const LONG: u64 = 1 << 9;
/// Runs of pages that have segments of their own: of what is first (the kernel's image above all), struct pages, the rest.
type Runs = [Vec<std::ops::Range<u64>>; 3];
/// `PN_XNUM`: the number of program headers is in the first section header.
const PN_XNUM: usize = 0xffff;
const EHDR: u64 = 64;
const PHDR: u64 = 56;
const SHDR: u64 = 64;
/// `e_flags`, where bit 0 marks an incomplete dump (`DUMP_ELF_INCOMPLETE`).
const FLAGS: u64 = 48;

/// Memory in one PT_LOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    vaddr: u64,
    /// What has bytes in the file.
    phys: Range,
    /// With the left-out memory behind it.
    memsz: u64,
    offset: u64,
}

/// Writes the pages that `filtered` keeps, less zero pages if the level drops them. What would lie behind `limit` is left
/// out; segments with what is worth most lie in front.
///
/// # Errors
/// The sink's; [`crate::error::Kind::NoSpace`] when not even the headers fit the limit.
pub fn save(
    core: &Vmcore,
    filtered: &mut Filtered,
    limit: Option<u64>,
    sink: &dyn Sink,
    report: &mut Report,
    progress: &dyn Fn(Progress),
) -> Result<()> {
    let threads = report.threads;
    let limited = Limited::new(sink, limit.unwrap_or(u64::MAX));
    let sink: &dyn Sink = &limited;
    if filtered.level.drops_zero_pages() {
        for pages in zero_pages(core, filtered, threads)? {
            report.zero += filtered.kept.clear(pages);
        }
    }
    let kept = &filtered.kept;
    report.kept = kept.count();
    let (notes, note_len) = note_areas(core);
    let first = first(core, filtered);
    let long = [(&first, GAP), (&filtered.struct_pages, LONG), (&filtered.rest, LONG)];
    let long = long.map(|(pages, least)| pages.runs().filter(|run| run.end - run.start >= least).collect::<Vec<_>>());
    let (mut pieces, of_image) = layout(core, kept, &long);
    let count = 1 + pieces.len() + of_image;
    let section = if count >= PN_XNUM { SHDR } else { 0 };
    let notes_at = EHDR + count as u64 * PHDR + section;
    let data = (notes_at + note_len).next_multiple_of(PAGE_SIZE);
    check(limit, data)?;
    let mut file_end = data;
    // As [`Order`] has it, by segments: the kernel's image, what else has pages that go first, other memory of the kernel,
    // struct pages, the rest.
    let rank = |piece: &Piece| {
        let pfns = piece.phys.start() / PAGE_SIZE..piece.phys.end().div_ceil(PAGE_SIZE);
        let [image, structs, rest] = long.each_ref().map(|runs| {
            let run = runs.get(runs.partition_point(|run| run.end <= pfns.start));
            run.is_some_and(|run| run.start <= pfns.start && pfns.end <= run.end)
        });
        let first = first.any(pfns);
        [image, first, !structs && !rest, structs].iter().position(|of_this| *of_this).unwrap_or(4)
    };
    let mut held: Vec<&mut Piece> = pieces.iter_mut().filter(|piece| !piece.phys.is_empty()).collect();
    held.sort_by_cached_key(|piece| rank(piece));
    for piece in held {
        piece.offset = file_end;
        file_end += piece.phys.len();
    }
    let mut all = aliases(core, &pieces).chain(pieces.iter().copied());
    let head = headers(&mut all, count, notes_at, note_len);
    drop(all);
    marked(&head, FLAGS as usize, sink).context(|| "write the dump's headers")?;
    copy_notes(core, &notes, notes_at, sink)?;
    report.unreadable = copy(core, &Order::new(filtered, &first), &pieces, threads, sink, progress)?;
    report.bytes = file_end.min(limit.unwrap_or(u64::MAX));
    report.kept -= limited.lost() / PAGE_SIZE;
    if let Some(limit) = limit.filter(|_| limited.lost() != 0) {
        report.over_limit = true;
        report.incomplete = Some(beyond(limit));
    } else if let Some(last) = pieces.iter().find(|piece| piece.offset + piece.phys.len() == file_end)
        && !kept.get(last.phys.end().saturating_sub(1) / PAGE_SIZE)
    {
        // The last bytes are zeros that nobody wrote.
        sink.write_at(file_end - 1, &[0]).context(|| "write the dump's end")?;
    }
    sink.sync().context(|| "sync the dump")?;
    end(FLAGS, [DUMP_ELF_INCOMPLETE, 0], report.incomplete.is_none(), sink)
}

/// Runs of kept pages that are zero.
fn zero_pages(core: &Vmcore, filtered: &Filtered, threads: usize) -> Result<Vec<std::ops::Range<u64>>> {
    let none = Bitmap::default();
    let order = Order::ascending(filtered, &none);
    let (batches, found) = (Batches::new(&order), Mutex::new(Vec::new()));
    let work = || {
        let (reader, mut pages, mut pfns) = (core.reader(), Vec::new(), Vec::new());
        while batches.take(&mut pfns) {
            workers::read(&reader, &pfns, &mut pages);
            let zero = pfns.iter().zip(pages.chunks_exact(PAGE)).filter(|(_, page)| is_zero(page)).map(|(pfn, _)| *pfn);
            let zero: Vec<u64> = zero.collect();
            let runs = zero.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some(*run.first()?..run.last()? + 1));
            lock(&found).extend(runs);
        }
    };
    workers::run(threads, &work, &|| ())?;
    Ok(found.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// The pieces without their offsets, and how many headers their aliases in the kernel's image take.
fn layout(core: &Vmcore, kept: &Bitmap, long: &Runs) -> (Vec<Piece>, usize) {
    let [first, late @ ..] = long;
    let mut gap = GAP;
    loop {
        let late = late.iter().flatten().filter(|run| run.end - run.start >= LONG * (gap / GAP));
        let mut cuts: Vec<u64> = first.iter().chain(late).flat_map(|run| [run.start, run.end]).collect();
        cuts.sort_unstable();
        let pieces = pieces(core, kept, gap, &cuts);
        let aliases = aliases(core, &pieces).count();
        if 1 + pieces.len() + aliases < PN_XNUM || gap >= MAX_GAP {
            return (pieces, aliases);
        }
        gap *= 2;
    }
}

fn pieces(core: &Vmcore, kept: &Bitmap, gap: u64, cuts: &[u64]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    // Whether a piece that ends at `to` ends there, though `pfn` is kept too.
    let cut = |to: u64, pfn: u64| cuts.get(cuts.partition_point(|cut| *cut < to)).is_some_and(|cut| *cut <= pfn);
    for segment in whole(core.segments()) {
        let (start, end) = (segment.phys.start(), segment.phys.end());
        let last = end.div_ceil(PAGE_SIZE);
        let inside = |pfn: Option<u64>| pfn.filter(|pfn| *pfn < last);
        let mut push = |from: u64, to: u64, until: u64| {
            let vaddr = if segment.vaddr == 0 { 0 } else { segment.vaddr + (from - start) };
            let phys = Range::new(from, to.max(from)).unwrap_or_default();
            pieces.push(Piece { vaddr, phys, memsz: until - from, offset: 0 });
        };
        let mut next = inside(kept.next(start / PAGE_SIZE));
        let first = next.map_or(end, |pfn| (pfn * PAGE_SIZE).max(start));
        if first > start {
            push(start, start, first);
        }
        while let Some(from) = next {
            let mut to = from + 1;
            next = inside(kept.next(to));
            while let Some(pfn) = next.filter(|pfn| pfn - to < gap && !cut(to, *pfn)) {
                to = pfn + 1;
                next = inside(kept.next(to));
            }
            let until = next.map_or(end, |pfn| pfn * PAGE_SIZE);
            push((from * PAGE_SIZE).max(start), (to * PAGE_SIZE).min(end), until);
        }
    }
    pieces
}

/// What follows each other is one: an ELF core's segments are in pieces, as a filter left them.
fn whole(loads: &[Load]) -> Vec<Load> {
    let follows = |a: &Load, b: &Load| {
        let next = if a.vaddr == 0 { 0 } else { a.vaddr.wrapping_add(a.phys.len()) };
        a.phys.end() == b.phys.start() && next == b.vaddr
    };
    let join = |run: &[Load]| {
        let (first, last) = (run.first()?, run.last()?);
        Some(Load { phys: Range::new(first.phys.start(), last.phys.end())?, ..*first })
    };
    loads.chunk_by(follows).filter_map(join).collect()
}

/// The kernel's image as it is mapped besides: the same bytes of the file.
fn aliases<'a>(core: &'a Vmcore, pieces: &'a [Piece]) -> impl Iterator<Item = Piece> + 'a {
    let images = whole(core.loads()).into_iter().filter(|load| load.vaddr >= KERNEL_IMAGE);
    images.flat_map(move |load| {
        let first = pieces.partition_point(|p| p.phys.start() + p.memsz <= load.phys.start());
        let there =
            pieces.get(first..).unwrap_or_default().iter().take_while(move |p| p.phys.start() < load.phys.end());
        there.filter_map(move |piece| {
            let whole = Range::with_len(piece.phys.start(), piece.memsz)?.intersect(load.phys)?;
            let phys = piece.phys.intersect(whole).or_else(|| Range::with_len(whole.start(), 0))?;
            let vaddr = load.vaddr + (whole.start() - load.phys.start());
            let offset = if phys.is_empty() { 0 } else { piece.offset + (phys.start() - piece.phys.start()) };
            Some(Piece { vaddr, phys, memsz: whole.len(), offset })
        })
    })
}

fn headers(pieces: &mut dyn Iterator<Item = Piece>, count: usize, notes_at: u64, note_len: u64) -> Vec<u8> {
    let extended = count >= PN_XNUM;
    let mut out = Vec::with_capacity(notes_at as usize);
    out.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [4u16, 62] {
        out.extend(half.to_le_bytes()); // ET_CORE, EM_X86_64
    }
    out.extend(1u32.to_le_bytes());
    let shoff = if extended { EHDR + count as u64 * PHDR } else { 0 };
    for word in [0, EHDR, shoff] {
        out.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    out.extend(1u32.to_le_bytes()); // e_flags: incomplete
    let (phnum, shnum) = if extended { (PN_XNUM as u16, 1) } else { (count as u16, 0) };
    for half in [EHDR as u16, PHDR as u16, phnum, SHDR as u16 * shnum, shnum, 0] {
        out.extend(half.to_le_bytes());
    }
    // p_align 0 tells crash that this is a kdump.
    let mut phdr = |kind: u32, flags: u32, words: [u64; 6]| {
        out.extend([kind, flags].map(u32::to_le_bytes).concat());
        out.extend(words.map(u64::to_le_bytes).concat());
    };
    phdr(4, 0, [notes_at, 0, 0, note_len, note_len, 0]);
    for piece in pieces {
        phdr(1, 7, [piece.offset, piece.vaddr, piece.phys.start(), piece.phys.len(), piece.memsz, 0]);
    }
    if extended {
        let mut section = [0; SHDR as usize];
        section[44..48].copy_from_slice(&(count as u32).to_le_bytes()); // sh_info
        out.extend(section);
    }
    out
}

/// Copies kept pages to their places; how many could not be read.
fn copy(
    core: &Vmcore,
    order: &Order<'_>,
    pieces: &[Piece],
    threads: usize,
    sink: &dyn Sink,
    progress: &dyn Fn(Progress),
) -> Result<u64> {
    let (batches, total) = (Batches::new(order), order.filtered.kept.count());
    let (unreadable, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let (reader, mut pages, mut pfns) = (core.reader(), Vec::new(), Vec::new());
        while batches.take(&mut pfns) {
            if let Err(e) = copy_batch(&reader, &pfns, &mut pages, pieces, sink, &unreadable) {
                batches.stop();
                lock(&failure).get_or_insert(e);
                return;
            }
            done.fetch_add(pfns.len() as u64, Ordering::Relaxed);
        }
    };
    let ended = workers::run(threads, &work, &|| {
        let pages = done.load(Ordering::Relaxed);
        progress(Progress { pages, total, bytes: pages * PAGE_SIZE });
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => ended.map(|()| unreadable.into_inner()),
    }
}

fn copy_batch(
    reader: &Reader<'_>,
    pfns: &[u64],
    pages: &mut Vec<u8>,
    pieces: &[Piece],
    sink: &dyn Sink,
    unreadable: &AtomicU64,
) -> Result<()> {
    unreadable.fetch_add(workers::read(reader, pfns, pages), Ordering::Relaxed);
    let mut rest = pages.as_slice();
    for run in pfns.chunk_by(|a, b| a + 1 == *b) {
        let (bytes, behind) = rest.split_at(run.len() * PAGE);
        rest = behind;
        let Some(here) = Range::with_len(run[0] * PAGE_SIZE, bytes.len() as u64) else { continue };
        let first = pieces.partition_point(|p| p.phys.end() <= here.start());
        let there = pieces.get(first..).unwrap_or_default().iter().take_while(|p| p.phys.start() < here.end());
        for (piece, part) in there.filter_map(|p| Some((p, p.phys.intersect(here).filter(|r| !r.is_empty())?))) {
            let from = (part.start() - here.start()) as usize;
            let at = piece.offset + (part.start() - piece.phys.start());
            sink.write_at(at, &bytes[from..from + part.len() as usize]).context(|| "write page data")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcore::elf::Layout;

    #[test]
    fn more_program_headers_than_e_phnum_counts() {
        for count in [PN_XNUM - 1, PN_XNUM, 70_000] {
            let mut pieces = (0..count as u64 - 1).map(|i| Piece {
                vaddr: 0,
                phys: Range::with_len(i * 0x10_0000, 16).expect("in range"),
                memsz: 0x1000,
                offset: i,
            });
            let extended = count >= PN_XNUM;
            let notes_at = EHDR + count as u64 * PHDR + if extended { SHDR } else { 0 };
            let file = headers(&mut pieces, count, notes_at, 0);
            assert_eq!(file.len() as u64, notes_at);
            assert_eq!(file[56..58] == [0xff, 0xff], extended, "{count}");
            let layout = Layout::read(&file).expect("a core");
            let held = layout.loads.iter().filter(|load| load.is_held()).count();
            assert_eq!((held, layout.marked), (count - 1, true), "{count}: {:?}", layout.warnings);
        }
    }
}
