//! `kdump-save` on machines that never were: every acceptance case that needs no real kernel.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::kdump::{Kdump, Page};
use support::kernel::*;
use support::machine::{Core, IMAGE, PAGE};

const INCOMPLETE: u32 = 8;

/// A directory with a core in it.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(core: &Core) -> Self {
        let case = Self { dir: tempfile::tempdir().expect("a directory") };
        core.save(&case.core());
        case
    }

    fn core(&self) -> PathBuf {
        self.dir.path().join("core")
    }

    fn dump(&self) -> PathBuf {
        self.dir.path().join("dump")
    }

    fn run(&self, args: &[&str]) -> Output {
        kdump_save(args, &[&self.core(), &self.dump()])
    }

    /// Saves with `args` and expects `code`.
    fn save(&self, args: &[&str], code: i32) -> (Kdump, String) {
        let out = self.run(&[args, &["-f"]].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        (Kdump::open(&self.dump()), said)
    }
}

fn kdump_save(args: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg("kdump-save").args(args).args(files).output().expect("run kdump-save")
}

/// Every page of the dump is what memory holds, and exactly the pages of `expected` are kept.
fn check(dump: &Kdump, kernel: &Kernel, context: &str, expected: impl Fn(u64) -> bool) {
    for pfn in Kernel::pfns() {
        assert!(dump.is_ram(pfn), "{context}: {pfn:#x} is memory");
        match dump.page(pfn) {
            Page::Excluded => {
                assert!(!expected(pfn), "{context}: {pfn:#x} is missing, a page of {:?}", kernel.use_of(pfn))
            }
            Page::Missing => panic!("{context}: {pfn:#x} was not written"),
            Page::Data(data) => {
                assert!(expected(pfn), "{context}: {pfn:#x} is kept, a page of {:?}", kernel.use_of(pfn));
                assert!(data == kernel.memory.page(pfn), "{context}: {pfn:#x} has other bytes than memory");
            }
        }
    }
}

fn by_level(kernel: &Kernel, level: u8) -> impl Fn(u64) -> bool {
    move |pfn| !kernel.use_of(pfn).droppable(level)
}

#[test]
fn case_11_every_generation_and_level_keeps_what_it_must_and_drops_what_it_may() {
    for generation in GENERATIONS {
        let kernel = Kernel::new(generation, 4);
        let case = Case::new(&kernel.core());
        for level in [0u8, 1, 2, 4, 8, 16, 31] {
            let (dump, _) = case.save(&["-d", &level.to_string()], 0);
            assert_eq!((dump.status, dump.level), (0, i32::from(level)));
            check(&dump, &kernel, &format!("{generation:?} level {level}"), by_level(&kernel, level));
        }
    }
}

#[test]
fn five_levels_of_page_tables_every_codec_and_any_number_of_threads() {
    let kernel = Kernel::new(V6_12, 5);
    let case = Case::new(&kernel.core());
    for (args, status) in [(&["-c"][..], 1), (&["-z"], 0x20), (&[], 0)] {
        for threads in ["1", "2", "3", "7", "32"] {
            let (dump, _) = case.save(&[&["-d31", "--num-threads", threads], args].concat(), 0);
            assert_eq!(dump.status, status);
            check(&dump, &kernel, &format!("{args:?} {threads} threads"), by_level(&kernel, 31));
        }
    }
}

#[test]
fn the_header_holds_no_traps_for_readers() {
    let kernel = Kernel::new(V6_1, 4);
    let (dump, said) = Case::new(&kernel.core()).save(&["-d1", "-c"], 0);
    let bytes = dump.bytes();
    assert_eq!(bytes[416..424], [0; 8], "tv_usec: libkdumpfile would take it for a block size");
    assert_eq!(bytes[440..460], [[0x00, 0x88, 0, 0].as_slice(), &[0; 16]].concat(), "max_mapnr and unused fields");
    assert_eq!(bytes[460], 2, "nr_cpus");
    assert_eq!(&bytes[12..17], b"Linux");
    assert!(bytes[142..].starts_with(b"6.1.0-synthetic\0"), "release");
    let [note_at, note_len, info_at, info_len] = dump.notes().map(|n| n as usize);
    assert_eq!(bytes[note_at..note_at + note_len], kernel.core().notes);
    assert_eq!(&bytes[info_at..info_at + info_len], kernel.info.as_bytes());
    assert!(bytes[464..4096].iter().all(|b| *b == 0));
    assert!(said.contains("level 1, zlib"), "{said}");
}

