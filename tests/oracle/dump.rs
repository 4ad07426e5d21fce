//! Dumps of real kernels against makedumpfile and drgn: the same pages kept, every one byte for byte what memory held.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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
fn same_pages(ours: &Kdump, theirs: &Kdump, context: &str) {
    let mine: BTreeSet<u64> = ours.kept().into_iter().filter(|pfn| *pfn < theirs.max_mapnr).collect();
    let other: BTreeSet<u64> = theirs.kept().into_iter().collect();
    let only =
        |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.difference(b).take(8).map(|p| format!("{p:#x}")).collect::<Vec<_>>();
    assert!(mine == other, "{context}: only ours {:?}, only theirs {:?}", only(&mine, &other), only(&other, &mine));
    for pfn in ours.kept().into_iter().filter(|pfn| *pfn >= theirs.max_mapnr) {
        assert!((0xfffc0..0x10_0000).contains(&pfn), "{context}: {pfn:#x} is beyond all memory but the ROM");
    }
}

/// Compares all levels on one vmcore.
pub fn compare(kernel: &Kernel, cpu: &str, suite: &str) {
    let core = vmcore(kernel, cpu);
    let raw = Raw::open(&core);
    let work = workdir(&format!("dump-{}-{cpu}", kernel.release));
    // Level 31 by zlib: Debian builds makedumpfile without zstd.
    let codecs = [&["-z"][..], &["-c"], &[]];
    for (i, level) in [0u8, 1, 2, 4, 8, 16, 17, 31].into_iter().enumerate() {
        let context = format!("{} on {cpu}, level {level}", kernel.release);
        let ours = save(&core, &work, level, codecs[i % codecs.len()]);
        let theirs = upstream(suite, &core, &work, level);
        let (mine, other) = (Kdump::open(&ours), Kdump::open(&theirs));
        same_pages(&mine, &other, &context);
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
    read_back(&core, &work, suite, &kernel.release);
}

/// What makedumpfile and drgn make of the dump at level 31, and the log.
fn read_back(core: &Path, work: &Path, suite: &str, release: &str) {
    let dump = work.join("ours.31");
    let log = work.join("dmesg");
    run(Command::new(product()).args(["kdump-save", "-f", "--dump-dmesg"]).arg(core).arg(&log));
    let ours = std::fs::read_to_string(&log).expect("read our log");
    let theirs = work.join("dmesg.theirs");
    run(tool_of(suite, "makedumpfile").args(["-f", "--dump-dmesg"]).arg(&dump).arg(&theirs));
    let theirs = std::fs::read_to_string(theirs).expect("read their log");
    assert_eq!(without_callers(&theirs), ours, "the log from the vmcore and, by makedumpfile, from our dump");
    assert!(ours.trim_end().ends_with(ORACLE), "the last line is the last");
    let said = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(&dump));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("note_release={release}\nmemory_release={release}\n")), "{said}");
    assert_eq!(drgn_page(&dump), Raw::open(core).page(1 << 8), "drgn reads a page by its physical address");
}

/// makedumpfile 1.7.5 and later print `[  T1234] ` behind the time; kernels built without PRINTK_CALLER, as Debian's, don't.
fn without_callers(log: &str) -> String {
    let line = |line: &str| match line.split_once("] [") {
        Some((time, rest)) if time.starts_with('[') && rest.get(8..10) == Some("] ") => {
            format!("{time}] {}\n", &rest[10..])
        }
        _ => match line
            .strip_prefix("          ")
            .filter(|_| log.contains("] [    T") && line.starts_with(&" ".repeat(26)))
        {
            // Further lines of a record are indented as far as its head is wide.
            Some(rest) => format!("{}\n", &rest[1..]),
            None => format!("{line}\n"),
        },
    };
    log.lines().map(line).collect()
}

/// The page at 1 MiB, where every kernel keeps memory of its own.
fn drgn_page(dump: &Path) -> Vec<u8> {
    let script = "import sys, drgn\np = drgn.Program()\np.set_core_dump(sys.argv[1])\n\
                  sys.stdout.buffer.write(p.read(1 << 20, 4096, physical=True))";
    run(drgn().arg("-c").arg(script).arg(dump)).stdout
}
