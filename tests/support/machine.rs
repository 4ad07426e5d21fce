//! A machine that never was: physical memory, page tables and an ELF core made of them.
//!
//! Independent of the product: every layout here is spelt out in numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const PAGE: u64 = 4096;
/// `__START_KERNEL_map`.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Sparse physical memory.
#[derive(Clone, Default)]
pub struct Memory {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = at + i as u64;
            self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize])[(at % PAGE) as usize] = *byte;
        }
    }

    pub fn write_u64(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Replaces a whole page.
    pub fn set_page(&mut self, pfn: u64, page: Vec<u8>) {
        assert_eq!(page.len() as u64, PAGE);
        self.pages.insert(pfn, page);
    }

    pub fn read_u64(&self, at: u64) -> u64 {
        let page = self.page(at / PAGE);
        let within = (at % PAGE) as usize;
        u64::from_le_bytes(page[within..within + 8].try_into().expect("8 bytes"))
    }

    pub fn page(&self, pfn: u64) -> Vec<u8> {
        self.pages.get(&pfn).cloned().unwrap_or_else(|| vec![0; PAGE as usize])
    }

    /// Pages that were written to, ascending.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages.iter().map(|(pfn, page)| (*pfn, page.as_slice()))
    }
}

/// x86_64 page tables in a [`Memory`], tables taken from `next` on.
#[derive(Clone)]
pub struct PageTables {
    pub root: u64,
    pub levels: u32,
    pub next: u64,
    /// Set in every entry, as SME does with its encryption bit.
    pub extra: u64,
}

impl PageTables {
    /// Maps `va` to `pa` by a leaf of `size` bytes: 4 KiB, 2 MiB or 1 GiB.
    pub fn map(&mut self, memory: &mut Memory, va: u64, pa: u64, size: u64) {
        let leaf_level = match size {
            0x1000 => 1,
            0x20_0000 => 2,
            0x4000_0000 => 3,
            _ => panic!("no page has {size:#x} bytes"),
        };
        let mut table = self.root;
        for level in (leaf_level..=self.levels).rev() {
            let slot = table + (va >> (12 + 9 * (level - 1)) & 511) * 8;
            if level == leaf_level {
                let big = if level > 1 { 0x80 } else { 0 };
                memory.write_u64(slot, pa | 0x63 | big | 1 << 63 | self.extra);
                return;
            }
            if memory.read_u64(slot) == 0 {
                memory.write_u64(slot, self.next | 0x63 | self.extra);
                self.next += PAGE;
            }
            table = memory.read_u64(slot) & 0x000f_ffff_ffff_f000 & !self.extra;
        }
    }
}

/// One program header and what it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Phdr {
    pub kind: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub filesz: u64,
    pub memsz: u64,
}

impl Phdr {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.kind.to_le_bytes());
        out.extend(7u32.to_le_bytes());
        for field in [self.offset, self.vaddr, self.paddr, self.filesz, self.memsz, 0] {
            out.extend(field.to_le_bytes());
        }
        out
    }
}

/// The 64 bytes of an ELF64 core's header.
pub fn ehdr(phoff: u64, phnum: u16) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(4u16.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(phoff.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, phnum, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out
}

/// One ELF note.
pub fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((name.len() as u32 + 1).to_le_bytes());
    out.extend((desc.len() as u32).to_le_bytes());
    out.extend(kind.to_le_bytes());
    for part in [format!("{name}\0").as_bytes(), desc] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// A core file in parts: what is changed before it is written is a test's fault to inject.
#[derive(Clone)]
pub struct Core {
    pub memory: Memory,
    /// Physical ranges that PT_LOADs describe: start, end, virtual address.
    pub loads: Vec<(u64, u64, u64)>,
    pub notes: Vec<u8>,
}

impl Core {
    /// Takes the page that holds `phys` out of every segment: what is there can't be read.
    pub fn without_page(mut self, phys: u64) -> Self {
        let (from, to) = (phys & !(PAGE - 1), (phys & !(PAGE - 1)) + PAGE);
        self.loads = self
            .loads
            .iter()
            .flat_map(|(start, end, va)| {
                if *start < to && from < *end {
                    vec![(*start, from, *va), (to, *end, va + (to - start))]
                } else {
                    vec![(*start, *end, *va)]
                }
            })
            .collect();
        self
    }

    /// The program headers, and where the file ends.
    pub fn phdrs(&self) -> (Vec<Phdr>, u64) {
        let notes_at = PAGE;
        let mut at = (notes_at + self.notes.len() as u64).next_multiple_of(PAGE);
        let len = self.notes.len() as u64;
        let mut phdrs = vec![Phdr { kind: 4, offset: notes_at, vaddr: 0, paddr: 0, filesz: len, memsz: 0 }];
        for (start, end, vaddr) in &self.loads {
            let (offset, size) = (at + start % PAGE, end - start);
            phdrs.push(Phdr { kind: 1, offset, vaddr: *vaddr, paddr: *start, filesz: size, memsz: size });
            at = (offset + size).next_multiple_of(PAGE);
        }
        (phdrs, at)
    }

    /// Writes the file, sparse where memory is zero.
    pub fn save(&self, path: &Path) {
        let (phdrs, end) = self.phdrs();
        let file = File::create(path).expect("create the core");
        file.set_len(end).expect("size the core");
        let mut head = ehdr(64, phdrs.len() as u16);
        head.extend(phdrs.iter().flat_map(Phdr::bytes));
        file.write_all_at(&head, 0).expect("write headers");
        file.write_all_at(&self.notes, PAGE).expect("write notes");
        for phdr in phdrs.iter().filter(|p| p.kind == 1) {
            for (pfn, page) in self.memory.written() {
                let (start, stop) = ((pfn * PAGE).max(phdr.paddr), ((pfn + 1) * PAGE).min(phdr.paddr + phdr.filesz));
                if start < stop {
                    let part = &page[(start % PAGE) as usize..][..(stop - start) as usize];
                    file.write_all_at(part, phdr.offset + start - phdr.paddr).expect("write memory");
                }
            }
        }
    }

    /// The same for QEMU's `elfcorehdr=` rig: a header whose notes' offsets are physical addresses from `header_at`,
    /// and the bytes of memory from `payload_at` on, which are what the one PT_LOAD describes.
    pub fn rig(&self, header_at: u64, payload_at: u64, len: u64) -> (Vec<u8>, Vec<u8>) {
        let notes_at = header_at + PAGE;
        let notes_len = self.notes.len() as u64;
        let phdrs = [
            Phdr { kind: 4, offset: notes_at, vaddr: 0, paddr: notes_at, filesz: notes_len, memsz: notes_len },
            Phdr {
                kind: 1,
                offset: payload_at,
                vaddr: 0xffff_8880_0000_0000 + payload_at,
                paddr: payload_at,
                filesz: len,
                memsz: len,
            },
        ];
        let mut header = ehdr(64, 2);
        header.extend(phdrs.iter().flat_map(Phdr::bytes));
        header.resize(PAGE as usize, 0);
        header.extend(&self.notes);
        let pages = payload_at / PAGE..(payload_at + len).div_ceil(PAGE);
        let mut payload: Vec<u8> = pages.flat_map(|pfn| self.memory.page(pfn)).collect();
        payload.truncate(len as usize);
        (header, payload)
    }
}
