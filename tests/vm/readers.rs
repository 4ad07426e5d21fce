//! A captured dump through the eyes of tools that read debug symbols: crash and drgn.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::core::ORACLE;
use crate::lab::{Kernel, SUITE, checkout, disk, drgn, fetch, run, workdir};
use crate::panic::{Panic, UPSTREAM_LOAD, baseline_image, our_image, our_load};

/// What drgn says with symbols; the same for every dump of one panic.
fn drgn_report(dump: &Path, vmlinux: &Path) -> String {
    let output = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(dump).arg(vmlinux));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn crash_report(dump: &Path, vmlinux: &Path, work: &Path) -> String {
    let commands = work.join("crash.commands");
    fs::write(&commands, "sys\nbt\nlog\nmod\nquit\n").expect("write crash's commands");
    let crash = fetch(&["crash", SUITE]).join("bin/crash");
    let mut command = Command::new(crash);
    command.arg("-s").arg("-i").arg(&commands).arg(vmlinux).arg(dump).stdin(Stdio::null());
    String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
}

fn check(dump: &Path, kernel: &Kernel, work: &Path) {
    let vmlinux = fetch(&["debug", SUITE]).join("vmlinux");
    let report = drgn_report(dump, &vmlinux);
    let value = |key: &str| report.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    assert_eq!(value("memory_release="), kernel.release);
    assert_eq!(value("first_tasks="), "init kthreadd");
    assert!(value("tasks=").parse::<u32>().is_ok_and(|n| n > 40), "{report}");
    assert!(value("stack=").contains("sysrq_handle_crash"), "{report}");
    assert_eq!(value("unreadable_stacks="), "0");
    assert!(report.contains(ORACLE), "{report}");
    let report = crash_report(dump, &vmlinux, work);
    for text in [&kernel.release, "sysrq_handle_crash", "sysrq triggered crash", ORACLE, "virtio_blk"] {
        assert!(report.contains(text), "crash does not show '{text}':\n{report}");
    }
}

#[test]
fn our_dump_shows_crash_and_drgn_the_same_as_upstreams() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("readers-ours");
    let config = "ext4 LABEL=target\npath /var/crash\ncore_collector makedumpfile -c -d 31\n";
    let image = our_image(&kernel, &work, config, &[]);
    let load = our_load("-c");
    let panic = Panic { cpu: "max", ..Panic::new("readers-ours", &kernel, &work, &image, &load) };
    let (outcome, target) = panic.run();
    outcome.ended();
    let files = disk::files(&target);
    let dump = files.iter().find(|f| f.ends_with("/vmcore")).unwrap_or_else(|| panic!("{files:?}\n{}", outcome.tail()));
    check(&disk::copy_out(&target, dump, &work.join("vmcore")), &kernel, &work);
}

#[test]
fn upstreams_dump_is_what_the_readers_expect() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("readers-upstream");
    let image = baseline_image(&kernel, &work);
    let panic = Panic { cpu: "max", ..Panic::new("readers-upstream", &kernel, &work, &image, UPSTREAM_LOAD) };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-SAVED");
    check(&disk::copy_out(&target, "/dump/vmcore", &work.join("vmcore")), &kernel, &work);
}
