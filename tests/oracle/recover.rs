//! Real kernels that say too little in VMCOREINFO: what is missing comes out of their own memory, and the same pages are
//! kept as if they had said it.

use kdumpbox::dump::Level;
use kdumpbox::dump::filter::{Filtered, filter};
use kdumpbox::vmcore::{FileInput, Input, Vmcore, VmcoreInfo};

use crate::lab::Kernel;
use crate::lab::core::vmcore;

/// Keys that are left: what it takes to read the kernel's address space at all.
const LEFT: [&str; 8] = [
    "OSRELEASE=",
    "PAGESIZE=",
    "SYMBOL(swapper_pg_dir)=",
    "SYMBOL(_stext)=",
    "SYMBOL(init_uts_ns)=",
    "NUMBER(phys_base)=",
    "NUMBER(pgtable_l5_enabled)=",
    "NUMBER(sme_mask)=",
];

fn reduced(info: &VmcoreInfo, also: &[&str]) -> VmcoreInfo {
    let text = String::from_utf8_lossy(info.text()).into_owned();
    let stays = |l: &&str| LEFT.iter().chain(also).any(|key| l.starts_with(key));
    let text: String = text.lines().filter(stays).map(|l| format!("{l}\n")).collect();
    VmcoreInfo::parse(text.as_bytes())
}

fn kept(core: &Vmcore) -> Filtered {
    filter(core, Level::MAX, false, 2)
}

/// Compares what is kept with all keys and with next to none: where kallsyms is told (6.0 and later) or found by its shape,
/// types by the symbol of the first; where it is neither, but the sections are told, types by their own shape.
pub fn same_without_keys(suite: &str, cpu: &str) {
    let path = vmcore(&Kernel::of(suite), cpu);
    let mut core = Vmcore::open(&path).expect("a vmcore");
    let info = core.vmcoreinfo().expect("VMCOREINFO").clone();
    let whole = kept(&core);
    assert_eq!((whole.degraded.as_slice(), whole.warnings.as_slice()), (&[][..], &[][..]), "{suite} on {cpu}");
    assert!(whole.dropped.free > 10_000, "{suite} on {cpu}: {:?}", whole.dropped);
    for also in [&["SYMBOL(kallsyms_"][..], &["SYMBOL(mem_section)", "SYMBOL(vmemmap)"]] {
        let context = format!("{suite} on {cpu}, with {also:?}");
        core.set_vmcoreinfo(reduced(&info, also));
        let found = kept(&core);
        assert_eq!(found.degraded, [""; 0], "{context}");
        assert!(found.warnings.iter().any(|w| w.contains("read out of the kernel's memory")), "{context}");
        assert_eq!(found.dropped, whole.dropped, "{context}");
        assert!(found.kept.runs().eq(whole.kept.runs()), "{context}: other pages are kept");
    }
}

/// A core whose VMCOREINFO note has another name.
struct Nameless {
    file: FileInput,
    at: u64,
}

impl Input for Nameless {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(offset, buf)?;
        if let Some(byte) = self.at.checked_sub(offset).and_then(|i| buf[..n].get_mut(i as usize)) {
            *byte = b'X';
        }
        Ok(n)
    }
}

/// The text of VMCOREINFO is found where the kernel keeps it.
pub fn same_without_note(suite: &str) {
    let path = vmcore(&Kernel::of(suite), "qemu64");
    let whole = kept(&Vmcore::open(&path).expect("a vmcore"));
    let file = FileInput::open(&path).expect("opened");
    let mut head = vec![0; 64 << 10];
    let n = file.read_at(0, &mut head).expect("read");
    let at = head[..n].windows(11).position(|w| w == b"VMCOREINFO\0").expect("the note's name") as u64;
    let mut core = Vmcore::from_input(Box::new(Nameless { file, at })).expect("a vmcore");
    assert!(core.vmcoreinfo().is_none());
    core.search_vmcoreinfo();
    let found = kept(&core);
    assert_eq!((found.degraded.as_slice(), found.dropped), (&[][..], whole.dropped), "{suite}");
    assert!(found.kept.runs().eq(whole.kept.runs()), "{suite}: other pages are kept");
}
