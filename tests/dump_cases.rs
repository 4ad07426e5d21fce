//! Acceptance cases of the filter on machines that never were: corrupt, moved by KASLR, unknown, huge.

mod support;

use std::io;
use std::process::Command;

use kdumpbox::dump::{self, Codec, Level, Report, Request};
use kdumpbox::vmcore::{Input, Vmcore};
use support::faults::{Memory, bytes};
use support::filtered::{by_level, check};
use support::kdump::{Kdump, Page};
use support::kernel::*;
use support::machine::{Core, PAGE, ehdr, note};

fn save(core: &Core, level: u8) -> (Kdump, Report) {
    let core = Vmcore::from_input(Box::new(bytes(core))).expect("a vmcore");
    support::filtered::save(&core, level)
}

/// Pages of `kernel` that a dump of `level` may leave out because they are free.
fn free(kernel: &Kernel) -> u64 {
    Kernel::pfns().filter(|pfn| matches!(kernel.use_of(*pfn), Use::Buddy(_))).count() as u64
}

/// Adds a node whose one zone counts `free` pages.
fn count_free(kernel: &mut Kernel, free: u64) {
    let (table, node) = (kernel.alloc(64), kernel.alloc(2048));
    kernel.put(table + 8, &node.to_le_bytes());
    kernel.put(node + 1800, &1u32.to_le_bytes());
    kernel.put(node + 64 + 640 + 3 * 8, &free.to_le_bytes());
    kernel.symbol("node_data", table);
    kernel.info.push_str(
        "LENGTH(node_data)=8\nSIZE(zone)=1664\nOFFSET(pglist_data.node_zones)=64\nOFFSET(pglist_data.nr_zones)=1800\n\
         OFFSET(zone.vm_stat)=640\nNUMBER(NR_FREE_PAGES)=3\n",
    );
}

#[test]
fn free_pages_are_compared_with_the_kernels_own_count() {
    for (counted, alarm) in [(0, false), (500, false), (9000, true)] {
        let mut kernel = Kernel::new(V6_1, 4);
        let found = free(&kernel);
        count_free(&mut kernel, found + counted);
        let (dump, report) = save(&kernel.core(), 31);
        check(&dump, &kernel, "counted", by_level(&kernel, 31));
        let said = format!("{found} free pages were found, but the kernel counted {}", found + counted);
        let warned = report.warnings.iter().any(|w| w.starts_with(&said));
        assert_eq!((warned, report.warnings.len()), (alarm, usize::from(alarm)), "{:?}", report.warnings);
        assert!(report.degraded.is_empty(), "it is a warning: {:?}", report.degraded);
    }
}

#[test]
fn a_filter_that_finds_no_free_page_says_so() {
    // A constant that this kernel does not use: what too old a tool would look for.
    let mut kernel = Kernel::new(V6_12, 4);
    let line = "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=";
    kernel.info = kernel.info.replace(&format!("{line}4026531840"), &format!("{line}-129"));
    let (dump, report) = save(&kernel.core(), 31);
    check(&dump, &kernel, "misread", |pfn| by_level(&kernel, 31)(pfn) || matches!(kernel.use_of(pfn), Use::Buddy(_)));
    assert!(report.warnings.iter().any(|w| w.contains("no free page was found")), "{:?}", report.warnings);
    // Where the kernel itself counts none there is nothing to say.
    let mut kernel = Kernel::new(V6_12, 4);
    let buddies: Vec<u64> = kernel.uses.iter().filter(|(_, u)| matches!(u, Use::Buddy(_))).map(|(p, _)| *p).collect();
    for pfn in buddies {
        kernel.set(pfn, Use::Kernel);
    }
    count_free(&mut kernel, 0);
    let (_, report) = save(&kernel.core(), 31);
    assert_eq!(report.warnings, [""; 0]);
}

#[test]
fn pages_no_reader_can_do_without_are_put_back() {
    let mut kernel = Kernel::new(V6_1, 4);
    // The page table's root and a stopped CPU's stack in the direct map, both said to be free.
    let stack = RAM[1].0 / PAGE + 288;
    kernel.set(RAM[0].0 / PAGE + 256, Use::Buddy(0));
    kernel.set(stack, Use::Buddy(2));
    kernel.set(stack + 4, Use::Buddy(2));
    let mut registers = vec![0u8; 336];
    let sp = kernel.place.direct + stack * PAGE + 0x1234;
    registers[112 + 19 * 8..112 + 20 * 8].copy_from_slice(&sp.to_le_bytes());
    let mut core = kernel.core();
    core.notes = [note("CORE", 1, &registers), note("VMCOREINFO", 0, kernel.info.as_bytes())].concat();
    let (dump, report) = save(&core, 31);
    let pinned = |pfn: u64| pfn == RAM[0].0 / PAGE + 256 || (stack..stack + 4).contains(&pfn);
    check(&dump, &kernel, "pinned", |pfn| pinned(pfn) || by_level(&kernel, 31)(pfn));
    assert!(report.warnings.iter().any(|w| w.starts_with("5 page(s) of the kernel's own tables and stacks")));
    // They are kept, so they are not counted as left out.
    assert_eq!(report.dropped.free, free(&kernel) - 5);
    assert_eq!(report.kept + report.zero + report.dropped.total(), report.pages);
}

