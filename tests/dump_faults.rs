//! Faults on both sides of the engine: reads that fail, writes that fail, bytes that are wrong.

mod support;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use kdumpbox::dump::{self, Codec, Format, Level, Report, Request};
use kdumpbox::error::{Error, Kind, Result};
use kdumpbox::target::Sink;
use kdumpbox::vmcore::{FileInput, Input, Vmcore, printk};
use proptest::prelude::*;
use support::faults::{Broken, Memory, bytes};
use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, RAM, Use, V6_1, V6_12};
use support::log::{Record, RingShape};
use support::machine::{Core, PAGE};

/// A sink in memory that fails from its n-th operation on; syncs count too.
#[derive(Default)]
struct Faulty {
    data: Mutex<Vec<u8>>,
    operations: AtomicU64,
    fail_from: Option<u64>,
    errno: i32,
}

impl Faulty {
    fn step(&self) -> Result<()> {
        let n = self.operations.fetch_add(1, Ordering::SeqCst);
        match self.fail_from {
            Some(from) if n >= from => {
                Err(Error::io(&io::Error::from_raw_os_error(self.errno), "write to the faulty sink"))
            }
            _ => Ok(()),
        }
    }
}

impl Sink for Faulty {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.step()?;
        let mut all = self.data.lock().expect("lock");
        let end = offset as usize + data.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.step()
    }

    fn finish(&mut self) -> Result<()> {
        self.step()
    }
}

fn request(threads: usize) -> Request {
    Request { level: Level::MAX, codec: Codec::Zlib, threads, exclude_guests: true, ..Request::default() }
}

#[test]
fn case_15_a_write_that_fails_at_any_time_leaves_a_dump_marked_incomplete() {
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    const EDQUOT: i32 = 122;
    const EFBIG: i32 = 27;
    let core = Vmcore::from_input(Box::new(bytes(&Kernel::new(V6_12, 4).core()))).expect("a vmcore");
    let clean = Faulty::default();
    dump::save(&core, &request(1), &clean, &|_| {}).expect("saved");
    let operations = clean.operations.load(Ordering::SeqCst);
    assert!(operations > 20, "{operations}");
    for n in 0..operations {
        for (errno, kind) in
            [(ENOSPC, Kind::NoSpace), (EIO, Kind::System), (EDQUOT, Kind::NoSpace), (EFBIG, Kind::NoSpace)]
        {
            let threads = if n % 2 == 0 { 1 } else { 3 };
            let sink = Faulty { fail_from: Some(n), errno, ..Faulty::default() };
            let failed = dump::save(&core, &request(threads), &sink, &|_| {}).expect_err("must fail");
            assert_eq!((failed.kind(), failed.raw_errno()), (kind, Some(errno)), "operation {n}: {failed}");
            let data = sink.data.into_inner().expect("lock");
            if n > 0 {
                assert_ne!(data[424] & 8, 0, "operation {n}: marked incomplete");
            }
        }
    }
}

#[test]
fn a_dump_cut_short_reads_as_missing_pages_never_as_wrong_ones() {
    let kernel = Kernel::new(V6_12, 4);
    let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
    let clean = Faulty::default();
    dump::save(&core, &request(1), &clean, &|_| {}).expect("saved");
    let operations = clean.operations.load(Ordering::SeqCst);
    let size = clean.data.lock().expect("lock").len();
    for n in (operations / 2..operations).step_by(3) {
        let sink = Faulty { fail_from: Some(n), errno: 28, ..Faulty::default() };
        dump::save(&core, &request(2), &sink, &|_| {}).expect_err("must fail");
        let mut data = sink.data.into_inner().expect("lock");
        data.resize(size, 0);
        let dump = Kdump::parse(data);
        for pfn in Kernel::pfns() {
            if let Page::Data(page) = dump.page(pfn) {
                assert!(page == kernel.memory.page(pfn), "operation {n}, page {pfn:#x}");
            }
        }
    }
}

