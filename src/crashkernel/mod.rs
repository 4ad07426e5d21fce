//! The memory reserved for a crash kernel: what was asked for, what is there, and whether a dump would work.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod check;
pub mod syntax;
