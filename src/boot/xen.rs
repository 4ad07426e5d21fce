//! What Xen wants of its loader beyond multiboot: its arguments and dom0's apart, and a first page of memory that does
//! not lead it astray (`xen/arch/x86/boot/head.S`).
//!
//! Xen puts its 16-bit trampoline 64 KiB below the smaller of what the BIOS data area and the loader say of low memory,
//! and looks for ACPI's RSDP where a BIOS leaves it: in the extended BIOS data area (EBDA) or below 1 MiB. Page 0 of a
//! UEFI machine holds neither. So page 0 is written on purpose:
//!
//! ```text
//! 0x40e  u16  segment of the EBDA      a page of ours, where Xen would not find the RSDP else
//! 0x413  u16  KiB of low memory        up to that page, or what the memory map has
//! ```
//! The RSDP itself is copied there by the purgatory: the running kernel lets nobody read it.

use super::multiboot::lower_kib;
use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::image::Multiboot;
use crate::mem::{Bytes, MemoryMap, MemoryType, PAGE_SIZE, Range, Segment};

const EBDA_SEGMENT: usize = 0x40e;
const LOW_KIB: usize = 0x413;
/// Bytes below the EBDA that Xen's trampoline takes (`TRAMPOLINE_SPACE` and its stack).
const TRAMPOLINE: u64 = 0x1_0000;
/// Xen believes in an EBDA from 256 KiB on.
const LOWEST_EBDA: u64 = 0x4_0000;
const LOW_END: u64 = 0xa_0000;
/// Bytes of an RSDP of revision 2 (ACPI specification, section 5.2.5.3); one of revision 0 has fewer.
const RSDP_LEN: u64 = 36;

/// Whether a multiboot kernel is Xen, told by its banner.
pub fn is_xen(kernel: &Multiboot) -> bool {
    const BANNER: &[u8] = b"Xen version %d.%d";
    kernel.loads.iter().any(|l| l.data.windows(BANNER.len()).any(|w| w == BANNER))
}

/// Xen's command line and dom0's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The hypervisor's.
    pub xen: String,
    /// Those of dom0's kernel.
    pub dom0: String,
}

/// Splits `XEN_ARGS -- DOM0_ARGS`, and adds `no-real-mode` where nothing says whether Xen may call the BIOS: behind
/// another kernel it may not.
pub fn arguments(text: &str, notices: &mut Vec<String>) -> Arguments {
    let padded = format!(" {text} ");
    let (xen, dom0) = padded.split_once(" -- ").unwrap_or((&padded, ""));
    let (mut xen, dom0) = (xen.trim().to_owned(), dom0.trim().to_owned());
    let decided = |w: &str| w == "no-real-mode" || w.starts_with("tboot=");
    if !xen.split(' ').any(decided) {
        notices.push("'no-real-mode' is added to Xen's command line: its BIOS calls fail behind another kernel".into());
        xen.insert_str(0, if xen.is_empty() { "no-real-mode" } else { "no-real-mode " });
    }
    Arguments { xen, dom0 }
}

/// What is done below 1 MiB.
#[derive(Debug)]
pub struct Low {
    /// Page 0, and the EBDA's if there is one.
    pub segments: Vec<Segment>,
    /// The machine's memory without the EBDA's page.
    pub map: MemoryMap,
    /// KiB of low memory left to Xen.
    pub lower_kib: u32,
    /// What dom0 must be told because it can't see what Xen sees.
    pub dom0_arguments: String,
    /// The RSDP, and where the purgatory copies it to.
    pub rsdp: Option<(Range, u64)>,
}

