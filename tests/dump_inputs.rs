//! What a vmcore may come in: saved dumps of every version and codec, split ones, flattened ones, ELF cores of every
//! oddity. Whatever it came in, the same pages are kept and every one is what memory held.

mod support;

use std::collections::BTreeMap;

use kdumpbox::dump::{self, Codec, Level, Report, Request};
use kdumpbox::error::Result;
use kdumpbox::mem::bitmap::Bitmap;
use kdumpbox::vmcore::{Input, Vmcore, printk};
use proptest::prelude::*;
use support::faults::{Memory, bytes};
use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, RAM, V4_19, V6_1, V6_12};
use support::log::{Record, RingShape};
use support::machine::PAGE;
use support::saved::{INCOMPLETE, LZO, SNAPPY, Saved, ZLIB, ZSTD, flatten};

fn open(files: Vec<Vec<u8>>) -> Result<Vmcore> {
    Vmcore::from_inputs(files.into_iter().map(|f| Box::new(f) as Box<dyn Input>).collect())
}

fn save(core: &Vmcore, level: u8) -> (Kdump, Report) {
    let level = Level::new(level).expect("a level");
    let request = Request { level, codec: Codec::Zlib, threads: 2, ..Request::default() };
    let sink = Memory::default();
    let report = dump::save(core, &request, &sink, &|_| {}).expect("saved");
    (sink.into_dump(), report)
}

/// A dump of `kernel` that keeps what `level` does not drop.
fn saved(kernel: &Kernel, level: u8) -> Saved {
    let pages = Kernel::pfns().filter(|pfn| !kernel.use_of(*pfn).droppable(level));
    Saved {
        version: 6,
        codec: ZLIB,
        level: u32::from(level),
        max_mapnr: 0x8800,
        ram: RAM.iter().map(|(start, end)| start / PAGE..end / PAGE).collect(),
        pages: pages.map(|pfn| (pfn, Some(kernel.memory.page(pfn)))).collect(),
        notes: kernel.core().notes,
        ..Saved::default()
    }
}

/// Every page is what memory holds, and exactly those of `expected` are kept.
fn check(dump: &Kdump, kernel: &Kernel, context: &str, expected: impl Fn(u64) -> bool) {
    for pfn in Kernel::pfns() {
        assert!(dump.is_ram(pfn), "{context}: {pfn:#x} is memory");
        match dump.page(pfn) {
            Page::Data(data) => {
                assert!(expected(pfn), "{context}: {pfn:#x} is kept, a page of {:?}", kernel.use_of(pfn));
                assert!(data == kernel.memory.page(pfn), "{context}: {pfn:#x} has other bytes than memory");
            }
            other => {
                assert!(!expected(pfn), "{context}: {pfn:#x} is {other:?}, a page of {:?}", kernel.use_of(pfn))
            }
        }
    }
}

fn by_level(kernel: &Kernel, level: u8) -> impl Fn(u64) -> bool {
    move |pfn| !kernel.use_of(pfn).droppable(level)
}

#[test]
fn every_codec_is_read_and_filtered_again() {
    let kernel = Kernel::new(V6_12, 4);
    for codec in [0, ZLIB, LZO, SNAPPY, ZSTD] {
        let core = open(vec![Saved { codec, ..saved(&kernel, 0) }.write()]).expect("a dump");
        for level in [0, 31] {
            let (dump, report) = save(&core, level);
            assert_eq!((report.incomplete, report.unreadable, &report.degraded), (None, 0, &vec![]), "{codec:#x}");
            check(&dump, &kernel, &format!("codec {codec:#x}, level {level}"), by_level(&kernel, level));
        }
        let names = ["none", "zlib", "lzo", "snappy", "zstd"];
        let at = [0, ZLIB, LZO, SNAPPY, ZSTD].iter().position(|c| *c == codec).expect("it is one");
        assert_eq!(core.dump().map(|d| d.header.codec()), Some(names[at]));
    }
}

