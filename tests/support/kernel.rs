//! A crashed kernel made up in a [`Machine`](super::machine): VMCOREINFO, struct pages of every class, a log; for each
//! generation of kernels that lays them out differently. Facts from the kernel's headers, in numbers.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::machine::{Core, IMAGE, Memory, PAGE, PageTables, note};

/// Kernels that differ in what a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    V4_19,
    V5_10,
    V6_1,
    V6_4,
    V6_6,
    V6_10,
    V6_12,
    V7_1,
}

pub use Generation::*;

pub const GENERATIONS: [Generation; 8] = [V4_19, V5_10, V6_1, V6_4, V6_6, V6_10, V6_12, V7_1];

impl Generation {
    fn since(self, other: Generation) -> bool {
        let order = |g| GENERATIONS.iter().position(|x| *x == g);
        order(self) >= order(other)
    }
}

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The kernel's own.
    Kernel,
    /// Free, this many as a power of two.
    Buddy(u64),
    Cache,
    CachePrivate,
    /// In the swap cache, and backed by swap.
    SwapCache,
    Anon,
    /// A transparent huge page of this order.
    AnonHuge(u64),
    /// A hugetlbfs page of this order.
    Hugetlb(u64),
    /// Slab memory whose `mapping` word looks like an anonymous page's.
    SlabLikeAnon,
    Hwpoison,
    Offline,
    /// A page type whose low 24 bits the owner uses.
    Zsmalloc,
    /// Written as it stands: flags, compound_head, mapping, private, page_type.
    Raw([u64; 4], u32),
}

impl Use {
    pub fn pages(self) -> u64 {
        match self {
            Use::Buddy(order) | Use::AnonHuge(order) | Use::Hugetlb(order) => 1 << order,
            _ => 1,
        }
    }

    /// The rule of the manual page: whether a dump of `level` may leave it out.
    pub fn droppable(self, level: u8) -> bool {
        match self {
            Use::Kernel | Use::SlabLikeAnon | Use::Zsmalloc | Use::Raw(..) => false,
            Use::Buddy(_) => level & 16 != 0,
            Use::Cache | Use::SwapCache => level & 6 != 0,
            Use::CachePrivate => level & 4 != 0,
            Use::Anon | Use::AnonHuge(_) | Use::Hugetlb(_) => level & 8 != 0,
            // Broken memory must not even be read; of the other there is none.
            Use::Hwpoison | Use::Offline => true,
        }
    }
}

pub const LRU: u64 = 1 << 4;
pub const HEAD: u64 = 1 << 16;
const SWAPCACHE: u64 = 1 << 10;
const PRIVATE: u64 = 1 << 13;
const SWAPBACKED: u64 = 1 << 19;
const SLAB: u64 = 1 << 9;
pub const POISON: u64 = 1 << 23;

/// Physical layout: two pieces of memory in two sections, and a hole between them.
pub const RAM: [(u64, u64); 2] = [(0x10_0000, 0x140_0000), (0x800_0000, 0x880_0000)];
/// The image is at 2 MiB although it is linked for 16 MiB: a negative phys_base.
pub const IMAGE_PHYS: u64 = 0x20_0000;
const IMAGE_VIRT: u64 = IMAGE + 0x100_0000;
const MEM_MAP_PHYS: u64 = 0x80_0000;

/// The kernel and how it is to be made.
#[derive(Clone)]
pub struct Kernel {
    pub generation: Generation,
    pub levels: u32,
    pub place: Place,
    pub uses: BTreeMap<u64, Use>,
    pub memory: Memory,
    pub tables: PageTables,
    /// VMCOREINFO's lines.
    pub info: String,
    /// Next free byte of the image.
    brk: u64,
    pub symbols: BTreeMap<String, u64>,
}

/// Where in its address space a kernel has what KASLR moves.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// How far the image is from where it was linked for.
    pub slide: u64,
    /// The direct map.
    pub direct: u64,
    /// Struct pages.
    pub vmemmap: u64,
}

impl Place {
    /// Without KASLR.
    pub fn fixed(levels: u32) -> Self {
        match levels {
            5 => Self { slide: 0, direct: 0xff11_0000_0000_0000, vmemmap: 0xffd4_0000_0000_0000 },
            _ => Self { slide: 0, direct: 0xffff_8880_0000_0000, vmemmap: 0xffff_ea00_0000_0000 },
        }
    }
}

/// Where an address of the image lies, without KASLR.
pub fn phys(va: u64) -> u64 {
    va - IMAGE_VIRT + IMAGE_PHYS
}

impl Kernel {
    /// A kernel with some pages of every use in its second piece of memory.
    pub fn new(generation: Generation, levels: u32) -> Self {
        Self::placed(generation, levels, Place::fixed(levels))
    }

