//! The capture's wider rungs: a kernel that can't be filtered is saved at level 1, a vmcore without memory as it is.

use std::fs;

use crate::lab::disk;
use crate::support::kdump::{Kdump, Page};
use crate::support::kernel::Kernel as Crashed;
use crate::support::machine::{PAGE, Phdr, ehdr};
use crate::synthetic::{Crash, DIRECTORY, HEADER};

#[test]
fn a_kernel_that_cannot_be_filtered_is_saved_at_level_1_and_the_reason_too() {
    let mut crash = Crash::new("capture-level-1");
    crash.crashed.info = crash.crashed.info.replace("SIZE(page)=64\n", "");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let outcome = crash.machine(&crash.header(), &crash.image(&[]), "rootfstype=ramfs").disk(&target).run();
    outcome.ended().expect("level 31 fell to 1").expect("stage 'save' ended with status 8").expect("kdump: reboot");
    let summary = disk::copy_out(&target, &format!("{DIRECTORY}/summary.txt"), &crash.work.join("summary.txt"));
    let summary = fs::read_to_string(summary).unwrap();
    let reason = "reason: no page could be classified, so level 31 fell to 1: VMCOREINFO lacks SIZE(page)";
    assert!(summary.contains(reason) && summary.contains("status: complete"), "{summary}");
    let dump = disk::copy_out(&target, &format!("{DIRECTORY}/vmcore"), &crash.work.join("vmcore"));
    let dump = Kdump::open(&dump);
    assert_eq!((dump.level, dump.status & 8), (1, 0));
    for pfn in Crashed::pfns() {
        assert!(dump.page(pfn) == Page::Data(crash.crashed.memory.page(pfn)), "{pfn:#x}");
    }
}

#[test]
fn a_vmcore_without_memory_is_copied_as_it_is() {
    let crash = Crash::new("capture-raw");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let notes = crash.crashed.core().notes;
    let len = notes.len() as u64;
    let phdr = Phdr { kind: 4, offset: HEADER + PAGE, vaddr: 0, paddr: HEADER + PAGE, filesz: len, memsz: len };
    let mut header = [ehdr(64, 1), phdr.bytes()].concat();
    header.resize(PAGE as usize, 0);
    header.extend(&notes);
    let header = crash.blob("header.bin", &header);
    let outcome = crash.machine(&header, &crash.image(&[]), "rootfstype=ramfs").disk(&target).run();
    outcome.ended().expect("memory is saved raw").expect("stage 'save' ended with status 10").expect("kdump: reboot");
    let files = disk::files(&target);
    let file = |name: &str| files.iter().find(|f| f.ends_with(name)).unwrap_or_else(|| panic!("no {name}: {files:?}"));
    let vmcore = fs::read(disk::copy_out(&target, file("/vmcore"), &crash.work.join("vmcore"))).unwrap();
    assert!(vmcore.starts_with(b"\x7fELF") && vmcore.windows(notes.len()).any(|w| w == notes), "notes and all");
    let summary =
        fs::read_to_string(disk::copy_out(&target, file("summary.txt"), &crash.work.join("summary"))).unwrap();
    assert!(summary.contains("reason: ") && summary.contains("no PT_LOAD") && summary.contains(", raw"), "{summary}");
}
