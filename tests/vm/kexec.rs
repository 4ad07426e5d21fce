//! Linux to Linux: kernels started by both system calls, crash kernels reached by a real panic, and requests that are
//! refused without a side effect.

use crate::lab::core::ORACLE;
use crate::lab::{Guest, Kernel, Machine, Outcome, SUITE, workdir};
use crate::panic::Panic;

/// Says what this kernel was given, then starts the next one.
const STAGE: &str = r#"
echo "LAB-CMDLINE [$(cat /proc/cmdline)]"
stage=$(sed -n 's/.*stage=\([a-z]*\).*/\1/p' /proc/cmdline)
echo LAB-STAGE $stage
kexec -S -l; echo LAB-$stage-FRESH $?
case $stage in
first)
    kexec -l -c /boot/vmlinuz --append=none; echo LAB-LOAD-C $?
    kexec -S -l; echo LAB-STATUS-LOADED $?
    kexec -S; echo LAB-STATUS-CRASH $?
    kexec -u -c; echo LAB-UNLOAD-C $?
    kexec -S -l; echo LAB-STATUS-UNLOADED $?
    kexec -u -s; echo LAB-UNLOAD-AGAIN $?
    kexec -c -l /boot/vmlinuz --initrd=/boot/part1 --ramdisk /boot/part2 --console-serial \
        --append='console=ttyS0 panic=-1 stage=segments quoted="a  b"'
    ;;
segments)
    kexec -lsd --initrd=/boot/part1 --initrd=/boot/part2 --append 'console=ttyS0 panic=-1 stage=files' -- /boot/vmlinuz
    ;;
files)
    kexec --load /boot/vmlinuz --reuse-cmdline --initrd /boot/part1 --initrd /boot/part2 --append 'stage=reused'
    ;;
reused)
    sed -n '/System RAM/p' /proc/iomem | sed 's/^/LAB-IOMEM /'
    reboot -f
    ;;
esac
echo LAB-$stage-LOAD $?
kexec -S -l; echo LAB-$stage-LOADED $?
kexec -e
echo LAB-$stage-EXEC-RETURNED $?
"#;

#[test]
fn each_system_call_starts_a_kernel_with_exactly_its_command_line() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("kexec-next");
    // The kernel unpacks every archive of an initrd, so what each stage needs may come in parts of odd lengths.
    let guest = || Guest::new(&kernel, &[], STAGE).product(&["kexec"]);
    let small = guest().write_gzip(&work.join("part1"));
    let boot = |parts: &[(&str, &std::path::Path)]| {
        let first = Guest::new(&kernel, &[], STAGE).file("boot/vmlinuz", &kernel.vmlinuz());
        parts.iter().fold(first, |guest, (name, from)| guest.file(name, from))
    };
    // Innermost last: each image carries the ones that the stages behind it need.
    let third = boot(&[("boot/part1", &small), ("boot/part2", &small)]).write_gzip(&work.join("third"));
    let second = boot(&[("boot/part1", &small), ("boot/part2", &third)]).write_gzip(&work.join("second"));
    let first = boot(&[("boot/part1", &small), ("boot/part2", &second)]).product(&["kexec"]);
    let outcome = Machine::new("kexec-next", &work, &kernel.vmlinuz())
        .initrd(&first.write(&work.join("first.cpio")))
        .append("stage=first")
        .timeout(300)
        .run();
    outcome.ended();
    let given: Vec<&str> = outcome.console.lines().filter_map(|l| l.strip_prefix("LAB-CMDLINE ")).collect();
    let expected = [
        "[console=ttyS0 panic=-1 stage=first]",
        "[console=ttyS0 panic=-1 stage=segments quoted=\"a  b\"]",
        "[console=ttyS0 panic=-1 stage=files]",
        "[console=ttyS0 panic=-1 stage=files stage=reused]",
    ];
    assert_eq!(given, expected, "{}", outcome.tail());
    outcome.expect("in purgatory");
    for (key, value) in [
        ("LAB-first-FRESH", "0"),
        ("LAB-LOAD-C", "0"),
        ("LAB-STATUS-LOADED", "1"),
        ("LAB-STATUS-CRASH", "0"),
        ("LAB-UNLOAD-C", "0"),
        ("LAB-STATUS-UNLOADED", "0"),
        ("LAB-UNLOAD-AGAIN", "0"),
        ("LAB-first-LOAD", "0"),
        ("LAB-first-LOADED", "1"),
        ("LAB-segments-FRESH", "0"),
        ("LAB-segments-LOADED", "1"),
        ("LAB-files-LOADED", "1"),
    ] {
        assert_eq!(outcome.value(&format!("{key} ")), Some(value), "{key}\n{}", outcome.tail());
    }
    outcome.expect("LAB-IOMEM 00100000-").refuse("EXEC-RETURNED");
}

