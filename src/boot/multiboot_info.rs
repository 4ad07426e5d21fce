//! What a multiboot kernel is told: command line, modules, memory, screen, in the layout of version 1 or 2.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::abi::bootparam::boot_params;
use crate::abi::multiboot::{
    FRAMEBUFFER_EGA_TEXT, FRAMEBUFFER_RGB, framebuffer, framebuffer_rgb, framebuffer_tag, info, mmap_entry,
    mmap2_entry, mod_list, multiboot_info, tag, tags,
};
use crate::image::multiboot::Version;
use crate::mem::{MIB, MemoryMap, MemoryType, Range};

/// Not "GRUB": Xen drops the first word of every command line unless GRUB loaded it.
const LOADER: &str = concat!("kdumpbox ", env!("CARGO_PKG_VERSION"));

/// A screen, as multiboot describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    common: framebuffer,
    colours: framebuffer_rgb,
}

impl Screen {
    /// VGA text mode 3.
    pub fn text() -> Self {
        let common = framebuffer {
            addr: U64::new(0xb_8000),
            pitch: U32::new(160),
            width: U32::new(80),
            height: U32::new(25),
            bpp: 16,
            r#type: FRAMEBUFFER_EGA_TEXT,
        };
        Self { common, colours: framebuffer_rgb::default() }
    }

    /// The linear framebuffer that the running kernel was started with; `None` if it had none
    /// (`include/uapi/linux/screen_info.h`).
    pub fn running(params: &boot_params) -> Option<Self> {
        const VLFB: u8 = 0x23;
        const EFI: u8 = 0x70;
        let info = &params.screen_info;
        let byte = |at: usize| info.get(at).copied().unwrap_or_default();
        let half = |at: usize| u32::from(byte(at)) | u32::from(byte(at.saturating_add(1))) << 8;
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at.saturating_add(2))) << 16;
        let kind = byte(0x0f);
        let addr = word(0x18) | if word(0x36) & 2 != 0 { word(0x3a) << 32 } else { 0 };
        let colour = |at: usize| (byte(at.saturating_add(1)), byte(at));
        let common = framebuffer {
            addr: U64::new(addr),
            pitch: U32::new(half(0x24)),
            width: U32::new(half(0x12)),
            height: U32::new(half(0x14)),
            bpp: byte(0x16),
            r#type: FRAMEBUFFER_RGB,
        };
        let (red_position, red_size) = colour(0x26);
        let (green_position, green_size) = colour(0x28);
        let (blue_position, blue_size) = colour(0x2a);
        let colours = framebuffer_rgb { red_position, red_size, green_position, green_size, blue_position, blue_size };
        let usable = matches!(kind, VLFB | EFI) && addr != 0 && common.bpp >= 15 && common.pitch.get() != 0;
        usable.then_some(Self { common, colours })
    }
}

/// All there is to tell.
#[derive(Clone, Debug)]
pub struct Info<'a> {
    /// The kernel's own name and arguments.
    pub command_line: &'a str,
    /// Modules: memory and text.
    pub modules: &'a [(Range, String)],
    /// The machine's memory.
    pub map: &'a MemoryMap,
    /// KiB of memory from 0 on; at most 640.
    pub lower_kib: u32,
    /// The screen.
    pub screen: Option<Screen>,
    /// Where a relocatable kernel was put.
    pub load_base: Option<u64>,
}

