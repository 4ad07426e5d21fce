//! Where a dump may go: streams, several files, too small places. What comes out is what one plain file would hold.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, V6_12};
use support::room::Room;
use support::saved::unflatten;

struct Case(Room);

impl Case {
    fn new() -> Self {
        Self(Room::new(Kernel::new(V6_12, 4)))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path(name)).unwrap_or_else(|e| panic!("read {name}: {e}"))
    }

    /// Runs `APPLET ARGS` in the directory, whose code must be `code`; what it wrote to both outputs.
    fn run(&self, command: &str, code: i32) -> Output {
        let out = tool(command).current_dir(self.0.dir.path()).output().expect("run");
        assert_eq!(out.status.code(), Some(code), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }

    /// Every page that `level` keeps is what memory holds, and no other is there.
    fn check(&self, dump: &Kdump, level: u8, context: &str) {
        for pfn in Kernel::pfns() {
            match dump.page(pfn) {
                Page::Data(data) => assert!(data == self.0.kernel.memory.page(pfn), "{context}: {pfn:#x} differs"),
                other => assert!(self.0.kernel.use_of(pfn).droppable(level), "{context}: {pfn:#x} is {other:?}"),
            }
        }
    }
}

fn tool(command: &str) -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    tool.args(command.split(' '));
    tool
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A dump without what differs from run to run: when it was taken.
fn timeless(mut dump: Vec<u8>) -> Vec<u8> {
    dump[408..416].fill(0);
    dump
}

fn exists(path: &Path) -> bool {
    path.try_exists().expect("look")
}

#[test]
fn case_18_a_flattened_stream_stands_for_the_plain_file() {
    let case = Case::new();
    case.run("kdump-save -z -d 31 --num-threads 1 core plain", 0);
    let stream = case.run("kdump-save -z -d 31 --num-threads 1 -F core", 0).stdout;
    let plain = timeless(case.bytes("plain"));
    assert!(timeless(unflatten(&stream)) == plain, "the same bytes, by one worker");
    case.run("kdump-save -z -d 31 --num-threads 1 -F core stream", 0);
    assert!(timeless(unflatten(&case.bytes("stream"))) == plain, "the same in a file");
    let stream = case.run("makedumpfile -F -d 31 --message-level 7 core", 0).stdout;
    let dump = Kdump::parse(unflatten(&stream));
    assert_eq!(dump.status, 0);
    case.check(&dump, 31, "by makedumpfile's name");
    for threads in ["2", "7"] {
        let stream = case.run(&format!("kdump-save -d 1 --num-threads {threads} -F core"), 0).stdout;
        case.check(&Kdump::parse(unflatten(&stream)), 1, &format!("{threads} threads"));
    }
}

/// Where records overlap, crash takes the first one and makedumpfile the last: there must be nothing to choose.
#[test]
fn no_byte_of_a_stream_is_written_twice() {
    let case = Case::new();
    for options in ["-z -d 31 --num-threads 3", "-c -d 1", "-E -d 31", "-d 1 -L 12M", "-E -d 1 -L 12M"] {
        let code = if options.contains("-L") { 9 } else { 0 };
        let stream = case.run(&format!("kdump-save {options} -F core"), code).stdout;
        let mut records = Vec::new();
        let mut rest = &stream[4096..];
        while rest.len() > 16 {
            let word = |at: usize| u64::from_be_bytes(rest[at..at + 8].try_into().expect("8 bytes"));
            let (offset, size) = (word(0), word(8));
            records.push((offset, offset + size));
            rest = &rest[16 + size as usize..];
        }
        assert_eq!(records[0].0, 0, "{options}: the header comes first");
        records.sort_unstable();
        let overlap = records.windows(2).find(|pair| pair[0].1 > pair[1].0);
        assert_eq!(overlap, None, "{options}");
        let file = unflatten(&stream);
        let mark = if options.contains("-E") { file[48] & 1 != 0 } else { file[424] & 8 != 0 };
        assert_eq!(mark, code == 9, "{options}: marked if it is not complete");
    }
}

