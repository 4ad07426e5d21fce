//! BTF and kallsyms of a made-up kernel, written into its image: by Documentation/bpf/btf.rst and by the layouts that
//! scripts/kallsyms.c has had.

use super::kernel::{Generation, HEAD, Kernel, V6_10, V6_12, V7_1};

/// How kallsyms writes addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Negative numbers below a base, others absolute: up to 6.14.
    Split,
    /// Above a base.
    Base,
    /// From where the number is.
    Place,
}

#[derive(Default)]
struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Btf {
    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }

    /// One type; its number.
    fn add(&mut self, name: &str, kind: u32, parts: usize, size: u32) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24 | parts as u32, size]);
        self.count += 1;
        self.count
    }

    /// A structure (4) or union (5): names, types, offsets in bytes.
    fn structure(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let members: Vec<[u32; 3]> = members.iter().map(|(n, id, at)| [self.name(n), *id, at * 8]).collect();
        let id = self.add(name, kind, members.len(), size);
        members.iter().for_each(|m| self.words(m));
        id
    }

    fn enumeration(&mut self, values: &[(&str, u32)]) {
        let values: Vec<[u32; 2]> = values.iter().map(|(n, v)| [self.name(n), *v]).collect();
        self.add("", 6, values.len(), 4);
        values.iter().for_each(|v| self.words(v));
    }

    fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut out = vec![0x9f, 0xeb, 1, 0];
        out.extend([24, 0, types, types, strings].iter().flat_map(|w: &u32| w.to_le_bytes()));
        out.extend(&self.types);
        out.extend(&self.strings);
        out
    }
}

/// The types that a filter needs.
pub fn btf(generation: Generation) -> Vec<u8> {
    let mut btf = Btf { strings: vec![0], ..Btf::default() };
    let word = btf.add("unsigned long", 1, 0, 8);
    btf.words(&[64]);
    let (new, newest) = (generation == V6_12 || generation == V7_1, generation == V7_1);
    let head = if newest { "compound_info" } else { "compound_head" };
    let mut inner = vec![("lru", word, 0), (head, word, 0), ("mapping", word, 16), ("private", word, 32)];
    if !new && generation != V6_10 {
        inner.extend([("compound_dtor", word, 8), ("compound_order", word, 9)]);
    }
    let inner = btf.structure(5, "", 40, &inner);
    let members = [("flags", word, 0), ("", inner, 8), ("_mapcount", word, 48), ("_refcount", word, 52)];
    btf.structure(4, "page", 64, &members);
    btf.structure(4, "mem_section", 32, &[("section_mem_map", word, 0)]);
    let areas = btf.add("", 3, 0, 0);
    btf.words(&[word, word, 11]);
    btf.structure(4, "zone", 1664, &[("free_area", areas, 0), ("vm_stat", word, 640)]);
    btf.structure(4, "uts_namespace", 400, &[("name", word, 0)]);
    let mut flags =
        vec![("PG_lru", 4), ("PG_private", 13), ("PG_swapcache", 10), ("PG_swapbacked", 19), ("PG_hwpoison", 23)];
    flags.push(("PG_head", HEAD.trailing_zeros()));
    if !new {
        flags.push(("PG_slab", 9));
    }
    btf.enumeration(&flags);
    if new {
        let kinds = [("buddy", 0xf0), ("offline", 0xf1), ("hugetlb", 0xf4), ("slab", 0xf5)];
        let kinds: Vec<(String, u32)> = kinds.iter().map(|(k, v)| (format!("PGTY_{k}"), *v)).collect();
        btf.enumeration(&kinds.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>());
    } else {
        btf.enumeration(&[("HUGETLB_PAGE_DTOR", 2)]);
    }
    btf.bytes()
}

/// Puts BTF into the image; its address.
pub fn put_btf(kernel: &mut Kernel) -> u64 {
    let bytes = btf(kernel.generation);
    let at = kernel.alloc(bytes.len() as u64);
    kernel.put(at, &bytes);
    at
}

/// Puts kallsyms into the image, in the order of 5.10; VMCOREINFO names the tables if it `tells`.
pub fn put_kallsyms(kernel: &mut Kernel, way: Way, tells: bool, symbols: &[(&str, u64)]) {
    const BASE: u64 = 0xffff_ffff_8000_0000;
    // More names than one marker stands for, and one whose length takes two bytes.
    let mut all: Vec<(String, u64)> = (0..600).map(|n| (format!("function_{n}"), BASE + 16 * n)).collect();
    if way != Way::Split {
        all.push(("long_".repeat(40), BASE));
    }
    all.extend(symbols.iter().map(|(name, va)| ((*name).to_owned(), *va)));
    let (mut names, mut markers) = (Vec::new(), Vec::new());
    for (i, (name, _)) in all.iter().enumerate() {
        if i % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        // Token 0 stands for "function_", the others for themselves.
        let tokens = format!("d{name}").replace("function_", "\0").into_bytes();
        match tokens.len() {
            n @ 0..0x80 => names.push(n as u8),
            n => names.extend([n as u8 & 0x7f | 0x80, (n >> 7) as u8]),
        }
        names.extend(tokens);
    }
    let (mut table, mut index) = (Vec::new(), Vec::new());
    for code in 0..=255u8 {
        index.extend((table.len() as u16).to_le_bytes());
        match code {
            0 => table.extend(b"function_"),
            b'!'..=b'~' => table.push(code),
            _ => table.extend(b"x_"),
        }
        table.push(0);
    }
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let offsets_len = padded(vec![0; 4 * all.len()]).len();
    let start = kernel.alloc((offsets_len + 16 + names.len() + markers.len() + table.len() + 1024) as u64);
    let offset = |(i, (_, va)): (usize, &(String, u64))| match way {
        Way::Split => (BASE - 1).wrapping_sub(*va) as u32,
        Way::Base => (va - BASE) as u32,
        Way::Place => va.wrapping_sub(start + 4 * i as u64) as u32,
    };
    let offsets: Vec<u8> = all.iter().enumerate().flat_map(|e| offset(e).to_le_bytes()).collect();
    let parts = [
        ("offsets", padded(offsets)),
        ("relative_base", BASE.to_le_bytes().to_vec()),
        ("num_syms", (all.len() as u64).to_le_bytes().to_vec()),
        ("names", padded(names)),
        ("markers", padded(markers)),
        ("token_table", padded(table)),
        ("token_index", index),
    ];
    let mut at = start;
    for (name, bytes) in parts {
        kernel.put(at, &bytes);
        // The newest kernels have no base.
        if tells && (name != "relative_base" || way != Way::Place) {
            kernel.symbol(&format!("kallsyms_{name}"), at);
        }
        at += bytes.len() as u64;
    }
}
