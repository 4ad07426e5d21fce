//! The notes of a vmcore (elf(5)): one NT_PRSTATUS for each CPU, VMCOREINFO, device dumps, perhaps Xen's.
//!
//! The areas are walked in the file, header by header: a device dump of many megabytes is stepped over, not loaded.

use super::elf::read_full;
use super::input::Input;
use super::le::{index, u32_at, u64_at, wide};
use super::vmcoreinfo::VmcoreInfo;
use super::xen::Xen;
use crate::abi::xen_notes::{NAME as XEN, VMCOREINFO_XEN, XEN_ELFNOTE_CRASH_INFO, XEN_ELFNOTE_CRASH_REGS};
use crate::mem::Range;

const NT_PRSTATUS: u32 = 1;
/// `rip`, 16th of the registers at 112 of `struct elf_prstatus`; three words on is `rsp`.
const PR_REG_IP: u64 = 112 + 16 * 8;
/// CPUs whose registers are kept to be shown; those of all others are in the notes.
pub const SHOWN_CPUS: usize = 16;
/// Longest VMCOREINFO text that is read; the kernel's has 4 KiB.
const MAX_VMCOREINFO: u64 = 4 << 20;
/// More notes than any machine has CPUs and devices.
const MAX_NOTES: usize = 1 << 18;

/// What the notes hold.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The note areas, as ranges of the file, clipped to its end.
    pub areas: Vec<Range>,
    /// Number of `CORE` NT_PRSTATUS notes: the CPUs whose registers were saved.
    pub cpus: u32,
    /// Instruction and stack pointer of the first [`SHOWN_CPUS`] of them.
    pub stopped_at: Vec<[u64; 2]>,
    /// The VMCOREINFO text; of two, the first with an OSRELEASE.
    pub vmcoreinfo: Option<VmcoreInfo>,
    /// Where that text lies in the file.
    pub vmcoreinfo_at: Option<Range>,
    /// What the hypervisor says of itself, if there was one.
    pub xen: Option<Xen>,
    /// Whether a note reaches beyond its area or the file.
    pub cut: bool,
}

impl Notes {
    /// Walks `areas`. Never fails: what can't be read is as good as absent.
    pub fn read(input: &dyn Input, areas: &[Range]) -> Self {
        let mut notes = Notes::default();
        for area in areas {
            let end = area.end().min(input.size());
            notes.cut |= end < area.end();
            if let Some(clipped) = Range::new(area.start(), end).filter(|r| !r.is_empty()) {
                notes.areas.push(clipped);
                notes.walk(input, clipped);
            }
        }
        notes
    }

    fn walk(&mut self, input: &dyn Input, area: Range) {
        let mut at = area.start();
        for _ in 0..MAX_NOTES {
            let mut head = [0u8; 12 + 16];
            let room = area.end().saturating_sub(at).min(wide(head.len()));
            let Some(wanted) = head.get_mut(..index(room)).filter(|h| h.len() >= 12) else { return };
            let Ok(got) = read_full(input, at, wanted) else { return };
            let head = head.get(..got).unwrap_or_default();
            let (Some(namesz), Some(descsz), Some(kind)) = (u32_at(head, 0), u32_at(head, 4), u32_at(head, 8)) else {
                return;
            };
            // The kernel ends an area at a note without a name; everything behind it is padding.
            if namesz == 0 {
                return;
            }
            let name = head.get(12..).unwrap_or_default();
            let name = name.get(..index(u64::from(namesz)).min(name.len())).unwrap_or_default();
            let desc_at = at.saturating_add(12).saturating_add(u64::from(namesz).next_multiple_of(4));
            let Some(desc) = Range::with_len(desc_at, u64::from(descsz)) else { return };
            if desc.end() > area.end() {
                self.cut = true;
                return;
            }
            self.take(input, name, kind, desc);
            at = desc_at.saturating_add(u64::from(descsz).next_multiple_of(4));
        }
    }

    fn take(&mut self, input: &dyn Input, name: &[u8], kind: u32, desc: Range) {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name == b"CORE" && kind == NT_PRSTATUS {
            self.cpus = self.cpus.saturating_add(1);
            if self.stopped_at.len() < SHOWN_CPUS {
                let mut words = [0u8; 4 * 8];
                let at = desc.start().saturating_add(PR_REG_IP);
                let inside = desc.len() >= PR_REG_IP.saturating_add(wide(words.len()));
                let there = inside && read_full(input, at, &mut words).is_ok_and(|n| n == words.len());
                let word = |n: usize| u64_at(&words, n).filter(|_| there).unwrap_or(0);
                self.stopped_at.push([word(0), word(24)]);
            }
        }
        if name == XEN || name == VMCOREINFO_XEN {
            let xen = self.xen.get_or_insert_default();
            match kind {
                XEN_ELFNOTE_CRASH_REGS if name == XEN => xen.control(input, desc),
                XEN_ELFNOTE_CRASH_INFO if name == XEN => xen.crash(input, desc),
                _ if name == VMCOREINFO_XEN => xen.info(input, desc),
                _ => {}
            }
        }
        if name != b"VMCOREINFO" || desc.len() > MAX_VMCOREINFO {
            return;
        }
        let known = self.vmcoreinfo.as_ref().is_some_and(|i| i.get("OSRELEASE").is_some());
        let mut text = vec![0u8; index(desc.len())];
        if !known && read_full(input, desc.start(), &mut text).is_ok_and(|n| n == text.len()) {
            self.vmcoreinfo = Some(VmcoreInfo::parse(&text));
            self.vmcoreinfo_at = Some(desc);
        }
    }
}
