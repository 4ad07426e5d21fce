//! Other suites' kernels: structures move between releases. The judge is sid's makedumpfile: 1.7.6, trixie's own,
//! finds no free page on trixie's 6.12 and keeps them all (fixed in 1.7.7).

use std::path::Path;
use std::process::Command;

use crate::lab::{Kernel, checkout, core, drgn, product, run, tool_of, workdir};

/// Saves a real vmcore of the suite's kernel with ours and with makedumpfile, and compares.
fn check(suite: &str, only_ours: u64) {
    let kernel = Kernel::of(suite);
    let work = workdir(&format!("suite-{suite}"));
    for cpu in ["qemu64", "max"] {
        let vmcore = core::vmcore(&kernel, cpu);
        let [ours, theirs, log] = ["ours", "theirs", "dmesg"].map(|f| work.join(format!("{cpu}.{f}")));
        run(Command::new(product()).args(["kdump-save", "-c", "-d", "31"]).arg(&vmcore).arg(&ours));
        run(tool_of("sid", "makedumpfile").args(["--message-level", "4", "-c", "-d", "31"]).arg(&vmcore).arg(&theirs));
        run(Command::new(product()).args(["kdump-save", "--dump-dmesg"]).arg(&vmcore).arg(&log));
        let log = std::fs::read_to_string(&log).expect("our log is text");
        assert!(log.trim_end().ends_with(core::ORACLE), "{suite} on {cpu}: {log}");
        let [different, more, fewer] = compare(&vmcore, &ours, &theirs);
        assert_eq!([different, fewer], [0, 0], "{suite} on {cpu}: pages that differ, pages that only upstream keeps");
        assert!(more <= only_ours, "{suite} on {cpu}: {more} pages that only we keep");
    }
}

fn compare(raw: &Path, ours: &Path, theirs: &Path) -> [u64; 3] {
    let pages = ((512u32 << 20) / 4096).to_string();
    let script = checkout().join("tests/lab/compare_dumps.py");
    let output = run(drgn().arg(script).args([raw, ours, theirs]).arg(pages));
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |key: &str| report.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
    assert!(count("ours").is_some_and(|kept: u64| kept > 5000), "next to nothing is kept:\n{report}");
    ["different", "only_ours", "only_theirs"].map(|key| count(key).expect("the report has all counts"))
}

#[test]
fn trixie() {
    check("trixie", 0);
}

#[test]
fn bookworm_backports() {
    check("bookworm-backports", 0);
}

/// makedumpfile 1.7.8 on 7.2 takes tail pages of slabs and large kmallocs for anonymous memory (their word at
/// `mapping` is -1: the low bit is set) and drops some 290 of them. They are kernel memory: we keep them.
#[test]
fn sid() {
    check("sid", 400);
}

/// 7.3, newer than the newest makedumpfile: the same tail pages.
#[test]
fn trixie_backports() {
    check("trixie-backports", 400);
}
