//! Writing the pages, the most telling ones first: workers that each take the next run of kept pages, read, compress, reserve an extent of the
//! output and write it together with its descriptors. No queue, no ordered writer: descriptors carry offsets, so data
//! may lie in any order, and what is in memory is bounded by the number of workers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use zerocopy::IntoBytes;

use super::bitmap::Bitmap;
use super::compress::{Encoder, is_zero};
use super::diskdump::Container;
use super::filter::filter;
use super::first::{Order, first};
use super::room::{Part, beyond, check, split};
use super::workers::{self, BATCH, Batches, PAGE, Rank, lock};
use super::{Codec, Format, Progress, Report, Request, vmemmap};
use crate::abi::diskdump::PageDesc;
use crate::error::{Context, Error, Result};
use crate::mem::PAGE_SIZE;
use crate::target::{Nowhere, Sink};
use crate::vmcore::{Reader, Vmcore};

/// Bytes worth a write: file systems take few long ones faster, and from several workers without a queue.
const WRITE: usize = 256 << 10;
/// Pages that wait for a write at most: many are small, zero pages take none of it.
const MANY: usize = 1024;

/// Filters `core` and writes the dump to `sink`, which the caller then finishes.
///
/// The dump is marked incomplete from the first write on; the last write, after everything is synced, takes that mark
/// away. `progress` is called from this thread, a few times a second at most.
///
/// # Errors
/// Only the sink's: whatever is wrong with the vmcore widens what is kept, or is said in the report.
pub fn save(core: &Vmcore, request: &Request, sink: &dyn Sink, progress: &dyn Fn(Progress)) -> Result<Report> {
    save_parts(core, request, None, &[sink], progress)
}

/// The same to several sinks, each of which gets a part of the pages and at most `limit` bytes. Where more would be
/// needed, the dump ends and stays marked incomplete.
///
/// # Errors
/// As [`save`]; [`Kind::NoSpace`] when not even the headers fit the limit.
pub fn save_parts(
    core: &Vmcore,
    request: &Request,
    limit: Option<u64>,
    sinks: &[&dyn Sink],
    progress: &dyn Fn(Progress),
) -> Result<Report> {
    let start = Instant::now();
    let threads = workers::count(request.threads);
    let mut filtered = filter(core, request.level, request.exclude_guests, threads);
    if request.exclude_struct_pages {
        vmemmap::exclude(core, &mut filtered);
    }
    let mut report = Report {
        pages: filtered.ram.count(),
        dropped: filtered.dropped,
        asked: request.level,
        level: filtered.level,
        degraded: filtered.degraded.clone(),
        warnings: core.warnings().iter().chain(&filtered.warnings).cloned().collect(),
        threads,
        filter_time: start.elapsed(),
        ..Report::default()
    };
    if request.format == Format::Elf {
        report.incomplete = core.incomplete();
        let sink = sinks.first().copied().unwrap_or(&Nowhere);
        super::elf::save(core, &mut filtered, limit, sink, &mut report, progress)?;
        report.write_time = start.elapsed() - report.filter_time;
        return Ok(report);
    }
    let total = filtered.kept.count();
    let mut whole = Container::new(core, total, filtered.level, request.codec);
    if filtered.dropped.struct_pages != 0 {
        whole.lacks_struct_pages();
    }
    let mut parts = Vec::with_capacity(sinks.len());
    for (sink, part) in sinks.iter().zip(split(&filtered.kept, whole.max_mapnr(), sinks.len() as u64)) {
        let container = if sinks.len() == 1 { whole.clone() } else { whole.part(&part.pfns, part.kept) };
        check(limit, container.data)?;
        container.begin(core, &filtered.ram, &filtered.kept, *sink)?;
        // From here on the place has a dump that is marked, whatever happens.
        sink.sync().context(|| "sync the dump's headers")?;
        parts.push((*sink, part, container));
    }
    report.incomplete = core.incomplete();
    let first = first(core, &filtered);
    let order = Order::new(&filtered, &first);
    let mut before = Progress { total, ..Progress::default() };
    for (sink, part, container) in &parts {
        let job = Job::new(core, &order, part, container, *sink, request.codec, limit)?;
        job.run(threads, &|now| {
            let (pages, bytes) = (before.pages + now.pages, before.bytes + now.bytes);
            progress(Progress { pages, total, bytes });
        })?;
        let (done, zero) = (job.done.into_inner(), job.zero.into_inner());
        report.zero += zero;
        report.kept += done - zero;
        report.unreadable += job.unreadable.into_inner();
        let end = job.next_extent.into_inner();
        report.bytes += end;
        before.pages += done;
        before.bytes += end - container.data;
        if let Some(limit) = limit.filter(|_| done < part.kept) {
            report.over_limit = true;
            report.incomplete = Some(beyond(limit));
            break;
        }
    }
    for (sink, ..) in &parts {
        sink.sync().context(|| "sync the dump")?;
    }
    let complete = report.incomplete.is_none();
    parts.iter().try_for_each(|(sink, _, container)| container.end(complete, *sink))?;
    report.write_time = start.elapsed() - report.filter_time;
    Ok(report)
}

