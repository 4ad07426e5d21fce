//! The ELF headers of a vmcore (elf(5), fs/proc/vmcore.c): where which physical memory lies in the file.
//!
//! Program headers are taken as found: unsorted, overlapping (the kernel's text has an alias segment), with ends inside
//! pages, lying about their size. What comes out is a sorted list of disjoint physical ranges that the file holds, and of
//! those it names without holding them (`p_memsz` beyond `p_filesz`): what a filter left out, and pages that were zero.
//! The file does not tell these apart; both read as zeros, as crash, drgn and gdb read them. Only struct pages tell
//! which were the kernel's: no filter leaves these out, so they were zero (`dump/filter.rs`).

use std::io;

use super::input::Input;
use super::le::{index, u16_at, u32_at, u64_at, wide};
use crate::error::{Error, Kind, Result};
use crate::mem::{Range, Ranges};

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: u64 = 56;
/// `e_flags` of a core whose writer did not come to its end.
pub const DUMP_ELF_INCOMPLETE: u32 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum` of a file whose true count is in section header 0 (`sh_info`).
const PN_XNUM: u16 = 0xffff;
/// More program headers than any machine has memory ranges; bounds what a lying header makes us read.
const MAX_PHDRS: u64 = 1 << 20;
/// x86_64 has 52 bits of physical address at most.
const PHYS_LIMIT: u64 = 1 << 52;
/// `__START_KERNEL_map`: segments from here on are aliases of memory that others map directly.
pub const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Where memory that a core names without holding it is in the input: far behind the end of any file.
pub const LEFT_OUT: u64 = 1 << 63;

/// Most bytes of memory that are believed for each byte of the file: struct pages alone are a 64th of what they describe.
const BELIEVED: u64 = 1024;

/// One PT_LOAD, clipped to what the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// `p_vaddr`: where the crashed kernel has it mapped; 0 if the producer did not say.
    pub vaddr: u64,
    /// Physical range of the bytes in the file.
    pub phys: Range,
    /// Where they start in the file; from [`LEFT_OUT`] on, nowhere: they read as zeros.
    pub offset: u64,
}

impl Load {
    /// Whether the file holds it.
    pub const fn is_held(&self) -> bool {
        self.offset < LEFT_OUT
    }
}

/// What the headers say.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// PT_LOADs in the order of the file, each in two if it is held in part.
    pub loads: Vec<Load>,
    /// PT_NOTEs as ranges of the file.
    pub notes: Vec<Range>,
    /// The same memory without overlaps, ascending.
    pub segments: Vec<Load>,
    /// Bytes of memory the headers promise beyond the file's end.
    pub missing: u64,
    /// Bytes of memory the headers name without file bytes (`p_memsz` beyond `p_filesz`).
    pub left_out: u64,
    /// Whether the producer marked it incomplete (`DUMP_ELF_INCOMPLETE` in `e_flags`, as makedumpfile does).
    pub marked: bool,
    /// What was wrong with the headers, in sentences.
    pub warnings: Vec<String>,
}

/// Reads until `buf` is full or the file ends; the bytes read.
pub fn read_full(input: &dyn Input, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        match input.read_at(offset.saturating_add(wide(done)), rest) {
            Ok(0) => break,
            Ok(n) => done = done.saturating_add(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

impl Layout {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the file is no ELF64 core of x86_64, or holds no memory.
    pub fn read(input: &dyn Input) -> Result<Self> {
        let layout = Self::headers(input)?;
        // One that is marked incomplete may have no byte of memory yet.
        if !layout.loads.iter().any(Load::is_held) && !layout.marked {
            return Err(invalid(match layout.missing {
                0 => "it has no PT_LOAD segment with memory in it".to_owned(),
                n => format!("the file ends before the memory its headers promise ({n:#x} bytes)"),
            }));
        }
        Ok(layout)
    }

    /// The same of a file that may hold no memory.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the file is no ELF64 core of x86_64.
    pub fn headers(input: &dyn Input) -> Result<Self> {
        let mut ehdr = [0u8; EHDR_SIZE];
        let got = read_full(input, 0, &mut ehdr).map_err(|e| Error::io(&e, "read the ELF header"))?;
        identify(&ehdr, got)?;
        let phoff = u64_at(&ehdr, 32).unwrap_or_default();
        let phentsize = u16_at(&ehdr, 54).unwrap_or_default();
        if u64::from(phentsize) != PHDR_SIZE {
            return Err(invalid(format!("e_phentsize is {phentsize}, but an ELF64 program header has 56 bytes")));
        }
        let marked = u32_at(&ehdr, 48).is_some_and(|flags| flags & DUMP_ELF_INCOMPLETE != 0);
        let mut layout = Layout { marked, ..Layout::default() };
        let count = layout.program_headers(input, &ehdr, phoff)?;
        layout.read_table(input, phoff, count)?;
        if layout.left_out > input.size().saturating_mul(BELIEVED) {
            let (named, held) = (layout.left_out, input.size());
            layout
                .warnings
                .push(format!("{named:#x} bytes of memory are named by a file of {held:#x}; they are ignored"));
            layout.loads.retain(Load::is_held);
        }
        layout.segments = disjoint(&layout.loads);
        Ok(layout)
    }

    /// The number of program headers, bounded by the file.
    fn program_headers(&mut self, input: &dyn Input, ehdr: &[u8], phoff: u64) -> Result<u64> {
        let phnum = u16_at(ehdr, 56).unwrap_or_default();
        let mut count = u64::from(phnum);
        if phnum == PN_XNUM {
            let shoff = u64_at(ehdr, 40).unwrap_or_default();
            let mut shdr = [0u8; 64];
            if shoff != 0 && read_full(input, shoff, &mut shdr).is_ok_and(|n| n == shdr.len()) {
                count = u32_at(&shdr, 44).map_or(count, u64::from).max(1);
            }
        }
        let room = input.size().saturating_sub(phoff).checked_div(PHDR_SIZE).unwrap_or_default();
        if room == 0 {
            return Err(invalid(format!(
                "e_phoff is {phoff:#x}, but the file has {:#x} bytes: no program header",
                input.size()
            )));
        }
        if count > room.min(MAX_PHDRS) {
            self.warnings
                .push(format!("{count} program headers are announced, the file has room for {}", room.min(MAX_PHDRS)));
            self.missing = self.missing.saturating_add(1);
        }
        Ok(count.min(room).min(MAX_PHDRS))
    }

    fn read_table(&mut self, input: &dyn Input, phoff: u64, count: u64) -> Result<()> {
        let mut table = vec![0u8; index(count.saturating_mul(PHDR_SIZE))];
        let got = read_full(input, phoff, &mut table).map_err(|e| Error::io(&e, "read the program headers"))?;
        for phdr in table.get(..got).unwrap_or_default().chunks_exact(index(PHDR_SIZE)) {
            let field = |at| u64_at(phdr, at).unwrap_or_default();
            let (offset, vaddr, paddr, filesz, memsz) = (field(8), field(16), field(24), field(32), field(40));
            match u32_at(phdr, 0) {
                Some(PT_LOAD) => {
                    self.left_out = self.left_out.saturating_add(memsz.saturating_sub(filesz));
                    self.load(input.size(), offset, vaddr, paddr, filesz.min(memsz));
                    self.loads.extend(tail(vaddr, paddr, filesz, memsz));
                }
                Some(PT_NOTE) => self.notes.extend(Range::with_len(offset, filesz)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes one PT_LOAD in. `len` bytes are promised; those beyond the end of the file are counted as missing, and a
    /// tail without file bytes (`p_memsz > p_filesz`) is memory the producer left out.
    fn load(&mut self, size: u64, offset: u64, vaddr: u64, paddr: u64, len: u64) {
        let phys = Range::with_len(paddr, len).filter(|r| r.end() <= PHYS_LIMIT);
        // p_paddr of -1 is "no physical address": memory we could not name.
        let Some(phys) = phys.filter(|_| offset.checked_add(len).is_some()) else {
            if paddr != u64::MAX && len != 0 {
                self.warnings
                    .push(format!("PT_LOAD at {paddr:#x} with {len:#x} bytes leaves the address space; ignored"));
            }
            return;
        };
        let there = phys.len().min(size.saturating_sub(offset));
        self.missing = self.missing.saturating_add(phys.len().saturating_sub(there));
        if there != 0
            && let Some(phys) = Range::with_len(paddr, there)
        {
            self.loads.push(Load { vaddr, phys, offset });
        }
    }
}

/// The memory of a PT_LOAD behind its bytes in the file.
fn tail(vaddr: u64, paddr: u64, filesz: u64, memsz: u64) -> Option<Load> {
    let phys = Range::new(paddr.checked_add(filesz)?, paddr.checked_add(memsz)?)?;
    let vaddr = if vaddr == 0 { 0 } else { vaddr.saturating_add(filesz) };
    Some(Load { vaddr, phys, offset: LEFT_OUT }).filter(|load| !phys.is_empty() && load.phys.end() <= PHYS_LIMIT)
}

/// Whether a file begins like a core of x86_64, as far as it goes.
pub fn is_core(input: &dyn Input) -> bool {
    let mut ehdr = [0u8; EHDR_SIZE];
    let got = read_full(input, 0, &mut ehdr).unwrap_or(0);
    identify(&ehdr, got).is_ok() || (got < EHDR_SIZE && ehdr.starts_with(b"\x7fELF"))
}

/// Says what the file is when it is not a vmcore.
fn identify(ehdr: &[u8; EHDR_SIZE], got: usize) -> Result<()> {
    let head = ehdr.get(..got).unwrap_or_default();
    if head.is_empty() {
        return Err(invalid("it is empty"));
    }
    if head.starts_with(b"makedumpfile") {
        return Err(invalid("it is a flattened dump inside another; rebuild it first (makedumpfile -R)"));
    }
    if !head.starts_with(b"\x7fELF") {
        return Err(invalid("it does not start with \\x7fELF: this is no vmcore"));
    }
    if got < EHDR_SIZE {
        return Err(invalid(format!("it ends after {got} bytes, inside the 64 bytes of the ELF header")));
    }
    // EI_CLASS 2 = 64 bits, EI_DATA 1 = little endian, e_type 4 = ET_CORE, e_machine 62 = EM_X86_64.
    if head.get(4..6).is_none_or(|c| c != [2, 1]) {
        return Err(invalid("it is not a little-endian ELF64 file; only x86_64 vmcores are read"));
    }
    match (u16_at(head, 16), u16_at(head, 18)) {
        (Some(4), Some(62)) => Ok(()),
        (Some(4), machine) => {
            Err(invalid(format!("e_machine is {}, but only x86_64 (62) vmcores are read", machine.unwrap_or_default())))
        }
        (kind, _) => Err(invalid(format!("e_type is {}, but a vmcore is ET_CORE (4)", kind.unwrap_or_default()))),
    }
}

/// Sorted by physical address, each byte once. What the file holds wins over what it only names, direct-map segments over
/// the text alias, earlier over later ones.
fn disjoint(loads: &[Load]) -> Vec<Load> {
    // A dump may have a hundred thousand, and those hardly ever overlap.
    let mut sorted = loads.to_vec();
    sorted.sort_by_key(|l| l.phys);
    if sorted.windows(2).all(|pair| matches!(pair, [a, b] if a.phys.end() <= b.phys.start())) {
        return sorted;
    }
    let mut order: Vec<&Load> = loads.iter().collect();
    order.sort_by_key(|l| (!l.is_held(), l.vaddr >= KERNEL_IMAGE));
    let mut covered = Ranges::new();
    let mut out: Vec<Load> = Vec::with_capacity(loads.len());
    for load in order {
        let mut rest: Ranges = [load.phys].into_iter().collect();
        for done in covered.within(load.phys).iter() {
            rest.remove(done);
        }
        for phys in rest.iter() {
            let skip = phys.start().saturating_sub(load.phys.start());
            out.push(Load { vaddr: load.vaddr.saturating_add(skip), phys, offset: load.offset.saturating_add(skip) });
        }
        covered.insert(load.phys);
    }
    out.sort_by_key(|l| l.phys);
    out
}