#[test]
fn every_version_of_the_header_is_read_as_far_as_it_goes() {
    let kernel = Kernel::new(V6_1, 4);
    for version in 1..=6 {
        let info = if version == 3 { kernel.info.clone().into_bytes() } else { vec![] };
        let file = Saved { version, info, ..saved(&kernel, 0) };
        let core = open(vec![file.write()]).expect("a dump");
        let header = &core.dump().expect("a dump").header;
        assert_eq!((header.version, header.max_mapnr, header.time), (version as i32, 0x8800, 1_700_000_000));
        assert!(header.names.release.starts_with(b"6.1.0-saved\0"));
        assert_eq!(core.notes().cpus, if version < 4 { 3 } else { 2 }, "from the header where there are no notes");
        let (dump, report) = save(&core, 31);
        // Without VMCOREINFO nothing can be classified.
        assert_eq!(report.degraded.is_empty(), version >= 3, "version {version}: {:?}", report.degraded);
        let level = if version >= 3 { 31 } else { 1 };
        check(&dump, &kernel, &format!("version {version}"), by_level(&kernel, level));
        let [at, len, ..] = dump.notes().map(|n| n as usize);
        let carried = &dump.bytes()[at..at + len];
        match version {
            4.. => assert_eq!(carried, file.notes),
            3 => assert_eq!(carried, support::machine::note("VMCOREINFO", 0, kernel.info.as_bytes())),
            _ => assert!(carried.is_empty()),
        }
    }
}

#[test]
fn levels_add_up_and_what_was_left_out_stays_out() {
    let kernel = Kernel::new(V6_12, 4);
    for (first, second) in [(8, 16), (16, 8), (31, 31), (31, 0), (1, 31), (2, 4)] {
        let core = open(vec![saved(&kernel, first).write()]).expect("a dump");
        assert_eq!(core.filtered_by(), first);
        let (dump, report) = save(&core, second);
        let context = format!("{first} then {second}");
        assert_eq!((dump.level, report.level.bits()), (i32::from(first | second), first | second), "{context}");
        let (early, late) = (by_level(&kernel, first), by_level(&kernel, second));
        check(&dump, &kernel, &context, |pfn| early(pfn) && late(pfn));
        let gone = Kernel::pfns().filter(|pfn| !early(*pfn)).count() as u64;
        assert_eq!(report.dropped.earlier, gone, "{context}");
        assert_eq!(report.pages, report.kept + report.zero + report.dropped.total(), "{context}");
        assert_eq!((report.degraded.as_slice(), report.incomplete), (&[][..], None), "{context}");
    }
}

#[test]
fn pages_that_were_never_written_are_missing_and_the_result_says_so() {
    let kernel = Kernel::new(V6_12, 4);
    let mut file = saved(&kernel, 0);
    let gone = RAM[1].0 / PAGE + 300;
    file.pages.insert(gone, None);
    let core = open(vec![file.write()]).expect("a dump");
    assert_eq!(core.dump().map(|d| d.missing()), Some(1));
    let (dump, report) = save(&core, 31);
    let reason = report.incomplete.expect("not whole");
    assert!(reason.contains("lacks 1 page"), "{reason}");
    assert_ne!(dump.status & INCOMPLETE, 0);
    check(&dump, &kernel, "one missing", |pfn| pfn != gone && by_level(&kernel, 31)(pfn));
    // A mark alone is carried too, and so is an end that came early.
    let marked = open(vec![Saved { status: INCOMPLETE, ..saved(&kernel, 0) }.write()]).expect("a dump");
    assert!(save(&marked, 1).1.incomplete.is_some_and(|r| r.contains("marked incomplete")));
    let whole = saved(&kernel, 0).write();
    for cut in [whole.len() - 1, whole.len() - 100_000, whole.len() / 2, 0x1_0000] {
        let core = open(vec![whole[..cut].to_vec()]).expect("a dump");
        let (dump, report) = save(&core, 31);
        let missing = core.dump().map_or(0, |d| d.missing());
        assert!(missing > 0 && report.incomplete.is_some(), "cut at {cut:#x}");
        let present = core.dump().map(|d| d.present()).expect("a dump");
        let broken = !report.degraded.is_empty();
        for pfn in Kernel::pfns() {
            let expected = present.get(pfn) && (broken || by_level(&kernel, 31)(pfn));
            assert!(!expected || dump.page(pfn) == Page::Data(kernel.memory.page(pfn)), "cut at {cut:#x}: {pfn:#x}");
        }
    }
}

