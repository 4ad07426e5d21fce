//! makedumpfile's options on machines that never were: what it tells without a dump, and whose words it takes.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::kdump::Kdump;
use support::kernel::*;
use support::machine::{Core, note};
use support::room::Case;
use support::symbols::btf;

fn makedumpfile(args: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg("makedumpfile").args(args).args(files).output().expect("run makedumpfile")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a run that ends with `code`.
fn said(args: &[&str], files: &[&Path], code: i32) -> String {
    let out = makedumpfile(args, files);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

impl Case {
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).expect("written");
        self.path(name)
    }
}

/// A kernel's file with its symbols, its banner and its types.
fn vmlinux(kernel: &Kernel, release: &str, with: &[&str]) -> Vec<u8> {
    let mut banner = format!("Linux version {release} (somebody) #1 SMP\n\0").into_bytes();
    // A kernel's .rodata goes on behind it.
    banner.resize(4096, 0);
    let at = 0xffff_ffff_8300_0000u64;
    let mut symbols: Vec<(&str, u64)> = kernel.symbols.iter().map(|(name, va)| (name.as_str(), *va)).collect();
    symbols.push(("linux_banner", at));
    let (mut names, mut table) = (vec![0u8], vec![0u8; 24]);
    for (name, va) in symbols {
        table.extend((names.len() as u32).to_le_bytes());
        // Global data, in section 1, its address, no size.
        table.extend([0x11, 0, 1, 0]);
        table.extend(va.to_le_bytes());
        table.extend([0; 8]);
        names.extend(name.as_bytes());
        names.push(0);
    }
    let sections = [
        (".rodata", 1u32, at, banner),
        (".symtab", 2, 0, table),
        (".strtab", 3, 0, names),
        (".BTF", 1, 0, btf(kernel.generation)),
    ];
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(64, 0);
    let (mut headers, mut strings) = (vec![0u8; 64], vec![0u8]);
    let mut header =
        |out: &mut Vec<u8>, strings: &mut Vec<u8>, name: &str, kind: u32, va: u64, bytes: Option<&[u8]>| {
            headers.extend((strings.len() as u32).to_le_bytes());
            headers.extend(kind.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
            let bytes = bytes.unwrap_or(strings).to_vec();
            headers.extend([[0u8; 8], va.to_le_bytes(), out.len().to_le_bytes(), bytes.len().to_le_bytes()].concat());
            headers.extend([0; 24]);
            out.extend(bytes);
        };
    let wanted = |name: &str| with.is_empty() || with.contains(&name);
    for (name, kind, va, bytes) in sections.iter().filter(|(name, ..)| wanted(name)) {
        header(&mut out, &mut strings, name, *kind, *va, Some(bytes));
    }
    header(&mut out, &mut strings, ".shstrtab", 3, 0, None);
    let count = headers.len() / 64;
    let at = out.len() as u64;
    out.extend(headers);
    out[40..48].copy_from_slice(&at.to_le_bytes());
    for (field, value) in [(16, 2), (18, 62), (52, 64), (58, 64), (60, count as u16), (62, count as u16 - 1)] {
        out[field..field + 2].copy_from_slice(&value.to_le_bytes());
    }
    out
}

const RELEASE: &str = "6.1.0-synthetic";

/// The core without what the kernel says of itself.
fn silent(kernel: &Kernel) -> Core {
    let mut core = kernel.core();
    core.notes = note("CORE", 1, &[0; 336]);
    core
}

fn same(dump: &Path, kernel: &Kernel, context: &str) {
    let dump = Kdump::open(dump);
    for pfn in Kernel::pfns() {
        let keep = !kernel.use_of(pfn).droppable(31);
        assert_eq!(dump.is_kept(pfn), keep, "{context}: {pfn:#x}, a page of {:?}", kernel.use_of(pfn));
    }
}

#[test]
fn mem_usage_counts_the_pages_of_each_class() {
    let kernel = Kernel::new(V6_12, 4);
    let case = Case::new(&kernel.core());
    let said = said(&["--mem-usage"], &[&case.path("core")], 0);
    let row = |name: &str| -> u64 {
        let line = said.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let count = |wanted: &dyn Fn(Use) -> bool| Kernel::pfns().filter(|pfn| wanted(kernel.use_of(*pfn))).count() as u64;
    assert_eq!(row("FREE"), count(&|u| matches!(u, Use::Buddy(_))));
    assert_eq!(row("USER"), count(&|u| matches!(u, Use::Anon | Use::AnonHuge(_) | Use::Hugetlb(_))));
    assert_eq!(row("NON_PRI_CACHE"), count(&|u| matches!(u, Use::Cache | Use::SwapCache)));
    assert_eq!(row("PRI_CACHE"), count(&|u| u == Use::CachePrivate));
    let kept: Vec<u64> = Kernel::pfns().filter(|pfn| !kernel.use_of(*pfn).droppable(31)).collect();
    let zero = kept.iter().filter(|pfn| kernel.memory.page(**pfn).iter().all(|b| *b == 0)).count() as u64;
    assert_eq!((row("ZERO"), row("KERN_DATA")), (zero, kept.len() as u64 - zero));
    let total = Kernel::pfns().count();
    assert!(said.contains(&format!("Total pages on system:\t{total} ")), "{said}");
    assert!(said.contains(&format!("Total size on system:\t{} ", total * 4096)), "{said}");
    assert!(!said.contains("Completed"), "as upstream's, it ends without a word");
    let broken = Case::new(&silent(&kernel));
    let out = makedumpfile(&["--mem-usage"], &[&broken.path("core")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("the pages can't be told apart"), "{}", text(&out.stderr));
}

#[test]
fn vtop_shows_the_way_and_where_it_leads() {
    for levels in [4, 5] {
        let kernel = Kernel::new(V6_12, levels);
        let case = Case::new(&kernel.core());
        let vtop = |va: u64| {
            let args = ["--dry-run", "-d1", "--message-level", "6", &format!("--vtop={va:#x}")];
            let said = said(&args, &[&case.path("core"), &case.path("dump")], 0);
            assert!(said.contains(&format!("\nTranslating virtual address {va:x} to physical address.\n")), "{said}");
            let line = said.lines().skip_while(|l| *l != "VIRTUAL           PHYSICAL").nth(1).expect("an answer");
            let (virt, phys) = line.trim().split_once("  ").expect("two columns");
            assert_eq!(virt, format!("{va:x}"));
            (said.lines().filter(|l| l.contains(" => ")).count() as u32, phys.to_owned())
        };
        let prb = kernel.symbols["swapper_pg_dir"];
        let (entries, at) = vtop(prb + 0x18);
        assert_eq!(at, format!("{:x}", phys(prb) + 0x18));
        assert!((levels - 2..=levels).contains(&entries), "{entries} of {levels} levels");
        let (entries, at) = vtop(kernel.place.vmemmap + 0x1000 * 64);
        assert!(at != "ffffffffffffffff" && entries > 1, "{at}");
        for nowhere in [0x1234, 0xffff_ffff_ffff_f000, 0x1234_5678_9abc_def0] {
            assert_eq!(vtop(nowhere).1, "ffffffffffffffff", "{nowhere:#x} at {levels} levels");
        }
        assert!(!case.path("dump").exists(), "a dry run");
    }
}

#[test]
fn check_params_looks_at_the_command_line_only() {
    for (args, code) in [
        (&["-c", "-d31", "/none", "/where"][..], 0),
        (&["-l", "-d", "31,17,1", "-L", "4G", "/none", "/where"], 0),
        (&["--dump-dmesg", "/none", "/where"], 0),
        (&["--mem-usage", "/none"], 0),
        (&["-g", "/none", "-x", "/where"], 0),
        (&["-F", "-z", "/none"], 0),
        (&["-d32", "/none", "/where"], 1),
        (&["-E", "-c", "/none", "/where"], 1),
        (&["-d31", "/none"], 1),
        (&["-g", "/none"], 1),
        (&["-g", "/none", "-x", "/where", "-d31"], 1),
        (&["--split", "/none", "/where"], 1),
        (&["--partial-dmesg", "/none", "/where"], 1),
        (&["--dry-run", "--dump-dmesg", "/none", "/where"], 1),
        (&["--config", "/none", "-x", "/none", "/none", "/where"], 1),
        (&["--frobnicate"], 1),
        (&[], 1),
    ] {
        let out = makedumpfile(&[&["--check-params"], args].concat(), &[]);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", text(&out.stderr));
        assert_eq!(text(&out.stdout).contains("Commandline parameter is invalid.\n"), code == 1, "{args:?}");
        assert_eq!(text(&out.stderr).lines().count(), usize::from(code == 1), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn what_is_not_carried_over_says_why_and_what_has_no_effect_is_taken() {
    let kernel = Kernel::new(V6_12, 4);
    let case = Case::new(&kernel.core());
    let (core, dump) = (case.path("core"), case.path("dump"));
    for (args, why) in [
        (&["--config", "rules", "-x", "vmlinux"][..], "needs DWARF"),
        (&["--eppic", "macro.c", "-x", "vmlinux"], "no interpreter"),
        (&["--extension", "x.so"], "loads no code"),
        (&["--diskset", "member"], "sadump's format is not read"),
    ] {
        let out = makedumpfile(args, &[&core, &dump]);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(error.contains(why) && error.contains("leave the option out"), "{args:?}: {error}");
        assert!(!dump.exists());
    }
    let dir = case.dir.path().to_str().expect("text");
    let idle = ["-b", "8", "--cyclic-buffer", "1024", "--work-dir", dir, "--non-mmap", "--splitblock-size", "1024"];
    let xen = ["--xen-syms", "none", "--xen_phys_start", "0x1000"];
    said(&[&["-d31"][..], &idle, &xen].concat(), &[&core, &dump], 0);
    same(&dump, &kernel, "options without effect");
    assert_eq!(std::fs::read_dir(case.dir.path()).expect("list").count(), 2, "no temporary file");
}

#[test]
fn the_text_of_a_kernels_file_stands_for_the_note() {
    let kernel = Kernel::new(V6_1, 4);
    let case = Case::new(&silent(&kernel));
    let (core, dump, generated) = (case.path("core"), case.path("dump"), case.path("vmcoreinfo"));
    let file = case.put("vmlinux", &vmlinux(&kernel, RELEASE, &[]));
    let paths = |path: &Path| path.to_str().expect("text").to_owned();
    let out = said(&["-g", &paths(&generated), "-x", &paths(&file)], &[], 0);
    assert!(out.contains("The vmcoreinfo is saved to "), "{out}");
    let made = std::fs::read_to_string(&generated).expect("read");
    assert!(made.starts_with(&format!("OSRELEASE={RELEASE}\nPAGESIZE=4096\n")), "{made}");
    let theirs = |line: &str| kernel.info.lines().any(|l| l == line);
    for key in ["SYMBOL(mem_section)", "SIZE(page)", "OFFSET(page.flags)", "NUMBER(PG_lru)"] {
        let line = made.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key} in {made}"));
        assert!(theirs(line), "{line} is not what the kernel says");
    }
    for option in [["-x", &paths(&file)], ["-i", &paths(&generated)]] {
        said(&[&["-f", "-d31"], &option[..]].concat(), &[&core, &dump], 0);
        same(&dump, &kernel, option[0]);
    }
    // The kernel's own text as well.
    let own = case.put("own", kernel.info.as_bytes());
    said(&["-f", "-d31", "-i", &paths(&own)], &[&core, &dump], 0);
    same(&dump, &kernel, "the note's text in a file");
}

#[test]
fn a_text_of_another_kernel_and_one_that_is_none() {
    let kernel = Kernel::new(V6_1, 4);
    let case = Case::new(&kernel.core());
    let (core, dump) = (case.path("core"), case.path("dump"));
    let run = |option: &str, bytes: &[u8], code: i32, words: &str| {
        let file = case.put("file", bytes);
        let out = makedumpfile(&["-f", "-d31", option, file.to_str().expect("text")], &[&core, &dump]);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{option}: {error}");
        assert!(error.contains(words), "{option} {words}: {error}");
    };
    run("-x", &vmlinux(&kernel, "6.1.0-other", &[]), 2, "6.1.0-other");
    run("-i", kernel.info.replace(RELEASE, "6.1.0-other").as_bytes(), 2, "6.1.0-other");
    run("-i", b"hello, world\n", 1, "no vmcoreinfo text");
    run("-x", &[b'a'; 200], 1, "no ELF64");
    run("-x", &vmlinux(&kernel, RELEASE, &[".rodata", ".BTF"]), 1, "stripped");
    let generate = |bytes: &[u8], words: &str| {
        let (file, to) = (case.put("file", bytes), case.path("to"));
        let out = makedumpfile(&["-g", to.to_str().expect("text"), "-x", file.to_str().expect("text")], &[]);
        let error = text(&out.stderr);
        assert!(out.status.code() == Some(1) && error.contains(words) && !to.exists(), "{words}: {error}");
    };
    generate(&vmlinux(&kernel, RELEASE, &[".rodata", ".symtab", ".strtab"]), "no .BTF");
    let good = vmlinux(&kernel, RELEASE, &[]);
    generate(&good[..good.len() - 100], "section headers");
    generate(b"", "the ELF header");
    // The right one: what the dump says counts.
    let file = case.put("file", &good);
    said(&["-f", "-d31", "-x", file.to_str().expect("text")], &[&core, &dump], 0);
    same(&dump, &kernel, "-x beside the note");
}
