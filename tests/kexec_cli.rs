//! The command line of `kexec`, by the numbers of the acceptance cases (`case_NN_`) and by the letters of kexec-tools'
//! traps (`trap_x_`), without privileges: everything is a dry run on a recorded machine.
//!
//! What needs the system calls (cases 2, 3, 4, 7, 19) is compared with kexec-tools in `tests/oracle/kexec_cli.rs`,
//! placement is in `tests/kexec_plan.rs`, and what needs a kernel that takes the image in `tests/vm`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[path = "support/bzimage.rs"]
mod bzimage;
#[path = "support/recorded.rs"]
mod recorded;

use bzimage::BzImage;

/// What `kexec` answered.
#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    /// Success, with nothing on stderr but `notice`.
    fn is_quiet_but_for(&self, notice: &str) -> &Self {
        assert_eq!((self.code, self.err.as_str()), (0, notice), "{self:?}");
        self
    }

    /// The line of the plan that begins with `name`.
    fn line(&self, name: &str) -> &str {
        let line = self.out.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no line '{name}' in {self:?}")).trim()
    }

    /// A failure with this code, told in one sentence that holds `words`; usage on stdout exactly if it is due.
    fn fails(&self, code: i32, words: &str, usage: bool) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("kexec: ") && self.err.contains(words), "'{}' lacks '{words}'", self.err);
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert_eq!(self.out.starts_with("Usage: kexec [OPTION]... [KERNEL]\n"), usage, "{self:?}");
        assert!(usage || self.out.is_empty(), "{self:?}");
    }
}

