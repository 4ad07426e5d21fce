//! `init` as PID 1 of a crash kernel: what it saves, and that it ends the machine whatever goes wrong.

use std::fs::{self, File};

use crate::lab::{Outcome, cpio::Archive, disk};
use crate::support::kdump::{Kdump, Page};
use crate::support::kernel::Kernel as Crashed;
use crate::synthetic::{Crash, DIRECTORY, LAST_LINE};

/// Every page of the dump is what memory holds, and every page that level 31 may not drop is there.
fn check_dump(crash: &Crash, dump: &Kdump) {
    for pfn in Crashed::pfns() {
        match dump.page(pfn) {
            Page::Data(data) => assert!(data == crash.crashed.memory.page(pfn), "{pfn:#x} has other bytes than memory"),
            page => {
                let what = crash.crashed.use_of(pfn);
                assert!(page == Page::Excluded && what.droppable(31), "{pfn:#x}, a page of {what:?}, is {page:?}");
            }
        }
    }
}

/// The machine ended by itself, by way of our final action.
fn ended(outcome: &Outcome, action: &str) {
    outcome.ended().refuse("Attempted to kill init").refuse("internal error");
    outcome.expect(&format!("kdump: {action}"));
}

fn text(crash: &Crash, image: &std::path::Path, name: &str) -> String {
    let copy = disk::copy_out(image, &format!("{DIRECTORY}/{name}"), &crash.work.join(name));
    fs::read_to_string(copy).unwrap()
}

#[test]
fn log_and_dump_reach_the_disk_byte_for_byte() {
    let crash = Crash::new("capture-saves");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let outcome = crash.machine(&crash.header(), &crash.image(&[]), "rootfstype=ramfs").cpu("max").disk(&target).run();
    ended(&outcome, "reboot");
    outcome.refuse("initramfs truncated").refuse("Cannot load crc32c").expect("reboot: Restarting system");
    let files = ["kexec-dmesg.log", "summary.txt", "vmcore", "vmcore-dmesg.txt"].map(|f| format!("{DIRECTORY}/{f}"));
    assert_eq!(disk::files(&target), files);
    assert!(text(&crash, &target, "vmcore-dmesg.txt").trim_end().ends_with(LAST_LINE));
    assert!(text(&crash, &target, "kexec-dmesg.log").contains("kdump: saved "));
    let summary = text(&crash, &target, "summary.txt");
    for line in ["status: complete", "host: host", "crashed: 2025-11-25T11:00:11Z", "dmesg: 2 records"] {
        assert!(summary.contains(line), "no '{line}' in {summary}");
    }
    let dump = disk::copy_out(&target, &format!("{DIRECTORY}/vmcore"), &crash.work.join("vmcore"));
    check_dump(&crash, &Kdump::open(&dump));
}

#[test]
fn the_kernel_gets_its_crc32c_from_our_modprobe_and_an_earlier_dump_stays() {
    let crash = Crash::new("capture-modprobe");
    let contents = crash.work.join("contents");
    fs::create_dir_all(contents.join(DIRECTORY.trim_start_matches('/'))).unwrap();
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", Some(&contents));
    // Without soft dependencies, and on a processor whose features name no crc32c_intel, nothing but the kernel's own
    // request can bring crc32c: with a modprobe that does not run, mounting fails.
    let mut emptied = Archive::default();
    emptied.file(&format!("lib/modules/{}/modules.softdep", crash.kernel.release), 0o644, b"");
    let emptied = crash.blob("emptied.cpio", &emptied.finish());
    let words = "rootfstype=ramfs kdump.target=ext4:LABEL=target kdump.codec=zlib";
    let machine = crash.machine(&crash.header(), &crash.image(&["--compress=gzip"]), words);
    let outcome = machine.initrd(&emptied).cpu("qemu64").disk(&target).run();
    ended(&outcome, "reboot");
    outcome.refuse("Cannot load crc32c").expect("initramfs truncated: /lib/modules");
    let vmcore = format!("{DIRECTORY}-2/vmcore");
    assert!(disk::files(&target).contains(&vmcore), "{}", outcome.tail());
    check_dump(&crash, &Kdump::open(&disk::copy_out(&target, &vmcore, &crash.work.join("vmcore"))));
}

#[test]
fn a_truncated_initramfs_is_named_and_the_dump_saved_with_what_is_there() {
    // No rootfstype=ramfs: the kernel gives the unpacked image half of its memory. That of a plain archive is there twice.
    for (compression, mib) in [("packed", 24), ("zstd", 110)] {
        let crash = Crash::new(&format!("capture-truncated-{compression}"));
        let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
        let fat = crash.work.join("fat");
        File::create(&fat).unwrap().set_len(mib << 20).unwrap();
        let image = crash.image(&[&format!("--add={}:/fat", fat.display()), &format!("--compress={compression}")]);
        let outcome = crash.machine(&crash.header(), &image, "").disk(&target).run();
        ended(&outcome, "reboot");
        outcome.expect("kdump: initramfs truncated: it stopped at /fat").expect("boot it with rootfstype=ramfs");
        assert!(disk::files(&target).contains(&format!("{DIRECTORY}/vmcore")), "{}", outcome.tail());
    }
}

