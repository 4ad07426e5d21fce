//! A Linux kernel, started by its 64-bit entry point: everything placed, nothing loaded yet.
//!
//! ```text
//! crash kernel, inside the reservation          next kernel, in RAM from the top down
//!   kernel      init_size, kernel_alignment       the same without backup and elfcorehdr
//!   initrd      pages
//!   boot_params zero page, setup_data, command line
//!   elfcorehdr, backup of the first 640 KiB
//!   purgatory   verifies all of them but itself
//! ```

use super::params::Params;
use super::place::{Space, Wish};
use super::purgatory::{self, Digest, Settings};
use super::{command_line, crash};
use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::image::BzImage;
use crate::mem::{Bytes, Image, Limits, MemoryMap, PAGE_SIZE, Range, Segment};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What to load.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The kernel.
    pub kernel: &'a BzImage,
    /// Its initrd.
    pub initrd: Option<Bytes>,
    /// Its command line as asked for.
    pub command_line: &'a str,
    /// The machine it goes to.
    pub machine: &'a Machine,
    /// Whether it is a crash kernel.
    pub crash: bool,
    /// Physical memory segments may lie in (`--mem-min`, `--mem-max`).
    pub window: Range,
    /// How the purgatory talks and whether it verifies.
    pub purgatory: Settings,
    /// Randomness for the kernel's start.
    pub seed: Option<[u8; 32]>,
    /// Hand over EFI's runtime services, if there are any.
    pub efi: bool,
    /// Describe a crash kernel's memory on its command line too.
    pub memmap_parameters: bool,
}

/// A load, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What `kexec_load(2)` gets.
    pub image: Image,
    /// What the kernel will find in `/proc/cmdline`.
    pub command_line: String,
    /// The memory map it is given.
    pub map: MemoryMap,
}

/// Places everything and checks it against every rule of the kernel.
///
/// # Errors
/// [`Kind::NoReservation`] for a crash kernel without its memory; [`Kind::Invalid`] for what does not fit.
pub fn plan(request: &Request<'_>) -> Result<Plan> {
    let kernel = request.kernel;
    if !kernel.has_entry_64() {
        return Err(Error::new(Kind::Invalid, "the kernel has no 64-bit entry point (xloadflags bit 0 is clear)"));
    }
    if request.machine.five_levels && !kernel.takes_5_levels() {
        let text =
            "this kernel can't be entered with 5-level paging, which is on; boot the running kernel with 'no5lvl'";
        return Err(Error::new(Kind::Invalid, text));
    }
    let limits = limits(request)?;
    let top = if kernel.above_4g() { u64::MAX } else { 4 * GIB };
    let above = |low: u64| Range::new(low, top).unwrap_or_default();
    let mut space = Space::new(limits.memory.clone(), limits.memory_name);
    let purgatory_at = space.take("the purgatory", Wish::pages(len_of(purgatory::len()), above(MIB)))?;
    let crash = if request.crash { Some(CrashParts::place(request.machine, &mut space, above(MIB))?) } else { None };
    let kernel_at = space.take("the kernel", kernel_wish(kernel, above(MIB)))?;
    let initrd = match &request.initrd {
        Some(data) => Some((data.clone(), space.take("the initrd", Wish::pages(len_of(data.len()), above(16 * MIB)))?)),
        None => None,
    };
    let efi = request.efi && kernel.takes_efi() && request.machine.efi.is_some();
    let map = match &crash {
        Some(parts) => crash::memory_map(request.machine, &parts.kept()),
        None => request.machine.map.clone(),
    };
    let command_line = full_command_line(request, crash.as_ref(), &map, efi)?;
    let params = Params {
        header: &kernel.header,
        machine: request.machine,
        map: &map,
        command_line: &command_line,
        initrd: initrd.as_ref().and_then(|(data, r)| Range::with_len(r.start(), len_of(data.len()))),
        efi,
        seed: request.seed,
    };
    let params_at = space.take("boot_params", Wish::pages(len_of(params.build(0).len()), above(MIB)))?;
    let mut segments = vec![
        Segment { name: "kernel", data: kernel.code.clone(), range: kernel_at },
        Segment { name: "boot_params", data: params.build(params_at.start()).into(), range: params_at },
    ];
    segments.extend(initrd.map(|(data, range)| Segment { name: "initrd", data, range }));
    let mut settings = request.purgatory;
    settings.entry = BzImage::entry_64(kernel_at.start());
    settings.boot_params = params_at.start();
    if let Some(parts) = crash {
        segments.extend(parts.segments(request.machine)?);
        settings.backup = parts.backup.map(|(from, to)| (from, to.start()));
    }
    let purgatory = purgatory::build(&settings, &digest(&segments))?.into();
    segments.push(Segment { name: "purgatory", data: purgatory, range: purgatory_at });
    segments.sort_by_key(|s| s.range);
    let image = Image { entry: purgatory_at.start().saturating_add(purgatory::entry_offset()), segments };
    image.check(&limits)?;
    Ok(Plan { image, command_line, map })
}

fn len_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Over all that is final when it is loaded: the backup area is filled by the purgatory, the purgatory holds the digest.
fn digest(segments: &[Segment]) -> Digest {
    let mut digest = Digest::default();
    for s in segments {
        digest.add(s.range.start(), &s.data);
    }
    digest
}

/// The error for a crash kernel without memory.
pub fn no_reservation() -> Error {
    Error::new(
        Kind::NoReservation,
        "no memory is reserved for a crash kernel; boot this machine's kernel with crashkernel=SIZE \
         ('crashkernel-check' shows what was asked for and what is there)",
    )
}