#[test]
fn case_02_zero_pages_share_one_block_and_only_when_asked() {
    let kernel = Kernel::new(V6_1, 4);
    let case = Case::new(&kernel.core());
    let zeros: Vec<u64> = Kernel::pfns().filter(|p| kernel.memory.page(*p).iter().all(|b| *b == 0)).collect();
    assert!(zeros.len() > 100);
    let (dump, _) = case.save(&["-d1"], 0);
    let shared = dump.descriptor(zeros[0]);
    assert!(zeros.iter().all(|p| dump.descriptor(*p) == shared) && shared.2 == 0 && shared.1 == 4096);
    let (dump, _) = case.save(&["-d0"], 0);
    assert_ne!(dump.descriptor(zeros[0]), dump.descriptor(zeros[1]));
    check(&dump, &kernel, "level 0", by_level(&kernel, 0));
}

#[test]
fn case_08_a_corrupt_section_is_repaired_by_the_others() {
    // The first only has bit 5 set, which since 6.15 says "vmemmap made at boot" and is no corruption.
    for (entry, repaired) in
        [(0xffff_ea00_0000_0027u64, false), (0xdead_0000_0000_0003, true), (0xffff_ea00_1234_0007, true)]
    {
        let mut kernel = Kernel::new(V6_1, 4);
        let table = kernel.symbols["section table"];
        // A third section outvotes the corrupt one; its struct pages are all zero.
        let mut tables = kernel.tables.clone();
        tables.map(&mut kernel.memory, kernel.place.vmemmap + 0x1_0000 * 64, 0xc0_0000, PAGE);
        kernel.tables = tables;
        kernel.put(table + 2 * 32, &(kernel.place.vmemmap | 7).to_le_bytes());
        let mut core = kernel.core();
        core.loads.push((0x1000_0000, 0x1000_1000, 0));
        let clean = Case::new(&core).save(&["-d31"], 0).0;
        kernel.put(table + 32, &entry.to_le_bytes());
        let mut core = kernel.core();
        core.loads.push((0x1000_0000, 0x1000_1000, 0));
        let (dump, said) = Case::new(&core).save(&["-d31"], 0);
        assert_eq!(said.contains("1 corrupt entries of mem_section repaired"), repaired, "{entry:#x}: {said}");
        for pfn in Kernel::pfns() {
            assert_eq!(dump.is_kept(pfn), clean.is_kept(pfn), "{entry:#x}: {pfn:#x}");
        }
    }
}

#[test]
fn case_09_a_section_with_a_hole_in_its_struct_pages_is_kept_whole() {
    let mut kernel = Kernel::new(V6_1, 4);
    // The first piece's mem_map is mapped by 4 KiB pages: take one out, and free pages around it stay.
    kernel.set(0x1100, Use::Buddy(4));
    let va = kernel.place.vmemmap + 0x1000 * 64;
    let mut tables = kernel.tables.clone();
    tables.map(&mut kernel.memory, va, 0, PAGE);
    let slot = (0..kernel.tables.next).step_by(8).find(|at| kernel.memory.read_u64(*at) == 1 << 63 | 0x63);
    kernel.memory.write_u64(slot.expect("the entry just made"), 0);
    let (dump, said) = Case::new(&kernel.core()).save(&["-d31"], 8);
    assert!(said.contains("1 memory section(s) kept whole"), "{said}");
    assert_eq!(dump.status, 0, "degraded is not incomplete");
    check(&dump, &kernel, "hole", |pfn| pfn < RAM[1].0 / PAGE || by_level(&kernel, 31)(pfn));
}

