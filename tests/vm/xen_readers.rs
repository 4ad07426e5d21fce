//! Dumps of a crashed Xen through `crash`: the same as it shows of the unfiltered core. Every release, everything saved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::core::ORACLE;
use crate::lab::xen::SUITES;
use crate::lab::{Kernel, SUITE, Xen, fetch, product, run, workdir, xen_core};
use crate::readers::crash;
use crate::xen_capture;

/// Our dump of the release's core, filtered as far as it goes.
fn filtered(core: &xen_core::XenCore, work: &Path) -> PathBuf {
    let dump = work.join("vmcore");
    run(Command::new(product()).args(["kdump-save", "-z", "-f", "-X", "-d31"]).arg(&core.with_dom0).arg(&dump));
    dump
}

#[test]
fn crash_shows_of_dom0_what_it_shows_of_the_unfiltered_core() {
    let vmlinux = fetch(&["debug", SUITE]).join("vmlinux");
    let release = Kernel::of(SUITE).release;
    for suite in SUITES {
        let core = xen_core::vmcore(suite);
        let work = workdir(&format!("xen-readers-{suite}"));
        let show = |dump: &Path| crash(SUITE, &[], [&vmlinux, dump], "sys\nbt\nps\nlog\nmod\nkmem -s", &work);
        let (ours, theirs) = (show(&filtered(&core, &work)), show(&core.plain));
        assert!(ours.0 && ours == theirs, "{suite}: ours:\n{}\nunfiltered:\n{}", ours.1, theirs.1);
        for text in [&release, "sysrq_handle_crash", "sysrq triggered crash", ORACLE, "virtio_blk"] {
            assert!(ours.1.contains(text), "{suite}: crash does not show '{text}':\n{}", ours.1);
        }
    }
}

/// The hypervisor's own symbols, as the release ships them, and why no `crash` opens a dump with them.
fn symbols(suite: &str, work: &Path) -> (PathBuf, &'static str) {
    let xen = Xen::of(suite);
    let syms = |package: &str| fetch(&["tree", suite, package]).join("usr/lib/debug");
    let package = format!("xen-hypervisor-{}-amd64", xen.version);
    match xen.version {
        "4.14" => {
            let packed = syms(&package).join("xen-syms-4.14.6.gz");
            let path = work.join("xen-syms-4.14");
            fs::write(&path, run(Command::new("gzip").arg("-dc").arg(packed)).stdout).expect("write the symbols");
            (path, "no debugging data available")
        }
        version => {
            let path = syms(&format!("{package}-dbg")).join(format!("boot/xen-syms-{version}-amd64"));
            let copy = work.join(format!("xen-syms-{version}"));
            fs::copy(path, &copy).expect("copy the symbols");
            // 4.20 keeps vcpu_info behind a map of its own, which no crash knows.
            (copy, if version == "4.17" { "no debugging data available" } else { "vcpu_vcpu_info" })
        }
    }
}

#[test]
fn crash_opens_the_hypervisor_neither_of_our_dump_nor_of_the_unfiltered_core() {
    for suite in SUITES {
        let core = xen_core::vmcore(suite);
        let work = workdir(&format!("xen-hyper-{suite}"));
        let (symbols, reason) = symbols(suite, &work);
        for reader in ["trixie", "sid"] {
            let show = |dump: &Path| crash(reader, &[], [&symbols, dump], "sys\nlog", &work);
            let (ours, theirs) = (show(&filtered(&core, &work)), show(&core.plain));
            assert!(ours == theirs, "{suite}: ours:\n{}\nunfiltered:\n{}", ours.1, theirs.1);
            assert!(!ours.0 && ours.1.contains(reason), "{suite} by {reader}'s crash: not '{reason}' but\n{}", ours.1);
        }
    }
}

/// What is random in a machine shows in the second or third run.
const ROUNDS: usize = 3;

#[test]
fn a_crash_of_every_xen_is_on_the_disk() {
    for suite in SUITES.repeat(ROUNDS) {
        xen_capture::case(suite);
    }
}
