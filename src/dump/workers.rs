//! Threads that share the kept pages of a vmcore: each takes the next batch, reads it, and does what it is for.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::bitmap::{Bitmap, CHUNK};
use super::first::{Order, ROUNDS};
use crate::error::{Error, Kind, Result};
use crate::mem::{PAGE_SIZE, PhysAddr};
use crate::vmcore::Reader;
use crate::vmcore::reader::PageRead;

/// Bytes of a page.
pub(super) const PAGE: usize = PAGE_SIZE as usize;
/// Pages a worker takes at a time: 256 KiB in, at most as much out, so that its processor's own cache keeps both.
pub(super) const BATCH: usize = 64;
/// Memory of a worker: its batch in and out, descriptors, the codec's context.
const WORKER_BYTES: u64 = 3 << 20;
/// More workers than this only wait for each other's writes.
const MAX_WORKERS: usize = 32;

/// How many workers to start when `asked` for; 0 leaves it to the machine.
pub(super) fn count(asked: usize) -> usize {
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

/// Calls `work` in `threads` threads, or in this one if there is none to be had, and `watch` a few times a second.
///
/// # Errors
/// If one of them panics, once the others are done: its batch is not. (Where a panic aborts, as in the program itself, it
/// ends the process: the dump stays marked, and `init` starts another saver.)
pub(super) fn run(threads: usize, work: &(dyn Fn() + Sync), watch: &dyn Fn()) -> Result<()> {
    let (watcher, running) = (std::thread::current(), AtomicUsize::new(0));
    let panicked = AtomicBool::new(false);
    let work = || {
        if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            panicked.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let work = || {
                work();
                running.fetch_sub(1, Ordering::AcqRel);
                watcher.unpark();
            };
            running.fetch_add(1, Ordering::AcqRel);
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                running.fetch_sub(1, Ordering::AcqRel);
                break;
            }
        }
        if running.load(Ordering::Acquire) == 0 {
            // Not one thread to be had (or all done already): this one does what is left.
            work();
        }
        while running.load(Ordering::Acquire) != 0 {
            std::thread::park_timeout(Duration::from_millis(250));
            watch();
        }
    });
    if panicked.into_inner() {
        let what = "a worker stopped in the middle of its pages (this is a bug of the program)";
        return Err(Error::new(Kind::System, what));
    }
    Ok(())
}

/// The kept pages, dealt out in rounds, each of them ascending.
pub(super) struct Batches<'a> {
    order: &'a Order<'a>,
    /// Page frames that are dealt out.
    pfns: Range<u64>,
    /// The round, and the next page frame to take in it.
    cursor: Mutex<(usize, u64)>,
    stop: AtomicBool,
}

impl<'a> Batches<'a> {
    pub(super) fn new(order: &'a Order<'a>) -> Self {
        Self::of(order, &(0..u64::MAX))
    }

    /// Only those among `pfns`.
    pub(super) fn of(order: &'a Order<'a>, pfns: &Range<u64>) -> Self {
        Self { order, pfns: pfns.clone(), cursor: Mutex::new((0, pfns.start)), stop: AtomicBool::new(false) }
    }

    /// Takes the next pages, ascending; none when there are no more or [`Batches::stop`] was called.
    pub(super) fn take(&self, pfns: &mut Vec<u64>) -> bool {
        pfns.clear();
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let (round, at) = &mut *lock(&self.cursor);
        while pfns.is_empty() && *round < ROUNDS {
            while pfns.len() < BATCH
                && let Some(pfn) = self.order.next(*round, *at).filter(|pfn| *pfn < self.pfns.end)
            {
                if self.order.has(*round, pfn) {
                    pfns.push(pfn);
                }
                *at = pfn + 1;
            }
            if pfns.is_empty() {
                (*round, *at) = (*round + 1, self.pfns.start);
            }
        }
        !pfns.is_empty()
    }

    /// Ends the dealing.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many page frames below one are in a set, asked in mostly ascending order.
pub(super) struct Rank<'a> {
    pages: &'a Bitmap,
    /// A chunk, and how many are in below it.
    chunk: (u64, u64),
}

impl<'a> Rank<'a> {
    pub(super) fn new(pages: &'a Bitmap) -> Self {
        Self { pages, chunk: (0, 0) }
    }

    pub(super) fn of(&mut self, pfn: u64) -> u64 {
        let chunk = pfn / CHUNK;
        if chunk < self.chunk.0 {
            self.chunk = (0, 0);
        }
        self.chunk.1 += (self.chunk.0..chunk).map(|chunk| self.pages.count_in(chunk)).sum::<u64>();
        self.chunk.0 = chunk;
        self.chunk.1 + self.pages.count_before(pfn)
    }
}

/// What a lock guards, whatever became of those who held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Reads pages into `pages`, one behind the other: neighbours in one go, what fails page by page. How many could not be
/// read and are zero.
pub(super) fn read(reader: &Reader<'_>, pfns: &[u64], pages: &mut Vec<u8>) -> u64 {
    pages.resize(pfns.len() * PAGE, 0);
    let mut rest = pages.as_mut_slice();
    let mut unreadable = 0;
    for run in pfns.chunk_by(|a, b| a + 1 == *b) {
        let (here, behind) = rest.split_at_mut(run.len() * PAGE);
        rest = behind;
        if reader.read_run(PhysAddr(run[0] * PAGE_SIZE), here) {
            continue;
        }
        for (pfn, page) in run.iter().zip(here.chunks_exact_mut(PAGE)) {
            unreadable += u64::from(reader.read_page(PhysAddr(pfn * PAGE_SIZE), page) == PageRead::Unreadable);
        }
    }
    unreadable
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