fn limits(request: &Request<'_>) -> Result<Limits> {
    let machine = request.machine;
    if request.crash {
        let area = machine.crash_area().ok_or_else(no_reservation)?;
        let memory = area.intersect(request.window).into_iter().collect();
        return Ok(Limits { memory, memory_name: "the area reserved by crashkernel=", max_pages: None });
    }
    Ok(next_limits(machine, request.window))
}

fn next_limits(machine: &Machine, window: Range) -> Limits {
    let mut memory = machine.map.ram().within(window);
    // What the running kernel keeps back although firmware calls it RAM, it keeps back for a reason: tables of EFI that
    // the next kernel will look for (`efi_mem_reserve`), bad pages (`memmap=`).
    if !machine.system_ram.is_empty() {
        memory = memory.iter().flat_map(|r| machine.system_ram.within(r).iter().collect::<Vec<_>>()).collect();
    }
    for range in machine.efi.iter().flat_map(|efi| &efi.runtime) {
        memory.remove(Range::with_len(range.phys, range.pages.saturating_mul(PAGE_SIZE)).unwrap_or_default());
    }
    // Interrupt vectors, BIOS data, option ROMs: nothing below 1 MiB is worth the risk.
    memory.remove(Range::new(0, MIB).unwrap_or_default());
    for reserved in machine.crash.iter() {
        memory.remove(reserved);
    }
    Limits { memory, memory_name: "RAM", max_pages: machine.total_pages.map(|p| p / 2) }
}

fn kernel_wish(kernel: &BzImage, window: Range) -> Wish {
    let pref = kernel.header.pref_address.get();
    let len = kernel.memory_len();
    let align = u64::from(kernel.header.kernel_alignment.get());
    if !kernel.is_relocatable() {
        return Wish { len, align: PAGE_SIZE, window: Range::with_len(pref, len).unwrap_or_default() };
    }
    let low = pref.clamp(window.start(), window.end());
    Wish { len, align, window: Range::new(low, window.end()).unwrap_or(window) }
}

fn full_command_line(request: &Request<'_>, crash: Option<&CrashParts>, map: &MemoryMap, efi: bool) -> Result<String> {
    let mut text = request.command_line.to_owned();
    if let Some(parts) = crash {
        text.push_str(&format!(" elfcorehdr={:#x}", parts.elfcorehdr.start()));
        if let Some(rsdp) = request.machine.rsdp().filter(|_| !efi) {
            text.push_str(&format!(" acpi_rsdp={rsdp:#x}"));
        }
        if request.memmap_parameters {
            text.push_str(&crash::memmap_parameters(map));
        }
    }
    let text = text.trim_start().to_owned();
    command_line::check(&text, 0, request.kernel)?;
    Ok(text)
}

/// What `kexec_file_load` wants room for behind any command line: `elfcorehdr=0x...` and a NUL.
pub const FILE_CALL_ADDS: usize = 31;

/// Pieces that only a crash kernel has.
struct CrashParts {
    elfcorehdr: Range,
    /// Low memory, and the pages its copy goes to.
    backup: Option<(Range, Range)>,
}

impl CrashParts {
    fn place(machine: &Machine, space: &mut Space, window: Range) -> Result<Self> {
        let elfcorehdr = space.take("the ELF core header", Wish::pages(crash::elfcorehdr_len(machine), window))?;
        let mut backup = None;
        if let Some(from) = crash::backup_source(machine) {
            backup = Some((from, space.take("the copy of low memory", Wish::pages(from.len(), window))?));
        }
        Ok(Self { elfcorehdr, backup })
    }

    /// Memory the crash kernel must not use.
    fn kept(&self) -> Vec<Range> {
        self.backup.map(|(_, to)| to).into_iter().chain([self.elfcorehdr]).collect()
    }

    fn segments(&self, machine: &Machine) -> Result<Vec<Segment>> {
        let backup = self.backup.map(|(_, to)| to);
        let header = crash::elfcorehdr(machine, backup.map_or(0, Range::start))?;
        let mut segments = vec![Segment { name: "elfcorehdr", data: header.into(), range: self.elfcorehdr }];
        segments.extend(backup.map(|range| Segment { name: "backup", data: Bytes::default(), range }));
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::efi::{Efi, RuntimeRange};
    use crate::mem::MemoryType;

    #[test]
    fn the_next_kernel_goes_only_where_firmware_and_the_running_kernel_agree_on_ram() {
        let range = |start, end| Range::new(start, end).expect("ordered");
        let page = RuntimeRange { kind: 4, phys: 0x3000_0000, virt: 0, pages: 1, attribute: 1 << 63 };
        let machine = Machine {
            map: [(range(0, 0x4000_0000), MemoryType::Ram)].into_iter().collect(),
            system_ram: [range(0x1000, 0x20_0000), range(0x30_0000, 0x3800_0000)].into_iter().collect(),
            crash: [range(0x1000_0000, 0x2000_0000)].into_iter().collect(),
            efi: Some(Efi { runtime: vec![page], ..Efi::default() }),
            total_pages: Some(1000),
            ..Machine::default()
        };
        let window = range(0, 0x3400_0000);
        let limits = next_limits(&machine, window);
        let expected = [
            range(0x10_0000, 0x20_0000),
            range(0x30_0000, 0x1000_0000),
            range(0x2000_0000, 0x3000_0000),
            range(0x3000_1000, 0x3400_0000),
        ];
        assert_eq!(limits.memory.iter().collect::<Vec<_>>(), expected);
        assert_eq!(limits.max_pages, Some(500));
    }
}