#[test]
fn case_15_a_dump_cut_early_still_has_the_log_although_it_lies_at_the_end_of_memory() {
    let mut kernel = Kernel::new(V6_12, 4);
    let records: Vec<Record> = (0..12).map(|i| Record::new(i * 1_000_000, &format!("record {i}"))).collect();
    let shape = RingShape::default();
    let head = support::kernel::phys(support::log::ring(&mut kernel, shape, &records));
    // As with `log_buf_len=`, the text is not in the image but in memory of its own.
    let (size, end) = (1 << shape.size_bits, RAM[1].1 - PAGE);
    for at in (0..size).step_by(8) {
        let text = support::kernel::phys(kernel.memory.read_u64(head + 56)) + at;
        let word = kernel.memory.read_u64(text);
        kernel.memory.write_u64(end + at, word);
        kernel.memory.write_u64(text, 0);
    }
    kernel.memory.write_u64(head + 56, kernel.place.direct + end);
    let log = |data: Vec<u8>| {
        let mut out = Vec::new();
        let core = Vmcore::from_input(Box::new(data)).expect("a vmcore");
        printk::dmesg(&core, &mut out).expect("a log");
        String::from_utf8(out).expect("text")
    };
    let whole = bytes(&kernel.core());
    let sink = Faulty::default();
    let core = Vmcore::from_input(Box::new(whole.clone())).expect("a vmcore");
    let request = Request { level: Level::default(), codec: Codec::None, ..request(1) };
    let report = dump::save(&core, &request, &sink, &|_| {}).expect("saved");
    let expected = log(whole);
    assert_eq!(expected.lines().count(), 12, "{expected}");
    let mut data = sink.data.into_inner().expect("lock");
    // The image and a few pages more of 27 MiB.
    data.truncate(data.len() - (report.kept - 600) as usize * PAGE as usize);
    assert_eq!(log(data), expected);
}

/// Where page frame `pfn` of the second piece of memory is in the file.
fn file_offset(core: &Core, pfn: u64) -> u64 {
    core.phdrs().0.last().expect("memory").offset + (pfn * PAGE - RAM[1].0)
}

fn save(input: impl Input + 'static, threads: usize) -> (Kdump, Report) {
    let core = Vmcore::from_input(Box::new(input)).expect("a vmcore");
    let sink = Faulty::default();
    let report = dump::save(&core, &request(threads), &sink, &|_| {}).expect("saved");
    (Kdump::parse(sink.data.into_inner().expect("lock")), report)
}

#[test]
fn case_26_a_page_that_cannot_be_read_is_zero_and_counted_and_its_neighbours_are_whole() {
    let kernel = Kernel::new(V6_1, 4);
    let core = kernel.core();
    let bad = RAM[1].0 / PAGE + 301;
    let at = file_offset(&core, bad);
    for threads in [1, 3] {
        let input =
            Broken { data: bytes(&core), unreadable: std::iter::once(at + 7..at + 8).collect(), forbidden: 0..0 };
        let (dump, report) = save(input, threads);
        assert_eq!((report.unreadable, report.incomplete), (1, None));
        assert_eq!(dump.page(bad), Page::Data(vec![0; 4096]));
        for pfn in [bad - 1, bad + 1] {
            assert_eq!(dump.page(pfn), Page::Data(kernel.memory.page(pfn)));
        }
    }
}

#[test]
fn case_13_broken_memory_is_never_read() {
    let kernel = Kernel::new(V6_1, 4);
    let core = kernel.core();
    let poisoned = RAM[1].0 / PAGE + 262;
    assert_eq!(kernel.use_of(poisoned), Use::Hwpoison);
    let at = file_offset(&core, poisoned);
    let (dump, report) = save(Broken { data: bytes(&core), unreadable: Vec::new(), forbidden: at..at + PAGE }, 2);
    assert_eq!((dump.page(poisoned), report.dropped.hwpoison), (Page::Excluded, 1));
}

