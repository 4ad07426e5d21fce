//! The kernel's log of machines that never were: every format, every form it is written in, every way to be broken.

mod support;

use std::process::{Command, Output};

use kdumpbox::vmcore::{Input, Vmcore, printk};
use proptest::prelude::*;
use support::kernel::*;
use support::log::{OldShape, Record, RingShape, old_log, old_record, text_log};
use support::machine::{Core, PAGE};

/// Runs `kdumpbox ARGS CORE`.
fn run(core: &Core, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("core");
    core.save(&path);
    Command::new(env!("CARGO_BIN_EXE_kdumpbox")).args(args).arg(&path).output().expect("run kdumpbox")
}

fn text(out: Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

fn log(core: &Core) -> String {
    text(run(core, &["kdump-save", "--dump-dmesg"]))
}

fn ring_kernel(shape: RingShape, records: &[Record]) -> Kernel {
    let mut kernel = Kernel::new(V6_12, 4);
    support::log::ring(&mut kernel, shape, records);
    kernel
}

fn ring_of(shape: RingShape, records: &[Record]) -> String {
    log(&ring_kernel(shape, records).core())
}

#[test]
fn case_27_the_ring_prints_as_the_kernel_did() {
    let mut records = vec![
        Record::new(0, "Linux version 6.12"),
        Record::new(1_234_567_890, "two\nlines"),
        Record::new(123_456_000_000_000, "tab\tand \u{e9}\x07"),
        Record { lpos: Some([3, 3]), ..Record::new(5_000_000_000, "") },
        Record { lpos: Some([1, 1]), ..Record::new(6_000_000_000, "lost") },
        Record { state: 0, ..Record::new(7_000_000_000, "half") },
        Record { text_len: Some(65535), ..Record::new(8_000_000_000, "12345678") },
    ];
    let expected = "[    0.000000] Linux version 6.12\n[    1.234567] two\n               lines\n\
                    [123456.000000] tab\tand \\xc3\\xa9\\x07\n[    5.000000] \n[    7.000000] half <unfinished>\n\
                    [    8.000000] 12345678\n";
    assert_eq!(ring_of(RingShape::default(), &records), expected);
    // The same ring after many laps.
    let wrapped = RingShape { first_id: 1000, first_lpos: 512 * 7, ..RingShape::default() };
    assert_eq!(ring_of(wrapped, &records), expected);
    records.push(Record { state: 3, ..Record::new(0, "reused") });
    assert_eq!(ring_of(RingShape::default(), &records), expected);
}

#[test]
fn case_27_blocks_at_the_rings_end_before_and_since_6_18() {
    let texts = ["a".repeat(200), "b".repeat(200), "c".repeat(80), "d".repeat(40)];
    let records: Vec<Record> = texts.iter().map(|t| Record::new(0, t)).collect();
    let expected: String = texts.iter().map(|t| format!("[    0.000000] {t}\n")).collect();
    // 208 + 208 + 88 = 504: the fourth block of 48 wraps in a ring of 512, and here the third ends exactly at its end.
    for (first_lpos, fills_the_end) in [(0, false), (0, true), (8, false), (8, true), (512 * 3 + 8, true)] {
        let shape = RingShape { first_lpos, fills_the_end, size_bits: 9, ..RingShape::default() };
        let out = ring_of(shape, &records[2..]);
        assert!(expected.ends_with(&out), "{first_lpos}: {out}");
        let exact = RingShape { first_lpos: first_lpos + 424, ..shape };
        let out = ring_of(exact, &records[2..]);
        assert!(expected.ends_with(&out) && out.lines().count() == 2, "ends at {}: {out}", first_lpos + 512);
    }
}

/// A kernel's log of every kind of record.
fn mixed() -> Vec<Record> {
    let pci = Record {
        device: ["pci", "+pci:0000:00:01.0"],
        caller: 1 << 31 | 3,
        ..Record::new(1_500_000_999, "pci: \"up\"")
    };
    vec![
        Record { level: 5, ..Record::new(0, "Linux version 6.12") },
        pci,
        Record { facility: 3, level: 3, caller: 4321, ..Record::new(2_000_000_000, "two\nlines\x0c\u{e9}") },
        Record { lpos: Some([3, 3]), ..Record::new(3_000_000_000, "") },
        Record { lpos: Some([1, 1]), ..Record::new(4_000_000_000, "lost") },
        Record { state: 0, text_len: Some(0), ..Record::new(0, "being writ\0garbage") },
        Record::new(6_000_000_000, "last"),
    ]
}

#[test]
fn json_has_all_that_is_known_of_a_record() {
    let core = ring_kernel(RingShape::default(), &mixed()).core();
    let out = text(run(&core, &["kdump-save", "--dump-dmesg", "--json"]));
    let expected = [
        r#"{"seq":0,"time":0.000000,"level":5,"facility":0,"caller":"T1","text":"Linux version 6.12"}"#,
        r#"{"seq":1,"time":1.500000,"level":6,"facility":0,"caller":"C3","subsystem":"pci","device":"+pci:0000:00:01.0","text":"pci: \"up\""}"#,
        r#"{"seq":2,"time":2.000000,"level":3,"facility":3,"caller":"T4321","text":"two\nlines\u000cé"}"#,
        r#"{"seq":3,"time":3.000000,"level":6,"facility":0,"caller":"T1","text":""}"#,
        r#"{"seq":5,"time":0.000000,"level":6,"facility":0,"caller":"T1","unfinished":true,"text":"being writ"}"#,
        r#"{"seq":6,"time":6.000000,"level":6,"facility":0,"caller":"T1","text":"last"}"#,
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn case_27_only_what_came_after_the_last_clear() {
    let partial = |kernel: &Kernel| text(run(&kernel.core(), &["kdump-save", "--dump-dmesg", "--partial-dmesg"]));
    let records: Vec<Record> = ["a", "b", "c"].map(|t| Record::new(0, t)).to_vec();
    for (clear_seq, expected) in [(0, "abc"), (40, "abc"), (1001, "bc"), (1002, "c"), (1003, ""), (u64::MAX, "")] {
        let shape = RingShape { clear_seq, first_id: 1000, ..RingShape::default() };
        let out = partial(&ring_kernel(shape, &records));
        assert_eq!(out.replace("[    0.000000] ", "").replace('\n', ""), expected, "clear_seq {clear_seq}");
    }
    let shape = OldShape::default();
    let parts = ["a", "b", "c"].map(|t| old_record(shape, 0, t, ""));
    let end = parts.concat().len() as u32;
    let each = parts[0].len() as u32;
    // An index that is no record's is one that was overwritten.
    for (clear, expected) in [(0, "abc"), (each, "bc"), (end, ""), (each + 4, "abc")] {
        let mut kernel = Kernel::new(V4_19, 4);
        let bytes = [parts.concat(), vec![0; 64]].concat();
        old_log(&mut kernel, shape, &bytes, 0, end, clear);
        assert_eq!(partial(&kernel).replace("[    0.000000] ", "").replace('\n', ""), expected, "clear_idx {clear}");
    }
}

#[test]
fn case_27_a_page_that_cannot_be_read_is_a_hole_and_no_end() {
    // Texts of 1016 bytes: blocks of 1 KiB, four a page.
    let records: Vec<Record> = (b'a'..=b'l').map(|c| Record::new(0, &char::from(c).to_string().repeat(1016))).collect();
    let shape = RingShape { size_bits: 14, ..RingShape::default() };
    let kernel = ring_kernel(shape, &records);
    let data = kernel.memory_address_of(&"e".repeat(1016));
    let core = kernel.core().without_page(data);
    let out = log(&core);
    let letters: String = out.lines().map(|l| l.strip_prefix("[    0.000000] ").map_or("<", |t| &t[..1])).collect();
    let holes = out.lines().filter(|l| l.starts_with('<')).collect::<Vec<_>>();
    assert!(holes.len() == 1 && holes[0].ends_with("record(s) could not be read>"), "{holes:?}");
    assert!(letters.starts_with('a') && letters.ends_with('l') && letters.len() < 12, "{letters}");
    let json = text(run(&core, &["kdump-save", "--dump-dmesg", "--json"]));
    assert!(json.lines().any(|l| l.starts_with("{\"hole\":\"at least ")), "{json}");
}

#[test]
fn case_27_the_pointer_to_the_ring_may_be_lost() {
    let kernel = ring_kernel(RingShape::default(), &[Record::new(0, "one"), Record::new(1, "two")]);
    let pointer = phys(kernel.symbols["prb"]);
    let out = log(&kernel.core().without_page(pointer));
    assert_eq!(out, "<at least 1 record(s) could not be read>\n[    0.000000] one\n[    0.000000] two\n");
}

#[test]
fn case_27_a_corrupt_ring_is_an_error_not_a_panic() {
    let mut kernel = Kernel::new(V6_12, 4);
    let head = support::log::ring(&mut kernel, RingShape::default(), &[Record::new(0, "text")]);
    kernel.put(head, &60u32.to_le_bytes());
    let out = run(&kernel.core(), &["kdump-save", "--dump-dmesg"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{said}");
    assert!(said.contains("2^60 records"), "{said}");
    let out = run(&Kernel::new(V6_12, 4).core(), &["kdump-save", "--dump-dmesg"]);
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn case_28_the_record_buffer_wraps_and_goes_on_behind_what_is_corrupt() {
    let shape = OldShape::default();
    let first = old_record(shape, 1_000_000_000, "first", "SUBSYSTEM=pci\0DEVICE=+pci:0000:00:01.0");
    let second = old_record(shape, 2_000_000_000, "second\nline", "");
    let third = old_record(shape, 3_000_000_000, "third", "");
    let kernel = |bytes: &[u8], from: usize, to: usize| {
        let mut kernel = Kernel::new(V4_19, 4);
        old_log(&mut kernel, shape, bytes, from as u32, to as u32, 0);
        kernel
    };
    let run_it = |bytes: &[u8], from: usize, to: usize| log(&kernel(bytes, from, to).core());
    let (one, two) = ("[    1.000000] first\n", "[    2.000000] second\n               line\n");
    let three = "[    3.000000] third\n";
    let hole = "<at least 1 record(s) could not be read>\n";
    let mut buffer = [first.clone(), second.clone(), third.clone()].concat();
    let end = buffer.len();
    buffer.resize(256, 0);
    assert_eq!(run_it(&buffer, 0, end), [one, two, three].concat());
    // The newest record starts over at 0 behind a record of length 0.
    let mut buffer = third.clone();
    buffer.resize(64, 0);
    buffer.extend([first.clone(), second.clone()].concat());
    buffer.resize(256, 0);
    assert_eq!(run_it(&buffer, 64, third.len()), [one, two, three].concat());
    // A length below the head's, one beyond the buffer, texts longer than their record: the next one is found.
    for (at, byte) in [(64 + 8, 3), (64 + 9, 0xff), (64 + 10, 0xff), (64 + 12, 0xff)] {
        let mut bad = buffer.clone();
        bad[at] = byte;
        assert_eq!(run_it(&bad, 64, third.len()), [hole, two, three].concat(), "byte {at}");
    }
    // An end that is never met, records that lead in a circle.
    assert!(run_it(&buffer, 64, 7).matches("first").count() <= 16, "bounded");
    let json = text(run(&kernel(&buffer, 64, third.len()).core(), &["kdump-save", "--dump-dmesg", "--json"]));
    assert_eq!(
        json.lines().next(),
        Some(
            r#"{"time":1.000000,"level":6,"facility":1,"subsystem":"pci","device":"+pci:0000:00:01.0","text":"first"}"#
        )
    );
}

#[test]
fn case_28_a_page_of_the_record_buffer_that_cannot_be_read() {
    let shape = OldShape { name: "log", caller: None };
    let texts: Vec<String> = (0..200).map(|i| format!("record {i:3} {}", "x".repeat(40))).collect();
    let bytes: Vec<u8> = texts.iter().flat_map(|t| old_record(shape, 0, t, "")).collect();
    let mut kernel = Kernel::new(V4_19, 4);
    let end = bytes.len() as u32;
    let buffer = old_log(&mut kernel, shape, &[bytes, vec![0; 64]].concat(), 0, end, 0);
    let out = log(&kernel.core().without_page(phys(buffer) + PAGE));
    assert!(out.contains("record   0") && out.contains("record 199"), "both ends");
    assert_eq!(out.matches("could not be read").count(), 1, "{out}");
    let kept = out.lines().filter(|l| l.contains("] record ")).count();
    // 72 bytes a record: 57 or 58 in a page, one on each of its borders.
    assert!((141..=143).contains(&kept), "{kept} of 200");
}

#[test]
fn case_28_a_caller_is_printed_where_the_kernel_printed_it() {
    let shape = OldShape { name: "printk_log", caller: Some(77) };
    let record = old_record(shape, 0, "text", "");
    let mut kernel = Kernel::new(V4_19, 4);
    old_log(&mut kernel, shape, &[record.clone(), vec![0; 64]].concat(), 0, record.len() as u32, 0);
    assert_eq!(log(&kernel.core()), "[    0.000000] [     T77] text\n");
}

#[test]
fn case_28_the_plain_text_before_3_5() {
    let printed = b"<6>[    0.000000] one\n<4>[    1.000000] two\nthree\n<30>four";
    let run_it = |size, since, args: &[&str]| {
        let mut kernel = Kernel::new(V4_19, 4);
        text_log(&mut kernel, printed, size, since);
        text(run(&kernel.core(), &[&["kdump-save", "--dump-dmesg"], args].concat()))
    };
    assert_eq!(run_it(64, 5, &[]), "[    0.000000] one\n[    1.000000] two\nthree\nfour\n");
    assert_eq!(run_it(16, 64, &[]), "o\nthree\nfour\n", "the oldest is overwritten");
    assert_eq!(run_it(64, 14, &["--partial-dmesg"]), "three\nfour\n");
    let json = run_it(64, 5, &["--json"]);
    assert_eq!(json.lines().next(), Some(r#"{"level":6,"facility":0,"text":"[    0.000000] one"}"#));
    assert_eq!(json.lines().last(), Some(r#"{"level":6,"facility":3,"text":"four"}"#));
}

#[test]
fn case_27_every_form_of_the_same_records() {
    let core = ring_kernel(RingShape::default(), &mixed()).core();
    let ours = "[    0.000000] Linux version 6.12\n[    1.500000] pci: \"up\"\n[    2.000000] two\n               \
                lines\\x0c\\xc3\\xa9\n[    3.000000] \n[    0.000000] being writ <unfinished>\n[    6.000000] last\n";
    assert_eq!(log(&core), ours);
    // With the caller, further lines as wide as that; finished records with text only.
    let theirs = "[    0.000000] [      T1] Linux version 6.12\n[    1.500000] [      C3] pci: \"up\"\n\
                  [    2.000000] [   T4321] two\n                          lines\x0c\\xc3\\xa9\n[    6.000000] [      T1] last\n";
    let out = text(run(&core, &["makedumpfile", "--message-level", "4", "-F", "--dump-dmesg"]));
    assert_eq!(out, theirs);
    let kexec_tools = "[    0.000000] Linux version 6.12\n[    1.500000] pci: \"up\"\n[    2.000000] two\nlines\x0c\\xc3\\xa9\n\
                       [    3.000000] \n[    6.000000] last\n";
    assert_eq!(text(run(&core, &["vmcore-dmesg"])), kexec_tools);
}

#[test]
fn case_27_records_in_flight_when_the_machine_stopped() {
    let half = |state, text_len| Record { state, text_len, ..Record::new(2_000_000_000, "half a li") };
    let print = |last: Record| ring_of(RingShape::default(), &[Record::new(0, "first"), last]);
    let first = "[    0.000000] first\n";
    // Reserved, before and after its length was written; committed, which a pr_cont() could still extend; finalized.
    for (state, text_len, printed) in [
        (0, Some(0), "[    2.000000] half a li <unfinished>\n"),
        (0, Some(4), "[    2.000000] half <unfinished>\n"),
        (1, None, "[    2.000000] half a li\n"),
        (2, None, "[    2.000000] half a li\n"),
        (3, None, ""),
    ] {
        assert_eq!(print(half(state, text_len)), format!("{first}{printed}"), "state {state}, {text_len:?}");
    }
    // Reserved, but without a block: what its position points at is another record's.
    for lpos in [[0, 16], [3, 3], [1, 1], [24, 8]] {
        let out = print(Record { lpos: Some(lpos), ..half(0, Some(0)) });
        assert_eq!(out, first, "{lpos:?}");
    }
}

#[test]
fn case_27_the_sequence_of_the_last_clear_before_it_was_a_latch() {
    let shape = RingShape { first_id: 1000, ..RingShape::default() };
    let mut kernel = ring_kernel(shape, &["a", "b", "c"].map(|t| Record::new(0, t)));
    // 5.10 and 5.11: a number, where later kernels have the latch's count.
    kernel.info = kernel.info.replace("SIZE(latched_seq)=24\nOFFSET(latched_seq.val)=8\n", "");
    kernel.put(kernel.symbols["clear_seq"], &1002u64.to_le_bytes());
    let out = text(run(&kernel.core(), &["kdump-save", "--dump-dmesg", "--partial-dmesg"]));
    assert_eq!(out, "[    0.000000] c\n");
}

#[test]
fn case_28_the_records_of_3_5_to_3_10() {
    let shape = OldShape { name: "log", caller: None };
    let records = [
        old_record(shape, 1_000_000_000, "one", "SUBSYSTEM=usb\0DEVICE=c189:1"),
        old_record(shape, 2_000_000_000, "two\nlines", ""),
        old_record(shape, 3_000_000_000, "", ""),
    ];
    let mut kernel = Kernel::new(V4_19, 4);
    let end = records.concat().len() as u32;
    old_log(&mut kernel, shape, &[records.concat(), vec![0; 64]].concat(), 0, end, 0);
    let out = "[    1.000000] one\n[    2.000000] two\n               lines\n[    3.000000] \n";
    assert_eq!(log(&kernel.core()), out);
    let theirs = text(run(&kernel.core(), &["makedumpfile", "--message-level", "4", "-F", "--dump-dmesg"]));
    assert_eq!(theirs, out);
    let json = text(run(&kernel.core(), &["kdump-save", "--dump-dmesg", "--json"]));
    let first = r#"{"time":1.000000,"level":6,"facility":1,"subsystem":"usb","device":"c189:1","text":"one"}"#;
    assert_eq!(json.lines().next(), Some(first));
}

/// The log in every form; how long the longest is.
fn exercise(kernel: &Kernel) -> usize {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("core");
    kernel.core().save(&path);
    let input: Box<dyn Input> = Box::new(std::fs::read(path).expect("read"));
    let core = Vmcore::from_input(input).expect("a vmcore");
    let mut longest = 0;
    for form in [printk::Form::Dmesg, printk::Form::Json, printk::Form::Makedumpfile, printk::Form::VmcoreDmesg] {
        for partial in [false, true] {
            let mut out = Vec::new();
            drop(printk::dmesg_as(&core, printk::Options { form, partial }, &mut out));
            longest = longest.max(out.len());
        }
    }
    longest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn case_27_rings_of_any_bytes_do_no_harm(changes in proptest::collection::vec((0usize..3000, any::<u8>()), 1..40)) {
        let mut kernel = Kernel::new(V6_12, 4);
        let head = support::log::ring(&mut kernel, RingShape::default(), &mixed());
        // Head, descriptors, infos and texts lie one behind the other.
        for (at, byte) in changes {
            kernel.put(head + at as u64, &[byte]);
        }
        prop_assert!(exercise(&kernel) < 64 << 20);
    }

    #[test]
    fn case_28_record_buffers_of_any_bytes_do_no_harm(changes in proptest::collection::vec((0usize..256, any::<u8>()), 1..20), from in 0u32..300, to in 0u32..300, clear in any::<u32>()) {
        let shape = OldShape::default();
        let mut bytes = ["a", "b\nc", "d"].map(|t| old_record(shape, 7, t, "SUBSYSTEM=pci\0DEVICE=+pci:1")).concat();
        bytes.resize(256, 0);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let mut kernel = Kernel::new(V4_19, 4);
        old_log(&mut kernel, shape, &bytes, from, to, clear);
        prop_assert!(exercise(&kernel) < 1 << 20);
    }
}
