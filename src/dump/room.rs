//! Room for a dump: several files that share it, and what is tried in turn while there is too little.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bitmap::{Bitmap, CHUNK};
use super::{Level, Progress, Report, Request, save_parts};
use crate::error::{Error, Kind, Result};
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

/// A sink that takes no byte behind a limit.
pub struct Limited<'a> {
    sink: &'a dyn Sink,
    limit: Option<u64>,
    reached: AtomicBool,
}

impl<'a> Limited<'a> {
    /// `None` is no limit.
    pub fn new(sink: &'a dyn Sink, limit: Option<u64>) -> Self {
        Self { sink, limit, reached: AtomicBool::new(false) }
    }

    /// Whether something was refused for the limit.
    pub fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Sink for Limited<'_> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        match self.limit {
            Some(limit) if offset.saturating_add(data.len() as u64) > limit => {
                self.reached.store(true, Ordering::Relaxed);
                Err(Error::new(Kind::NoSpace, format!("the dump grows beyond the limit of {limit} bytes (-L)")))
            }
            _ => self.sink.write_at(offset, data),
        }
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
