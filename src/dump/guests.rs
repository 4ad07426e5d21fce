//! Of a crashed Xen: leaves out the memory of its guests, and what Xen has free, offline or broken.
//!
//! Xen's heap, its image, dom0, what dom0's readers can't do without, and every frame whose owner is not proven to be a
//! guest stay.

use super::filter::Filtered;
use crate::mem::PAGE_SIZE;
use crate::vmcore::Vmcore;
use crate::vmcore::frames::FrameTable;

/// Frames looked at together: 128 KiB of `struct page_info`.
const BATCH: u64 = 4096;

/// Takes out of `filtered` what may go; says there why, if nothing may.
pub fn exclude(core: &Vmcore, filtered: &mut Filtered) {
    if core.xen().is_none() {
        // makedumpfile takes -X for any dump; there are no guests to leave out.
        filtered.warnings.push("there was no Xen, so no guests' memory is left out".into());
        return;
    }
    let table = match FrameTable::find(core) {
        Ok(table) => table,
        Err(e) => {
            filtered.degraded.push(format!("guests' memory is kept: {e}"));
            return;
        }
    };
    filtered.degraded.extend(table.doubt.clone());
    let mem = core.reader();
    let mut buffer = Vec::new();
    let mut unread = 0;
    for segment in core.segments() {
        let (mut at, end) = (segment.phys.start() / PAGE_SIZE, segment.phys.end().div_ceil(PAGE_SIZE));
        while at < end {
            let stop = end.min((at / BATCH + 1) * BATCH);
            buffer.resize((stop - at) as usize * table.size, 0);
            if table.read(&mem, at, &mut buffer).is_err() {
                unread += stop - at;
            } else {
                for (frame, page_info) in (at..).zip(buffer.chunks_exact(table.size)) {
                    if let Some(class) = table.classify(page_info)
                        && !filtered.pinned.get(frame)
                    {
                        *filtered.dropped.of(class) += filtered.kept.clear(frame..frame + 1);
                    }
                }
            }
            at = stop;
        }
    }
    if unread != 0 {
        filtered.degraded.push(format!("{unread} frames are kept because Xen's frame table can't be read there"));
    }
}
