//! Upstream's `kexec -c` as judge of our placement: both run on the same recorded machine, under strace, with the
//! system call injected, so that nothing is loaded.
//!
//! A user and mount namespace puts the recording over `/proc` and `/sys`: no privilege, no reservation needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kdumpbox::boot::kernel::{self, EntryMode};
use kdumpbox::boot::linux::{self, Plan, Purpose, Request};
use kdumpbox::boot::purgatory::Settings;
use kdumpbox::host::{Host, Machine};
use kdumpbox::image::{self, Kernel as Sniffed};
use kdumpbox::mem::{Bytes, Range};

use crate::lab::{Kernel, SUITE, fetch, workdir};
use crate::recorded;

/// One segment as the system call got it: bytes of data, address, bytes of memory.
type Segment = [u64; 3];

/// What a tool handed to `kexec_load(2)`.
#[derive(Debug)]
struct Load {
    entry: u64,
    flags: String,
    segments: Vec<Segment>,
    /// What it said.
    said: String,
}

/// A number as strace and upstream print them.
fn number(text: &str) -> u64 {
    let text = text.trim();
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.unwrap_or_else(|e| panic!("'{text}': {e}"))
}

/// The value behind `key` in `text`, up to a comma, a brace or white space.
fn field(text: &str, key: &str) -> u64 {
    let rest = text.split_once(key).unwrap_or_else(|| panic!("no {key} in {text}")).1.trim_start();
    number(rest.split([',', '}', ' ', ')']).next().unwrap_or_default())
}

/// Runs `program ARGS` on the machine below `root` with an injected success of `kexec_load`.
fn load(root: &Path, program: &Path, args: &[&str]) -> Load {
    let strace = fetch(&["tools", SUITE]).join("bin/strace");
    let log = root.join("strace");
    let over = "mount --rbind \"$0/sys\" /sys && mount --rbind \"$0/proc\" /proc && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-Urnm"])
        .arg(strace)
        .args(["-f", "-qq", "-s", "200", "-e", "signal=none", "-e", "trace=kexec_load,kexec_file_load,reboot"])
        .args(["-e", "inject=kexec_load:retval=0", "-e", "inject=reboot:error=EPERM", "-o"])
        .arg(&log)
        .args(["sh", "-c", over])
        .arg(root)
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("start unshare");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {}\n{said}", program.display(), output.status);
    let log = fs::read_to_string(&log).expect("strace's log");
    let calls: Vec<&str> = log.lines().filter(|l| l.contains('(')).collect();
    let [call] = calls[..] else { panic!("one call of kexec_load, not:\n{log}") };
    let call = call.split_once("kexec_load(").unwrap_or_else(|| panic!("not kexec_load: {call}")).1;
    let (list, flags) = call.rsplit_once("], ").expect("flags behind the segments");
    let segments = list.split("{buf=").skip(1);
    Load {
        entry: number(list.split(',').next().unwrap_or_default()),
        flags: flags.split(')').next().unwrap_or_default().to_owned(),
        segments: segments.map(|s| [field(s, "bufsz="), field(s, "mem="), field(s, "memsz=")]).collect(),
        said,
    }
}

/// The machine, the kernel, an initrd.
struct Case {
    root: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    init_size: u64,
}

impl Case {
    fn new(name: &str, machine: &str) -> Self {
        let root = workdir(&format!("oracle-kexec-{name}-{machine}"));
        recorded::unfold(machine, &root);
        let kernel = Kernel::of(SUITE).vmlinuz();
        let initrd = root.join("initrd");
        fs::write(&initrd, vec![0x5a; 2_000_000]).expect("an initrd");
        let bytes = fs::read(&kernel).expect("a kernel");
        let init_size = u32::from_le_bytes(bytes[0x260..0x264].try_into().expect("four bytes"));
        Self { root, kernel, initrd, init_size: u64::from(init_size).next_multiple_of(4096) }
    }

    fn args<'a>(&'a self, mode: &'a str) -> Vec<&'a str> {
        let path = |p: &'a Path| p.to_str().expect("a plain path");
        vec!["-c", "-d", mode, path(&self.kernel), "--append=a=1", "--ramdisk", path(&self.initrd)]
    }

    fn upstream(&self, mode: &str) -> Load {
        load(&self.root, &fetch(&["tools", SUITE]).join("bin/kexec"), &self.args(mode))
    }

    fn ours(&self, mode: &str) -> Load {
        let mut args = vec!["kexec"];
        args.extend(self.args(mode));
        load(&self.root, Path::new(env!("CARGO_BIN_EXE_kdumpbox")), &args)
    }

