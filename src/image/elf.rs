//! ELF executables (System V gABI, i386 and x86_64 supplements): an uncompressed Linux (vmlinux), or any other program
//! for the bare machine.
//!
//! Only program headers are read: what a section or a symbol says has no part in loading.

use super::le;
use crate::error::{Error, Kind, Result};
use crate::mem::{Bytes, Range};

/// `ELFMAG`
const MAGIC: &[u8] = b"\x7fELF";
/// `PT_LOAD`
const PT_LOAD: u32 = 1;
/// `PN_XNUM`: the number of program headers stands elsewhere.
const PN_XNUM: u16 = 0xffff;

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

impl Load {
    /// The physical memory it takes.
    pub fn range(&self) -> Range {
        Range::with_len(self.phys, self.len).unwrap_or_default()
    }
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

/// Where the fields stand: ELF32 and ELF64 differ in nothing else.
struct Class {
    /// `sizeof(Elf_Phdr)`
    phdr: usize,
    /// Reads `Elf_Addr`, `Elf_Off` and sizes.
    word: fn(&[u8], usize) -> Option<u64>,
    e_entry: usize,
    e_phoff: usize,
    e_phentsize: usize,
    p_offset: usize,
    p_vaddr: usize,
    p_paddr: usize,
    p_filesz: usize,
    p_memsz: usize,
    /// First address that a word cannot name, as far as 64 bits can say it.
    end: u64,
}

const ELF32: Class = Class {
    phdr: 32,
    word: |bytes, at| le::u32(bytes, at).map(u64::from),
    e_entry: 24,
    e_phoff: 28,
    e_phentsize: 42,
    p_offset: 4,
    p_vaddr: 8,
    p_paddr: 12,
    p_filesz: 16,
    p_memsz: 20,
    end: 1 << 32,
};

const ELF64: Class = Class {
    phdr: 56,
    word: le::u64,
    e_entry: 24,
    e_phoff: 32,
    e_phentsize: 54,
    p_offset: 8,
    p_vaddr: 16,
    p_paddr: 24,
    p_filesz: 32,
    p_memsz: 40,
    end: u64::MAX,
};

fn invalid(text: String) -> Error {
    Error::new(Kind::Invalid, text)
}

impl Elf {
    /// Reads the headers; `None` if `file` is no ELF file at all.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for one that is not an executable for x86, is truncated, or contradicts itself.
    pub fn parse(file: &Bytes) -> Result<Option<Self>> {
        if !file.starts_with(MAGIC) {
            return Ok(None);
        }
        let (class, machine) = class(file)?;
        let (e_entry, loads) =
            program_headers(file, &class).ok_or_else(|| invalid("ELF header is truncated; copy it again".into()))??;
        let entry = physical(e_entry, &loads).ok_or_else(|| {
            invalid(format!("ELF entry point {e_entry:#x} lies in none of its {} loads (PT_LOAD)", loads.len()))
        })?;
        Ok(Some(Self { machine, entry, loads }))
    }

    /// Physical memory from its first byte to behind its last.
    pub fn extent(&self) -> Range {
        let start = self.loads.first().map_or(0, |l| l.phys);
        let end = self.loads.last().map_or(0, |l| l.phys.saturating_add(l.len));
        Range::new(start, end).unwrap_or_default()
    }

    /// Whether it is evidently a Linux: `linux_banner` is in it, which every Linux has since 1991, with its number.
    /// A program that only talks of Linux versions has no number there.
    pub fn is_linux(&self) -> bool {
        const BANNER: &[u8] = b"Linux version ";
        let banner =
            |at: &[u8]| at.strip_prefix(BANNER).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit));
        self.loads.iter().any(|l| l.data.windows(BANNER.len().saturating_add(1)).any(banner))
    }
}

/// Checks `e_ident`, `e_type` and `e_machine`.
fn class(file: &[u8]) -> Result<(Class, Machine)> {
    let truncated = || invalid("ELF header is truncated; copy it again".into());
    let ident = |at: usize| file.get(at).copied().ok_or_else(truncated);
    let (class, data) = (ident(4)?, ident(5)?);
    let e_type = le::u16(file, 16).ok_or_else(truncated)?;
    let e_machine = le::u16(file, 18).ok_or_else(truncated)?;
    if data != 1 {
        return Err(invalid(format!("ELF data encoding {data} is not little-endian (1): it is not for x86")));
    }
    let found = match (class, e_machine) {
        (1, 3) => (ELF32, Machine::I386),
        (2, 62) => (ELF64, Machine::X86_64),
        _ => {
            return Err(invalid(format!(
                "ELF class {class} for machine {e_machine} cannot be loaded: x86_64 is class 2, machine 62, i386 is class 1, \
                 machine 3"
            )));
        }
    };
    let what = match e_type {
        2 | 3 => return Ok(found),
        1 => "an object file (ET_REL, a kernel module perhaps)",
        4 => "a core dump (ET_CORE)",
        _ => "of an unknown type",
    };
    Err(invalid(format!("ELF file is {what}, e_type {e_type}; an executable (2 or 3) is needed")))
}