impl Info<'_> {
    /// The structure as it must be if it lies at `base`, a multiple of 8. Its length does not depend on `base`.
    pub fn build(&self, version: Version, base: u64) -> Vec<u8> {
        match version {
            Version::One => self.version_1(base),
            Version::Two => self.version_2(),
        }
    }

    /// KiB of memory from 1 MiB on without a hole.
    fn upper_kib(&self) -> u32 {
        let ram = self.map.ram();
        let above = ram.find(MIB).map_or(0, |r| r.end().saturating_sub(MIB));
        u32::try_from(above / 1024).unwrap_or(u32::MAX)
    }

    fn version_1(&self, base: u64) -> Vec<u8> {
        let mut head = multiboot_info::new_zeroed();
        let colours = if self.screen.is_some() { size_of::<framebuffer_rgb>() } else { 0 };
        let mut tail = Tail { base, bytes: vec![0; size_of::<multiboot_info>().saturating_add(colours)] };
        head.mem_lower = U32::new(self.lower_kib);
        head.mem_upper = U32::new(self.upper_kib());
        head.cmdline = tail.text(self.command_line);
        head.boot_loader_name = tail.text(LOADER);
        let texts: Vec<U32> = self.modules.iter().map(|(_, text)| tail.text(text)).collect();
        let modules = self.modules.iter().zip(texts).map(|((range, _), cmdline)| mod_list {
            start: word(range.start()),
            end: word(range.end()),
            cmdline,
            pad: U32::new(0),
        });
        (head.mods_addr, head.mods_count) = tail.list(modules);
        let map = self.map.iter().map(|(range, kind)| mmap_entry {
            size: U32::new(20),
            addr: U64::new(range.start()),
            len: U64::new(range.len()),
            r#type: U32::new(wire(kind)),
        });
        let (addr, count) = tail.list(map);
        head.mmap_addr = addr;
        head.mmap_length = U32::new(count.get().saturating_mul(24));
        let mut flags = info::MEMORY | info::CMDLINE | info::MEM_MAP | info::BOOT_LOADER_NAME;
        flags |= if self.modules.is_empty() { 0 } else { info::MODS };
        let mut front = Vec::new();
        if let Some(screen) = &self.screen {
            flags |= info::FRAMEBUFFER;
            head.framebuffer = screen.common.clone();
            front.extend_from_slice(screen.colours.as_bytes());
        }
        head.flags = U32::new(flags);
        front.splice(0..0, head.as_bytes().iter().copied());
        if let Some(place) = tail.bytes.get_mut(..front.len()) {
            place.copy_from_slice(&front);
        }
        tail.bytes
    }

    fn version_2(&self) -> Vec<u8> {
        let mut list = vec![0; 8]; // total_size, reserved
        let memory = [U32::new(self.lower_kib), U32::new(self.upper_kib())];
        append(&mut list, tags::BASIC_MEMINFO, &[memory.as_bytes()]);
        let entries: Vec<mmap2_entry> = self
            .map
            .iter()
            .map(|(range, kind)| mmap2_entry {
                addr: U64::new(range.start()),
                len: U64::new(range.len()),
                r#type: U32::new(wire(kind)),
                zero: U32::new(0),
            })
            .collect();
        append(&mut list, tags::MMAP, &[[U32::new(24), U32::new(0)].as_bytes(), entries.as_bytes()]);
        if let Some(base) = self.load_base {
            append(&mut list, tags::LOAD_BASE_ADDR, &[word(base).as_bytes()]);
        }
        append(&mut list, tags::CMDLINE, &[self.command_line.as_bytes(), b"\0"]);
        append(&mut list, tags::BOOT_LOADER_NAME, &[LOADER.as_bytes(), b"\0"]);
        for (range, text) in self.modules {
            let ends = [word(range.start()), word(range.end())];
            append(&mut list, tags::MODULE, &[ends.as_bytes(), text.as_bytes(), b"\0"]);
        }
        if let Some(screen) = &self.screen {
            let common = framebuffer_tag { common: screen.common.clone(), reserved: U16::new(0) };
            let rgb = screen.common.r#type == FRAMEBUFFER_RGB;
            let colours: &[u8] = if rgb { screen.colours.as_bytes() } else { b"" };
            append(&mut list, tags::FRAMEBUFFER, &[common.as_bytes(), colours]);
        }
        append(&mut list, tags::END, &[]);
        let total = U32::new(u32::try_from(list.len()).unwrap_or(u32::MAX));
        if let Some(place) = list.get_mut(..4) {
            place.copy_from_slice(total.as_bytes());
        }
        list
    }
}

/// What hangs on version 1's structure, by absolute addresses.
struct Tail {
    base: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn here(&self) -> U32 {
        word(self.base.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)))
    }

    fn text(&mut self, text: &str) -> U32 {
        let at = self.here();
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        at
    }

    /// Address and number of items.
    fn list<T: IntoBytes + Immutable>(&mut self, items: impl Iterator<Item = T>) -> (U32, U32) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.here();
        let mut count = 0u32;
        for item in items {
            self.bytes.extend_from_slice(item.as_bytes());
            count = count.saturating_add(1);
        }
        (at, U32::new(count))
    }
}

/// A tag of version 2 with `parts` as its content, padded.
fn append(list: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    let len = parts.iter().map(|p| p.len()).sum::<usize>().saturating_add(size_of::<tag>());
    let head = tag { r#type: U32::new(kind), size: U32::new(u32::try_from(len).unwrap_or(u32::MAX)) };
    list.extend_from_slice(head.as_bytes());
    for part in parts {
        list.extend_from_slice(part);
    }
    list.resize(list.len().next_multiple_of(8), 0);
}

/// Multiboot's memory types are E820's first five.
fn wire(kind: MemoryType) -> u32 {
    match kind.to_wire() {
        known @ 1..=5 => known,
        _ => MemoryType::Reserved.to_wire(),
    }
}

/// An address below 4 GiB: the planner puts nothing elsewhere.
fn word(address: u64) -> U32 {
    U32::new(u32::try_from(address).unwrap_or(u32::MAX))
}
