//! Leaves out struct pages that describe nothing but pages that are left out (makedumpfile's `-e`): of a machine that is
//! mostly free they are most of the dump.

use std::ops::Range;

use super::filter::{Filtered, Scan};
use crate::mem::bitmap::{Bitmap, CHUNK};
use crate::mem::{PAGE_SIZE, VirtAddr};
use crate::vmcore::Vmcore;

/// Takes them out of `filtered`, or says there why not.
pub fn exclude(core: &Vmcore, filtered: &mut Filtered) {
    if !filtered.level.needs_struct_pages() {
        return;
    }
    let scan = match Scan::new(core, filtered.level) {
        Ok(scan) if scan.space.p2m().is_none() => scan,
        Ok(_) => {
            filtered.degraded.push("struct pages are kept: those of a dom0 are not told apart".into());
            return;
        }
        // The filter has said so already.
        Err(_) => return,
    };
    let mem = core.reader();
    // One page may be mapped at many places (huge pages share those of their tail pages): one use keeps it.
    let (mut needed, mut unneeded) = (Bitmap::new(filtered.ram.end()), Bitmap::new(filtered.ram.end()));
    for chunk in (0..filtered.ram.chunks()).filter(|chunk| !filtered.ram.is_empty(*chunk)) {
        let per_section = scan.sections.pages_per_section;
        let mut first = chunk * CHUNK;
        while first < (chunk + 1) * CHUNK {
            let section = first / per_section;
            let end = ((section + 1) * per_section).min((chunk + 1) * CHUNK);
            if let Some(base) = scan.sections.struct_pages(&scan.space, &mem, section, scan.layout.size) {
                let start = section * per_section;
                for (va, pfns) in pages(base, start, first..end, scan.layout.size as u64) {
                    let Ok(mapped) = scan.space.translate(&mem, VirtAddr(va)) else { continue };
                    let page = mapped.phys.0 / PAGE_SIZE;
                    if filtered.kept.any(pfns.clone()) {
                        needed.set(page..page + 1);
                    } else if filtered.ram.any(pfns) {
                        unneeded.set(page..page + 1);
                    }
                }
            }
            first = end;
        }
    }
    for run in unneeded.runs() {
        for page in run.filter(|page| !needed.get(*page) && !scan.pinned.get(*page)) {
            filtered.dropped.struct_pages += filtered.kept.clear(page..page + 1);
        }
    }
}

/// The pages that the structs of `pfns` are in, and which page frames each describes, all of them in the section that
/// starts at `start` and has its structs from `base` on.
fn pages(base: u64, start: u64, pfns: Range<u64>, size: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let at = move |pfn: u64| base.wrapping_add((pfn - start) * size);
    let first = at(pfns.start) & !(PAGE_SIZE - 1);
    let count = at(pfns.end).wrapping_sub(first).div_ceil(PAGE_SIZE);
    (0..count).map(move |n| {
        let va = first.wrapping_add(n * PAGE_SIZE);
        // The first struct that reaches into the page, and the first behind it.
        let from = va.saturating_sub(base) / size;
        let to = va.wrapping_add(PAGE_SIZE).wrapping_sub(base).div_ceil(size);
        (va, start + from..start + to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_of_structs_knows_whom_it_describes() {
        let base = 0xffff_ea00_0020_0000;
        let found: Vec<_> = pages(base, 0x8000, 0x8000..0x8080, 64).collect();
        assert_eq!(found, [(base, 0x8000..0x8040), (base + 4096, 0x8040..0x8080)]);
        // 56 bytes: the 74th struct lies in two pages.
        let found: Vec<_> = pages(base, 0, 0..100, 56).collect();
        assert_eq!(found, [(base, 0..74), (base + 4096, 73..147)]);
        // A base inside a page.
        assert_eq!(pages(base + 64, 10, 10..11, 64).collect::<Vec<_>>(), [(base, 10..73)]);
    }
}
