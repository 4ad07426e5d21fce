//! Who holds a loaded image.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod explain;
pub mod linux;
pub mod xen;

use crate::error::Result;
use crate::host::Machine;
use crate::mem::Image;

/// What an image is for: there is room for one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The next kernel, started on request.
    Next,
    /// The crash kernel, started by a panic.
    Crash,
}

/// The Linux kernel, or a hypervisor, that takes images and starts them.
///
/// Memory map, crash areas and CPU notes come together as [`Machine`], since every one of them is the holder's to tell
/// and a plan needs all.
pub trait Backend {
    /// The machine an image for `slot` will run on.
    fn machine(&self, slot: Slot) -> Result<Machine>;

    /// Hands over `image`, replacing the one in `slot`.
    fn load(&mut self, slot: Slot, image: &Image) -> Result<()>;

    /// Drops the image in `slot`; no error if there is none.
    fn unload(&mut self, slot: Slot) -> Result<()>;

    /// Whether `slot` holds an image; `None` if that can't be known.
    fn loaded(&self, slot: Slot) -> Result<Option<bool>>;

    /// Starts the image in [`Slot::Next`]. Returns only on failure.
    fn exec(&mut self) -> Result<()>;
}