/// What workers share: one file's pages.
struct Job<'a> {
    core: &'a Vmcore,
    kept: &'a Bitmap,
    batches: Batches<'a>,
    /// Kept pages of the parts before.
    before: u64,
    container: &'a Container,
    sink: &'a dyn Sink,
    codec: Codec,
    total: u64,
    /// Most bytes of the file.
    limit: u64,
    next_extent: AtomicU64,
    /// Descriptor of all zero pages, if they are left out.
    zero_page: Option<PageDesc>,
    done: AtomicU64,
    zero: AtomicU64,
    unreadable: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// A worker's buffers, used again for each batch.
struct Buffers {
    /// The batch: its page frames and what they hold.
    batch: Vec<u64>,
    pages: Vec<u8>,
    /// What is compressed and not yet written, of this batch and those before.
    pfns: Vec<u64>,
    out: Vec<u8>,
    descriptors: Vec<PageDesc>,
}

impl<'a> Job<'a> {
    fn new(
        core: &'a Vmcore,
        order: &'a Order<'a>,
        part: &Part,
        container: &'a Container,
        sink: &'a dyn Sink,
        codec: Codec,
        limit: Option<u64>,
    ) -> Result<Self> {
        let (total, filtered) = (part.kept, order.filtered);
        let mut next_extent = container.data;
        let mut zero_page = None;
        if filtered.level.drops_zero_pages() && total != 0 {
            sink.write_at(next_extent, &[0; PAGE]).context(|| "write the zero page")?;
            let size = (PAGE as u32).into();
            zero_page = Some(PageDesc { offset: next_extent.into(), size, ..PageDesc::default() });
            next_extent += PAGE_SIZE;
        }
        Ok(Self {
            core,
            kept: &filtered.kept,
            batches: Batches::of(order, &part.pfns),
            before: Rank::new(&filtered.kept).of(part.pfns.start),
            container,
            sink,
            codec,
            total,
            limit: limit.unwrap_or(u64::MAX),
            next_extent: AtomicU64::new(next_extent),
            zero_page,
            done: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            failure: Mutex::default(),
        })
    }

    /// Starts the workers and watches them.
    fn run(&self, threads: usize, progress: &dyn Fn(Progress)) -> Result<()> {
        if self.codec == Codec::None && self.zero_page.is_none() && !self.sink.keeps() {
            // Its size is known without a look at a page.
            let fit = self.total.min((self.limit - self.next_extent.load(Ordering::Relaxed)) / PAGE_SIZE);
            self.next_extent.fetch_add(fit * PAGE_SIZE, Ordering::Relaxed);
            self.done.store(fit, Ordering::Relaxed);
            return Ok(());
        }
        let done = workers::run(threads, &|| self.work(), &|| progress(self.progress()));
        match lock(&self.failure).take() {
            Some(e) => Err(e),
            None => done,
        }
    }

    fn progress(&self) -> Progress {
        let bytes = self.next_extent.load(Ordering::Relaxed) - self.container.data;
        Progress { pages: self.done.load(Ordering::Relaxed), total: self.total, bytes }
    }

    fn work(&self) {
        let reader = self.core.reader();
        let mut encoder = Encoder::new(self.codec);
        let mut buffers = Buffers {
            batch: Vec::with_capacity(BATCH),
            pages: Vec::with_capacity(BATCH * PAGE),
            pfns: Vec::with_capacity(BATCH),
            out: Vec::with_capacity(WRITE + (BATCH + 1) * PAGE),
            descriptors: Vec::with_capacity(BATCH),
        };
        let mut rank = Rank::new(self.kept);
        while self.step(&reader, &mut encoder, &mut buffers, &mut rank).unwrap_or_else(|e| {
            // The first failure is the cause; later ones follow from it.
            lock(&self.failure).get_or_insert(e);
            false
        }) {}
        self.batches.stop();
    }

