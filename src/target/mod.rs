//! Where a dump goes.

pub mod file;

use crate::error::Result;

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
}
