//! One thread's way into a vmcore: a window of the file mapped at a time, `pread` where windows don't work, and pages
//! that can't be read replaced by zeros.

use std::cell::RefCell;

use super::elf::{LEFT_OUT, Load, read_full};
use super::input::Input;
use super::le::{index, wide};
use super::{Fault, PhysMem, Vmcore};
use crate::mem::bitmap::Bitmap;
use crate::mem::{PAGE_SIZE, PhysAddr, Range};
use crate::sys::Mapping;

/// Bytes mapped at a time. The kernel remaps page by page below, so that larger windows gain little.
const WINDOW: u64 = 4 << 20;

/// Pages that a reader holds because single words of them were asked for: the tables that one walk goes through, twice.
const HELD: usize = 16;
/// Reads up to this long are single words and small structures.
const SMALL: usize = 64;

/// The segment that holds `at`. `segments` is ascending and disjoint.
pub fn find(segments: &[Load], at: u64) -> Option<&Load> {
    let i = segments.partition_point(|s| s.phys.end() <= at);
    segments.get(i).filter(|s| s.phys.contains(at))
}

#[derive(Default)]
struct Window {
    map: Option<Mapping>,
    /// Start of the window in the file; of the last refused one while `map` is `None`.
    start: Option<u64>,
}

/// Pages of which words were read, by address; the oldest makes room.
#[derive(Default)]
struct Held {
    pages: Vec<(u64, Box<[u8; index(PAGE_SIZE)]>)>,
    next: usize,
}

/// See the module. Not shared between threads: the window is its own.
pub struct Reader<'a> {
    input: &'a dyn Input,
    segments: &'a [Load],
    window: RefCell<Window>,
    held: RefCell<Held>,
}

