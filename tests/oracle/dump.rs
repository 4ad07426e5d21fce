//! Dumps of real kernels against makedumpfile and drgn: the same pages kept, every one byte for byte what memory held.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kdumpbox::mem::VirtAddr;
use kdumpbox::vmcore::sections::Sections;
use kdumpbox::vmcore::{AddressSpace, Vmcore};

use crate::lab::core::{ORACLE, vmcore};
use crate::lab::{Kernel, checkout, drgn, product, run, tool_of, workdir};
use crate::support::kdump::{Kdump, Page};

/// The vmcore itself: program headers at 64, as the laboratory leaves them.
struct Raw {
    file: File,
    /// Physical start, size, file offset.
    loads: Vec<[u64; 3]>,
}

impl Raw {
    fn open(path: &Path) -> Self {
        let file = File::open(path).expect("open the vmcore");
        let mut head = [0u8; 4096];
        file.read_exact_at(&mut head, 0).expect("read its headers");
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let count = usize::from(head[56]);
        let phdrs = (0..count).map(|i| 64 + 56 * i).filter(|at| head[*at] == 1);
        let loads = phdrs.map(|at| [word(at + 24), word(at + 32), word(at + 8)]).collect();
        Self { file, loads }
    }

    fn page(&self, pfn: u64) -> Vec<u8> {
        let at = pfn * 4096;
        let [start, _, offset] = self.loads.iter().find(|[s, n, _]| *s <= at && at < s + n).expect("a page of memory");
        let mut page = vec![0; 4096];
        self.file.read_exact_at(&mut page, offset + at - start).expect("read a page");
        page
    }
}

fn save(core: &Path, work: &Path, level: u8, options: &[&str]) -> PathBuf {
    let dump = work.join(format!("ours.{level}"));
    let mut command = Command::new(product());
    let level = level.to_string();
    run(command.args(["kdump-save", "-f", "-d", &level]).args(options).arg(core).arg(&dump));
    dump
}

fn upstream(suite: &str, core: &Path, work: &Path, level: u8) -> PathBuf {
    let dump = work.join(format!("theirs.{level}"));
    run(tool_of(suite, "makedumpfile").args(["-f", "-d", &level.to_string()]).arg(core).arg(&dump));
    dump
}

/// The first address behind what makedumpfile looks at. It ends its bitmaps at the last section that has struct pages;
/// QEMU's cores also hold the firmware's ROM below 4 GiB, which has none. We keep it: nothing proves it droppable.
fn same_pages(core: &Path, ours: &Kdump, theirs: &Kdump, context: &str) {
    let mut mine: BTreeSet<u64> = ours.kept().into_iter().filter(|pfn| *pfn < theirs.max_mapnr).collect();
    let other: BTreeSet<u64> = theirs.kept().into_iter().collect();
    let lost: Vec<u64> = mine.difference(&other).copied().collect();
    let errors = upstreams_errors(core, &lost);
    mine.retain(|pfn| !errors.contains(pfn));
    let only =
        |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.difference(b).take(8).map(|p| format!("{p:#x}")).collect::<Vec<_>>();
    assert!(mine == other, "{context}: only ours {:?}, only theirs {:?}", only(&mine, &other), only(&other, &mine));
    for pfn in ours.kept().into_iter().filter(|pfn| *pfn >= theirs.max_mapnr) {
        assert!((0xfffc0..0x10_0000).contains(&pfn), "{context}: {pfn:#x} is beyond all memory but the ROM");
    }
}