#[test]
fn case_07_a_filter_that_cannot_work_falls_to_level_1_and_says_why() {
    type Change = fn(&mut Kernel);
    let cases: [(&str, Change); 6] = [
        ("mem_section not canonical", |k| set_symbol(k, "mem_section", 0x1234_5678_9abc_def0)),
        ("mem_section outside memory", |k| set_symbol(k, "mem_section", 0xffff_8880_4000_0000)),
        ("mem_section not mapped", |k| set_symbol(k, "mem_section", 0xffff_c900_0000_0000)),
        ("no struct page size", |k| k.info = k.info.replace("SIZE(page)=64\n", "")),
        ("members behind the struct", |k| {
            k.info = k.info.replace("OFFSET(page.private)=40", "OFFSET(page.private)=400")
        }),
        ("no VMCOREINFO", |k| k.info.clear()),
    ];
    for (name, change) in cases {
        let mut kernel = Kernel::new(V6_1, 4);
        change(&mut kernel);
        let mut core = kernel.core();
        if kernel.info.is_empty() {
            core.notes.truncate(core.notes.len() / 3);
            core.notes = support::machine::note("CORE", 1, &[0; 336]);
        }
        let (dump, said) = Case::new(&core).save(&["-d31"], 8);
        assert!(said.contains("level 31 fell to 1"), "{name}: {said}");
        assert_eq!((dump.status, dump.level), (0, 1), "{name}");
        check(&dump, &kernel, name, |_| true);
    }
}

fn set_symbol(kernel: &mut Kernel, name: &str, value: u64) {
    let (start, old) = (format!("SYMBOL({name})="), kernel.symbols[name]);
    kernel.info = kernel.info.replace(&format!("{start}{old:x}"), &format!("{start}{value:x}"));
}

#[test]
fn case_10_page_tables_that_lie_end_in_not_mapped() {
    for entry in [
        IMAGE_ROOT | 0x63,       // the root points at itself
        0x000f_ffff_ffff_f063,   // far outside memory
        0x20_0000 | 0x63 | 0x80, // a "page" where only tables may be
        0,
    ] {
        let mut kernel = Kernel::new(V6_12, 4);
        // The slot of vmemmap in the root table.
        let slot = kernel.tables.root + (kernel.place.vmemmap >> 39 & 511) * 8;
        kernel.memory.write_u64(slot, entry);
        let out = Case::new(&kernel.core()).run(&["-d31"]);
        let code = out.status.code();
        assert!(matches!(code, Some(0 | 8)), "{entry:#x}: {code:?} {}", String::from_utf8_lossy(&out.stderr));
    }
}

const IMAGE_ROOT: u64 = 0x20_0000;

#[test]
fn case_10_encrypted_memory_has_its_bit_taken_out_of_addresses() {
    for bit in [47u32, 51] {
        let mut kernel = Kernel::new(V6_1, 4);
        let mask = 1u64 << bit;
        // Every present entry of the tables gets the bit, as SME leaves them.
        for at in (IMAGE_ROOT..IMAGE_ROOT + PAGE).chain(IMAGE_ROOT + 0x10_0000..IMAGE_ROOT + 0x18_0000).step_by(8) {
            let entry = kernel.memory.read_u64(at);
            if entry & 0xfff == 0x63 || entry & 0xfff == 0xe3 {
                kernel.memory.write_u64(at, entry | mask);
            }
        }
        kernel.info.push_str(&format!("NUMBER(sme_mask)={mask}\n"));
        let (dump, _) = Case::new(&kernel.core()).save(&["-d31"], 0);
        check(&dump, &kernel, "sme", by_level(&kernel, 31));
    }
}

