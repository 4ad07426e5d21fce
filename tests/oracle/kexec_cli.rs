//! kexec-tools as judge of our command line: one row per command, run by both under strace with the system calls
//! injected, in a user, mount and network namespace with a recorded `/proc` and `/sys`. Exit code and calls must agree,
//! or the row says why not.
//!
//! Nothing here asks for `-e`, `-f` or no mode at all: those end in a reboot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kdumpbox::image::{self, decompress};

use crate::lab::{Kernel, SUITE, fetch, workdir};
use crate::recorded;

/// One command line, compared.
struct Row {
    /// Who calls it so, or what it shows.
    case: &'static str,
    /// The arguments, as a shell reads them.
    line: &'static str,
    /// The recorded machine.
    machine: &'static str,
    /// What the kernel answers: strace's `inject=` in place of success.
    answers: &'static [&'static str],
    /// The suite of the kexec-tools to compare with: sid's tries the file call first, bookworm's does not.
    theirs: &'static str,
    /// Why ours differs; empty where it must not.
    why: &'static str,
}

fn row(case: &'static str, line: &'static str) -> Row {
    Row { case, line, machine: "bios-crashkernel", answers: &[], theirs: "sid", why: "" }
}

impl Row {
    fn on(self, machine: &'static str) -> Self {
        Self { machine, ..self }
    }

    fn answered(self, answers: &'static [&'static str]) -> Self {
        Self { answers, ..self }
    }

    fn older(self) -> Self {
        Self { theirs: "bookworm", ..self }
    }

    fn differs(self, why: &'static str) -> Self {
        assert!(!why.is_empty(), "{} differs for no reason", self.case);
        Self { why, ..self }
    }
}

/// What came of one run.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: Option<i32>,
    /// The system calls, without addresses and descriptors' numbers.
    calls: Vec<String>,
}

/// One line of strace without what two programs can't agree on.
fn normal(line: &str) -> Option<String> {
    let (call, result) = line.rsplit_once(" = ")?;
    let result = result.split(' ').take(if result.starts_with('-') { 2 } else { 1 }).collect::<Vec<_>>().join(" ");
    if let Some((_, arguments)) = call.split_once("kexec_file_load(") {
        let (kernel, rest) = arguments.split_once(", ")?;
        let (initrd, rest) = rest.split_once(", ")?;
        let (_len, rest) = rest.split_once(", ")?;
        // No command line and an empty one are the same to the kernel.
        let (text, flags) = rest.trim_end_matches(')').rsplit_once(", ")?;
        let text = if text == "NULL" { "" } else { text.trim_matches('"').trim_end_matches("\\0") };
        let given = |fd: &str| if fd == "-1" { "none" } else { "file" };
        return Some(format!("kexec_file_load({}, {}, '{text}', {flags}) = {result}", given(kernel), given(initrd)));
    }
    if let Some((_, arguments)) = call.split_once("kexec_load(") {
        let count = arguments.split(", ").nth(1)?;
        let flags = arguments.trim_end_matches(')').rsplit_once(", ")?.1;
        let segments = if count == "0" { "nothing" } else { "segments" };
        return Some(format!("kexec_load({segments}, {flags}) = {result}"));
    }
    Some(line.to_owned())
}

/// The directory the commands run in: both programs, a machine, a kernel and what is no kernel.
fn laboratory(name: &str) -> PathBuf {
    let dir = workdir(&format!("oracle-kexec-cli-{name}"));
    for machine in ["bios-crashkernel", "bios-no-crashkernel", "sparse-cpus"] {
        recorded::unfold(machine, &dir.join(machine));
    }
    recorded::unfold("bios-crashkernel", &dir.join("loaded"));
    fs::write(dir.join("loaded/sys/kernel/kexec_crash_loaded"), "1\n").expect("written");
    let xen = fetch(&["tree", SUITE, "xen-hypervisor-4.17-amd64"]).join("boot/xen-4.17-amd64.gz");
    let packed = fs::read(&xen).expect("Xen");
    let unpacked = decompress::unwrap(&packed, image::MAX_UNPACKED).expect("unpacked").expect("packed");
    fs::write(dir.join("xen"), unpacked).expect("written");
    symlink(xen, dir.join("xen.gz")).expect("linked");
    symlink(Kernel::of(SUITE).vmlinuz(), dir.join("vmlinuz")).expect("linked");
    fs::create_dir(dir.join("ours")).expect("made");
    symlink(env!("CARGO_BIN_EXE_kdumpbox"), dir.join("ours/kexec")).expect("linked");
    fs::write(dir.join("initrd"), vec![0x5a; 100_000]).expect("written");
    fs::write(dir.join("zeros"), vec![0; 100_000]).expect("written");
    fs::write(dir.join("junk"), "no kernel\n".repeat(10_000)).expect("written");
    dir
}

