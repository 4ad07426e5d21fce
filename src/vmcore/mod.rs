//! A crashed machine's memory: `/proc/vmcore` or a saved ELF core, read by physical and by virtual address.
//!
//! Every byte here comes from a machine that broke. Parsers return less instead of failing, and never panic.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod conring;
pub mod elf;
pub mod frames;
pub mod input;
pub mod le;
pub mod notes;
pub mod p2m;
pub mod pages;
pub mod printk;
pub mod reader;
pub mod sections;
pub mod vmcoreinfo;
pub mod xen;
pub mod xlat;

use std::path::Path;

use crate::error::{Context, Result};
use crate::mem::{PhysAddr, Range};

pub use elf::{Layout, Load};
pub use input::{FileInput, Input};
pub use notes::Notes;
pub use reader::Reader;
pub use vmcoreinfo::VmcoreInfo;
pub use xlat::AddressSpace;

/// Why memory could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The vmcore does not hold this address.
    NotThere(PhysAddr),
    /// The page tables map nothing at this virtual address.
    NotMapped(u64),
    /// Reading the file failed with this errno.
    Io(i32),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::NotThere(at) => write!(f, "physical address {at} is not in the vmcore"),
            Fault::NotMapped(at) => write!(f, "virtual address {at:#x} is not mapped"),
            Fault::Io(errno) => write!(f, "reading failed: {}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// Physical memory of the crashed machine.
pub trait PhysMem {
    /// Fills `buf` with the bytes from `at` on; all or nothing.
    fn read(&self, at: PhysAddr, buf: &mut [u8]) -> Result<(), Fault>;
}

/// An opened vmcore. Shared by threads; each reads through its own [`Reader`].
pub struct Vmcore {
    input: Box<dyn Input>,
    layout: Layout,
    notes: Notes,
}

impl Vmcore {
    /// Opens and checks the headers of the vmcore at `path`.
    ///
    /// # Errors
    /// Kind `Open` when it can't be opened, `Invalid` when it is no vmcore.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_input(Box::new(FileInput::open(path)?)).context(|| format!("vmcore {}", path.display()))
    }

    /// The same from any input.
    ///
    /// # Errors
    /// As [`Vmcore::open`].
    pub fn from_input(input: Box<dyn Input>) -> Result<Self> {
        let layout = Layout::read(input.as_ref())?;
        let notes = Notes::read(input.as_ref(), &layout.notes);
        Ok(Self { input, layout, notes })
    }

    /// What the crashed kernel says about itself.
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.notes.vmcoreinfo.as_ref()
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.input.size()
    }

    /// Bytes of memory the headers promise but the file does not hold: not 0 means the vmcore is truncated.
    pub fn missing(&self) -> u64 {
        self.layout.missing
    }

    /// What was odd about the headers, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.layout.warnings
    }

    /// The notes.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// PT_LOADs as found, aliases included.
    pub fn loads(&self) -> &[Load] {
        &self.layout.loads
    }

    /// Physical ranges the file holds, ascending, disjoint.
    pub fn segments(&self) -> &[Load] {
        &self.layout.segments
    }

    /// First address behind all memory.
    pub fn end(&self) -> PhysAddr {
        PhysAddr(self.layout.segments.last().map_or(0, |s| s.phys.end()))
    }

    /// The input itself, for the notes' bytes.
    pub fn input(&self) -> &dyn Input {
        self.input.as_ref()
    }

    /// A reader for one thread.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self.input.as_ref(), &self.layout.segments)
    }

    /// The part of `range` that the segment holding its first byte covers; `None` if none does.
    pub fn covered(&self, range: Range) -> Option<Range> {
        reader::find(&self.layout.segments, range.start()).and_then(|s| s.phys.intersect(range))
    }
}