/// Decides how Xen finds low memory and ACPI.
///
/// # Errors
/// [`Kind::Invalid`] if there is no low memory for Xen's trampoline.
pub fn low_memory(machine: &Machine, notices: &mut Vec<String>) -> Result<Low> {
    let mut low = Low {
        segments: Vec::new(),
        map: machine.map.clone(),
        lower_kib: lower_kib(&machine.map),
        dom0_arguments: String::new(),
        rsdp: None,
    };
    let scanned = Range::new(0xe_0000, 0x10_0000).unwrap_or_default();
    let mut ebda = 0;
    match machine.rsdp() {
        Some(at) if scanned.contains(at) => {}
        // In the BIOS's own EBDA.
        Some(at) if (LOWEST_EBDA..LOW_END).contains(&at) => ebda = at >> 4,
        Some(at) => {
            low.dom0_arguments = format!("acpi_rsdp={at:#x}");
            match Range::with_len(at, RSDP_LEN).filter(|r| r.end() <= 1 << 32) {
                Some(table) => ebda = shadow(machine, table, &mut low)? >> 4,
                None => notices.push(format!("Xen will find no ACPI and so one CPU only: the RSDP is at {at:#x}")),
            }
        }
        None if machine.bios => {}
        None => notices.push("Xen may find no ACPI: the running kernel does not say where the RSDP is".into()),
    }
    if u64::from(low.lower_kib) * 1024 < LOWEST_EBDA {
        let text = format!(
            "the memory map has {} KiB of RAM at address 0; Xen's trampoline needs it up to 256 KiB at least",
            low.lower_kib
        );
        return Err(Error::new(Kind::Invalid, text));
    }
    let mut page = vec![0; 0x1000];
    for (at, value) in [(EBDA_SEGMENT, ebda), (LOW_KIB, low.lower_kib.into())] {
        let half = u16::try_from(value).unwrap_or(0).to_le_bytes();
        if let Some(place) = at.checked_add(2).and_then(|end| page.get_mut(at..end)) {
            place.copy_from_slice(&half);
        }
    }
    let first = Range::new(0, PAGE_SIZE).unwrap_or_default();
    low.segments.insert(0, Segment { name: "bios data", data: page.into(), range: first });
    Ok(low)
}

/// Finds a page of low memory that Xen is to take for the EBDA, with the RSDP in it; returns its address.
fn shadow(machine: &Machine, rsdp: Range, low: &mut Low) -> Result<u64> {
    let ram = machine.map.ram();
    let fits = |page: u64| {
        let needed = Range::new(page.saturating_sub(TRAMPOLINE), page.saturating_add(PAGE_SIZE));
        needed.is_some_and(|n| ram.contains_range(n))
    };
    let mut pages = ((LOWEST_EBDA + TRAMPOLINE) >> 12..LOW_END >> 12).rev().map(|number| number << 12);
    let page = pages.find(|p| fits(*p)).ok_or_else(|| {
        let text = "the memory map has no 68 KiB of RAM between 256 and 640 KiB, which Xen needs to find ACPI";
        Error::new(Kind::Invalid, text)
    })?;
    let range = Range::with_len(page, PAGE_SIZE).unwrap_or_default();
    // The first byte of an EBDA is its size in KiB; the RSDP stands at a multiple of 16.
    let mut bytes = vec![0; 16];
    if let Some(size) = bytes.first_mut() {
        *size = 4;
    }
    low.rsdp = Some((rsdp, page.saturating_add(16)));
    low.segments.push(Segment { name: "ebda", data: Bytes::from(bytes), range });
    low.map = reserve(&machine.map, range);
    low.lower_kib = u32::try_from(page / 1024).unwrap_or(0);
    Ok(page)
}

