//! The hypervisor's console ring (xen/drivers/char/console.c): what Xen printed last, its own crash included.
//!
//! Its address is in no note. But the image is, and in it are the ring's variables: a pointer `conring` to whole pages
//! of text, beside it `conring_size`, a power of two, and somewhere the counters `conringc` and `conringp`. A pointer
//! is believed if all of the memory it and a size beside it name is text with `(XEN) ` in it; nothing is assumed of
//! the version.

use super::le::{index, u32_at, u64_at, wide};
use super::{AddressSpace, PhysMem, Vmcore};
use crate::error::{Error, Kind, Result};
use crate::mem::{PAGE_SIZE, VirtAddr};

/// Bytes of the image that are looked at; Xen 4.20's has 4 MiB.
const MAX_IMAGE: u64 = 16 << 20;
/// Sizes of a ring that are believed: a build's smallest default, and what the crash kernel has room for.
const SIZES: std::ops::RangeInclusive<u64> = 0x1000..=4 << 20;
/// How far from `conring` its size may be. The linker keeps the variables of a file and section together.
const NEAR: usize = 64;
/// Lower half of the address space: no pointer of Xen's leads there.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// Every line of the hypervisor's own starts with it, or with it and a time.
const MARK: &[u8] = b"(XEN) ";

/// The text of the ring, oldest first.
///
/// # Errors
/// `Missing` if this is no vmcore of Xen or no ring is found in it.
pub fn text(core: &Vmcore) -> Result<Vec<u8>> {
    let missing = |what: &str| Error::new(Kind::Missing, what);
    let xen = core.xen().ok_or_else(|| missing("the vmcore has no notes of Xen, so there is no console ring"))?;
    let start = xen.virt_start().ok_or_else(|| missing("VMCOREINFO_XEN lacks SYMBOL(domain_list)"))?;
    let (space, mem) = (AddressSpace::of_xen(xen), core.reader());
    let image = image(&space, &mem, start);
    let ring = ring(&space, &mem, &image)
        .ok_or_else(|| missing("nothing in the memory of Xen's image points at a ring of text with '(XEN) ' in it"))?;
    Ok(unrolled(&ring, &image))
}

/// The image as far as it is mapped; zeros in its holes.
fn image(space: &AddressSpace, mem: &dyn PhysMem, start: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; index(MAX_IMAGE)];
    let mut end = 0;
    for (n, page) in bytes.chunks_exact_mut(index(PAGE_SIZE)).enumerate() {
        let offset = wide(n).wrapping_mul(PAGE_SIZE);
        if space.read(mem, VirtAddr(start.wrapping_add(offset)), page).is_ok() {
            end = offset.wrapping_add(PAGE_SIZE);
        } else {
            page.fill(0);
        }
    }
    bytes.truncate(index(end));
    bytes
}

/// The bytes of the ring as they lie in memory.
fn ring(space: &AddressSpace, mem: &dyn PhysMem, image: &[u8]) -> Option<Vec<u8>> {
    let mut first = vec![0u8; index(PAGE_SIZE)];
    let mut refused = std::collections::BTreeSet::new();
    for at in (0..image.len()).step_by(8) {
        let pointer = u64_at(image, at).filter(|p| *p >= KERNEL_HALF && p & PAGE_SIZE.wrapping_sub(1) == 0);
        let Some(pointer) = pointer.filter(|p| !refused.contains(p)) else { continue };
        if space.read(mem, VirtAddr(pointer), &mut first).is_err() || used(&first).is_none() {
            refused.insert(pointer);
            continue;
        }
        let near = at.saturating_sub(NEAR)..at.saturating_add(NEAR);
        let sizes = near.step_by(4).filter_map(|at| u32_at(image, at)).map(u64::from);
        let mut sizes: Vec<u64> = sizes.filter(|s| s.is_power_of_two() && SIZES.contains(s)).collect();
        sizes.sort_unstable();
        for size in sizes.into_iter().rev() {
            let mut ring = vec![0u8; index(size)];
            let read = space.read(mem, VirtAddr(pointer), &mut ring).is_ok();
            if read && used(&ring).is_some() && ring.windows(MARK.len()).any(|w| w == MARK) {
                return Some(ring);
            }
        }
    }
    None
}

/// How much of `bytes` is text, if nothing but zeros follows it.
fn used(bytes: &[u8]) -> Option<usize> {
    let text = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let odd = |b: &&u8| !matches!(**b, b' '..=b'~' | b'\n' | b'\r' | b'\t' | 0x1b | 0x80..);
    let few = text.checked_div(64).unwrap_or(0);
    let (head, tail) = bytes.split_at_checked(text)?;
    let fine = text != 0 && head.iter().filter(odd).count() <= few && tail.iter().all(|b| *b == 0);
    fine.then_some(text)
}

/// Oldest first. A full ring starts over at `conringp`, which is a whole size ahead of its neighbour `conringc` unless
/// somebody cleared the ring; without such a pair the text stays as it lies.
fn unrolled(ring: &[u8], image: &[u8]) -> Vec<u8> {
    let text = used(ring).unwrap_or(ring.len());
    if text < ring.len() {
        return ring.get(..text).unwrap_or_default().to_vec();
    }
    let size = u32::try_from(ring.len()).unwrap_or(u32::MAX);
    let mask = ring.len().wrapping_sub(1);
    let seam = (0..image.len()).step_by(4).find_map(|at| {
        let (a, b) = (u32_at(image, at)?, u32_at(image, at.saturating_add(4))?);
        let produced = if b.wrapping_sub(a) == size {
            b
        } else if a.wrapping_sub(b) == size {
            a
        } else {
            return None;
        };
        let seam = index(u64::from(produced)) & mask;
        // What was printed last ends its line.
        let last = ring.get(seam.wrapping_sub(1) & mask)?;
        (*last == b'\n').then_some(seam)
    });
    let mut out = ring.to_vec();
    out.rotate_left(seam.unwrap_or(0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_zeros_behind_it() {
        for (bytes, want) in [
            (&b"(XEN) a\n\0\0"[..], Some(8)),
            (b"(XEN) a\n", Some(8)),
            (b"a\0b", None),
            (b"\0\0", None),
            (b"\x01\x02\x03a", None),
            (b"", None),
        ] {
            assert_eq!(used(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_full_ring_starts_behind_the_last_line() {
        let ring = b"new line\n(XEN) old line and ol\nd";
        let image = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let want = b"(XEN) old line and ol\ndnew line\n";
        assert_eq!(unrolled(ring, &image(&[7, 96 + 9 - 32, 96 + 9, 1])), want, "consumer first");
        assert_eq!(unrolled(ring, &image(&[96 + 9, 96 + 9 - 32])), want, "producer first");
        assert_eq!(unrolled(ring, &image(&[64, 96])), ring, "a pair whose seam is inside a line");
        assert_eq!(unrolled(b"abc\0", &[]), b"abc");
    }
}
