//! Writing the pages: workers that each take the next run of kept pages, read, compress, reserve an extent of the
//! output and write it together with its descriptors. No queue, no ordered writer: descriptors carry offsets, so data
//! may lie in any order, and what is in memory is bounded by the number of workers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::bitmap::Bitmap;
use super::compress::{Encoder, is_zero};
use super::diskdump::Container;
use super::filter::{Filtered, filter};
use super::{Codec, Progress, Report, Request};
use crate::abi::diskdump::PageDesc;
use crate::error::{Context, Error, Result};
use crate::mem::{PAGE_SIZE, PhysAddr};
use crate::target::Sink;
use crate::vmcore::reader::PageRead;
use crate::vmcore::{Reader, Vmcore};

const PAGE: usize = PAGE_SIZE as usize;
/// Pages a worker takes at a time: 1 MiB in, at most 1 MiB out.
const BATCH: usize = 256;
/// Memory of a worker: its batch in and out, descriptors, the codec's context.
const WORKER_BYTES: u64 = 3 << 20;
/// More workers than this only wait for each other's writes.
const MAX_WORKERS: usize = 32;

/// Filters `core` and writes the dump to `sink`, which the caller then finishes.
///
/// The dump is marked incomplete from the first write on; the last write, after everything is synced, takes that mark
/// away. `progress` is called from this thread, a few times a second at most.
///
/// # Errors
/// Only the sink's: whatever is wrong with the vmcore widens what is kept, or is said in the report.
pub fn save(core: &Vmcore, request: &Request, sink: &dyn Sink, progress: &dyn Fn(Progress)) -> Result<Report> {
    let start = Instant::now();
    let threads = workers(request.threads);
    let filtered = filter(core, request.level, request.exclude_guests, threads);
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
    let total = filtered.kept.count();
    let container = Container::new(core, total, filtered.level, request.codec);
    container.begin(core, &filtered.ram, &filtered.kept, sink)?;
    let job = Job::new(core, &filtered, &container, sink, request.codec, total)?;
    job.run(threads, progress)?;
    report.zero = job.zero.load(Ordering::Relaxed);
    report.kept = total - report.zero;
    report.unreadable = job.unreadable.load(Ordering::Relaxed);
    report.bytes = job.next_extent.load(Ordering::Relaxed);
    if core.missing() != 0 {
        report.incomplete = Some(format!(
            "the vmcore is truncated: its headers promise {} bytes of memory more than the file holds",
            core.missing()
        ));
    } else if core.notes().cut {
        report.incomplete = Some("the vmcore's notes reach beyond their area: registers or VMCOREINFO are cut".into());
    }
    sink.sync().context(|| "sync the dump")?;
    if report.incomplete.is_none() {
        container.complete(sink)?;
    }
    report.write_time = start.elapsed() - report.filter_time;
    Ok(report)
}

