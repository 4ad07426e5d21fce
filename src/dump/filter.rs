//! Which pages a dump keeps: everything in the vmcore, less the classes of the dump level.
//!
//! What can't be proven droppable is kept. A section whose struct pages can't all be read is kept whole; if no struct
//! page can be found at all, the level falls to 1, which needs none. Nothing here fails a dump.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Level;
use super::guests;
use super::structs::{Outcome, Runs, Structs, add};
use super::verify::{pinned, verify};
use super::workers::lock;
use crate::error::{Error, Kind, Result};
use crate::mem::PAGE_SIZE;
use crate::mem::bitmap::{self, Bitmap, CHUNK};
use crate::vmcore::p2m::{INVALID, P2m};
use crate::vmcore::pages::{Class, PageLayout};
use crate::vmcore::sections::Sections;
use crate::vmcore::{AddressSpace, Load, Vmcore, recover};

/// Runs that are taken out of the kept pages one by one; more of them in one go.
const FEW_RUNS: usize = 8;

/// Pages left out, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Page cache without private data.
    pub cache: u64,
    /// Page cache with private data.
    pub cache_private: u64,
    /// Memory of user processes.
    pub user: u64,
    /// Free.
    pub free: u64,
    /// Broken memory.
    pub hwpoison: u64,
    /// Logically offline.
    pub offline: u64,
    /// Memory of a crashed Xen's guests.
    pub guests: u64,
    /// Struct pages of nothing but left-out pages.
    pub struct_pages: u64,
    /// Not in the vmcore, which is a dump that was filtered before.
    pub earlier: u64,
}

impl Dropped {
    pub(super) fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Cache => &mut self.cache,
            Class::CachePrivate => &mut self.cache_private,
            Class::User => &mut self.user,
            Class::Free => &mut self.free,
            Class::Hwpoison => &mut self.hwpoison,
            Class::Offline => &mut self.offline,
            Class::Guest => &mut self.guests,
        }
    }

    /// Adds the classes of `other`.
    fn add(&mut self, other: &mut Dropped) {
        for class in Class::ALL {
            *self.of(class) += *other.of(class);
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let classes = self.cache + self.cache_private + self.user + self.free + self.hwpoison + self.offline;
        classes + self.guests + self.struct_pages + self.earlier
    }
}

/// What the filter decided.
#[derive(Clone, Debug, Default)]
pub struct Filtered {
    /// Pages the vmcore has.
    pub ram: Bitmap,
    /// Pages the dump will have.
    pub kept: Bitmap,
    /// Pages it won't.
    pub dropped: Dropped,
    /// The level that was reached.
    pub level: Level,
    /// Why more is kept than was asked for; empty if it is not.
    pub degraded: Vec<String>,
    /// What else is worth knowing.
    pub warnings: Vec<String>,
    /// Pages no reader can do without.
    pub pinned: Bitmap,
    /// Pages that struct pages are in.
    pub struct_pages: Bitmap,
    /// Pages that [`Level::MAX`] would leave out, and those that no struct page tells of: not known to be the kernel's.
    pub rest: Bitmap,
}

/// Decides for all of `core`; `exclude_guests` concerns a crashed Xen only.
pub fn filter(core: &Vmcore, level: Level, exclude_guests: bool, threads: usize) -> Filtered {
    let mut filtered = everything(core, level);
    if let Some(dump) = core.dump() {
        filtered.dropped.earlier = filtered.kept.keep_common(dump.present());
    }
    decide(core, level, threads, &mut filtered);
    leave_out_again(core, &mut filtered);
    if exclude_guests {
        guests::exclude(core, &mut filtered);
    }
    // A dump that is filtered again lacks what either level leaves out.
    filtered.level = Level::new(filtered.level.bits() | core.filtered_by()).unwrap_or(filtered.level);
    filtered
}

/// Every page of the machine by its class, whether the vmcore has it or not.
pub fn classes(core: &Vmcore, threads: usize) -> Filtered {
    let mut filtered = everything(core, Level::MAX);
    decide(core, Level::MAX, threads, &mut filtered);
    leave_out_again(core, &mut filtered);
    filtered
}

