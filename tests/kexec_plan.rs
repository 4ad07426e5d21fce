//! `kexec --dry-run` on recorded machines, without privileges: placement, command line, memory map, refusals.
//!
//! Expected output is in `tests/golden/kexec`; `UPDATE_GOLDEN=1 cargo test --test kexec_plan` writes it anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

#[path = "support/bzimage.rs"]
mod bzimage;
#[path = "support/recorded.rs"]
mod recorded;

use bzimage::BzImage;

/// Runs `kexec --dry-run ARGS` in a directory with the recorded machine, a kernel and two initrds.
fn dry_run(machine: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    recorded::unfold(machine, &dir.path().join("machine"));
    let file = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("written");
    let kernel = BzImage::default().write();
    file("vmlinuz", &kernel);
    file("truncated", &kernel[..kernel.len() - 1]);
    let mut damaged = kernel.clone();
    damaged[0x5000] ^= 4;
    file("damaged", &damaged);
    file("vmlinuz.zst", &zstd::encode_all(&kernel[..], 3).expect("packed"));
    file("short-command-line", &BzImage { cmdline_size: 20, ..BzImage::default() }.write());
    file("big", &BzImage { init_size: 0x3000_0000, ..BzImage::default() }.write());
    file("no-crc", &BzImage { crc: false, ..BzImage::default() }.write());
    file("four-levels", &BzImage { xloadflags: 0x1f, ..BzImage::default() }.write());
    file("ird", &[7; 12345]);
    file("microcode", &[9; 1001]);
    file("empty", b"");
    Command::new(env!("CARGO_BIN_EXE_kdumpbox"))
        .current_dir(dir.path())
        .args(["kexec", "--dry-run", "--root", "machine"])
        .args(args)
        .output()
        .expect("runs")
}

fn golden(name: &str, machine: &str, args: &[&str]) {
    let output = dry_run(machine, args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {err}");
    assert_eq!(err, "", "{name}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kexec").join(name);
    let text = format!("# {machine}: kexec --dry-run {}\n{out}", args.join(" "));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("below the checkout")).expect("made");
        fs::write(&path, &text).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    assert!(text == expected, "{name} differs from tests/golden/kexec/{name}; it is now:\n{text}");
}

#[test]
fn the_next_kernel_on_a_bios_machine() {
    golden("bios-next", "bios-crashkernel", &["-c", "-l", "vmlinuz", "--initrd=ird", "--append=root=/dev/vda quiet"]);
    golden("bios-next-reuse", "bios-no-crashkernel", &["-c", "-l", "vmlinuz", "--reuse-cmdline", "--append=quiet"]);
    let window = ["--mem-min=0x4000000", "--mem-max=0x9ffffff"];
    let two = ["--ramdisk=microcode", "--initrd", "ird", "--noefi", "-i"];
    golden("bios-next-window", "bios-crashkernel", &[&["-lc", "vmlinuz.zst"][..], &window, &two].concat());
}

#[test]
fn case_14_the_crash_kernel_on_a_bios_machine() {
    let common = ["-c", "-p", "vmlinuz", "--initrd=ird", "--reuse-cmdline", "--append=irqpoll nr_cpus=1"];
    golden("bios-crash", "bios-crashkernel", &common);
    golden("bios-crash-memmap", "bios-crashkernel", &[&common[..], &["--pass-memmap-cmdline"]].concat());
    golden("sparse-cpus-crash.json", "sparse-cpus", &[&common[..], &["--dry-run=json"]].concat());
}

#[test]
fn both_kernels_on_an_efi_machine() {
    golden("efi-next", "efi-crashkernel", &["-c", "-l", "vmlinuz", "--initrd=ird", "--append=quiet"]);
    golden("efi-crash", "efi-crashkernel", &["-c", "-p", "vmlinuz", "--initrd=ird", "--append=quiet"]);
    golden("efi-crash-noefi", "efi-crashkernel", &["-c", "-p", "vmlinuz", "--noefi", "--append=quiet"]);
}

#[test]
fn case_25_more_ranges_than_the_zero_page_holds() {
    golden("many-ranges-next", "many-ranges", &["-c", "-l", "vmlinuz", "--initrd=ird"]);
}

#[test]
fn the_kernel_places_what_it_loads_itself() {
    golden("file-next", "bios-crashkernel", &["-s", "-l", "no-crc", "--initrd=ird", "--append=quiet"]);
}

#[test]
fn case_15_trap_n_what_cannot_be_loaded_is_said_in_one_sentence() {
    let long = "x".repeat(2048);
    for (machine, args, code, sentence) in [
        ("bios-no-crashkernel", &["-c", "-p", "vmlinuz"][..], 254, "no memory is reserved for a crash kernel"),
        ("not-root", &["-c", "-l", "vmlinuz"], 255, "/proc/iomem shows only zeros: reading addresses needs root"),
        (
            "bios-crashkernel",
            &["-c", "-p", "big"],
            255,
            "no room for the kernel (0x30000000 bytes) in the area reserved",
        ),
        ("bios-crashkernel", &["-c", "-l", "vmlinuz", "--mem-max=0xfffff"], 255, "no room for the purgatory"),
        ("bios-crashkernel", &["-c", "-l", "truncated"], 255, "bzImage is truncated"),
        ("bios-crashkernel", &["-s", "-l", "damaged"], 255, "bzImage is damaged: its bytes do not agree with the CRC"),
        ("bios-crashkernel", &["-c", "-l", "empty"], 255, "empty: the file is empty"),
        ("bios-crashkernel", &["-c", "-l", "ird"], 255, "of an unknown type"),
        ("bios-crashkernel", &["-c", "-l", "nothing"], 1, "cannot open nothing: No such file or directory"),
        ("bios-crashkernel", &["-c", "-l", "vmlinuz", "--initrd=nothing"], 1, "cannot open nothing: No such file"),
        ("bios-crashkernel", &["-s", "-l", "vmlinuz", "--initrd=nothing"], 1, "cannot open nothing: No such file"),
        ("five-levels", &["-c", "-l", "four-levels"], 255, "can't be entered with 5-level paging"),
        ("bios-crashkernel", &["-l", "vmlinuz", "--append", &long], 255, "has 2048 bytes, the kernel takes 2047"),
        ("bios-crashkernel", &["-s", "-l", "vmlinuz", "--append", &long[..2017]], 255, "(cmdline_size) less 31 that"),
        ("bios-crashkernel", &["-c", "-p", "vmlinuz", "--append", &long[..2040]], 255, "the kernel takes 2047"),
        ("bios-crashkernel", &["-c", "-p", "short-command-line"], 255, "the kernel takes 20 (cmdline_size)"),
    ] {
        let output = dry_run(machine, args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.status.code(), out.as_ref()), (Some(code), ""), "{args:?} on {machine}: {err}");
        assert!(err.starts_with("kexec: ") && err.contains(sentence), "{args:?}: '{err}' lacks '{sentence}'");
        assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    }
}

#[test]
fn paging_levels_matter_only_where_they_differ() {
    assert!(dry_run("five-levels", &["-c", "-l", "vmlinuz"]).status.success());
    assert!(dry_run("bios-crashkernel", &["-c", "-l", "four-levels"]).status.success());
}

#[test]
fn damage_is_loaded_on_request() {
    assert!(dry_run("bios-crashkernel", &["-c", "-l", "damaged", "--no-checks"]).status.success());
}