/// A directory with kernels, an initrd, and a recorded machine in `machine`.
struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        recorded::unfold("bios-crashkernel", &dir.path().join("machine"));
        let room = Self { dir };
        room.file("vmlinuz", &BzImage::default().write());
        room.file("initrd", &[7; 12345]);
        room
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        fs::write(&path, bytes).expect("written");
        path
    }

    fn without(&self, name: &str) {
        let path = self.dir.path().join("machine").join(name);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
    }

    /// `kexec --dry-run --root machine ARGS`.
    fn kexec(&self, args: &[&str]) -> Answer {
        let output = Command::new(env!("CARGO_BIN_EXE_kdumpbox"))
            .current_dir(self.dir.path())
            .args(["kexec", "--dry-run", "--root", "machine"])
            .args(args)
            .output()
            .expect("runs");
        Answer {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

#[test]
fn case_01_the_file_call_comes_first() {
    let answer = Room::new().kexec(&["-l", "vmlinuz", "--initrd=initrd", "--append=a=1"]);
    answer.is_quiet_but_for("");
    assert_eq!(answer.line("load "), "next kernel by kexec_file_load, else kexec_load");
    assert_eq!((answer.line("command line "), answer.line("initrd ")), ("a=1", "initrd"));
}

#[test]
fn case_02_segments_are_pages_apart_from_each_other_and_the_purgatory_is_entered() {
    let answer = Room::new().kexec(&["-c", "-l", "vmlinuz", "--initrd=initrd", "--append=a=1"]);
    let hex = |t: &str| u64::from_str_radix(t.trim_start_matches("0x"), 16).expect("a number");
    let mut end = 0;
    let mut names = Vec::new();
    for line in answer.out.lines().filter_map(|l| l.strip_prefix("segment ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, next) = words[1].split_once('-').map(|(a, b)| (hex(a), hex(b))).expect("a range");
        assert!(start >= end && start % 4096 == 0 && next % 4096 == 0, "{answer:?}");
        end = next;
        if (start..next).contains(&hex(answer.line("entry "))) {
            assert_eq!(words[0], "purgatory");
        }
        names.push(words[0]);
    }
    assert!((3..=16).contains(&names.len()) && names.contains(&"purgatory"), "{names:?}");
}

#[test]
fn case_05_the_last_command_line_wins() {
    let answer = Room::new().kexec(&["vmlinuz", "-l", "--command-line=x", "--append=y"]);
    answer.is_quiet_but_for("kexec: --command-line was given more than once; the last counts\n");
    assert_eq!(answer.line("command line "), "y");
}

#[test]
fn case_06_clusters_prefixes_and_the_double_dash() {
    let room = Room::new();
    let answer = room.kexec(&["-lsi", "--app", "foo=1", "--", "vmlinuz"]);
    answer.is_quiet_but_for("");
    assert_eq!(answer.line("command line "), "foo=1");
    room.kexec(&["vmlinuz", "-c", "--reuse-c", "-ltbzImage64"]).is_quiet_but_for("");
    room.kexec(&["--l", "vmlinuz"]).fails(
        1,
        "option '--l' is ambiguous; possibilities: '--load' '--load-panic' '--load-preserve-context' \
         '--load-jump-back-helper' '--load-live-update'",
        true,
    );
    for own in ["--dry", "--vm=xen", "--roo=machine"] {
        room.kexec(&[own, "-l", "vmlinuz"]).fails(1, "unrecognized option", true);
    }
}

#[test]
fn case_07_unload_and_load_panic_in_either_order() {
    let room = Room::new();
    for args in [["-u", "-p"], ["-p", "-u"], ["--unload", "--load-panic"]] {
        assert_eq!(room.kexec(&args).is_quiet_but_for("").out, "would unload the crash kernel\n");
    }
    assert_eq!(room.kexec(&["-u"]).is_quiet_but_for("").out, "would unload the next kernel\n");
}

#[test]
fn case_08_status_by_exit_code_from_either_home() {
    let room = Room::new();
    let ask = |args: &[&str], code: i32| {
        let answer = room.kexec(args);
        assert_eq!((answer.code, answer.out.as_str(), answer.err.as_str()), (code, "", ""), "{args:?}");
    };
    ask(&["-S"], 0);
    room.file("machine/sys/kernel/kexec_crash_loaded", b"1\n");
    for args in [&["-S"][..], &["--stat"], &["-S", "-p"], &["-S", "-l", "-p"], &["-u", "-S"]] {
        ask(args, 1);
    }
    ask(&["-S", "-l"], 0);
    ask(&["-l", "-S"], 0);
    room.without("sys/kernel/kexec_crash_loaded");
    room.without("sys/kernel/kexec_loaded");
    room.file("machine/sys/kernel/kexec/loaded", b"1\n");
    room.file("machine/sys/kernel/kexec/crash_loaded", b"0\n");
    ask(&["-S"], 0);
    ask(&["-S", "-l"], 1);
    room.without("sys/kernel/kexec");
    room.kexec(&["-S"]).fails(255, "are missing; mount /sys, or run a kernel with kexec", false);
}

#[test]
fn case_09_nothing_is_started_that_is_not_known_to_be_loaded() {
    let room = Room::new();
    room.kexec(&["-e"]).fails(255, "nothing has been loaded; load a kernel with 'kexec -l' first", false);
    room.file("machine/sys/kernel/kexec_loaded", b"1\n");
    assert_eq!(room.kexec(&["-e"]).is_quiet_but_for("").out, "would start the loaded kernel\n");
    room.file("machine/sys/kernel/kexec_loaded", b"perhaps\n");
    room.kexec(&["-e"]).fails(255, "kexec_loaded holds 'perhaps', not a number", false);
    room.without("sys/kernel/kexec_loaded");
    room.kexec(&["-e"]).fails(255, "what is loaded can't be known", false);
    fs::create_dir(room.dir.path().join("machine/sys/kernel/kexec_loaded")).expect("made");
    room.kexec(&["-e"]).fails(255, "sys/kernel/kexec_loaded: Is a directory", false);
}

#[test]
fn case_10_exec_behind_load_only_executes_and_says_so() {
    let room = Room::new();
    room.file("machine/sys/kernel/kexec_loaded", b"1\n");
    let answer = room.kexec(&["-l", "vmlinuz", "-e"]);
    answer.is_quiet_but_for("kexec: --exec starts what is loaded; ignored: vmlinuz\n");
    assert_eq!(answer.out, "would start the loaded kernel\n");
}

/// Section 1.6: whatever kexec-tools drops without a word.
#[test]
fn what_is_not_done_is_said_in_one_line() {
    let room = Room::new();
    for (args, notice) in [
        (&["-e", "-l", "vmlinuz"][..], "--exec is not done: --load, given behind it, counts"),
        (&["-f", "-p", "vmlinuz", "-c"], "--force is not done: --load-panic, given behind it, counts"),
        (&["-u", "-l", "vmlinuz"], "--unload is not done: --load, given behind it, counts"),
        (&["-u", "vmlinuz"], "--unload takes no kernel; ignored: vmlinuz"),
        (&["-S", "vmlinuz"], "--status takes no kernel; ignored: vmlinuz"),
        (&["-l", "vmlinuz", "a", "b"], "only the first operand is the kernel; ignored: a b"),
    ] {
        room.kexec(args).is_quiet_but_for(&format!("kexec: {notice}\n"));
    }
}

#[test]
fn case_20_a_file_that_is_not_there() {
    let room = Room::new();
    for call in ["-c", "-s", "-a"] {
        room.kexec(&[call, "-l", "nothing"]).fails(1, "cannot open nothing: No such file or directory", false);
        let answer = room.kexec(&[call, "-l", "vmlinuz", "--initrd=nothing"]);
        answer.fails(1, "cannot open nothing: No such file or directory", false);
    }
}

#[test]
fn case_22_usage_errors_are_1_with_usage_on_stdout() {
    let room = Room::new();
    for (args, words) in [
        (&["--mem-min=zz"][..], "'zz'"),
        (&["--mem-max="], "mem-max"),
        (&["--entry=here"], "'here'"),
        (&["--serial-baud=1234"], "'1234' is not 115200 divided by a whole number up to 12"),
        (&["--serial-baud=0"], "115200"),
        (&["--serial=ttyS9"], "'ttyS9' is neither ttyS0, ttyS1 nor an I/O port"),
        (&["--append"], "option '--append' requires an argument"),
        (&["-t"], "option requires an argument -- 't'"),
        (&["-Q"], "invalid option -- 'Q'"),
        (&["-?"], "invalid option -- '?'"),
        (&["--frobnicate"], "unrecognized option '--frobnicate'"),
        (&["--debug=1"], "option '--debug' doesn't allow an argument"),
        (&["--reuseinitrd"], "--initrd"),
        (&["--load-live-update"], "no released Xen has live update"),
        (&["-s", "--load-preserve-context"], "leave -s out"),
        (&["--load-preserve-context", "-p"], "--load-panic excludes --load-preserve-context"),
    ] {
        room.kexec(&[&["-l", "vmlinuz"], args].concat()).fails(1, words, true);
    }
    room.kexec(&["-l"]).fails(255, "no kernel specified; name the kernel to load", true);
}

#[test]
fn case_23_a_command_line_is_never_cut() {
    let room = Room::new();
    let text = "y".repeat(2048);
    for (call, mode, longest) in [("-c", "-l", 2047), ("-a", "-l", 2047), ("-s", "-l", 2047 - 31)] {
        for length in [longest - 1, longest] {
            let answer = room.kexec(&[call, mode, "vmlinuz", "--append", &text[..length]]);
            assert_eq!(answer.is_quiet_but_for("").line("command line "), &text[..length], "{call} {length}");
        }
        let answer = room.kexec(&[call, mode, "vmlinuz", "--append", &text[..=longest]]);
        answer.fails(255, &format!("has {} bytes, the kernel takes", longest + 1), false);
    }
}

#[test]
fn trap_b_options_for_other_kernels_are_accepted_and_said_once() {
    let room = Room::new();
    for option in [
        "--args-linux",
        "--args-elf",
        "--args-none",
        "--elf32-core-headers",
        "--elf64-core-headers",
        "--reuse-video-type",
        "--module=initrd",
    ] {
        let name = option.split('=').next().unwrap_or_default();
        room.kexec(&["-c", "-l", "vmlinuz", option]).is_quiet_but_for(&format!("kexec: {name} has no effect here\n"));
    }
}

#[test]
fn trap_c_the_type_counts_by_either_call() {
    let room = Room::new();
    for call in ["-s", "-c", "-a"] {
        room.kexec(&[call, "-l", "vmlinuz", "-t", "bzImage64"]).is_quiet_but_for("");
        let answer = room.kexec(&[call, "-l", "vmlinuz", "-t", "elf-x86_64"]);
        assert_eq!((answer.code, answer.out.as_str()), (255, ""), "{answer:?}");
    }
    let entry = "kexec: --entry has no effect here\n";
    room.kexec(&["-s", "-l", "vmlinuz", "--entry=0x1000000"]).is_quiet_but_for(entry);
}

#[test]
fn trap_d_entry_modes_that_the_file_call_lacks() {
    let room = Room::new();
    for mode in ["--real-mode", "--entry-32bit"] {
        room.kexec(&["-s", "-l", "vmlinuz", mode]).fails(255, "can't be loaded by kexec_file_load", false);
        // In the default mode the call follows from what is asked for.
        let answer = room.kexec(&["-l", "vmlinuz", mode]);
        assert_eq!(answer.is_quiet_but_for("").line("load "), "next kernel by kexec_load");
    }
}

#[test]
fn trap_e_wrong_and_unknown_types() {
    let room = Room::new();
    room.kexec(&["-c", "-l", "vmlinuz", "-t", "penguin"]).fails(255, "unsupported kernel type 'penguin'", false);
    room.kexec(&["-c", "-l", "vmlinuz", "-t", "nbi-x86"]).fails(255, "unsupported kernel type 'nbi-x86'", false);
    room.kexec(&["-c", "-l", "vmlinuz", "-t", "multiboot-x86"]).fails(255, "multiboot-x86", false);
}

#[test]
fn trap_f_one_code_for_a_missing_file_by_either_call() {
    let room = Room::new();
    let code = |call| room.kexec(&[call, "-l", "vmlinuz", "--initrd=nothing"]).code;
    assert_eq!((code("-s"), code("-c")), (1, 1));
}

#[test]
fn help_is_grouped_and_version_is_read_by_scripts() {
    let room = Room::new();
    for help in ["-h", "--help", "--he"] {
        let answer = room.kexec(&[help, "-Q"]);
        answer.is_quiet_but_for("");
        for heading in ["Modes", "System call", "Kernel and its arguments", "Xen and multiboot", "Compatibility"] {
            assert!(answer.out.contains(&format!("\n{heading}")), "{heading} in {}", answer.out);
        }
    }
    for version in ["-v", "--version", "--vers"] {
        let answer = room.kexec(&[version, "-Q"]);
        let words: Vec<&str> = answer.is_quiet_but_for("").out.split(' ').collect();
        assert_eq!((words[0], words[1].split('.').count()), ("kexec-tools", 3), "{answer:?}");
    }
    assert_eq!(room.kexec(&["--print-ckr-size"]).is_quiet_but_for("").out, "167772160\n");
}
