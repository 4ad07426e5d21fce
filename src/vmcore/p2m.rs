//! Dom0's pseudo-physical memory: which machine frame stands behind which of its page frames.
//!
//! A paravirtual dom0 counts its memory from 0 while its page tables hold machine addresses. It publishes the way from
//! one to the other as three levels of frames (Xen's `public/arch-x86/xen.h`, `pfn_to_mfn_frame_list_list`):
//!
//! ```text
//! frame list list        frame lists            p2m
//! 512 frame numbers  ─▶  512 frame numbers  ─▶  512 machine frame numbers, of page frames 512 n to 512 n + 511
//! ```

use super::PhysMem;
use super::le::{index, u64_at, wide};
use crate::mem::{PAGE_SIZE, PhysAddr};

/// Frame numbers in a page.
const PER_PAGE: u64 = 512;
/// Page frames that three levels reach.
const LIMIT: u64 = PER_PAGE * PER_PAGE * PER_PAGE;
/// `INVALID_P2M_ENTRY`: no machine frame behind this page frame.
pub const INVALID: u64 = u64::MAX;
/// Bits of a machine frame number: 52 bits of address. Entries with more set belong to other domains
/// (`FOREIGN_FRAME_BIT`), to devices (`IDENTITY_FRAME_BIT`) or to nobody.
const FRAME_BITS: u32 = 40;

/// The way from dom0's page frames to machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2m {
    root: u64,
    end: u64,
}

/// The frame number `slot` of the page of frame numbers at `frame`.
fn entry(mem: &dyn PhysMem, frame: u64, slot: u64) -> Option<u64> {
    let at = frame.checked_mul(PAGE_SIZE)?.checked_add(slot.checked_mul(8)?)?;
    let mut bytes = [0u8; 8];
    mem.read(PhysAddr(at), &mut bytes).ok()?;
    usable(u64::from_le_bytes(bytes))
}

fn usable(frame: u64) -> Option<u64> {
    (frame >> FRAME_BITS == 0).then_some(frame)
}

fn frames(mem: &dyn PhysMem, frame: u64) -> Option<Vec<u64>> {
    let mut bytes = vec![0u8; index(PAGE_SIZE)];
    mem.read(PhysAddr(frame.checked_mul(PAGE_SIZE)?), &mut bytes).ok()?;
    Some(bytes.chunks_exact(8).filter_map(|b| u64_at(b, 0)).collect())
}

impl P2m {
    /// The lists from the frame `root` on; `None` if they lead to no frame at all.
    pub fn find(mem: &dyn PhysMem, root: u64) -> Option<Self> {
        let root = usable(root).filter(|r| *r != 0)?;
        let end = Self::end_of(mem, root)?;
        Some(Self { root, end })
    }

    /// Page frames that are there lie below this one.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Searches from the top. Page frames without memory share one list, which is looked at once.
    fn end_of(mem: &dyn PhysMem, root: u64) -> Option<u64> {
        let mut empty = Vec::new();
        for (i, list) in frames(mem, root)?.into_iter().enumerate().rev() {
            if empty.contains(&list) || list == 0 || usable(list).is_none() {
                continue;
            }
            for (j, leaf) in frames(mem, list).unwrap_or_default().into_iter().enumerate().rev() {
                if empty.contains(&leaf) || leaf == 0 || usable(leaf).is_none() {
                    continue;
                }
                let entries = frames(mem, leaf).unwrap_or_default();
                if let Some(k) = entries.iter().rposition(|e| usable(*e).is_some()) {
                    let leaf = wide(i).wrapping_mul(PER_PAGE).wrapping_add(wide(j));
                    return Some(leaf.wrapping_mul(PER_PAGE).wrapping_add(wide(k)).wrapping_add(1));
                }
                note(&mut empty, leaf);
            }
            note(&mut empty, list);
        }
        None
    }

    /// The machine frame behind `pfn`.
    pub fn frame(&self, mem: &dyn PhysMem, pfn: u64) -> Option<u64> {
        let (leaf, slot) = (pfn.checked_div(PER_PAGE)?, pfn.checked_rem(PER_PAGE)?);
        let list = entry(mem, self.root, leaf.checked_div(PER_PAGE)?).filter(|_| pfn < LIMIT)?;
        entry(mem, entry(mem, list, leaf.checked_rem(PER_PAGE)?)?, slot)
    }

