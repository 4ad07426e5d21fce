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

use super::kernel::{EntryMode, Kernel};
use super::params::Params;
use super::place::{Space, Wish};
use super::purgatory::{self, Settings, Start};
use super::{command_line, crash, finish, low_memory, parts, real_mode};
use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::mem::{Bytes, Image, Limits, MIB, MemoryMap, PAGE_SIZE, Range, Segment};

/// What the kernel is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be the next kernel.
    Next,
    /// To be started by a panic.
    Crash,
    /// To run in the memory up to `end` of the window, and to return from.
    Return,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Its initrd.
    pub initrd: Option<Bytes>,
    /// A device tree for it.
    pub dtb: Option<Bytes>,
    /// Its command line as asked for.
    pub command_line: &'a str,
    /// The machine it goes to.
    pub machine: &'a Machine,
    /// What it is for.
    pub purpose: Purpose,
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
    /// The memory map it is given; empty if it asks the BIOS.
    pub map: MemoryMap,
    /// Multiboot modules: the text of each.
    pub modules: Vec<String>,
    /// What was done beyond what was asked, for people.
    pub notices: Vec<String>,
}

/// What the purgatory completes when a kernel's context is preserved.
const JUMP_BACK: &str = " kexec_jump_back_entry=0x0000000000000000";

/// Places everything and checks it against every rule of the kernel.
///
/// # Errors
/// [`Kind::NoReservation`] for a crash kernel without its memory; [`Kind::Invalid`] for what does not fit.
pub fn plan(request: &Request<'_>) -> Result<Plan> {
    let kernel = request.kernel;
    let confined;
    let request = &match request.purpose {
        Purpose::Return => {
            confined = confine(request.machine, request.window)?;
            Request { machine: &confined, ..request.clone() }
        }
        _ => request.clone(),
    };
    check_entry(request)?;
    let limits = limits(request)?;
    let above = |low: u64| Range::new(low, kernel.top().max(low)).unwrap_or_default();
    let mut space = Space::new(limits.memory.clone(), limits.memory_name);
    if request.machine.upwards {
        space = space.upwards();
    }
    if kernel.mode == EntryMode::Real {
        return real_mode::plan(request, space, &limits);
    }
    let purgatory_top = if kernel.mode == EntryMode::Long { u64::MAX } else { 1 << 32 };
    let purgatory_wish = Wish::pages(len_of(purgatory::len()), Range::new(MIB, purgatory_top).unwrap_or_default());
    let purgatory_at = space.take("the purgatory", purgatory_wish)?;
    let crash = match request.purpose {
        Purpose::Next => None,
        _ => Some(CrashParts::place(request, &mut space, above(MIB))?),
    };
    let kernel_segments = place_kernel(kernel, &mut space, above(MIB))?;
    let kernel_at = kernel_segments.first().map_or(0, |s| s.range.start());
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
        dtb: request.dtb.as_deref(),
        efi,
        seed: request.seed,
        text_screen: request.purgatory.reset_vga || request.purgatory.console_vga,
    };
    let params_len = len_of(params.build(0).len());
    let params_at = space.take("boot_params", Wish::pages(params_len, above(MIB)))?;
    let mut segments = kernel_segments;
    segments.push(Segment { name: "boot_params", data: params.build(params_at.start()).into(), range: params_at });
    segments.extend(initrd.map(|(data, range)| Segment { name: "initrd", data, range }));
    let mut settings = request.purgatory;
    settings.start = start(kernel, kernel_at, params_at.start())?;
    let mut image = Image::default();
    if let Some(parts) = crash {
        segments.extend(parts.segments(request.machine)?);
        settings.backup = parts.backup.map(|(from, to)| (from, to.start()));
        image.updates_elfcorehdr = request.purpose == Purpose::Crash && request.machine.elfcorehdr_size.is_some();
    }
    if request.purpose == Purpose::Return {
        // The digits are the last of the command line, which is the last of its segment.
        let end = params_at.start().saturating_add(params_len);
        settings.jump_back = end.checked_sub(17);
        image.preserves_context = true;
        segments.extend(saved_memory(&segments, purgatory_at, &limits));
    }
    image.segments = segments;
    finish(&mut image, &settings, purgatory_at, &limits)?;
    let mut notices = Vec::new();
    if request.machine.five_levels && kernel.setup.is_empty() {
        notices.push("5-level paging is on: this vmlinux starts only if it was built with X86_5LEVEL".into());
    }
    Ok(Plan { image, command_line, map, modules: Vec::new(), notices })
}

