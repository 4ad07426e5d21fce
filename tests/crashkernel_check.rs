//! `crashkernel-check`: the kernels' grammar, and reports of recorded machines.

use std::process::{Command, Output};

use kdumpbox::crashkernel::syntax::{ARCHES, Rules, Verdict, linux};
use kdumpbox::crashkernel::xen::xen;
use proptest::prelude::*;

#[path = "support/bzimage.rs"]
mod bzimage;
#[path = "support/grammar.rs"]
mod grammar;
#[path = "support/recorded.rs"]
mod recorded;

const GIB: u64 = 1 << 30;

fn read(kernel: &str, command_line: &str, memory: u64) -> Verdict {
    let rules = Rules::new(memory);
    match ARCHES.iter().find(|a| a.name == kernel) {
        _ if kernel == "xen" => xen(command_line, memory),
        Some(arch) => linux(command_line, &Rules { arch: *arch, ..rules }),
        None => linux(command_line, &rules.of_release(kernel)),
    }
}

#[test]
fn every_case_is_read_as_the_kernel_reads_it() {
    let cases = grammar::cases();
    assert!(cases.len() >= 80 && cases.iter().filter(|c| c.booted).count() >= 20);
    let mut wrong = Vec::new();
    for case in cases {
        let verdict = read(case.kernel, case.command_line, case.memory);
        let text = verdict.reservation.to_string();
        let reserved = if verdict.reservation.size == 0 { "-" } else { &text["crashkernel=".len()..] };
        let said = match (case.remark, verdict.remarks.first()) {
            (Some((fault, position, words)), Some(said)) => {
                (said.fault, said.position) == (fault, position) && said.reason.contains(words)
            }
            (expected, said) => expected.is_none() && said.is_none(),
        };
        if reserved != case.reserved || !said {
            wrong.push(format!("{case:?}\n  is {reserved}, {:?}", verdict.remarks));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic_and_what_is_printed_asks_for_the_same(
        text in "(crashkernel=|crashkernel=[0-9]{1,3}[KMG]|[0-9xKMGT@:,. -]|,high|,low|,cma|,below=|<|0-:|é){0,12}",
        memory in prop_oneof![any::<u64>(), 0..64 * GIB],
        kernel in prop_oneof![Just("6.1"), Just("7.2"), Just("aarch64"), Just("xen")],
    ) {
        let verdict = read(kernel, &text, memory);
        for remark in &verdict.remarks {
            prop_assert!(remark.position <= text.len(), "{remark} of {text}");
        }
        if verdict.reservation.size > 0 {
            let printed = verdict.reservation.to_string();
            let again = read(kernel, &printed, memory);
            prop_assert_eq!(again.reservation, verdict.reservation, "{} from {}", printed, text);
            prop_assert!(again.valid());
        }
    }
}

fn check(args: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_kdumpbox")).arg("crashkernel-check").args(args).output();
    command.expect("runs")
}

#[test]
fn the_exit_code_of_wrong_options_is_3() {
    for args in [&["--nonsense"][..], &["--root"]] {
        assert_eq!(check(args).status.code(), Some(3), "{args:?}");
    }
}

/// Runs it on a recorded machine of these files.
fn check_machine(files: &[(&str, &str)], args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = dir.path().join("machine").join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    // One directory above, as archives are unpacked.
    check(&[&["--root", dir.path().to_str().expect("text")], args].concat())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_way_of_not_being_ready_is_told_apart() {
    let size = |bytes| ("sys/kernel/kexec_crash_size", bytes);
    let meminfo = ("proc/meminfo", "MemTotal: 1048576 kB\n");
    let iomem = ("proc/iomem", "00001000-0009fbff : System RAM\n00100000-3ffdffff : System RAM\n");
    let asked = |line| ("proc/cmdline", line);
    for (files, text) in [
        (&[asked("ro"), size("0\n"), meminfo][..], "the kernel was started without crashkernel="),
        (&[asked("crashkernel=64MB"), size("0\n"), meminfo], "unrecognized character 'B'"),
        (&[asked("crashkernel=64M@16M"), size("0\n"), iomem], "leave @ADDRESS out"),
        (
            &[
                asked("crashkernel=512M"),
                size("0\n"),
                iomem,
                (
                    "sos_commands/kernel/dmesg",
                    "[    0.0] Command line: crashkernel=512M cannot\n[    0.01] cannot allocate crashkernel (size:0x20000000)\n",
                ),
            ],
            "no memory is reserved for a crash kernel: cannot allocate crashkernel (size:0x20000000)\n",
        ),
        (&[asked("crashkernel=64M"), meminfo], "the running kernel has no kexec"),
        (&[asked("crashkernel=64M"), size("67108864\n"), meminfo], "none is loaded\n"),
        (
            &[asked("crashkernel=64M"), size("67108864\n"), meminfo, ("proc/sys/kernel/kexec_load_disabled", "1\n")],
            "kexec_load_disabled forbids",
        ),
        (
            &[asked("crashkernel=64M"), size("67108864\n"), meminfo, ("proc/sys/kernel/kexec_load_limit_panic", "0\n")],
            "kexec_load_limit_panic is used up",
        ),
        (&[asked("crashkernel=64M"), size("33554432\n"), meminfo], "64 MiB were asked for: the rest was given back"),
        (&[asked("crashkernel=64M"), size("134217728\n"), meminfo], "not the command line the kernel went by"),
    ] {
        let output = check_machine(files, &[]);
        let said = stdout(&output);
        assert!(said.contains(text), "{said}\nlacks: {text}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.ends_with("error    verdict      not ready: a panic will leave no dump\n"), "{said}");
        assert_eq!(stdout(&check_machine(files, &["--quiet"])), "");
    }
}

#[test]
fn a_specification_is_judged_before_anyone_boots_with_it() {
    for (args, code, text) in [
        (&["parse", "256M", "--memory", "64G"][..], 0, "reserves  256 MiB below 4 GiB if there is room, else above\n"),
        (&["parse", "512M,high", "72M,low", "--memory", "64G"], 0, "512 MiB above 4 GiB and 72 MiB below 4 GiB\n"),
        (&["parse", "64MB", "--memory=1GiB"], 1, "  crashkernel=64MB\n                 ^ unrecognized character 'B'\n"),
        (&["parse", "--cmdline", "ro quiet", "--memory=1G"], 1, "reserves  nothing: not asked for\n"),
        (&["parse", "131072", "--xen", "--memory=1G"], 0, "128 MiB at the highest free address\n"),
        (&["parse", "128M@100M", "--xen", "--memory=1G"], 2, "at 0x6400000, or nothing if that is not free\n"),
        (&["parse", "64MB 64M,high", "--kernel=6.1", "--memory=1G"], 2, "as there is not enough memory above"),
        (&["parse", "64M,cma", "64M", "--kernel=6.12.1", "--memory=1G"], 0, "reserves  64 MiB below"),
        (&["parse", "512M,high", "--arch=aarch64", "--memory=8G"], 0, "and 128 MiB below 4 GiB"),
        (&["parse"], 3, ""),
        (&["parse", "1M", "--cmdline", "x"], 3, ""),
        (&["parse", "1M", "--memory", "lots"], 3, ""),
        (&["parse", "1M", "--arch", "vax"], 3, ""),
        (&["parse", "1M", "--kernel", "new"], 3, ""),
    ] {
        let output = check(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stdout(&output));
        assert!(stdout(&output).contains(text), "{args:?}: {}", stdout(&output));
        assert!(code != 3 || !output.stderr.is_empty(), "{args:?}");
    }
    for (args, text) in [
        (
            &["parse", "512M,high", "--memory", "64G"][..],
            "{\"valid\": true, \"size\": 536870912, \"offset\": null, \"high\": 536870912, \"low\": 268435456, \"cma\": 0, \
             \"below\": null, \"xen\": false, \"reason\": null, \"position\": null}\n",
        ),
        (
            &["parse", "--cmdline=crashkernel=128MB@1G", "--memory", "64G"],
            "{\"valid\": false, \"size\": 0, \"offset\": null, \"high\": 0, \"low\": 0, \"cma\": 0, \"below\": null, \
             \"xen\": false, \"reason\": \"unrecognized character 'B'\", \"position\": 16}\n",
        ),
        (
            &["parse", "128M@1G", "--xen", "--memory", "64G"],
            "{\"valid\": true, \"size\": 134217728, \"offset\": 1073741824, \"high\": 0, \"low\": 0, \"cma\": 0, \
             \"below\": null, \"xen\": true, \"reason\": null, \"position\": null}\n",
        ),
    ] {
        assert_eq!(stdout(&check(&[args, &["--json"]].concat())), text);
    }
}

/// What is said of a recorded machine; `UPDATE_GOLDEN=1 cargo test --test crashkernel_check` writes it anew.
fn golden(machine: &str, code: i32, put: impl Fn(&std::path::Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    recorded::unfold(machine, &dir.path().join("machine"));
    put(&dir.path().join("machine"));
    let run = |json: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let command = command.current_dir(dir.path()).args(["crashkernel-check", "--root", "machine"]).args(json);
        let output = command.output().expect("runs");
        assert_eq!(output.status.code(), Some(code), "{machine}: {}", stdout(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{machine}");
        stdout(&output)
    };
    let text = format!("# {machine}: crashkernel-check, and the same with --json\n{}{}", run(&[]), run(&["--json"]));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/crashkernel").join(machine);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("below the checkout")).expect("made");
        std::fs::write(&path, &text).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    assert!(text == expected, "{machine} differs from its golden file; it is now:\n{text}");
}

#[test]
fn reports_of_recorded_machines() {
    for (machine, code) in [
        ("bare-linux", 2),
        ("high-low", 2),
        ("bios-no-crashkernel", 1),
        ("failed", 1),
        ("xen-dom0", 2),
        ("xen-domu", 1),
        ("ia64", 2),
        ("not-root", 1),
        ("efi-crashkernel", 1),
        ("aarch64", 0),
    ] {
        golden(machine, code, |_| {});
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    use kdumpbox::initramfs::cpio::{Entry, Node, archive};
    let entry =
        |(path, data): &(&str, &[u8])| Entry { path: (*path).into(), node: Node::File(data.to_vec()), mode: 0o644 };
    let own = Entry { path: "sbin/kdump-save".into(), node: Node::Link("/init".into()), mode: 0o777 };
    archive(&files.iter().map(entry).chain([own]).collect::<Vec<_>>()).expect("an archive")
}

#[test]
fn what_comes_after_the_panic_is_looked_into() {
    let config = ("etc/kdump.conf", &b"ext4 LABEL=dumps\n"[..]);
    let good = archive(&[config, ("lib/modules/6.1.0-56-amd64/ext4.ko", &[1; 9000])]);
    let kernel = bzimage::BzImage::default();
    let put = |root: &std::path::Path, kernel: &[u8], initramfs: &[u8], days: [u64; 3]| {
        for (name, bytes, day) in [
            ("boot/vmlinuz-6.1.0-56-amd64", kernel, days[0]),
            ("boot/crash.img", initramfs, days[1]),
            ("etc/kdump.conf", &b"ext4 LABEL=dumps\n"[..], days[2]),
        ] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::fs::write(&path, bytes).expect("written");
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(day * 86400);
            std::fs::File::options().write(true).open(&path).expect("opened").set_modified(time).expect("dated");
        }
    };
    let other = archive(&[config, ("lib/modules/5.10.0-46-amd64/ext4.ko", &[1; 9000])]);
    let without = archive(&[("etc/kdump.conf", b"path /x\n"), ("lib/modules/6.1.0-56-amd64/ext4.ko", b"")]);
    let large = archive(&[config, ("filler", &vec![0; 120 << 20])]);
    let fixed = bzimage::BzImage { relocatable: false, ..kernel.clone() }.write();
    let mut kernel = kernel.write();
    kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    kernel[0x300..0x30f].copy_from_slice(b"6.1.0-56-amd64 ");
    for (code, kernel, initramfs, days, text) in [
        (2, &kernel, &good, [1, 2, 1], "ok       initramfs    machine/boot/crash.img: "),
        (2, &kernel, &good, [3, 2, 1], "warning  initramfs    machine/boot/crash.img is older than the kernel"),
        (2, &kernel, &good, [1, 2, 3], "is older than machine/etc/kdump.conf, and does not know what is in it"),
        (
            1,
            &kernel,
            &good[..500].to_vec(),
            [1, 2, 1],
            "error    initramfs    initramfs machine/boot/crash.img: the archive is cut off",
        ),
        (1, &kernel[..900].to_vec(), &good, [1, 2, 1], "error    image        kernel machine/boot/vmlinuz"),
        (2, &kernel, &good, [1, 2, 1], "ok       room         160 MiB reserved: "),
        (1, &kernel, &other, [1, 2, 1], "has modules for 5.10.0-46-amd64, the crash kernel is 6.1.0-56-amd64"),
        (1, &kernel, &without, [1, 2, 1], "error    target       kdump.conf names none"),
        (1, &kernel, &large, [1, 2, 1], "-> boot with crashkernel=400M"),
        (1, &fixed, &good, [1, 2, 1], "can't be moved: it runs at 0x1000000 only"),
        (2, &kernel, &good, [1, 2, 1], "ok       target       ext4 LABEL=dumps, which a recording does not show"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        recorded::unfold("bare-linux", &dir.path().join("machine"));
        put(&dir.path().join("machine"), kernel, initramfs, days);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let command = command.current_dir(dir.path()).args(["crashkernel-check", "--root", "machine"]);
        let output = command.output().expect("runs");
        let said = stdout(&output);
        assert!(said.contains(text), "{said}\nlacks: {text}");
        assert_eq!(output.status.code(), Some(code), "{said}");
    }
}

#[test]
fn what_stands_between_a_panic_and_the_crash_kernel_is_told() {
    let ready: [(&str, &str); 5] = [
        ("proc/cmdline", "crashkernel=512M,high crashkernel=0,low"),
        (
            "proc/iomem",
            "00100000-bfffffff : System RAM\n100000000-23fffffff : System RAM\n  21f000000-23effffff : Crash kernel\n",
        ),
        ("sys/kernel/kexec_crash_size", "536870912\n"),
        ("sys/kernel/kexec_crash_loaded", "1\n"),
        ("proc/sys/kernel/panic_on_oops", "1\n"),
    ];
    let sme = "[    0.1] Memory Encryption Features active: AMD SME\n";
    for (name, text, said) in [
        ("etc/hostname", "host", "warning  low memory   the area lies above 4 GiB"),
        ("sys/module/kernel/parameters/crash_kexec_post_notifiers", "Y\n", "warning  notifiers"),
        ("proc/cpuinfo", "flags : fpu hypervisor sev\n", "warning  encryption   the CPU encrypts this guest's memory"),
        ("sos_commands/kernel/dmesg", sme, "ok       encryption   memory is encrypted (SME)"),
        ("proc/sys/kernel/panic_on_warn", "1\n", "warning  warnings     every warning"),
        ("proc/sys/kernel/sysrq", "0\n", "ok       sysrq        the key c is off"),
        ("sys/kernel/security/lockdown", "[none] integrity\n", "ok       oops         an oops is a panic"),
        ("proc/meminfo", "MemTotal: 8388608 kB\nMemFree: 8000000 kB\n", "ok       dump         about "),
    ] {
        let files: Vec<(&str, &str)> = ready.into_iter().chain([(name, text)]).collect();
        let output = check_machine(&files, &[]);
        assert!(stdout(&output).contains(said), "{}\nlacks: {said}", stdout(&output));
        assert_eq!(output.status.code(), Some(2));
    }
    let coloured = kdumpbox::crashkernel::report::human(&[], true);
    assert_eq!(coloured, "\x1b[32mok      \x1b[0m verdict      ready: a panic will leave a dump\n");
}
