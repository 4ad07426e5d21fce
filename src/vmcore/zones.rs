//! How many pages the crashed kernel itself counted as free (include/linux/mmzone.h: `struct zone`, `vm_stat`).

use super::le::wide;
use super::vmcoreinfo::VmcoreInfo;
use super::{AddressSpace, PhysMem};
use crate::mem::VirtAddr;

/// More than CONFIG_NODES_SHIFT of any x86_64 kernel allows.
const MAX_NODES: u64 = 1 << 10;
/// More than MAX_NR_ZONES of any kernel.
const MAX_ZONES: u32 = 8;

/// The sum of NR_FREE_PAGES over all zones; `None` where VMCOREINFO or memory does not tell. Each CPU may hold back a
/// difference of some 100 pages a zone.
pub fn free_pages(info: &VmcoreInfo, space: &AddressSpace, mem: &dyn PhysMem) -> Option<u64> {
    let offset = |member: &str| info.offset(member).map(wide);
    let (zones_at, count_at) = (offset("pglist_data.node_zones")?, info.offset("pglist_data.nr_zones").map(wide)?);
    let zone_size = wide(info.size("zone")?);
    let stat_at = offset("zone.vm_stat")?.checked_add(info.number("NR_FREE_PAGES")?.checked_mul(8)?)?;
    let word = |at: u64| space.read_u64(mem, VirtAddr(at)).ok();
    let nodes: Vec<u64> = match (info.symbol("node_data"), info.symbol("contig_page_data")) {
        (Some(table), _) => {
            let count = info.length("node_data").unwrap_or(1).min(MAX_NODES);
            (0..count).filter_map(|n| word(table.wrapping_add(n.wrapping_mul(8)))).filter(|node| *node != 0).collect()
        }
        (None, Some(node)) => vec![node],
        (None, None) => return None,
    };
    let mut sum = None;
    for node in nodes {
        let count = space.read_u32(mem, VirtAddr(node.wrapping_add(count_at))).ok()?;
        for zone in 0..u64::from(count.min(MAX_ZONES)) {
            let zone = node.wrapping_add(zones_at).wrapping_add(zone.wrapping_mul(zone_size));
            // A counter that per-CPU differences made negative stands for none.
            let free = u64::try_from(word(zone.wrapping_add(stat_at))?.cast_signed()).unwrap_or(0);
            sum = Some(free.saturating_add(sum.unwrap_or(0)));
        }
    }
    sum
}
