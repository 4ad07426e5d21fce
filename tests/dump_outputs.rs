//! Where a dump goes: flattened to a pipe or a file and back, cut streams, limits and the ladder of levels, by
//! `kdump-save`'s options and by makedumpfile's.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, V6_1};
use support::room::Room;

struct Case(Room);

impl Case {
    fn new() -> Self {
        Self(Room::new(Kernel::new(V6_1, 4)))
    }

    fn run(&self, applet: &str, args: &[&str], stdin: Stdio) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        command.current_dir(self.0.dir.path()).arg(applet).args(args).stdin(stdin).output().expect("runs")
    }

    /// Expects `code`; what was said on stderr and stdout.
    fn expect(&self, applet: &str, args: &[&str], code: i32) -> String {
        let out = self.run(applet, args, Stdio::null());
        let said = [out.stderr, out.stdout].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(out.status.code(), Some(code), "{applet} {args:?}: {said}");
        said
    }

    /// A plain dump, to compare with.
    fn plain(&self, level: &str) -> Kdump {
        self.expect("kdump-save", &["-q", "-f", "-c", "-d", level, "core", "plain"], 0);
        Kdump::open(&self.0.path("plain"))
    }
}

/// The same pages with the same bytes.
fn same(a: &Kdump, b: &Kdump) {
    assert_eq!(a.kept(), b.kept());
    for pfn in Kernel::pfns() {
        assert!(a.page(pfn) == b.page(pfn), "{pfn:#x}");
    }
}

#[test]
fn case_18_a_flattened_dump_is_the_dump_by_both_names_and_back() {
    let case = Case::new();
    let plain = case.plain("31");
    let stream = case.run("kdump-save", &["-q", "-F", "-c", "-d31", "core"], Stdio::null());
    assert_eq!((stream.status.code(), stream.stderr.len()), (Some(0), 0));
    std::fs::write(case.0.path("stream"), &stream.stdout).expect("written");
    assert_eq!(stream.stdout[4096..4104], [0; 8], "the header's record is the first");
    let theirs = case.run("makedumpfile", &["-F", "-c", "-d31", "core"], Stdio::null());
    assert!(theirs.status.success() && theirs.stdout.starts_with(b"makedumpfile\0\0\0\0"), "{theirs:?}");
    std::fs::write(case.0.path("theirs"), &theirs.stdout).expect("written");
    case.expect("kdump-save", &["-q", "-F", "-c", "-d31", "core", "file"], 0);
    for name in ["stream", "theirs", "file"] {
        case.expect("kdump-save", &["unflatten", "-f", name, "whole"], 0);
        let whole = Kdump::open(&case.0.path("whole"));
        assert_eq!(whole.status & 8, 0, "{name}: complete");
        same(&whole, &plain);
        // A stream is also read as it is.
        case.expect("kdump-save", &["-q", "-f", "-c", "-d31", name, "again"], 0);
        same(&Kdump::open(&case.0.path("again")), &plain);
    }
    let stdin = std::fs::File::open(case.0.path("stream")).expect("open");
    assert!(case.run("makedumpfile", &["-R", "rearranged"], stdin.into()).status.success());
    same(&Kdump::open(&case.0.path("rearranged")), &plain);
}

#[test]
fn a_cut_stream_is_refused_or_salvaged() {
    let case = Case::new();
    let plain = case.plain("31");
    case.expect("kdump-save", &["-q", "-F", "-c", "-d31", "core", "file"], 0);
    let whole = std::fs::read(case.0.path("file")).expect("read");
    let mut kept = Vec::new();
    for cut in [4096 + 16 + 600, whole.len() / 3, whole.len() / 2, whole.len() - 100, whole.len() - 16] {
        std::fs::write(case.0.path("cut"), &whole[..cut]).expect("written");
        let said = case.expect("kdump-save", &["unflatten", "-f", "cut", "out"], 4);
        assert!(said.contains("--salvage") && !case.0.path("out").exists(), "{said}");
        let said = case.expect("kdump-save", &["unflatten", "--salvage", "-f", "cut", "out"], 9);
        assert!(said.contains("incomplete: the stream ends"), "{said}");
        let dump = Kdump::open(&case.0.path("out"));
        assert_eq!(dump.status & 8, 8, "{cut}: incomplete");
        let mut pages = 0;
        for pfn in dump.kept() {
            let (offset, size, _) = dump.descriptor(pfn);
            if offset != 0 && offset as usize + size <= dump.bytes().len() && matches!(dump.page(pfn), Page::Data(_)) {
                pages += 1;
            }
        }
        kept.push(pages);
        std::fs::remove_file(case.0.path("out")).expect("removed");
    }
    assert!(kept.is_sorted() && kept.last() == Some(&plain.kept().len()), "{kept:?} of {}", plain.kept().len());
    for len in [0, 100, 4096, 4096 + 16 + 40] {
        std::fs::write(case.0.path("cut"), &whole[..len]).expect("written");
        case.expect("kdump-save", &["unflatten", "--salvage", "-f", "cut", "nothing"], 4);
        assert!(!case.0.path("nothing").exists() && !case.0.path("nothing-incomplete").exists(), "{len}");
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("there").len()
}

#[test]
fn case_17_the_ladder_of_levels_and_the_limit() {
    let case = Case::new();
    let small = case.plain("31");
    let (least, most) = (size(&case.0.path("plain")), {
        case.plain("1");
        size(&case.0.path("plain"))
    });
    let limit = (least + most) / 2;
    assert!(least < limit && limit < most);
    let limit = limit.to_string();
    let said = case.expect("kdump-save", &["-f", "-c", "-d", "1,31", "-L", &limit, "core", "dump"], 0);
    assert!(said.contains("no room: trying dump level 31"), "{said}");
    same(&Kdump::open(&case.0.path("dump")), &small);
    let said = case.expect("kdump-save", &["-f", "-c", "-d", "1", "-L", &limit, "core", "cut"], 9);
    assert!(said.contains("beyond the limit"), "{said}");
    assert_eq!(Kdump::open(&case.0.path("cut")).status & 8, 8);
    assert!(size(&case.0.path("cut")) <= limit.parse().expect("a number"));
    let said = case.expect("makedumpfile", &["-f", "-c", "-d", "1,31", "-L", &limit, "core", "theirs"], 0);
    assert!(said.contains("Retry to create a dumpfile by dump_level(31)."), "{said}");
    same(&Kdump::open(&case.0.path("theirs")), &small);
    let said = case.expect("makedumpfile", &["-f", "-c", "-d", "1", "-L", &limit, "core", "theirs"], 1);
    assert!(said.contains("This is an incomplete dumpfile, but might analyzable."), "{said}");
    assert_eq!(Kdump::open(&case.0.path("theirs")).status & 8, 8);
    let said = case.expect("kdump-save", &["-F", "-d", "1,31", "core"], 2);
    assert!(said.contains("a stream can't be begun again"), "{said}");
}