/// Those of `pages` that makedumpfile 1.7.8 drops though they are the kernel's: tail pages with the low bit set at `mapping`
/// (7.x fills the tails of its slabs and large kmallocs with ones), which it takes for anonymous memory, and the page that
/// a segment ends in the middle of.
fn upstreams_errors(core: &Path, pages: &[u64]) -> BTreeSet<u64> {
    let halves = Raw::open(core).loads.into_iter().map(|[start, size, _]| start + size).filter(|end| end % 4096 != 0);
    let mut found: BTreeSet<u64> = halves.map(|end| end / 4096).filter(|pfn| pages.contains(pfn)).collect();
    let core = Vmcore::open(core).expect("a vmcore");
    let info = core.vmcoreinfo().expect("VMCOREINFO");
    let space = AddressSpace::of(&core, info);
    let head = info.offset("page.compound_head").or(info.offset("page.compound_info"));
    let words = head.zip(info.offset("page.mapping")).zip(info.symbol("vmemmap").zip(info.size("page")));
    let Some(((head, mapping), (base, size))) = words else { return found };
    let word = |pfn: u64, at: usize| {
        let va = base.wrapping_add(pfn * size as u64 + at as u64);
        space.read_u64(&core.reader(), VirtAddr(va)).expect("a struct page")
    };
    let odd = |pfn: &&u64| word(**pfn, head) & 1 != 0 && word(**pfn, mapping) & 1 != 0;
    found.extend(pages.iter().filter(odd));
    found
}

/// Compares all levels on a vmcore that QEMU made.
pub fn compare(kernel: &Kernel, cpu: &str, suite: &str) {
    let core = vmcore(kernel, cpu);
    let work = compare_core(&core, &kernel.release, cpu, suite);
    let log = read_back(&core, &work, suite, &kernel.release);
    assert!(log.trim_end().ends_with(ORACLE), "the last line is the last");
}

/// Compares all levels on `core` with the makedumpfile of `suite`; where our dump at level 31 is.
pub fn compare_core(core: &Path, release: &str, name: &str, suite: &str) -> PathBuf {
    let raw = Raw::open(core);
    let work = workdir(&format!("dump-{release}-{name}"));
    // Level 31 by zlib: Debian builds makedumpfile without zstd.
    let codecs = [&["-z"][..], &["-c"], &[]];
    for (i, level) in [0u8, 1, 2, 4, 8, 16, 17, 31].into_iter().enumerate() {
        let context = format!("{release} on {name}, level {level}");
        let ours = save(core, &work, level, codecs[i % codecs.len()]);
        let theirs = upstream(suite, core, &work, level);
        let (mine, other) = (Kdump::open(&ours), Kdump::open(&theirs));
        same_pages(core, &mine, &other, &context);
        assert_eq!(mine.status & 8, 0, "{context}: complete");
        // Nearly all memory is in the low levels: a sample there, everything where most was left out.
        let kept = mine.kept();
        let step = if level == 31 { 1 } else { 13 };
        for (index, pfn) in kept.iter().enumerate().step_by(step) {
            assert!(mine.by_index(index, *pfn) == Page::Data(raw.page(*pfn)), "{context}: page {pfn:#x} differs");
        }
        std::fs::remove_file(theirs).expect("remove");
        if level != 31 {
            std::fs::remove_file(ours).expect("remove");
        }
    }
    work
}

/// Struct pages of left-out pages: upstream's set, and a dump that drgn opens.
pub fn compare_struct_pages(kernel: &Kernel, suite: &str) {
    let core = vmcore(kernel, "qemu64");
    let work = workdir(&format!("dump-e-{}", kernel.release));
    let ours = save(&core, &work, 31, &["-e"]);
    let theirs = work.join("theirs");
    let mut command = tool_of(suite, "makedumpfile");
    run(command.args(["-f", "-e", "-d31", "--work-dir"]).arg(&work).arg(&core).arg(&theirs));
    let (mine, other) = (Kdump::open(&ours), Kdump::open(&theirs));
    assert_eq!((mine.status & 0x10, other.status & 0x10), (0x10, 0x10), "{}", kernel.release);
    let kept = |dump: &Kdump| dump.kept().into_iter().filter(|p| *p < other.max_mapnr).collect::<BTreeSet<u64>>();
    let (mine, other_kept) = (kept(&mine), kept(&other));
    let lost: Vec<&u64> = other_kept.difference(&mine).collect();
    assert!(mine.is_subset(&other_kept), "{}: more kept than makedumpfile keeps", kernel.release);
    // makedumpfile misses one here and there, alone between others that it keeps.
    let plain = Kdump::open(&upstream(suite, &core, &work, 31));
    let describing = struct_pages(&core);
    let idle = |page: u64| describing.iter().any(|(p, pfns)| *p == page && !pfns.clone().any(|pfn| plain.is_kept(pfn)));
    assert!(lost.iter().all(|page| idle(**page)), "{}: {lost:x?} describe kept pages", kernel.release);
    assert!(lost.len() < 16, "{}: {} struct pages that makedumpfile keeps", kernel.release, lost.len());
    let said = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(&ours));
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("memory_release={}\n", kernel.release)));
}