#[test]
fn case_18_pipes_take_nothing_but_streams_and_a_closed_one_ends_the_run() {
    let case = Case::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = tool("kdump-save -F core");
    let out = command.current_dir(case.0.dir.path()).stdout(writer).stderr(Stdio::piped()).output().expect("run");
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("Broken pipe"), "{}", said(&out));
    let refused = case.run("kdump-save core /dev/stdout", 4);
    assert!(refused.stdout.is_empty() && said(&refused).contains("not a regular file"), "{}", said(&refused));
    assert!(!exists(&case.0.path("dump")));
}

#[test]
fn streams_become_plain_files_again() {
    let case = Case::new();
    case.run("kdump-save -z -d 31 -F core stream", 0);
    let expected = unflatten(&case.bytes("stream"));
    case.run("kdump-save unflatten stream plain", 0);
    assert!(case.bytes("plain") == expected);
    let refused = case.run("kdump-save unflatten stream plain", 5);
    assert!(said(&refused).contains("-f replaces it"), "{}", said(&refused));
    let stream = || std::fs::File::open(case.0.path("stream")).expect("open");
    let mut command = tool("makedumpfile -R again");
    let out = command.current_dir(case.0.dir.path()).stdin(stream()).output().expect("run");
    assert!(out.status.success() && case.bytes("again") == expected, "{}", said(&out));
    let mut command = tool("kdump-save unflatten -f - again");
    let out = command.current_dir(case.0.dir.path()).stdin(stream()).output().expect("run");
    assert!(out.status.success() && case.bytes("again") == expected, "{}", said(&out));
    for (name, bytes, why) in [
        ("core.elf", case.bytes("core"), "does not begin with"),
        ("short", b"makedumpfile".to_vec(), "header of a flattened dump"),
    ] {
        std::fs::write(case.0.path(name), bytes).expect("written");
        let refused = case.run(&format!("kdump-save unflatten --salvage {name} none"), 4);
        assert!(said(&refused).contains(why), "{name}: {}", said(&refused));
        assert!(!exists(&case.0.path("none")) && !exists(&case.0.path("none-incomplete")), "{name}: nothing is left");
    }
}

#[test]
fn case_18_a_stream_that_was_cut_becomes_a_dump_of_what_came() {
    let case = Case::new();
    for options in ["--num-threads 3", "-d 31 --num-threads 1"] {
        let stream = case.run(&format!("kdump-save {options} -F core"), 0).stdout;
        let whole = Kdump::parse(unflatten(&stream));
        let mut last = 0;
        for cut in [40, 60, 80, 95, 100].map(|percent| (stream.len() - 1) / 100 * percent) {
            let context = format!("{options}, cut at {cut:#x} of {:#x}", stream.len());
            std::fs::write(case.0.path("cut"), &stream[..cut]).expect("written");
            let refused = case.run("kdump-save unflatten -f cut saved", 4);
            assert!(said(&refused).contains("--salvage"), "{context}: {}", said(&refused));
            assert!(exists(&case.0.path("saved-incomplete")), "{context}: what there is stays");
            case.run("kdump-save unflatten -f --salvage cut saved", 9);
            let dump = Kdump::open(&case.0.path("saved"));
            assert_eq!(dump.status & 8, 8, "{context}: marked");
            let mut found = 0;
            for pfn in whole.kept() {
                match dump.page(pfn) {
                    Page::Missing => {}
                    data => {
                        assert!(data == whole.page(pfn), "{context}: {pfn:#x} differs");
                        found += 1;
                    }
                }
            }
            assert!(found >= last, "{context}: more stream, more pages");
            last = found;
            std::fs::remove_file(case.0.path("saved")).expect("removed");
        }
        assert!(last > whole.kept().len() / 2, "{options}: {last} pages of a nearly whole stream");
    }
}

