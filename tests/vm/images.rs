//! Linux by everything that kexec takes as its kernel: each entry point, an uncompressed kernel, a unified image,
//! other releases, a large initrd; and the ways to execute what is loaded.

use std::fs::{self, File};
use std::process::Command;

use crate::lab::core::ORACLE;
use crate::lab::cpio::Archive;
use crate::lab::{Kernel, Outcome, SUITE, run, uki};
use crate::relay::{Relay, arrived, said, usual};

/// The usual kernel and its initrd, as options.
fn usual_kernel() -> String {
    format!("/mnt/{SUITE}.vmlinuz --initrd=/mnt/{SUITE}.initrd")
}

/// Fails the test unless each stage came up, and each but the last was loaded and executed.
fn all_arrived(outcome: &Outcome, stages: &[(&str, &str)]) {
    outcome.ended().refuse("EXEC-RETURNED");
    for (stage, suite) in stages {
        arrived(outcome, stage, suite);
    }
}

#[test]
fn each_entry_point_an_elf_and_a_unified_image() {
    let kernel = Kernel::of(SUITE);
    let usual_kernel = usual_kernel();
    let relay = usual("images");
    let work = relay.work().to_owned();
    let vmlinux = kernel.vmlinux(&work.join("vmlinux"));
    // What was entered by the setup code has asked the BIOS for its disks: that count is in boot_params.
    let disks = "echo LAB-$stage-DISKS $(hexdump -s 0x1e9 -n 1 -e '\"%d\"' /sys/kernel/boot_params/data)";
    let screen = "echo LAB-$stage-SCREEN $(dd if=/dev/mem bs=4096 skip=184 count=1 2>/dev/null | tr -d '\\000\\007' |
    grep -ao 'in purgatory')";
    let relay = relay
        .file("vmlinux", &vmlinux)
        .leg("first", &format!("go entry32 -c -l --entry-32bit {usual_kernel} --console-vga --reset-vga"))
        .leg("entry32", &format!("{disks}\n{screen}\ngo real -l --real-mode {usual_kernel}"))
        .leg("real", &format!("{disks}\ngo elf -l --args-linux /mnt/vmlinux --initrd=/mnt/{SUITE}.initrd"))
        .leg("elf", "kexec -l /mnt/uki\nexecute $?")
        .leg("unified", "echo \"LAB-unified-EXTRA $(cat /early /extra)\"\ngo unified2 -s -l /mnt/uki")
        .leg("unified2", "echo \"LAB-unified2-EXTRA $(cat /early /extra)\"");
    let part = |name: &str, text: &str| {
        let mut archive = Archive::default();
        archive.file(name, 0o644, text.as_bytes());
        let path = work.join(name);
        archive.write(&path);
        path
    };
    let line = work.join("cmdline");
    fs::write(&line, "console=ttyS0 panic=-1 stage=unified\0").expect("write the command line");
    let relay = relay.made();
    let mut initrd = fs::read(relay.disk().join(format!("{SUITE}.initrd"))).expect("the initrd");
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(fs::read(part("extra", "second archive")).expect("the second archive"));
    let whole = work.join("whole.initrd");
    fs::write(&whole, initrd).expect("write the initrd");
    let early = part("early", "first archive");
    let sections = [(".cmdline", &*line), (".ucode", &*early), (".initrd", &*whole), (".linux", &*kernel.vmlinuz())];
    let unified = uki::build(&work.join("uki"), &sections);
    let outcome = relay.file("uki", &unified).machine().argument("-vga").argument("std").run();
    let stages = ["first", "entry32", "real", "elf", "unified", "unified2"].map(|stage| (stage, SUITE));
    all_arrived(&outcome, &stages);
    assert_eq!(said(&outcome, "entry32", "DISKS"), "0", "{}", outcome.tail());
    assert_ne!(said(&outcome, "real", "DISKS"), "0", "{}", outcome.tail());
    assert_eq!(said(&outcome, "entry32", "SCREEN"), "in purgatory", "{}", outcome.tail());
    for stage in ["unified", "unified2"] {
        assert_eq!(said(&outcome, stage, "EXTRA"), "first archivesecond archive", "{}", outcome.tail());
    }
    let given = "[console=ttyS0 panic=-1 stage=unified]";
    assert_eq!(said(&outcome, "unified", "CMDLINE"), given, "{}", outcome.tail());
}