/// The crash kernel looks at the old memory and says what it is.
const LOOK: &str = "
echo \"LAB-CRASH-CMDLINE [$(cat /proc/cmdline)]\"
grep -E 'System RAM|MemTotal' /proc/iomem /proc/meminfo | sed 's/^/LAB-CRASH-/'
kdump-save --dump-dmesg /proc/vmcore /tmp/dmesg; echo LAB-CRASH-DMESG $?
grep -c . /tmp/dmesg | sed 's/^/LAB-CRASH-LINES /'
grep -o 'LAB-ORACLE.*' /tmp/dmesg | sed 's/^/LAB-CRASH-/'
ls -l /proc/vmcore | sed 's/^/LAB-CRASH-VMCORE /'
dd if=/proc/vmcore of=/tmp/low bs=1M count=1 2>/dev/null && echo LAB-CRASH-READABLE
";

fn panic_into_the_crash_kernel(name: &str, cpu: &str, load: &str) -> Outcome {
    let kernel = Kernel::of(SUITE);
    let work = workdir(name);
    let image = Guest::new(&kernel, &[], LOOK).product(&["kdump-save"]).write_gzip(&work.join("look.img"));
    let panic = Panic {
        name,
        kernel: &kernel,
        work: &work,
        crashkernel: "160M",
        cpu,
        load,
        image: &image,
        target_mib: 16,
        fill: false,
        memory_mib: 768,
    };
    let (outcome, _) = panic.run();
    outcome.ended();
    outcome.expect("LAB-LOAD 0").expect("LAB-CRASH-DMESG 0").expect("LAB-CRASH-READABLE");
    assert_eq!(outcome.value("LAB-CRASH-LAB-ORACLE"), ORACLE.strip_prefix("LAB-ORACLE").map(str::trim));
    outcome
}

/// What the crash kernel was given behind what we asked for.
fn added<'a>(outcome: &'a Outcome, asked: &str) -> &'a str {
    let line = outcome.value("LAB-CRASH-CMDLINE [").and_then(|l| l.strip_suffix(']')).unwrap_or_default();
    line.strip_prefix(asked).unwrap_or_else(|| panic!("'{line}' does not begin with '{asked}'")).trim()
}

#[test]
fn a_panic_reaches_the_crash_kernel_loaded_by_segments() {
    let load = "/sbin/kexec -c -p /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\" --console-serial";
    let outcome = panic_into_the_crash_kernel("kexec-crash-segments", "max", load);
    outcome.expect("in purgatory").refuse("was overwritten");
    let added: Vec<&str> = added(&outcome, crate::panic::APPEND).split(' ').collect();
    let keys: Vec<&str> = added.iter().filter_map(|w| Some(w.split_once("=0x")?.0)).collect();
    assert_eq!(keys, ["elfcorehdr", "acpi_rsdp"], "added: {added:?}");
    // Low memory, as the old kernel left it, is in the vmcore only if the purgatory's copy is described.
    outcome.expect("LAB-CRASH-/proc/iomem:00001000-");
}

#[test]
fn a_panic_reaches_the_crash_kernel_loaded_by_the_kernel() {
    let load = "/sbin/kexec -p -s /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\"
kexec -S; echo LAB-CRASH-STATUS $?
kexec -p -u; echo LAB-CRASH-UNLOAD $?
kexec -S; echo LAB-CRASH-STATUS-AFTER $?
/sbin/kexec -p -a /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\"";
    let outcome = panic_into_the_crash_kernel("kexec-crash-files", "qemu64", load);
    for (key, value) in [("LAB-CRASH-STATUS ", "1"), ("LAB-CRASH-UNLOAD ", "0"), ("LAB-CRASH-STATUS-AFTER ", "0")] {
        assert_eq!(outcome.value(key), Some(value), "{key}\n{}", outcome.tail());
    }
}