#[test]
fn case_12_struct_pages_that_lie_never_widen_what_is_dropped() {
    let start = RAM[1].0 / PAGE;
    let end = RAM[1].1 / PAGE;
    let cases = [
        ("buddy order 200", start + 300, Use::Raw([0, 0, 0, 200], !0x80)),
        ("buddy order not aligned", start + 301, Use::Raw([0, 0, 0, 4], !0x80)),
        ("compound order 63", start + 304, Use::Raw([HEAD | LRU, 0, 0x10, 0], u32::MAX)),
        ("tail without head", start + 310, Use::Raw([LRU, 1, 0x11, 0], u32::MAX)),
    ];
    for (name, pfn, what) in cases {
        let mut kernel = Kernel::new(V6_1, 4);
        kernel.set(pfn, what);
        if name.contains("63") {
            kernel.write_order(pfn, 63, false);
        }
        let (dump, _) = Case::new(&kernel.core()).save(&["-d31"], 0);
        // A lone head still is a page of the cache; it must not take others along.
        let alone = |p: u64| p == pfn && name.contains("compound");
        check(&dump, &kernel, name, |p| by_level(&kernel, 31)(p) && !alone(p));
    }
    let mut kernel = Kernel::new(V6_1, 4);
    kernel.set(end - 256, Use::Buddy(10));
    kernel.uses.remove(&(end - 256));
    let (dump, _) = Case::new(&kernel.core()).save(&["-d31"], 0);
    check(&dump, &kernel, "not aligned at the end", by_level(&kernel, 31));
}

#[test]
fn broken_memory_is_never_in_the_dump() {
    let kernel = Kernel::new(V6_1, 4);
    let (dump, said) = Case::new(&kernel.core()).save(&["-d2"], 0);
    let broken = RAM[1].0 / PAGE + 262;
    assert_eq!(dump.page(broken), Page::Excluded);
    assert!(said.contains("poisoned 1, offline 1"), "{said}");
}

#[test]
fn case_05_program_headers_in_any_order_overlapping_and_unaligned() {
    let kernel = Kernel::new(V6_12, 4);
    let mut core = kernel.core();
    core.loads.reverse();
    core.loads.push((0x10_0000, 0x30_0000, 0));
    core.loads.push((u64::MAX - 4095, u64::MAX, 0));
    // A fragment in front of memory: its page is kept, the rest of it zero.
    core.loads.push((0xf_f800, 0xf_fc00, 0));
    core.memory.write(0xf_f800, &[0xaa; 0x400]);
    let (dump, _) = Case::new(&core).save(&["-d31"], 0);
    check(&dump, &kernel, "disorder", by_level(&kernel, 31));
    assert_eq!(dump.page(0xff), Page::Data(core.memory.page(0xff)));
    assert_eq!(dump.max_mapnr, 0x8800);
}

#[test]
fn case_03_a_truncated_vmcore_is_saved_as_far_as_it_goes_and_marked() {
    let kernel = Kernel::new(V6_1, 4);
    let core = kernel.core();
    let case = Case::new(&core);
    let (phdrs, _) = core.phdrs();
    let second = phdrs.last().expect("memory").offset;
    let cut = second + 5 * PAGE + 100;
    std::fs::File::options().write(true).open(case.core()).expect("open").set_len(cut).expect("cut");
    let (dump, said) = case.save(&["-d31"], 9);
    assert!(said.contains("truncated"), "{said}");
    assert_ne!(dump.status & INCOMPLETE, 0);
    let first = RAM[1].0 / PAGE;
    let kept = Kernel::pfns().filter(|p| *p < first).collect::<Vec<_>>();
    assert!(kept.iter().all(|p| dump.page(*p) == Page::Data(kernel.memory.page(*p))));
    assert!(dump.max_mapnr <= first + 6);
}

