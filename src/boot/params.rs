//! `boot_params` and what hangs on it: command line, E820 overflow, EFI and random seed
//! (`Documentation/arch/x86/zero-page.rst`; `arch/x86/kernel/kexec-bzimage64.c` fills the same fields).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::abi::bootparam::{
    LOADER_TYPE_KEXEC, SETUP_DTB, SETUP_E820_EXT, SETUP_EFI, SETUP_RNG_SEED, boot_e820_entry, boot_params, efi_info,
    efi_setup_data, setup_data, setup_header,
};
use crate::host::Machine;
use crate::host::efi::RuntimeRange;
use crate::mem::{MemoryMap, MemoryType, Range};

/// What the next kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// The image's header.
    pub header: &'a setup_header,
    /// The machine it will find.
    pub machine: &'a Machine,
    /// Memory it may use and what else there is.
    pub map: &'a MemoryMap,
    /// Its command line, without NUL.
    pub command_line: &'a str,
    /// Where its initrd lies.
    pub initrd: Option<Range>,
    /// A device tree.
    pub dtb: Option<&'a [u8]>,
    /// Whether it takes over EFI's runtime services.
    pub efi: bool,
    /// Randomness for its start.
    pub seed: Option<[u8; 32]>,
    /// Whether the screen will be in text mode, whatever the running kernel found.
    pub text_screen: bool,
}

/// The segment as it grows behind the zero page.
struct Tail {
    base: u64,
    bytes: Vec<u8>,
    first: u64,
    last_node: Option<usize>,
}

impl Tail {
    /// Puts raw bytes, 8-aligned, behind what is there; returns their address.
    fn raw(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = self.base.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX));
        self.bytes.extend_from_slice(bytes);
        address
    }

    /// Appends a node to the `setup_data` list.
    fn node(&mut self, kind: u32, data: &[u8]) {
        let len = U32::new(data.len().try_into().unwrap_or(0));
        let header = setup_data { next: U64::new(0), r#type: U32::new(kind), len };
        let address = self.raw(header.as_bytes());
        let at = self.bytes.len().saturating_sub(size_of::<setup_data>());
        self.bytes.extend_from_slice(data);
        match self.last_node.and_then(|at| self.bytes.get_mut(at..at.saturating_add(8))) {
            Some(next) => next.copy_from_slice(&address.to_le_bytes()),
            None => self.first = address,
        }
        self.last_node = Some(at);
    }
}