/// Of what an ELF core names without holding it, keeps what struct pages say to be the kernel's: no filter leaves that
/// out, so these pages were zero. All else may have had any contents, and stays left out.
fn leave_out_again(core: &Vmcore, filtered: &mut Filtered) {
    let (held, named): (Vec<&Load>, _) = core.segments().iter().partition(|segment| segment.is_held());
    if named.is_empty() {
        return;
    }
    let mut unknown = Bitmap::new(filtered.ram.end());
    named.into_iter().for_each(|segment| unknown.set(pfns(segment)));
    for segment in held {
        unknown.clear(pfns(segment));
    }
    unknown.keep_common(&filtered.rest);
    for run in unknown.runs() {
        filtered.dropped.earlier += filtered.kept.clear(run);
    }
}

/// Page frames that any byte of `segment` is in.
fn pfns(segment: &Load) -> Range<u64> {
    segment.phys.start() / PAGE_SIZE..segment.phys.end().div_ceil(PAGE_SIZE)
}

fn everything(core: &Vmcore, level: Level) -> Filtered {
    let end_pfn = core.end().0.div_ceil(PAGE_SIZE);
    let ram = match core.dump() {
        Some(dump) => dump.ram().clone(),
        None => {
            let mut ram = Bitmap::new(end_pfn);
            for segment in core.segments() {
                ram.set(pfns(segment));
            }
            ram
        }
    };
    let (struct_pages, rest) = (Bitmap::new(end_pfn), Bitmap::new(end_pfn));
    Filtered { kept: ram.clone(), ram, level, struct_pages, rest, ..Filtered::default() }
}

fn decide(core: &Vmcore, level: Level, threads: usize, filtered: &mut Filtered) {
    // Level 0 and 1 need no struct pages, but some say that reading their page may stop this machine too, or that there
    // is nothing to read. What was saved once can be read.
    let needed = level.needs_struct_pages();
    if !needed && core.dump().is_some() {
        return;
    }
    match Scan::new(core, level) {
        Ok(scan) => {
            scan.run(core, threads, filtered);
            filtered.pinned = scan.pinned;
        }
        Err(_) if !needed => filtered.rest.set(0..filtered.ram.end()),
        Err(e) => {
            filtered.rest.set(0..filtered.ram.end());
            filtered.level = level.without_struct_pages();
            let reached = filtered.level;
            filtered.degraded.push(format!("no page could be classified, so level {level} fell to {reached}: {e}"));
        }
    }
}

/// What it takes to classify pages.
pub(super) struct Scan {
    /// Whether struct pages may be missing because they describe nothing that is there.
    pub(super) gaps: bool,
    /// What VMCOREINFO had to be told, if anything.
    supplemented: Option<String>,
    pub(super) layout: PageLayout,
    pub(super) sections: Sections,
    pub(super) space: AddressSpace,
    pub(super) level: Level,
    pub(super) pinned: Bitmap,
}

/// What is found out, and which pinned pages were to go, while several threads work on both.
type Shared<'a> = Mutex<(&'a mut Filtered, Bitmap)>;

impl Scan {
    pub(super) fn new(core: &Vmcore, level: Level) -> Result<Self> {
        let info = core.vmcoreinfo().ok_or_else(|| {
            let of_dom0 = "the vmcore of this Xen has no VMCOREINFO note of dom0's Linux; load the crash kernel by a \
                           kexec that adds it (kdumpbox's does)";
            let what = if core.xen().is_some() { of_dom0 } else { "the vmcore has no VMCOREINFO note" };
            Error::new(Kind::Missing, what)
        })?;
        let reader = core.reader();
        let space = AddressSpace::of(core, info);
        // Only a kernel that says too little is read for more: the search costs seconds and megabytes.
        let supplemented = recover::lacking(info);
        let more = supplemented.as_ref().and_then(|_| recover::supplement(info, &space, &reader));
        let supplemented = supplemented.filter(|_| more.is_some());
        let info = more.as_ref().unwrap_or(info);
        let layout = PageLayout::new(info)?;
        if core.xen().is_some() && space.p2m().is_none() {
            let what = "dom0's list of machine frames (dom0_pfn_to_mfn_frame_list_list) leads nowhere";
            return Err(Error::new(Kind::Invalid, what));
        }
        let end_pfn = space.p2m().map_or(core.end().0.div_ceil(PAGE_SIZE), P2m::end);
        let sections = Sections::find(info, &space, &reader, end_pfn)?;
        let pinned = pinned(core, &space, &sections);
        let gaps = core.dump().is_some_and(|dump| dump.header.lacks_struct_pages());
        Ok(Self { gaps, supplemented, layout, sections, space, level, pinned })
    }

