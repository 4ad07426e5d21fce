//! Going through struct pages, which are read only as far as they are asked for: the head of a free block speaks for
//! all of it, so that of a machine that is mostly free most of them are passed over.

use std::ops::Range;

use super::Level;
use super::filter::Scan;
use crate::mem::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::vmcore::image::Image;
use crate::vmcore::pages::{Class, Verdict};
use crate::vmcore::xlat::Mapped;
use crate::vmcore::{Fault, PhysMem};

/// Structs read first, and first again behind what was passed over: a page of them.
const FEW: u64 = 64;
/// Structs read at a time at most: 256 KiB of them, which is 16 MiB of memory.
const MANY: u64 = 4096;

/// Runs of pages and what they are, in the order found.
pub(super) type Runs = Vec<(Range<u64>, Class)>;

/// What the struct pages of a chunk say.
#[derive(Default)]
pub(super) struct Found {
    pub(super) drops: Runs,
    /// Kept, but a higher level drops them.
    pub(super) rest: Runs,
    /// Where these struct pages are, read or passed over.
    pub(super) at: Vec<Range<u64>>,
}

impl Found {
    fn clear(&mut self) {
        self.drops.clear();
        self.rest.clear();
        self.at.clear();
    }
}

/// Adds `pfns` to `runs`, to the last one if it goes on there.
pub(super) fn add(runs: &mut Runs, pfns: Range<u64>, class: Class) {
    match runs.last_mut() {
        Some((run, c)) if *c == class && run.end == pfns.start => run.end = pfns.end,
        _ => runs.push((pfns, class)),
    }
}

/// What became of one chunk's struct pages.
pub(super) enum Outcome {
    Read,
    /// None is there: memory the kernel did not manage.
    Absent,
    Broken(Fault),
}

/// One thread's way through them.
pub(super) struct Structs<'a> {
    scan: &'a Scan,
    mem: &'a dyn PhysMem,
    buffer: Vec<u8>,
    /// The section last asked for, and where its first struct is.
    section: Option<(u64, Option<u64>)>,
    /// The page that was last read from: where it is mapped, and where that leads.
    mapped: Option<(u64, Mapped)>,
    /// What was found in the last chunk.
    pub(super) found: Found,
}

impl<'a> Structs<'a> {
    pub(super) fn new(scan: &'a Scan, mem: &'a dyn PhysMem) -> Self {
        Self { scan, mem, buffer: Vec::new(), section: None, mapped: None, found: Found::default() }
    }

    /// Goes through those of one chunk's memory.
    pub(super) fn chunk(&mut self, ranges: &[Range<u64>]) -> Outcome {
        self.found.clear();
        let (mut some, mut fault) = (false, None);
        let (mut at, mut count) = (0, FEW);
        for range in ranges {
            at = range.start.max(at);
            while at < range.end {
                let Some(base) = self.base(at) else {
                    at = self.section_end(at);
                    continue;
                };
                // Pieces are aligned, so that a head and its first tail page (an even number and the next) are together.
                let stop = range.end.min((at / count + 1) * count).min(self.section_end(at));
                match self.piece(base, at..stop) {
                    Ok(next) => {
                        some = true;
                        count = if next > stop { FEW } else { (count * 4).min(MANY) };
                        at = next;
                    }
                    Err(e) => {
                        fault.get_or_insert(e);
                        (at, count) = ((at / MANY + 1) * MANY, FEW);
                    }
                }
            }
        }
        match fault {
            None => {
                ranges.iter().for_each(|range| self.places(range.clone()));
                Outcome::Read
            }
            Some(Fault::NotMapped(_)) if !some && self.scan.sections.presumed() => Outcome::Absent,
            Some(fault) => Outcome::Broken(fault),
        }
    }

    fn section_end(&self, pfn: u64) -> u64 {
        let pages = self.scan.sections.pages_per_section;
        (pfn / pages + 1) * pages
    }