    /// Our plan for the same request, to look into its segments.
    fn plan(&self, crash: bool) -> Plan {
        let image = image::sniff(fs::read(&self.kernel).expect("a kernel"), None).expect("understood");
        let Sniffed::BzImage(bzimage) = image.kernel else { panic!("{:?} is no bzImage", self.kernel) };
        let request = Request {
            kernel: &kernel::Kernel::from_bzimage(&bzimage, EntryMode::Long).expect("a 64-bit entry point"),
            initrd: Some(Bytes::from(fs::read(&self.initrd).expect("an initrd"))),
            dtb: None,
            command_line: "a=1",
            machine: &Machine::read(&Host::new(&self.root), crash).expect("a machine"),
            purpose: if crash { Purpose::Crash } else { Purpose::Next },
            window: Range::new(0, u64::MAX).expect("everything"),
            purgatory: Settings::default(),
            seed: Some([1; 32]),
            efi: true,
            memmap_parameters: false,
        };
        linux::plan(&request).expect("a plan")
    }
}

/// Segments of both kinds of tool by what they are. Upstream's command line and random seed are apart from each other.
fn same_kinds(case: &Case, ours: &Load, theirs: &Load, crash: bool) {
    let kernel = |load: &Load| load.segments.iter().find(|s| s[2] == case.init_size).copied().expect("a kernel");
    let initrd = |load: &Load| load.segments.iter().find(|s| s[0] == 2_000_000).copied().expect("an initrd");
    assert_eq!(initrd(ours)[2], initrd(theirs)[2], "memory for the initrd");
    let (our_kernel, their_kernel) = (kernel(ours), kernel(theirs));
    assert_eq!(our_kernel[1] % 0x20_0000, 0, "kernel_alignment");
    // Upstream loads what lies behind the image too: the signature.
    assert!(our_kernel[0] <= their_kernel[0] && their_kernel[0] - our_kernel[0] < 0x4000, "bytes of the kernel");
    let seed = theirs.segments.iter().filter(|s| s[0] == 48).count();
    assert_eq!(ours.segments.len() + seed, theirs.segments.len(), "{ours:?}\n{theirs:?}");
    assert_eq!(ours.segments.len(), if crash { 6 } else { 4 });
    assert_eq!(ours.flags, theirs.flags);
    assert_eq!(ours.flags.contains("KEXEC_ON_CRASH"), crash);
    for load in [ours, theirs] {
        assert!(load.segments.iter().any(|s| (s[1]..s[1] + s[2]).contains(&load.entry)), "entry of {load:?}");
    }
}

/// Pages, in order, apart, and inside one of `legal`.
fn legal(load: &Load, legal: &[[u64; 2]]) {
    let mut end = 0;
    for [bytes, start, size] in load.segments.iter().copied() {
        assert!(start % 4096 == 0 && size % 4096 == 0 && bytes <= size, "{load:?}");
        assert!(start >= end, "in ascending order, apart: {load:?}");
        end = start + size;
        assert!(legal.iter().any(|r| r[0] <= start && end <= r[1]), "{start:#x}-{end:#x} is in none of {legal:x?}");
    }
}

/// Upstream's E820 table: start, end, type.
fn e820(said: &str) -> Vec<[u64; 3]> {
    let lines = said.split_once("E820 memmap:\n").expect("the table is printed with -d").1.lines();
    let row = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (last, kind) = rest.split_once(" (")?;
        let hex = |t: &str| u64::from_str_radix(t, 16).ok();
        Some([hex(start)?, hex(last)? + 1, kind.trim_end_matches(')').parse().ok()?])
    };
    lines.map_while(row).collect()
}

fn our_e820(plan: &Plan) -> Vec<[u64; 3]> {
    plan.map.iter().map(|(r, t)| [r.start(), r.end(), u64::from(t.to_wire())]).collect()
}

fn next_kernel(machine: &str) {
    let case = Case::new("next", machine);
    let (ours, theirs) = (case.ours("-l"), case.upstream("-l"));
    same_kinds(&case, &ours, &theirs, false);
    let mut table = e820(&theirs.said);
    let ram: Vec<[u64; 2]> = table.iter().filter(|r| r[2] == 1).map(|r| [r[0].max(0x10_0000), r[1]]).collect();
    legal(&ours, &ram);
    // Upstream begins at 0x400, behind the interrupt vectors; the kernel reserves that page itself.
    assert_eq!(table[0][0], 0x400);
    table[0][0] = 0;
    assert_eq!(our_e820(&case.plan(false)), table);
}

