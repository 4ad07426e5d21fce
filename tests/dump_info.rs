//! `kdump-save info`: what it says of every input that is read, whole and cut.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kdumpbox::dump::info::Info;
use proptest::prelude::*;
use support::kernel::{Kernel, V6_12};
use support::log::{Record, RingShape};
use support::saved::{INCOMPLETE, SNAPPY, Saved, ZLIB, flatten};

fn info(args: &[&str], files: &[PathBuf]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.args(["kdump-save", "info"]).args(args).args(files).output().expect("run kdump-save info")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What is said of `files`, which ends with `code`.
fn said(args: &[&str], files: &[PathBuf], code: i32) -> String {
    let out = info(args, files);
    assert_eq!(out.status.code(), Some(code), "{files:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Each of `lines` is one of `said`.
fn has(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.lines().any(|l| l == *line), "'{line}' in:\n{said}");
    }
}

fn kernel() -> Kernel {
    let mut kernel = Kernel::new(V6_12, 4);
    let records = [
        "Linux version 6.12",
        "BUG: an earlier one",
        "sysrq: Trigger a crash",
        "Kernel panic - not syncing: sysrq \"triggered\" crash\nmore",
    ];
    let records: Vec<Record> = records.iter().map(|t| Record::new(1_000_000_000, t)).collect();
    support::log::ring(&mut kernel, RingShape::default(), &records);
    kernel
}

fn saved(kernel: &Kernel, level: u8, codec: u32) -> Saved {
    let pages = Kernel::pfns().filter(|pfn| !kernel.use_of(*pfn).droppable(level));
    Saved {
        version: 6,
        codec,
        level: u32::from(level),
        max_mapnr: 0x8800,
        ram: support::kernel::RAM.iter().map(|(start, end)| start / 4096..end / 4096).collect(),
        pages: pages.map(|pfn| (pfn, Some(kernel.memory.page(pfn)))).collect(),
        notes: kernel.core().notes,
        ..Saved::default()
    }
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// The number behind `name` in the line that begins with `key`.
fn count(said: &str, key: &str, name: &str) -> u64 {
    let line = said.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {said}"));
    let number = line.split(", ").find_map(|part| part.trim().strip_prefix(name)).and_then(|n| n.trim().parse().ok());
    number.unwrap_or_else(|| panic!("{key} {name} in {said}"))
}

#[test]
fn an_elf_core_and_a_dump_of_it_say_the_same_of_the_crash() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let core = dir.path().join("core");
    kernel.core().save(&core);
    let dump = put(dir.path(), "dump", &saved(&kernel, 31, ZLIB).write());
    let panic = "panic: Kernel panic - not syncing: sysrq \"triggered\" crash";
    let of_core = said(&[], &[core], 0);
    has(&of_core, &["format: ELF core", "flattened: no", "kernel: 6.12.0-synthetic", "complete: yes", panic]);
    let of_dump = said(&[], &[dump], 0);
    has(&of_dump, &["format: kdump-compressed", "version: 6", "host: host", "saved: 2023-11-14T22:13:20Z", panic]);
    has(&of_dump, &["kernel: 6.12.0-synthetic", "level: 31", "codec: zlib", "complete: yes"]);
    let memory = Kernel::pfns().count() as u64;
    let kept = Kernel::pfns().filter(|pfn| !kernel.use_of(*pfn).droppable(31)).count() as u64;
    assert_eq!(count(&of_core, "pages:", "memory"), memory);
    assert_eq!(count(&of_dump, "pages:", "memory"), memory);
    assert_eq!(count(&of_dump, "pages:", "kept") + count(&of_dump, "pages:", "zero"), kept);
    assert_eq!(count(&of_dump, "pages:", "left out"), memory - kept);
    assert_eq!((count(&of_dump, "pages:", "missing"), count(&of_core, "pages:", "missing")), (0, 0));
    // What a page was is told by the struct pages, which the dump has too.
    let classes = |text: &str| text.lines().find(|l| l.starts_with("classes:")).map(str::to_owned);
    assert!(classes(&of_core).is_some());
    assert_eq!(classes(&of_core), classes(&of_dump));
    assert!(count(&of_dump, "classes:", "free") > 0 && count(&of_dump, "classes:", "user") > 0);
}

#[test]
fn ours_say_how_pages_are_packed_and_that_zeros_share_a_block() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let (core, dump) = (dir.path().join("core"), dir.path().join("dump"));
    kernel.core().save(&core);
    let zeros = Kernel::pfns().filter(|p| kernel.memory.page(*p).iter().all(|b| *b == 0)).count() as u64;
    for (option, codec) in [("-c", "zlib"), ("-l", "lzo"), ("-p", "snappy"), ("-z", "zstd")] {
        let mut save = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let done = save.args(["kdump-save", "-f", "-d1", option]).args([&core, &dump]).output().expect("run");
        assert!(done.status.success(), "{}", text(&done.stderr));
        let said = said(&[], std::slice::from_ref(&dump), 0);
        has(&said, &[&format!("codec: {codec}"), "level: 1", "complete: yes"]);
        assert!(count(&said, "packed:", codec) > 0, "{said}");
        assert!(zeros > 100 && count(&said, "pages:", "zero") >= zeros, "{said}");
        let size = std::fs::metadata(&dump).expect("there").len();
        assert_eq!(count(&said, "file bytes:", ""), size);
        assert!(count(&said, "page data bytes:", "") < size);
    }
}

