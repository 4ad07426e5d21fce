//! Room for a dump: several files that share it, and what is tried in turn while there is too little.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bitmap::{Bitmap, CHUNK};
use super::{Level, Progress, Report, Request, save_parts};
use crate::error::{Error, Kind, Result};
use crate::mem::PAGE_SIZE;
use crate::target::Sink;
use crate::vmcore::Vmcore;

/// What one of several files has.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Its page frames.
    pub pfns: Range<u64>,
    /// How many of them have a descriptor.
    pub kept: u64,
}

/// `count` parts of the page frames below `end`, with as many `kept` ones each.
pub fn split(kept: &Bitmap, end: u64, count: u64) -> Vec<Part> {
    let total = kept.count();
    let (mut chunk, mut before) = (0, 0);
    let (mut start, mut done) = (0, 0);
    let mut part = |i: u64| {
        let goal = (u128::from(total) * u128::from(i) / u128::from(count)) as u64;
        while chunk < kept.chunks() && before + kept.count_in(chunk) < goal {
            before += kept.count_in(chunk);
            chunk += 1;
        }
        let mut border = start;
        if i == count {
            border = end.max(start);
        } else if goal > done {
            border = chunk * CHUNK;
            for _ in before..goal {
                border = kept.next(border).map_or(end, |pfn| pfn + 1);
            }
        }
        let part = Part { pfns: start..border, kept: goal - done };
        (start, done) = (border, goal);
        part
    };
    (1..=count).map(&mut part).collect()
}

/// [`save_parts`] with each of `levels` in turn while there is no room; `again` is told of the next one. With the last one, or
/// where the sinks can't start again, what could be written stays, marked incomplete.
///
/// # Errors
/// As [`save_parts`].
pub fn save_within(
    core: &Vmcore,
    request: &Request,
    levels: &[Level],
    limit: Option<u64>,
    sinks: &[&dyn Sink],
    again: &dyn Fn(Level),
    progress: &dyn Fn(Progress),
) -> Result<Report> {
    let mut levels = levels.iter().copied();
    let mut level = levels.next().unwrap_or(request.level);
    loop {
        let saved = save_parts(core, &Request { level, ..*request }, limit, sinks, progress);
        let full = match &saved {
            Ok(report) => report.over_limit,
            Err(e) => e.kind() == Kind::NoSpace,
        };
        match levels.next().filter(|_| full && sinks.iter().all(|s| s.restart().is_ok())) {
            Some(next) => level = next,
            None => return saved,
        }
        again(level);
    }
}

/// Whether a dump whose headers have `headers` bytes may have a page.
///
/// # Errors
/// [`Kind::NoSpace`] if not.
pub fn check(limit: Option<u64>, headers: u64) -> Result<()> {
    match limit.filter(|limit| *limit < headers + PAGE_SIZE) {
        Some(limit) => {
            let rule = format!("the limit is {limit} bytes, but the dump's headers alone have {headers}");
            Err(Error::new(Kind::NoSpace, rule))
        }
        None => Ok(()),
    }
}

/// Why a dump ends early.
pub fn beyond(limit: u64) -> String {
    format!("the dump grows beyond the limit of {limit} bytes (-L)")
}

/// A sink that takes nothing behind a limit, and counts what that would have been.
pub struct Limited<'a> {
    sink: &'a dyn Sink,
    limit: u64,
    lost: AtomicU64,
}

impl<'a> Limited<'a> {
    /// Takes `limit` bytes.
    pub fn new(sink: &'a dyn Sink, limit: u64) -> Self {
        Self { sink, limit, lost: AtomicU64::new(0) }
    }

    /// Bytes that were not taken.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Sink for Limited<'_> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let fit = self.limit.saturating_sub(offset).min(data.len() as u64) as usize;
        // Whole pages: half a one would read as if it were whole.
        let fit = if fit == data.len() { fit } else { fit / PAGE_SIZE as usize * PAGE_SIZE as usize };
        self.lost.fetch_add((data.len() - fit) as u64, Ordering::Relaxed);
        self.sink.write_at(offset, &data[..fit])
    }

    fn sync(&self) -> Result<()> {
        self.sink.sync()
    }

    fn rewrites(&self) -> bool {
        self.sink.rewrites()
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once_and_share_what_is_kept() {
        let mut kept = Bitmap::new(5 * CHUNK);
        for run in [3..9, 100..40_000, 2 * CHUNK..3 * CHUNK, 4 * CHUNK + 7..4 * CHUNK + 8] {
            kept.set(run);
        }
        for (bitmap, end) in [(&kept, 4 * CHUNK + 100), (&Bitmap::new(100), 100)] {
            let total = bitmap.count();
            for count in [1, 2, 3, 5, 64] {
                let parts = split(bitmap, end, count);
                assert_eq!(parts.len() as u64, count);
                let (mut at, mut sum) = (0, 0);
                for part in &parts {
                    assert_eq!(part.pfns.start, at, "{count}: {parts:?}");
                    let inside = part.pfns.clone().filter(|pfn| bitmap.get(*pfn)).count() as u64;
                    assert_eq!(part.kept, inside, "{count}: {part:?}");
                    assert!(part.kept.abs_diff(total / count) <= 1, "{count}: {part:?} of {total}");
                    (at, sum) = (part.pfns.end, sum + part.kept);
                }
                assert_eq!((at, sum), (end, total), "{count}");
            }
        }
        let mut three = Bitmap::new(CHUNK);
        three.set(5..8);
        let kept: Vec<u64> = split(&three, 10, 5).iter().map(|p| p.kept).collect();
        assert_eq!(kept, [0, 1, 0, 1, 1], "more parts than pages");
    }
}