/// Program headers as upstream prints them: type, offset, physical and virtual address, bytes.
fn their_headers(said: &str) -> Vec<[u64; 5]> {
    let keys = ["p_type =", "p_offset =", "p_paddr =", "p_vaddr =", "p_filesz ="];
    said.lines().filter(|l| l.contains("p_type =")).map(|l| keys.map(|key| field(l, key))).collect()
}

fn our_headers(plan: &Plan) -> Vec<[u64; 5]> {
    let header = plan.image.segments.iter().find(|s| s.name == "elfcorehdr").expect("an elfcorehdr");
    let word = |at: usize, len: usize| {
        let bytes: Vec<u8> = header.data[at..at + len].to_vec();
        bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    };
    assert_eq!([word(16, 2), word(18, 2), word(32, 8), word(54, 2)], [4, 62, 64, 56], "ET_CORE for x86_64");
    let row = |i: usize| 64 + 56 * i;
    let count = usize::try_from(word(56, 2)).expect("a count");
    (0..count)
        .map(|i| {
            assert_eq!(word(row(i) + 32, 8), word(row(i) + 40, 8), "p_memsz is p_filesz");
            [word(row(i), 4), word(row(i) + 8, 8), word(row(i) + 24, 8), word(row(i) + 16, 8), word(row(i) + 32, 8)]
        })
        .collect()
}

fn crash_kernel(machine: &str, area: [u64; 2]) {
    let case = Case::new("crash", machine);
    let (ours, theirs) = (case.ours("-p"), case.upstream("-p"));
    same_kinds(&case, &ours, &theirs, true);
    legal(&ours, &[area]);
    let plan = case.plan(true);
    let placed: Vec<Segment> =
        plan.image.segments.iter().map(|s| [s.data.len() as u64, s.range.start(), s.range.len()]).collect();
    let addresses = |segments: &[Segment]| segments.iter().map(|s| [s[1], s[2]]).collect::<Vec<_>>();
    assert_eq!(addresses(&placed), addresses(&ours.segments), "the plan is what is loaded");

    // The old memory is described alike, but for where the copy of low memory lies.
    let (our_core, mut their_core) = (our_headers(&plan), their_headers(&theirs.said));
    let backup = plan.image.segments.iter().find(|s| s.name == "backup").expect("a backup").range;
    let low = their_core.iter_mut().find(|h| h[0] == 1 && h[2] < 0xa_0000).expect("low memory");
    assert!(area[0] <= low[1] && low[1] < area[1], "upstream's copy lies in the area");
    low[1] = backup.start();
    assert_eq!(our_core, their_core);
    assert_eq!(theirs.segments.iter().filter(|s| s[2] == backup.len()).count(), 1, "a copy of the same size");

    // Outside the area the memory map is the same; inside, all is RAM but what must outlive the old kernel.
    let outside = |table: Vec<[u64; 3]>| table.into_iter().filter(|r| r[0] < area[0] || r[0] >= area[1]).collect();
    let (our_map, their_map): (Vec<_>, Vec<_>) = (outside(our_e820(&plan)), outside(e820(&theirs.said)));
    assert_eq!(our_map, their_map);
    let kept: u64 = our_e820(&plan).iter().filter(|r| area[0] <= r[0] && r[0] < area[1]).map(|r| r[1] - r[0]).sum();
    let elfcorehdr = plan.image.segments.iter().find(|s| s.name == "elfcorehdr").expect("an elfcorehdr").range;
    assert_eq!(kept + backup.len() + elfcorehdr.len(), area[1] - area[0]);
    assert!(plan.command_line.contains(&format!("a=1 elfcorehdr={:#x}", elfcorehdr.start())), "{}", plan.command_line);
}

#[test]
fn the_next_kernel_is_placed_as_upstream_would() {
    next_kernel("bios-crashkernel");
    next_kernel("efi-crashkernel");
}

#[test]
fn case_14_the_crash_kernel_is_placed_as_upstream_would() {
    crash_kernel("bios-crashkernel", [0x2e00_0000, 0x3800_0000]);
    crash_kernel("efi-crashkernel", [0x3100_0000, 0x3b00_0000]);
}

#[test]
fn trap_q_sparse_cpus_are_all_described_where_upstream_stops_at_the_gap() {
    let case = Case::new("notes", "sparse-cpus");
    let notes: Vec<u64> = our_headers(&case.plan(true)).iter().filter(|h| h[0] == 4).map(|h| h[2]).collect();
    assert_eq!(notes, [0x3ea3_a400, 0x3eb3_a400, 0x3ec3_a400, 0x11e_6000]);
}
