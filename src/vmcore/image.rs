//! The kernel's image in its own memory: reads by virtual address, and a search through it.

use super::le::{index, u32_at, u64_at};
use super::{AddressSpace, PhysMem};
use crate::mem::{PAGE_SIZE, VirtAddr};

/// How far an image reaches behind where it starts, read-only data included.
const SPAN: u64 = 128 << 20;
/// Bytes looked at together, and how many of them are looked at again with the next.
const WINDOW: u64 = 256 << 10;
const OVERLAP: u64 = 64;

/// See the module.
pub struct Image<'a> {
    /// The way to it.
    pub space: &'a AddressSpace,
    /// The memory it is in.
    pub mem: &'a dyn PhysMem,
}

impl Image<'_> {
    /// Fills `buf` from `va` on, all or nothing.
    pub fn read(&self, va: u64, buf: &mut [u8]) -> Option<()> {
        self.space.read(self.mem, VirtAddr(va), buf).ok()
    }

    /// `len` bytes from `va` on; pages that can't be read are zero.
    pub fn bytes(&self, va: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; index(len)];
        self.fill(va, &mut bytes);
        bytes
    }

    /// Fills `bytes` as far as pages can be read; whether one could.
    pub fn fill(&self, va: u64, bytes: &mut [u8]) -> bool {
        if self.read(va, bytes).is_some() {
            return true;
        }
        let mut any = false;
        let (mut at, mut rest) = (va, bytes);
        while !rest.is_empty() {
            let here = index(PAGE_SIZE.wrapping_sub(at & PAGE_SIZE.wrapping_sub(1))).min(rest.len());
            let (page, later) = rest.split_at_mut(here);
            match self.read(at, page) {
                Some(()) => any = true,
                None => page.fill(0),
            }
            at = at.wrapping_add(super::le::wide(here));
            rest = later;
        }
        any
    }

    /// The number at `va`.
    pub fn u32(&self, va: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(va, &mut bytes)?;
        u32_at(&bytes, 0)
    }

    /// The number at `va`.
    pub fn u64(&self, va: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes)?;
        u64_at(&bytes, 0)
    }

    /// Shows `look` the image from `start` on, piece after piece, until it has found something.
    pub fn search<T>(&self, start: u64, look: &mut dyn FnMut(u64, &[u8]) -> Option<T>) -> Option<T> {
        let mut at = start;
        let mut bytes = vec![0; index(WINDOW.saturating_add(OVERLAP))];
        while at < start.saturating_add(SPAN) {
            if self.fill(at, &mut bytes)
                && let Some(found) = look(at, &bytes)
            {
                return Some(found);
            }
            at = at.checked_add(WINDOW)?;
        }
        None
    }
}