#[test]
fn kernels_of_other_releases_by_both_system_calls() {
    let relay = usual("releases").kernel("bullseye", &[]).kernel("trixie", &[]).kernel("sid", &[]);
    // Of no pattern: what arrives is compared by its sum.
    let words: Vec<u8> =
        (0..9u32 << 20).flat_map(|n| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let plain = relay.work().join("plain");
    fs::write(&plain, &words).expect("write the large file");
    let sum = run(Command::new("md5sum").stdin(File::open(&plain).expect("the large file"))).stdout;
    let sum = String::from_utf8_lossy(&sum).split_whitespace().next().unwrap_or_default().to_owned();
    let mut archive = Archive::default();
    archive.file("big", 0o644, &words);
    let big = relay.work().join("big");
    archive.write(&big);
    let tell = "echo LAB-$stage-SUM $(md5sum < /big | cut -d ' ' -f 1)";
    let hop = |to: &str, call: &str, suite: &str| {
        format!("go {to} {call} -l /mnt/{suite}.vmlinuz --initrd=/mnt/{suite}.initrd")
    };
    let outcome = relay
        .file("big", &big)
        .leg("first", &format!("{} --initrd=/mnt/big", hop("c612", "-c", "trixie")))
        .leg("c612", &format!("{tell}\n{}", hop("s72", "-s", "sid")))
        .leg("s72", &hop("c510", "-c", "bullseye"))
        .leg("c510", &hop("s612", "-s", "trixie"))
        .leg("s612", &hop("c72", "-c", "sid"))
        .leg("c72", &format!("{} --initrd=/mnt/big", hop("s510", "-s", "bullseye")))
        .leg("s510", &format!("{tell}\n{}", hop("c61", "-c", SUITE)))
        .leg("c61", &hop("s61", "-s", SUITE))
        .leg("s61", "true")
        .machine()
        .run();
    let suites = [
        ("c612", "trixie"),
        ("s72", "sid"),
        ("c510", "bullseye"),
        ("s612", "trixie"),
        ("c72", "sid"),
        ("s510", "bullseye"),
        ("c61", SUITE),
        ("s61", SUITE),
    ];
    all_arrived(&outcome, &suites);
    for stage in ["c612", "s510"] {
        assert_eq!(said(&outcome, stage, "SUM"), sum, "{}", outcome.tail());
    }
}

#[test]
fn each_way_to_execute_does_what_it_says_and_no_more() {
    let kernel = usual_kernel();
    // Straight to the console: what a pipe still holds is lost with the machine.
    let trace = "strace -f -qq -o /dev/console -e trace=ioctl,sync,reboot";
    let up = "ip addr add 192.0.2.1/24 dev dummy0; ip link set dummy0 up
echo LAB-$stage-INTERFACE $(cat /sys/class/net/dummy0/operstate)";
    let outcome = Relay::new("execute")
        .kernel(SUITE, &["dummy"])
        .leg(
            "first",
            &format!(
                "{up}
kexec -l {kernel} --append=\"$(line plain)\"
{trace} kexec -e"
            ),
        )
        .leg(
            "plain",
            &format!(
                "{up}
kexec -l {kernel} --append=\"$(line quiet)\"
{trace} kexec -e -x -y"
            ),
        )
        .leg("quiet", &format!("kexec -f {kernel} --append=\"$(line forced)\""))
        .leg(
            "forced",
            &format!(
                "printf '#!/bin/sh\\necho LAB-SHUTDOWN \"$@\"\\nkexec -e\\n' > /sbin/shutdown
chmod 755 /sbin/shutdown
kexec {kernel} --append=\"$(line bare)\"
sleep 30"
            ),
        )
        .leg("bare", "true")
        .machine()
        .run();
    all_arrived(&outcome, &["first", "plain", "quiet", "forced", "bare"].map(|stage| (stage, SUITE)));
    assert_eq!(outcome.value("LAB-SHUTDOWN "), Some("-r now"), "{}", outcome.tail());
    let during = |stage: &str, next: &str| {
        let (_, after) = outcome.console.split_once(&format!("LAB-{stage}-RELEASE")).expect("it arrived");
        after.split_once(&format!("LAB-{next}-RELEASE")).expect("it arrived").0
    };
    let (usual, quiet) = (during("first", "plain"), during("plain", "quiet"));
    assert!(usual.contains("SIOCSIFFLAGS, {ifr_name=\"dummy0\", ifr_flags=IFF_BROADCAST"), "{usual}");
    assert!(usual.contains("sync()") && usual.contains("reboot("), "{usual}");
    assert!(!quiet.contains("SIOCSIFFLAGS") && !quiet.contains("sync()") && quiet.contains("reboot("), "{quiet}");
}

/// What a crash kernel finds of the panic.
const CAPTURE: &str = "kdump-save --dump-dmesg /proc/vmcore /tmp/dmesg; echo LAB-capture-DMESG $?
echo LAB-capture-ORACLE $(grep -o 'LAB-ORACLE.*' /tmp/dmesg)";

/// A panic of the kernel of `suite`, after `load` has loaded the crash kernel.
fn panic(relay: Relay, load: &str) -> Outcome {
    let script = format!(
        "MORE=' nr_cpus=1 irqpoll reset_devices'
{load}
echo LAB-first-LOAD $?
[ $(cat /sys/kernel/kexec_crash_loaded) = 1 ] || reboot -f
echo '{ORACLE}' > /dev/kmsg
echo c > /proc/sysrq-trigger"
    );
    let outcome = relay.leg("first", &script).leg("capture", CAPTURE).machine().append("crashkernel=256M").run();
    outcome.ended();
    assert_eq!(said(&outcome, "first", "LOAD"), "0", "{}", outcome.tail());
    assert_eq!(said(&outcome, "capture", "DMESG"), "0", "{}", outcome.tail());
    assert_eq!(said(&outcome, "capture", "ORACLE"), ORACLE, "{}", outcome.tail());
    outcome
}

#[test]
fn a_panic_reaches_a_crash_kernel_that_is_an_elf() {
    let relay = usual("crash-elf");
    let vmlinux = Kernel::of(SUITE).vmlinux(&relay.work().join("vmlinux"));
    let load = format!(
        "kexec -c -p --args-linux /mnt/vmlinux --initrd=/mnt/{SUITE}.initrd --append=\"$(line capture)\" --console-serial"
    );
    let outcome = panic(relay.file("vmlinux", &vmlinux), &load);
    arrived(&outcome, "capture", SUITE);
}

#[test]
fn a_crash_kernel_stays_loaded_while_cpus_come_and_go() {
    let load = "kexec -c -p /mnt/sid.vmlinuz --initrd=/mnt/sid.initrd --append=\"$(line capture)\"
loaded=$?
cpu=/sys/devices/system/cpu
echo LAB-first-HOTPLUG $(cat $cpu/crash_hotplug) of $(cat /sys/kernel/crash_elfcorehdr_size)
echo 0 > $cpu/cpu1/online; echo LAB-first-OFFLINE $(cat $cpu/online)
echo 1 > $cpu/cpu1/online; echo LAB-first-ONLINE $(cat $cpu/online)
echo 0 > $cpu/cpu1/online
dmesg | grep -i 'crash hp' | sed 's/^/LAB-first-KERNEL /'
(exit $loaded)";
    let outcome = panic(Relay::new("crash-hotplug").kernel("sid", &[]), load);
    arrived(&outcome, "capture", "sid");
    assert!(said(&outcome, "first", "HOTPLUG").starts_with("1 of "), "{}", outcome.tail());
    assert_eq!(said(&outcome, "first", "OFFLINE"), "0", "{}", outcome.tail());
    assert_eq!(said(&outcome, "first", "ONLINE"), "0-1", "{}", outcome.tail());
}
