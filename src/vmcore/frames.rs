//! Whose each machine frame is: Xen's frame table, one `struct page_info` a frame (xen/arch/x86/include/asm/mm.h), and
//! the list of domains (xen/include/xen/sched.h).
//!
//! VMCOREINFO_XEN says where members are, not what the bits of `count_info` mean; those moved in 2022 and by backports.
//! So the frames themselves are asked which of the two layouts they follow, and nothing is called free if they disagree
//! with the version. A guest's frame needs none of the moved bits but two: it names its owner.

use super::le::{index, u32_at, u64_at, wide};
use super::pages::Class;
use super::xen::Xen;
use super::{AddressSpace, Fault, PhysMem, Vmcore};
use crate::error::{Error, Kind, Result};
use crate::mem::{PAGE_SIZE, VirtAddr};

/// `PGC_allocated`: bit 63 in every version. Set on a free frame it says "needs scrubbing".
const ALLOCATED: u64 = 1 << 63;
/// `PGC_xen_heap`.
const XEN_HEAP: u64 = 1 << 62;
/// `PGC_need_scrub` of Xen 4.22 (cbb484d008); before, it was [`ALLOCATED`].
const NEED_SCRUB: u64 = 1 << 57;
/// `DOMID_FIRST_RESERVED`: such domains are the hypervisor's own (dom_io, dom_xen).
const FIRST_RESERVED: u16 = 0x7ff0;
/// More domains than domain ids.
const MAX_DOMAINS: usize = 1 << 16;
/// Frames looked at to find out which layout they follow.
const SAMPLES: u64 = 128;
/// Frames of one sample.
const SAMPLE: u64 = 1024;

/// What the bits of `count_info` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct States {
    /// `PGC_broken`.
    broken: u64,
    /// Lower bit of `PGC_state`.
    shift: u32,
}

/// Since XSA-402 (ae09597da3, in 4.17 and in 4.13.5, 4.14.6, 4.15.5, 4.16.6).
const NEW: States = States { broken: 1 << 60, shift: 58 };
/// Before.
const OLD: States = States { broken: 1 << 57, shift: 55 };
/// `PGC_state_*`.
const OFFLINED: u64 = 2;
const FREE: u64 = 3;

impl States {
    const fn state(self, count_info: u64) -> u64 {
        count_info >> self.shift & 3
    }

    /// Free and nothing else: no reference, no other flag.
    fn is_free(self, count_info: u64) -> bool {
        let scrub = if self == NEW { ALLOCATED | NEED_SCRUB } else { ALLOCATED };
        Some(count_info & !scrub) == FREE.checked_shl(self.shift)
    }
}

/// The frame table of a crashed Xen, and which owners are guests.
pub struct FrameTable {
    space: AddressSpace,
    table: u64,
    /// `sizeof(struct page_info)`.
    pub size: usize,
    count_at: usize,
    owner_at: usize,
    wide_owner: bool,
    states: Option<States>,
    /// Owners that are guests: frame numbers of their `struct domain`, as `page_info` names them.
    guests: Vec<u64>,
    /// Why free frames can't be told, if so.
    pub doubt: Option<String>,
}

struct Domain {
    id: u16,
    frame: u64,
}

fn missing(what: impl Into<String>) -> Error {
    Error::new(Kind::Missing, what)
}

impl FrameTable {
    /// Finds the table and checks it against frames whose owner is known.
    ///
    /// # Errors
    /// Why no frame's owner can be told.
    pub fn find(core: &Vmcore) -> Result<Self> {
        let xen = core.xen().ok_or_else(|| missing("the vmcore has no notes of Xen"))?;
        let key = |k: &str| missing(format!("VMCOREINFO_XEN lacks {k}"));
        let info = &xen.info;
        let offset = |k: &str| info.offset(k).ok_or_else(|| key(&format!("OFFSET({k})")));
        let size = info.size("page_info").filter(|n| (16..=256).contains(n)).ok_or_else(|| key("SIZE(page_info)"))?;
        let (count_at, owner_at) = (offset("page_info.count_info")?, offset("page_info._domain")?);
        let space = AddressSpace::of_xen(xen);
        let mem = core.reader();
        let symbol = info.symbol("frame_table").ok_or_else(|| key("SYMBOL(frame_table)"))?;
        let table = space
            .read_u64(&mem, VirtAddr(symbol))
            .map_err(|e| Error::new(Kind::Invalid, format!("frame_table can't be read: {e}")))?;
        let wide_owner = owner_at.checked_rem(8) == Some(0) && size.saturating_sub(owner_at) >= 16;
        let mut found =
            Self { space, table, size, count_at, owner_at, wide_owner, states: None, guests: Vec::new(), doubt: None };
        let domains = found.domains(xen, &mem)?;
        found.verify(core, xen, &mem, &domains)?;
        found.guests = domains.iter().filter(|d| d.id != 0 && d.id < FIRST_RESERVED).map(|d| d.frame).collect();
        found.guests.sort_unstable();
        found.vote(core, xen, &mem);
        Ok(found)
    }

