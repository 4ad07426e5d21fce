//! The last rung of the ladder: the vmcore byte for byte, where its headers make no sense or no dump could be made of it.

use crate::error::Result;
use crate::mem::{PAGE_SIZE, Range};
use crate::target::Sink;
use crate::vmcore::{Input, Vmcore, elf};

/// Bytes read at once: all the memory a copy takes.
const CHUNK: u64 = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the vmcore, and of the copy.
    pub bytes: u64,
    /// Pages of the file that could not be read, or may not be, and are zero.
    pub unreadable: u64,
}

/// Copies `input` to `sink`, which the caller then finishes. Nothing in the ranges `skip` of the file is read. The copy is
/// sparse where memory is zero. `progress` gets bytes done and bytes to do.
///
/// # Errors
/// The sink's: what can't be read is zero.
pub fn copy(input: &dyn Input, skip: &[Range], sink: &dyn Sink, progress: &dyn Fn(u64, u64)) -> Result<Copied> {
    let size = input.size();
    let mut copied = Copied { bytes: size, unreadable: 0 };
    let mut buffer = vec![0; CHUNK as usize];
    let mut at = 0;
    while at < size {
        let end = size.min(at + CHUNK);
        let chunk = &mut buffer[..(end - at) as usize];
        if !read(input, skip, at, chunk) {
            for (page, at) in chunk.chunks_mut(PAGE_SIZE as usize).zip((at..).step_by(PAGE_SIZE as usize)) {
                if !read(input, skip, at, page) {
                    page.fill(0);
                    copied.unreadable += 1;
                }
            }
        }
        // The last chunk gives the file its size.
        if end == size || chunk.iter().any(|b| *b != 0) {
            sink.write_at(at, chunk)?;
        }
        at = end;
        progress(at, size);
    }
    Ok(copied)
}

/// Whether all of `buffer` may be read and was.
fn read(input: &dyn Input, skip: &[Range], at: u64, buffer: &mut [u8]) -> bool {
    let here = Range::with_len(at, buffer.len() as u64);
    let free = here.is_some_and(|here| skip.iter().all(|s| s.intersect(here).is_none()));
    free && elf::read_full(input, at, buffer).is_ok_and(|n| n == buffer.len())
}

/// Where pages that are known to be broken or offline lie in the file of `core`: reading them may stop this machine too.
pub fn broken(core: &Vmcore) -> Vec<Range> {
    let filtered = super::filter::filter(core, super::Level::default(), false, 1);
    let lost = |pfn: &u64| filtered.ram.get(*pfn) && !filtered.kept.get(*pfn);
    if filtered.dropped.hwpoison + filtered.dropped.offline == 0 {
        return Vec::new();
    }
    let in_file = |pfn: u64| {
        let page = Range::with_len(pfn * PAGE_SIZE, PAGE_SIZE);
        core.loads().iter().filter(|load| load.is_held()).filter_map(move |load| {
            let part = load.phys.intersect(page?)?;
            Range::with_len(load.offset + (part.start() - load.phys.start()), part.len())
        })
    };
    filtered.ram.runs().flatten().filter(lost).flat_map(in_file).collect()
}
