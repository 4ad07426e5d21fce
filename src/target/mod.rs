//! Where a dump goes.

pub mod file;
pub mod flat;

use crate::error::{Error, Kind, Result};

/// A place that takes a dump's bytes at offsets, in any order and from several threads.
///
/// Nothing written is promised to be there before [`Sink::sync`] has returned, and the place shows that it is
/// unfinished (by its name, where it has one) until [`Sink::finish`] has.
pub trait Sink: Sync {
    /// Writes all of `data` at `offset` bytes from the start.
    ///
    /// # Errors
    /// [`crate::error::Kind::NoSpace`] when the place is full; what was written before stays.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Returns once all that was written is on stable storage.
    fn sync(&self) -> Result<()>;

    /// Syncs, then gives the dump its final name.
    fn finish(&mut self) -> Result<()>;

    /// Takes everything back that was written, for another attempt that needs less room.
    ///
    /// # Errors
    /// Where that can't be: then what was written stays as it is.
    fn restart(&self) -> Result<()> {
        Err(Error::new(Kind::Invalid, "what was written to a stream can't be taken back"))
    }

    /// Whether all readers take what was written last at an offset, and not what was written first.
    fn rewrites(&self) -> bool {
        true
    }

    /// Whether the bytes matter, and not only how many they are.
    fn keeps(&self) -> bool {
        true
    }
}

/// For a dump that nobody wants: only what the report says of it counts.
#[derive(Debug)]
pub struct Nowhere;

impl Sink for Nowhere {
    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn restart(&self) -> Result<()> {
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }
}
