//! The dump of a real Xen crash, judged by makedumpfile: a dom0 of 384 MiB on 1 GiB, Xen 4.17.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::core::ORACLE;
use crate::lab::xen_core::{XenCore, vmcore};
use crate::lab::{SUITE, product, run, tool, workdir};
use crate::support::kdump::{Kdump, Page};

/// Our dump of `core`; the exit code must be `code`.
fn ours(core: &Path, dump: PathBuf, args: &[&str], code: i32) -> Kdump {
    let out = Command::new(product()).args(["kdump-save", "-c", "-f"]).args(args).arg(core).arg(&dump).output();
    let out = out.expect("start kdump-save");
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Kdump::open(&dump)
}

fn theirs(core: &Path, dump: PathBuf, args: &[&str]) -> Kdump {
    run(tool("makedumpfile").args(["--message-level", "4", "-c", "-f"]).args(args).arg(core).arg(&dump));
    Kdump::open(&dump)
}

fn indexed(dump: &Kdump) -> BTreeMap<u64, usize> {
    dump.kept().into_iter().enumerate().map(|(i, pfn)| (pfn, i)).collect()
}

/// Frames that only the first, only the second has; pages of both must have the same bytes.
fn compare(ours: &Kdump, theirs: &Kdump) -> [Vec<u64>; 2] {
    let (a, b) = (indexed(ours), indexed(theirs));
    for (pfn, i) in &a {
        if let Some(j) = b.get(pfn) {
            assert!(ours.by_index(*i, *pfn) == theirs.by_index(*j, *pfn), "{pfn:#x} has the same bytes in both");
        }
    }
    let only = |x: &BTreeMap<u64, usize>, y: &BTreeMap<u64, usize>| {
        x.keys().filter(|pfn| !y.contains_key(pfn)).copied().collect()
    };
    [only(&a, &b), only(&b, &a)]
}

/// The same frames, but for the one that memory ends inside of: makedumpfile drops such a fragment wherever it reads no
/// page descriptors.
fn same(ours: &Kdump, theirs: &Kdump, context: &str) {
    let [more, less] = compare(ours, theirs);
    assert!(more.iter().all(|pfn| *pfn == 0x9f) && less.is_empty(), "{context}: {more:x?}, {less:x?}");
}

fn text(core: &Path, option: &str) -> String {
    let out = run(Command::new(product()).args(["kdump-save", "-q", option]).arg(core));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn case_29_a_crashed_xen_keeps_what_makedumpfile_keeps() {
    let core = vmcore(SUITE);
    let work = workdir("oracle-xen");
    let dump = |name: &str| work.join(name);
    for level in ["-d0", "-d1", "-d31"] {
        let a = ours(&core.with_dom0, dump("ours"), &[level], 0);
        let b = theirs(&core.with_dom0, dump("theirs"), &[level]);
        same(&a, &b, level);
        // Names, status, sizes, CPUs; then all of the sub header.
        let head = |d: &Kdump| [&d.bytes()[8..402], &d.bytes()[424..464], &d.bytes()[4096..4200]].concat();
        assert_eq!(head(&a), head(&b), "{level}: the headers are the same");
    }
    // Upstream's own core, without dom0's VMCOREINFO: makedumpfile refuses the level; ours saves all.
    let plain = ours(&core.plain, dump("ours"), &["-d31"], 8);
    same(&plain, &theirs(&core.plain, dump("theirs"), &["-d0"]), "without dom0's VMCOREINFO");
}

#[test]
fn case_29_guests_and_free_frames_go_further_than_makedumpfile_takes_them() {
    let core = vmcore(SUITE);
    let work = workdir("oracle-xen-x");
    let a = ours(&core.with_dom0, work.join("ours"), &["-X", "-d31"], 0);
    let b = theirs(&core.with_dom0, work.join("theirs"), &["-X", "-d31"]);
    let [more, less] = compare(&a, &b);
    // makedumpfile drops the first MiB, which is no guest's.
    assert!(more.iter().all(|pfn| *pfn < 0x100), "kept by us only: {more:x?}");
    // It reads the page states of 4.16, so it finds nothing free. What is free was scrubbed.
    assert!(less.len() > 50_000, "{} frames", less.len());
    let index = indexed(&b);
    assert!(less.iter().all(|pfn| b.by_index(index[pfn], *pfn) == Page::Data(vec![0; 4096])), "free frames are zero");
}

#[test]
fn case_29_the_log_of_dom0_and_the_console_of_xen() {
    let XenCore { plain, with_dom0, console } = vmcore(SUITE);
    let work = workdir("oracle-xen-text");
    run(tool("makedumpfile")
        .args(["--message-level", "4", "-f", "--dump-dmesg"])
        .arg(&with_dom0)
        .arg(work.join("log")));
    let theirs = std::fs::read_to_string(work.join("log")).expect("makedumpfile's log");
    let ours = text(&with_dom0, "--dump-dmesg");
    assert_eq!(ours, theirs);
    assert!(ours.contains(ORACLE));
    let serial = std::fs::read_to_string(console).expect("the serial console").replace('\r', "");
    for core in [&plain, &with_dom0] {
        let text = text(core, "--dump-xen-console");
        let last = text.lines().rfind(|l| l.starts_with("(XEN)")).expect("lines of Xen");
        assert_eq!(last, serial.lines().rfind(|l| l.starts_with("(XEN)")).expect("lines of Xen"));
        assert!(text.lines().count() > 100 && text.contains("Hardware Dom0 crashed"), "{text}");
    }
}

/// 4.14 by our own loader, whose core makedumpfile takes as it is; 4.14.6 has the page states of 4.17 already.
#[test]
fn other_xens_tell_their_free_frames_and_their_console() {
    for suite in ["bullseye", "trixie"] {
        let core = vmcore(suite);
        let work = workdir(&format!("oracle-xen-{suite}"));
        let whole = ours(&core.with_dom0, work.join("whole"), &["-d31"], 0);
        same(&whole, &theirs(&core.with_dom0, work.join("theirs"), &["-d31"]), suite);
        let dump = ours(&core.with_dom0, work.join("ours"), &["-X", "-d31"], 0);
        let [free, none] = compare(&whole, &dump);
        let index = indexed(&whole);
        let zero = free.iter().filter(|pfn| whole.by_index(index[pfn], **pfn) == Page::Data(vec![0; 4096])).count();
        assert!(
            none.is_empty() && zero > 50_000 && zero == free.len(),
            "{suite}: {zero} of {} frames are zero",
            free.len()
        );
        let console = text(&core.plain, "--dump-xen-console");
        assert!(console.contains("Hardware Dom0 crashed"), "{suite}: {console}");
        assert!(text(&core.with_dom0, "--dump-dmesg").contains(ORACLE), "{suite}");
    }
}