#[test]
fn a_page_that_does_not_unpack_is_zero_and_counted() {
    let kernel = Kernel::new(V6_12, 4);
    for codec in [ZLIB, LZO, SNAPPY, ZSTD] {
        let file = Saved { codec, ..saved(&kernel, 0) }.write();
        let reader = Kdump::parse(Saved { codec: 0, ..saved(&kernel, 0) }.write());
        let bad = RAM[1].0 / PAGE + 301;
        let index = reader.kept().iter().position(|pfn| *pfn == bad).expect("kept");
        let descriptors = 4096 * (2 + 2 * 2) + index * 24;
        let descriptors = descriptors + 4096 * (kernel.core().notes.len() + 104 > 4096) as usize;
        let offset = u64::from_le_bytes(file[descriptors..descriptors + 8].try_into().expect("8 bytes")) as usize;
        let mut file = file;
        file[offset..offset + 3].fill(0xff);
        let core = open(vec![file]).expect("a dump");
        let (dump, report) = save(&core, 31);
        assert_eq!((report.unreadable, dump.page(bad)), (1, Page::Data(vec![0; 4096])), "codec {codec:#x}");
        for pfn in Kernel::pfns().filter(|pfn| *pfn != bad && by_level(&kernel, 31)(*pfn)) {
            assert_eq!(dump.page(pfn), Page::Data(kernel.memory.page(pfn)), "codec {codec:#x}: {pfn:#x}");
        }
    }
}

/// `file` as parts with these borders.
fn split(file: &Saved, borders: &[u64]) -> Vec<Vec<u8>> {
    let part = |w: &[u64]| Saved { part: Some(w[0]..w[1]), ..file.clone() }.write();
    borders.windows(2).map(part).collect()
}

#[test]
fn the_parts_of_a_split_dump_are_one() {
    let kernel = Kernel::new(V6_1, 4);
    let file = saved(&kernel, 8);
    for (version, borders) in [
        (6, vec![0, 0x8800]),
        (6, vec![0, 0x500, 0x8800]),
        (5, vec![0, 0x500, 0x8100, 0x8101, 0x8800]),
        (2, vec![0, 0x8100, 0x8800]),
    ] {
        let mut parts = split(&Saved { version, ..file.clone() }, &borders);
        parts.reverse();
        let core = open(parts).expect("parts");
        let (dump, report) = save(&core, if version >= 4 { 16 } else { 1 });
        assert_eq!(report.incomplete, None, "{borders:x?}");
        check(&dump, &kernel, &format!("{borders:x?}"), by_level(&kernel, if version >= 4 { 24 } else { 8 }));
    }
}

