//! From a vmcore to a filtered, compressed dump: what to keep ([`filter`]), how it is written ([`diskdump`]), by whom
//! ([`pipeline`]).

pub mod compress;
pub mod diskdump;
mod elf;
mod fast;
pub mod filter;
mod first;
pub mod guests;
pub mod info;
pub mod join;
mod padded;
pub mod pipeline;
pub mod raw;
mod room;
mod structs;
mod verify;
mod vmemmap;
mod workers;
mod zstd_page;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Kind};

pub use crate::mem::bitmap;
pub use compress::Codec;
pub use filter::Dropped;
pub use pipeline::{save, save_parts};
pub use room::save_within;

/// Classes of pages to leave out, as makedumpfile numbers them: 1 zero pages, 2 page cache, 4 page cache with private
/// data (and 2), 8 user data, 16 free pages. Holding one proves it is at most 31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// Everything that can be left out.
    pub const MAX: Level = Level(31);

    /// `None` above 31.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= 31 { Some(Self(bits)) } else { None }
    }

    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether struct pages must be read to filter by it.
    pub const fn needs_struct_pages(self) -> bool {
        self.0 > 1
    }

    /// What is left of it where struct pages can't be read.
    pub const fn without_struct_pages(self) -> Self {
        Self(self.0 & 1)
    }

    /// Whether zero pages are left out.
    pub const fn drops_zero_pages(self) -> bool {
        self.0 & 1 != 0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let level = text.parse().ok().and_then(Level::new);
        level.ok_or_else(|| Error::new(Kind::Usage, format!("dump level '{text}' is not a number from 0 to 31")))
    }
}

/// What a dump is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The kdump-compressed format.
    #[default]
    Kdump,
    /// An ELF core.
    Elf,
}

/// What to save.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// What to leave out.
    pub level: Level,
    /// How to compress pages; in an ELF core they never are.
    pub codec: Codec,
    /// What to write.
    pub format: Format,
    /// Whether the memory of a crashed Xen's guests, and what Xen has free, is left out.
    pub exclude_guests: bool,
    /// Whether struct pages that describe only what is left out are left out too.
    pub exclude_struct_pages: bool,
    /// Worker threads; 0 takes one for each CPU, fewer if memory is short.
    pub threads: usize,
}

/// How far the saving is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages done.
    pub pages: u64,
    /// Pages to do.
    pub total: u64,
    /// Bytes of page data written.
    pub bytes: u64,
}

/// What was saved.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pages in the vmcore.
    pub pages: u64,
    /// Pages with data of their own in the dump.
    pub kept: u64,
    /// Pages that are zero and share one block.
    pub zero: u64,
    /// Pages left out.
    pub dropped: Dropped,
    /// Pages that could not be read and are zero in the dump.
    pub unreadable: u64,
    /// Bytes from the start of the dump to its end.
    pub bytes: u64,
    /// The level asked for.
    pub asked: Level,
    /// The level reached.
    pub level: Level,
    /// Why more is kept than was asked for.
    pub degraded: Vec<String>,
    /// Why the dump lacks memory and stays marked incomplete.
    pub incomplete: Option<String>,
    /// Whether that is for a limit on its size.
    pub over_limit: bool,
    /// What else is worth knowing.
    pub warnings: Vec<String>,
    /// Worker threads that ran.
    pub threads: usize,
    /// Time of the filter.
    pub filter_time: Duration,
    /// Time of everything behind it.
    pub write_time: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_numbers_from_0_to_31_and_nothing_else() {
        for (text, level) in
            [("0", Some(0)), ("31", Some(31)), ("32", None), ("abc", None), ("-1", None), ("", None), ("3x", None)]
        {
            assert_eq!(text.parse::<Level>().ok().map(Level::bits), level, "{text}");
        }
    }
}