    fn run(&self, core: &Vmcore, threads: usize, filtered: &mut Filtered) {
        let next = AtomicU64::new(0);
        let broken = Mutex::new((0u64, None));
        let (read, absent) = (AtomicU64::new(0), AtomicU64::new(0));
        let chunks = self.space.p2m().map_or(filtered.ram.chunks(), |p2m| p2m.end().div_ceil(CHUNK));
        let end = filtered.ram.end();
        let result = Mutex::new((&mut *filtered, Bitmap::new(end)));
        let work = || {
            let reader = core.reader();
            let mut structs = Structs::new(self, &reader);
            let mut frames = vec![INVALID; if self.space.p2m().is_some() { CHUNK as usize } else { 0 }];
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= chunks {
                    return;
                }
                let ranges = match self.space.p2m() {
                    Some(p2m) => {
                        p2m.read(&reader, chunk * CHUNK, &mut frames);
                        with_frames(chunk, &frames)
                    }
                    None => covered(core, chunk),
                };
                if ranges.is_empty() {
                    continue;
                }
                let outcome = structs.chunk(&ranges);
                let found = &mut structs.found;
                if let Some(p2m) = self.space.p2m() {
                    let frame = |pfn: u64| match frames.get((pfn.wrapping_sub(chunk * CHUNK)) as usize) {
                        Some(frame) => Some(*frame).filter(|f| *f != INVALID),
                        None => p2m.frame(&reader, pfn),
                    };
                    found.drops = on_the_machine(&found.drops, frame);
                    found.rest = on_the_machine(&found.rest, frame);
                }
                match outcome {
                    Outcome::Read => {
                        read.fetch_add(1, Ordering::Relaxed);
                        self.take_out(&result, chunk, &found.drops);
                        let (filtered, _) = &mut *lock(&result);
                        found.rest.drain(..).for_each(|(pfns, _)| filtered.rest.set(pfns));
                        found.at.drain(..).for_each(|pfns| filtered.struct_pages.set(pfns));
                        continue;
                    }
                    Outcome::Absent => {
                        absent.fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Broken(fault) => {
                        let mut broken = broken.lock().unwrap_or_else(|e| e.into_inner());
                        broken.0 += 1;
                        broken.1.get_or_insert((chunk * CHUNK * PAGE_SIZE, fault));
                    }
                }
                lock(&result).0.rest.set(chunk * CHUNK..(chunk + 1) * CHUNK);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.max(1) {
                // A thread that can't be had is work for the others.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let (_, put_back) = result.into_inner().unwrap_or_else(|e| e.into_inner());
        if !self.level.needs_struct_pages() {
            return;
        }
        let (count, first) = broken.into_inner().unwrap_or_else(|e| e.into_inner());
        let why = first.map_or("none is mapped".into(), |(at, fault)| format!("the first at {at:#x}: {fault}"));
        if read.into_inner() == 0 && (count != 0 || absent.into_inner() != 0) {
            filtered.level = self.level.without_struct_pages();
            let (asked, reached) = (self.level, filtered.level);
            filtered.degraded.push(format!("no struct page can be read, so level {asked} fell to {reached}; {why}"));
        } else if count != 0 {
            filtered
                .degraded
                .push(format!("{count} memory section(s) kept whole because their struct pages can't be read, {why}"));
        }
        if let Some(why) = &self.supplemented {
            filtered.warnings.push(format!("{why}: symbols and types were read out of the kernel's memory"));
        }
        if self.sections.repaired != 0 {
            let n = self.sections.repaired;
            filtered.warnings.push(format!("{n} corrupt entries of mem_section repaired by the majority's value"));
        }
        verify(core, &self.space, put_back.count(), self.level.bits() & 16 != 0, filtered);
    }

    /// Takes the runs found in `chunk` out of what is kept.
    fn take_out(&self, shared: &Shared<'_>, chunk: u64, drops: &Runs) {
        let one_by_one = |drops: &Runs| {
            let (filtered, put_back) = &mut *lock(shared);
            drops.iter().for_each(|(pfns, class)| self.drop(filtered, put_back, pfns.clone(), *class));
        };
        if drops.len() <= FEW_RUNS || !self.pinned.is_empty(chunk) {
            return one_by_one(drops);
        }
        // Memory in use by many is in short runs: they are counted without the lock, on a copy of the chunk.
        let before = lock(shared).0.kept.words(chunk);
        let (mut after, mut counted, mut outside) = (before, Dropped::default(), Runs::new());
        let (first, end) = (chunk * CHUNK, (chunk + 1) * CHUNK);
        for (pfns, class) in drops {
            let inside = pfns.start.max(first)..pfns.end.min(end);
            if inside.start < inside.end {
                let bits = (inside.start - first) as usize..(inside.end - first) as usize;
                *counted.of(*class) += bitmap::clear_bits(&mut after, bits);
            }
            let others = [pfns.start..pfns.end.min(first), pfns.start.max(end)..pfns.end];
            outside.extend(others.into_iter().filter(|r| r.start < r.end).map(|r| (r, *class)));
        }
        {
            let (filtered, _) = &mut *lock(shared);
            if filtered.kept.words(chunk) == before {
                filtered.kept.put(chunk, &after);
                filtered.dropped.add(&mut counted);
            } else {
                // A run that began in another chunk reached into this one meanwhile.
                outside.clone_from(drops);
            }
        }
        one_by_one(&outside);
    }

    /// Takes `pfns` out of what is kept, all but those that are pinned.
    fn drop(&self, filtered: &mut Filtered, put_back: &mut Bitmap, pfns: Range<u64>, class: Class) {
        let mut from = pfns.start;
        let mut count = 0;
        while let Some(pinned) = self.pinned.next_in(from..pfns.end) {
            count += filtered.kept.clear(from..pinned);
            if filtered.kept.get(pinned) {
                put_back.set(pinned..pinned + 1);
            }
            from = pinned + 1;
        }
        *filtered.dropped.of(class) += count + filtered.kept.clear(from..pfns.end);
    }
}

/// Page frames of `chunk` that the vmcore has, ascending, each once.
fn covered(core: &Vmcore, chunk: u64) -> Vec<Range<u64>> {
    let pfns = chunk * CHUNK..(chunk + 1) * CHUNK;
    let segments = core.segments();
    let first = segments.partition_point(|s| s.phys.end() <= pfns.start * PAGE_SIZE);
    let mut done = pfns.start;
    let mut ranges = Vec::new();
    for segment in segments[first..].iter().take_while(|s| s.phys.start() < pfns.end * PAGE_SIZE) {
        let start = done.max(segment.phys.start() / PAGE_SIZE);
        let end = pfns.end.min(segment.phys.end().div_ceil(PAGE_SIZE));
        if start < end {
            ranges.push(start..end);
            done = end;
        }
    }
    ranges
}

/// Page frames of `chunk` that have a machine frame.
fn with_frames(chunk: u64, frames: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (pfn, _) in (chunk * CHUNK..).zip(frames).filter(|(_, f)| **f != INVALID) {
        match ranges.last_mut() {
            Some(last) if last.end == pfn => last.end += 1,
            _ => ranges.push(pfn..pfn + 1),
        }
    }
    ranges
}

/// The same runs in machine frames; page frames without one fall out.
fn on_the_machine(runs: &Runs, frame: impl Fn(u64) -> Option<u64>) -> Runs {
    let mut out = Runs::new();
    for (pfns, class) in runs {
        pfns.clone().filter_map(&frame).for_each(|frame| add(&mut out, frame..frame + 1, *class));
    }
    out
}
