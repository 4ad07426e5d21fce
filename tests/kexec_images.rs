//! Plans for kernels other than a bzImage in 64-bit mode: Xen, vmlinux, plain ELF, unified images, the other entry
//! points. Golden `--dry-run` outputs of recorded machines; acceptance cases and traps by their numbers and letters.
//!
//! Expected output is in `tests/golden/kexec`; `UPDATE_GOLDEN=1 cargo test --test kexec_images` writes it anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

#[path = "support/bzimage.rs"]
mod bzimage;
#[allow(dead_code, reason = "other tests break files by them")]
#[path = "support/elf.rs"]
mod elf;
#[allow(dead_code, reason = "other tests write other headers")]
#[path = "support/multiboot.rs"]
mod multiboot;
#[path = "support/recorded.rs"]
mod recorded;
#[allow(dead_code, reason = "other tests break files by them")]
#[path = "support/uki.rs"]
mod uki;

use bzimage::BzImage;
use elf::{ElfFile, Load};

/// Xen in small: ELF32 with a multiboot2 header and its banner.
fn xen() -> Vec<u8> {
    let mut text = vec![0xc2; 4];
    text.extend(multiboot::xen_2());
    text.extend(b"\0Xen version %d.%d%s\0");
    ElfFile::i386().load(Load::at(0x20_0000, 0x3a_6140, &text)).write()
}

/// A vmlinux as Debian's are laid out, scaled down.
fn vmlinux() -> Vec<u8> {
    let text = b"Linux version 6.1.0-9-amd64 (builder@example) #1 SMP";
    let mut file = ElfFile::default()
        .load(Load { vaddr: 0xffff_ffff_8100_0000, paddr: 0x100_0000, memsz: 0x18_ea9f, data: text.to_vec() })
        .load(Load { vaddr: 0xffff_ffff_8120_0000, paddr: 0x120_0000, memsz: 0x6_4000, data: vec![1; 0x100] })
        .load(Load { vaddr: 0, paddr: 0x126_4000, memsz: 0x3_5000, data: vec![2; 0x100] })
        .load(Load { vaddr: 0xffff_ffff_8129_9000, paddr: 0x129_9000, memsz: 0x19_8700, data: vec![3; 0x100] });
    file.entry = 0x100_0000;
    file.write()
}

fn room(machine: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    recorded::unfold(machine, &dir.path().join("machine"));
    let file = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("written");
    let kernel = BzImage::default().write();
    file("vmlinuz", &kernel);
    file("vmlinuz.zst", &zstd::encode_all(&kernel[..], 3).expect("packed"));
    file("truncated", &kernel[..kernel.len() - 1]);
    file("fixed", &BzImage { relocatable: false, ..BzImage::default() }.write());
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("packed");
    file("packed", &BzImage { payload: zstd(&vmlinux()), ..BzImage::default() }.write());
    let mut huge = ElfFile::default().load(Load::at(0x100_0000, 0x3000_0000, b"Linux version 6.1.0"));
    huge.entry = 0x100_0000;
    file("huge", &BzImage { payload: zstd(&huge.write()), ..BzImage::default() }.write());
    file("packed-fixed", &BzImage { relocatable: false, payload: zstd(&vmlinux()), ..BzImage::default() }.write());
    file("xen", &xen());
    file("xen.zst", &zstd::encode_all(&xen()[..], 3).expect("packed"));
    file("vmlinux", &vmlinux());
    file("program", &ElfFile::i386().load(Load::at(0x10_0000, 0x3000, &[0x90; 0x1800])).write());
    let (ucode, initrd) = ([1; 5], [2; 6]);
    let sections: [(&str, &[u8]); 4] =
        [(".linux", &kernel), (".initrd", &initrd), (".ucode", &ucode), (".cmdline", b"root=/dev/uki quiet\n\0")];
    file("uki.efi", &uki::write(&sections));
    file("ird", &[7; 12345]);
    file("more", &[8; 3]);
    file("tree.dtb", &[9; 77]);
    dir
}

fn dry_run(machine: &str, args: &[&str]) -> Output {
    let dir = room(machine);
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.current_dir(dir.path()).args(["kexec", "--dry-run", "--root", "machine"]).args(args);
    command.env("TMPDIR", dir.path().join("tmp")).output().expect("runs")
}

