//! Parts of a dump by themselves, as the floor that the whole is measured against.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kdumpbox::dump::compress::{Encoder, is_zero};
use kdumpbox::dump::filter::filter;
use kdumpbox::dump::{Codec, Level};
use kdumpbox::mem::{PAGE_SIZE, PhysAddr, VirtAddr};
use kdumpbox::vmcore::pages::PageLayout;
use kdumpbox::vmcore::reader::find;
use kdumpbox::vmcore::sections::Sections;
use kdumpbox::vmcore::{AddressSpace, Vmcore};
use rustix::time::{ClockId, clock_gettime};

const PAGE: usize = PAGE_SIZE as usize;
/// Pages and bytes at a time: so few that the second-level cache keeps them.
const BATCH: usize = 64;

/// CPU time of this thread in nanoseconds.
fn cpu() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Seconds of CPU that `codec` takes for the pages a dump of level 31 holds, and their number. Reading them is not
/// counted, and they are in the cache.
pub fn codec(core: &Path, codec: &str) -> String {
    let core = Vmcore::open(core).expect("a vmcore");
    let codec: Codec = codec.parse().expect("a codec");
    let kept = filter(&core, Level::MAX, false, 2).kept;
    let reader = core.reader();
    let mut encoder = Encoder::new(codec);
    let (mut pages, mut out) = (Vec::with_capacity(BATCH * PAGE), Vec::with_capacity(BATCH * PAGE));
    let (mut page, mut at, mut count, mut spent) = (vec![0; PAGE], 0, 0, 0);
    loop {
        let next = kept.next(at);
        if let Some(pfn) = next {
            at = pfn + 1;
            reader.read_page(PhysAddr(pfn * PAGE_SIZE), &mut page);
            if !is_zero(&page) {
                pages.extend_from_slice(&page);
            }
        }
        if pages.len() == BATCH * PAGE || next.is_none() {
            out.clear();
            let start = cpu();
            for page in pages.chunks_exact(PAGE) {
                black_box(encoder.encode(page, &mut out));
            }
            spent += cpu() - start;
            count += pages.len() / PAGE;
            pages.clear();
        }
        if next.is_none() {
            return format!("{:.4} {count}", spent as f64 / 1e9);
        }
    }
}

/// Seconds of CPU that it takes to read all struct pages once from the file into a buffer that the cache keeps, and
/// their bytes. Where they are is found out before.
pub fn read(path: &Path) -> String {
    let core = Vmcore::open(path).expect("a vmcore");
    let info = core.vmcoreinfo().expect("VMCOREINFO");
    let (space, reader) = (AddressSpace::of(&core, info), core.reader());
    let size = PageLayout::new(info).expect("struct page's layout").size;
    let end = core.end().0 / PAGE_SIZE;
    let sections = Sections::find(info, &space, &reader, end).expect("sections");
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for section in 0..end.div_ceil(sections.pages_per_section) {
        let Some(mut va) = sections.struct_pages(&space, &reader, section, size) else { continue };
        let stop = va + sections.pages_per_section * size as u64;
        while va < stop {
            let Ok(mapped) = space.translate(&reader, VirtAddr(va)) else {
                va += PAGE_SIZE;
                continue;
            };
            let len = mapped.len.min(stop - va);
            if let Some(segment) = find(core.segments(), mapped.phys.0) {
                runs.push((segment.offset + (mapped.phys.0 - segment.phys.start()), len));
            }
            va += len;
        }
    }
    let file = File::open(path).expect("open the vmcore");
    let mut buffer = vec![0; BATCH * PAGE];
    let (start, mut bytes) = (cpu(), 0);
    for (offset, len) in runs {
        for at in (0..len).step_by(buffer.len()) {
            let now = buffer.len().min((len - at) as usize);
            file.read_exact_at(&mut buffer[..now], offset + at).expect("read struct pages");
            black_box(&mut buffer);
            bytes += now;
        }
    }
    format!("{:.4} {bytes}", (cpu() - start) as f64 / 1e9)
}