    /// Walks the list of domains.
    fn domains(&self, xen: &Xen, mem: &dyn PhysMem) -> Result<Vec<Domain>> {
        let key = |k: &str| missing(format!("VMCOREINFO_XEN lacks {k}"));
        let list = xen.info.symbol("domain_list").ok_or_else(|| key("SYMBOL(domain_list)"))?;
        let offset = |k: &str| xen.info.offset(k).map(wide).ok_or_else(|| key(&format!("OFFSET({k})")));
        let (id_at, next_at) = (offset("domain.domain_id")?, offset("domain.next_in_list")?);
        let bad = |e: Fault| Error::new(Kind::Invalid, format!("the list of domains can't be read: {e}"));
        let mut domains = Vec::new();
        let mut va = self.space.read_u64(mem, VirtAddr(list)).map_err(bad)?;
        while va != 0 && domains.len() < MAX_DOMAINS {
            let at = self.space.translate(mem, VirtAddr(va)).map_err(bad)?;
            let id = self.space.read_u32(mem, VirtAddr(va.wrapping_add(id_at))).map_err(bad)?;
            let id = u16::try_from(id & 0xffff).unwrap_or(FIRST_RESERVED);
            domains.push(Domain { id, frame: at.phys.0.checked_div(PAGE_SIZE).unwrap_or(0) });
            va = self.space.read_u64(mem, VirtAddr(va.wrapping_add(next_at))).map_err(bad)?;
        }
        let whole = va == 0 && domains.iter().filter(|d| d.id == 0).count() == 1;
        whole.then_some(domains).ok_or_else(|| Error::new(Kind::Invalid, "the list of domains does not hold dom0 once"))
    }

    fn page_info(&self, mem: &dyn PhysMem, frame: u64) -> Result<(u64, u64), Fault> {
        let mut bytes = vec![0u8; self.size];
        self.read(mem, frame, &mut bytes)?;
        Ok((u64_at(&bytes, self.count_at).unwrap_or(0), self.owner(&bytes)))
    }

