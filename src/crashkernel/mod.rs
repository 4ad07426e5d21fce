//! The memory reserved for a crash kernel: what was asked for, what is there, and whether a dump would work.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod archive;
pub mod chain;
pub mod check;
mod cursor;
pub mod dump_size;
pub mod estimate;
pub mod facts;
pub mod measure;
pub mod pieces;
pub mod report;
pub mod settings;
pub mod syntax;
pub mod xen;

pub use cursor::memory_size;
