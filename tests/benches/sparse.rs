//! A vmcore of 16 TiB that never was: what a filter must keep in mind of it is real, its memory is a hole in a file.
//!
//! Of 16 sections of memory (128 MiB each) 15 are free and one is in pieces: of every 64 pages the kernel has one. One
//! section in 2048 is the kernel's as a whole. Their struct pages are the same three times 2 MiB, mapped again and again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::lab::{cache, lock};
use crate::support::kernel::{Kernel, V6_1};
use crate::support::machine::{PAGE, Phdr, ehdr};

const SECTION: u64 = 128 << 20;
/// Memory behind the made-up kernel's own.
const START: u64 = 1 << 30;
const END: u64 = 16 << 40;
/// Where the three kinds of struct pages are.
const KINDS: u64 = 256 << 20;
const KIND_SIZE: u64 = 2 << 20;
/// As much memory is in one PT_LOAD; all of them share a hole, for no file may be as large as all.
const PIECE: u64 = 1 << 40;

/// Orders of the free blocks in a section: all of the largest, none, and what is left of 64 pages behind their first.
const LARGEST: u64 = 10;

pub fn vmcore() -> PathBuf {
    let dir = cache().join("bench");
    fs::create_dir_all(&dir).expect("make the directory of large cores");
    let path = dir.join("sparse-16t.elf");
    let _made_once = lock(&dir.join("lock"));
    if !path.is_file() {
        let new = path.with_extension("new");
        write(&new);
        fs::rename(&new, &path).expect("name the core");
    }
    path
}

/// The struct page of a free block's first page, or of a page the kernel has.
fn struct_page(order: Option<u64>) -> [u8; 64] {
    let mut page = [0; 64];
    page[40..48].copy_from_slice(&order.unwrap_or(0).to_le_bytes());
    // PageBuddy takes bit 7 away.
    let kind = if order.is_some() { !0x80u32 } else { u32::MAX };
    page[48..52].copy_from_slice(&kind.to_le_bytes());
    page[52..56].copy_from_slice(&u32::from(order.is_none()).to_le_bytes());
    page
}

fn kind(number: u64) -> Vec<u8> {
    let pages = SECTION / PAGE;
    let order = |pfn: u64| match number {
        0 => Some(LARGEST),
        1 => None,
        _ => (!pfn.is_multiple_of(64)).then(|| u64::from((pfn % 64).trailing_zeros())),
    };
    (0..pages).flat_map(|pfn| struct_page(order(pfn))).collect()
}

fn write(path: &std::path::Path) {
    let mut kernel = Kernel::new(V6_1, 4);
    for section in (KINDS / SECTION..KINDS / SECTION + 1).chain(START / SECTION..END / SECTION) {
        let number = match section {
            s if s < START / SECTION => 1,
            s if s % 2048 == 2047 => 1,
            s if s % 16 == 15 => 2,
            _ => 0,
        };
        let at = kernel.place.vmemmap + section * KIND_SIZE;
        kernel.tables.map(&mut kernel.memory, at, KINDS + number * KIND_SIZE, KIND_SIZE);
    }
    for number in 0..3 {
        for (page, bytes) in kind(number).chunks(PAGE as usize).enumerate() {
            kernel.memory.set_page((KINDS + number * KIND_SIZE) / PAGE + page as u64, bytes.to_vec());
        }
    }
    // All roots lead to one table of sections, and all of its sections are alike.
    let table = kernel.symbols["section table"];
    let roots = kernel.alloc(END / SECTION / (PAGE / 32) * 8);
    for root in 0..END / SECTION / (PAGE / 32) {
        kernel.put(roots + root * 8, &table.to_le_bytes());
    }
    let line = |at: u64| format!("SYMBOL(mem_section)={at:x}\n");
    kernel.info = kernel.info.replace(&line(kernel.symbols["mem_section"]), &line(roots));
    for entry in 0..PAGE / 32 {
        kernel.put(table + entry * 32, &(kernel.place.vmemmap | 7).to_le_bytes());
    }
    let direct = kernel.place.direct;
    let mut core = kernel.core();
    core.loads.push((KINDS, KINDS + 3 * KIND_SIZE, direct + KINDS));
    core.save(path);
    let (mut headers, hole) = core.phdrs();
    headers.extend((0..).map(|n| (START.max(n * PIECE), (n + 1) * PIECE)).take_while(|p| p.1 <= END).map(
        |(start, end)| Phdr {
            kind: 1,
            offset: hole,
            vaddr: direct + start,
            paddr: start,
            filesz: end - start,
            memsz: end - start,
        },
    ));
    let mut head = ehdr(64, headers.len() as u16);
    head.extend(headers.iter().flat_map(Phdr::bytes));
    assert!(head.len() as u64 <= PAGE, "the headers fit before the notes");
    let file = File::options().write(true).open(path).expect("open the new core");
    file.write_all_at(&head, 0).expect("write the headers");
    file.set_len(hole + PIECE).expect("make the hole");
}