    /// The same, elsewhere in its address space.
    pub fn placed(generation: Generation, levels: u32, place: Place) -> Self {
        let tables = PageTables { root: IMAGE_PHYS, levels, next: IMAGE_PHYS + 0x10_0000, extra: 0 };
        let mut kernel = Self {
            generation,
            levels,
            place,
            uses: BTreeMap::new(),
            memory: Memory::default(),
            tables,
            info: String::new(),
            brk: IMAGE_VIRT + place.slide + 2 * PAGE,
            symbols: BTreeMap::new(),
        };
        kernel.map_all();
        kernel.describe();
        kernel.spread_uses();
        for (start, end) in RAM {
            for pfn in start / PAGE..end / PAGE {
                // Every 16th page of ordinary memory stays zero; the image and mem_map have contents of their own.
                if pfn % 16 != 0 && !(IMAGE_PHYS / PAGE..0x100_0000 / PAGE).contains(&pfn) {
                    kernel.memory.write_u64(pfn * PAGE + 8 * (pfn % 512), pfn | 1 << 40);
                }
            }
        }
        kernel
    }

    fn map_all(&mut self) {
        let Place { slide, direct, vmemmap } = self.place;
        for i in 0..2 {
            self.tables.map(
                &mut self.memory,
                IMAGE_VIRT + slide + i * 0x20_0000,
                IMAGE_PHYS + i * 0x20_0000,
                0x20_0000,
            );
        }
        for (start, end) in RAM {
            // The direct map in 4 KiB pages at its ragged ends would need more tables than it is worth: 2 MiB down.
            for at in (start & !0x1f_ffff..end).step_by(0x20_0000) {
                self.tables.map(&mut self.memory, direct + at, at, 0x20_0000);
            }
        }
        // mem_map: the first piece by 4 KiB pages, the second by a 2 MiB page.
        for i in 0..RAM[0].1 * 64 / PAGE / PAGE {
            self.tables.map(&mut self.memory, vmemmap + i * PAGE, MEM_MAP_PHYS + i * PAGE, PAGE);
        }
        let second = vmemmap + RAM[1].0 / PAGE * 64;
        self.tables.map(&mut self.memory, second, MEM_MAP_PHYS + 0x20_0000, 0x20_0000);
    }

    /// Where the struct page of `pfn` is in physical memory.
    pub fn struct_page(&self, pfn: u64) -> u64 {
        match pfn.checked_sub(RAM[1].0 / PAGE) {
            Some(n) => MEM_MAP_PHYS + 0x20_0000 + n * 64,
            None => MEM_MAP_PHYS + pfn * 64,
        }
    }

    /// The physical address of the first page that holds `text`.
    pub fn memory_address_of(&self, text: &str) -> u64 {
        let holds = |page: &[u8]| page.windows(text.len()).any(|w| w == text.as_bytes());
        self.memory.written().find(|(_, page)| holds(page)).map(|(pfn, _)| pfn * PAGE).expect("the text is in memory")
    }

    /// What is reserved next begins a page.
    pub fn page_align(&mut self) {
        self.brk = self.brk.next_multiple_of(PAGE);
    }

    /// Reserves `size` bytes of the image; its virtual address.
    pub fn alloc(&mut self, size: u64) -> u64 {
        let at = self.brk;
        self.brk = (self.brk + size).next_multiple_of(64);
        at
    }

    pub fn put(&mut self, va: u64, bytes: &[u8]) {
        self.memory.write(phys(va - self.place.slide), bytes);
    }

    pub fn symbol(&mut self, name: &str, va: u64) {
        self.symbols.insert(name.into(), va);
        writeln!(self.info, "SYMBOL({name})={va:x}").expect("written");
    }