#[test]
fn case_18_streams_cut_at_100_random_places_become_dumps_that_open() {
    /// The stream's own header and those of two records, and 464 bytes of the dump's header less the mark's.
    const HEADER: usize = 4096 + 16 + 16 + 460;
    let case = Case::new();
    let mut state = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 18);
    for options in ["-z -d 31 --num-threads 2", "-d 1 --num-threads 1"] {
        let stream = case.run(&format!("kdump-save {options} -F core"), 0).stdout;
        let whole = Kdump::parse(unflatten(&stream));
        let mut opened = 0;
        // Inside the header, behind it, inside the sub header; then anywhere.
        let first = [HEADER - 1, HEADER, HEADER + 1000, HEADER + 4096];
        let random = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % stream.len() as u64) as usize
        });
        for cut in first.into_iter().chain(random).take(54) {
            let context = format!("{options}, cut at {cut} of {}", stream.len());
            std::fs::write(case.0.path("cut"), &stream[..cut]).expect("written");
            // With less than the header nothing says what this is.
            let code = if cut < HEADER { 4 } else { 9 };
            let out = case.run(&format!("kdump-save unflatten -f --salvage cut saved{cut}"), code);
            if code == 4 {
                continue;
            }
            let path = case.0.path(&format!("saved{cut}"));
            let dump = kdumpbox::vmcore::Vmcore::open(&path).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(dump.incomplete().is_some(), "{context}: {}", said(&out));
            opened += 1;
            let dump = Kdump::open(&path);
            for pfn in dump.kept().into_iter().filter(|pfn| pfn % 3 == 0) {
                let page = dump.page(pfn);
                assert!(page == Page::Missing || page == whole.page(pfn), "{context}: {pfn:#x} differs");
            }
            // Read as it is, without a salvage, it says the same.
            let stream =
                kdumpbox::vmcore::Vmcore::open(&case.0.path("cut")).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(stream.fault().is_some(), "{context}");
            std::fs::remove_file(path).expect("removed");
        }
        assert!(opened > 25, "{options}: {opened}");
    }
}

/// Pages that are there are what memory holds; how many are not.
fn missing(case: &Case, dump: &Kdump, context: &str) -> usize {
    let there = |pfn: &u64| match dump.page(*pfn) {
        Page::Data(data) => {
            assert!(data == case.0.kernel.memory.page(*pfn), "{context}: {pfn:#x} differs");
            false
        }
        other => other == Page::Missing,
    };
    dump.kept().iter().filter(|pfn| there(pfn)).count()
}

#[test]
fn case_17_levels_are_tried_in_turn_while_there_is_no_room() {
    let case = Case::new();
    case.run("kdump-save -d 31 core small", 0);
    case.run("kdump-save -d 1 core large", 0);
    let [small, large] = ["small", "large"].map(|name| case.bytes(name).len());
    assert!(small < large / 2);
    let retried = case.run(&format!("kdump-save -f -d 0,1,31 -L {} core dump", small + 4096), 0);
    assert!(said(&retried).contains("trying dump level 31"), "{}", said(&retried));
    let dump = Kdump::open(&case.0.path("dump"));
    assert_eq!((dump.status, dump.level, dump.bytes().len()), (0, 31, small), "nothing of the first attempts is left");
    case.check(&dump, 31, "the last level");
    let limit = large / 2;
    let cut = case.run(&format!("kdump-save -f -d 0,1 -L {limit} core dump"), 9);
    assert!(said(&cut).contains("beyond the limit"), "{}", said(&cut));
    let dump = Kdump::open(&case.0.path("dump"));
    assert!(dump.status & 8 != 0 && dump.bytes().len() <= limit, "as much as fits");
    let lost = missing(&case, &dump, "cut by the limit");
    assert!((1..dump.kept().len()).contains(&lost), "{lost} of {} pages did not fit", dump.kept().len());
    let stream = case.run(&format!("kdump-save -F -d 1 -L {limit} core"), 9).stdout;
    let dump = Kdump::parse(unflatten(&stream));
    assert!(dump.status & 8 != 0 && missing(&case, &dump, "a cut stream") != 0);
    let refused = case.run("kdump-save -f -L 4k core none", 6);
    assert!(said(&refused).contains("headers alone"), "{}", said(&refused));
    case.run("kdump-save -F -d 1,31 core", 2);
    // The same where the place itself is full: the shell's unit is 512 bytes.
    let blocks = small / 512 + 16;
    let script = |levels: &str| format!("ulimit -f {blocks}; exec \"$0\" kdump-save -f -d {levels} core full");
    for (levels, code) in [("1,31", 0), ("0,1", 6)] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &script(levels), env!("CARGO_BIN_EXE_kdumpbox")]).current_dir(case.0.dir.path());
        let out = shell.output().expect("run");
        assert_eq!(out.status.code(), Some(code), "{levels}: {}", said(&out));
    }
    case.check(&Kdump::open(&case.0.path("full")), 31, "a full place");
    assert_eq!(Kdump::open(&case.0.path("full-incomplete")).status & 8, 8);
}