/// Entry point and PT_LOADs, ascending and checked; `None` if the ELF header itself is cut.
fn program_headers(file: &Bytes, class: &Class) -> Option<Result<(u64, Vec<Load>)>> {
    let word = class.word;
    let (e_entry, e_phoff) = (word(file, class.e_entry)?, word(file, class.e_phoff)?);
    let (size, count) = (le::u16(file, class.e_phentsize)?, le::u16(file, class.e_phentsize.checked_add(2)?)?);
    Some(table(file, class, e_phoff, size, count).and_then(|headers| loads(file, class, headers)).map(|l| (e_entry, l)))
}

/// The bytes of the program headers.
fn table<'a>(file: &'a Bytes, class: &Class, e_phoff: u64, size: u16, count: u16) -> Result<&'a [u8]> {
    if usize::from(size) != class.phdr {
        return Err(invalid(format!(
            "ELF program headers of {size} bytes (e_phentsize) are not {} bytes long",
            class.phdr
        )));
    }
    if count == PN_XNUM {
        return Err(invalid("ELF file has 65535 or more program headers (e_phnum); no kernel has".into()));
    }
    let start = usize::try_from(e_phoff).ok();
    let range = start.and_then(|s| Some(s..s.checked_add(class.phdr.checked_mul(usize::from(count))?)?));
    range.and_then(|r| file.get(r)).ok_or_else(|| {
        let len = file.len();
        invalid(format!(
            "ELF file is truncated: its {count} program headers at {e_phoff:#x} (e_phoff) end behind its {len:#x} bytes; copy \
             it again"
        ))
    })
}

fn loads(file: &Bytes, class: &Class, headers: &[u8]) -> Result<Vec<Load>> {
    let mut loads: Vec<Load> = Vec::new();
    for (number, header) in headers.chunks_exact(class.phdr).enumerate() {
        if le::u32(header, 0) != Some(PT_LOAD) {
            continue;
        }
        let field = |at: usize| (class.word)(header, at).unwrap_or_default();
        let (offset, filesz, memsz) = (field(class.p_offset), field(class.p_filesz), field(class.p_memsz));
        let phys = field(class.p_paddr);
        if filesz > memsz {
            return Err(invalid(format!(
                "ELF load {number} has more bytes in the file ({filesz:#x}, p_filesz) than in memory ({memsz:#x}, p_memsz)"
            )));
        }
        if memsz == 0 {
            continue;
        }
        if phys.checked_add(memsz).is_none_or(|end| end > class.end) {
            return Err(invalid(format!(
                "ELF load {number}, {memsz:#x} bytes at {phys:#x} (p_paddr), ends behind the last address"
            )));
        }
        let bytes = usize::try_from(offset).ok().zip(offset.checked_add(filesz).and_then(|e| usize::try_from(e).ok()));
        let data = match bytes {
            Some((start, end)) if end <= file.len() => file.slice(start, end),
            // Nothing is read for it, wherever it points.
            _ if filesz == 0 => Bytes::default(),
            _ => {
                let len = file.len();
                return Err(invalid(format!(
                    "ELF file is truncated: load {number} takes {filesz:#x} bytes from {offset:#x}, the file has {len:#x}; copy \
                     it again"
                )));
            }
        };
        loads.push(Load { phys, virt: field(class.p_vaddr), len: memsz, data });
    }
    if loads.is_empty() {
        return Err(invalid("ELF file has nothing to load: no PT_LOAD with bytes in memory".into()));
    }
    loads.sort_by_key(|l| l.phys);
    for pair in loads.windows(2) {
        if let [low, high] = pair
            && low.range().overlaps(high.range())
        {
            let (low, high) = (low.range(), high.range());
            return Err(invalid(format!("ELF loads {low} and {high} overlap in physical memory (p_paddr)")));
        }
    }
    Ok(loads)
}

/// Where `entry` is in physical memory.
fn physical(entry: u64, loads: &[Load]) -> Option<u64> {
    if loads.iter().any(|l| l.range().contains(entry)) {
        return Some(entry);
    }
    let inside = |l: &Load| entry.checked_sub(l.virt).filter(|offset| *offset < l.len);
    loads.iter().find_map(|l| l.phys.checked_add(inside(l)?))
}