/// Whatever makes a worker panic: here a read of what nobody may ask for.
#[test]
fn case_23_a_worker_that_panics_ends_the_dump_marked_and_never_hangs() {
    let (core, data) = small();
    let kernel = Kernel::new(V6_1, 4);
    let second = RAM[1].0 / PAGE..RAM[1].1 / PAGE;
    let pfn =
        second.rev().find(|pfn| kernel.use_of(*pfn) == Use::Kernel && pfn % 16 != 0).expect("a page of the kernel");
    // An ELF core's zero pages are looked for before anything is written.
    let level = Level::new(30).expect("a level");
    for (threads, format) in [(1, Format::Kdump), (2, Format::Kdump), (7, Format::Kdump), (2, Format::Elf)] {
        let at = file_offset(core, pfn);
        let input = Broken { data: data.clone(), unreadable: Vec::new(), forbidden: at..at + PAGE };
        let core = Vmcore::from_input(Box::new(input)).expect("a vmcore");
        let sink = Memory::default();
        let saved = dump::save(&core, &Request { level, format, ..request(threads) }, &sink, &|_| {});
        let error = saved.expect_err("a page is lost").to_string();
        assert!(error.contains("a worker stopped in the middle"), "{threads}, {format:?}: {error}");
        let opened = Vmcore::from_input(Box::new(sink.into_bytes())).expect("what was written opens");
        assert!(opened.incomplete().is_some(), "{threads}, {format:?}");
    }
}

#[test]
fn case_09_struct_pages_that_cannot_be_read_keep_their_section() {
    let kernel = Kernel::new(V6_12, 4);
    let core = kernel.core();
    // One struct page of the second section, read through the file's first segment.
    let at = core.phdrs().0[2].offset + kernel.struct_page(RAM[1].0 / PAGE + 700) - RAM[0].0;
    let (dump, report) =
        save(Broken { data: bytes(&core), unreadable: std::iter::once(at..at + 1).collect(), forbidden: 0..0 }, 2);
    assert_eq!(report.degraded.len(), 1, "{:?}", report.degraded);
    assert!((RAM[1].0 / PAGE..RAM[1].1 / PAGE).all(|pfn| dump.is_kept(pfn)));
    assert_eq!(report.dropped.total(), 0, "the first section has nothing to drop");
}

#[test]
fn case_26_windows_read_the_same_bytes() {
    let kernel = Kernel::new(V6_12, 5);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("core");
    kernel.core().save(&path);
    let (read, _) = save(FileInput::open(&path).expect("opened"), 1);
    let (mapped, _) = save(FileInput::open(&path).expect("opened").with_windows(), 3);
    for pfn in Kernel::pfns() {
        assert_eq!(read.page(pfn), mapped.page(pfn), "{pfn:#x}");
    }
}

#[test]
fn case_26_pages_that_vanish_from_a_window_are_read_again_and_counted() {
    let kernel = Kernel::new(V6_12, 4);
    let core = kernel.core();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("core");
    core.save(&path);
    let gone = RAM[1].0 / PAGE + 472;
    let input = FileInput::open(&path).expect("opened").with_windows();
    // The file shrinks once its size is known: what is mapped behind its end raises SIGBUS, what is read ends early.
    let file = std::fs::File::options().write(true).open(&path).expect("open");
    file.set_len(file_offset(&core, gone)).expect("cut");
    let (dump, report) = save(input, 3);
    let lost = (gone..RAM[1].1 / PAGE).filter(|pfn| dump.is_kept(*pfn)).count() as u64;
    assert!(lost >= 40, "{lost}");
    assert_eq!((report.unreadable, report.incomplete), (lost, None));
    for pfn in Kernel::pfns().filter(|pfn| dump.is_kept(*pfn)) {
        let expected = if pfn < gone { kernel.memory.page(pfn) } else { vec![0; 4096] };
        assert!(dump.page(pfn) == Page::Data(expected), "{pfn:#x}");
    }
}

/// Opens, dumps and prints the log of whatever `data` is.
fn exercise(data: Vec<u8>) {
    let Ok(core) = Vmcore::from_input(Box::new(data)) else { return };
    let sink = Faulty { fail_from: Some(4096), errno: 28, ..Faulty::default() };
    // A lying header may promise a terabyte: bitmaps beyond this test's memory fail as a full disk would.
    if core.end().0 < 1 << 36 {
        let request = Request { codec: Codec::None, ..request(1) };
        drop(dump::save(&core, &request, &sink, &|_| {}));
    }
    let mut out = Vec::new();
    drop(printk::dmesg(&core, &mut out));
    assert!(out.len() < 64 << 20, "a log of {} bytes", out.len());
}

