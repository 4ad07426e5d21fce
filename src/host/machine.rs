//! All that placing a kernel needs to know, gathered once.

use zerocopy::FromBytes;

use super::efi::{self, Efi};
use super::iomem::Iomem;
use super::kcore::{self, Layout};
use super::notes::{self, CpuNotes};
use super::{Host, firmware, state};
use crate::abi::bootparam::boot_params;
use crate::error::Result;
use crate::mem::{MemoryMap, Range, Ranges};

/// A machine as the loaders see it.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Memory as firmware described it, or as the kernel shows it where firmware's map is not kept.
    pub map: MemoryMap,
    /// Usable memory of the running kernel.
    pub system_ram: Ranges,
    /// Memory reserved for a crash kernel, ascending.
    pub crash: Ranges,
    /// Pages the kernel manages.
    pub total_pages: Option<u64>,
    /// What the running kernel was started with.
    pub boot_params: Option<Box<boot_params>>,
    /// EFI's tables.
    pub efi: Option<Efi>,
    /// Whether it is known that a BIOS started it, so that whoever wants ACPI finds it where BIOSes put it.
    pub bios: bool,
    /// Buffers for the registers of every CPU.
    pub cpu_notes: Vec<CpuNotes>,
    /// The vmcoreinfo note.
    pub vmcoreinfo: Option<Range>,
    /// The hypervisor's own.
    pub xen_vmcoreinfo: Option<Range>,
    /// The running kernel's image.
    pub kernel_image: Option<Range>,
    /// The running kernel's code.
    pub kernel_code: Option<Range>,
    /// The graphics aperture.
    pub gart: Option<Range>,
    /// Virtual addresses.
    pub layout: Layout,
    /// Bytes the kernel wants for an ELF core header that it keeps up to date itself when CPUs or memory come and go;
    /// `None` on a kernel that does not (before Linux 6.6).
    pub elfcorehdr_size: Option<u64>,
    /// Whether the running kernel, and so the way to the next one, has 5-level paging on.
    pub five_levels: bool,
    /// Whether images go to the lowest memory that is free: the highest is what the hypervisor hands out.
    pub upwards: bool,
}

impl Machine {
    /// Reads the machine. With `crash`, also what only a crash kernel needs.
    ///
    /// # Errors
    /// Files that are there but can't be read or understood.
    pub fn read(host: &Host, crash: bool) -> Result<Self> {
        let iomem = Iomem::parse(&host.text("proc/iomem")?.unwrap_or_default())?;
        let command_line = host.text("proc/cmdline")?.unwrap_or_default();
        let firmware = firmware::memory_map(host)?.filter(|_| !command_line.contains("add_efi_memmap"));
        let params = host.read("sys/kernel/boot_params/data")?;
        let mut machine = Machine {
            map: match firmware {
                Some(map) if !crash => map,
                _ => iomem.map(),
            },
            system_ram: iomem.system_ram(),
            crash: iomem.crash(),
            total_pages: state::total_pages(host),
            five_levels: state::five_levels(host),
            boot_params: params.and_then(|p| boot_params::read_from_bytes(&p).ok()).map(Box::new),
            efi: efi::read(host)?,
            kernel_image: iomem.kernel_image(),
            kernel_code: iomem.kernel_code(),
            gart: iomem.gart(),
            ..Machine::default()
        };
        if crash {
            machine.cpu_notes = notes::cpus(host)?;
            machine.vmcoreinfo = notes::vmcoreinfo(host)?;
            machine.layout = kcore::layout(host)?;
            machine.elfcorehdr_size = state::elfcorehdr_size(host)?;
        }
        Ok(machine)
    }

    /// Physical address of the ACPI RSDP: as the running kernel was told, else from EFI's table.
    pub fn rsdp(&self) -> Option<u64> {
        let told = self.boot_params.as_ref().map(|p| p.acpi_rsdp_addr.get()).filter(|a| *a != 0);
        told.or_else(|| self.efi.as_ref().and_then(|e| e.acpi_rsdp))
    }

    /// The area crash segments must lie in: the kernel accepts the last one only (`crashk_res`).
    pub fn crash_area(&self) -> Option<Range> {
        self.crash.iter().next_back()
    }
}