    fn describe(&mut self) {
        let generation = self.generation;
        let release = format!("{generation:?}").replace('V', "").replace('_', ".");
        let info = &mut self.info;
        writeln!(info, "OSRELEASE={release}.0-synthetic\nPAGESIZE=4096").expect("written");
        info.push_str("SIZE(page)=64\n");
        let head = if generation.since(V7_1) { "compound_info" } else { "compound_head" };
        for (member, at) in [
            ("flags", 0),
            ("_refcount", 52),
            ("mapping", 24),
            ("lru", 8),
            ("_mapcount", 48),
            ("private", 40),
            (head, 8),
        ] {
            writeln!(info, "OFFSET(page.{member})={at}").expect("written");
        }
        match generation {
            V4_19 | V5_10 | V6_1 => info.push_str("OFFSET(page.compound_dtor)=16\nOFFSET(page.compound_order)=17\n"),
            V6_4 => info.push_str("OFFSET(folio._folio_dtor)=80\nOFFSET(folio._folio_order)=81\n"),
            _ => {}
        }
        let flags = [("lru", 4), ("private", 13), ("swapcache", 10), ("swapbacked", 19), ("hwpoison", 23)];
        for (flag, bit) in flags {
            writeln!(info, "NUMBER(PG_{flag})={bit}").expect("written");
        }
        writeln!(info, "NUMBER(PG_head_mask)={HEAD}\nLENGTH(zone.free_area)=11").expect("written");
        if !generation.since(V6_10) {
            info.push_str("NUMBER(PG_slab)=9\n");
        }
        match generation {
            V6_6 => info.push_str("NUMBER(PG_hugetlb)=8\n"),
            g if !g.since(V6_6) => info.push_str("NUMBER(HUGETLB_PAGE_DTOR)=2\n"),
            _ => {}
        }
        for name in ["BUDDY", "OFFLINE", "HUGETLB", "SLAB"] {
            if let Some(value) = self.page_type(name) {
                // 4.19 to 6.11 print negative numbers, later ones are large positive.
                let value = if generation.since(V6_12) { i64::from(value) } else { i64::from(value as i32) };
                writeln!(self.info, "NUMBER(PAGE_{name}_MAPCOUNT_VALUE)={value}").expect("written");
            }
        }
        let slide = self.place.slide;
        let phys_base = (IMAGE_PHYS as i64) - (IMAGE_VIRT + slide - IMAGE) as i64;
        let five = u8::from(self.levels == 5);
        writeln!(self.info, "NUMBER(phys_base)={phys_base}\nNUMBER(pgtable_l5_enabled)={five}").expect("written");
        writeln!(self.info, "KERNELOFFSET={slide:x}").expect("written");
        self.symbol("swapper_pg_dir", IMAGE_VIRT + slide);
        let uts = self.alloc(400);
        for (i, text) in
            ["Linux", "host", &format!("{release}.0-synthetic"), "#1", "x86_64", "(none)"].iter().enumerate()
        {
            self.put(uts + i as u64 * 65, text.as_bytes());
        }
        self.symbol("init_uts_ns", uts);
        self.info.push_str("OFFSET(uts_namespace.name)=0\n");
        if generation.since(V6_10) {
            let vmemmap = self.place.vmemmap;
            self.symbol("vmemmap", vmemmap);
        } else {
            self.mem_section();
        }
    }

    /// mem_section: roots, a page of sections; sections 0 and 1 exist.
    pub fn mem_section(&mut self) {
        let roots = self.alloc(PAGE);
        let table = self.alloc(2 * PAGE).next_multiple_of(PAGE);
        self.brk += PAGE;
        self.put(roots, &table.to_le_bytes());
        for section in 0..2u64 {
            self.put(table + section * 32, &(self.place.vmemmap | 7).to_le_bytes());
        }
        self.symbol("mem_section", roots);
        self.symbols.insert("section table".into(), table);
        self.info.push_str(
            "LENGTH(mem_section)=2048\nSIZE(mem_section)=32\nOFFSET(mem_section.section_mem_map)=0\nNUMBER(SECTION_SIZE_BITS)=27\n",
        );
    }

    /// The 32 bits of `page_type`, if this kernel has such a type and exports it.
    fn page_type(&self, name: &str) -> Option<u32> {
        let bit = |n: u32| !(1u32 << n);
        match (name, self.generation) {
            ("BUDDY", V4_19 | V5_10 | V6_1 | V6_4 | V6_6) => Some(bit(7)),
            ("OFFLINE", V4_19 | V5_10 | V6_1 | V6_4 | V6_6) => Some(bit(8)),
            ("BUDDY", V6_10) => Some(bit(30)),
            ("OFFLINE", V6_10) => Some(bit(29)),
            ("HUGETLB", V6_10) => Some(bit(26)),
            ("SLAB", V6_10) => Some(bit(25)),
            ("BUDDY", _) => Some(0xf000_0000),
            ("OFFLINE", _) => Some(0xf100_0000),
            ("HUGETLB", V6_12 | V7_1) => Some(0xf400_0000),
            ("SLAB", V6_12 | V7_1) => Some(0xf500_0000),
            _ => None,
        }
    }

    fn spread_uses(&mut self) {
        let start = RAM[1].0 / PAGE;
        let uses = [
            (0, Use::Buddy(8)),
            (256, Use::Cache),
            (257, Use::CachePrivate),
            (258, Use::SwapCache),
            (259, Use::Anon),
            (261, Use::SlabLikeAnon),
            (262, Use::Hwpoison),
            (263, Use::Offline),
            (264, Use::Zsmalloc),
            (266, Use::Buddy(1)),
            (269, Use::Buddy(0)),
            (272, Use::AnonHuge(4)),
            (512, Use::Hugetlb(9)),
            (1024, Use::Buddy(10)),
        ];
        for (at, what) in uses {
            self.set(start + at, what);
        }
    }

