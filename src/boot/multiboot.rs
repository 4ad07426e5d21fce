//! A multiboot kernel with its modules, entered in 32-bit mode. Xen is one; what only Xen wants is in `xen.rs`.
//!
//! ```text
//! from the bottom up, above 1 MiB and below 4 GiB
//!   kernel      where it was linked for, or moved if its header allows
//!   modules     whole pages, in their order: dom0's kernel, its initrd, ...
//!   info        command line, modules, memory, screen
//!   purgatory
//! below 1 MiB   Xen only: page 0 (BIOS data area), and a page that stands for the BIOS's extended one
//! ```

use super::linux::{Plan, len_of, next_limits};
use super::multiboot_info::{Info, Screen};
use super::place::{Space, Wish};
use super::purgatory::{self, Settings, Start};
use super::{finish, parts, xen};
use crate::abi::multiboot::{BOOTLOADER_MAGIC, BOOTLOADER_MAGIC2};
use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::image::Multiboot;
use crate::image::multiboot::Version;
use crate::mem::{Bytes, Image, MIB, MemoryMap, Range, Segment};

const GIB_4: u64 = 1 << 32;

/// A module: its bytes, and the text that begins with its name.
#[derive(Clone, Debug)]
pub struct Module {
    /// What is in memory.
    pub data: Bytes,
    /// Name and arguments.
    pub text: String,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The kernel.
    pub kernel: &'a Multiboot,
    /// Its name: the first word it is told.
    pub name: &'a str,
    /// Its arguments. For Xen those of dom0's kernel may follow behind ` -- `.
    pub command_line: &'a str,
    /// Its modules.
    pub modules: Vec<Module>,
    /// The machine.
    pub machine: &'a Machine,
    /// Physical memory segments may lie in.
    pub window: Range,
    /// How the purgatory talks and whether it verifies.
    pub purgatory: Settings,
    /// Whether the kernel is Xen.
    pub xen: bool,
}

/// Places everything and checks it against every rule of the kernel.
///
/// # Errors
/// [`Kind::Invalid`] for what does not fit or contradicts itself.
pub fn plan(request: Request<'_>) -> Result<Plan> {
    let Request { kernel, machine, window, mut modules, .. } = request;
    let below_4g = Range::new(0, GIB_4).and_then(|r| r.intersect(window)).unwrap_or_default();
    let mut limits = next_limits(machine, below_4g);
    let mut map = machine.map.clone();
    let mut notices = Vec::new();
    let mut command_line = request.command_line.to_owned();
    let mut segments = Vec::new();
    let mut rsdp = None;
    let mut lower_kib = lower_kib(&map);
    if request.xen {
        let arguments = xen::arguments(&command_line, &mut notices);
        command_line = arguments.xen;
        let low = xen::low_memory(machine, &mut notices)?;
        let Some(dom0) = modules.first_mut() else {
            let text = "Xen needs dom0's kernel: give it as --module=\"VMLINUZ ARGS\", or use --vmm=XEN VMLINUZ";
            return Err(Error::new(Kind::Invalid, text));
        };
        for words in [arguments.dom0, low.dom0_arguments] {
            dom0.text.push_str(if words.is_empty() { "" } else { " " });
            dom0.text.push_str(&words);
        }
        (map, lower_kib) = (low.map, low.lower_kib);
        rsdp = low.rsdp;
        low.segments.iter().for_each(|s| limits.memory.insert(s.range));
        segments = low.segments;
    }
    let mut space = Space::new(limits.memory.clone(), "RAM below 4 GiB").upwards();
    segments.iter().for_each(|s| space.keep(s.range));
    let (parts, delta) = place_kernel(kernel, &mut space)?;
    let entry = kernel.entry.wrapping_add(delta);
    let load_base = parts.first().map(|s| s.range.start()).filter(|_| kernel.relocatable.is_some());
    segments.extend(parts);
    let above = Range::new(MIB, GIB_4).unwrap_or_default();
    let mut told = Vec::new();
    for module in modules {
        let name = module.text.split(' ').next().unwrap_or_default();
        let range = space.take(&format!("the module {name}"), Wish::pages(len_of(module.data.len()), above))?;
        told.push((Range::with_len(range.start(), len_of(module.data.len())).unwrap_or(range), module.text));
        segments.push(Segment { name: "module", data: module.data, range });
    }
    let whole = [request.name.replace(' ', "_"), command_line.clone()].join(" ");
    let text_screen = request.purgatory.reset_vga || request.purgatory.console_vga;
    let info = Info {
        command_line: whole.trim_end(),
        modules: &told,
        map: &map,
        lower_kib,
        screen: kernel.wants_framebuffer.then(|| screen(machine, text_screen)).flatten(),
        load_base,
    };
    let wish = Wish::pages(len_of(info.build(kernel.version, 0).len()), above);
    let info_at = space.take("the multiboot information", wish)?;
    let data = info.build(kernel.version, info_at.start()).into();
    segments.push(Segment { name: "info", data, range: info_at });
    let purgatory_at = space.take("the purgatory", Wish::pages(len_of(purgatory::len()), above))?;
    let mut settings = request.purgatory;
    settings.copy = rsdp;
    settings.start = start(kernel.version, entry, info_at.start())?;
    let mut image = Image { segments, ..Image::default() };
    finish(&mut image, &settings, purgatory_at, &limits)?;
    let modules = told.into_iter().map(|(_, text)| text).collect();
    Ok(Plan { image, command_line, map, modules, notices })
}

fn start(version: Version, entry: u64, info: u64) -> Result<Start> {
    let eax = if version == Version::Two { BOOTLOADER_MAGIC2 } else { BOOTLOADER_MAGIC };
    match (u32::try_from(entry), u32::try_from(info)) {
        (Ok(entry), Ok(ebx)) => Ok(Start::Protected { entry, esi: 0, eax, ebx }),
        _ => Err(Error::new(Kind::Invalid, format!("the multiboot kernel's entry point {entry:#x} lies above 4 GiB"))),
    }
}

/// The kernel's segments, and how far it was moved (modulo 2^64).
fn place_kernel(kernel: &Multiboot, space: &mut Space) -> Result<(Vec<Segment>, u64)> {
    let start = kernel.loads.first().map_or(0, |l| l.phys);
    let end = kernel.loads.last().map_or(0, |l| l.phys.saturating_add(l.len));
    let mut delta = 0;
    if let Some(rule) = kernel.relocatable {
        let window = Range::new(rule.min.max(MIB), rule.end.max(rule.min.max(MIB))).unwrap_or_default();
        let at = space.take("the kernel", Wish { len: end.saturating_sub(start), align: rule.align, window })?;
        delta = at.start().wrapping_sub(start);
    }
    let segments = parts::segments(&kernel.loads, delta, "kernel")?;
    if kernel.relocatable.is_none() {
        parts::take_fixed(space, &segments)?;
    }
    Ok((segments, delta))
}

fn screen(machine: &Machine, text: bool) -> Option<Screen> {
    if text { Some(Screen::text()) } else { Screen::running(machine.boot_params.as_deref()?) }
}

/// KiB of RAM that begin at or near 0 and end below 640 KiB.
pub(super) fn lower_kib(map: &MemoryMap) -> u32 {
    let ram = map.ram();
    let low = ram.iter().find(|r| r.start() <= 0x1_0000).map_or(0, |r| r.end().min(0xa_0000));
    u32::try_from(low / 1024).unwrap_or(640)
}
