//! A crashed Xen: what the hypervisor's notes say of it, and its own address space.
//!
//! All memory in such a vmcore is machine memory. The notes are `xen/common/kexec.c`'s; dom0's VMCOREINFO is one more,
//! if whoever loaded the crash kernel passed it on.

use zerocopy::FromBytes;

use super::elf::read_full;
use super::input::Input;
use super::le::index;
use super::notes::Notes;
use super::vmcoreinfo::VmcoreInfo;
use super::{PhysMem, Vmcore};
use crate::abi::xen_notes::{CrashXenCore, CrashXenInfo};
use crate::mem::{PAGE_SIZE, PhysAddr, Range};

/// Longest VMCOREINFO_XEN that is read; Xen's has 4 KiB.
const MAX_INFO: u64 = 64 << 10;
/// Control registers kept; more CPUs than Xen can have.
const MAX_CPUS: usize = 1 << 16;
/// `XEN_VIRT_START` is a multiple of this, and the image ends before the next.
pub const IMAGE_SPAN: u64 = 1 << 30;
/// What each `TAINT_*` bit is printed as (xen/common/kernel.c, `print_tainted`).
const TAINTS: [(u64, char); 6] = [(4, 'I'), (1, 'M'), (0, 'C'), (2, 'E'), (3, 'H'), (5, 'S')];

/// What the notes of a crashed Xen hold.
#[derive(Clone, Debug, Default)]
pub struct Xen {
    /// Control registers, a CPU each, in the order of the notes.
    pub control: Vec<CrashXenCore>,
    /// The hypervisor about itself.
    pub crash: Option<CrashXenInfo>,
    /// VMCOREINFO_XEN.
    pub info: VmcoreInfo,
}

impl Xen {
    /// Takes in the `Xen` note of type `kind` whose descriptor is at `desc`.
    pub(super) fn control(&mut self, input: &dyn Input, desc: Range) {
        if self.control.len() < MAX_CPUS
            && let Some(registers) = read(input, desc)
        {
            self.control.push(registers);
        }
    }

    /// Takes in the note with the hypervisor's version. Of two the first counts.
    pub(super) fn crash(&mut self, input: &dyn Input, desc: Range) {
        self.crash = self.crash.or_else(|| read(input, desc));
    }

    /// Takes in VMCOREINFO_XEN. Of two the first counts.
    pub(super) fn info(&mut self, input: &dyn Input, desc: Range) {
        let mut text = vec![0u8; index(desc.len().min(MAX_INFO))];
        if self.info.text().is_empty() && read_full(input, desc.start(), &mut text).is_ok_and(|n| n == text.len()) {
            self.info = VmcoreInfo::parse(&text);
        }
    }

    /// `4.17.7-pre`: the version, with its extra string as far as the vmcore has it.
    pub fn version(&self, mem: &dyn PhysMem) -> Option<String> {
        let crash = self.crash.as_ref()?;
        let extra = string(mem, crash.xen_extra_version.get()).unwrap_or_default();
        Some(format!("{}.{}{extra}", crash.xen_major_version, crash.xen_minor_version))
    }

    /// The letters of `Tainted: ...`, or `not tainted`.
    pub fn taint(&self) -> Option<String> {
        let tainted = self.crash.as_ref()?.tainted.get();
        if tainted == 0 {
            return Some("not tainted".into());
        }
        let letters: String = TAINTS.iter().filter(|(bit, _)| tainted >> bit & 1 != 0).map(|(_, c)| *c).collect();
        Some(format!("tainted {letters} ({tainted:#x})"))
    }

    /// One line for people: version, changeset, compile date, taint, CPUs.
    pub fn describe(&self, mem: &dyn PhysMem) -> String {
        let version = self.version(mem).unwrap_or_else(|| "of unknown version".into());
        let mut text = format!("Xen {version}");
        if let Some(crash) = &self.crash {
            let more = [("changeset", crash.xen_changeset), ("compiled", crash.xen_compile_date)];
            for (what, at) in more {
                if let Some(value) = string(mem, at.get()).filter(|v| !v.is_empty()) {
                    text.push_str(&format!(", {what} {value}"));
                }
            }
        }
        if let Some(taint) = self.taint() {
            text.push_str(&format!(", {taint}"));
        }
        text.push_str(&format!(", control registers of {} CPUs", self.control.len()));
        text
    }

    /// Where each of the CPUs of `notes` stood, as far as they are kept: a line each.
    pub fn cpus(&self, notes: &Notes) -> Vec<String> {
        let pairs = notes.stopped_at.iter().zip(&self.control);
        let line = |([ip, sp], control): (&[u64; 2], &CrashXenCore)| {
            let CrashXenCore { cr0, cr2, cr3, cr4 } = control;
            format!("rip {ip:#x}, rsp {sp:#x}, cr0 {cr0:#x}, cr2 {cr2:#x}, cr3 {cr3:#x}, cr4 {cr4:#x}")
        };
        pairs.map(line).collect()
    }

    /// Where the image starts in the hypervisor's address space.
    pub fn virt_start(&self) -> Option<u64> {
        Some(self.info.symbol("domain_list")? & !IMAGE_SPAN.wrapping_sub(1))
    }

    /// Machine address of a page of the image.
    fn image(&self, va: u64) -> Option<u64> {
        let offset = va.checked_sub(self.virt_start()?).filter(|o| *o < IMAGE_SPAN)?;
        self.crash.as_ref()?.xen_phys_start.get().checked_add(offset)
    }

    /// Machine address of the page table of the idle domain, which maps all that is the hypervisor's own.
    pub fn page_table(&self) -> Option<PhysAddr> {
        self.image(self.info.symbol("pgd_l4")?).map(PhysAddr)
    }
}

impl Vmcore {
    /// What the notes say of the hypervisor; `None` if none was there.
    pub fn xen(&self) -> Option<&Xen> {
        self.notes().xen.as_ref()
    }
}

/// A descriptor of this layout, or a longer one that begins with it.
fn read<T: FromBytes>(input: &dyn Input, desc: Range) -> Option<T> {
    let mut bytes = vec![0u8; size_of::<T>()];
    let whole = desc.len() >= super::le::wide(bytes.len())
        && read_full(input, desc.start(), &mut bytes).is_ok_and(|n| n == bytes.len());
    whole.then(|| T::read_from_bytes(&bytes).ok()).flatten()
}

/// The string at a machine address, if it is printable and ends within 80 bytes and its page.
fn string(mem: &dyn PhysMem, at: u64) -> Option<String> {
    let room = PAGE_SIZE.wrapping_sub(at & PAGE_SIZE.wrapping_sub(1)).min(80);
    let mut bytes = vec![0u8; index(room)];
    mem.read(PhysAddr(at), &mut bytes).ok()?;
    let text = bytes.get(..bytes.iter().position(|b| *b == 0)?)?;
    let printable = text.iter().all(|b| (b' '..=b'~').contains(b));
    printable.then(|| String::from_utf8_lossy(text).into_owned())
}