#[test]
fn parts_of_a_split_dump_each_and_together() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let whole = saved(&kernel, 31, SNAPPY);
    let part = |range: std::ops::Range<u64>| Saved { part: Some(range), ..whole.clone() }.write();
    let (low, high) = (put(dir.path(), "low", &part(0..0x1000)), put(dir.path(), "high", &part(0x1000..0x8800)));
    let one = said(&[], std::slice::from_ref(&low), 0);
    has(&one, &["split pfns: 0x0-0x1000 of 0x8800", "codec: snappy", "complete: yes"]);
    assert!(count(&one, "pages:", "missing") > 0, "what the other part has");
    let both = said(&[], &[high.clone(), low.clone()], 0);
    has(&both, &["split pfns: 0x0-0x1000 of 0x8800, 0x1000-0x8800 of 0x8800", "complete: yes"]);
    has(&both, &["panic: Kernel panic - not syncing: sysrq \"triggered\" crash"]);
    assert_eq!(count(&both, "pages:", "missing"), 0);
    // A whole dump beside a part: two descriptions.
    let other = put(dir.path(), "whole", &whole.write());
    let each = said(&[], &[low, other], 0);
    assert_eq!(each.matches("format: ").count(), 2, "{each}");
    let bytes = std::fs::read(&high).expect("read");
    let cut = put(dir.path(), "cut", &bytes[..bytes.len() - 5000]);
    assert!(said(&[], &[cut], 9).contains("\ncomplete: no\n"));
}

#[test]
fn flattened_streams_whole_and_cut() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let stream = flatten(&saved(&kernel, 31, ZLIB).write(), 65536);
    let whole = said(&[], &[put(dir.path(), "whole", &stream)], 0);
    has(&whole, &["format: kdump-compressed", "flattened: yes", "level: 31", "complete: yes"]);
    let cut = said(&[], &[put(dir.path(), "cut", &stream[..stream.len() - 16])], 9);
    has(&cut, &["flattened: yes", "complete: no"]);
    assert!(cut.contains("without its end mark"), "{cut}");
    let head = said(&[], &[put(dir.path(), "head", &stream[..4096])], 9);
    has(&head, &["flattened: yes", "complete: no"]);
    has(&said(&[], &[put(dir.path(), "magic", &stream[..16])], 9), &["flattened: yes", "complete: no"]);
}

#[test]
fn a_truncated_file_gets_an_answer_at_every_length() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let core = dir.path().join("core");
    kernel.core().save(&core);
    let core = std::fs::read(core).expect("read");
    let dump = saved(&kernel, 31, ZLIB).write();
    for (name, bytes, format) in [("core", &core, "format: ELF core"), ("dump", &dump, "format: kdump-compressed")] {
        for len in [16, 40, 64, 100, 300, 464, 4096, 4300, 8192, 20_000, bytes.len() / 2, bytes.len() - 1] {
            let said = said(&[], &[put(dir.path(), name, &bytes[..len])], 9);
            has(&said, &[format, "complete: no"]);
            assert!(said.lines().any(|l| l.starts_with("reason: ")), "{name} {len}: {said}");
            let known = said.contains("kernel: 6.12.0-synthetic") || said.contains("kernel: 6.1.0-saved");
            assert!(known || len < 8192, "{name} of {len} bytes: {said}");
        }
    }
    let marked = Saved { status: INCOMPLETE, ..saved(&kernel, 31, ZLIB) }.write();
    let said = said(&[], &[put(dir.path(), "marked", &marked)], 9);
    has(&said, &["complete: no", "reason: the vmcore is a dump that is marked incomplete"]);
}

#[test]
fn json_is_one_object_a_line_and_what_is_no_dump_is_an_error() {
    let kernel = kernel();
    let dir = tempfile::tempdir().expect("a directory");
    let dump = put(dir.path(), "dump", &saved(&kernel, 31, ZLIB).write());
    let out = said(&["--json"], &[dump.clone(), dump.clone()], 0);
    assert_eq!(out.lines().count(), 2, "{out}");
    for line in out.lines() {
        assert!(line.starts_with("{\"file\":\"") && line.ends_with("\"complete\":true}"), "{line}");
        let panic = r#""panic":"Kernel panic - not syncing: sysrq \"triggered\" crash""#;
        for part in [r#""format":"kdump-compressed","version":6,"flattened":false"#, panic, r#""complete":true"#] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(line.contains(r#""level":31,"codec":"zlib""#) && line.contains(r#""pages":{"memory":"#), "{line}");
    }
    let (missing, no) = (dir.path().join("missing"), put(dir.path(), "text", b"hello, world"));
    for (file, code, words) in [(missing, 3, "No such file"), (no, 4, "no vmcore")] {
        let out = info(&[], &[file, dump.clone()]);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{error}");
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
        has(&text(&out.stdout), &["complete: yes"]);
    }
    assert_eq!(info(&[], &[]).status.code(), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn files_of_any_bytes_do_no_harm(which in 0usize..3, changes in proptest::collection::vec((0usize..0x9000, any::<u8>()), 0..20), cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let kernel = kernel();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let mut small = saved(&kernel, 31, ZLIB);
        small.pages.retain(|pfn, _| *pfn < 0x400);
        let mut bytes = match which {
            0 => small.write(),
            1 => flatten(&small.write(), 65536),
            _ => {
                kernel.core().save(&path);
                std::fs::read(&path).expect("read")
            }
        };
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).expect("written");
        match Info::of(&[&path]) {
            Ok(info) => {
                let json = info.json();
                let object = json.starts_with('{') && json.ends_with('}') && !json.contains('\n');
                prop_assert!(object, "{}", json);
                let end = if info.complete { "\ncomplete: yes\n" } else { "\ncomplete: no\nreason: " };
                prop_assert!(info.lines().contains(end), "{}", info.lines());
            }
            Err(e) => prop_assert!(!e.to_string().contains('\n')),
        }
    }
}