    /// Where the struct of `pfn` is; `None` if its section has none.
    fn base(&mut self, pfn: u64) -> Option<u64> {
        let Scan { sections, space, layout, .. } = self.scan;
        let section = pfn / sections.pages_per_section;
        let first = match self.section {
            Some((known, first)) if known == section => first,
            _ => {
                let first = sections.struct_pages(space, self.mem, section, layout.size);
                self.section = Some((section, first));
                first
            }
        };
        Some(first?.wrapping_add(pfn % sections.pages_per_section * layout.size as u64))
    }

    /// Classifies `pfns`, whose structs are at `va`; where to go on, which is behind what the last one speaks for.
    fn piece(&mut self, va: u64, pfns: Range<u64>) -> Result<u64, Fault> {
        let Scan { layout, level, gaps, space, .. } = self.scan;
        let size = layout.size;
        let asked = (pfns.end - pfns.start) as usize * size;
        // One struct more than asked for, where the run ends on a head: its order is in the first tail page.
        self.buffer.resize((pfns.end.next_multiple_of(2) - pfns.start) as usize * size, 0);
        if self.fill(va).is_err() {
            self.buffer.truncate(asked);
            let read = self.fill(va);
            if *gaps {
                // What was left out describes pages that were left out: there is nothing to decide about them.
                Image { space, mem: self.mem }.fill(va, &mut self.buffer);
            } else {
                read?;
            }
        }
        let mut at = pfns.start;
        while at < pfns.end {
            let offset = (at - pfns.start) as usize * size;
            let structs = self.buffer.get(offset..).unwrap_or_default();
            let Some(verdict) = layout.classify(structs, at, level.bits()) else { break };
            if let Some(class) = verdict.class {
                let end = at + (1 << verdict.order);
                add(&mut self.found.drops, at..end, class);
                at = end;
                continue;
            }
            if *level != Level::MAX
                && let Some(Verdict { class: Some(class), order }) = layout.classify(structs, at, Level::MAX.bits())
            {
                // Any of them may still be broken: the next is looked at all the same.
                add(&mut self.found.rest, at..at + (1 << order), class);
            }
            at += 1;
        }
        Ok(at)
    }

    /// Adds the page frames that the structs of `pfns` are in.
    fn places(&mut self, pfns: Range<u64>) {
        let size = self.scan.layout.size as u64;
        let mut at = pfns.start;
        while at < pfns.end {
            let end = pfns.end.min(self.section_end(at));
            let (mut va, mut rest) = (self.base(at), (end - at) * size);
            at = end;
            while rest > 0
                && let Some(from) = va
                && let Ok(mapped) = self.scan.space.translate(self.mem, VirtAddr(from))
            {
                let here = mapped.len.min(rest).max(1);
                let pages = mapped.phys.0 / PAGE_SIZE..(mapped.phys.0 + here).div_ceil(PAGE_SIZE);
                match self.found.at.last_mut() {
                    Some(last) if (last.start..=last.end).contains(&pages.start) => last.end = pages.end.max(last.end),
                    _ => self.found.at.push(pages),
                }
                (va, rest) = (Some(from.wrapping_add(here)), rest - here);
            }
        }
    }

    /// Fills the buffer from `va` on: one translation for all that a page maps.
    fn fill(&mut self, va: u64) -> Result<(), Fault> {
        let (mut va, mut rest) = (va, self.buffer.as_mut_slice());
        while !rest.is_empty() {
            let (start, mapped) = match self.mapped {
                Some((start, mapped)) if va.wrapping_sub(start) < mapped.len => (start, mapped),
                _ => {
                    let mapped = self.scan.space.translate(self.mem, VirtAddr(va))?;
                    self.mapped = Some((va, mapped));
                    (va, mapped)
                }
            };
            let skip = va.wrapping_sub(start);
            let here = (mapped.len - skip).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(here as usize);
            self.mem.read(PhysAddr(mapped.phys.0.wrapping_add(skip)), now)?;
            (va, rest) = (va.wrapping_add(here), later);
        }
        Ok(())
    }
}