/// A kernel with a log: its core, and that core's bytes.
fn small() -> &'static (Core, Vec<u8>) {
    static SMALL: OnceLock<(Core, Vec<u8>)> = OnceLock::new();
    SMALL.get_or_init(make_small)
}

fn make_small() -> (Core, Vec<u8>) {
    let mut kernel = Kernel::new(V6_1, 4);
    let records: Vec<Record> = (0..12).map(|i| Record::new(i * 1_000_000, &format!("record {i}"))).collect();
    support::log::ring(&mut kernel, RingShape::default(), &records);
    let core = kernel.core();
    let data = bytes(&core);
    (core, data)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn headers_and_notes_of_any_bytes_do_no_harm(changes in proptest::collection::vec((0usize..8192, any::<u8>()), 1..12)) {
        let mut data = small().1.clone();
        for (at, byte) in changes {
            data[at] = byte;
        }
        exercise(data);
    }

    #[test]
    fn case_26_any_pages_that_cannot_be_read_cost_themselves_and_nothing_else(
        bad in proptest::collection::vec((any::<prop::sample::Index>(), 1u64..5), 1..12), threads in 1usize..4,
    ) {
        let kernel = Kernel::new(V6_1, 4);
        let core = kernel.core();
        let pfns: Vec<u64> = (RAM[1].0 / PAGE..RAM[1].1 / PAGE).collect();
        let ranges: Vec<std::ops::Range<u64>> =
            bad.iter().map(|(index, count)| { let first = *index.get(&pfns); first..first + count }).collect();
        let offsets = ranges.iter().map(|r| file_offset(&core, r.start)..file_offset(&core, r.end)).collect();
        let lost = |pfn: u64| ranges.iter().any(|range| range.contains(&pfn));
        let (dump, report) = save(Broken { data: bytes(&core), unreadable: offsets, forbidden: 0..0 }, threads);
        prop_assert_eq!(report.incomplete, None);
        for pfn in Kernel::pfns() {
            match dump.page(pfn) {
                Page::Data(page) if lost(pfn) => prop_assert!(page.iter().all(|b| *b == 0), "{:#x}", pfn),
                Page::Data(page) => prop_assert!(page == kernel.memory.page(pfn), "{:#x}", pfn),
                page => prop_assert!(kernel.use_of(pfn).droppable(31), "{:#x} is {:?}", pfn, page),
            }
        }
    }

    #[test]
    fn any_end_of_the_file_does_no_harm(cut in 0usize..0x3_0000) {
        let mut data = small().1.clone();
        data.truncate(cut);
        exercise(data);
    }

    #[test]
    fn kernel_structures_of_any_bytes_do_no_harm(changes in proptest::collection::vec((0u64..0x2_0000, any::<u64>()), 1..40)) {
        let (core, mut data) = small().clone();
        // Page tables, names, section table and ring are all in the image's first pages.
        let image = core.phdrs().0[1].offset;
        for (at, word) in changes {
            let at = (image + (at & !7)) as usize;
            data[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        exercise(data);
    }

    #[test]
    fn vmcoreinfo_of_any_numbers_does_no_harm(line in any::<prop::sample::Index>(), value in "[0-9a-f-]{0,20}") {
        let mut kernel = Kernel::new(V6_1, 4);
        support::log::ring(&mut kernel, RingShape::default(), &[Record::new(1, "text")]);
        let mut lines: Vec<String> = kernel.info.lines().map(str::to_owned).collect();
        let line = line.index(lines.len());
        let key = lines[line].split('=').next().unwrap_or_default().to_owned();
        lines[line] = format!("{key}={value}");
        kernel.info = lines.join("\n");
        exercise(bytes(&kernel.core()));
    }
}