#[test]
fn case_04_what_is_no_vmcore_is_refused_in_one_sentence_and_nothing_changes() {
    let core = Kernel::new(V6_1, 4).core();
    let good = {
        let case = Case::new(&core);
        std::fs::read(case.core()).expect("read")
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        data
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "it is empty"),
        ("text", b"hello, world".to_vec(), "no vmcore"),
        ("40 bytes", good[..40].to_vec(), "ends after 40 bytes"),
        ("inside the program headers", good[..100].to_vec(), "no program header"),
        ("notes only", good[..300].to_vec(), "promise"),
        ("inside the notes", good[..4200].to_vec(), "promise"),
        ("big endian", with(5, &[2]), "little-endian"),
        ("32 bits", with(4, &[1]), "ELF64"),
        ("executable", with(16, &[2]), "e_type is 2"),
        ("arm64", with(18, &[183]), "e_machine is 183"),
        ("phentsize 0", with(54, &[0, 0]), "e_phentsize is 0"),
        ("phentsize 57", with(54, &[57, 0]), "e_phentsize is 57"),
        ("phoff beyond the end", with(32, &[0xff; 8]), "e_phoff"),
        ("only the note", with(56, &[1, 0]), "no PT_LOAD"),
        ("half a dump's header", b"KDUMP   and more".to_vec(), "ends after 16 bytes"),
        ("half a flattened dump's", b"makedumpfile\0\0\0\0".to_vec(), "flattened"),
    ];
    for (name, data, said) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, data).expect("written");
        let out = kdump_save(&["-d31"], &[&input, &output]);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{name}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{name}: {text}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "{name}: nothing was made");
    }
}

#[test]
fn case_04_lying_counts_and_sizes_are_bounded_by_the_file() {
    let kernel = Kernel::new(V6_1, 4);
    let core = kernel.core();
    let case = Case::new(&core);
    let good = std::fs::read(case.core()).expect("read");
    let change = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(case.core(), data).expect("written");
    };
    // PN_XNUM without a section header; the table then is what the file has room for.
    change(56, &[0xff, 0xff]);
    let (dump, _) = case.save(&["-d31"], 0);
    check(&dump, &kernel, "PN_XNUM", by_level(&kernel, 31));
    // p_filesz and p_memsz of the last segment: 2^63.
    change(64 + 3 * 56 + 32, &[0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    let out = case.run(&["-d31", "-f"]);
    assert_eq!(out.status.code(), Some(0), "it leaves the address space, so it is left out");
    // p_filesz larger than p_memsz: the smaller counts.
    let memsz = good[64 + 3 * 56 + 40..64 + 3 * 56 + 48].to_vec();
    change(64 + 3 * 56 + 32, &[[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0].as_slice(), &memsz].concat());
    let (dump, _) = case.save(&["-d31"], 0);
    check(&dump, &kernel, "filesz > memsz", by_level(&kernel, 31));
}

#[test]
fn case_06_notes_of_every_oddity() {
    use support::machine::note;
    let kernel = Kernel::new(V6_1, 4);
    let info = note("VMCOREINFO", 0, kernel.info.as_bytes());
    let no_newline = note("VMCOREINFO", 0, kernel.info.trim_end().as_bytes());
    let crlf = note("VMCOREINFO", 0, kernel.info.replace('\n', "\r\n").as_bytes());
    let device = note("LINUX", 0x700, &vec![7; 16 << 20]);
    let mut lying = info.clone();
    lying.extend([0xff; 12]);
    let mut nameless = info.clone();
    nameless.extend([0; 64]);
    let long = note("VMCOREINFO", 0, format!("{}JUNK={}\n", kernel.info, "x".repeat(1 << 20)).as_bytes());
    let decoy = [note("VMCOREINFO", 0, b"no=thing\n"), info.clone()].concat();
    for (name, notes, code) in [
        ("plain", info, 0),
        ("no last newline", no_newline, 0),
        ("CR LF", crlf, 0),
        ("device dump of 16 MiB first", [device, kernel.core().notes].concat(), 0),
        ("namesz and descsz all ones behind", lying, 9),
        ("a note without a name ends them", nameless, 0),
        ("1 MiB of text", long, 0),
        ("two, the first without a release", decoy, 0),
        ("none", vec![], 8),
    ] {
        let mut core = kernel.core();
        core.notes = notes;
        let (dump, said) = Case::new(&core).save(&["-d31"], code);
        let kept = |pfn| code == 8 || by_level(&kernel, 31)(pfn);
        check(&dump, &kernel, &format!("{name}: {said}"), kept);
        let [at, len, ..] = dump.notes().map(|n| n as usize);
        assert_eq!(dump.bytes()[at..at + len], core.notes, "{name}: carried over whole");
    }
}

#[test]
fn the_command_line_and_the_output_are_checked_first() {
    let kernel = Kernel::new(V6_1, 4);
    let case = Case::new(&kernel.core());
    let (core, dump) = (case.core(), case.dump());
    let missing = case.dir.path().join("missing");
    let nowhere = case.dir.path().join("no/where");
    for (args, files, code, said) in [
        (&["-d", "abc"][..], vec![&core, &dump], 2, "dump level 'abc' is not a number from 0 to 31"),
        (&["-d32"], vec![&core, &dump], 2, "'32'"),
        (&["-c", "-z"], vec![&core, &dump], 2, "-c, -l, -p and -z exclude each other"),
        (&["--num-threads=x"], vec![&core, &dump], 2, "num-threads"),
        (&[], vec![], 2, "VMCORE"),
        (&[], vec![&core], 2, "DUMPFILE"),
        (&["--frobnicate"], vec![&core, &dump], 2, "frobnicate"),
        (&[], vec![&missing, &dump], 3, "No such file"),
        (&[], vec![&core, &nowhere], 3, "No such file"),
        (&[], vec![&core, &core], 5, "exists"),
    ] {
        let files: Vec<&Path> = files.iter().map(|f| f.as_path()).collect();
        let out = kdump_save(args, &files);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{args:?}: {text}");
        assert_eq!(std::fs::read_dir(case.dir.path()).expect("list").count(), 1, "{args:?}: nothing was made");
    }
}

#[test]
fn case_33_quiet_means_quiet() {
    let case = Case::new(&Kernel::new(V6_1, 4).core());
    let out = case.run(&["-q", "-d31"]);
    assert_eq!((out.status.code(), out.stderr.len(), out.stdout.len()), (Some(0), 0, 0));
}

#[test]
fn a_file_that_may_not_grow_is_a_full_target() {
    let case = Case::new(&Kernel::new(V6_12, 4).core());
    let out = Command::new("sh")
        .args(["-c", "ulimit -f 2048; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kdumpbox"), "kdump-save"])
        .args([case.core(), case.dump()])
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{said}");
    assert!(said.contains("File too large") && said.contains("dump-incomplete"), "{said}");
    assert!(!case.dump().exists());
    let left = std::fs::read(case.dir.path().join("dump-incomplete")).expect("what was written stays");
    assert_ne!(left[424] & 8, 0, "marked incomplete");
}

