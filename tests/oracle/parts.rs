//! Split and flattened dumps of a real kernel, made by one program and put together by the other.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::lab::core::vmcore;
use crate::lab::{Kernel, run, tool_of, workdir};
use crate::support::kdump::Kdump;

fn ours(applet: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg(applet);
    command
}

/// The same pages, a sample of them byte for byte; what only QEMU's core has above the last section aside.
fn same(a: &Path, b: &Path, context: &str) {
    let (a, b) = (Kdump::open(a), Kdump::open(b));
    let end = a.max_mapnr.min(b.max_mapnr);
    let [mine, other] = [&a, &b].map(|d| d.kept().into_iter().filter(|pfn| *pfn < end).collect::<Vec<_>>());
    assert!(mine == other, "{context}: {} and {} pages", mine.len(), other.len());
    assert_eq!((a.status | b.status) & 8, 0, "{context}: complete");
    for (index, pfn) in mine.iter().enumerate().step_by(17) {
        assert!(a.by_index(index, *pfn) == b.by_index(index, *pfn), "{context}: page {pfn:#x} differs");
    }
}

/// Every way from a vmcore through parts or a stream to one file is the way straight to it.
pub fn either_way(suite: &str) {
    let core = vmcore(&Kernel::of(suite), "qemu64");
    let work = workdir("parts");
    let theirs = || tool_of(suite, "makedumpfile");
    let at = |name: &str| work.join(name);
    let plain = at("plain");
    run(ours("makedumpfile").args(["-f", "-c", "-d", "31"]).arg(&core).arg(&plain));
    let (one, two, three, joined) = (at("one"), at("two"), at("three"), at("joined"));
    for (split, join, context) in [
        (ours("makedumpfile"), theirs(), "our parts, joined by makedumpfile"),
        (theirs(), ours("makedumpfile"), "makedumpfile's parts, joined by us"),
    ] {
        let (mut split, mut join) = (split, join);
        run(split.args(["-f", "-c", "-d", "31", "--split"]).arg(&core).args([&one, &two, &three]));
        run(join.args(["-f", "--reassemble"]).args([&one, &two, &three, &joined]));
        same(&plain, &joined, context);
    }
    let (stream, rebuilt) = (at("stream"), at("rebuilt"));
    for (flatten, rearrange, context) in [
        (ours("makedumpfile"), theirs(), "our stream, rearranged by makedumpfile"),
        (theirs(), ours("makedumpfile"), "makedumpfile's stream, rearranged by us"),
    ] {
        let (mut flatten, mut rearrange) = (flatten, rearrange);
        let out = run(flatten.args(["-F", "-c", "-d", "31"]).arg(&core));
        std::fs::write(&stream, out.stdout).expect("write the stream");
        run(rearrange.args(["-f", "-R"]).arg(&rebuilt).stdin(File::open(&stream).expect("open the stream")));
        same(&plain, &rebuilt, context);
    }
    // What either put together can be filtered again by either.
    let again = at("again");
    for (one, dump) in [("our", &joined), ("makedumpfile's", &rebuilt)] {
        for (mut filter, by) in [(theirs(), "makedumpfile"), (ours("makedumpfile"), "us")] {
            run(filter.args(["-f", "-c", "-d", "31"]).arg(dump).arg(&again));
            same(&plain, &again, &format!("{one} way, filtered again by {by}"));
        }
    }
    // QEMU's core has the firmware's ROM below 4 GiB, beyond all struct pages. Upstream ends its bitmaps before it, looks for
    // the second one where a first one of that size would end, and finds no page in it.
    run(ours("makedumpfile").args(["-f", "-c", "-d", "31"]).arg(&plain).arg(&again));
    same(&plain, &again, "memory without struct pages, filtered again by us");
    std::fs::remove_file(&again).expect("remove");
    let out = theirs().args(["-f", "-c", "-d", "31"]).arg(&plain).arg(&again).output().expect("makedumpfile starts");
    if out.status.success() {
        same(&plain, &again, "memory without struct pages, filtered again by makedumpfile");
    } else {
        assert!(!again.exists(), "{}", String::from_utf8_lossy(&out.stdout));
    }
    std::fs::remove_dir_all(work).expect("remove");
}
