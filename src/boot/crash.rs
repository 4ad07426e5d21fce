//! What a crash kernel needs beyond a kernel: the ELF header that describes the old memory (elfcorehdr), and a memory
//! map that keeps it inside its reservation.
//!
//! The header is that of `fs/proc/vmcore.c`: PT_NOTEs by physical address, a PT_LOAD for the kernel's image, one for
//! each range of RAM without the reservation.

use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::host::kcore::IMAGE_PAGE;
use crate::mem::{MemoryMap, MemoryType, Range, Ranges};

/// End of conventional memory: real-mode code of the crash kernel's CPUs runs below.
const LOW_MEMORY_END: u64 = 0xa_0000;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;

/// The low memory that the crash kernel will overwrite and that is copied away first.
pub fn backup_source(machine: &Machine) -> Option<Range> {
    let low = Range::new(0, LOW_MEMORY_END)?;
    machine.system_ram.iter().find_map(|r| r.intersect(low))
}

/// The old memory: RAM without what was reserved for crash kernels and without the graphics aperture.
pub fn old_memory(machine: &Machine) -> Ranges {
    let mut ram = machine.system_ram.clone();
    for hole in machine.crash.iter().chain(machine.gart) {
        ram.remove(hole);
    }
    ram
}

/// Bytes of the header for `machine`.
pub fn elfcorehdr_len(machine: &Machine) -> u64 {
    u64::try_from(EHDR_LEN.saturating_add(headers(machine, None).len().saturating_mul(PHDR_LEN))).unwrap_or(u64::MAX)
}

