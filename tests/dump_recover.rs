//! What VMCOREINFO lacks comes out of the kernel's memory: types from BTF, symbols from kallsyms, or the text itself.

mod support;

use kdumpbox::dump::{self, Codec, Level, Report, Request};
use kdumpbox::vmcore::Vmcore;
use proptest::prelude::*;
use support::faults::{Memory, bytes};
use support::kdump::{Kdump, Page};
use support::kernel::*;
use support::machine::{Core, PAGE, note};
use support::symbols::{Way, put_btf, put_kallsyms};

fn open(core: &Core) -> Vmcore {
    Vmcore::from_input(Box::new(bytes(core))).expect("a vmcore")
}

fn save(core: &Vmcore) -> (Kdump, Report) {
    let sink = Memory::default();
    let request = Request { level: Level::MAX, codec: Codec::Zlib, threads: 2, ..Request::default() };
    let report = dump::save(core, &request, &sink, &|_| {}).expect("saved");
    (sink.into_dump(), report)
}

/// Exactly the pages that level 31 keeps are kept, or all.
fn check(dump: &Kdump, kernel: &Kernel, context: &str, all: bool) {
    for pfn in Kernel::pfns() {
        let keep = all || !kernel.use_of(pfn).droppable(31);
        let expected = if keep { Page::Data(kernel.memory.page(pfn)) } else { Page::Excluded };
        assert!(dump.page(pfn) == expected, "{context}: {pfn:#x}, a page of {:?}", kernel.use_of(pfn));
    }
}

/// VMCOREINFO of the kernel without anything but what it takes to read its address space.
fn say_little(kernel: &mut Kernel) {
    const LEFT: [&str; 7] = [
        "OSRELEASE=",
        "PAGESIZE=",
        "SYMBOL(swapper_pg_dir)=",
        "SYMBOL(init_uts_ns)=",
        "SYMBOL(kallsyms_",
        "NUMBER(phys_base)=",
        "NUMBER(pgtable_l5_enabled)=",
    ];
    let stays = |l: &&str| LEFT.iter().any(|key| l.starts_with(key));
    kernel.info = kernel.info.lines().filter(stays).map(|l| format!("{l}\n")).collect();
}

/// A kernel with BTF and kallsyms that says next to nothing.
fn silent(generation: Generation, levels: u32, way: Way, tells: bool) -> Kernel {
    let mut kernel = Kernel::new(generation, levels);
    let base = kernel.alloc(8);
    kernel.put(base, &kernel.place.vmemmap.to_le_bytes());
    let types = put_btf(&mut kernel);
    let mut symbols = vec![("init_uts_ns", kernel.symbols["init_uts_ns"]), ("__start_BTF", types)];
    symbols.push(match kernel.symbols.get("mem_section") {
        Some(va) => ("mem_section", *va),
        None => ("vmemmap_base", base),
    });
    put_kallsyms(&mut kernel, way, tells, &symbols);
    say_little(&mut kernel);
    kernel
}

#[test]
fn a_kernel_that_says_next_to_nothing_is_filtered_by_its_own_types_and_symbols() {
    for (generation, levels, way, tells) in [
        (V5_10, 4, Way::Split, false),
        (V6_1, 4, Way::Split, true),
        (V6_1, 5, Way::Base, true),
        (V6_12, 4, Way::Split, true),
        (V6_12, 5, Way::Base, true),
        (V7_1, 4, Way::Place, true),
    ] {
        let kernel = silent(generation, levels, way, tells);
        let (dump, report) = save(&open(&kernel.core()));
        let context = format!("{generation:?} {levels} {way:?} {tells}: {report:?}");
        assert!(report.degraded.is_empty(), "{context}");
        assert!(report.warnings.iter().any(|w| w.contains("read out of the kernel's memory")), "{context}");
        check(&dump, &kernel, &context, false);
    }
}

#[test]
fn what_is_said_counts_more_than_what_is_found() {
    // The text has a size of its own, which is right; BTF's is wrong.
    let mut kernel = Kernel::new(V6_12, 4);
    let at = put_btf(&mut kernel);
    let wrong = support::symbols::btf(V6_12).windows(4).position(|w| w == 64u32.to_le_bytes()).expect("64") as u64;
    kernel.put(at + wrong, &72u32.to_le_bytes());
    kernel.info = kernel.info.replace("NUMBER(PG_lru)=4\n", "");
    let (dump, report) = save(&open(&kernel.core()));
    assert!(report.warnings.iter().any(|w| w.contains("VMCOREINFO lacks NUMBER(PG_lru)")), "{:?}", report.warnings);
    check(&dump, &kernel, "one key missing", false);
}

#[test]
fn without_types_anywhere_the_level_falls_with_the_key_named() {
    let mut kernel = Kernel::new(V6_12, 4);
    say_little(&mut kernel);
    let (dump, report) = save(&open(&kernel.core()));
    assert!(report.degraded.iter().any(|w| w.contains("VMCOREINFO lacks SIZE(page)")), "{:?}", report.degraded);
    check(&dump, &kernel, "no types", true);
}

#[test]
fn vmcoreinfo_without_a_note_is_found_in_memory_unless_it_is_another_kernels() {
    for (release, found) in [("", true), ("x", false)] {
        let mut kernel = Kernel::new(V6_12, 4);
        // What an earlier kernel left behind has another release.
        let text = kernel.info.replace("-synthetic\n", &format!("-synthetic{release}\n"));
        kernel.page_align();
        let at = kernel.alloc(PAGE);
        kernel.put(at, text.as_bytes());
        let mut core = kernel.core();
        core.notes = note("CORE", 1, &[0; 336]);
        let mut vmcore = open(&core);
        vmcore.search_vmcoreinfo();
        let (dump, report) = save(&vmcore);
        assert_eq!(report.degraded.is_empty(), found, "{:?}", report.degraded);
        assert_eq!(report.warnings.iter().any(|w| w.contains("its text was found in memory")), found);
        check(&dump, &kernel, "no note", !found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn tables_of_any_bytes_do_no_harm(changes in proptest::collection::vec((0u64..0x1_0000, any::<u64>()), 1..20), tells in any::<bool>()) {
        let mut kernel = silent(V5_10, 4, Way::Split, tells);
        for (at, word) in changes {
            // Everything that was put into the image, page tables excepted.
            kernel.memory.write_u64(0x20_2000 + (at & !7), word);
        }
        let mut core = open(&kernel.core());
        core.search_vmcoreinfo();
        save(&core);
    }
}