fn run(dir: &Path, program: &Path, row: &Row) -> (Ran, String) {
    let words: Vec<&str> = row.line.split_whitespace().collect();
    let reboots = |w: &&str| w.starts_with("--ex") || w.starts_with("--fo") || clustered(w, &['e', 'f']);
    assert!(!words.iter().any(reboots), "{}: would reboot", row.line);
    let log = dir.join("strace");
    let over = "mount --rbind \"$0/sys\" /sys && mount --rbind \"$0/proc\" /proc && eval \"exec $1 $2\"";
    let mut command = Command::new("unshare");
    command.current_dir(dir).args(["-Urnm"]).arg(fetch(&["tools", SUITE]).join("bin/strace"));
    command.args(["-f", "-qq", "-s", "4096", "-e", "signal=none", "-e", "trace=kexec_load,kexec_file_load,reboot"]);
    for default in ["kexec_load", "kexec_file_load"] {
        if !row.answers.iter().any(|a| a.starts_with(&format!("{default}:"))) {
            command.args(["-e", &format!("inject={default}:retval=0")]);
        }
    }
    for answer in row.answers {
        command.args(["-e", &format!("inject={answer}")]);
    }
    command.args(["-e", "inject=reboot:error=EPERM", "-o"]).arg(&log);
    command.args(["sh", "-c", over, row.machine]).arg(program).arg(row.line).stdin(Stdio::null());
    let output = command.output().expect("start unshare");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let calls = text.lines().filter(|l| l.contains('(')).filter_map(normal).collect();
    (Ran { code: output.status.code(), calls }, said.lines().take(4).collect::<Vec<_>>().join("\n"))
}

/// Whether `word` is a cluster of short options with one of `letters` in it.
fn clustered(word: &str, letters: &[char]) -> bool {
    // Behind -t there is its value.
    let cluster = word.split('t').next().unwrap_or_default();
    cluster.starts_with('-') && !cluster.starts_with("--") && cluster.contains(letters)
}