/// Every refusal under strace: none of the calls that change something is made.
const REFUSED: &str = r#"
head -c 3000000 /boot/vmlinuz > /tmp/truncated
head -c 100 /boot/vmlinuz > /tmp/short
: > /tmp/empty
dd if=/dev/urandom of=/tmp/garbage bs=64k count=1 2>/dev/null
long=$(head -c 5000 /dev/zero | tr '\0' x)
refuse() {
    name=$1; shift
    strace -f -qq -o /tmp/trace -e trace=kexec_load,kexec_file_load,reboot,sync,syncfs,ioctl,socket "$@" 2> /tmp/said
    echo "LAB-REFUSED $name code $? lines $(wc -l < /tmp/said) calls $(wc -l < /tmp/trace)"
    sed "s/^/LAB-SAID $name: /" /tmp/said
}
refuse exec kexec -e
refuse exec-x kexec -e -x -y
refuse no-kernel kexec -l
refuse missing kexec -l /nonexistent
refuse empty kexec -l /tmp/empty
refuse garbage kexec -l /tmp/garbage
refuse short kexec -l /tmp/short
refuse truncated kexec -l /tmp/truncated
refuse truncated-s kexec -s -l /tmp/truncated
refuse initrd kexec -c -l /boot/vmlinuz --initrd=/nonexistent
refuse initrd-s kexec -s -l /boot/vmlinuz --initrd=/nonexistent
refuse long kexec -l /boot/vmlinuz --append=$long
refuse no-reservation kexec -p /boot/vmlinuz
refuse no-reservation-c kexec -c -p /boot/vmlinuz
refuse no-reservation-s kexec -s -p /boot/vmlinuz
refuse option kexec --frobnicate
cat /sys/kernel/kexec_loaded | sed 's/^/LAB-STILL /'
echo 1 > /proc/sys/kernel/kexec_load_disabled
kexec -c -l /boot/vmlinuz 2>&1 | sed 's/^/LAB-DISABLED /'
"#;

#[test]
fn refused_requests_change_nothing_and_say_one_sentence() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("kexec-refused");
    let guest = Guest::new(&kernel, &[], REFUSED)
        .product(&["kexec"])
        .tool("strace")
        .file("boot/vmlinuz", &kernel.vmlinuz())
        .write(&work.join("first.cpio"));
    let outcome = Machine::new("kexec-refused", &work, &kernel.vmlinuz()).initrd(&guest).timeout(240).run();
    outcome.ended().expect("LAB-STILL 0");
    for (name, code, sentence) in [
        ("exec", 255, "nothing has been loaded"),
        ("exec-x", 255, "nothing has been loaded"),
        ("no-kernel", 255, "no kernel specified"),
        ("missing", 1, "cannot open /nonexistent: No such file or directory"),
        ("empty", 255, "/tmp/empty: the file is empty"),
        ("garbage", 255, "of an unknown type"),
        ("short", 255, "/tmp/short: "),
        ("truncated", 255, "truncated: its header announces"),
        ("truncated-s", 255, "truncated: its header announces"),
        ("initrd", 1, "/nonexistent: No such file or directory"),
        ("initrd-s", 1, "/nonexistent: No such file or directory"),
        ("long", 255, "the command line has 5000 bytes, the kernel takes 2047"),
        ("no-reservation", 254, "crashkernel="),
        ("no-reservation-c", 254, "crashkernel="),
        ("no-reservation-s", 254, "crashkernel="),
        ("option", 1, "unrecognized option '--frobnicate'"),
    ] {
        let result = outcome.value(&format!("LAB-REFUSED {name} ")).unwrap_or_default();
        assert_eq!(result, format!("code {code} lines 1 calls 0"), "{name}\n{}", outcome.tail());
        let said = outcome.value(&format!("LAB-SAID {name}: ")).unwrap_or_default();
        assert!(said.contains(sentence), "{name} says '{said}', which lacks '{sentence}'");
    }
    outcome.expect("LAB-DISABLED kexec: kexec_load failed: Operation not permitted; kernel.kexec_load_disabled is 1");
}