#[test]
fn sets_that_are_none_are_refused_or_have_gaps() {
    let kernel = Kernel::new(V6_1, 4);
    let file = saved(&kernel, 0);
    let parts = split(&file, &[0, 0x500, 0x8100, 0x8800]);
    let refused = |files: Vec<Vec<u8>>, said: &str| {
        let text = open(files).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains(said), "{text}");
    };
    refused(vec![parts[0].clone(), file.write()], "is a whole dump");
    refused(vec![parts[0].clone(), parts[0].clone()], "in more than one");
    let other = split(&Saved { max_mapnr: 0x9000, ..file.clone() }, &[0x500, 0x9000]);
    refused(vec![parts[0].clone(), other[0].clone()], "different dumps");
    refused(vec![parts[0].clone(), b"\x7fELF".to_vec()], "no parts of a split dump");
    refused(vec![parts[0].clone(), parts[1][..300].to_vec()], "file 2 of the set");
    // A part that is not there is a gap.
    for given in [vec![1], vec![0, 2], vec![2]] {
        let core = open(given.iter().map(|i| parts[*i].clone()).collect()).expect("parts");
        let reason = save(&core, 1).1.incomplete.expect("not whole");
        assert!(reason.contains("part of the split dump"), "{given:?}: {reason}");
        let (dump, _) = save(&core, 1);
        let borders = [0u64, 0x500, 0x8100, 0x8800];
        check(&dump, &kernel, &format!("{given:?}"), |pfn| {
            given.iter().any(|i| (borders[*i]..borders[i + 1]).contains(&pfn)) && by_level(&kernel, 0)(pfn)
        });
    }
}

#[test]
fn flattened_streams_are_read_as_what_they_stand_for() {
    let kernel = Kernel::new(V6_12, 4);
    for (name, file) in [("ELF", bytes(&kernel.core())), ("kdump", saved(&kernel, 0).write())] {
        for size in [4096, 100_000, 1 << 20] {
            let core = open(vec![flatten(&file, size)]).expect("a stream");
            let (dump, report) = save(&core, 31);
            assert_eq!(report.incomplete, None, "{name}");
            check(&dump, &kernel, &format!("{name} of {size}"), by_level(&kernel, 31));
        }
    }
    let parts = split(&saved(&kernel, 0), &[0, 0x8100, 0x8800]);
    let core = open(parts.iter().map(|p| flatten(p, 65536)).collect()).expect("streams");
    check(&save(&core, 31).0, &kernel, "flattened parts", by_level(&kernel, 31));
}

#[test]
fn a_flattened_stream_that_was_cut_is_incomplete() {
    let kernel = Kernel::new(V6_12, 4);
    // A writer that goes forward, its header first.
    let file = bytes(&kernel.core());
    let mut stream = flatten(&[], 1);
    stream.truncate(4096);
    for (i, part) in file.chunks(65536).enumerate() {
        stream.extend([(i as u64 * 65536).to_be_bytes(), (part.len() as u64).to_be_bytes()].concat());
        stream.extend(part);
    }
    let cut = stream.len() - 5_000_000;
    stream.truncate(cut);
    let core = open(vec![stream]).expect("a stream");
    let (dump, report) = save(&core, 1);
    assert!(report.incomplete.is_some_and(|r| r.contains("inside the record")));
    assert!(Kernel::pfns().take(0x1000).all(|pfn| dump.page(pfn) == Page::Data(kernel.memory.page(pfn))));
}

#[test]
fn phys_base_of_a_kernel_that_does_not_say_comes_from_the_header() {
    let mut kernel = Kernel::new(V4_19, 4);
    let line = kernel.info.lines().find(|l| l.starts_with("NUMBER(phys_base)")).expect("a line").to_owned();
    let value: i64 = line.split('=').nth(1).and_then(|v| v.parse().ok()).expect("a number");
    kernel.info = kernel.info.replace(&format!("{line}\n"), "");
    let file = Saved { phys_base: value as u64, ..saved(&kernel, 0) };
    let core = open(vec![file.write()]).expect("a dump");
    assert_eq!(core.phys_base(), Some(value as u64));
    check(&save(&core, 31).0, &kernel, "phys_base", by_level(&kernel, 31));
}