    /// Makes `pfn` and what follows it be of `what`.
    pub fn set(&mut self, pfn: u64, what: Use) {
        self.uses.insert(pfn, what);
        let free = u32::MAX;
        let kind = |name| self.page_type(name).unwrap_or(free);
        // From 6.12 on the low 24 bits of a type are the owner's.
        let owned = if self.generation.since(V6_12) { 0x12_3456 } else { 0 };
        let anon = 0xffff_8880_0012_3401u64;
        let inode = 0xffff_8880_0012_3400u64;
        // flags, compound_head, mapping, private, page_type
        let (words, page_type): ([u64; 4], u32) = match what {
            Use::Kernel => ([0; 4], free),
            Use::Buddy(order) => ([0, 0, 0, order], kind("BUDDY")),
            Use::Cache => ([LRU, 0, inode, 0], free),
            Use::CachePrivate => ([LRU | PRIVATE, 0, inode, 1], free),
            Use::SwapCache => ([SWAPCACHE | SWAPBACKED, 0, 0, 5], free),
            Use::Anon => ([LRU | SWAPBACKED, 0, anon, 0], 0),
            Use::AnonHuge(_) => ([LRU | SWAPBACKED | HEAD, 0, anon, 0], free),
            Use::Hugetlb(_) => ([HEAD, 0, inode, 0], kind("HUGETLB")),
            Use::SlabLikeAnon if self.page_type("SLAB").is_some() => ([0, 0, 1, 0], kind("SLAB") | owned),
            Use::SlabLikeAnon => ([SLAB, 0, 1, 0], free),
            Use::Hwpoison => ([POISON, 0, 0, 0], free),
            Use::Offline => ([0; 4], kind("OFFLINE") | owned),
            Use::Zsmalloc if self.generation.since(V6_12) => ([0; 4], 0xf612_3456),
            Use::Zsmalloc => ([0; 4], free),
            Use::Raw(words, page_type) => (words, page_type),
        };
        self.write_page(pfn, words, page_type);
        if let Use::AnonHuge(order) | Use::Hugetlb(order) = what {
            for tail in 1..1 << order {
                self.write_page(pfn + tail, [0, (self.place.vmemmap + pfn * 64) | 1, 0, 0], free);
            }
            self.write_order(pfn, order, matches!(what, Use::Hugetlb(_)));
        }
    }

    fn write_page(&mut self, pfn: u64, words: [u64; 4], page_type: u32) {
        let at = self.struct_page(pfn);
        let mut page = [0u8; 64];
        for (offset, word) in [0, 8, 24, 40].into_iter().zip(words) {
            page[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        }
        page[48..52].copy_from_slice(&page_type.to_le_bytes());
        page[52..56].copy_from_slice(&1u32.to_le_bytes());
        self.memory.write(at, &page);
    }

    /// The first tail page's share: order, and what makes it hugetlb.
    pub fn write_order(&mut self, pfn: u64, order: u64, hugetlb: bool) {
        let tail = self.struct_page(pfn + 1);
        match self.generation {
            V4_19 | V5_10 | V6_1 | V6_4 => self.memory.write(tail + 16, &[if hugetlb { 2 } else { 1 }, order as u8]),
            _ => self.memory.write_u64(tail, order | if hugetlb && self.generation == V6_6 { 1 << 8 } else { 0 }),
        }
    }

    /// What each page of memory is used for; heads speak for those behind them.
    pub fn use_of(&self, pfn: u64) -> Use {
        let head = self.uses.range(..=pfn).next_back();
        head.filter(|(at, what)| pfn < *at + what.pages()).map_or(Use::Kernel, |(_, what)| *what)
    }

    /// All page frames of memory.
    pub fn pfns() -> impl Iterator<Item = u64> {
        RAM.into_iter().flat_map(|(start, end)| start / PAGE..end / PAGE)
    }

    /// The core file: the image's alias segment first, then memory, as the kernel lists them.
    pub fn core(&self) -> Core {
        let mut loads = vec![(IMAGE_PHYS, IMAGE_PHYS + 0x20_0000, IMAGE_VIRT + self.place.slide)];
        loads.extend(RAM.map(|(start, end)| (start, end, self.place.direct + start)));
        let mut notes = [note("CORE", 1, &[0; 336]), note("CORE", 1, &[1; 336])].concat();
        notes.extend(note("VMCOREINFO", 0, self.info.as_bytes()));
        Core { memory: self.memory.clone(), loads, notes }
    }
}
