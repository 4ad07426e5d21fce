//! What an EFI kernel hands to the next one: its table addresses and the runtime memory map
//! (`Documentation/ABI/testing/sysfs-firmware-efi*`).

use super::{Host, parse_number};
use crate::error::Result;

/// One range of EFI runtime memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeRange {
    /// EFI memory type.
    pub kind: u32,
    /// Physical address.
    pub phys: u64,
    /// Where the running kernel mapped it; the next one must map it there again.
    pub virt: u64,
    /// 4 KiB pages.
    pub pages: u64,
    /// EFI memory attributes.
    pub attribute: u64,
}

/// Addresses in EFI's system table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Efi {
    /// Physical address of the vendor string.
    pub fw_vendor: u64,
    /// Physical address of the configuration tables.
    pub config_table: u64,
    /// Physical address of the SMBIOS entry point, 0 if unknown.
    pub smbios: u64,
    /// Physical address of the ACPI RSDP, if the table names one.
    pub acpi_rsdp: Option<u64>,
    /// Runtime memory.
    pub runtime: Vec<RuntimeRange>,
}

/// EFI's part of the machine; `None` if it was not started by EFI or runs without its services.
///
/// # Errors
/// Files that hold no numbers.
pub fn read(host: &Host) -> Result<Option<Efi>> {
    let Some(systab) = host.text("sys/firmware/efi/systab")? else { return Ok(None) };
    let mut efi = Efi {
        fw_vendor: host.number("sys/firmware/efi/fw_vendor")?.unwrap_or(0),
        config_table: host.number("sys/firmware/efi/config_table")?.unwrap_or(0),
        ..Efi::default()
    };
    for line in systab.lines() {
        match line.split_once('=') {
            Some(("SMBIOS3" | "SMBIOS", value)) if efi.smbios == 0 => efi.smbios = parse_number(value).unwrap_or(0),
            Some(("ACPI20", value)) => efi.acpi_rsdp = parse_number(value),
            Some(("ACPI", value)) if efi.acpi_rsdp.is_none() => efi.acpi_rsdp = parse_number(value),
            _ => {}
        }
    }
    for (_, dir) in host.numbered("sys/firmware/efi/runtime-map", "")? {
        let field = |name: &str| Ok(host.number(&format!("{dir}/{name}"))?.unwrap_or(0));
        efi.runtime.push(RuntimeRange {
            kind: u32::try_from(field("type")?).unwrap_or(0),
            phys: field("phys_addr")?,
            virt: field("virt_addr")?,
            pages: field("num_pages")?,
            attribute: field("attribute")?,
        });
    }
    Ok(Some(efi))
}
