//! A crashed machine's memory: `/proc/vmcore`, a saved ELF core or a saved dump, read by physical and by virtual address.
//!
//! Every byte here comes from a machine that broke. Parsers return less instead of failing, and never panic.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod btf;
pub mod calendar;
pub mod conring;
pub mod elf;
pub mod flat;
pub mod frames;
pub mod headers;
pub mod image;
pub mod input;
pub mod kallsyms;
pub mod kdump;
pub mod le;
mod log_buf;
pub mod notes;
pub mod p2m;
pub mod pages;
pub mod printk;
mod printk_ring;
pub mod reader;
pub mod recover;
pub mod sections;
pub mod vmcoreinfo;
pub mod vmlinux;
pub mod xen;
pub mod xlat;
pub mod zones;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Context, Error, Kind, Result};
use crate::mem::{PhysAddr, Range, Ranges};

pub use elf::{Layout, Load};
pub use input::{FileInput, Input};
pub use kdump::Kdump;
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
    dump: Option<Arc<Kdump>>,
    /// Whether it came as a flattened stream.
    flattened: bool,
    /// Why the file it came in is not whole.
    fault: Option<String>,
}

impl Vmcore {
    /// Opens and checks the headers of the vmcore at `path`: an ELF core, a kdump-compressed dump, or either flattened.
    ///
    /// # Errors
    /// Kind `Open` when it can't be opened, `Invalid` when it is no vmcore.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_all(&[path])
    }

    /// The same from the parts of a split dump, in any order.
    ///
    /// # Errors
    /// As [`Vmcore::open`]; `Invalid` too when the files are no parts of one dump.
    pub fn open_all(paths: &[&Path]) -> Result<Self> {
        let mut inputs: Vec<Box<dyn Input>> = Vec::with_capacity(paths.len());
        for path in paths {
            inputs.push(Box::new(FileInput::open(path)?));
        }
        let name = || match paths {
            [one] => format!("vmcore {}", one.display()),
            [first, ..] => format!("dump of {} files, {} first", paths.len(), first.display()),
            [] => "vmcore".into(),
        };
        Self::from_inputs(inputs).context(name)
    }

    /// The same from any input.
    ///
    /// # Errors
    /// As [`Vmcore::open`].
    pub fn from_input(input: Box<dyn Input>) -> Result<Self> {
        Self::from_inputs(vec![input])
    }

    /// The same from any inputs.
    ///
    /// # Errors
    /// As [`Vmcore::open_all`].
    pub fn from_inputs(inputs: Vec<Box<dyn Input>>) -> Result<Self> {
        let (mut fault, mut flattened) = (None, false);
        let mut files: Vec<Box<dyn Input>> = Vec::with_capacity(inputs.len());
        let mut dumps = 0usize;
        for mut input in inputs {
            let head = head(input.as_ref())?;
            let mut is_dump = kdump::is_kdump(&head);
            if head.starts_with(flat::MAGIC) {
                flattened = true;
                let file = flat::FlatInput::open(input)?;
                fault = fault.or_else(|| file.fault.clone());
                input = Box::new(file);
                is_dump = kdump::is_kdump(&self::head(input.as_ref())?);
            }
            dumps = dumps.saturating_add(usize::from(is_dump));
            files.push(input);
        }
        if dumps != 0 && dumps == files.len() {
            let dump = Arc::new(Kdump::open(files, fault.is_some())?);
            let layout = dump.layout();
            let input: Box<dyn Input> = Box::new(Arc::clone(&dump));
            let mut notes = Notes::read(input.as_ref(), &layout.notes);
            if notes.cpus == 0 {
                notes.cpus = dump.header.cpus;
            }
            return Ok(Self { input, layout, notes, dump: Some(dump), flattened, fault });
        }
        let one = Error::new(Kind::Invalid, "several files are given, but they are no parts of a split dump");
        let mut files = files.into_iter();
        let (Some(input), None) = (files.next(), files.next()) else { return Err(one) };
        let layout = Layout::read(input.as_ref())?;
        let notes = Notes::read(input.as_ref(), &layout.notes);
        Ok(Self { input, layout, notes, dump: None, flattened, fault })
    }

    /// The saved dump this is, if it is one: its headers, what it has and what it lacks.
    pub fn dump(&self) -> Option<&Kdump> {
        self.dump.as_deref()
    }

    /// Whether it came as a flattened stream.
    pub const fn flattened(&self) -> bool {
        self.flattened
    }

    /// Bits of the dump level that the pages in it were filtered by already.
    pub fn filtered_by(&self) -> u8 {
        self.dump.as_ref().map_or(0, |d| d.header.level)
    }

    /// `phys_base` of the crashed kernel: VMCOREINFO's, or a dump's header's.
    pub fn phys_base(&self) -> Option<u64> {
        let told = self.vmcoreinfo().and_then(|i| i.number("phys_base"));
        told.or_else(|| self.dump.as_ref().and_then(|d| d.header.phys_base))
    }

    /// Why this vmcore is not whole, so that no dump made of it can be; `None` if it is. Of a saved dump all
    /// descriptors are read for it.
    pub fn incomplete(&self) -> Option<String> {
        let missing = self.dump.as_ref().map_or(0, |d| d.missing());
        if let Some(fault) = &self.fault {
            Some(format!("the vmcore is truncated: {fault}"))
        } else if missing != 0 {
            let gaps = self.dump.as_ref().is_some_and(|d| !d.gaps().is_empty());
            let why = if gaps { "a part of the split dump was not given" } else { "the dump it is was not finished" };
            Some(format!("the vmcore lacks {missing} pages that it was meant to have: {why}"))
        } else if self.dump.as_ref().is_some_and(|d| d.has_nothing()) {
            Some("the vmcore is a dump whose writer was stopped before it had saved a page".into())
        } else if self.dump.as_ref().is_some_and(|d| d.header.incomplete()) {
            Some("the vmcore is a dump that is marked incomplete".into())
        } else if self.missing() != 0 {
            Some(format!(
                "the vmcore is truncated: its headers promise {} bytes of memory more than the file holds",
                self.missing()
            ))
        } else if self.notes.cut {
            Some("the vmcore's notes reach beyond their area: registers or VMCOREINFO are cut".into())
        } else if self.layout.marked {
            Some("the vmcore is an ELF dump that is marked incomplete".into())
        } else {
            None
        }
    }

    /// What the crashed kernel says about itself.
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.notes.vmcoreinfo.as_ref()
    }

    /// Without a VMCOREINFO note: searches memory for the text, and says so.
    pub fn search_vmcoreinfo(&mut self) {
        if self.vmcoreinfo().is_none()
            && self.xen().is_none()
            && let Some(info) = recover::vmcoreinfo(self)
        {
            self.layout.warnings.push("there is no VMCOREINFO note; its text was found in memory".into());
            self.notes.vmcoreinfo = Some(info);
        }
    }

    /// Takes `info` for what the crashed kernel says, whatever the notes say.
    pub fn set_vmcoreinfo(&mut self, info: VmcoreInfo) {
        self.notes.vmcoreinfo = Some(info);
    }

    /// Takes physical `range` out: what is there is not read.
    pub fn leave_out(&mut self, range: Range) {
        let split = |load: &Load| {
            let mut rest: Ranges = [load.phys].into_iter().collect();
            rest.remove(range);
            let parts: Vec<Range> = rest.iter().collect();
            let (vaddr, start, offset) = (load.vaddr, load.phys.start(), load.offset);
            parts.into_iter().map(move |phys| {
                let skip = phys.start().saturating_sub(start);
                Load { vaddr: vaddr.saturating_add(skip), phys, offset: offset.saturating_add(skip) }
            })
        };
        self.layout.segments = self.layout.segments.iter().flat_map(split).collect();
    }

    /// Bytes in the file, or files.
    pub fn size(&self) -> u64 {
        self.dump().map_or_else(|| self.input.size(), Kdump::size)
    }

    /// Bytes of memory the headers promise but the file does not hold: not 0 means the vmcore is truncated.
    pub fn missing(&self) -> u64 {
        self.layout.missing
    }

    /// Bytes of memory an ELF core's headers name without holding them: what its producer left out.
    pub fn left_out(&self) -> u64 {
        self.layout.left_out
    }

    /// Why the stream it came as is not whole, or `None`.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
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

    /// Physical ranges the file holds, and those an ELF core names without holding them, ascending, disjoint.
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

/// The first bytes of a file, as many as tell what it is.
fn head(input: &dyn Input) -> Result<[u8; 16]> {
    let mut head = [0u8; 16];
    elf::read_full(input, 0, &mut head).map_err(|e| Error::io(&e, "read its first bytes"))?;
    Ok(head)
}