#[test]
fn case_22_memory_beyond_4_gib_of_offsets_and_a_bounded_budget() {
    // 64 GiB of holes in one PT_LOAD, no struct pages: the file is sparse, and so is the dump's bitmap.
    let kernel = Kernel::new(V6_12, 4);
    let mut core = kernel.core();
    core.loads.push((1 << 40, (1 << 40) + (1 << 20), 0));
    core.memory.write((1 << 40) + PAGE, b"far away");
    let case = Case::new(&core);
    let script = "ulimit -v 300000; exec \"$@\"";
    let out = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_kdumpbox"), "kdump-save", "-d31", "--num-threads=2"])
        .args([case.core(), case.dump()])
        .output()
        .expect("run");
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let dump = Kdump::open(&case.dump());
    assert_eq!(dump.max_mapnr, (1 << 28) + 256);
    assert_eq!(dump.page((1 << 28) + 1), Page::Data(core.memory.page((1 << 28) + 1)));
    check(&dump, &kernel, "far away", by_level(&kernel, 31));
}

#[test]
fn the_rigs_header_and_payload_are_a_vmcore_at_physical_addresses() {
    let kernel = Kernel::new(V6_1, 4);
    let (header, payload) = kernel.core().rig(0x1800_0000, 0x10_0000, 0x10_0000);
    assert_eq!((header.len() as u64, payload.len()), (PAGE + kernel.core().notes.len() as u64, 0x10_0000));
    assert_eq!(header[64 + 8..64 + 16], 0x1800_1000u64.to_le_bytes(), "p_offset of the notes is a physical address");
    assert!(IMAGE > 0 && payload[PAGE as usize..2 * PAGE as usize] == kernel.memory.page(0x101));
}
