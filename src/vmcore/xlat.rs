//! Virtual to physical addresses of a crashed x86_64 kernel (Intel SDM volume 3, 4.5; arch/x86/include/asm/pgtable_types.h).
//!
//! Page tables first (4 or 5 levels, any leaf size), then what the PT_LOADs say, then the kernel image's fixed offset.
//! Under Xen one hop more: dom0's page tables hold machine addresses, but where its image lies it knows in its own
//! pseudo-physical ones, which [`P2m`] leads on from.

use super::elf::{KERNEL_IMAGE, Load};
use super::le::{index, wide};
use super::p2m::P2m;
use super::vmcoreinfo::VmcoreInfo;
use super::xen::Xen;
use super::{Fault, PhysMem, Vmcore};
use crate::mem::{PhysAddr, Range, VirtAddr};

/// Bits 51..12 of an entry.
const ENTRY_ADDR: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
/// "This entry is a page": 1 GiB in a PUD, 2 MiB in a PMD, reserved above.
const PAGE_SIZE_BIT: u64 = 1 << 7;

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its physical address.
    pub phys: PhysAddr,
    /// Bytes from there to the end of the page that maps it.
    pub len: u64,
}

/// The kernel half of a crashed kernel's address space, or the hypervisor's.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    p2m: Option<P2m>,
    root: Option<u64>,
    levels: u32,
    address_mask: u64,
    phys_base: u64,
    loads: Vec<(u64, Range)>,
}

/// An entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 for an entry of the lowest table, whose pages have 4 KiB; 5 at most.
    pub level: u32,
    /// Where it is.
    pub at: PhysAddr,
    /// What it holds.
    pub value: u64,
}

impl AddressSpace {
    /// From what the vmcore says about itself. Without a page table's address only PT_LOADs and image are left.
    pub fn new(info: &VmcoreInfo, loads: &[Load], phys_base: Option<u64>) -> Self {
        let image = loads.iter().find(|l| l.vaddr >= KERNEL_IMAGE);
        let phys_base = phys_base
            .unwrap_or_else(|| image.map_or(0, |l| l.phys.start().wrapping_sub(l.vaddr.wrapping_sub(KERNEL_IMAGE))));
        let sme_mask = info.number("sme_mask").unwrap_or(0);
        let root = ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"].iter().find_map(|s| info.symbol(s));
        Self {
            p2m: None,
            root: root.map(|va| va.wrapping_sub(KERNEL_IMAGE).wrapping_add(phys_base) & !sme_mask & ENTRY_ADDR),
            levels: if info.number("pgtable_l5_enabled") == Some(1) { 5 } else { 4 },
            address_mask: ENTRY_ADDR & !sme_mask,
            phys_base,
            loads: loads.iter().filter(|l| l.vaddr != 0).map(|l| (l.vaddr, l.phys)).collect(),
        }
    }

    /// That of the Linux kernel in `core`, be it on the machine or in dom0.
    pub fn of(core: &Vmcore, info: &VmcoreInfo) -> Self {
        match core.xen() {
            None => Self::new(info, core.loads(), core.phys_base()),
            // Only an image segment can be dom0's: the others' p_vaddr is that of machine memory nobody mapped there.
            Some(xen) => {
                let image: Vec<Load> = core.loads().iter().filter(|l| l.vaddr >= KERNEL_IMAGE).copied().collect();
                let mut space = Self::new(info, &image, core.phys_base());
                let mem = core.reader();
                let list = xen.crash.map(|c| c.dom0_pfn_to_mfn_frame_list_list.get());
                space.p2m = list.and_then(|root| P2m::find(&mem, root));
                space.root = space.root.and_then(|root| space.p2m?.machine(&mem, PhysAddr(root))).map(|at| at.0);
                space
            }
        }
    }

    /// That of the hypervisor. Its page tables alone count: they know every layout a build may have.
    pub fn of_xen(xen: &Xen) -> Self {
        Self {
            p2m: None,
            root: xen.page_table().map(|at| at.0),
            levels: 4,
            address_mask: ENTRY_ADDR,
            phys_base: 0,
            loads: Vec::new(),
        }
    }

    /// The way from page frames to machine frames, if they differ.
    pub const fn p2m(&self) -> Option<&P2m> {
        self.p2m.as_ref()
    }

    /// Where `va` leads.
    ///
    /// # Errors
    /// [`Fault::NotMapped`] if no way knows it.
    pub fn translate(&self, mem: &dyn PhysMem, va: VirtAddr) -> Result<Mapped, Fault> {
        let walked = self.walk(mem, va.0, &mut |_| ());
        walked.or_else(|| self.by_load(va.0)).or_else(|| self.by_image(mem, va.0)).ok_or(Fault::NotMapped(va.0))
    }

