//! Where the `struct page` of a page frame is: `vmemmap`, exported since 6.9 or so, else by `mem_section`
//! (include/linux/mmzone.h, SPARSEMEM_EXTREME with SPARSEMEM_VMEMMAP, as every x86_64 distribution builds it).
//!
//! In that model one address, the same for all sections, plus pfn * sizeof(struct page) is the struct's. So the sections
//! vote, and one that disagrees is corrupt: the majority's value serves it too.

use super::le::{index, u64_at, wide};
use super::vmcoreinfo::VmcoreInfo;
use super::{AddressSpace, PhysMem};
use crate::error::{Error, Kind, Result};
use crate::mem::{PAGE_SIZE, VirtAddr};

/// Flags in the low bits of `section_mem_map`; the kernel guarantees six (SECTION_MAP_LAST_BIT).
const FLAG_BITS: u64 = 0x3f;
/// SECTION_MARKED_PRESENT and SECTION_HAS_MEM_MAP.
const PRESENT_WITH_MAP: u64 = 3;
/// Below this no kernel address lies on x86_64, with 5 levels neither.
const KERNEL_START: u64 = 0xff00_0000_0000_0000;
/// `LENGTH(mem_section)` of a machine with 4 PiB, its largest.
const MAX_ROOTS: u64 = 1 << 18;

/// How to find the struct page of a page frame.
#[derive(Clone, Debug)]
pub struct Sections {
    /// Page frames in a section.
    pub pages_per_section: u64,
    /// The address of page frame 0's struct, if all sections share it.
    base: Option<u64>,
    table: Option<Table>,
    /// Sections whose entry was corrupt and replaced by the majority's.
    pub repaired: u64,
}

#[derive(Clone, Copy, Debug)]
struct Table {
    roots_at: u64,
    roots: u64,
    entry_size: u64,
    map_offset: u64,
    per_root: u64,
}

impl Sections {
    /// The first key without which no section can be found.
    pub fn lacks(info: &VmcoreInfo) -> Option<&'static str> {
        if info.symbol("vmemmap").is_some() {
            None
        } else if info.symbol("mem_section").is_none() {
            Some("SYMBOL(mem_section)")
        } else if info.size("mem_section").is_none() {
            Some("SIZE(mem_section)")
        } else if info.length("mem_section").is_none() {
            Some("LENGTH(mem_section)")
        } else if info.offset("mem_section.section_mem_map").is_none() {
            Some("OFFSET(mem_section.section_mem_map)")
        } else {
            None
        }
    }

    /// Finds the sections of the first `sections` times [`Sections::pages_per_section`] pages.
    ///
    /// # Errors
    /// `Missing` or `Invalid` with the reason why no struct page can be found at all.
    pub fn find(info: &VmcoreInfo, space: &AddressSpace, mem: &dyn PhysMem, end_pfn: u64) -> Result<Self> {
        let bits = info.number("SECTION_SIZE_BITS").filter(|b| (20..=40).contains(b)).unwrap_or(27);
        let bytes = u32::try_from(bits).ok().and_then(|b| 1u64.checked_shl(b)).unwrap_or(1 << 27);
        let pages_per_section = bytes.checked_div(PAGE_SIZE).unwrap_or(1 << 15);
        let mut found = Self { pages_per_section, base: None, table: None, repaired: 0 };
        if let Some(base) = info.symbol("vmemmap").filter(|va| *va >= KERNEL_START) {
            found.base = Some(base);
            return Ok(found);
        }
        let sections = end_pfn.div_ceil(pages_per_section);
        let mut reason = Error::new(Kind::Missing, "VMCOREINFO has neither SYMBOL(vmemmap) nor SYMBOL(mem_section)");
        if let Some(symbol) = info.symbol("mem_section") {
            // VMCOREINFO gives the array itself, debug information the pointer to it.
            let behind = space.read_u64(mem, VirtAddr(symbol)).unwrap_or(0);
            for roots_at in [symbol, behind] {
                let table = Table::new(info, roots_at)?;
                match found.vote(&table, space, mem, sections) {
                    Ok(()) => {
                        found.table = Some(table);
                        return Ok(found);
                    }
                    Err(e) if roots_at == symbol => reason = e,
                    Err(_) => {}
                }
            }
        }
        Err(reason)
    }

    /// Counts which base the sections name (the majority algorithm of Boyer and Moore, then a count).
    fn vote(&mut self, table: &Table, space: &AddressSpace, mem: &dyn PhysMem, sections: u64) -> Result<()> {
        let (mut candidate, mut lead) = (0u64, 0u64);
        table.for_each(space, mem, sections, |_, map| {
            if let Some(base) = usable(map) {
                if lead == 0 {
                    candidate = base;
                }
                lead = if base == candidate { lead.saturating_add(1) } else { lead.saturating_sub(1) };
            }
        });
        let (mut for_it, mut against) = (0u64, 0u64);
        table.for_each(space, mem, sections, |_, map| match usable(map) {
            Some(base) if base == candidate => for_it = for_it.saturating_add(1),
            None if map == 0 => {}
            _ => against = against.saturating_add(1),
        });
        if for_it == 0 {
            return Err(Error::new(
                Kind::Invalid,
                format!("mem_section at {:#x} names no section with struct pages", table.roots_at),
            ));
        }
        // Without a majority each section has its own array (SPARSEMEM without VMEMMAP).
        if for_it > against {
            self.base = Some(candidate);
            self.repaired = against;
        }
        Ok(())
    }

    /// The address of the first struct page of `section`; `None` if it has none and its pages must be kept.
    pub fn struct_pages(&self, space: &AddressSpace, mem: &dyn PhysMem, section: u64, page_size: usize) -> Option<u64> {
        let base = match (&self.table, self.base) {
            (None, base) => base?,
            (Some(table), base) => {
                let map = table.entry(space, mem, section)?;
                // 0: no such section. Anything else that is not what the others say is repaired.
                if map == 0 {
                    return None;
                }
                base.or_else(|| usable(map))?
            }
        };
        let first = section.checked_mul(self.pages_per_section)?.checked_mul(wide(page_size))?;
        Some(base.wrapping_add(first))
    }

    /// Whether nobody said which sections have struct pages: only the page tables tell.
    pub const fn presumed(&self) -> bool {
        self.table.is_none()
    }

    /// Virtual address of the section table, to be pinned.
    pub fn table_address(&self) -> Option<VirtAddr> {
        self.table.map(|t| VirtAddr(t.roots_at))
    }
}