/// What became of a page that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRead {
    /// All bytes the vmcore has of it are there; a fragment's rest is zero.
    Whole,
    /// It could not be read; all zeros.
    Unreadable,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a dyn Input, segments: &'a [Load]) -> Self {
        Self { input, segments, window: RefCell::default(), held: RefCell::default() }
    }

    /// Fills `buf` from `offset` of the file.
    fn read_file(&self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if offset >= LEFT_OUT {
            buf.fill(0);
            return Ok(());
        }
        let start = offset & !WINDOW.wrapping_sub(1);
        let within = index(offset.wrapping_sub(start));
        {
            let mut window = self.window.borrow_mut();
            if window.start != Some(start) {
                let len = WINDOW.min(self.input.size().saturating_sub(start));
                *window = Window { map: self.input.map(start, index(len)), start: Some(start) };
            }
            let head = window.map.as_ref().map_or(0, |m| buf.len().min(m.len().saturating_sub(within)));
            if head != 0
                && let Some((first, rest)) = buf.split_at_mut_checked(head)
            {
                if window.map.as_ref().is_some_and(|m| m.copy_to(within, first)) {
                    drop(window);
                    return if rest.is_empty() {
                        Ok(())
                    } else {
                        self.read_file(offset.saturating_add(wide(head)), rest)
                    };
                }
                // A page of it is gone and reads as zeros from now on: the rest of this window is read, not mapped.
                window.map = None;
            }
        }
        match read_full(self.input, offset, buf) {
            Ok(n) if n == buf.len() => Ok(()),
            Ok(_) => Err(Fault::Io(rustix::io::Errno::IO.raw_os_error())),
            Err(e) => Err(Fault::Io(e.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))),
        }
    }

    /// Fills `buf` from a page that is held, or is now. `false` where that can't be: take it the usual way.
    ///
    /// Page tables are read a word at a time, over and over, between long reads of what they lead to: the window stays
    /// with those.
    fn read_held(&self, at: u64, buf: &mut [u8]) -> bool {
        let skip = at & PAGE_SIZE.wrapping_sub(1);
        let (page, from) = (at.wrapping_sub(skip), index(skip));
        let wanted = from..from.saturating_add(buf.len());
        let mut held = self.held.borrow_mut();
        if let Some(bytes) =
            held.pages.iter().find(|(at, _)| *at == page).and_then(|(_, bytes)| bytes.get(wanted.clone()))
        {
            buf.copy_from_slice(bytes);
            return true;
        }
        let whole = find(self.segments, page).filter(|s| s.phys.end().saturating_sub(page) >= PAGE_SIZE);
        let Some(segment) = whole.filter(|_| wanted.end <= index(PAGE_SIZE)) else { return false };
        let Held { pages, next } = &mut *held;
        if pages.len() < HELD {
            pages.push((u64::MAX, Box::new([0; index(PAGE_SIZE)])));
        }
        let Some((address, bytes)) = pages.get_mut(*next) else { return false };
        let offset = segment.offset.saturating_add(page.wrapping_sub(segment.phys.start()));
        // A page that can't be read whole is not held; the caller's few bytes of it may still be there.
        *address = u64::MAX;
        if !read_full(self.input, offset, bytes.as_mut_slice()).is_ok_and(|n| n == bytes.len()) {
            return false;
        }
        *address = page;
        *next = next.wrapping_add(1) % HELD;
        bytes.get(wanted).is_some_and(|bytes| {
            buf.copy_from_slice(bytes);
            true
        })
    }

    /// Fills `buf` with whole pages from the page-aligned `at`, all inside one segment, in one read. `false` if that
    /// can't be done; take the pages one by one then.
    pub fn read_run(&self, at: PhysAddr, buf: &mut [u8]) -> bool {
        self.read(at, buf).is_ok()
    }

    /// Fills `page` with the page at `at`. Parts the vmcore lacks are zero; a read error makes it all zero.
    pub fn read_page(&self, at: PhysAddr, page: &mut [u8]) -> PageRead {
        if self.read(at, page).is_ok() {
            return PageRead::Whole;
        }
        page.fill(0);
        let Some(wanted) = Range::with_len(at.0, PAGE_SIZE.min(wide(page.len()))) else { return PageRead::Unreadable };
        let mut pos = wanted.start();
        while pos < wanted.end() {
            let next = self.segments.partition_point(|s| s.phys.end() <= pos);
            let Some(part) = self.segments.get(next).and_then(|s| s.phys.intersect(wanted)) else { break };
            let (from, to) = (index(part.start().wrapping_sub(at.0)), index(part.end().wrapping_sub(at.0)));
            let read = page.get_mut(from..to).map(|bytes| self.read(PhysAddr(part.start()), bytes));
            if !matches!(read, Some(Ok(()))) {
                page.fill(0);
                return PageRead::Unreadable;
            }
            pos = part.end();
        }
        PageRead::Whole
    }
}

impl PhysMem for Reader<'_> {
    fn read(&self, at: PhysAddr, buf: &mut [u8]) -> Result<(), Fault> {
        if buf.len() <= SMALL && self.read_held(at.0, buf) {
            return Ok(());
        }
        let (mut pos, mut rest) = (at.0, buf);
        // A read may cross from one segment into an adjacent one: each turn takes what one segment holds.
        while !rest.is_empty() {
            let segment = find(self.segments, pos).ok_or(Fault::NotThere(PhysAddr(pos)))?;
            let here = index(segment.phys.end().saturating_sub(pos).min(wide(rest.len())));
            let (now, later) = rest.split_at_mut_checked(here).ok_or(Fault::NotThere(PhysAddr(pos)))?;
            let skip = pos.saturating_sub(segment.phys.start());
            self.read_file(segment.offset.saturating_add(skip), now).map_err(|fault| match fault {
                Fault::Io(errno) if errno == rustix::io::Errno::NODATA.raw_os_error() => Fault::NotThere(PhysAddr(pos)),
                other => other,
            })?;
            pos = pos.saturating_add(wide(here));
            rest = later;
        }
        Ok(())
    }
}