    /// The entries of the page tables that lead to `va`, from the root's to the one that maps a page or nothing.
    pub fn entries(&self, mem: &dyn PhysMem, va: VirtAddr) -> Vec<Entry> {
        let mut entries = Vec::new();
        let _ = self.walk(mem, va.0, &mut |entry| entries.push(entry));
        entries
    }

    /// Page tables. Depth is bounded by the levels, so a table that points at itself ends like any other.
    fn walk(&self, mem: &dyn PhysMem, va: u64, seen: &mut dyn FnMut(Entry)) -> Option<Mapped> {
        let sign_bits = va.cast_signed() >> if self.levels == 5 { 56 } else { 47 };
        if !matches!(sign_bits, 0 | -1) {
            return None;
        }
        let mut table = self.root?;
        for level in (1..=self.levels).rev() {
            let shift = level.wrapping_sub(1).wrapping_mul(9).wrapping_add(12);
            let slot = (va >> shift) & 511;
            let mut entry = [0u8; 8];
            let at = PhysAddr(table.wrapping_add(slot.wrapping_mul(8)));
            mem.read(at, &mut entry).ok()?;
            let entry = u64::from_le_bytes(entry);
            seen(Entry { level, at, value: entry });
            if entry & PRESENT == 0 {
                return None;
            }
            let leaf = level == 1 || entry & PAGE_SIZE_BIT != 0;
            if leaf {
                // A page bit above 1 GiB is reserved, and so are address bits below a large page's size.
                let offset_mask = 1u64.checked_shl(shift)?.wrapping_sub(1);
                let base = entry & self.address_mask & !offset_mask;
                // Bit 12 of a large page's entry is its PAT bit, not part of the address.
                let reserved = entry & self.address_mask & offset_mask & !0x1fff;
                if level > 3 || (level > 1 && reserved != 0) {
                    return None;
                }
                let offset = va & offset_mask;
                return Some(Mapped {
                    phys: PhysAddr(base | offset),
                    len: offset_mask.wrapping_sub(offset).saturating_add(1),
                });
            }
            table = entry & self.address_mask;
        }
        None
    }

    fn by_load(&self, va: u64) -> Option<Mapped> {
        self.loads.iter().find_map(|(start, phys)| {
            let skip = va.checked_sub(*start).filter(|s| *s < phys.len())?;
            Some(Mapped { phys: PhysAddr(phys.start().wrapping_add(skip)), len: phys.len().wrapping_sub(skip) })
        })
    }

    fn by_image(&self, mem: &dyn PhysMem, va: u64) -> Option<Mapped> {
        let offset = va.checked_sub(KERNEL_IMAGE)?;
        let phys = offset.wrapping_add(self.phys_base);
        let phys = match &self.p2m {
            Some(p2m) => p2m.machine(mem, PhysAddr(phys))?.0,
            None => phys,
        };
        // The image area has 1 GiB; one page at a time, for nothing proves more.
        (offset < 1 << 30).then_some(Mapped { phys: PhysAddr(phys), len: 4096u64.wrapping_sub(phys & 4095) })
    }

    /// Fills `buf` from the virtual address `va` on.
    ///
    /// # Errors
    /// The first page's that is not mapped or can't be read.
    pub fn read(&self, mem: &dyn PhysMem, va: VirtAddr, buf: &mut [u8]) -> Result<(), Fault> {
        let (mut va, mut rest) = (va.0, buf);
        while !rest.is_empty() {
            let mapped = self.translate(mem, VirtAddr(va))?;
            let here = index(mapped.len.min(wide(rest.len())));
            let (now, later) = rest.split_at_mut_checked(here).ok_or(Fault::NotMapped(va))?;
            mem.read(mapped.phys, now)?;
            va = va.checked_add(wide(here)).ok_or(Fault::NotMapped(va))?;
            rest = later;
        }
        Ok(())
    }

    /// A 64-bit number at `va`.
    ///
    /// # Errors
    /// As [`AddressSpace::read`].
    pub fn read_u64(&self, mem: &dyn PhysMem, va: VirtAddr) -> Result<u64, Fault> {
        let mut bytes = [0u8; 8];
        self.read(mem, va, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A 32-bit number at `va`.
    ///
    /// # Errors
    /// As [`AddressSpace::read`].
    pub fn read_u32(&self, mem: &dyn PhysMem, va: VirtAddr) -> Result<u32, Fault> {
        let mut bytes = [0u8; 4];
        self.read(mem, va, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}