#[test]
fn case_03_a_file_that_ends_inside_notes_or_memory_is_salvaged() {
    let kernel = Kernel::new(V6_12, 4);
    let core = kernel.core();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("core");
    core.save(&path);
    let whole = std::fs::read(&path).expect("read");
    let (phdrs, _) = core.phdrs();
    for cut in [phdrs[1].offset + 1, phdrs[2].offset + 3 * PAGE, phdrs[3].offset, whole.len() as u64 - 1] {
        let input = Vmcore::from_input(Box::new(whole[..cut as usize].to_vec())).expect("a vmcore");
        let sink = Memory::default();
        let request = Request { level: Level::MAX, threads: 2, ..Request::default() };
        let report = dump::save(&input, &request, &sink, &|_| {}).expect("saved");
        let dump = sink.into_dump();
        assert!(report.incomplete.is_some_and(|why| why.contains("truncated")) && dump.status & 8 != 0, "{cut:#x}");
        for pfn in dump.kept() {
            let Page::Data(data) = dump.page(pfn) else { panic!("{cut:#x}: {pfn:#x}") };
            let there = data.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            assert!(data[..there] == kernel.memory.page(pfn)[..there], "{cut:#x}: {pfn:#x}");
        }
    }
}

#[test]
fn case_05_segments_that_leave_the_address_space_or_overlap_are_cut_or_left_out() {
    let kernel = Kernel::new(V6_12, 4);
    for (name, odd) in [
        ("the same twice", (RAM[1].0, RAM[1].1, kernel.place.direct + RAM[1].0)),
        ("inside another, without a virtual address", (RAM[1].0 + 0x3800, RAM[1].0 + 0x9000, 0)),
        ("beyond 52 bits", (1 << 52, (1 << 52) + PAGE, 0)),
        ("over the end of the address space", (u64::MAX - 0xfff, u64::MAX, 0)),
    ] {
        let mut core = kernel.core();
        core.loads.insert(0, odd);
        let (dump, report) = save(&core, 31);
        check(&dump, &kernel, name, by_level(&kernel, 31));
        assert_eq!((dump.max_mapnr, report.pages), (0x8800, Kernel::pfns().count() as u64), "{name}");
    }
}

#[test]
fn case_06_lines_of_vmcoreinfo_that_are_none_are_passed_over() {
    let mut kernel = Kernel::new(V6_1, 4);
    kernel.info.insert_str(0, "no value\n=no key\n\nOFFSET(page.flags\nSIZE(page)\n\u{fffd}=1\n");
    let (dump, report) = save(&kernel.core(), 31);
    assert_eq!(report.degraded, [""; 0]);
    check(&dump, &kernel, "odd lines", by_level(&kernel, 31));
}

#[test]
fn case_07_a_page_table_that_points_at_itself_or_a_root_that_is_no_kernel_address_ends_the_filter_not_the_dump() {
    for (name, change) in [
        (
            "the root points at itself",
            (|k: &mut Kernel| {
                let root = k.tables.root;
                (0..512).for_each(|slot| k.memory.write_u64(root + slot * 8, root | 0x63));
            }) as fn(&mut Kernel),
        ),
        ("the first root section is a user address", |k| {
            let roots = k.symbols["mem_section"];
            k.put(roots, &0x7fff_1234_5000u64.to_le_bytes());
        }),
        ("sections say nothing", |k| {
            let table = k.symbols["section table"];
            k.put(table, &[0xff; 64]);
        }),
    ] {
        let mut kernel = Kernel::new(V6_1, 4);
        change(&mut kernel);
        let (dump, report) = save(&kernel.core(), 31);
        assert_eq!((report.level.bits(), dump.level, dump.status & 8), (1, 1, 0), "{name} {:?}", report.degraded);
        assert!(report.degraded.iter().any(|why| why.contains("level 31 fell to 1")), "{name}: {:?}", report.degraded);
        check(&dump, &kernel, name, |_| true);
    }
}

