//! The main job with nothing but ours: our kexec loads, the kernel panics, our init saves and reboots; then others
//! read what is on the disk.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::core::ORACLE;
use crate::lab::{Kernel, SUITE, checkout, disk, drgn, run, tool, workdir};
use crate::panic::{Panic, our_image, our_load};

/// Stages a panic and returns the dump, after looking at everything that was saved beside it.
fn captured(name: &str, cpu: &str, mode: &str, collector: &str) -> (PathBuf, PathBuf) {
    let kernel = Kernel::of(SUITE);
    let work = workdir(name);
    let image =
        our_image(&kernel, &work, &format!("ext4 LABEL=target\npath /var/crash\ncore_collector {collector}\n"), &[]);
    let size = fs::metadata(&image).expect("the image is there").len();
    assert!(size <= 4_000_000, "the crash initramfs has {size} bytes, more than 4 MB");
    let load = our_load(mode);
    let panic = Panic { cpu, ..Panic::new(name, &kernel, &work, &image, &load) };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-LOAD 0").refuse("Attempted to kill init").refuse("Out of memory");
    let files = disk::files(&target);
    let find = |end: &str| {
        let found: Vec<&String> = files.iter().filter(|f| f.ends_with(end)).collect();
        assert_eq!(found.len(), 1, "{name}: one file *{end} was wanted of {files:?}\n{}", outcome.tail());
        found[0].clone()
    };
    let (dump, log) = (find("/vmcore"), find("/vmcore-dmesg.txt"));
    assert!(dump.starts_with("/var/crash/"), "{files:?}");
    assert_eq!(Path::new(&dump).parent(), Path::new(&log).parent(), "{files:?}");
    assert!(!files.iter().any(|f| f.contains("incomplete")), "{files:?}");
    let dump = disk::copy_out(&target, &dump, &work.join("vmcore"));
    let log = disk::copy_out(&target, &log, &work.join("vmcore-dmesg.txt"));
    let text = fs::read_to_string(&log).expect("the log is text");
    for wanted in [ORACLE, "Kernel panic - not syncing: sysrq triggered crash", &kernel.release] {
        assert!(text.contains(wanted), "{name}: the log lacks '{wanted}':\n{text}");
    }
    let report = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(&dump)).stdout;
    let report = String::from_utf8_lossy(&report).into_owned();
    for key in ["note_release", "memory_release"] {
        assert!(report.lines().any(|l| l == format!("{key}={}", kernel.release)), "{name}: {report}");
    }
    (dump, log)
}

/// makedumpfile reads the log out of a zlib dump and filters the dump once more.
fn upstream_goes_on_with(dump: &Path, log: &Path) {
    let theirs = log.with_extension("theirs");
    run(tool("makedumpfile").arg("--dump-dmesg").arg(dump).arg(&theirs));
    let (ours, theirs) = (fs::read_to_string(log).unwrap(), fs::read_to_string(&theirs).unwrap());
    assert_eq!(ours, theirs, "our log and what makedumpfile reads from our dump");
    let again = dump.with_extension("again");
    run(tool("makedumpfile").args(["--message-level", "4", "-c", "-d", "31"]).arg(dump).arg(&again));
    assert!(fs::metadata(&again).unwrap().len() > 1 << 20);
}

#[test]
fn by_kexec_file_load() {
    let (dump, log) = captured("main-file", "qemu64", "-s", "makedumpfile -c -d 31");
    upstream_goes_on_with(&dump, &log);
}

#[test]
fn by_kexec_load_with_five_level_paging() {
    let (dump, log) = captured("main-segments", "max", "-c", "makedumpfile -c -d 31");
    upstream_goes_on_with(&dump, &log);
}

#[test]
fn by_the_default_call_and_zstd() {
    captured("main-zstd", "qemu64", "-a", "makedumpfile -z -d 31");
}

/// 5-level paging is on, LZO, and what a crash kernel can do without is left out of its boot.
#[test]
fn by_a_kernel_unpacked_when_it_is_loaded() {
    captured("main-unpacked", "max", "--unpack --lean", "makedumpfile -l -d 31");
}
