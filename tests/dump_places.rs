//! Where a dump may go and what is said on the way: outputs that exist, that are links or no files, listeners that are gone.

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use support::kdump::{Kdump, Page};
use support::kernel::*;
use support::room::Room;

struct Case(Room);

impl Case {
    fn new() -> Self {
        Self(Room::new(Kernel::new(V6_12, 4)))
    }

    fn command(&self, args: &[&str], output: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        command.args(["kdump-save", "-d31"]).args(args).arg(self.0.path("core")).arg(output);
        command
    }

    fn run(&self, args: &[&str], output: &Path) -> Output {
        self.command(args, output).output().expect("run kdump-save")
    }

    fn refuses(&self, args: &[&str], output: &Path, code: i32, words: &str) {
        let before = self.names();
        let out = self.run(args, output);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?} {}: {said}", output.display());
        assert!(said.contains(words) && said.lines().count() == 1, "{args:?} {}: {said}", output.display());
        assert_eq!(self.names(), before, "nothing was made or removed");
    }

    fn names(&self) -> Vec<PathBuf> {
        let list = std::fs::read_dir(self.0.dir.path()).expect("list");
        let mut names: Vec<PathBuf> = list.map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        names
    }

    /// The file is a dump of the kernel, whole.
    fn is_dump(&self, path: &Path) {
        assert!(std::fs::symlink_metadata(path).expect("there").is_file(), "{}", path.display());
        let dump = Kdump::open(path);
        assert_eq!(dump.status & 8, 0, "complete");
        for pfn in Kernel::pfns().step_by(7) {
            let keep = !self.0.kernel.use_of(pfn).droppable(31);
            let expected = if keep { Page::Data(self.0.kernel.memory.page(pfn)) } else { Page::Excluded };
            assert!(dump.page(pfn) == expected, "{pfn:#x}");
        }
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("read")
}

#[test]
fn case_31_an_output_that_exists_is_replaced_only_when_asked() {
    let case = Case::new();
    for contents in ["", "old"] {
        let dump = case.0.path("dump");
        std::fs::write(&dump, contents).expect("written");
        case.refuses(&[], &dump, 5, "exists; -f replaces it");
        assert_eq!(text(&dump), contents);
        assert!(case.run(&["-f"], &dump).status.success());
        case.is_dump(&dump);
    }
    // What an earlier attempt left counts as well.
    let (other, left) = (case.0.path("other"), case.0.path("other-incomplete"));
    std::fs::write(&left, "half").expect("written");
    case.refuses(&[], &other, 5, "left by an earlier attempt");
    assert!(case.run(&["-f"], &other).status.success());
    case.is_dump(&other);
    assert!(!left.exists());
    std::fs::write(case.0.path("core"), "").expect("emptied");
    case.refuses(&["-f"], &case.0.path("new"), 4, "it is empty");
}

#[test]
fn case_31_links_are_never_followed() {
    let case = Case::new();
    let precious = case.0.path("precious");
    std::fs::write(&precious, "precious").expect("written");
    let (link, dangling, hard) = (case.0.path("link"), case.0.path("dangling"), case.0.path("hard"));
    symlink(&precious, &link).expect("linked");
    symlink("nowhere", &dangling).expect("linked");
    std::fs::hard_link(&precious, &hard).expect("linked");
    for output in [&link, &dangling, &hard] {
        case.refuses(&[], output, 5, "exists");
        assert!(case.run(&["-f"], output).status.success());
        case.is_dump(output);
    }
    // A trap where the unfinished dump is going to be.
    let trapped = case.0.path("trapped");
    symlink(&precious, case.0.path("trapped-incomplete")).expect("linked");
    case.refuses(&[], &trapped, 5, "left by an earlier attempt");
    assert!(case.run(&["-f"], &trapped).status.success());
    case.is_dump(&trapped);
    assert_eq!(text(&precious), "precious");
    assert!(!case.0.path("nowhere").exists());
}

#[test]
fn case_31_what_is_no_file_is_no_place_for_a_dump() {
    let case = Case::new();
    let (directory, fifo) = (case.0.path("directory"), case.0.path("fifo"));
    std::fs::create_dir(&directory).expect("made");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("run mkfifo").success());
    for args in [&[][..], &["-f"]] {
        case.refuses(args, &directory, 5, "is a directory");
        case.refuses(args, &fifo, 4, "not a regular file");
        case.refuses(args, Path::new("/dev/null"), 4, "not a regular file");
        case.refuses(args, &case.0.path("no/where"), 3, "No such file");
        case.refuses(args, &case.0.path("core/below"), 3, "Not a directory");
        case.refuses(args, &case.0.path("name/"), 2, "names no file");
    }
}

#[test]
fn case_33_a_dump_does_not_depend_on_listeners() {
    let case = Case::new();
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").expect("open /dev/full"));
    let dump = case.0.path("full");
    let done = case.command(&["-D"], &dump).stdout(full()).stderr(full()).status().expect("run");
    assert_eq!(done.code(), Some(0), "a full disk behind the messages");
    case.is_dump(&dump);
    let dump = case.0.path("pipe");
    let mut child = case.command(&["-D"], &dump).stderr(Stdio::piped()).spawn().expect("run");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("waited").code(), Some(0), "nobody reads the messages");
    case.is_dump(&dump);
    for (name, script) in [("closed", "exec \"$@\" <&- >&- 2>&-"), ("no terminal", "exec setsid -w \"$@\" </dev/null")]
    {
        let dump = case.0.path(name);
        let command = case.command(&["-D"], &dump);
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
        let out = shell.output().expect("run");
        assert_eq!(out.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        case.is_dump(&dump);
    }
    // Errors keep their codes too.
    let failed = case.command(&[], &case.0.path("no/where")).stderr(full()).status().expect("run");
    assert_eq!(failed.code(), Some(3));
    let mut version = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    assert!(version.args(["kdump-save", "-v"]).stdout(full()).status().expect("run").code().is_some());
}

#[test]
fn case_33_progress_is_a_line_every_two_seconds_at_most() {
    let case = Case::new();
    // A gigabyte of zeros behind the machine's memory, which is compressed page by page at level 0.
    let mut core = case.0.kernel.core();
    core.loads.push((1 << 32, (1 << 32) + (1 << 30), 0));
    core.save(&case.0.path("core"));
    let lines = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let start = Instant::now();
        let files = [case.0.path("core"), case.0.path("dump")];
        let out = command.args(["kdump-save", "-f", "-z", "--num-threads=1"]).args(args).args(files).output();
        let out = out.expect("run");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        (said.lines().filter(|l| l.contains(" % of ")).count() as u64, start.elapsed().as_secs())
    };
    let (shown, seconds) = lines(&[]);
    assert!(shown <= seconds / 2, "{shown} lines in {seconds} s");
    assert_eq!(lines(&["--message-level=6"]).0, 0);
    assert_eq!(lines(&["-q"]).0, 0);
}
