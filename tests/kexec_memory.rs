//! Memory of `kexec -l`: an initrd is in it once by `kexec_load`, and not at all by `kexec_file_load`; neither is the
//! kernel then. What the address space is limited to shows it; `tests/benches/run load` has the figures.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

#[path = "support/bzimage.rs"]
mod bzimage;
#[path = "support/recorded.rs"]
mod recorded;

const MIB: u64 = 1 << 20;
/// So much that half of it is room enough for the program, unoptimised too.
const INITRD: u64 = 96 * MIB;

/// A dry run, which does all but the call itself, with so much address space.
fn kexec(dir: &Path, limit: u64, args: &[&str]) -> Output {
    Command::new("sh")
        .current_dir(dir)
        .args(["-c", &format!("ulimit -v {} && exec \"$0\" \"$@\"", limit >> 10), env!("CARGO_BIN_EXE_kdumpbox")])
        .args(["kexec", "--dry-run", "--root", "machine", "-l", "vmlinuz", "--initrd=initrd"])
        .args(args)
        .output()
        .expect("start sh")
}

#[test]
fn the_initrd_is_in_memory_at_most_once() {
    let dir = tempfile::tempdir().expect("a directory");
    recorded::unfold("bios-crashkernel", &dir.path().join("machine"));
    fs::write(dir.path().join("vmlinuz"), bzimage::BzImage::default().write()).expect("written");
    let initrd = fs::File::create(dir.path().join("initrd")).expect("made");
    initrd.set_len(INITRD).expect("a sparse file");
    for (mode, limit, good) in [
        ("-c", INITRD * 3 / 2, true),
        // Without this one the limits would prove nothing.
        ("-c", INITRD, false),
        ("-s", INITRD, true),
    ] {
        let output = kexec(dir.path(), limit, &[mode]);
        assert_eq!(output.status.success(), good, "{mode} with {limit} bytes: {output:?}");
    }
}
