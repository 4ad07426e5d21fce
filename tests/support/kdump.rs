//! A reader of kdump-compressed files that knows nothing of the product: offsets in numbers, as the format's users have them.

use std::path::Path;

/// An opened dump.
pub struct Kdump {
    data: Vec<u8>,
    pub status: u32,
    pub max_mapnr: u64,
    pub level: i32,
    ram: usize,
    kept: usize,
    descriptors: usize,
}

/// What a dump has of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Left out.
    Excluded,
    /// Meant to be there, but never written.
    Missing,
    Data(Vec<u8>),
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("8 bytes"))
}

impl Kdump {
    pub fn open(path: &Path) -> Self {
        Self::parse(std::fs::read(path).expect("read the dump"))
    }

    pub fn parse(data: Vec<u8>) -> Self {
        assert_eq!(&data[..8], b"KDUMP   ", "signature");
        assert_eq!(u32_at(&data, 8), 6, "version");
        let block = u32_at(&data, 428) as usize;
        assert_eq!(block, 4096, "block size");
        let (sub_blocks, bitmap_blocks) = (u32_at(&data, 432) as usize, u32_at(&data, 436) as usize);
        let bitmaps = block * (1 + sub_blocks);
        Self {
            status: u32_at(&data, 424),
            max_mapnr: u64_at(&data, block + 96),
            level: u32_at(&data, block + 8) as i32,
            ram: bitmaps,
            kept: bitmaps + bitmap_blocks / 2 * block,
            descriptors: bitmaps + bitmap_blocks * block,
            data,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Offset and size of the notes, then of VMCOREINFO.
    pub fn notes(&self) -> [u64; 4] {
        [48, 56, 32, 40].map(|at| u64_at(&self.data, 4096 + at))
    }

    fn bit(&self, bitmap: usize, pfn: u64) -> bool {
        self.data[bitmap + (pfn / 8) as usize] >> (pfn % 8) & 1 != 0
    }

    /// Whether the machine had the page.
    pub fn is_ram(&self, pfn: u64) -> bool {
        pfn < self.max_mapnr && self.bit(self.ram, pfn)
    }

    /// Whether the dump has it.
    pub fn is_kept(&self, pfn: u64) -> bool {
        pfn < self.max_mapnr && self.bit(self.kept, pfn)
    }

    /// The descriptor of `pfn`: offset, size, flags.
    pub fn descriptor(&self, pfn: u64) -> (u64, usize, u32) {
        let whole: u32 = self.data[self.kept..self.kept + (pfn / 8) as usize].iter().map(|b| b.count_ones()).sum();
        let below = (0..pfn % 8).filter(|i| self.bit(self.kept, pfn - pfn % 8 + i)).count();
        let at = self.descriptors + (whole as usize + below) * 24;
        (u64_at(&self.data, at), u32_at(&self.data, at + 8) as usize, u32_at(&self.data, at + 12))
    }

    /// Page frames the dump has, ascending: the order of its descriptors.
    pub fn kept(&self) -> Vec<u64> {
        (0..self.max_mapnr).filter(|pfn| self.bit(self.kept, *pfn)).collect()
    }

    /// The page of the descriptor with this index.
    pub fn by_index(&self, index: usize, pfn: u64) -> Page {
        let at = self.descriptors + index * 24;
        self.decode(pfn, (u64_at(&self.data, at), u32_at(&self.data, at + 8) as usize, u32_at(&self.data, at + 12)))
    }

    pub fn page(&self, pfn: u64) -> Page {
        if !self.is_kept(pfn) { Page::Excluded } else { self.decode(pfn, self.descriptor(pfn)) }
    }

    fn decode(&self, pfn: u64, (offset, size, flags): (u64, usize, u32)) -> Page {
        if offset == 0 {
            return Page::Missing;
        }
        let raw = &self.data[offset as usize..][..size];
        let page = match flags {
            0 => raw.to_vec(),
            1 => miniz_oxide::inflate::decompress_to_vec_zlib(raw).expect("zlib"),
            0x20 => zstd::bulk::decompress(raw, 4096).expect("zstd"),
            other => panic!("page {pfn:#x} has flags {other:#x}"),
        };
        assert!(flags == 0 || size < 4096, "a compressed page is smaller than a page");
        assert_eq!(page.len(), 4096, "page {pfn:#x}");
        Page::Data(page)
    }
}
