//! What the filter makes of kernels that are broken or new: the ladder, and the acceptance cases of filter and inputs.

mod support;

use std::process::{Command, Output};

use kdumpbox::dump::{self, Codec, Level, Report, Request, raw};
use kdumpbox::vmcore::Vmcore;
use support::faults::{Broken, Memory, bytes};
use support::filtered::{by_level, check, save};
use support::kdump::Kdump;
use support::kernel::*;
use support::machine::{Core, PAGE};

/// Where page frame `pfn` of the second piece of memory is in the file.
fn file_offset(core: &Core, pfn: u64) -> u64 {
    core.phdrs().0.last().expect("memory").offset + (pfn * PAGE - RAM[1].0)
}

fn kdump_save(dir: &tempfile::TempDir, core: &[u8], args: &[&str]) -> Output {
    let [input, output] = ["core", "dump"].map(|f| dir.path().join(f));
    std::fs::write(&input, core).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg("kdump-save").args(args).args([input, output]).output().expect("run kdump-save")
}

#[test]
fn the_last_rung_copies_a_vmcore_whose_headers_make_no_sense() {
    let mut data = bytes(&Kernel::new(V6_1, 4).core());
    // e_machine of another architecture, and a size that is no multiple of a page.
    data[18] = 183;
    data.truncate(data.len() - 1000);
    let dir = tempfile::tempdir().expect("a directory");
    let refused = kdump_save(&dir, &data, &["-d31"]);
    assert_eq!(refused.status.code(), Some(4), "an ordinary file is refused: it is there to be looked at");
    let out = kdump_save(&dir, &data, &["-d31", "--raw-on-failure"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(10), "{said}");
    assert!(said.contains("saved as it is") && said.contains("e_machine is 183"), "{said}");
    assert!(std::fs::read(dir.path().join("dump")).expect("the copy") == data, "byte for byte");
    // What holds nothing is nothing to save.
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(kdump_save(&dir, &[], &["--raw-on-failure"]).status.code(), Some(4));
    assert!(!dir.path().join("dump").exists());
}

#[test]
fn a_raw_copy_has_zeros_for_what_cannot_be_read_and_everything_else() {
    let core = Kernel::new(V6_1, 4).core();
    let data = bytes(&core);
    let at = file_offset(&core, RAM[1].0 / PAGE + 300);
    let input = Broken { data: data.clone(), unreadable: std::iter::once(at + 5..at + 6).collect(), forbidden: 0..0 };
    let sink = Memory::default();
    let copied = raw::copy(&input, &[], &sink, &|_, _| {}).expect("copied");
    assert_eq!((copied.bytes, copied.unreadable), (data.len() as u64, 1));
    let copy = sink.into_bytes();
    let (from, to) = (at as usize, (at + PAGE) as usize);
    assert!(copy[..from] == data[..from] && copy[from..to] == [0; 4096] && copy[to..] == data[to..]);
}

#[test]
fn case_13_broken_memory_is_never_read_at_any_level_nor_copied_raw() {
    for generation in [V4_19, V6_1, V7_1] {
        let kernel = Kernel::new(generation, 4);
        let core = kernel.core();
        let poisoned = RAM[1].0 / PAGE + 262;
        assert_eq!(kernel.use_of(poisoned), Use::Hwpoison);
        let at = file_offset(&core, poisoned);
        let input = || Broken { data: bytes(&core), unreadable: Vec::new(), forbidden: at..at + PAGE };
        let vmcore = Vmcore::from_input(Box::new(input())).expect("a vmcore");
        for level in [0, 1, 2, 8, 31] {
            let (dump, report) = save(&vmcore, level);
            let dropped = [report.dropped.hwpoison, report.dropped.offline];
            assert_eq!((dropped, report.degraded.as_slice()), ([1, 1], &[][..]), "level {level}");
            check(&dump, &kernel, &format!("{generation:?} level {level}"), by_level(&kernel, level));
        }
        let skip = raw::broken(&vmcore);
        assert_eq!(
            skip.iter().map(|r| (r.start(), r.end())).collect::<Vec<_>>(),
            [(at, at + PAGE), (at + PAGE, at + 2 * PAGE)]
        );
        let sink = Memory::default();
        let copied = raw::copy(vmcore.input(), &skip, &sink, &|_, _| {}).expect("copied");
        assert_eq!(copied.unreadable, 2, "the broken one and the offline one behind it");
    }
}

/// Saves with struct pages left out where they can be.
fn save_without(core: &Vmcore) -> (Kdump, Report) {
    let sink = Memory::default();
    let request = Request { level: Level::MAX, codec: Codec::Zlib, exclude_struct_pages: true, ..Request::default() };
    let report = dump::save(core, &request, &sink, &|_| {}).expect("saved");
    (sink.into_dump(), report)
}

const LACKS_STRUCT_PAGES: u32 = 0x10;

#[test]
fn struct_pages_of_nothing_but_left_out_pages_are_left_out_when_asked() {
    for generation in GENERATIONS {
        let kernel = Kernel::new(generation, 4);
        let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
        let (dump, report) = save_without(&core);
        // 64 structs in a page: of the free 0x8000-0x8100 and 0x8400-0x8800, and of the huge page 0x8200-0x8400.
        let gone = |page: u64| {
            let pfns = (0x8000..0x8800u64).filter(|pfn| kernel.struct_page(*pfn) / PAGE == page);
            let states: Vec<bool> = pfns.map(|pfn| kernel.use_of(pfn).droppable(31)).collect();
            !states.is_empty() && states.iter().all(|gone| *gone)
        };
        let context = format!("{generation:?}");
        check(&dump, &kernel, &context, |pfn| by_level(&kernel, 31)(pfn) && !gone(pfn));
        assert_eq!((report.dropped.struct_pages, dump.status), (4 + 16 + 8, 1 | LACKS_STRUCT_PAGES), "{context}");
        assert_eq!(report.pages, report.kept + report.zero + report.dropped.total(), "{context}");
        // What is left out describes what is not there: such a dump can be filtered again.
        let again = Vmcore::from_input(Box::new(dump.bytes().to_vec())).expect("a dump");
        let (dump, report) = save(&again, 31);
        assert_eq!((dump.status, report.degraded.as_slice()), (1 | LACKS_STRUCT_PAGES, &[][..]), "{context}");
        check(&dump, &kernel, &context, |pfn| by_level(&kernel, 31)(pfn) && !gone(pfn));
    }
}

#[test]
fn the_mark_for_struct_pages_follows_what_was_left_out() {
    // Nothing dropped: all in use, or a level that drops next to nothing, or no struct page to be found.
    let mut kernel = Kernel::new(V6_1, 4);
    for pfn in RAM[1].0 / PAGE..RAM[1].1 / PAGE {
        kernel.uses.remove(&pfn);
        kernel.set(pfn, Use::Kernel);
    }
    let (dump, report) = save_without(&Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore"));
    assert_eq!((report.dropped.struct_pages, dump.status), (0, 1));
    let mut kernel = Kernel::new(V6_1, 4);
    kernel.info = kernel.info.replace("SIZE(page)=64\n", "");
    let (dump, report) = save_without(&Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore"));
    assert_eq!((report.dropped.struct_pages, dump.status, report.degraded.len()), (0, 1, 1));
}

#[test]
fn a_page_of_structs_that_is_mapped_twice_stays_while_one_use_needs_it() {
    for (order, gone) in [(6, true), (7, false)] {
        let mut kernel = Kernel::new(V6_1, 4);
        // The first piece's mem_map is mapped by 4 KiB pages: two of them are one, as with a huge page's tail pages.
        kernel.set(0x1000, Use::Buddy(order));
        let frame = kernel.struct_page(0x1000);
        let mut tables = kernel.tables.clone();
        tables.map(&mut kernel.memory, kernel.place.vmemmap + 0x10c0 * 64, frame, PAGE);
        kernel.tables = tables;
        let (dump, _) = save_without(&Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore"));
        // Seen from 0x10c0 on, an order of 6 is free memory, one of 7 is not aligned.
        assert_eq!(dump.is_kept(0x10c0), !gone, "order {order}");
        assert_eq!(dump.is_kept(frame / PAGE), !gone, "order {order}");
    }
}

#[test]
fn case_13_a_broken_page_inside_a_huge_one_is_not_read_either() {
    for generation in GENERATIONS {
        let mut kernel = Kernel::new(generation, 4);
        let head = RAM[1].0 / PAGE + 272;
        assert_eq!(kernel.use_of(head + 5), Use::AnonHuge(4));
        let flags = kernel.struct_page(head + 5);
        kernel.memory.write_u64(flags, POISON);
        let core = kernel.core();
        let at = file_offset(&core, head + 5);
        let input = Broken { data: bytes(&core), unreadable: Vec::new(), forbidden: at..at + PAGE };
        let vmcore = Vmcore::from_input(Box::new(input)).expect("a vmcore");
        for level in [0, 1, 7, 31] {
            let (dump, _) = save(&vmcore, level);
            let context = format!("{generation:?} level {level}");
            check(&dump, &kernel, &context, |pfn| pfn != head + 5 && by_level(&kernel, level)(pfn));
        }
    }
}

#[test]
fn a_stored_page_at_the_zero_pages_distance_is_not_taken_for_it() {
    let kernel = Kernel::new(V6_1, 4);
    let mut core = kernel.core();
    // As many pages as fill blocks with their descriptors: page data then begins at a multiple of a page's size, and
    // pages that are stored as they are lie at such distances from the first of a write.
    let load = core.loads.last_mut().expect("memory");
    load.1 -= 254 * PAGE;
    let end = load.1 / PAGE;
    let vmcore = Vmcore::from_input(Box::new(bytes(&core))).expect("a vmcore");
    for threads in [1, 2, 3, 8] {
        let sink = Memory::default();
        let level = Level::new(1).expect("a level");
        let request = Request { level, codec: Codec::None, threads, ..Request::default() };
        let report = dump::save(&vmcore, &request, &sink, &|_| {}).expect("saved");
        assert_eq!((report.kept + report.zero) % 512, 0, "{report:?}");
        check(&sink.into_dump(), &kernel, &format!("{threads} threads"), |pfn| pfn < end && by_level(&kernel, 1)(pfn));
    }
}

#[test]
fn what_the_head_of_a_free_block_speaks_for_is_not_read() {
    for generation in GENERATIONS {
        let mut kernel = Kernel::new(generation, 4);
        let blocks = [RAM[1].0 / PAGE, RAM[1].0 / PAGE + 1024];
        kernel.uses.clear();
        blocks.into_iter().for_each(|head| kernel.set(head, Use::Buddy(10)));
        let core = kernel.core();
        // All but the first page of each block's structs, which lie in the file's first piece of memory.
        let unreadable = blocks.map(|head| {
            let at = core.phdrs().0[2].offset + kernel.struct_page(head) - RAM[0].0;
            at + PAGE..at + 1024 * 64
        });
        let input = Broken { data: bytes(&core), unreadable: unreadable.into(), forbidden: 0..0 };
        let vmcore = Vmcore::from_input(Box::new(input)).expect("a vmcore");
        let level = Level::new(16).expect("a level");
        let filtered = dump::filter::filter(&vmcore, level, false, 2);
        let context = format!("{generation:?}");
        assert_eq!(filtered.degraded, [""; 0], "{context}");
        for pfn in Kernel::pfns() {
            assert_eq!(filtered.kept.get(pfn), by_level(&kernel, 16)(pfn), "{context}: {pfn:#x}");
        }
    }
}

#[test]
fn memory_in_use_by_many_in_turn_is_counted_page_by_page() {
    let mut kernel = Kernel::new(V6_12, 4);
    let first = RAM[1].0 / PAGE;
    let turn = [Use::Cache, Use::Anon, Use::Kernel, Use::CachePrivate, Use::Buddy(0), Use::Anon, Use::Hwpoison];
    for pfn in first..RAM[1].1 / PAGE {
        kernel.uses.remove(&pfn);
        kernel.set(pfn, turn[(pfn - first) as usize % turn.len()]);
    }
    let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
    let count = |what: Use| (first..RAM[1].1 / PAGE).filter(|pfn| kernel.use_of(*pfn) == what).count() as u64;
    for threads in [1, 2, 3, 8] {
        let filtered = dump::filter::filter(&core, Level::MAX, false, threads);
        for pfn in Kernel::pfns() {
            assert_eq!(filtered.kept.get(pfn), by_level(&kernel, 31)(pfn), "{threads} threads: {pfn:#x}");
        }
        let dropped = filtered.dropped;
        let [cache, private] = [dropped.cache, dropped.cache_private];
        assert_eq!([cache, private], [count(Use::Cache), count(Use::CachePrivate)], "{threads} threads");
        let [user, free, broken] = [dropped.user, dropped.free, dropped.hwpoison];
        assert_eq!([user, free, broken], [Use::Anon, Use::Buddy(0), Use::Hwpoison].map(count), "{threads} threads");
        assert_eq!(filtered.kept.count() + dropped.total(), filtered.ram.count(), "{threads} threads");
    }
}