/// How many workers to start when `asked` for; 0 leaves it to the machine.
fn workers(asked: usize) -> usize {
    if asked != 0 {
        return asked.min(1024);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    affordable(cpus.min(MAX_WORKERS), &meminfo)
}

/// At most `cpus` workers, and no more than a quarter of the available memory carries.
fn affordable(cpus: usize, meminfo: &str) -> usize {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let available_kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let fit = available_kib.map_or(cpus, |kib| (kib / 4 * 1024 / WORKER_BYTES) as usize);
    fit.clamp(1, cpus.max(1))
}

/// What workers share.
struct Job<'a> {
    core: &'a Vmcore,
    kept: &'a Bitmap,
    container: &'a Container,
    sink: &'a dyn Sink,
    codec: Codec,
    total: u64,
    /// The next page frame to take, and the index of its descriptor.
    cursor: Mutex<(u64, u64)>,
    next_extent: AtomicU64,
    /// Descriptor of all zero pages, if they are left out.
    zero_page: Option<PageDesc>,
    done: AtomicU64,
    zero: AtomicU64,
    unreadable: AtomicU64,
    running: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// A worker's buffers, used again for each batch.
struct Buffers {
    pfns: Vec<u64>,
    pages: Vec<u8>,
    out: Vec<u8>,
    descriptors: Vec<PageDesc>,
}

impl<'a> Job<'a> {
    fn new(
        core: &'a Vmcore,
        filtered: &'a Filtered,
        container: &'a Container,
        sink: &'a dyn Sink,
        codec: Codec,
        total: u64,
    ) -> Result<Self> {
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
            container,
            sink,
            codec,
            total,
            cursor: Mutex::default(),
            next_extent: AtomicU64::new(next_extent),
            zero_page,
            done: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
        })
    }

    /// Starts the workers and watches them.
    fn run(&self, threads: usize, progress: &dyn Fn(Progress)) -> Result<()> {
        let watcher = std::thread::current();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let work = || {
                    self.work();
                    self.running.fetch_sub(1, Ordering::AcqRel);
                    watcher.unpark();
                };
                self.running.fetch_add(1, Ordering::AcqRel);
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    self.running.fetch_sub(1, Ordering::AcqRel);
                    break;
                }
            }
            if self.running.load(Ordering::Acquire) == 0 {
                // Not one thread to be had (or all done already): this one does what is left.
                self.work();
            }
            while self.running.load(Ordering::Acquire) != 0 {
                std::thread::park_timeout(Duration::from_millis(250));
                progress(self.progress());
            }
        });
        match self.failure.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(e) => Err(e),
            None => Ok(()),
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
            pfns: Vec::with_capacity(BATCH),
            pages: vec![0; BATCH * PAGE],
            out: Vec::with_capacity((BATCH + 1) * PAGE),
            descriptors: Vec::with_capacity(BATCH),
        };
        while !self.stop.load(Ordering::Relaxed) {
            let Some(index) = self.take(&mut buffers.pfns) else { return };
            self.read(&reader, &mut buffers);
            if let Err(e) = self.write(&mut encoder, &mut buffers, index) {
                self.stop.store(true, Ordering::Relaxed);
                // The first failure is the cause; later ones follow from it.
                self.failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
                return;
            }
            self.done.fetch_add(buffers.pfns.len() as u64, Ordering::Relaxed);
        }
    }

    /// Takes the next kept pages; the index of the first one's descriptor, `None` when there are no more.
    fn take(&self, pfns: &mut Vec<u64>) -> Option<u64> {
        pfns.clear();
        let mut cursor = self.cursor.lock().unwrap_or_else(|e| e.into_inner());
        let (mut at, index) = *cursor;
        while pfns.len() < BATCH
            && let Some(pfn) = self.kept.next(at)
        {
            pfns.push(pfn);
            at = pfn + 1;
        }
        *cursor = (at, index + pfns.len() as u64);
        (!pfns.is_empty()).then_some(index)
    }

    /// Reads a batch: neighbours in one go, what fails page by page.
    fn read(&self, reader: &Reader<'_>, buffers: &mut Buffers) {
        let mut pages = buffers.pages.as_mut_slice();
        for run in buffers.pfns.chunk_by(|a, b| a + 1 == *b) {
            let (here, rest) = pages.split_at_mut(run.len() * PAGE);
            pages = rest;
            if reader.read_run(PhysAddr(run[0] * PAGE_SIZE), here) {
                continue;
            }
            for (pfn, page) in run.iter().zip(here.chunks_exact_mut(PAGE)) {
                if reader.read_page(PhysAddr(pfn * PAGE_SIZE), page) == PageRead::Unreadable {
                    self.unreadable.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Compresses a batch and writes its data, then its descriptors: a descriptor never points at what is not written.
    fn write(&self, encoder: &mut Encoder, buffers: &mut Buffers, index: u64) -> Result<()> {
        let Buffers { pfns, pages, out, descriptors } = buffers;
        out.clear();
        descriptors.clear();
        let mut zeros = 0;
        for page in pages.chunks_exact(PAGE).take(pfns.len()) {
            if let Some(shared) = self.zero_page
                && is_zero(page)
            {
                descriptors.push(shared);
                zeros += 1;
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
        self.zero.fetch_add(zeros, Ordering::Relaxed);
        let extent = self.next_extent.fetch_add(out.len() as u64, Ordering::Relaxed);
        if !out.is_empty() {
            self.sink.write_at(extent, out).context(|| "write page data")?;
        }
        for descriptor in descriptors.iter_mut().filter(|d| Some(**d) != self.zero_page) {
            descriptor.offset.set(descriptor.offset.get() + extent);
        }
        let at = self.container.descriptors + index * size_of::<PageDesc>() as u64;
        self.sink.write_at(at, descriptors.as_slice().as_bytes()).context(|| "write page descriptors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_fit_the_memory_that_is_left() {
        let meminfo = |kib: u64| format!("MemTotal: 1 kB\nMemAvailable:   {kib} kB\n");
        assert_eq!(affordable(8, &meminfo(20 << 10)), 1, "20 MiB available");
        assert_eq!(affordable(8, &meminfo(64 << 10)), 5);
        assert_eq!(affordable(8, &meminfo(1 << 30)), 8);
        assert_eq!(affordable(8, ""), 8, "not known");
        assert_eq!(affordable(0, &meminfo(1 << 30)), 1);
    }
}