    /// Frames are counted without holes only if Xen compresses no frame numbers, which its notes don't say. If it
    /// does, the table ends long before the last frame, and owners are not where they are looked for.
    fn verify(&self, core: &Vmcore, xen: &Xen, mem: &dyn PhysMem, domains: &[Domain]) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::new(Kind::Invalid, format!("{what}: Xen may compress frame numbers, so no owner can be told")))
        };
        let last = core.end().0.saturating_sub(1).checked_div(PAGE_SIZE).unwrap_or(0);
        if let Err(e) = self.page_info(mem, last) {
            return wrong(format!("the frame table lacks the last frame {last:#x}: {e}"));
        }
        let heap = |d: &Domain| self.page_info(mem, d.frame).is_ok_and(|(count, _)| count & XEN_HEAP != 0);
        if let Some(domain) = domains.iter().find(|d| !heap(d)) {
            return wrong(format!("domain {} at frame {:#x} is not in Xen's heap", domain.id, domain.frame));
        }
        // What dom0 published of itself is its own.
        let root = xen.crash.map(|c| c.dom0_pfn_to_mfn_frame_list_list.get()).filter(|r| *r != 0);
        let known = root.and_then(|root| self.page_info(mem, root).ok());
        let dom0 = domains.iter().find(|d| d.id == 0).map(|d| d.frame);
        match known {
            Some((_, owner)) if Some(owner) != dom0 => {
                wrong(format!("dom0's p2m list is at a frame whose owner is {owner:#x}, not dom0"))
            }
            _ => Ok(()),
        }
    }

    /// Which layout the frames follow: in the other one hardly a frame is free and nothing else.
    fn vote(&mut self, core: &Vmcore, xen: &Xen, mem: &dyn PhysMem) {
        let (mut new, mut old) = (0u64, 0u64);
        let frames = core.end().0.checked_div(PAGE_SIZE).unwrap_or(0);
        let step = frames.checked_div(SAMPLES).unwrap_or(0).max(SAMPLE);
        let mut bytes = vec![0u8; self.size.saturating_mul(index(SAMPLE))];
        let mut at = 0u64;
        while at < frames {
            let count = index(SAMPLE.min(frames.wrapping_sub(at))).saturating_mul(self.size);
            if let Some(part) = bytes.get_mut(..count)
                && self.read(mem, at, part).is_ok()
            {
                for count_info in part.chunks_exact(self.size).filter_map(|p| u64_at(p, self.count_at)) {
                    new = new.wrapping_add(u64::from(NEW.is_free(count_info)));
                    old = old.wrapping_add(u64::from(OLD.is_free(count_info)));
                }
            }
            at = at.saturating_add(step);
        }
        let told = by_version(&xen.version(mem).unwrap_or_default());
        let seen = match (new, old) {
            (0, 0) => None,
            (n, o) if n >= o => Some(NEW),
            _ => Some(OLD),
        };
        self.states = match (told, seen) {
            (Some(told), Some(seen)) if told != seen => None,
            (told, seen) => seen.or(told),
        };
        if self.states.is_none() {
            self.doubt = Some(format!(
                "{new} of the frames looked at are free by the page states of Xen 4.17 and {old} by those before, which \
                 does not fit the version; free frames are kept"
            ));
        }
    }

    /// Fills `buf` with the `page_info` of `frame` and those behind it.
    ///
    /// # Errors
    /// If they are not all there.
    pub fn read(&self, mem: &dyn PhysMem, frame: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let at = frame.saturating_mul(wide(self.size));
        self.space.read(mem, VirtAddr(self.table.wrapping_add(at)), buf)
    }

    /// The frame number of the owner's `struct domain`. 32 bits, but 64 where Xen was built for more than 16 TiB.
    fn owner(&self, page_info: &[u8]) -> u64 {
        let narrow = u32_at(page_info, self.owner_at).map(u64::from);
        let owner = if self.wide_owner { u64_at(page_info, self.owner_at) } else { narrow };
        owner.unwrap_or(0)
    }

    /// Why the frame that `page_info` describes may be left out; `None` is "keep".
    pub fn classify(&self, page_info: &[u8]) -> Option<Class> {
        let count_info = u64_at(page_info, self.count_at)?;
        if count_info & XEN_HEAP != 0 {
            return None;
        }
        if let Some(states) = self.states {
            if states.is_free(count_info) {
                return Some(Class::Free);
            }
            if count_info & states.broken != 0 {
                return Some(Class::Hwpoison);
            }
            match states.state(count_info) {
                OFFLINED => return Some(Class::Offline),
                FREE => return None,
                _ => {}
            }
        }
        let guest = count_info & ALLOCATED != 0 && self.guests.binary_search(&self.owner(page_info)).is_ok();
        guest.then_some(Class::Guest)
    }

    /// Guests in the list of domains.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }
}

/// The layout of a version as its release notes have it; `None` where the version is not understood.
fn by_version(version: &str) -> Option<States> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    // An unstable 4.17 has no third number, and may be from before or after.
    let point = numbers.next().flatten();
    match (major, minor, point) {
        (4, 17, None) => None,
        (5.., ..) | (4, 17.., _) => Some(NEW),
        (4, 13, Some(5..)) | (4, 14 | 16, Some(6..)) | (4, 15, Some(5..)) => Some(NEW),
        // 4.16 before .6 may carry the fix as a distribution's patch, as may the others.
        (4, 13..=16, _) => None,
        (4, 3..=12, _) => Some(OLD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_say_their_layout() {
        for (version, states) in [
            ("4.17.7", Some(NEW)),
            ("4.20.0-pre", Some(NEW)),
            ("4.14.6", Some(NEW)),
            ("4.14.5", None),
            ("4.11.4", Some(OLD)),
            ("4.17-unstable", None),
            ("", None),
            ("5.0.0", Some(NEW)),
        ] {
            assert_eq!(by_version(version), states, "{version}");
        }
    }

    #[test]
    fn free_is_free_and_nothing_else() {
        for (states, free) in [(NEW, 3u64 << 58), (OLD, 3 << 55)] {
            assert!(states.is_free(free) && states.is_free(free | ALLOCATED));
            assert!(!states.is_free(free | 1) && !states.is_free(free | XEN_HEAP) && !states.is_free(0));
        }
        assert!(!NEW.is_free(3 << 55) && !OLD.is_free(3 << 58));
    }
}
