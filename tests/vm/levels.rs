//! Every level on real vmcores of 5.10, 6.1, 6.12 and the two newest kernels, by QEMU and by kdump, 4 and 5 levels of page
//! tables, with and without KASLR: the pages that the newest makedumpfile keeps, each byte for byte, and a dump that every
//! reader opens.

use std::path::{Path, PathBuf};
use std::process::Command;

use kdumpbox::vmcore::Vmcore;

use crate::dump;
use crate::lab::core::{ORACLE, vmcore_with};
use crate::lab::{Guest, Kernel, SUITE, checkout, disk, drgn, fetch, run, tool_of, workdir};
use crate::panic::{Panic, our_load};

/// Whose makedumpfile and crash judge: the newest.
pub const NEWEST: &str = "sid";

/// A vmcore as the crash kernel sees it, copied whole by busybox.
pub fn by_kdump(kernel: &Kernel, work: &Path) -> PathBuf {
    let script = "
mount -t ext4 /dev/vdb /mnt
cat /proc/vmcore > /mnt/vmcore && echo LAB-SAVED
umount /mnt
";
    let image = Guest::new(kernel, &["virtio_pci", "virtio_blk", "ext4"], script).write_gzip(&work.join("raw.img"));
    let load = our_load("-c");
    let name = format!("levels-{}", kernel.release);
    let panic = Panic { target_mib: 640, memory_mib: 512, ..Panic::new(&name, kernel, work, &image, &load) };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-SAVED");
    disk::copy_out(&target, "/vmcore", &work.join("vmcore.raw"))
}

/// Whether crash takes the dump for what it is; without symbols it tells no more than the release.
fn crash_opens(dump: &Path, release: &str) {
    let crash = fetch(&["crash", NEWEST]).join("bin/crash");
    let said = run(Command::new(crash).arg("--osrelease").arg(dump));
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), release);
}

/// Whether makedumpfile takes the dump as its own input.
fn upstream_filters_again(dump: &Path, work: &Path) {
    let again = work.join("again");
    run(tool_of(NEWEST, "makedumpfile").args(["-f", "-c", "-d31", "--message-level", "4"]).arg(dump).arg(&again));
    let script = checkout().join("tests/lab/compare_dumps.py");
    let output = run(drgn().arg(script).args([dump, dump, &again]).arg(((512u32 << 20) / 4096).to_string()));
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("different=0\n") && report.contains("only_theirs=0\n"), "{report}");
}

fn by_qemu_and_by_kdump(suite: &str) {
    let kernel = Kernel::of(suite);
    for cpu in ["qemu64", "max"] {
        dump::compare(&kernel, cpu, NEWEST);
    }
    let work = workdir(&format!("levels-{suite}"));
    let core = by_kdump(&kernel, &work);
    let dumps = dump::compare_core(&core, &kernel.release, "kdump", NEWEST);
    let dump = dumps.join("ours.31");
    crash_opens(&dump, &kernel.release);
    upstream_filters_again(&dump, &work);
    let log = dump::read_back(&core, &dumps, NEWEST, &kernel.release);
    assert!(log.contains("Kernel panic - not syncing: sysrq triggered crash"), "{log}");
    std::fs::remove_file(core).expect("remove the raw vmcore");
}

#[test]
fn linux_5_10() {
    by_qemu_and_by_kdump("bullseye");
}

#[test]
fn linux_6_1() {
    by_qemu_and_by_kdump(SUITE);
}

#[test]
fn linux_6_12() {
    by_qemu_and_by_kdump("trixie");
}

#[test]
fn linux_of_sid() {
    by_qemu_and_by_kdump(NEWEST);
}

#[test]
fn linux_of_backports() {
    by_qemu_and_by_kdump("trixie-backports");
}

#[test]
fn without_kaslr() {
    for suite in [SUITE, "trixie-backports"] {
        let kernel = Kernel::of(suite);
        let core = vmcore_with(&kernel, "qemu64", "nokaslr");
        let dumps = dump::compare_core(&core, &kernel.release, "nokaslr", NEWEST);
        let log = dump::read_back(&core, &dumps, NEWEST, &kernel.release);
        assert!(log.trim_end().ends_with(ORACLE), "{suite}: {log}");
        let core = Vmcore::open(&core).expect("a vmcore");
        assert_eq!(core.vmcoreinfo().and_then(|info| info.get("KERNELOFFSET")), Some("0"), "{suite}");
    }
}