/// Each page of struct pages, and which page frames it describes.
fn struct_pages(core: &Path) -> Vec<(u64, std::ops::Range<u64>)> {
    let core = Vmcore::open(core).expect("a vmcore");
    let info = core.vmcoreinfo().expect("VMCOREINFO");
    let (space, mem) = (AddressSpace::of(&core, info), core.reader());
    let sections = Sections::find(info, &space, &mem, core.end().0 / 4096).expect("sections");
    let size = info.size("page").expect("SIZE(page)");
    let mut found = Vec::new();
    for section in 0..8 {
        let Some(base) = sections.struct_pages(&space, &mem, section, size) else { continue };
        for n in 0..512u64 {
            let va = base + n * 4096;
            let Ok(mapped) = space.translate(&mem, VirtAddr(va)) else { continue };
            let first = section * sections.pages_per_section + n * 64;
            found.push((mapped.phys.0 / 4096, first..first + 64));
        }
    }
    found
}

/// What makedumpfile and drgn make of the dump at level 31, and the log.
pub fn read_back(core: &Path, work: &Path, suite: &str, release: &str) -> String {
    let dump = work.join("ours.31");
    let log = work.join("dmesg");
    run(Command::new(product()).args(["kdump-save", "-f", "--dump-dmesg"]).arg(core).arg(&log));
    let ours = std::fs::read_to_string(&log).expect("read our log");
    let theirs = work.join("dmesg.theirs");
    run(tool_of(suite, "makedumpfile").args(["-f", "--dump-dmesg"]).arg(&dump).arg(&theirs));
    let theirs = std::fs::read_to_string(theirs).expect("read their log");
    assert_eq!(without_callers(&theirs), ours, "the log from the vmcore and, by makedumpfile, from our dump");
    let said = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(&dump));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("note_release={release}\nmemory_release={release}\n")), "{said}");
    let raw = Raw::open(core);
    let pfns: Vec<u64> = Kdump::open(&dump).kept().into_iter().step_by(31).collect();
    let pages: Vec<u8> = pfns.iter().flat_map(|pfn| raw.page(*pfn)).collect();
    assert!(drgn_pages(&dump, &pfns) == pages, "drgn reads pages by their physical addresses");
    for codec in ["-l", "-p", "-E"] {
        let dump = save(core, work, 31, &[codec]);
        assert!(drgn_pages(&dump, &pfns) == pages, "drgn reads other pages from a dump by {codec}");
    }
    ours
}

/// makedumpfile 1.7.5 and later print `[  T1234] ` behind the time; kernels built without PRINTK_CALLER, as Debian's, don't.
fn without_callers(log: &str) -> String {
    let head = |line: &str| {
        let (time, rest) = line.split_once("] [")?;
        let caller = time.starts_with('[') && rest.get(8..10) == Some("] ");
        caller.then(|| format!("{time}] {}\n", &rest[10..]))
    };
    let callers = log.lines().any(|line| head(line).is_some());
    let line = |line: &str| match line.strip_prefix("           ").filter(|rest| callers && rest.starts_with("    ")) {
        // Further lines of a record are indented as far as its head is wide.
        Some(rest) => format!("{rest}\n"),
        None => head(line).unwrap_or_else(|| format!("{line}\n")),
    };
    log.lines().map(line).collect()
}

/// Pages by their numbers.
fn drgn_pages(dump: &Path, pfns: &[u64]) -> Vec<u8> {
    let script = "import sys, drgn\np = drgn.Program()\np.set_core_dump(sys.argv[1])\nfor pfn in sys.argv[2:]:\n \
                  sys.stdout.buffer.write(p.read(int(pfn) << 12, 4096, physical=True))";
    let pfns = pfns.iter().map(u64::to_string);
    run(drgn().arg("-c").arg(script).arg(dump).args(pfns)).stdout
}