fn check_entry(request: &Request<'_>) -> Result<()> {
    let invalid = |text: &str| Err(Error::new(Kind::Invalid, text));
    if request.machine.five_levels && !request.kernel.takes_5_levels() {
        return invalid(
            "this kernel can't be entered with 5-level paging, which is on; boot the running kernel with 'no5lvl'",
        );
    }
    match request.purpose {
        Purpose::Next => Ok(()),
        _ if request.kernel.mode == EntryMode::Real => {
            invalid("a crash kernel can't be entered in real mode: the BIOS's memory belongs to the old kernel")
        }
        Purpose::Crash if request.kernel.align.is_none() => invalid(
            "this kernel is not relocatable and can't run in the reserved memory; use one built with RELOCATABLE",
        ),
        _ => Ok(()),
    }
}

fn start(kernel: &Kernel, kernel_at: u64, params_at: u64) -> Result<Start> {
    let entry = kernel_at.saturating_add(kernel.entry);
    if kernel.mode == EntryMode::Long {
        return Ok(Start::Long { entry, rsi: params_at, rdi: 0 });
    }
    match (u32::try_from(entry), u32::try_from(params_at)) {
        (Ok(entry), Ok(esi)) => Ok(Start::Protected { entry, esi, eax: 0, ebx: 0 }),
        _ => Err(Error::new(Kind::Invalid, format!("the 32-bit entry point {entry:#x} lies above 4 GiB"))),
    }
}

/// The kernel's parts at an address of our choice, or at the one they were linked for.
pub(super) fn place_kernel(kernel: &Kernel, space: &mut Space, window: Range) -> Result<Vec<Segment>> {
    let Some(align) = kernel.align else {
        let segments = parts::segments(&kernel.loads, 0, "kernel")?;
        parts::take_fixed(space, &segments)?;
        return Ok(segments);
    };
    let low = kernel.base.clamp(window.start(), window.end());
    let wish = Wish { len: kernel.len, align, window: Range::new(low, window.end()).unwrap_or(window) };
    let at = space.take("the kernel", wish)?;
    parts::segments(&kernel.loads, at.start().wrapping_sub(kernel.base), "kernel")
}

/// The machine as the kernel that is to return may see it: what lies above 1 MiB and below the window's end is its own.
fn confine(machine: &Machine, window: Range) -> Result<Machine> {
    let low = Range::new(MIB, window.end()).filter(|r| window.end() != u64::MAX && !r.is_empty());
    let own = low.and_then(|w| machine.system_ram.within(w).iter().next());
    let own = own.ok_or_else(|| {
        let text =
            "--load-preserve-context needs --mem-max=ADDR above 1 MiB: the end of the memory the next kernel gets";
        Error::new(Kind::Usage, text)
    })?;
    Ok(Machine { crash: [own].into_iter().collect(), elfcorehdr_size: None, ..machine.clone() })
}

/// Memory in no segment yet that the other kernel may write to: a segment without bytes makes the kernel save it.
fn saved_memory(segments: &[Segment], purgatory_at: Range, limits: &Limits) -> Vec<Segment> {
    let mut rest = limits.memory.clone();
    for range in segments.iter().map(|s| s.range).chain([purgatory_at]) {
        rest.remove(range);
    }
    let whole = rest.iter().map(|r| r.align_inward(PAGE_SIZE)).filter(|r| !r.is_empty());
    whole.map(|range| Segment { name: "saved", data: Bytes::default(), range }).collect()
}

pub(super) fn len_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
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
    match request.purpose {
        Purpose::Crash => {
            let area = machine.crash_area().ok_or_else(no_reservation)?;
            let memory = area.intersect(request.window).into_iter().collect();
            Ok(Limits { memory, memory_name: "the area reserved by crashkernel=", max_pages: None })
        }
        Purpose::Return => {
            let mut memory = machine.crash.clone();
            low_memory(machine, 0).iter().for_each(|r| memory.insert(r));
            let max_pages = machine.total_pages.map(|p| p / 2);
            Ok(Limits { memory, memory_name: "the RAM below --mem-max", max_pages })
        }
        Purpose::Next => {
            let mut limits = next_limits(machine, request.window);
            if request.kernel.mode == EntryMode::Real {
                low_memory(machine, real_mode::LOWEST).iter().for_each(|r| limits.memory.insert(r));
            }
            Ok(limits)
        }
    }
}

/// Where a next kernel may lie, of whatever kind.
pub(super) fn next_limits(machine: &Machine, window: Range) -> Limits {
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
    if request.purpose == Purpose::Return {
        text.push_str(JUMP_BACK);
    }
    let text = text.trim_start().to_owned();
    command_line::check(&text, 0, request.kernel.command_line_max())?;
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
    fn place(request: &Request<'_>, space: &mut Space, window: Range) -> Result<Self> {
        let machine = request.machine;
        let len = crash::elfcorehdr_len(machine).max(machine.elfcorehdr_size.unwrap_or(0));
        let elfcorehdr = space.take("the ELF core header", Wish::pages(len, window))?;
        let mut backup = None;
        if let Some(from) = crash::backup_source(machine).filter(|_| request.purpose == Purpose::Crash) {
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
        let header = crash::elfcorehdr(machine, backup.map(Range::start))?;
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