/// `map` with `range` reserved.
fn reserve(map: &MemoryMap, range: Range) -> MemoryMap {
    let before = |r: Range| Range::new(r.start(), r.end().min(range.start().max(r.start())));
    let after = |r: Range| Range::new(r.start().max(range.end().min(r.end())), r.end());
    let split = map.iter().flat_map(|(r, kind)| match kind {
        MemoryType::Ram if r.overlaps(range) => {
            [before(r), after(r)].into_iter().flatten().map(|part| (part, kind)).collect::<Vec<_>>()
        }
        _ => vec![(r, kind)],
    });
    split.chain([(range, MemoryType::Reserved)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::bootparam::boot_params;
    use zerocopy::FromZeros;

    #[test]
    fn arguments_are_split_at_the_first_pair_of_dashes() {
        for (text, xen, dom0, added) in [
            ("no-real-mode com1=115200 -- root=/dev/x ro", "no-real-mode com1=115200", "root=/dev/x ro", false),
            ("-- root=/dev/x", "no-real-mode", "root=/dev/x", true),
            ("--", "no-real-mode", "", true),
            ("", "no-real-mode", "", true),
            ("dom0_mem=1G --", "no-real-mode dom0_mem=1G", "", true),
            ("tboot=0x1 -- a -- b", "tboot=0x1", "a -- b", false),
            ("loglvl=all console=com1", "no-real-mode loglvl=all console=com1", "", true),
            ("a=--x --y", "no-real-mode a=--x --y", "", true),
        ] {
            let mut notices = Vec::new();
            let expected = Arguments { xen: xen.into(), dom0: dom0.into() };
            assert_eq!(arguments(text, &mut notices), expected, "{text}");
            assert_eq!(notices.len(), usize::from(added), "{text}");
        }
    }

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).expect("ordered")
    }

    fn machine(rsdp: u64) -> Machine {
        let mut params = boot_params::new_zeroed();
        params.acpi_rsdp_addr = rsdp.into();
        Machine {
            map: [(range(0, 0x9_8000), MemoryType::Ram), (range(0x10_0000, 0x4000_0000), MemoryType::Ram)]
                .into_iter()
                .collect(),
            boot_params: Some(Box::new(params)),
            ..Machine::default()
        }
    }

    fn words(low: &Low) -> [u16; 2] {
        let page = &low.segments[0];
        assert_eq!((page.range, page.data.len()), (range(0, 0x1000), 0x1000));
        [EBDA_SEGMENT, LOW_KIB].map(|at| u16::from_le_bytes([page.data[at], page.data[at + 1]]))
    }

    #[test]
    fn a_bios_rsdp_is_found_by_xen_itself() {
        let mut notices = Vec::new();
        let low = low_memory(&machine(0xf_59d0), &mut notices).expect("decided");
        assert_eq!((words(&low), low.lower_kib, low.segments.len()), ([0, 0x260], 0x260, 1));
        assert_eq!((low.dom0_arguments.as_str(), notices.len()), ("", 0));
        let low = low_memory(&machine(0x9_7c40), &mut notices).expect("decided");
        assert_eq!(words(&low), [0x97c4, 0x260]);
        let unknown = Machine { bios: true, ..machine(0) };
        assert_eq!(words(&low_memory(&unknown, &mut notices).expect("decided")), [0, 0x260]);
        assert!(notices.is_empty(), "{notices:?}");
    }

    #[test]
    fn an_efi_rsdp_is_copied_to_a_page_that_stands_for_the_ebda() {
        let mut notices = Vec::new();
        let low = low_memory(&machine(0x3f77_e014), &mut notices).expect("decided");
        assert_eq!((words(&low), low.lower_kib), ([0x9700, 0x25c], 0x25c));
        assert_eq!(low.segments[1].range, range(0x9_7000, 0x9_8000));
        assert_eq!(low.rsdp, Some((range(0x3f77_e014, 0x3f77_e038), 0x9_7010)));
        assert_eq!(low.dom0_arguments, "acpi_rsdp=0x3f77e014");
        let map: Vec<String> = low.map.iter().map(|(r, t)| format!("{r} {t}")).collect();
        assert_eq!(map, ["0x0-0x97000 RAM", "0x97000-0x98000 reserved", "0x100000-0x40000000 RAM"]);
        assert!(notices.is_empty());
    }

    #[test]
    fn what_xen_will_miss_is_said() {
        for (machine, text) in
            [(machine(0x1_3f77_e014), "no ACPI"), (Machine { boot_params: None, ..machine(0) }, "may find no ACPI")]
        {
            let mut notices = Vec::new();
            low_memory(&machine, &mut notices).expect("decided");
            assert!(notices[0].contains(text), "{notices:?}");
        }
        let mut small = machine(0xf_59d0);
        small.map = [(range(0, 0x2_0000), MemoryType::Ram)].into_iter().collect();
        let e = low_memory(&small, &mut Vec::new()).expect_err("refused").to_string();
        assert!(e.contains("has 128 KiB of RAM"), "{e}");
    }
}