/// A reader that notes which pages were asked for.
pub struct Noting<'a> {
    reader: Reader<'a>,
    pages: RefCell<Bitmap>,
}

impl<'a> Noting<'a> {
    /// Adds the pages that are read of `core` to `pages`.
    pub fn new(core: &'a Vmcore, pages: Bitmap) -> Self {
        Self { reader: core.reader(), pages: RefCell::new(pages) }
    }

    /// What was noted.
    pub fn into_pages(self) -> Bitmap {
        self.pages.into_inner()
    }
}

impl PhysMem for Noting<'_> {
    fn read(&self, at: PhysAddr, buf: &mut [u8]) -> Result<(), Fault> {
        self.reader.read(at, buf)?;
        // What could be read ends inside the address space.
        let end = at.0.saturating_add(wide(buf.len())).div_ceil(PAGE_SIZE);
        self.pages.borrow_mut().set(at.0 / PAGE_SIZE..end);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test that overflows or panics fails")]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Pages that say where they are; one byte of them can't be read. Counts reads.
    struct Counting {
        pages: u64,
        bad: u64,
        reads: AtomicU64,
    }

    impl Input for Counting {
        fn size(&self) -> u64 {
            self.pages * PAGE_SIZE
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let end = self.size().min(offset + wide(buf.len()));
            if (offset..end).contains(&self.bad) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let bytes: Vec<u8> = (offset..end).map(|at| (at / 8 * 8).to_le_bytes()[index(at % 8)]).collect();
            buf[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
    }

    fn word(reader: &Reader<'_>, at: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        reader.read(PhysAddr(at), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn load(start: u64, end: u64) -> Load {
        Load { vaddr: 0, phys: Range::new(start, end).expect("a range"), offset: start }
    }

    #[test]
    fn words_of_as_many_pages_as_are_held_are_read_once() {
        let input = Counting { pages: 64, bad: u64::MAX, reads: AtomicU64::new(0) };
        let segments = [load(0, 64 * PAGE_SIZE)];
        let reader = Reader::new(&input, &segments);
        for _ in 0..3 {
            for at in (0..wide(HELD) * PAGE_SIZE).step_by(520) {
                assert_eq!(word(&reader, at), Ok(at));
            }
        }
        assert_eq!(input.reads.load(Ordering::Relaxed), wide(HELD));
        for at in (0..64 * PAGE_SIZE).step_by(520).chain([PAGE_SIZE - 8, PAGE_SIZE]) {
            assert_eq!(word(&reader, at), Ok(at), "more pages than are held");
        }
    }

    #[test]
    fn words_beside_what_cannot_be_read_and_at_a_segments_ends_are_read_as_ever() {
        let input = Counting { pages: 4, bad: PAGE_SIZE + 2048, reads: AtomicU64::new(0) };
        // A fragment, and a page whose halves are in two segments.
        let cut = 3 * PAGE_SIZE + 1024;
        let segments = [load(512, cut), load(cut, 4 * PAGE_SIZE - 512)];
        let reader = Reader::new(&input, &segments);
        for _ in 0..2 {
            assert!(matches!(word(&reader, PAGE_SIZE + 2048), Err(Fault::Io(5))));
            for at in
                [512, PAGE_SIZE - 8, PAGE_SIZE, PAGE_SIZE + 2056, 2 * PAGE_SIZE, cut - 8, cut, 4 * PAGE_SIZE - 520]
            {
                assert_eq!(word(&reader, at), Ok(at));
            }
            for at in [0, 504, 4 * PAGE_SIZE - 512, u64::MAX - 7] {
                assert!(matches!(word(&reader, at), Err(Fault::NotThere(_))), "{at:#x}");
            }
            let mut across = [0; 16];
            reader.read(PhysAddr(2 * PAGE_SIZE - 8), &mut across).expect("both pages");
            let words = across.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            assert!(words.eq([2 * PAGE_SIZE - 8, 2 * PAGE_SIZE]));
        }
    }
}