#[test]
fn headers_that_lie_are_refused_in_one_sentence() {
    let kernel = Kernel::new(V6_1, 4);
    let good = saved(&kernel, 0).write();
    let with = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        data
    };
    for (name, data, said) in [
        ("inside the header", good[..300].to_vec(), "after 300 bytes"),
        ("inside the bitmaps", good[..4096 * 4].to_vec(), "inside its bitmaps"),
        ("version 0", with(8, &[0, 0, 0, 0]), "header_version is 0"),
        ("version -1", with(8, &[0xff; 4]), "header_version is -1"),
        ("block size 3000", with(428, &3000u32.to_le_bytes()), "block_size is 3000"),
        ("block size 65536", with(428, &65536u32.to_le_bytes()), "block_size is 65536"),
        ("sub header of 2^32 blocks", with(432, &[0xff; 4]), "inside its bitmaps"),
        ("bitmaps of 2^32 blocks", with(436, &[0xff; 4]), "inside its bitmaps"),
        ("no bitmap", with(436, &[0; 4]), "max_mapnr"),
        ("max_mapnr 2^63", with(4096 + 96, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "max_mapnr"),
        ("max_mapnr 0", with(4096 + 96, &[0; 8]), "max_mapnr is 0x0"),
    ] {
        let text = open(vec![data]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains(said) && text.lines().count() == 1, "{name}: {text}");
    }
}

#[test]
fn the_log_is_read_from_a_dump_as_from_memory() {
    let mut kernel = Kernel::new(V6_12, 4);
    let records: Vec<Record> = (0..9).map(|i| Record::new(i * 1_000_000, &format!("record {i}"))).collect();
    support::log::ring(&mut kernel, RingShape::default(), &records);
    let text = |file: Vec<u8>| {
        let mut out = Vec::new();
        printk::dmesg(&open(vec![file]).expect("a vmcore"), &mut out).expect("a log");
        String::from_utf8(out).expect("text")
    };
    let plain = text(bytes(&kernel.core()));
    assert_eq!(plain.lines().count(), 9);
    assert_eq!(text(saved(&kernel, 31).write()), plain);
    assert_eq!(text(flatten(&saved(&kernel, 31).write(), 4096)), plain);
}

fn exercise(file: Vec<u8>) {
    let Ok(core) = open(vec![file]) else { return };
    if core.end().0 < 1 << 36 {
        save(&core, 31);
    }
    let mut out = Vec::new();
    drop(printk::dmesg(&core, &mut out));
}

fn small(codec: u32) -> Vec<u8> {
    let kernel = Kernel::new(V6_1, 4);
    let mut file = Saved { codec, ..saved(&kernel, 0) };
    // The image and a little more: what is absent costs nothing.
    file.pages = file.pages.into_iter().filter(|(pfn, _)| *pfn < 0x400).collect::<BTreeMap<_, _>>();
    file.write()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn dumps_of_any_bytes_do_no_harm(codec in 0usize..5, changes in proptest::collection::vec((0usize..0x9000, any::<u8>()), 1..20), cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let mut file = small([0, ZLIB, LZO, SNAPPY, ZSTD][codec]);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if !whole {
            file.truncate(cut.index(file.len()));
        }
        exercise(file);
    }

    #[test]
    fn streams_of_any_bytes_do_no_harm(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut stream = flatten(&small(ZLIB), 65536);
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        exercise(stream);
    }
}

#[test]
fn what_info_is_told_of_a_dump() {
    let kernel = Kernel::new(V6_12, 4);
    let core = open(vec![saved(&kernel, 31).write()]).expect("a dump");
    let dump = core.dump().expect("a dump");
    let kept = Kernel::pfns().filter(|pfn| by_level(&kernel, 31)(*pfn)).count() as u64;
    let counts = [dump.ram(), dump.described(), dump.present()].map(Bitmap::count);
    assert_eq!(counts, [Kernel::pfns().count() as u64, kept, kept]);
    assert!(!dump.header.incomplete() && !dump.header.lacks_struct_pages());
    assert_eq!((dump.header.level, dump.header.split, dump.gaps().len()), (31, false, 0));
}
