//! Images and a memory map in, segments and an entry point out.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod command_line;
pub mod crash;
pub mod linux;
pub mod params;
pub mod place;
pub mod purgatory;
