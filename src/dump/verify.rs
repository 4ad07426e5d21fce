//! Beside the filter: what no reader can do without, and what can't be right.

use super::filter::Filtered;
use crate::mem::bitmap::Bitmap;
use crate::mem::{PAGE_SIZE, VirtAddr};
use crate::vmcore::sections::Sections;
use crate::vmcore::{AddressSpace, Vmcore, zones};

/// Bytes of a kernel stack (`THREAD_SIZE`), which begins at a multiple of them.
const STACK: u64 = 16 << 10;
/// Pages by which the kernel's own count of free pages may be off whatever its size: CPUs hold differences back.
const SLACK: u64 = 1024;

/// Pages no reader can do without: the page table's root, the names, the log's head, the section table, the stacks of the
/// CPUs that were stopped.
pub fn pinned(core: &Vmcore, space: &AddressSpace, sections: &Sections) -> Bitmap {
    const SYMBOLS: [&str; 9] = [
        "swapper_pg_dir",
        "init_top_pgt",
        "init_level4_pgt",
        "init_uts_ns",
        "prb",
        "printk_rb_static",
        "log_buf",
        "mem_section",
        "_stext",
    ];
    let reader = core.reader();
    let symbols = SYMBOLS.iter().filter_map(|s| core.vmcoreinfo().and_then(|i| i.symbol(s)).map(VirtAddr));
    let all = symbols.chain(sections.table_address()).chain(stacks(core));
    let mut pinned = Bitmap::new(core.end().0.div_ceil(PAGE_SIZE));
    for mapped in all.filter_map(|va| space.translate(&reader, va).ok()) {
        pinned.set(mapped.phys.0 / PAGE_SIZE..mapped.phys.0 / PAGE_SIZE + 1);
    }
    pinned
}

/// The pages of the kernel stacks that CPUs were stopped on.
pub fn stacks(core: &Vmcore) -> impl Iterator<Item = VirtAddr> + '_ {
    let all = core.notes().stopped_at.iter().flat_map(|[_, sp]| {
        let start = sp & !(STACK - 1);
        (start..start.saturating_add(STACK)).step_by(PAGE_SIZE as usize).map(VirtAddr)
    });
    all.filter(|va| va.0 >> 63 != 0)
}

/// Reports what can't be right. `lost` pinned pages were to be dropped; `free` says whether the level drops free pages.
pub fn verify(core: &Vmcore, space: &AddressSpace, lost: u64, free: bool, filtered: &mut Filtered) {
    if lost != 0 {
        filtered.warnings.push(format!(
            "{lost} page(s) of the kernel's own tables and stacks were classified as droppable and put back: the filter misreads this kernel"
        ));
    }
    // A dump that is filtered again may have lost its free pages before.
    if free && core.filtered_by() & 16 == 0 {
        let counted = core.vmcoreinfo().and_then(|info| zones::free_pages(info, space, &core.reader()));
        filtered.warnings.extend(doubt(filtered.dropped.free, counted));
    }
}

/// Whether `found` free pages can be all where the kernel counted `counted`.
fn doubt(found: u64, counted: Option<u64>) -> Option<String> {
    match counted {
        Some(0) if found == 0 => None,
        _ if found == 0 => Some(
            "no free page was found although level bit 16 asks to drop them: the filter may misread this kernel".into(),
        ),
        Some(counted) if found.abs_diff(counted) > (counted / 5).max(SLACK) => Some(format!(
            "{found} free pages were found, but the kernel counted {counted}: the filter may misread this kernel"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_free_pages_that_disagree_are_said() {
        for (found, counted, alarm) in [
            (0, None, true),
            (0, Some(0), false),
            (0, Some(7), true),
            (100_000, None, false),
            (100_000, Some(110_000), false),
            (100_000, Some(140_000), true),
            (100_000, Some(60_000), true),
            (900, Some(1900), false),
            (u64::MAX, Some(1), true),
        ] {
            assert_eq!(doubt(found, counted).is_some(), alarm, "{found} {counted:?}");
        }
    }
}
