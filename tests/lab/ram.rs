//! Vmcores of machines larger than this one: QEMU keeps a machine's memory in a file that is sparse where the machine
//! never wrote, and that file is made a vmcore where it lies, without a copy.
//!
//! The headers go into page 0, which no kernel uses, the notes into the 384 KiB below 1 MiB that are not memory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::core::{READY, fill_disk, filled};
use super::{Kernel, Machine, cache, lock, say};

/// Where memory below 4 GiB ends if there is more (QEMU's machine `pc`).
const LOW_END: u64 = 3 << 30;
const HIGH: u64 = 4 << 30;
const MIB: u64 = 1 << 20;
/// Ends of the first piece of memory.
const FIRST: (u64, u64) = (0x1000, 0x9f000);
const NOTES: (u64, u64) = (0xa0000, MIB);

/// A vmcore of `kernel` with `gib` GiB of memory (1 or 2, or 4 and more), 4-level paging.
pub fn vmcore(kernel: &Kernel, gib: u32) -> PathBuf {
    let dir = cache().join("bench");
    fs::create_dir_all(&dir).expect("make the directory of large cores");
    let core = dir.join(format!("{}-{gib}g.elf", kernel.release));
    let _made_once = lock(&dir.join("lock"));
    if core.is_file() {
        return core;
    }
    let name = format!("ram-{gib}g");
    say(&format!("making a vmcore of {} with {gib} GiB", kernel.release));
    let work = super::workdir(&name);
    // In the cache from the start, so that it need not be copied.
    let ram = dir.join(format!("{name}.ram"));
    drop(fs::remove_file(&ram));
    let notes = work.join("notes.elf");
    let backend = format!("memory-backend-file,id=m,size={gib}G,mem-path={},share=on,prealloc=off", ram.display());
    let machine = Machine::new(&name, &work, &kernel.vmlinuz())
        .initrd(&filled(kernel).write_gzip(&work.join("initrd")))
        .memory(gib * 1024)
        .disk(&fill_disk(&work.join("fill.img")))
        .argument("-object")
        .argument(&backend)
        .argument("-machine")
        .argument("pc,memory-backend=m")
        .argument("-device")
        .argument("vmcoreinfo")
        // Only its notes are wanted: the first MiB of memory comes with them.
        .monitor(READY, &format!("stop\ndump-guest-memory {} 0 {MIB:#x}\nquit", notes.display()))
        .timeout(900);
    machine.run().ended();
    make_core(&ram, &notes_of(&notes), u64::from(gib) << 30);
    fs::rename(&ram, &core).expect("name the core");
    core
}

/// The bytes of the first PT_NOTE.
fn notes_of(core: &Path) -> Vec<u8> {
    let file = fs::read(core).expect("read QEMU's notes");
    let number = |at: usize, len: usize| {
        let bytes = file.get(at..at + len).expect("inside the file");
        bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) as usize
    };
    let (table, count) = (number(32, 8), number(56, 2));
    let headers = (0..count).map(|n| table + 56 * n);
    let header = headers.into_iter().find(|at| number(*at, 4) == 4).expect("a PT_NOTE");
    let (offset, len) = (number(header + 8, 8), number(header + 32, 8));
    file[offset..offset + len].to_vec()
}

/// Writes headers and notes into the file of a machine's memory.
fn make_core(ram: &Path, notes: &[u8], size: u64) {
    assert!(notes.len() as u64 <= NOTES.1 - NOTES.0, "the notes have {} bytes", notes.len());
    let low_end = if size >= HIGH { LOW_END } else { size };
    let piece = |start: u64, end: u64, offset: u64| header(1, offset, start, end - start);
    let mut headers =
        vec![header(4, NOTES.0, 0, notes.len() as u64), piece(FIRST.0, FIRST.1, FIRST.0), piece(MIB, low_end, MIB)];
    if size > low_end {
        headers.push(piece(HIGH, HIGH + size - low_end, low_end));
    }
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0u64, 64, 0] {
        head.extend(word.to_le_bytes());
    }
    head.extend(0u32.to_le_bytes());
    for half in [64, 56, headers.len() as u16, 0, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    head.extend(headers.concat());
    let file = OpenOptions::new().write(true).open(ram).expect("open the machine's memory");
    file.write_all_at(&head, 0).expect("write the headers");
    file.write_all_at(notes, NOTES.0).expect("write the notes");
}

/// A program header whose bytes are all in the file.
fn header(kind: u32, offset: u64, phys: u64, size: u64) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
    for field in [offset, 0, phys, size, size, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}