    /// The machine address behind `pseudo`.
    pub fn machine(&self, mem: &dyn PhysMem, pseudo: PhysAddr) -> Option<PhysAddr> {
        let frame = self.frame(mem, pseudo.0.checked_div(PAGE_SIZE)?)?;
        Some(PhysAddr(frame.checked_mul(PAGE_SIZE)? | pseudo.0 & PAGE_SIZE.wrapping_sub(1)))
    }

    /// The machine frames behind the page frames from `start` (a multiple of 512) on, [`INVALID`] where there is none.
    pub fn read(&self, mem: &dyn PhysMem, start: u64, out: &mut [u64]) {
        out.fill(INVALID);
        let mut shared = None;
        for (n, part) in (0u64..).zip(out.chunks_mut(index(PER_PAGE))) {
            let leaf = start.wrapping_div(PER_PAGE).wrapping_add(n);
            let slot = leaf.wrapping_rem(PER_PAGE);
            let list = entry(mem, self.root, leaf.wrapping_div(PER_PAGE)).filter(|_| leaf < LIMIT / PER_PAGE);
            let Some(leaf) = list.and_then(|list| entry(mem, list, slot)) else { continue };
            if shared == Some(leaf) {
                continue;
            }
            let entries = frames(mem, leaf).unwrap_or_default();
            if entries.iter().all(|e| usable(*e).is_none()) {
                shared = Some(leaf);
            }
            for (to, from) in part.iter_mut().zip(entries) {
                *to = usable(from).unwrap_or(INVALID);
            }
        }
    }
}

/// Remembers a frame in which there was nothing; a few are all that a working dom0 has.
fn note(empty: &mut Vec<u64>, frame: u64) {
    if empty.len() < 16 {
        empty.push(frame);
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test may panic"
)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::super::Fault;
    use super::*;

    /// Pages of frame numbers, and how often one was read.
    #[derive(Default)]
    struct Lists(BTreeMap<u64, Vec<u64>>, RefCell<u64>);

    impl PhysMem for Lists {
        fn read(&self, at: PhysAddr, buf: &mut [u8]) -> Result<(), Fault> {
            *self.1.borrow_mut() += 1;
            let page = self.0.get(&(at.0 / PAGE_SIZE)).ok_or(Fault::NotThere(at))?;
            let bytes: Vec<u8> = page.iter().flat_map(|e| e.to_le_bytes()).collect();
            let from = usize::try_from(at.0 % PAGE_SIZE).expect("small");
            buf.copy_from_slice(bytes.get(from..from + buf.len()).expect("inside the page"));
            Ok(())
        }
    }

    /// 700 page frames from machine frame 1000 on, number 600 foreign; the rest of the lists is "missing".
    fn lists() -> Lists {
        let mut lists = Lists::default();
        let page = |f: &dyn Fn(u64) -> u64| (0..512).map(f).collect::<Vec<u64>>();
        lists.0.insert(1, page(&|i| if i == 0 { 2 } else { 3 }));
        lists.0.insert(2, page(&|i| if i < 2 { 4 + i } else { 6 }));
        lists.0.insert(3, page(&|_| 6));
        lists.0.insert(4, page(&|i| 1000 + i));
        lists.0.insert(
            5,
            page(&|i| match i + 512 {
                600 => 1 << 63 | 77,
                n if n < 700 => 1000 + n,
                _ => INVALID,
            }),
        );
        lists.0.insert(6, page(&|_| INVALID));
        lists
    }

    #[test]
    fn frames_are_found_and_the_missing_ones_cost_little() {
        let lists = lists();
        let p2m = P2m::find(&lists, 1).expect("lists");
        assert_eq!(p2m.end(), 700);
        assert!(*lists.1.borrow() < 10, "{} reads", lists.1.borrow());
        assert_eq!(p2m.frame(&lists, 699), Some(1699));
        assert_eq!((p2m.frame(&lists, 600), p2m.frame(&lists, 700), p2m.frame(&lists, u64::MAX)), (None, None, None));
        assert_eq!(p2m.machine(&lists, PhysAddr(0x1234)), Some(PhysAddr(1001 << 12 | 0x234)));
        let mut out = vec![0; 2048];
        p2m.read(&lists, 0, &mut out);
        assert!((0..700).all(|i| out[i] == if i == 600 { INVALID } else { 1000 + i as u64 }));
        assert!(out[700..].iter().all(|e| *e == INVALID));
    }

    #[test]
    fn lists_that_lead_nowhere_are_none() {
        let lists = lists();
        assert_eq!([0, 3, 9, u64::MAX].map(|root| P2m::find(&lists, root)), [None; 4]);
    }
}
