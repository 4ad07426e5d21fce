//! What is worth most goes first: the order of page data in dumps of a machine whose pages' uses are known.

mod support;

use kdumpbox::dump::{self, Codec, Level, Request};
use kdumpbox::vmcore::Vmcore;
use support::faults::{Memory, bytes};
use support::kdump::{Kdump, Page};
use support::kernel::*;
use support::log::{Record, RingShape};
use support::machine::PAGE;

/// Which round a page belongs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    First,
    Kernel,
    StructPages,
    Rest,
}

/// The kernel with a log, and the bytes of its vmcore.
fn crashed(generation: Generation) -> Kernel {
    let mut kernel = Kernel::new(generation, 4);
    support::log::ring(&mut kernel, RingShape::default(), &[Record::new(1, "the last words")]);
    kernel
}

/// Every page that holds a struct page.
fn struct_pages(kernel: &Kernel) -> Vec<u64> {
    let mut pages: Vec<u64> = Kernel::pfns().map(|pfn| kernel.struct_page(pfn) / PAGE).collect();
    pages.dedup();
    pages
}

fn round(kernel: &Kernel, struct_pages: &[u64], pfn: u64) -> Round {
    let (image, end) = (IMAGE_PHYS / PAGE, (IMAGE_PHYS + 0x20_0000) / PAGE);
    if (image..end).contains(&pfn) {
        Round::First
    } else if struct_pages.binary_search(&pfn).is_ok() {
        Round::StructPages
    } else if kernel.use_of(pfn).droppable(31) {
        Round::Rest
    } else {
        Round::Kernel
    }
}

fn save(kernel: &Kernel, level: u8, threads: usize) -> Kdump {
    let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
    let level = Level::new(level).expect("a level");
    let sink = Memory::default();
    let request = Request { level, codec: Codec::None, threads, ..Request::default() };
    dump::save(&core, &request, &sink, &|_| {}).expect("saved");
    sink.into_dump()
}

#[test]
fn the_kernels_memory_goes_before_struct_pages_and_those_before_what_belongs_to_users() {
    for generation in GENERATIONS {
        let kernel = crashed(generation);
        let structs = struct_pages(&kernel);
        for level in [0, 2, 8, 16, 30] {
            let dump = save(&kernel, level, 1);
            let mut by_offset: Vec<(u64, u64)> = dump.kept().iter().map(|p| (dump.descriptor(*p).0, *p)).collect();
            by_offset.sort_unstable();
            let context = format!("{generation:?}, level {level}");
            let expected = |pfn: &u64| !kernel.use_of(*pfn).droppable(level);
            assert!(dump.kept().into_iter().eq(Kernel::pfns().filter(expected)), "{context}: the same pages");
            // What the first round took along of the others is worth as much.
            let rounds: Vec<Round> = by_offset.iter().map(|(_, pfn)| round(&kernel, &structs, *pfn)).collect();
            let last_of_image = rounds.iter().rposition(|r| *r == Round::First).expect("an image");
            let behind = &rounds[last_of_image + 1..];
            let begin = behind.iter().position(|r| *r == Round::Kernel).expect("the kernel's memory");
            assert!(last_of_image + begin < 1024, "{context}: the first round is short");
            assert!(behind[begin..].is_sorted(), "{context}: {:?}", behind[begin..].chunk_by(|a, b| a == b).count());
            let rest = rounds.iter().filter(|r| **r == Round::Rest).count();
            assert!(rest > 100 || level == 30, "{context}: {rest} pages go last");
        }
    }
}

#[test]
fn half_a_dump_has_all_that_tells_of_the_crash() {
    let kernel = crashed(V6_12);
    let dump = save(&kernel, 0, 1);
    let structs = struct_pages(&kernel);
    let half = dump.bytes().len() / 2;
    let there = |pfn: u64| {
        let (offset, size, _) = dump.descriptor(pfn);
        offset as usize + size <= half
    };
    let pages: Vec<u64> = Kernel::pfns().collect();
    let of = |wanted: Round| pages.iter().filter(move |pfn| round(&kernel, &structs, **pfn) == wanted);
    assert!(of(Round::First).all(|pfn| there(*pfn)), "the kernel's image");
    let lost = pages.iter().filter(|pfn| !there(**pfn)).count();
    assert!(lost > pages.len() / 3, "{lost} of {} pages are cut off", pages.len());
    // The file itself, cut: its log can still be read.
    let mut cut = dump.bytes()[..half].to_vec();
    cut[424] |= 8;
    let core = Vmcore::from_input(Box::new(cut)).expect("a dump");
    let mut log = Vec::new();
    kdumpbox::vmcore::printk::dmesg(&core, &mut log).expect("a log");
    assert!(String::from_utf8_lossy(&log).ends_with("the last words\n"));
    assert!(core.incomplete().is_some());
}

#[test]
fn parts_and_many_workers_have_the_same_pages() {
    let kernel = crashed(V6_1);
    let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
    let request = Request { level: Level::new(1).expect("a level"), threads: 3, ..Request::default() };
    let sinks = [Memory::default(), Memory::default(), Memory::default()];
    let outputs: Vec<&dyn kdumpbox::target::Sink> = sinks.iter().map(|sink| sink as _).collect();
    let report = dump::save_parts(&core, &request, None, &outputs, &|_| {}).expect("saved");
    assert_eq!(report.kept + report.zero + report.dropped.total(), report.pages);
    let files = sinks.into_iter().map(|sink| Box::new(sink.into_bytes()) as Box<dyn kdumpbox::vmcore::Input>);
    let dump = Vmcore::from_inputs(files.collect()).expect("three parts");
    assert_eq!(dump.incomplete(), None);
    let sink = Memory::default();
    dump::save(&dump, &Request::default(), &sink, &|_| {}).expect("saved");
    let whole = sink.into_dump();
    for pfn in Kernel::pfns().filter(|pfn| !kernel.use_of(*pfn).droppable(1)) {
        assert!(whole.page(pfn) == Page::Data(kernel.memory.page(pfn)), "{pfn:#x}");
    }
}
