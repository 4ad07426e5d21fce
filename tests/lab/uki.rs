//! Unified kernel images (the UAPI group's specification), put together by objcopy around systemd's stub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{SUITE, fetch, run};

/// An image at `path` with these sections (`.linux`, `.initrd`, `.cmdline`, ...), in this order.
pub fn build(path: &Path, sections: &[(&str, &Path)]) -> PathBuf {
    let stub = fetch(&["tree", SUITE, "systemd-boot-efi"]).join("usr/lib/systemd/boot/efi/linuxx64.efi.stub");
    let mut address = end(&fs::read(&stub).expect("read the stub"));
    let mut command = Command::new("objcopy");
    for (name, file) in sections {
        let size = fs::metadata(file).unwrap_or_else(|e| panic!("look at {}: {e}", file.display())).len();
        command.arg("--add-section").arg(format!("{name}={}", file.display()));
        command.arg("--change-section-vma").arg(format!("{name}={address:#x}"));
        address = (address + size).next_multiple_of(0x1000);
    }
    run(command.arg(&stub).arg(path));
    path.to_owned()
}

/// The first free address behind the sections of a PE file, its preferred base included.
fn end(pe: &[u8]) -> u64 {
    let number = |at: usize, len: usize| pe[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let at = |at: usize, len: usize| usize::try_from(number(at, len)).expect("an offset in the stub");
    let header = at(0x3c, 4);
    let table = header + 24 + at(header + 20, 2);
    let ends = (0..at(header + 6, 2)).map(|n| table + 40 * n).map(|entry| number(entry + 8, 4) + number(entry + 12, 4));
    number(header + 24 + 24, 8) + ends.max().expect("a stub has sections").next_multiple_of(0x1000)
}