#[test]
fn without_its_target_the_last_words_go_to_the_console_and_the_power_off() {
    let crash = Crash::new("capture-no-target");
    let words = "quiet rootfstype=ramfs kdump.device_timeout=3 kdump.failure_action=poweroff kdump.nonsense=1";
    let outcome = crash.machine(&crash.header(), &crash.image(&[]), words).run();
    ended(&outcome, "poweroff");
    outcome.expect("target /dev/vda did not appear within 3 s; block devices there are: none");
    outcome.expect(&format!("crashed kernel: [    0.002000] {LAST_LINE}"));
    outcome.expect("kdump.nonsense: there is no such parameter").expect("reboot: Power down");
}

#[test]
fn a_broken_elf_header_means_no_vmcore_and_the_failure_action() {
    let crash = Crash::new("capture-no-vmcore");
    let target = disk::ext4(&crash.work.join("target.img"), 16, "target", None);
    let header = crash.blob("zeros.bin", &[0; 8192]);
    let outcome = crash.machine(&header, &crash.image(&[]), "rootfstype=ramfs").disk(&target).run();
    ended(&outcome, "reboot");
    outcome.expect("kdump: no dump: there is no /proc/vmcore");
    assert_eq!(disk::files(&target), [""; 0]);
}

#[test]
fn a_full_target_keeps_the_log_and_the_reason() {
    let crash = Crash::new("capture-full");
    let target = disk::ext4(&crash.work.join("target.img"), 12, "target", None);
    let words = "rootfstype=ramfs kdump.level=0 kdump.codec=none";
    let outcome = crash.machine(&crash.header(), &crash.image(&[]), words).disk(&target).run();
    ended(&outcome, "reboot");
    outcome.expect("No space left on device");
    let files = disk::files(&target);
    assert!(!files.contains(&format!("{DIRECTORY}/vmcore")), "{files:?}");
    assert!(files.contains(&format!("{DIRECTORY}/vmcore-incomplete")), "{files:?}");
    assert!(text(&crash, &target, "vmcore-dmesg.txt").trim_end().ends_with(LAST_LINE));
    let summary = text(&crash, &target, "summary.txt");
    assert!(summary.contains("status: failed") && summary.contains("No space left on device"), "{summary}");
}

/// A slow disk keeps the saver busy; sysrq-f is the kernel's own way to kill what it kills when memory is short.
const SLOW: &str = "block_set_io_throttle lab0 0 0 2000000 0 0 0";
const KILL: &str = "sendkey alt-sysrq-f";

#[test]
fn a_killed_saver_is_followed_by_one_that_goes_on_with_a_wider_rung() {
    let crash = Crash::new("capture-killed-once");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let words = "rootfstype=ramfs kdump.level=16 kdump.codec=none sysrq_always_enabled";
    let machine = crash.machine(&crash.header(), &crash.image(&[]), words).disk(&target);
    let machine = machine.monitor("(ext4) mounted", SLOW).monitor("saving at level 16", KILL);
    let outcome = machine.monitor("begins again", "block_set_io_throttle lab0 0 0 0 0 0 0").run();
    ended(&outcome, "reboot");
    outcome.expect("stage 'save' was killed (signal 9)").expect("the saver begins again, with rung 1");
    outcome.expect("saving at level 0").expect("stage 'save' ended with status 8");
    let summary = text(&crash, &target, "summary.txt");
    assert!(summary.contains("status: complete") && summary.contains("reason: stage 'save' was killed"), "{summary}");
    assert!(summary.contains("kernel: 6.1.0-synthetic") && summary.contains("dmesg: "), "of the first: {summary}");
    let files = disk::files(&target);
    assert!(!files.iter().any(|file| file.contains("incomplete")), "{files:?}");
    let dump = Kdump::open(&disk::copy_out(&target, &format!("{DIRECTORY}/vmcore"), &crash.work.join("vmcore")));
    assert_eq!((dump.level, dump.status & 8), (0, 0));
    for pfn in Crashed::pfns().filter(|pfn| !crash.crashed.use_of(*pfn).droppable(0)) {
        assert!(dump.page(pfn) == Page::Data(crash.crashed.memory.page(pfn)), "{pfn:#x}");
    }
}

#[test]
fn a_saver_killed_at_every_rung_leaves_its_reasons_and_the_machine_reboots() {
    let crash = Crash::new("capture-killed");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let words = "rootfstype=ramfs kdump.level=0 kdump.codec=none sysrq_always_enabled";
    let machine = crash.machine(&crash.header(), &crash.image(&[]), words).disk(&target).timeout(180);
    let machine = machine.monitor("(ext4) mounted", SLOW).monitor("saving at level 0", KILL);
    // Memory without what is broken, then all of it.
    let machine = machine.monitor("saving raw memory, but", KILL).monitor("saving all memory raw", KILL);
    let outcome = machine.run();
    ended(&outcome, "reboot");
    outcome.expect("with rung 1").expect("with rung 2").expect("no dump: stage 'save' was killed (signal 9)");
    let summary = text(&crash, &target, "summary.txt");
    assert!(summary.contains("status: failed") && summary.contains("was killed"), "{summary}");
    assert!(disk::files(&target).contains(&format!("{DIRECTORY}/vmcore-dmesg.txt")));
}
