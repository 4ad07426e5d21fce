//! Packed bytes that no dependency unpacks: one block in, its bytes out. Kernel images and pages of dumps share them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod lzo;
pub mod snappy;
pub mod zstd;
