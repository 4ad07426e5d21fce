//! Addresses, ranges, memory maps and kexec segments: the words every station speaks.

pub mod bitmap;
pub mod map;
pub mod range;
pub mod segment;

pub use bitmap::Bitmap;
pub use map::{MemoryMap, MemoryType};
pub use range::{Range, Ranges};

pub use segment::{Bytes, Image, Limits, Segment};

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A physical address of the machine whose memory is looked at, in bytes.
    PhysAddr
);
address!(
    /// A kernel virtual address of the crashed kernel.
    VirtAddr
);
address!(
    /// A page frame number: physical address / page size.
    Pfn
);

/// Bytes in a page on x86_64 (`PAGE_SIZE`).
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