#[test]
fn case_17_makedumpfiles_words_for_it() {
    let case = Case::new();
    case.run("kdump-save -d 31 core small", 0);
    let small = case.bytes("small").len();
    let out = case.run(&format!("makedumpfile -d 1,31 -L {} core dump", small + 4096), 0);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("Retry to create a dumpfile by dump_level(31).\n"), "{text}");
    let out = case.run(&format!("makedumpfile -f -d 1,31 -L {} core dump", small - 8192), 1);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("This is an incomplete dumpfile"), "{text}");
    let dump = Kdump::open(&case.0.path("dump"));
    assert!(dump.status & 8 != 0 && missing(&case, &dump, "makedumpfile -L") != 0);
    case.run("makedumpfile -F -d 31 core", 0);
    let stream = case.run("makedumpfile -F -d 31 core", 0).stdout;
    std::fs::write(case.0.path("cut"), &stream[..stream.len() - 200_000]).expect("written");
    let cut = std::fs::File::open(case.0.path("cut")).expect("open");
    let out = tool("makedumpfile -R rebuilt").current_dir(case.0.dir.path()).stdin(cut).output().expect("run");
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert_eq!(Kdump::open(&case.0.path("rebuilt")).status & 8, 8, "what came is there, and marked");
}

#[test]
fn case_24_parts_have_the_same_headers_and_become_one_dump_again() {
    let case = Case::new();
    for (tool, options, level) in
        [("kdump-save", "-d 1", 1), ("kdump-save", "-z -d 31", 31), ("makedumpfile", "-c -d 17", 17)]
    {
        for count in [2, 5] {
            let context = format!("{tool} {options}, {count} parts");
            let names: Vec<String> = (0..count).map(|i| format!("part{i}")).collect();
            case.run(&format!("{tool} -f {options} --split core {}", names.join(" ")), 0);
            let parts: Vec<Vec<u8>> = names.iter().map(|name| case.bytes(name)).collect();
            for part in &parts {
                assert!(part[..4096] == parts[0][..4096], "{context}: the same header");
                assert_eq!(part[4096 + 12], 1, "{context}: marked as a part");
            }
            let reversed: Vec<&str> = names.iter().rev().map(String::as_str).collect();
            case.run(&format!("{tool} -f --reassemble {} joined", reversed.join(" ")), 0);
            let dump = Kdump::open(&case.0.path("joined"));
            assert_eq!((dump.status & 8, dump.bytes()[4096 + 12]), (0, 0), "{context}: whole");
            case.check(&dump, level, &context);
        }
    }
    let many: Vec<String> = (0..40).map(|i| format!("many{i}")).collect();
    case.run(&format!("kdump-save -z -d 31 --split core {}", many.join(" ")), 0);
    case.run(&format!("kdump-save --reassemble {} whole", many.join(" ")), 0);
    case.check(&Kdump::open(&case.0.path("whole")), 31, "forty parts");
    case.run("kdump-save core plain", 0);
    for (files, code, why) in [
        ("part0 part2 part3 part4", 3, "was not given"),
        ("part0 part1 many2", 4, "headers differ"),
        ("part0 part0", 4, "more than one"),
        ("plain", 4, "no part"),
        ("core", 4, "no part"),
    ] {
        let refused = case.run(&format!("kdump-save --reassemble {files} none"), code);
        assert!(said(&refused).contains(why), "{files}: {}", said(&refused));
        assert!(!exists(&case.0.path("none")) && !exists(&case.0.path("none-incomplete")), "{files}: nothing is left");
    }
    case.run("kdump-save --split core one", 2);
    case.run("kdump-save --split -F core one two", 2);
    let refused = case.run("kdump-save --split core new plain", 5);
    assert!(!exists(&case.0.path("new-incomplete")), "{}: no part is left", said(&refused));
}