/// The header; low memory is read from its copy at `backup`, if there is one.
///
/// # Errors
/// [`Kind::Invalid`] if there are more ranges and CPUs than an ELF header counts.
pub fn elfcorehdr(machine: &Machine, backup: Option<u64>) -> Result<Vec<u8>> {
    let phdrs = headers(machine, backup);
    let count = u16::try_from(phdrs.len()).ok().filter(|n| *n < 0xffff).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("{} program headers; an ELF core header holds 65534", phdrs.len()))
    })?;
    let mut bytes = Vec::with_capacity(EHDR_LEN);
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [4u16, 62] {
        bytes.extend(half.to_le_bytes()); // ET_CORE, EM_X86_64
    }
    bytes.extend(1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        bytes.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [64u16, 56, count, 0, 0, 0] {
        bytes.extend(half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, no sections
    }
    for phdr in phdrs {
        phdr.write(&mut bytes);
    }
    Ok(bytes)
}

struct Phdr {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    len: u64,
}

impl Phdr {
    fn write(&self, bytes: &mut Vec<u8>) {
        let flags = if self.kind == PT_LOAD { 7u32 } else { 0 };
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [self.offset, self.virt, self.phys, self.len, self.len, 0] {
            bytes.extend(word.to_le_bytes());
        }
    }

    fn note(range: Range) -> Self {
        Self { kind: PT_NOTE, offset: range.start(), virt: 0, phys: range.start(), len: range.len() }
    }
}

fn headers(machine: &Machine, backup: Option<u64>) -> Vec<Phdr> {
    let notes = machine.cpu_notes.iter().map(|n| n.range).chain(machine.xen_vmcoreinfo).chain(machine.vmcoreinfo);
    let mut phdrs: Vec<Phdr> = notes.map(Phdr::note).collect();
    if let (Some(image), Some(stext)) = (machine.kernel_image, machine.layout.stext) {
        let virt = stext & !IMAGE_PAGE.saturating_sub(1);
        let len = machine.layout.image_len.unwrap_or(image.len());
        phdrs.push(Phdr { kind: PT_LOAD, offset: image.start(), virt, phys: image.start(), len });
    }
    let direct = |phys: u64| machine.layout.page_offset.map_or(0, |base| base.wrapping_add(phys));
    let low = backup_source(machine);
    for range in old_memory(machine).iter() {
        let copied = low.filter(|l| l.start() == range.start());
        let rest = copied.map_or(Some(range), |low| Range::new(low.end(), range.end()));
        for part in copied.into_iter().chain(rest.filter(|r| !r.is_empty())) {
            let offset = backup.filter(|_| Some(part) == copied).unwrap_or(part.start());
            let (phys, len) = (part.start(), part.len());
            phdrs.push(Phdr { kind: PT_LOAD, offset, virt: direct(phys), phys, len });
        }
    }
    phdrs
}

/// The crash kernel's memory: low memory and its reservation without `keep` (elfcorehdr and backup) as RAM, and
/// everything else that is not RAM as it was. The old kernel's RAM is left out.
pub fn memory_map(machine: &Machine, keep: &[Range]) -> MemoryMap {
    let mut usable: Ranges = machine.crash.iter().chain(backup_source(machine)).collect();
    for range in keep {
        usable.remove(*range);
    }
    let others = machine.map.iter().filter(|(_, t)| *t != MemoryType::Ram);
    usable.iter().map(|r| (r, MemoryType::Ram)).chain(others).collect()
}

/// The same as kernel parameters (`--pass-memmap-cmdline`), for a kernel that is to ignore the E820 table.
pub fn memmap_parameters(map: &MemoryMap) -> String {
    let mut text = String::from(" memmap=exactmap");
    for (range, kind) in map.iter() {
        let mark = match kind {
            MemoryType::Ram => '@',
            MemoryType::Acpi | MemoryType::Nvs => '#',
            MemoryType::Pmem | MemoryType::Pram => '!',
            _ => '$',
        };
        text.push_str(&format!(" memmap={:#x}{mark}{:#x}", range.len(), range.start()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::kcore::Layout;
    use crate::host::notes::CpuNotes;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).expect("ordered")
    }

    fn machine() -> Machine {
        let ram = [range(0x1000, 0x9_fc00), range(0x10_0000, 0x4000_0000)];
        let others =
            [(range(0xf_0000, 0x10_0000), MemoryType::Reserved), (range(0x4000_0000, 0x4000_1000), MemoryType::Acpi)];
        Machine {
            map: ram.iter().map(|r| (*r, MemoryType::Ram)).chain(others).collect(),
            system_ram: ram.into_iter().collect(),
            crash: [range(0x3000_0000, 0x3c00_0000)].into_iter().collect(),
            cpu_notes: [0, 2].map(|cpu| CpuNotes { cpu, range: range(0x9000 + cpu, 0x9400 + cpu) }).to_vec(),
            vmcoreinfo: Some(range(0xb000, 0xc000)),
            kernel_image: Some(range(0x300_0000, 0x500_0000)),
            layout: Layout {
                page_offset: Some(0xffff_8880_0000_0000),
                stext: Some(0xffff_ffff_8300_0040),
                image_len: None,
            },
            ..Machine::default()
        }
    }

    #[test]
    fn the_header_describes_notes_kernel_and_memory() {
        let machine = machine();
        let bytes = elfcorehdr(&machine, Some(0x3b00_0000)).expect("made");
        assert_eq!(bytes.len() as u64, elfcorehdr_len(&machine));
        assert_eq!((bytes[16], bytes[18], bytes[56]), (4, 62, 7));
        let word = |phdr: usize, at: usize| {
            let at = 64 + phdr * 56 + at;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let kinds: Vec<u8> = (0..7).map(|i| bytes[64 + i * 56]).collect();
        assert_eq!(kinds, [4, 4, 4, 1, 1, 1, 1]);
        // offset, vaddr, paddr, filesz
        let row = |i| [word(i, 8), word(i, 16), word(i, 24), word(i, 32)];
        assert_eq!(row(1), [0x9002, 0, 0x9002, 0x400]);
        assert_eq!(row(3), [0x300_0000, 0xffff_ffff_8300_0000, 0x300_0000, 0x200_0000]);
        assert_eq!(row(4), [0x3b00_0000, 0xffff_8880_0000_1000, 0x1000, 0x9_ec00], "low memory is read from its copy");
        assert_eq!(row(5), [0x10_0000, 0xffff_8880_0010_0000, 0x10_0000, 0x2ff0_0000]);
        assert_eq!(row(6)[2..], [0x3c00_0000, 0x400_0000]);
    }

    #[test]
    fn the_crash_kernel_gets_its_reservation_and_no_old_memory() {
        let map = memory_map(&machine(), &[range(0x3bf0_0000, 0x3c00_0000)]);
        let text: Vec<String> = map.iter().map(|(r, t)| format!("{r} {t}")).collect();
        let expected = [
            "0x1000-0x9fc00 RAM",
            "0xf0000-0x100000 reserved",
            "0x30000000-0x3bf00000 RAM",
            "0x40000000-0x40001000 ACPI",
        ];
        assert_eq!(text, expected);
        let parameters = memmap_parameters(&map);
        assert!(parameters.starts_with(" memmap=exactmap memmap=0x9ec00@0x1000 memmap=0x10000$0xf0000 "));
        assert!(parameters.ends_with(" memmap=0x1000#0x40000000"));
    }
}