/// The base a section names, if its flags say it has struct pages and it is a kernel address.
fn usable(map: u64) -> Option<u64> {
    let base = map & !FLAG_BITS;
    (map & PRESENT_WITH_MAP == PRESENT_WITH_MAP && base >= KERNEL_START).then_some(base)
}

impl Table {
    fn new(info: &VmcoreInfo, roots_at: u64) -> Result<Self> {
        let missing = |key: &str| Error::new(Kind::Missing, format!("VMCOREINFO lacks {key}"));
        let entry_size = info.size("mem_section").map(wide).filter(|n| (8..=PAGE_SIZE).contains(n));
        let entry_size = entry_size.ok_or_else(|| missing("SIZE(mem_section)"))?;
        let map_offset = info.offset("mem_section.section_mem_map").map(wide);
        Ok(Self {
            roots_at,
            roots: info.length("mem_section").ok_or_else(|| missing("LENGTH(mem_section)"))?.min(MAX_ROOTS),
            entry_size,
            map_offset: map_offset.ok_or_else(|| missing("OFFSET(mem_section.section_mem_map)"))?,
            per_root: PAGE_SIZE.checked_div(entry_size).unwrap_or(1),
        })
    }

    fn root(&self, space: &AddressSpace, mem: &dyn PhysMem, root: u64) -> Option<u64> {
        let at = self.roots_at.wrapping_add(root.checked_mul(8)?);
        let root = (root < self.roots).then(|| space.read_u64(mem, VirtAddr(at)).ok()).flatten()?;
        (root >= KERNEL_START).then_some(root)
    }

    /// `section_mem_map` of `section`; 0 if there is no such section, `None` if that can't be read.
    fn entry(&self, space: &AddressSpace, mem: &dyn PhysMem, section: u64) -> Option<u64> {
        let root = self.root(space, mem, section.checked_div(self.per_root)?)?;
        let at = section.checked_rem(self.per_root)?.checked_mul(self.entry_size)?.checked_add(self.map_offset)?;
        space.read_u64(mem, VirtAddr(root.wrapping_add(at))).ok()
    }

    fn for_each(&self, space: &AddressSpace, mem: &dyn PhysMem, sections: u64, mut visit: impl FnMut(u64, u64)) {
        let mut bytes = vec![0u8; index(PAGE_SIZE)];
        for root in 0..sections.div_ceil(self.per_root.max(1)).min(self.roots) {
            let Some(va) = self.root(space, mem, root) else { continue };
            if space.read(mem, VirtAddr(va), &mut bytes).is_err() {
                continue;
            }
            for slot in 0..self.per_root {
                let section = root.wrapping_mul(self.per_root).wrapping_add(slot);
                let at = slot.wrapping_mul(self.entry_size).wrapping_add(self.map_offset);
                if section < sections {
                    visit(section, u64_at(&bytes, index(at)).unwrap_or(0));
                }
            }
        }
    }
}
