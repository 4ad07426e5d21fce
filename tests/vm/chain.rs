//! The main job: a kernel panics, its memory is on disk, and others can read it.

use crate::lab::core::ORACLE;
use crate::lab::{Guest, Kernel, SUITE, checkout, disk, drgn, run, workdir};
use crate::panic::{Panic, UPSTREAM_LOAD, baseline_image, our_load};

/// A panic captured by upstream's makedumpfile, after `load` has loaded the crash kernel.
fn loaded_by(name: &str, cpu: &str, load: &str) {
    let kernel = Kernel::of(SUITE);
    let work = workdir(name);
    let image = baseline_image(&kernel, &work);
    let panic = Panic { cpu, ..Panic::new(name, &kernel, &work, &image, load) };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-LOAD 0").expect("LAB-SAVED");
    assert_eq!(disk::files(&target), ["/dump/vmcore", "/dump/vmcore-dmesg.txt"], "{}", outcome.tail());
    let dump = disk::copy_out(&target, "/dump/vmcore", &work.join("vmcore"));
    let report = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(&dump)).stdout;
    let report = String::from_utf8_lossy(&report).into_owned();
    assert!(report.contains(&format!("memory_release={}\n", kernel.release)), "{report}");
}

#[test]
fn the_rig_with_upstreams_kexec() {
    loaded_by("chain-upstream", "qemu64", UPSTREAM_LOAD);
}

#[test]
fn a_crash_kernel_loaded_by_our_kexec_through_kexec_file_load() {
    loaded_by("chain-file", "max", &our_load("-s"));
}

#[test]
fn a_crash_kernel_loaded_by_our_kexec_through_kexec_load() {
    loaded_by("chain-segments", "qemu64", &our_load("-c"));
    loaded_by("chain-segments-max", "max", &our_load("-c"));
}

/// The crash kernel keeps everything: raw memory, our dump and upstream's, of the same panic.
const SAVE_ALL: &str = "
mount -t ext4 /dev/vdb /mnt
cat /proc/vmcore > /mnt/raw && echo LAB-RAW
kdump-save -c -d 31 /proc/vmcore /mnt/ours && echo LAB-OURS
kdump-save -d 0 /proc/vmcore /mnt/ours.0 && echo LAB-OURS-0
kdump-save --dump-dmesg /proc/vmcore /mnt/ours.dmesg && echo LAB-OURS-DMESG
makedumpfile --message-level 4 -c -d 31 /proc/vmcore /mnt/theirs && echo LAB-THEIRS
makedumpfile --message-level 4 --dump-dmesg /proc/vmcore /mnt/theirs.dmesg && echo LAB-THEIRS-DMESG
umount /mnt
";

/// What `compare_dumps.py` counts under `key`.
fn count(report: &str, key: &str) -> u64 {
    let value = report.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {key} in:\n{report}"))
}

#[test]
fn every_page_saved_from_proc_vmcore_is_the_raw_page_and_the_choice_is_upstreams() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("chain-pages");
    let image = Guest::new(&kernel, &["virtio_pci", "virtio_blk", "ext4"], SAVE_ALL)
        .tool("makedumpfile")
        .product(&["kdump-save"])
        .write_gzip(&work.join("save-all.img"));
    let panic = Panic {
        cpu: "max",
        target_mib: 1200,
        memory_mib: 512,
        ..Panic::new("chain-pages", &kernel, &work, &image, UPSTREAM_LOAD)
    };
    let (outcome, target) = panic.run();
    outcome.ended();
    for step in ["LAB-RAW", "LAB-OURS", "LAB-OURS-0", "LAB-OURS-DMESG", "LAB-THEIRS", "LAB-THEIRS-DMESG"] {
        outcome.expect(step);
    }
    let [raw, ours, whole, theirs] =
        ["raw", "ours", "ours.0", "theirs"].map(|f| disk::copy_out(&target, &format!("/{f}"), &work.join(f)));
    let pages = (512 << 20) / 4096;
    let compare = |dump| {
        let script = checkout().join("tests/lab/compare_dumps.py");
        let output = run(drgn().arg(script).arg(&raw).arg(dump).arg(&theirs).arg(format!("{pages}")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let report = compare(&ours);
    assert!(count(&report, "theirs") > 5000, "upstream keeps next to nothing:\n{report}");
    for key in ["different", "only_ours", "only_theirs"] {
        assert_eq!(count(&report, key), 0, "{report}");
    }
    // Level 0: everything that /proc/vmcore has. The reservation is not in it.
    let report = compare(&whole);
    assert_eq!(count(&report, "different"), 0, "{report}");
    assert!(count(&report, "ours") > pages - (128 << 20) / 4096 - 1024, "{report}");
    let [ours, theirs] = ["ours.dmesg", "theirs.dmesg"]
        .map(|f| std::fs::read_to_string(disk::copy_out(&target, &format!("/{f}"), &work.join(f))).unwrap());
    assert!(ours.contains(ORACLE) && ours.contains("sysrq triggered crash"), "{ours}");
    assert_eq!(ours, theirs);
}