    /// Reads and compresses the next batch, and writes what there is once that is worth a write. `false` at the end of
    /// the pages or of the limit.
    fn step(
        &self,
        reader: &Reader<'_>,
        encoder: &mut Encoder,
        buffers: &mut Buffers,
        rank: &mut Rank<'_>,
    ) -> Result<bool> {
        if !self.batches.take(&mut buffers.batch) {
            self.write(buffers, rank)?;
            return Ok(false);
        }
        // Pages that go first are written before the others are begun.
        if buffers.pfns.last() > buffers.batch.first() && !self.write(buffers, rank)? {
            return Ok(false);
        }
        let unreadable = workers::read(reader, &buffers.batch, &mut buffers.pages);
        self.unreadable.fetch_add(unreadable, Ordering::Relaxed);
        if self.codec == Codec::None && !self.sink.keeps() {
            return Ok(self.count(buffers));
        }
        self.compress(encoder, buffers);
        // A limit is used up to the last batch that fits.
        let enough = buffers.out.len() >= WRITE || buffers.pfns.len() >= MANY || self.limit != u64::MAX;
        if enough { self.write(buffers, rank) } else { Ok(true) }
    }

    /// Counts a batch that nobody wants to have. `false` where the limit is reached.
    fn count(&self, buffers: &Buffers) -> bool {
        let pages = buffers.batch.len() as u64;
        let zeros = match self.zero_page {
            Some(_) => buffers.pages.chunks_exact(PAGE).filter(|page| is_zero(page)).count() as u64,
            None => 0,
        };
        let fits = self.reserve((pages - zeros) * PAGE_SIZE).is_some();
        if fits {
            self.zero.fetch_add(zeros, Ordering::Relaxed);
            self.done.fetch_add(pages, Ordering::Relaxed);
        }
        fits
    }

    /// Adds a batch to what is to be written. Until then its descriptors say where in that.
    fn compress(&self, encoder: &mut Encoder, buffers: &mut Buffers) {
        let Buffers { batch, pages, pfns, out, descriptors } = buffers;
        pfns.extend_from_slice(batch);
        for page in pages.chunks_exact(PAGE) {
            if self.zero_page.is_some() && is_zero(page) {
                // No other page has a size of 0.
                descriptors.push(PageDesc::default());
                continue;
            }
            let start = out.len();
            let flags = encoder.encode(page, out);
            let size = (out.len() - start) as u32;
            descriptors.push(PageDesc {
                offset: (start as u64).into(),
                size: size.into(),
                flags: flags.into(),
                page_flags: 0.into(),
            });
        }
    }

    /// Writes data, then its descriptors: a descriptor never points at what is not written. `false` where the limit is
    /// reached.
    fn write(&self, buffers: &mut Buffers, rank: &mut Rank<'_>) -> Result<bool> {
        let Buffers { pfns, out, descriptors, .. } = buffers;
        let Some(extent) = self.reserve(out.len() as u64) else { return Ok(false) };
        if !out.is_empty() {
            self.sink.write_at(extent, out).context(|| "write page data")?;
        }
        let mut zeros = 0;
        for descriptor in descriptors.iter_mut() {
            match self.zero_page.filter(|_| descriptor.size.get() == 0) {
                Some(shared) => {
                    *descriptor = shared;
                    zeros += 1;
                }
                None => descriptor.offset.set(descriptor.offset.get() + extent),
            }
        }
        let mut rest = descriptors.as_slice();
        // Descriptors stand as the kept pages do: those of neighbours among them go in one write.
        for run in pfns.chunk_by(|a, b| self.kept.next(a + 1) == Some(*b)) {
            let Some((here, behind)) = rest.split_at_checked(run.len()) else { break };
            rest = behind;
            let at = self.container.descriptors + (rank.of(run[0]) - self.before) * size_of::<PageDesc>() as u64;
            self.sink.write_at(at, here.as_bytes()).context(|| "write page descriptors")?;
        }
        self.zero.fetch_add(zeros, Ordering::Relaxed);
        self.done.fetch_add(pfns.len() as u64, Ordering::Relaxed);
        pfns.clear();
        out.clear();
        descriptors.clear();
        Ok(true)
    }

    /// The offset of `len` bytes for one worker; `None` where the limit is reached.
    fn reserve(&self, len: u64) -> Option<u64> {
        let next = |at: u64| at.checked_add(len).filter(|end| *end <= self.limit);
        self.next_extent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()
    }
}