fn compare(name: &str, rows: &[Row]) {
    let dir = laboratory(name);
    let mut wrong = String::new();
    for row in rows {
        let (ours, our_words) = run(&dir, Path::new("ours/kexec"), row);
        let (theirs, their_words) = run(&dir, &fetch(&["tools", row.theirs]).join("bin/kexec"), row);
        if (ours == theirs) != row.why.is_empty() {
            let verdict = if ours == theirs { "agrees, so it needs no reason" } else { "differs" };
            wrong += &format!(
                "{} {verdict}: kexec {}\n  ours   {ours:?}\n    {our_words}\n  theirs {theirs:?}\n    {their_words}\n",
                row.case, row.line
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn consumers_get_what_kexec_tools_gives_them() {
    compare(
        "consumers",
        &[
            row("systemd up to 260", "--load vmlinuz --append 'root=/dev/vda ro' --initrd initrd"),
            row("systemd without an initrd", "--load vmlinuz --append 'root=/dev/vda ro'"),
            row("Debian kexec-tools", "-l vmlinuz --initrd=initrd --append='root=/dev/vda ro'"),
            row("Debian 12's default call", "-l vmlinuz --initrd=initrd --append='root=/dev/vda ro'")
                .older()
                .differs("2.0.25 tried kexec_load alone; since 2.0.27 the file call comes first, and so it does here"),
            row("Debian kdump-tools", "-p --command-line='root=/dev/vda irqpoll' --initrd=initrd vmlinuz"),
            row("Debian kdump-tools, Secure Boot", "-p -s --command-line='root=/dev/vda' --initrd=initrd vmlinuz"),
            row("Debian kdump-tools, --args-linux", "-p -s --args-linux --command-line=a --initrd=initrd vmlinuz"),
            row("Debian kdump-tools, unload", "-p -u"),
            row("Debian kdump-tools, unload, Secure Boot", "-s -p -u"),
            row("Fedora kdumpctl", "-s -p --command-line='root=/dev/vda nr_cpus=1' --initrd=initrd vmlinuz"),
            row("Fedora kdumpctl, old call", "-c -p --elf64-core-headers --command-line=a --initrd=initrd vmlinuz"),
            row("Fedora kdumpctl, i686's option", "-c -p --elf32-core-headers --append=a --initrd=initrd vmlinuz"),
            row("openSUSE kdump", "-p vmlinuz --append='root=/dev/vda sysrq=yes' --initrd=initrd -a"),
            row("openSUSE kdump, unload", "-a -p -u"),
            row(
                "XCP-ng",
                "-p --elf64-core-headers --console-serial --serial=0x3f8 --serial-baud=115200 --append=x --ramdisk=initrd vmlinuz",
            ),
            row("XCP-ng, its version's call", "-c -p --elf64-core-headers --console-serial --serial=0x3f8 --serial-baud=115200 --append=x --ramdisk=initrd vmlinuz").older(),
            row("kdumpst", "-s -p vmlinuz --initrd initrd --append='root=/dev/vda'"),
            row("NixOS", "--load --initrd=initrd --command-line='init=/nix/init' -- vmlinuz"),
            row("petitboot", "-l --initrd=initrd --append='root=/dev/vda' vmlinuz"),
            row("petitboot, --debug", "-l --debug --initrd=initrd --append='root=/dev/vda' vmlinuz")
                .differs("our -d does not reach the kernel: before 6.8 the flag makes a good load fail"),
            row("kernel selftests", "-l -s --reuse-cmdline vmlinuz --initrd=initrd"),
            row("kernel selftests, unload", "-u -s"),
            row("Heads", "-c -l xen --command-line 'no-real-mode' --module 'vmlinuz root=/dev/x' --module initrd"),
            row("Heads, case 11", "-l xen --command-line 'no-real-mode' --module 'vmlinuz root=/dev/x' --module initrd")
                .differs("kexec-tools' default mode runs its multiboot loader without a memory map and fails"),
            row("Heads, as Xen is shipped", "-c -l xen.gz --command-line no-real-mode --module 'vmlinuz root=/dev/x'")
                .differs("Debian builds kexec-tools without zlib: it can't read what Debian ships"),
            row("nixos-anywhere", "--load vmlinuz --initrd=initrd --no-checks --command-line='init=/i'"),
        ],
    );
}

#[test]
fn habits_of_getopt_are_kept() {
    compare(
        "habits",
        &[
            row("case 1", "-l vmlinuz --initrd=initrd --append=a=1"),
            row("case 5: the last command line wins", "vmlinuz -l --command-line=x --append=y"),
            row("case 6: a cluster, a value, --", "-lsi --append foo=1 -- vmlinuz"),
            row("case 6: an ambiguous beginning of an option", "--loa vmlinuz"),
            row("case 6: an ambiguous prefix", "--l vmlinuz"),
            row("short value attached", "-ltbzImage64 vmlinuz"),
            row("short value apart", "-l -t bzImage64 vmlinuz"),
            row("prefixes of values", "-l --app=a=1 --ini=initrd vmlinuz"),
            row("an empty command line", "-l vmlinuz --append="),
            row("more than one operand", "-l vmlinuz initrd junk"),
            row("the first initrd of two", "-l vmlinuz --initrd=junk --ramdisk=initrd"),
            row("--reuse-cmdline and more", "-l vmlinuz --reuse-cmdline --append='quiet splash'"),
            row("--reuse-cmdline for a crash kernel", "-p vmlinuz --reuse-cmdline --append=irqpoll")
                .differs("kexec-tools leaves the space of the parameter it takes out"),
            row("--help", "-h"),
            row("--version", "--vers"),
            row("case 22: -?", "'-?'"),
            row("case 22: an unknown letter", "-lQ vmlinuz"),
            row("case 22: an unknown option", "-l --frobnicate vmlinuz"),
            row("case 22: a missing value", "-l vmlinuz --append"),
            row("case 22: a value too many", "--load=1 vmlinuz"),
            row("version before what is wrong", "-v -Q"),
            row("what is wrong before version", "-Q -v"),
        ],
    );
}

#[test]
fn modes_and_values_come_to_the_same() {
    compare(
        "modes",
        &[
            row("case 7: unload, crash", "-u -p").differs("kexec-tools takes it for a load without a kernel"),
            row("unload", "-u"),
            row("unload by kexec_load", "-c -u"),
            row("unload with a kernel", "-u vmlinuz"),
            row("load after load-panic is a crash load", "-p -l vmlinuz"),
            row("unload, then load", "-c -u -l vmlinuz").differs("a load replaces what is loaded: no unload before it"),
            row("unload, then load by file", "-s -u -l vmlinuz")
                .differs("kexec-tools passes the unload flag on to the load: it unloads twice and loads nothing"),
            row("case 8: status, not loaded", "-S"),
            row("case 8: status, loaded", "-S").on("loaded"),
            row("case 8: status of the next kernel", "-l -S").on("loaded"),
            row("case 8: the new home of the state", "-S")
                .on("sparse-cpus")
                .differs("kexec-tools knows the old file alone, which kernels will drop"),
            row("status of the crash kernel by -p", "-S -l -p").on("loaded"),
            row("status with -d", "-S -d").on("loaded"),
            row("no kernel", "-l"),
            row("bytes reserved", "--print-ckr-size"),
            row("case 15: nothing reserved", "-p vmlinuz")
                .on("bios-no-crashkernel")
                .differs("254 is kexec-tools' own code for this, which it uses on other paths"),
            row("case 22: --mem-min", "-l vmlinuz --mem-min=zz"),
            row("case 22: --mem-max", "-l vmlinuz --mem-max=1M"),
            row("case 22: --entry", "-l vmlinuz --entry=here"),
            row("case 22: --serial-baud", "-l vmlinuz --serial-baud=1234")
                .differs("a wrong value is a usage error like any other: 1, not 255"),
            row("--serial-baud=0", "-l vmlinuz --serial-baud=0").differs("kexec-tools divides by it and dies"),
            row("case 22: --serial", "-l vmlinuz --serial=ttyS9").differs("1, not 255, as above"),
            row("--serial without 0x", "-l vmlinuz --serial=3f8").differs("1, not 255, as above"),
            row("--serial too high", "-l vmlinuz --serial=0x10000").differs("1, not 255, as above"),
            row("a placement", "-c -l vmlinuz --mem-min=0x4000000 --mem-max=0x9ffffff"),
            row("a placement in the default mode", "-l vmlinuz --mem-min=0x4000000 --mem-max=0x9ffffff")
                .differs("the file call has no placement: kexec-tools drops what was asked for, we use kexec_load"),
            row("--reuseinitrd", "-l vmlinuz --reuseinitrd"),
            row("--load-live-update", "--load-live-update vmlinuz"),
        ],
    );
}

#[test]
fn traps_of_kexec_tools_are_walked_around_openly() {
    compare(
        "traps",
        &[
            row("b: options of other kernels", "-l vmlinuz --args-none --module=initrd"),
            row("b: options of other kernels, kexec_load", "-c -l vmlinuz --args-linux --module=initrd"),
            row("c: --entry and -t in file mode", "-s -l vmlinuz --entry=0x1000000 -t bzImage"),
            row("c: a wrong -t in file mode", "-s -l vmlinuz -t elf-x86_64")
                .differs("kexec-tools checks the type with -c only"),
            row("c: an unknown -t in file mode", "-s -l vmlinuz -t penguin")
                .differs("kexec-tools checks the type with -c only"),
            row("d: real mode by file", "-s -l vmlinuz --real-mode"),
            row("d: real mode by default", "-l vmlinuz --real-mode")
                .differs("kexec-tools refuses; only kexec_load can enter so, which is what we use"),
            row("d: 32-bit entry by default", "-l vmlinuz --entry-32bit").differs("as above"),
            row("d: real mode", "-c -l vmlinuz --real-mode"),
            row("d: 32-bit entry", "-c -l vmlinuz --entry-32bit"),
            row("e: a wrong type", "-c -l vmlinuz -t elf-x86_64"),
            row("e: an unknown type", "-c -l vmlinuz -t penguin"),
            row("f: no such kernel, by file", "-s -l nothing"),
            row("f: no such kernel", "-c -l nothing"),
            row("f: no such initrd, by file", "-s -l vmlinuz --initrd=nothing")
                .differs("one code for one cause: 1 by both calls, where kexec-tools has 255 here"),
            row("f: no such initrd", "-c -l vmlinuz --initrd=nothing"),
            row("g: no kernel at all", "-l junk").differs("kexec-tools reads outside the file and dies of it"),
            row("h: zeros", "-c -l zeros"),
            row("an empty name", "-l ''"),
            row("a directory", "-l ours"),
        ],
    );
}

#[test]
fn what_the_kernel_answers_decides_alike() {
    compare(
        "answers",
        &[
            row("case 2: ENOSYS", "-l vmlinuz --initrd=initrd --append=a=1")
                .answered(&["kexec_file_load:error=ENOSYS"]),
            row("ENOEXEC", "-l vmlinuz").answered(&["kexec_file_load:error=ENOEXEC"]),
            row("EINVAL", "-l vmlinuz").answered(&["kexec_file_load:error=EINVAL"]),
            row("EOPNOTSUPP", "-l vmlinuz").answered(&["kexec_file_load:error=EOPNOTSUPP"]),
            row("case 3: EKEYREJECTED", "-l vmlinuz").answered(&["kexec_file_load:error=EKEYREJECTED"]),
            row("ENOKEY", "-l vmlinuz").answered(&["kexec_file_load:error=ENOKEY"]),
            row("EPERM", "-l vmlinuz").answered(&["kexec_file_load:error=EPERM"]),
            row("EBUSY", "-l vmlinuz").answered(&["kexec_file_load:error=EBUSY"]),
            row("EADDRNOTAVAIL", "-p vmlinuz").answered(&["kexec_file_load:error=EADDRNOTAVAIL"]),
            row("case 4: -s, ENOSYS", "-s -l vmlinuz").answered(&["kexec_file_load:error=ENOSYS"]),
            row("case 4: -s, EPERM", "-s -l vmlinuz").answered(&["kexec_file_load:error=EPERM"]),
            row("-s, EINVAL", "-s -l vmlinuz").answered(&["kexec_file_load:error=EINVAL"]),
            row("-c, EPERM", "-c -l vmlinuz").answered(&["kexec_load:error=EPERM"]),
            row("-c, ENOSYS", "-c -l vmlinuz").answered(&["kexec_load:error=ENOSYS"]),
            row("neither call", "-l vmlinuz").answered(&["kexec_file_load:error=ENOSYS", "kexec_load:error=ENOSYS"]),
            row("unload, ENOSYS", "-p -u").answered(&["kexec_file_load:error=ENOSYS"]),
            row("unload by file alone, ENOSYS", "-s -p -u").answered(&["kexec_file_load:error=ENOSYS"]),
            row("unload, EBUSY", "-p -u").answered(&["kexec_file_load:error=EBUSY"]),
            row("unload, EPERM", "-c -u").answered(&["kexec_load:error=EPERM"]),
        ],
    );
}

#[test]
fn a_refusal_names_its_cause_and_what_to_use() {
    let dir = laboratory("refusals");
    recorded::unfold("bios-crashkernel", &dir.join("locked"));
    fs::create_dir_all(dir.join("locked/sys/kernel/security")).expect("made");
    fs::write(dir.join("locked/sys/kernel/security/lockdown"), "none [integrity] confidentiality\n").expect("written");
    for (row, code, words) in [
        (
            row("case 3", "-l vmlinuz").answered(&["kexec_file_load:error=EKEYREJECTED"]),
            255,
            &["kexec_file_load", "signature of this one does not match", "sign it with"][..],
        ),
        (
            row("case 4", "-s -l vmlinuz").answered(&["kexec_file_load:error=ENOSYS"]),
            253,
            &["kexec_file_load failed: Function not implemented", "use -c"],
        ),
        (
            row("case 19", "-c -l xen --module vmlinuz").on("locked").answered(&["kexec_load:error=EPERM"]),
            255,
            &["kexec_load", "locked down (integrity)", "Xen", "signed bzImage"],
        ),
        (
            row("case 19 by default", "-l xen --module vmlinuz").on("locked").answered(&["kexec_load:error=EPERM"]),
            255,
            &["kexec_load", "locked down (integrity)", "Xen can be loaded by kexec_load only"],
        ),
        (
            row("not signed", "-l vmlinuz").on("locked").answered(&["kexec_file_load:error=EPERM"]),
            255,
            &["locked down (integrity)", "use a signed kernel"],
        ),
        (row("busy", "-l vmlinuz").answered(&["kexec_file_load:error=EBUSY"]), 255, &["another process", "try again"]),
        (
            row("both calls fail", "-l vmlinuz").answered(&["kexec_file_load:error=ENOEXEC", "kexec_load:error=EPERM"]),
            255,
            &["kexec_file_load failed: Exec format error", "then by kexec_load", "run as root"],
        ),
    ] {
        let (ran, said) = run(&dir, Path::new("ours/kexec"), &row);
        assert_eq!(ran.code, Some(code), "{}: {said}", row.case);
        for word in words {
            assert!(said.contains(word), "{}: '{said}' lacks '{word}'", row.case);
        }
        let errors = said.lines().filter(|l| l.contains("failed")).count();
        assert_eq!(errors, 1, "{}: {said}", row.case);
    }
}

/// kexec-tools 2.0.32's long options on x86_64, all of them.
const LONG_OPTIONS: &str = "help version force no-checks no-ifdown no-sync load unload exec exec-live-update \
    load-preserve-context load-jump-back-helper load-live-update entry type load-panic mem-min mem-max reuseinitrd \
    kexec-file-syscall kexec-syscall kexec-syscall-auto debug status print-ckr-size hotplug \
    reset-vga serial serial-baud console-vga console-serial elf32-core-headers elf64-core-headers \
    pass-memmap-cmdline noefi reuse-video-type command-line append reuse-cmdline initrd ramdisk args-elf args-linux \
    args-none module real-mode entry-32bit dtb";

/// What each of `beginnings` is taken for. A value is attached, so that no switch is acted on: it is refused by its
/// full name; an option that takes one is then asked for its name without.
fn meanings(dir: &Path, program: &Path, beginnings: &str) -> Vec<String> {
    let script = "for b in $1; do e=$(\"$0\" --$b=0x2580 --version 2>&1 >/dev/null | head -n 1); \
        [ -n \"$e\" ] || e=$(\"$0\" --$b 2>&1 >/dev/null | head -n 1); echo \"$b ${e#*: }\"; done";
    let mut command = Command::new("unshare");
    command.current_dir(dir).arg("-Urn").arg(fetch(&["tools", SUITE]).join("bin/strace"));
    command.args(["-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-e", "trace=kexec_load,kexec_file_load,reboot"]);
    for call in ["kexec_load", "kexec_file_load", "reboot"] {
        command.args(["-e", &format!("inject={call}:error=EPERM")]);
    }
    command.args(["-o", "strace", "sh", "-c", script]).arg(program).arg(beginnings).stdin(Stdio::null());
    let output = crate::lab::run(&mut command);
    assert_eq!(fs::read_to_string(dir.join("strace")).expect("a log"), "", "no system call is made");
    let text = String::from_utf8(output.stdout).expect("text").replace("=0x2580", "");
    let sorted = |line: &str| match line.split_once(" is ambiguous; possibilities: ") {
        None => line.to_owned(),
        Some((head, names)) => {
            let mut names: Vec<&str> = names.split_whitespace().collect();
            names.sort_unstable();
            format!("{head}: {}", names.join(" "))
        }
    };
    text.lines().map(sorted).collect()
}

#[test]
fn every_beginning_of_every_option_means_what_it_means_to_kexec_tools() {
    let dir = laboratory("beginnings");
    let mut beginnings: Vec<&str> =
        LONG_OPTIONS.split_whitespace().flat_map(|o| (1..=o.len()).map(move |n| &o[..n])).collect();
    // And what would begin our own.
    beginnings.extend(["dry", "roo", "root-dir", "vm", "no-cm", "force-d"]);
    beginnings.sort_unstable();
    beginnings.dedup();
    let beginnings = beginnings.join(" ");
    let ours = meanings(&dir, Path::new("ours/kexec"), &beginnings);
    let theirs = meanings(&dir, &fetch(&["tools", "sid"]).join("bin/kexec"), &beginnings);
    assert!(theirs.len() > 300 && theirs.iter().all(|l| l.contains("option '--")), "{theirs:?}");
    let apart: Vec<_> = ours.iter().zip(&theirs).filter(|(o, t)| o != t).collect();
    assert!(apart.is_empty() && ours.len() == theirs.len(), "{apart:#?}");
}

/// Runs Debian's own `kdump-config VERB` with `kexec` as `/sbin/kexec`; what it wrote, and the calls it came to.
///
/// Its world is bound over this machine's, in a namespace: `/boot`, `/etc`, `/var/lib`, and a `/usr/sbin` with
/// `kexec` alone, so that no `sysctl` is found; `logger` is `true`.
fn kdump_config(dir: &Path, suite: &str, machine: &str, kexec: &Path, verb: &str) -> (Ran, String) {
    let world = dir.join("world");
    drop(fs::remove_dir_all(&world));
    let release = String::from_utf8(crate::lab::run(Command::new("uname").arg("-r")).stdout).expect("text");
    let release = release.trim();
    for part in ["boot", "etc/default", "etc/kdump", "var-lib/kdump", "sbin", "crash"] {
        fs::create_dir_all(world.join(part)).expect("made");
    }
    symlink(Kernel::of(SUITE).vmlinuz(), world.join(format!("boot/vmlinuz-{release}"))).expect("linked");
    fs::copy(dir.join("initrd"), world.join(format!("var-lib/kdump/initrd.img-{release}"))).expect("copied");
    symlink(kexec, world.join("sbin/kexec")).expect("linked");
    let defaults = format!(
        "USE_KDUMP=1\nKDUMP_KERNEL=/var/lib/kdump/vmlinuz\nKDUMP_INITRD=/var/lib/kdump/initrd.img\nKDUMP_COREDIR={}\n",
        world.join("crash").display()
    );
    // An initrd made with other settings would be made anew.
    for settings in ["etc/kdump/sysctl.conf", &format!("var-lib/kdump/latest_sysctls-{release}")] {
        fs::write(world.join(settings), "").expect("written");
    }
    fs::write(world.join("etc/default/kdump-tools"), defaults).expect("written");
    let over = "cd world && mount --bind /bin/true /usr/bin/logger && mount --bind boot /boot && \
        mount --bind etc /etc && mount --bind var-lib /var/lib && \
        mount --bind sbin /usr/sbin && mount --rbind \"$0/sys\" /sys && mount --rbind \"$0/proc\" /proc && \
        exec sh \"$1\" \"$2\"";
    let script = fetch(&["tree", suite, "kdump-tools"]);
    let script = ["usr/sbin", "usr/bin"].map(|d| script.join(d).join("kdump-config")).into_iter().find(|p| p.is_file());
    let log = dir.join("strace");
    let output = Command::new("unshare")
        .current_dir(dir)
        .arg("-Urnm")
        .arg(fetch(&["tools", SUITE]).join("bin/strace"))
        .args(["-f", "-qq", "-s", "4096", "-e", "signal=none", "-e", "trace=kexec_load,kexec_file_load,reboot"])
        .args(["-e", "inject=kexec_load:retval=0", "-e", "inject=kexec_file_load:retval=0"])
        .args(["-e", "inject=reboot:error=EPERM", "-o"])
        .arg(&log)
        .args(["sh", "-c", over])
        .arg(dir.join(machine))
        .arg(script.expect("kdump-config in its package"))
        .arg(verb)
        .stdin(Stdio::null())
        .output()
        .expect("start unshare");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let calls = text.lines().filter(|l| l.contains('(')).filter_map(normal).collect();
    (Ran { code: output.status.code(), calls }, said)
}

#[test]
fn debians_kdump_config_runs_unchanged() {
    let dir = laboratory("kdump-config");
    let upstream = fetch(&["tools", "sid"]).join("bin/kexec");
    for suite in ["bookworm", "sid"] {
        for (machine, verb, sentence, calls) in [
            ("bios-crashkernel", "load", "loaded kdump kernel", 1),
            ("bios-crashkernel", "status", "Not ready to kdump", 0),
            ("loaded", "status", "ready to kdump", 0),
            ("loaded", "unload", "unloaded kdump kernel", 1),
            ("bios-no-crashkernel", "load", "no crashkernel= parameter", 0),
        ] {
            let (ours, said) = kdump_config(&dir, suite, machine, &dir.join("ours/kexec"), verb);
            assert!(said.contains(sentence), "{suite}, {verb} on {machine}: {said}");
            assert_eq!(ours.calls.len(), calls, "{suite}, {verb} on {machine}: {ours:?}\n{said}");
            let (theirs, said) = kdump_config(&dir, suite, machine, &upstream, verb);
            assert_eq!(ours, theirs, "{suite}, {verb} on {machine}: {said}");
        }
    }
}