#[test]
fn case_24_a_part_that_was_not_finished_makes_a_dump_that_says_so() {
    let case = Case::new();
    case.run("kdump-save --split core one two", 0);
    let mut two = case.bytes("two");
    two.truncate(two.len() - 50 * 4096);
    two[424] |= 8;
    std::fs::write(case.0.path("two"), two).expect("written");
    case.run("kdump-save --reassemble one two joined", 9);
    let dump = Kdump::open(&case.0.path("joined"));
    assert_eq!((dump.status & 8, missing(&case, &dump, "a cut part")), (8, 50));
}

#[test]
fn case_16_parts_beyond_4_gib() {
    use std::os::unix::fs::FileExt;
    const FAR: u64 = 5 << 30;
    let case = Case::new();
    case.run("kdump-save -z -d 31 --split core one two", 0);
    // The same part with its data 5 GiB further on, in a sparse file.
    let one = case.bytes("one");
    let number = |at: usize| u64::from_le_bytes(one[at..at + 8].try_into().expect("8 bytes"));
    let blocks = |at: usize| u32::from_le_bytes(one[at..at + 4].try_into().expect("4 bytes")) as usize;
    let descriptors = 4096 * (1 + blocks(432) + blocks(436));
    let data = number(descriptors) as usize;
    let mut moved = one.clone();
    for at in (descriptors..data).step_by(24) {
        moved[at..at + 8].copy_from_slice(&(number(at) + FAR).to_le_bytes());
    }
    let file = std::fs::File::create(case.0.path("one")).expect("create");
    file.write_all_at(&moved[..data], 0).expect("written");
    file.write_all_at(&one[data..], data as u64 + FAR).expect("written");
    case.run("kdump-save --reassemble one two joined", 0);
    assert!(std::fs::metadata(case.0.path("joined")).expect("there").len() > FAR);
    case.run("kdump-save -d 31 joined again", 0);
    case.check(&Kdump::open(&case.0.path("again")), 31, "through offsets beyond 4 GiB");
    // Flattened offsets have 64 bits too.
    case.run("kdump-save -d 31 -F joined stream", 0);
    case.check(&Kdump::parse(unflatten(&case.bytes("stream"))), 31, "as a stream");
}

#[test]
fn a_dry_run_tells_the_size_and_writes_nothing() {
    let case = Case::new();
    let figure = |out: &Output| {
        let said = said(out);
        let at = said.find(" MiB (level").unwrap_or_else(|| panic!("{said}"));
        said[..at].rsplit(' ').next().map(str::to_owned)
    };
    for options in ["-d 0", "-d 16", "-z -d 31", "-d 1 -c"] {
        let real = case.run(&format!("kdump-save -f {options} core dump"), 0);
        let dry = case.run(&format!("kdump-save --dry-run {options} core other"), 0);
        assert_eq!(figure(&real), figure(&dry), "{options}");
        assert!(!exists(&case.0.path("other")) && !exists(&case.0.path("other-incomplete")), "{options}");
    }
    let small = case.run("kdump-save --dry-run -d 0,31 -L 10M core", 0);
    assert!(said(&small).contains("trying dump level 31"), "{}", said(&small));
    let quiet = case.run("kdump-save --dry-run -q --show-stats -d 31 core", 0);
    assert!(said(&quiet).contains("kept") && !said(&quiet).contains("MiB"), "{}", said(&quiet));
    let out = case.run("makedumpfile --dry-run --show-stats -d 31 core other", 0);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("Write bytes     : ") && !exists(&case.0.path("other")), "{text}");
}