impl Params<'_> {
    /// The segment's bytes if it is loaded at `base`: the zero page, `setup_data`, EFI's map, the command line.
    /// Their number does not depend on `base`.
    pub fn build(&self, base: u64) -> Vec<u8> {
        let mut page = boot_params::new_zeroed();
        let mut tail = Tail { base, bytes: vec![0; size_of::<boot_params>()], first: 0, last_node: None };
        page.hdr = self.header.clone();
        page.hdr.type_of_loader = LOADER_TYPE_KEXEC;
        self.copy_from_running(&mut page);
        self.memory(&mut page, &mut tail);
        if self.efi {
            self.efi(&mut page, &mut tail);
        }
        if let Some(dtb) = self.dtb {
            tail.node(SETUP_DTB, dtb);
        }
        if let Some(seed) = &self.seed {
            tail.node(SETUP_RNG_SEED, seed);
        }
        let initrd = self.initrd.unwrap_or_default();
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = split(initrd.start());
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = split(initrd.len());
        let command_line = tail.raw(self.command_line.as_bytes());
        tail.bytes.push(0);
        (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = split(command_line);
        page.hdr.setup_data = U64::new(tail.first);
        if let Some(place) = tail.bytes.get_mut(..size_of::<boot_params>()) {
            place.copy_from_slice(page.as_bytes());
        }
        tail.bytes
    }

    /// Screen, firmware disks, Secure Boot: what only the firmware knew and the running kernel was told.
    fn copy_from_running(&self, page: &mut boot_params) {
        page.acpi_rsdp_addr = U64::new(self.machine.rsdp().unwrap_or(0));
        page.screen_info = text_screen();
        let Some(running) = &self.machine.boot_params else { return };
        if !self.text_screen {
            page.screen_info = running.screen_info;
        }
        page.edid_info = running.edid_info;
        page.secure_boot = running.secure_boot;
        page.hdr.hardware_subarch = running.hdr.hardware_subarch;
        page.eddbuf_entries = running.eddbuf_entries;
        page.edd_mbr_sig_buf_entries = running.edd_mbr_sig_buf_entries;
        page.edd_mbr_sig_buffer = running.edd_mbr_sig_buffer;
        page.eddbuf = running.eddbuf;
    }

    /// E820: 128 entries in the zero page, the rest in a `setup_data` node.
    fn memory(&self, page: &mut boot_params, tail: &mut Tail) {
        let entries: Vec<boot_e820_entry> = self.map.iter().map(entry).collect();
        let (first, rest) = entries.split_at(entries.len().min(page.e820_table.len()));
        for (slot, entry) in page.e820_table.iter_mut().zip(first) {
            *slot = *entry;
        }
        page.e820_entries = first.len().try_into().unwrap_or(u8::MAX);
        if !rest.is_empty() {
            tail.node(SETUP_E820_EXT, rest.as_bytes());
        }
        let above_1m = self.map.iter().find(|(r, t)| *t == MemoryType::Ram && r.contains(0x10_0000));
        let kib = above_1m.map_or(0, |(r, _)| r.end().saturating_sub(0x10_0000) / 1024);
        page.alt_mem_k = U32::new(kib.try_into().unwrap_or(u32::MAX));
    }

    fn efi(&self, page: &mut boot_params, tail: &mut Tail) {
        let (Some(efi), Some(running)) = (&self.machine.efi, &self.machine.boot_params) else { return };
        let size = usize::try_from(running.efi_info.efi_memdesc_size.get()).unwrap_or(0).clamp(40, 256);
        let mut map = Vec::new();
        for range in &efi.runtime {
            map.extend_from_slice(&descriptor(range));
            map.resize(map.len().saturating_sub(40).saturating_add(size), 0);
        }
        if map.is_empty() {
            return;
        }
        let (low, high) = split(tail.raw(&map));
        page.efi_info = efi_info {
            efi_memmap: low,
            efi_memmap_hi: high,
            efi_memmap_size: U32::new(map.len().try_into().unwrap_or(0)),
            efi_memdesc_size: U32::new(size.try_into().unwrap_or(48)),
            ..running.efi_info.clone()
        };
        let tables = efi_setup_data {
            fw_vendor: U64::new(efi.fw_vendor),
            __unused: U64::new(0),
            tables: U64::new(efi.config_table),
            smbios: U64::new(efi.smbios),
            reserved: [U64::new(0); 8],
        };
        tail.node(SETUP_EFI, tables.as_bytes());
    }
}

/// `screen_info` of VGA text mode 3.
fn text_screen() -> [u8; 0x40] {
    let mut info = [0; 0x40];
    for (at, value) in [(0x06, 3), (0x07, 80), (0x0e, 25), (0x0f, 1), (0x10, 16)] {
        if let Some(byte) = info.get_mut(at) {
            *byte = value;
        }
    }
    info
}

