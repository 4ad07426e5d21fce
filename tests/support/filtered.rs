//! The filter's work on a kernel made up by [`super::kernel`], looked at page by page.

use kdumpbox::dump::{self, Codec, Level, Report, Request};
use kdumpbox::vmcore::Vmcore;

use super::faults::Memory;
use super::kdump::{Kdump, Page};
use super::kernel::Kernel;

/// The dump of `core` at a level.
pub fn save(core: &Vmcore, level: u8) -> (Kdump, Report) {
    let level = Level::new(level).expect("a level");
    let sink = Memory::default();
    let request = Request { level, codec: Codec::Zlib, threads: 2, ..Request::default() };
    let report = dump::save(core, &request, &sink, &|_| {}).expect("saved");
    (sink.into_dump(), report)
}

/// Every page of the dump is what memory holds, and exactly the pages of `expected` are kept.
pub fn check(dump: &Kdump, kernel: &Kernel, context: &str, expected: impl Fn(u64) -> bool) {
    for pfn in Kernel::pfns() {
        match dump.page(pfn) {
            Page::Data(data) => {
                assert!(expected(pfn), "{context}: {pfn:#x} is kept, a page of {:?}", kernel.use_of(pfn));
                assert!(data == kernel.memory.page(pfn), "{context}: {pfn:#x} has other bytes than memory");
            }
            other => assert!(!expected(pfn), "{context}: {pfn:#x} is {other:?}, a page of {:?}", kernel.use_of(pfn)),
        }
    }
}

/// What a level keeps.
pub fn by_level(kernel: &Kernel, level: u8) -> impl Fn(u64) -> bool {
    move |pfn| !kernel.use_of(pfn).droppable(level)
}