#[test]
fn case_07_struct_pages_that_are_not_mapped_are_no_silent_success() {
    for generation in [V6_1, V6_12] {
        let mut kernel = Kernel::new(generation, 4);
        let slot = kernel.tables.root + (kernel.place.vmemmap >> 39 & 511) * 8;
        kernel.memory.write_u64(slot, 0);
        let (dump, report) = save(&kernel.core(), 31);
        assert_eq!(report.degraded.len(), 1, "{generation:?}: {:?}", report.degraded);
        check(&dump, &kernel, &format!("{generation:?}"), |_| true);
    }
}

#[test]
fn case_10_struct_pages_behind_leaves_of_every_size() {
    // A leaf of 1 GiB over both pieces' struct pages can't be had here: the direct map stands in for vmemmap's role.
    for levels in [4, 5] {
        let mut kernel = Kernel::new(V6_12, levels);
        let old = kernel.place.direct;
        let again = old + (1 << 41);
        let mut tables = kernel.tables.clone();
        tables.map(&mut kernel.memory, again, 0, 0x4000_0000);
        kernel.tables = tables;
        // The struct pages of the second piece, seen through the page of 1 GiB.
        let va = again + kernel.struct_page(0x8000) - 0x8000 * 64;
        kernel.info = kernel
            .info
            .replace(&format!("SYMBOL(vmemmap)={:x}", kernel.place.vmemmap), &format!("SYMBOL(vmemmap)={va:x}"));
        let (dump, report) = save(&kernel.core(), 31);
        let second = |pfn: u64| pfn >= RAM[1].0 / PAGE;
        for pfn in Kernel::pfns().filter(|pfn| second(*pfn)) {
            assert_eq!(
                dump.is_kept(pfn),
                by_level(&kernel, 31)(pfn),
                "{levels} levels: {pfn:#x} {:?}",
                report.degraded
            );
        }
    }
}

#[test]
fn case_12_runs_that_cross_holes_and_heads_that_are_missing_take_nothing_else_along() {
    let (start, end) = (RAM[1].0 / PAGE, RAM[1].1 / PAGE);
    for generation in [V4_19, V6_1, V6_4, V6_6, V6_12, V7_1] {
        // A buddy block that is aligned, but reaches over the end of memory; and one from the first piece to its end.
        let mut kernel = Kernel::new(generation, 4);
        kernel.set(end - 1024, Use::Buddy(10));
        kernel.set(0x1000, Use::Buddy(10));
        let (dump, report) = save(&kernel.core(), 31);
        check(&dump, &kernel, &format!("{generation:?} over the end"), by_level(&kernel, 31));
        assert_eq!(report.dropped.free, free(&kernel), "{generation:?}: what is not there is not counted");
        // Tail pages whose head is in a hole of memory.
        let mut kernel = Kernel::new(generation, 4);
        kernel.set(start + 512, Use::Hugetlb(9));
        let mut core = kernel.core();
        let hole = (start + 512) * PAGE;
        let load = core.loads.pop().expect("memory");
        core.loads.extend([(load.0, hole, load.2), (hole + PAGE, load.1, load.2 + hole + PAGE - load.0)]);
        let (dump, _) = save(&core, 31);
        for pfn in start + 513..start + 1024 {
            assert!(dump.is_kept(pfn), "{generation:?}: {pfn:#x}, a tail page, was decided by a head nobody can see");
        }
    }
}

#[test]
fn case_14_kaslr_on_and_off_with_four_and_five_levels() {
    for levels in [4, 5] {
        let fixed = Place::fixed(levels);
        for place in [
            fixed,
            Place { slide: 0x1e40_0000, ..fixed },
            Place { slide: 0x3a80_0000, direct: fixed.direct + (0x55 << 30), vmemmap: fixed.vmemmap + (0x2a << 30) },
        ] {
            for generation in [V5_10, V6_1, V6_12] {
                let kernel = Kernel::placed(generation, levels, place);
                let (dump, report) = save(&kernel.core(), 31);
                let context = format!("{generation:?} {levels} levels {place:x?}");
                assert_eq!((&report.degraded, &report.warnings), (&vec![], &vec![]), "{context}");
                check(&dump, &kernel, &context, by_level(&kernel, 31));
                // Without its number phys_base follows from the segment that maps the image.
                let mut untold = Kernel::placed(generation, levels, place);
                let line = untold.info.lines().find(|l| l.starts_with("NUMBER(phys_base)")).expect("a line").to_owned();
                untold.info = untold.info.replace(&format!("{line}\n"), "");
                check(&save(&untold.core(), 31).0, &kernel, &context, by_level(&kernel, 31));
            }
        }
    }
}

/// A machine of one terabyte in 1024 pieces, made as it is read: every page says which it is.
struct Terabyte {
    head: Vec<u8>,
}

/// Bytes of each piece, and from one to the next.
const PIECE: (u64, u64) = (64 << 10, 1 << 30);
const DATA_AT: u64 = 1 << 20;

