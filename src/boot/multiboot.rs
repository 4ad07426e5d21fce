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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::bootparam::boot_params;
    use crate::image::elf::Load;
    use crate::image::multiboot::Relocatable;
    use crate::mem::MemoryType;
    use zerocopy::FromZeros;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).expect("ordered")
    }

    fn machine() -> Machine {
        let mut params = boot_params::new_zeroed();
        params.acpi_rsdp_addr = 0xf_59d0.into();
        // A framebuffer of 1024 by 768 pixels: screen_info's fields by their offsets.
        let fields: [(usize, &[u8]); 6] = [
            (0x0f, &[0x70]),
            (0x12, &[0, 4, 0, 3, 32, 0]),
            (0x18, &[0, 0, 0, 0x80]),
            (0x24, &[0, 16]),
            (0x26, &[8, 16, 8, 8, 8, 0, 8, 24]),
            (0x36, &[0, 0]),
        ];
        for (at, bytes) in fields {
            params.screen_info[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Machine {
            map: [
                (range(0, 0x9_fc00), MemoryType::Ram),
                (range(0xf_0000, 0x10_0000), MemoryType::Reserved),
                (range(0x10_0000, 0x4000_0000), MemoryType::Ram),
                (range(0x1_0000_0000, 0x2_0000_0000), MemoryType::Ram),
                (range(0x2_0000_0000, 0x2_1000_0000), MemoryType::Pmem),
            ]
            .into_iter()
            .collect(),
            boot_params: Some(Box::new(params)),
            ..Machine::default()
        }
    }

    fn kernel(version: Version) -> Multiboot {
        let relocatable =
            (version == Version::Two).then_some(Relocatable { min: 0x20_0000, end: 1 << 32, align: 0x20_0000 });
        Multiboot {
            version,
            entry: 0x40_0010,
            loads: vec![Load { phys: 0x40_0000, virt: 0, len: 0x30_0000, data: vec![1; 0x100].into() }],
            relocatable,
            wants_framebuffer: true,
        }
    }

    fn module(text: &str, len: usize) -> Module {
        Module { data: vec![7; len].into(), text: text.into() }
    }

    fn plan_of(version: Version, xen: bool, command_line: &str, modules: Vec<Module>) -> Result<Plan> {
        plan(Request {
            kernel: &kernel(version),
            name: "/boot/a kernel",
            command_line,
            modules,
            machine: &machine(),
            window: range(0, u64::MAX),
            purgatory: Settings::default(),
            xen,
        })
    }

    fn segment<'a>(plan: &'a Plan, name: &str) -> &'a Segment {
        plan.image.segments.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn text_at(bytes: &[u8], at: usize) -> String {
        bytes[at..].iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect()
    }

    /// Tags of version 2: type and content.
    fn tags_of(info: &[u8]) -> Vec<(u32, Vec<u8>)> {
        assert_eq!(u32_at(info, 0) as usize, info.len(), "total_size");
        let (mut at, mut found) = (8, Vec::new());
        loop {
            let (kind, size) = (u32_at(info, at), u32_at(info, at + 4) as usize);
            found.push((kind, info[at + 8..at + size].to_vec()));
            if kind == 0 {
                assert_eq!(at + 8, info.len());
                return found;
            }
            at += size.next_multiple_of(8);
        }
    }

    #[test]
    fn case_11_trap_j_k_xen_with_its_modules_by_version_2() {
        let modules = vec![module("vmlinuz root=x", 0x1234), module("initrd", 5)];
        let plan = plan_of(Version::Two, true, "no-real-mode console=com1", modules).expect("a plan");
        let [kernel, info] = ["kernel", "info"].map(|name| segment(&plan, name));
        assert_eq!(kernel.range, range(0x20_0000, 0x50_0000), "lowest, at a multiple of 2 MiB");
        // Trap j: not in page 0. Trap k: the load base is the kernel's, and every address fits 32 bits.
        assert!(info.range.start() >= MIB && info.range.start() % 8 == 0);
        let tags = tags_of(&info.data);
        let tag = |kind: u32| tags.iter().filter(|(k, _)| *k == kind).map(|(_, c)| c.clone()).collect::<Vec<_>>();
        assert_eq!(tag(21), [0x20_0000u32.to_le_bytes()]);
        assert_eq!(text_at(&tag(1)[0], 0), "/boot/a_kernel no-real-mode console=com1");
        assert!(!text_at(&tag(2)[0], 0).starts_with("GRUB"));
        let told: Vec<(u32, u32, String)> =
            tag(3).iter().map(|m| (u32_at(m, 0), u32_at(m, 4) - u32_at(m, 0), text_at(m, 8))).collect();
        let names: Vec<&str> = told.iter().map(|t| t.2.as_str()).collect();
        assert_eq!(names, ["vmlinuz root=x", "initrd"]);
        assert_eq!((told[0].1, told[1].1, told[0].0 % 4096, told[1].0 % 4096), (0x1234, 5, 0, 0));
        assert_eq!((u32_at(&tag(4)[0], 0), u32_at(&tag(4)[0], 4)), (639, (0x4000_0000 - 0x10_0000) / 1024));
        let map = &tag(6)[0];
        assert_eq!((u32_at(map, 0), map.len()), (24, 8 + 24 * 5));
        assert_eq!(u32_at(map, 8 + 24 * 4 + 16), 2, "persistent memory is reserved");
        let screen = &tag(8)[0];
        assert_eq!((u32_at(screen, 0), u32_at(screen, 8), u32_at(screen, 12)), (0x8000_0000, 4096, 1024));
        assert_eq!(screen[20..30], [32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
        let page = segment(&plan, "bios data");
        assert_eq!((page.range.start(), &page.data[0x413..0x415]), (0, &[0x7f, 2][..]));
        assert_eq!(plan.image.segments.len(), 6);
        assert!(plan.notices.is_empty());
    }

    #[test]
    fn case_12_and_13_the_command_line_is_split_by_the_loader() {
        let plan = |text: &str| plan_of(Version::Two, true, text, vec![module("vmlinuz", 1)]).expect("a plan");
        let split = plan("no-real-mode -- root=/dev/x ro");
        assert_eq!(
            (split.command_line.as_str(), split.modules),
            ("no-real-mode", vec!["vmlinuz root=/dev/x ro".into()])
        );
        assert!(split.notices.is_empty());
        let empty = plan("-- root=/dev/x");
        assert_eq!((empty.command_line.as_str(), empty.modules), ("no-real-mode", vec!["vmlinuz root=/dev/x".into()]));
        assert!(empty.notices[0].contains("'no-real-mode' is added"));
        assert!(plan_of(Version::Two, true, "", Vec::new()).expect_err("no dom0").to_string().contains("--vmm=XEN"));
    }

    #[test]
    fn version_1_is_told_by_absolute_addresses() {
        let modules = vec![module("first a b", 0x1001), module("second", 1)];
        let plan = plan_of(Version::One, false, "x -- y", modules).expect("a plan");
        assert_eq!(segment(&plan, "kernel").range.start(), 0x40_0000, "where it was linked for");
        assert_eq!(plan.command_line, "x -- y", "split for Xen only");
        assert!(!plan.image.segments.iter().any(|s| s.range.start() < MIB), "low memory is left to what is there");
        let info = segment(&plan, "info");
        let (bytes, base) = (&info.data, info.range.start() as usize);
        let at = |field: usize| u32_at(bytes, field) as usize - base;
        assert_eq!(u32_at(bytes, 0), 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9 | 1 << 12);
        assert_eq!(text_at(bytes, at(16)), "/boot/a_kernel x -- y");
        let modules = at(24);
        assert_eq!(u32_at(bytes, 20), 2);
        let second = modules + 16;
        assert_eq!(u32_at(bytes, modules + 4) - u32_at(bytes, modules), 0x1001);
        assert_eq!(text_at(bytes, u32_at(bytes, second + 8) as usize - base), "second");
        assert_eq!((u32_at(bytes, 44), u32_at(bytes, at(48))), (24 * 5, 20));
        assert_eq!((u32_at(bytes, 88), bytes[108], bytes[109], bytes[110]), (0x8000_0000, 32, 1, 16));
    }

    #[test]
    fn trap_l_what_does_not_fit_is_refused() {
        // More segments than kexec_load takes are refused, not written behind the end of a table.
        let many = (0..15).map(|n| module(&n.to_string(), 1)).collect();
        let e = plan_of(Version::Two, false, "", many).expect_err("refused").to_string();
        assert!(e.contains("17 segments to verify; the purgatory holds 16"), "{e}");
        let mut small = machine();
        small.map = [
            (range(0x10_0000, 0x1_0000_0000), MemoryType::Reserved),
            (range(0x1_0000_0000, 0x2_0000_0000), MemoryType::Ram),
        ]
        .into_iter()
        .collect();
        let request = Request {
            kernel: &kernel(Version::Two),
            name: "k",
            command_line: "",
            modules: Vec::new(),
            machine: &small,
            window: range(0, u64::MAX),
            purgatory: Settings::default(),
            xen: false,
        };
        assert!(plan(request).expect_err("refused").to_string().contains("in RAM below 4 GiB"));
    }
}
