//! Every system call that needs `unsafe`, wrapped so that no caller can misuse it.
// UNSAFETY: mappings of files.
#![expect(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags};

/// A read-only private mapping of a part of a file. Its bytes can only be copied out.
///
/// The file may change or shrink underneath: bytes are read, never referenced; a page that is gone raises SIGBUS,
/// so map only what can't be truncated (`/proc/vmcore`) or what the caller owns.
pub struct Mapping {
    start: *const u8,
    len: usize,
}

// SAFETY: the mapping is read-only, owned by this value, and not tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (a multiple of the page size).
    ///
    /// # Errors
    /// The errno of `mmap(2)`.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> rustix::io::Result<Self> {
        // SAFETY: no address is asked for, so the kernel picks one that nothing else uses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, fd, offset) }?;
        Ok(Self { start: start.cast_const().cast(), len })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never true of a mapping that could be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset` bytes into the mapping; `false`, and nothing done, if that is not all inside.
    pub fn copy_to(&self, offset: usize, buf: &mut [u8]) -> bool {
        if offset.checked_add(buf.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: offset is within the mapping, by the test above.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: `buf.len()` bytes from `from` are mapped readable by the test above, `buf` is writable for as many
        // and can't overlap a mapping that only this value refers to.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and len are those of a mapping made in `new`, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), self.len) };
    }
}