impl Terabyte {
    fn new() -> Self {
        let mut head = ehdr(64, 1025);
        let phdr = |kind: u32, words: [u64; 5]| {
            let mut out = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
            out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            out.extend(0u64.to_le_bytes());
            out
        };
        head.extend(phdr(4, [0xf0000, 0, 0, 0, 0]));
        for i in 0..1024 {
            head.extend(phdr(1, [DATA_AT + i * PIECE.0, 0, i * PIECE.1, PIECE.0, PIECE.0]));
        }
        Self { head }
    }
}

impl Input for Terabyte {
    fn size(&self) -> u64 {
        DATA_AT + 1024 * PIECE.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        for (at, byte) in (offset..).zip(buf.iter_mut()) {
            *byte = match self.head.get(at as usize) {
                Some(byte) => *byte,
                None if at < DATA_AT => 0,
                None => ((at / PAGE) >> (8 * (at % 8))) as u8,
            };
        }
        Ok(buf.len())
    }
}

#[test]
fn case_22_a_terabyte_with_holes_costs_what_is_in_it() {
    let core = Vmcore::from_input(Box::new(Terabyte::new())).expect("a vmcore");
    assert_eq!(core.end().0, 1023 * PIECE.1 + PIECE.0);
    let sink = Memory::default();
    let request = Request { level: Level::MAX, codec: Codec::Zlib, threads: 2, ..Request::default() };
    let report = dump::save(&core, &request, &sink, &|_| {}).expect("saved");
    assert_eq!((report.pages, report.kept, report.level.bits()), (16 << 10, 16 << 10, 1));
    let dump = sink.into_dump();
    let last = 1023 * PIECE.1 / PAGE + 15;
    let expected: Vec<u8> =
        (0..PAGE).map(|i| (((DATA_AT + 1024 * PIECE.0) / PAGE - 1) >> (8 * (i % 8))) as u8).collect();
    assert_eq!((dump.max_mapnr, dump.page(last)), (last + 1, Page::Data(expected)));
    assert!(!dump.is_ram(last - 16));
}

#[test]
fn case_22_a_sparse_terabyte_fits_into_64_mib_of_memory() {
    let kernel = Kernel::new(V6_12, 4);
    let mut core = kernel.core();
    for i in 1..=64 {
        core.loads.push((i << 34, (i << 34) + (1 << 20), 0));
        core.memory.write((i << 34) + PAGE, &i.to_le_bytes());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let [input, output] = ["core", "dump"].map(|f| dir.path().join(f));
    core.save(&input);
    // Address space, not just what is touched: 64 MiB, and what a thread's stack and a debug build add.
    let out = Command::new("sh")
        .args(["-c", "ulimit -v 65536; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kdumpbox"), "kdump-save", "-d31"])
        .args(["--num-threads=1"])
        .args([&input, &output])
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    let dump = Kdump::open(&output);
    assert_eq!(dump.max_mapnr, ((64 << 34) + (1 << 20)) / PAGE);
    for i in 1..=64u64 {
        assert_eq!(dump.page((i << 22) + 1), Page::Data(core.memory.page((i << 22) + 1)), "{i}");
    }
}

#[test]
fn case_30_keys_decide_whatever_the_kernel_calls_itself() {
    for (name, from, to) in [
        ("a release of the future", "OSRELEASE=6.12.0-synthetic", "OSRELEASE=7.9.0-rc1+foo bar"),
        ("an empty release", "OSRELEASE=6.12.0-synthetic", "OSRELEASE="),
        ("no number at all", "OSRELEASE=6.12.0-synthetic", "OSRELEASE=next"),
        ("no release", "OSRELEASE=6.12.0-synthetic\n", ""),
        ("a page size that is none", "PAGESIZE=4096", "PAGESIZE=3000"),
    ] {
        let mut kernel = Kernel::new(V6_12, 4);
        assert!(kernel.info.contains(from), "{name}");
        kernel.info = kernel.info.replace(from, to);
        let (dump, report) = save(&kernel.core(), 31);
        assert_eq!((&report.degraded, &report.warnings), (&vec![], &vec![]), "{name}");
        check(&dump, &kernel, name, by_level(&kernel, 31));
    }
    // The names in memory are of another machine: they are carried over as they are.
    let mut kernel = Kernel::new(V6_12, 4);
    let names = kernel.symbols["init_uts_ns"];
    kernel.put(names + 4 * 65, b"riscv64\0");
    let (dump, report) = save(&kernel.core(), 31);
    assert!(dump.bytes()[272..].starts_with(b"riscv64\0") && report.degraded.is_empty());
    check(&dump, &kernel, "another machine", by_level(&kernel, 31));
}
