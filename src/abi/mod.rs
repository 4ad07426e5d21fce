//! Layouts that others define, byte for byte, with their C names. No logic.

pub mod bootparam;
pub mod diskdump;
pub mod multiboot;
pub mod xen;
pub mod xen_notes;
