//! `kdump-save -E`: the ELF core read back by numbers, by ourselves, and flattened.

mod support;

use std::process::{Command, Output};

use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, RAM, Use, V4_19, V6_1, V6_12};
use support::log::{Record, RingShape};
use support::machine::{IMAGE, PAGE};
use support::room::Room;

struct Case(Room);

impl Case {
    fn new(kernel: Kernel) -> Self {
        Self(Room::new(kernel))
    }

    fn run(&self, applet: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let output = command.current_dir(self.0.dir.path()).arg(applet).args(args).output().expect("runs");
        assert!(output.status.success(), "{applet} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

/// Offset, virtual and physical address, sizes in file and memory.
type Load = [u64; 5];

/// An ELF core by the offsets of its fields.
struct Elf {
    bytes: Vec<u8>,
    loads: Vec<Load>,
}

impl Elf {
    fn open(path: &std::path::Path) -> Self {
        let bytes = std::fs::read(path).expect("read");
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        assert_eq!((&bytes[..7], &bytes[16..20]), (&b"\x7fELF\x02\x01\x01"[..], &[4, 0, 62, 0][..]));
        assert_eq!(bytes[48..52], [0; 4], "complete");
        let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
        let kind = |i: usize| bytes[64 + 56 * i];
        assert_eq!((kind(0), (1..count).all(|i| kind(i) == 1)), (4, true), "one PT_NOTE, then PT_LOADs");
        let at = |i: usize, field: usize| word(64 + 56 * i + field);
        assert!((0..count).all(|i| at(i, 48) == 0), "p_align is 0");
        assert!(at(0, 8) + at(0, 32) <= bytes.len() as u64, "the notes are in the file");
        let loads = (1..count).map(|i| [8, 16, 24, 32, 40].map(|field| at(i, field))).collect();
        Self { bytes, loads }
    }

    /// The page at `phys`, `None` where the file has no bytes of it, and whether any PT_LOAD covers it.
    fn page(&self, phys: u64) -> (Option<&[u8]>, bool) {
        let covers = |l: &&Load| l[2] <= phys && phys < l[2] + l[4] && l[1] < IMAGE;
        let Some([offset, _, start, filesz, _]) = self.loads.iter().find(covers) else { return (None, false) };
        let within = phys - start;
        let from = (offset + within) as usize;
        ((within < *filesz).then(|| &self.bytes[from..from + PAGE as usize]), true)
    }
}

#[test]
fn kept_pages_are_there_and_left_out_ones_are_memory_without_bytes() {
    for (kernel, level) in [(V4_19, 0u8), (V6_1, 1), (V6_1, 31), (V6_12, 17)] {
        let case = Case::new(Kernel::new(kernel, 4));
        let text = level.to_string();
        case.run("kdump-save", &["-q", "-f", "-E", "-d", &text, "core", "elf"]);
        case.run("kdump-save", &["-q", "-f", "-c", "-d", &text, "core", "plain"]);
        let (elf, plain) = (Elf::open(&case.0.path("elf")), Kdump::open(&case.0.path("plain")));
        for pfn in Kernel::pfns() {
            let memory = case.0.kernel.memory.page(pfn);
            let (page, covered) = elf.page(pfn * PAGE);
            assert!(covered, "level {level}: {pfn:#x} is memory");
            match (plain.page(pfn), page) {
                (Page::Data(_), Some(bytes)) => assert!(bytes == memory, "level {level}: {pfn:#x}"),
                (Page::Data(_), None) => {
                    assert!(level & 1 == 1 && memory.iter().all(|b| *b == 0), "level {level}: {pfn:#x} is lost");
                }
                (_, Some(bytes)) => assert!(bytes.iter().all(|b| *b == 0), "level {level}: {pfn:#x} in a short gap"),
                (_, None) => {}
            }
        }
        let image: Vec<&Load> = elf.loads.iter().filter(|l| l[1] >= IMAGE && l[3] != 0).collect();
        assert!(!image.is_empty(), "the kernel's image");
        for [offset, _, phys, filesz, _] in image {
            let page = &elf.bytes[*offset as usize..][..PAGE as usize];
            assert!(*filesz >= PAGE && page == case.0.kernel.memory.page(phys / PAGE), "{phys:#x} in the image");
        }
        let expected = plain.kept();
        // What is not in it reads as zeros. What struct pages say to be the kernel's was zero, and is kept as such; nobody
        // can know that of the others.
        let zero = |pfn: &u64| case.0.kernel.memory.page(*pfn).iter().all(|b| *b == 0);
        let unknown = |pfn: &u64| level & 1 == 1 && zero(pfn) && case.0.kernel.use_of(*pfn).droppable(31);
        let expected: Vec<u64> = expected.into_iter().filter(|pfn| !unknown(pfn)).collect();
        let out = case.run("kdump-save", &["-f", "-c", "-d", &text, "elf", "again"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!said.contains("wider") && !said.contains("warning"), "level {level}: {said}");
        let again = Kdump::open(&case.0.path("again"));
        assert_eq!((again.level, again.status & 8), (i32::from(level), 0));
        // Zeros of a short gap are in the file.
        let kept: Vec<u64> = again.kept().into_iter().filter(|pfn| !unknown(pfn)).collect();
        assert!(kept == expected, "level {level}: {} of {} pages", kept.len(), expected.len());
        for pfn in expected {
            assert!(again.page(pfn) == Page::Data(case.0.kernel.memory.page(pfn)), "level {level}: {pfn:#x} again");
        }
        // A second time, as an ELF core: not one program header more.
        case.run("kdump-save", &["-q", "-f", "-E", "-d", &text, "elf", "second"]);
        let second = Elf::open(&case.0.path("second")).loads;
        assert!(second == elf.loads, "level {level}: {second:x?}, before {:x?}", elf.loads);
    }
}

#[test]
fn a_wider_filter_leaves_more_out_of_an_elf_core_and_a_narrower_one_brings_nothing_back() {
    for generation in [V6_1, V6_12] {
        let case = Case::new(Kernel::new(generation, 4));
        case.run("kdump-save", &["-q", "-E", "-d", "17", "core", "elf"]);
        for level in ["31", "8", "0"] {
            case.run("kdump-save", &["-q", "-f", "-c", "-d", level, "elf", "again"]);
            let again = Kdump::open(&case.0.path("again"));
            let bits: u8 = level.parse().expect("a number");
            for pfn in Kernel::pfns() {
                let (what, memory) = (case.0.kernel.use_of(pfn), case.0.kernel.memory.page(pfn));
                let zero = memory.iter().all(|b| *b == 0);
                let page = again.page(pfn);
                assert!(again.is_ram(pfn), "{generation:?}, level {level}: {pfn:#x}");
                if what.droppable(bits | 16) {
                    assert!(page == Page::Excluded || zero || !what.droppable(bits), "{level}: {pfn:#x} of {what:?}");
                } else if !(zero && what.droppable(31)) {
                    assert!(page == Page::Data(memory), "{generation:?}, level {level}: {pfn:#x} of {what:?}");
                }
            }
        }
    }
}

#[test]
fn without_struct_pages_what_an_elf_core_lacks_stays_left_out() {
    let case = Case::new(Kernel::new(V6_1, 4));
    case.run("kdump-save", &["-q", "-E", "-d", "31", "core", "elf"]);
    let mut bytes = std::fs::read(case.0.path("elf")).expect("read");
    let note = bytes.windows(11).position(|w| w == b"VMCOREINFO\0").expect("a note");
    bytes[note] = b'X';
    let held = Elf::open(&case.0.path("elf"));
    std::fs::write(case.0.path("elf"), bytes).expect("written");
    case.run("kdump-save", &["-q", "-c", "-d", "1", "elf", "again"]);
    let again = Kdump::open(&case.0.path("again"));
    for pfn in Kernel::pfns() {
        assert_eq!(again.is_kept(pfn), held.page(pfn * PAGE).0.is_some(), "{pfn:#x}");
    }
}

#[test]
fn by_makedumpfiles_name_and_flattened() {
    let mut kernel = Kernel::new(V6_1, 4);
    support::log::ring(&mut kernel, RingShape::default(), &[Record::new(1, "one"), Record::new(2, "two")]);
    let case = Case::new(kernel);
    case.run("kdump-save", &["-q", "-E", "-d31", "--num-threads=3", "core", "elf"]);
    let log = case.run("kdump-save", &["--dump-dmesg", "elf"]).stdout;
    assert!(log == case.run("kdump-save", &["--dump-dmesg", "core"]).stdout && log.ends_with(b"two\n"));
    case.run("makedumpfile", &["-E", "-d31", "core", "theirs"]);
    let elf = std::fs::read(case.0.path("elf")).expect("read");
    assert!(elf == std::fs::read(case.0.path("theirs")).expect("read"), "the same for any number of threads");
    let stream = case.run("makedumpfile", &["-F", "-E", "-d31", "core"]).stdout;
    std::fs::write(case.0.path("stream"), stream).expect("written");
    case.run("kdump-save", &["unflatten", "stream", "back"]);
    assert!(elf == std::fs::read(case.0.path("back")).expect("read"), "through a stream");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    let output = command.args(["kdump-save", "-E", "-c", "core", "x"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn memory_that_only_a_lie_of_the_headers_names_costs_nothing() {
    let case = Case::new(Kernel::new(V6_12, 4));
    case.run("kdump-save", &["-q", "-c", "-d", "31", "core", "plain"]);
    let mut bytes = std::fs::read(case.0.path("core")).expect("read");
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    let memsz = 64 + 56 * (count - 1) + 40;
    bytes[memsz..memsz + 8].copy_from_slice(&(1u64 << 50).to_le_bytes());
    std::fs::write(case.0.path("core"), bytes).expect("written");
    let out = case.run("kdump-save", &["-c", "-d", "31", "core", "dump"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("bytes of memory are named by a file of"), "{said}");
    let (dump, plain) = (Kdump::open(&case.0.path("dump")), Kdump::open(&case.0.path("plain")));
    assert!(dump.max_mapnr == plain.max_mapnr && dump.kept() == plain.kept());
}

#[test]
fn long_runs_that_are_not_the_kernels_lie_behind_its_memory() {
    let mut kernel = Kernel::new(V6_12, 4);
    // Free, with kernel memory before and behind; a huge page and a free block at the end.
    let runs = [(0x120_0000 / PAGE, 512), (RAM[1].0 / PAGE + 512, 1536)];
    kernel.set(runs[0].0, Use::Buddy(9));
    let case = Case::new(kernel);
    case.run("kdump-save", &["-q", "-E", "-d", "0", "core", "dump"]);
    let elf = Elf::open(&case.0.path("dump"));
    let offset = |pfn: u64| {
        let covers = |l: &&Load| l[1] < IMAGE && l[2] <= pfn * PAGE && pfn * PAGE < l[2] + l[3];
        let [offset, _, start, ..] = elf.loads.iter().find(covers).expect("every page is there");
        offset + pfn * PAGE - start
    };
    let (late, before): (Vec<u64>, Vec<u64>) =
        Kernel::pfns().partition(|pfn| runs.iter().any(|(start, count)| (*start..start + count).contains(pfn)));
    assert!(late.iter().all(|pfn| case.0.kernel.use_of(*pfn).droppable(31)));
    let before = before.into_iter().map(offset).max().expect("pages");
    assert!(late.into_iter().all(|pfn| offset(pfn) > before), "{:x?}", elf.loads);
}

#[test]
fn a_limit_leaves_out_what_lies_behind_it_and_that_is_not_the_kernels_image() {
    let mut kernel = Kernel::new(V6_1, 4);
    support::log::ring(&mut kernel, RingShape::default(), &[Record::new(1, "one"), Record::new(2, "last words")]);
    // Memory above the image, as on most machines; the image itself in the middle.
    let case = Case::new(kernel);
    let save = |levels: &str, limit: usize, code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        command.current_dir(case.0.dir.path()).args(["kdump-save", "-f", "-E", "-d", levels, "-L"]);
        let out = command.arg(limit.to_string()).args(["core", "dump"]).output().expect("runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{levels}, {limit}: {said}");
        said
    };
    let whole = |level: &str| {
        case.run("kdump-save", &["-f", "-q", "-E", "-d", level, "core", "whole"]);
        Elf::open(&case.0.path("whole"))
    };
    let mut found = Vec::new();
    // At level 0 the image is inside one long run of memory.
    for (level, part) in [("0", 11), ("0", 2), ("17", 4), ("17", 3), ("17", 2)] {
        let whole = whole(level);
        let limit = whole.bytes.len() / part;
        let said = save(level, limit, 9);
        assert!(said.contains("beyond the limit"), "{said}");
        let bytes = std::fs::read(case.0.path("dump")).expect("read");
        assert!(bytes.len() <= limit && bytes[48] & 1 == 1, "{} of {limit} bytes, marked", bytes.len());
        let mut there = 0;
        let page = |at: u64| bytes.get(at as usize..at as usize + PAGE as usize);
        for [offset, vaddr, phys, filesz, _] in &whole.loads {
            for within in (0..*filesz).step_by(PAGE as usize) {
                let memory = case.0.kernel.memory.page((phys + within) / PAGE);
                let data = page(offset + within);
                assert!(data.is_none_or(|data| data == memory), "{phys:#x} + {within:#x}");
                assert!(data.is_some() || *vaddr < IMAGE, "the image at {phys:#x} + {within:#x}");
                there += usize::from(data.is_some());
            }
        }
        found.push(there);
        let log = case.run("kdump-save", &["--dump-dmesg", "dump"]).stdout;
        assert!(log.ends_with(b"last words\n"), "{}", String::from_utf8_lossy(&log));
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let info = command.current_dir(case.0.dir.path()).args(["kdump-save", "info", "dump"]).output().expect("runs");
        assert!(info.status.code() == Some(9) && String::from_utf8_lossy(&info.stdout).contains("complete: no"));
    }
    assert!(found[0] < found[1] && found[2..].is_sorted() && found[2] < found[4], "{found:?}");
    let size = whole("17").bytes.len();
    assert!(save("17,31", size - 1, 0).contains("trying dump level 31"));
    assert!(Elf::open(&case.0.path("dump")).bytes.len() < size);
    assert!(save("31", 4096, 6).contains("headers alone"));
    save("17", size, 0);
}
