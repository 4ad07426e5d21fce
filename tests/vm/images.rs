//! Linux by everything that kexec takes as its kernel: each entry point, an uncompressed kernel, a unified image,
//! other releases, a large initrd; and the ways to execute what is loaded.

use std::fs;

use crate::lab::core::ORACLE;
use crate::lab::cpio::Archive;
use crate::lab::{Kernel, Outcome, SUITE, Xen, uki};
use crate::relay::{Relay, all_arrived, arrived, said, usual, usual_kernel};

#[test]
fn each_entry_point_an_elf_and_a_unified_image() {
    let kernel = Kernel::of(SUITE);
    let usual_kernel = usual_kernel();
    let relay = usual("images");
    let work = relay.work().to_owned();
    let vmlinux = kernel.vmlinux(&work.join("vmlinux"));
    // CAN_USE_HEAP in the header's loadflags is for the setup code alone.
    let setup = "echo LAB-$stage-LOADFLAGS $(hexdump -s 0x211 -n 1 -v -e '\"%x\"' /sys/kernel/boot_params/data)";
    let screen = "echo LAB-$stage-SCREEN $(dd if=/dev/mem bs=4096 skip=184 count=1 2>/dev/null | tr -d '\\000\\007' |
    grep -ao 'in purgatory')";
    let relay = relay
        .file("vmlinux", &vmlinux)
        .leg("first", &format!("go entry32 -c -l --entry-32bit {usual_kernel} --console-vga --reset-vga"))
        .leg(
            "entry32",
            &format!(
                "{setup}\n{screen}\nMORE=' edd=off'
go real -l --real-mode {usual_kernel}"
            ),
        )
        .leg("real", &format!("{setup}\ngo elf -l --args-linux /mnt/vmlinux --initrd=/mnt/{SUITE}.initrd"))
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
    assert_eq!(said(&outcome, "entry32", "LOADFLAGS"), "3", "{}", outcome.tail());
    assert_eq!(said(&outcome, "real", "LOADFLAGS"), "83", "{}", outcome.tail());
    assert_eq!(said(&outcome, "entry32", "SCREEN"), "in purgatory", "{}", outcome.tail());
    for stage in ["unified", "unified2"] {
        assert_eq!(said(&outcome, stage, "EXTRA"), "first archivesecond archive", "{}", outcome.tail());
    }
    let given = "[console=ttyS0 panic=-1 stage=unified]";
    assert_eq!(said(&outcome, "unified", "CMDLINE"), given, "{}", outcome.tail());
}

#[test]
fn an_old_and_a_new_kernel() {
    let hop = |to: &str, call: &str, suite: &str| {
        format!("go {to} {call} -l /mnt/{suite}.vmlinuz --initrd=/mnt/{suite}.initrd")
    };
    let outcome = usual("old-and-new")
        .kernel("bullseye", &[])
        .kernel("sid", &[])
        .leg("first", &hop("new", "-c", "sid"))
        .leg("new", &hop("old", "-c", "bullseye"))
        .leg("old", &hop("last", "-s", SUITE))
        .leg("last", "true")
        .machine()
        .run();
    all_arrived(&outcome, &[("new", "sid"), ("old", "bullseye"), ("last", SUITE)]);
}

#[test]
fn each_way_to_execute_does_what_it_says_and_no_more() {
    let kernel = usual_kernel();
    // Straight to the console: what a pipe still holds is lost with the machine.
    let trace = "strace -f -qq -o /dev/console -e trace=ioctl,sync,reboot";
    let up = "ip addr add 192.0.2.1/24 dev dummy0; ip link set dummy0 up
echo LAB-$stage-INTERFACE $(cat /sys/class/net/dummy0/operstate)";
    let locked = format!(
        "mount -t securityfs security /sys/kernel/security
refused() {{ key=$1; shift; said=$(\"$@\" 2>&1); echo LAB-$stage-$key code $? $said; }}
refused SEGMENTS kexec -c -l {kernel}
refused FILE kexec -l {kernel}
refused XEN kexec -l --vmm=/mnt/xen {kernel} --append='-- x'
echo LAB-$stage-LOADED $(cat /sys/kernel/kexec_loaded)"
    );
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
MORE=' lockdown=integrity'
kexec {kernel} --append=\"$(line bare)\"
sleep 30"
            ),
        )
        .leg("bare", &locked)
        .file("xen", &Xen::of(SUITE).gz)
        .machine()
        .run();
    all_arrived(&outcome, &["first", "plain", "quiet", "forced", "bare"].map(|stage| (stage, SUITE)));
    assert_eq!(outcome.value("LAB-SHUTDOWN "), Some("-r now"), "{}", outcome.tail());
    for key in ["SEGMENTS", "XEN"] {
        let answer = said(&outcome, "bare", key);
        assert!(answer.starts_with("code 255 "), "{key}: {answer}");
        assert!(answer.contains("locked down (integrity), which forbids kexec_load: Xen"), "{key}: {answer}");
    }
    assert_eq!(said(&outcome, "bare", "LOADED"), "0", "{}", outcome.tail());
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