/// The plan is the golden one; what is said on stderr is part of it.
fn golden(name: &str, machine: &str, args: &[&str]) -> String {
    let output = dry_run(machine, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {err}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kexec").join(name);
    let text = format!("# {machine}: kexec --dry-run {}\n{err}{out}", args.join(" "));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    assert!(text == expected, "{name} differs from tests/golden/kexec/{name}; it is now:\n{text}");
    text
}

/// The lines of two plans that say what is loaded, without the names of files.
fn alike(a: &str, b: &str) {
    let lines = |text: &str| {
        let kept = text.lines().filter(|l| ["segment", "memory", "command", "entry"].iter().any(|w| l.starts_with(w)));
        kept.map(|l| l.split(" of ").next().unwrap_or(l).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(a), lines(b));
}

#[test]
fn case_11_to_13_xen_by_both_spellings() {
    let document = golden(
        "bios-xen",
        "bios-crashkernel",
        &["-l", "--vmm=xen", "vmlinuz", "--initrd=ird", "--append=no-real-mode com1=115200 -- root=/dev/x ro"],
    );
    let today = golden(
        "bios-xen-modules",
        "bios-crashkernel",
        &["-l", "xen", "--command-line=no-real-mode com1=115200", "--module=vmlinuz root=/dev/x ro", "--module=ird"],
    );
    alike(&document, &today);
    assert!(dry_run("bios-crashkernel", &["-l", "--vmm=xen.zst", "vmlinuz.zst", "--append=-- x"]).status.success());
    let added = golden("efi-xen", "efi-crashkernel", &["-l", "--vmm=xen", "vmlinuz", "--append=-- root=/dev/x"]);
    assert!(added.contains("'no-real-mode' is added") && added.contains("root=/dev/x acpi_rsdp=0x"), "{added}");
    assert!(added.contains("segment      ebda"), "{added}");
}

#[test]
fn trap_a_elf_and_multiboot_in_the_default_mode() {
    for kernel in ["vmlinux", "program"] {
        let output = dry_run("bios-crashkernel", &["-l", kernel]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.starts_with("load         next kernel by kexec_load\n"), "{output:?}");
    }
}

#[test]
fn trap_i_an_initrd_with_a_vmlinux_that_is_not_called_linux() {
    let output = dry_run("bios-crashkernel", &["-l", "vmlinux", "--initrd=ird"]);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("segment      initrd"),
        "{output:?}"
    );
}

#[test]
fn an_uncompressed_linux_goes_into_the_reservation() {
    golden(
        "bios-vmlinux-crash",
        "bios-crashkernel",
        &["-p", "vmlinux", "--args-linux", "--initrd=ird", "--append=quiet"],
    );
    let said = golden("bios-vmlinux", "bios-crashkernel", &["-l", "vmlinux", "--append=quiet"]);
    assert!(said.contains("is a Linux kernel and is loaded as one"), "{said}");
}

/// The segments of the kernel inside are those of its vmlinux; whatever stands in the way, the bzImage is loaded.
#[test]
fn a_crash_kernel_unpacked_at_load_time() {
    let plan = |args: &[&str]| {
        let output = dry_run("bios-crashkernel", args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {err}");
        (out.into_owned(), err.into_owned())
    };
    let tail = ["--initrd=ird", "--append=quiet"];
    let (vmlinux, _) = plan(&[&["-p", "vmlinux", "--args-linux"], &tail[..]].concat());
    let unpacked = golden("bios-unpack", "bios-crashkernel", &[&["-p", "packed", "--unpack"], &tail[..]].concat());
    alike(&vmlinux, &unpacked);
    for (args, because) in [
        (&["-p", "-s", "packed"][..], "--unpack has no effect on packed: kexec_file_load (-s) takes the bzImage only"),
        (&["-l", "-c", "packed"], "it is for crash kernels (-p)"),
        (&["-p", "-c", "packed", "--entry-32bit"], "only the bzImage has the entry point asked for"),
        (&["-p", "-c", "vmlinuz"], "its payload is no ELF file"),
        (&["-p", "-c", "huge"], "huge unpacked: no room for the kernel"),
    ] {
        let (packed, _) = plan(args);
        let (said, err) = plan(&[args, &["--unpack"]].concat());
        assert!(said == packed && err.contains(because), "{args:?}: {err}{said}");
    }
    let (said, _) = plan(&["-p", "-c", "packed", "--unpack", "--lean", "--append=quiet"]);
    assert!(said.contains("command line quiet initcall_blacklist=tracer_init_tracefs cgroup.memory=nokmem"), "{said}");
    let (_, err) = plan(&["-l", "packed", "--lean"]);
    assert!(err.contains("--lean has no effect here"), "{err}");
    let output = dry_run("bios-crashkernel", &["-p", "-c", "packed-fixed", "--unpack"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("it is not relocatable\n") && err.contains("use one built with RELOCATABLE"), "{err}");
}

#[test]
fn case_24_trap_o_a_unified_image_by_both_calls_and_no_file_left() {
    let own = golden("bios-uki", "bios-crashkernel", &["-c", "-l", "uki.efi"]);
    assert!(own.contains("command line root=/dev/uki quiet\n") && own.contains("0xe of 0x1000 bytes"), "{own}");
    let more = golden("bios-uki-more", "bios-crashkernel", &["-c", "-l", "uki.efi", "--append=other", "--initrd=more"]);
    assert!(more.contains("command line other\n") && more.contains("0x13 of 0x1000 bytes"), "{more}");
    assert!(dry_run("bios-crashkernel", &["-s", "-l", "uki.efi"]).status.success());
}

#[test]
fn other_entry_points_and_other_programs() {
    golden("bios-real-mode", "bios-crashkernel", &["-l", "vmlinuz", "--real-mode", "--initrd=ird", "--append=quiet"]);
    golden("bios-entry-32bit", "bios-crashkernel", &["-l", "vmlinuz", "--entry-32bit", "--initrd=ird"]);
    golden("bios-entry-32bit-crash", "bios-crashkernel", &["-c", "-p", "vmlinuz", "--entry-32bit"]);
    golden("bios-elf", "bios-crashkernel", &["-l", "program", "--append=a b"]);
    golden("bios-elf-none", "bios-crashkernel", &["-l", "program", "--args-none"]);
    golden("bios-dtb", "bios-crashkernel", &["-l", "vmlinuz", "--dtb=tree.dtb", "--reset-vga"]);
    golden("bios-return", "bios-crashkernel", &["-l", "--load-preserve-context", "vmlinuz", "--mem-max=0x17ffffff"]);
}

/// Linux 6.6 and later tell how large an ELF core header they keep up to date themselves.
#[test]
fn case_25_hotplug_makes_room_in_the_header() {
    let text = golden("hotplug-crash", "hotplug", &["-c", "-p", "vmlinuz", "--hotplug", "--append=quiet"]);
    assert!(text.contains("of 0x80000 bytes"), "{text}");
    let plain = dry_run("bios-crashkernel", &["-c", "-p", "vmlinuz", "--hotplug"]);
    assert!(plain.status.success(), "a kernel without it gets an ordinary header: {plain:?}");
}

#[test]
fn what_cannot_be_loaded_is_said_in_one_sentence() {
    for (args, code, sentence) in [
        (&["-p", "xen", "--module=vmlinuz"][..], 255, "xen is Xen: only Linux can be a crash kernel"),
        (&["-c", "-p", "program"], 255, "program is an ELF program: only Linux can be a crash kernel"),
        (&["-s", "-l", "xen", "--module=vmlinuz"], 255, "Xen can't be loaded by kexec_file_load"),
        (&["-s", "-l", "vmlinux"], 255, "can't be loaded by kexec_file_load"),
        (&["-l", "xen"], 255, "Xen needs dom0's kernel"),
        (&["-l", "--vmm=vmlinuz", "vmlinuz"], 255, "vmlinuz is a bzImage, not a multiboot hypervisor"),
        (&["-l", "--vmm=xen", "xen"], 255, "dom0's kernel is a Linux"),
        (&["-l", "--vmm=xen", "truncated"], 255, "truncated: bzImage is truncated"),
        (&["-l", "--vmm=xen", "vmlinuz", "--initrd=nothing", "--append=--"], 1, "cannot open nothing"),
        (&["-l", "xen", "--module=nothing a b"], 1, "cannot open nothing: No such file"),
        (&["-l", "program", "--initrd=ird"], 1, "if it is a vmlinux, add --args-linux"),
        (&["-c", "-p", "vmlinuz", "--real-mode"], 255, "can't be entered in real mode"),
        (&["-c", "-p", "fixed"], 255, "this kernel is not relocatable"),
        (&["-l", "--load-preserve-context", "vmlinuz"], 1, "needs --mem-max=ADDR"),
        (&["--load-jump-back-helper"], 1, "needs --entry=ADDR"),
        (&["-l", "--mem-max=0x100fff", "program"], 255, "no room for the part of the program that must lie at"),
    ] {
        let output = dry_run("bios-crashkernel", args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("kexec: ") && last.contains(sentence), "{args:?}: '{err}' lacks '{sentence}'");
    }
}
