//! ELF executables: an uncompressed Linux (vmlinux), or any other program for the bare machine.

use crate::mem::{Bytes, Range};

/// What the program's code is for (`e_machine`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `EM_386`: entered in 32-bit protected mode.
    I386,
    /// `EM_X86_64`: entered in 64-bit mode.
    X86_64,
}

/// One part of the program in memory: a PT_LOAD.
#[derive(Clone, Debug)]
pub struct Load {
    /// Physical address (`p_paddr`).
    pub phys: u64,
    /// Virtual address (`p_vaddr`).
    pub virt: u64,
    /// Bytes in memory (`p_memsz`); what `data` does not fill is zero.
    pub len: u64,
    /// Bytes from the file (`p_filesz`).
    pub data: Bytes,
}

/// An ELF executable whose headers are consistent and whose bytes are all there. Holding one proves: at least one
/// load; loads ascend by physical address, are not empty and do not overlap; no end leaves 64 bits.
#[derive(Clone, Debug)]
pub struct Elf {
    /// What its code is for.
    pub machine: Machine,
    /// Entry point (`e_entry`), made physical: where it lies in a load's virtual but in no load's physical range, it is
    /// moved by that load's difference.
    pub entry: u64,
    /// Its parts.
    pub loads: Vec<Load>,
}

impl Elf {
    /// Physical memory from its first byte to behind its last.
    pub fn extent(&self) -> Range {
        let start = self.loads.first().map_or(0, |l| l.phys);
        let end = self.loads.last().map_or(0, |l| l.phys.saturating_add(l.len));
        Range::new(start, end).unwrap_or_default()
    }
}