fn entry((range, kind): (Range, MemoryType)) -> boot_e820_entry {
    boot_e820_entry { addr: U64::new(range.start()), size: U64::new(range.len()), r#type: U32::new(kind.to_wire()) }
}

/// `efi_memory_desc_t`
fn descriptor(range: &RuntimeRange) -> [u8; 40] {
    let mut bytes = [0; 40];
    let words = [u64::from(range.kind), range.phys, range.virt, range.pages, range.attribute];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Low and high half of a 64-bit field that boot_params keeps in two places.
fn split(value: u64) -> (U32, U32) {
    let half = |v: u64| U32::new(u32::try_from(v & 0xffff_ffff).unwrap_or(0));
    (half(value), half(value >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::efi::Efi;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    const BASE: u64 = 0x1_2345_6000;

    fn build(change: impl Fn(&mut Machine), entries: u64) -> Vec<u8> {
        let mut machine = Machine::default();
        change(&mut machine);
        let kinds = [MemoryType::Ram, MemoryType::Nvs];
        let map =
            (0..entries).filter_map(|i| Some((Range::with_len(i << 21, 1 << 21)?, kinds[i as usize % 2]))).collect();
        let header = setup_header::new_zeroed();
        let params = Params {
            header: &header,
            machine: &machine,
            map: &map,
            command_line: "root=/dev/vda quiet",
            initrd: Range::with_len(0x2_0000_1000, 0x1_0000_0010),
            dtb: None,
            efi: true,
            seed: Some([7; 32]),
            text_screen: false,
        };
        params.build(BASE)
    }

    /// Nodes of the list, as (type, bytes), found by following the pointers.
    fn nodes(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let (mut found, mut next) = (Vec::new(), u64_at(bytes, 0x250));
        while next != 0 {
            let at = (next - BASE) as usize;
            let len = u32_at(bytes, at + 12) as usize;
            found.push((u32_at(bytes, at + 8), bytes[at + 16..at + 16 + len].to_vec()));
            next = u64_at(bytes, at);
        }
        found
    }

    #[test]
    fn fields_are_where_the_boot_protocol_says() {
        let bytes = build(|_| (), 3);
        assert_eq!((bytes[0x1e8], bytes[0x210]), (3, 0xd0));
        assert_eq!((u64_at(&bytes, 0x2d0 + 20), u32_at(&bytes, 0x2d0 + 20 + 16)), (1 << 21, 4));
        assert_eq!((u32_at(&bytes, 0x218), u32_at(&bytes, 0xc0)), (0x1000, 2), "initrd address");
        assert_eq!((u32_at(&bytes, 0x21c), u32_at(&bytes, 0xc4)), (0x10, 1), "initrd size");
        let command_line = u64::from(u32_at(&bytes, 0xc8)) << 32 | u64::from(u32_at(&bytes, 0x228));
        assert_eq!(&bytes[(command_line - BASE) as usize..], b"root=/dev/vda quiet\0");
        assert_eq!(nodes(&bytes), [(9, vec![7; 32])]);
    }

    #[test]
    fn more_than_128_entries_overflow_into_a_node() {
        let bytes = build(|_| (), 130);
        assert_eq!(bytes[0x1e8], 128);
        let found = nodes(&bytes);
        assert_eq!((found[0].0, found[0].1.len()), (1, 40));
        assert_eq!(u64_at(&found[0].1, 20), 129 << 21);
    }

    #[test]
    fn efi_runtime_map_and_tables_are_handed_on() {
        let range = RuntimeRange { kind: 5, phys: 0x7000, virt: 0xffff_fffe_f000_0000, pages: 3, attribute: 1 << 63 };
        let bytes = build(
            |m| {
                m.efi = Some(Efi { config_table: 0x99, runtime: vec![range; 2], ..Efi::default() });
                let mut running = boot_params::new_zeroed();
                running.efi_info.efi_memdesc_size = U32::new(48);
                running.efi_info.efi_loader_signature = U32::new(0x3436_4c45);
                running.acpi_rsdp_addr = U64::new(0xf_59d0);
                m.boot_params = Some(Box::new(running));
            },
            1,
        );
        assert_eq!((u32_at(&bytes, 0x1c0), u32_at(&bytes, 0x1d4)), (0x3436_4c45, 96));
        let map = (u64::from(u32_at(&bytes, 0x1dc)) << 32 | u64::from(u32_at(&bytes, 0x1d0))) - BASE;
        assert_eq!(u64_at(&bytes, map as usize + 48 + 16), 0xffff_fffe_f000_0000);
        assert_eq!(u64_at(&bytes, 0x70), 0xf_59d0);
        let found = nodes(&bytes);
        assert_eq!((found[0].0, u64_at(&found[0].1, 16)), (4, 0x99));
        assert_eq!(found[1].0, 9);
    }
}
