//! What a multiboot loader hands over: version 1 (Multiboot Specification 0.6.96, section 3.3) and 2 (Multiboot2
//! Specification 2.0, section 3.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `multiboot_info` of version 1.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct multiboot_info {
    pub flags: U32,
    pub mem_lower: U32,
    pub mem_upper: U32,
    pub boot_device: U32,
    pub cmdline: U32,
    pub mods_count: U32,
    pub mods_addr: U32,
    pub syms: [U32; 4],
    pub mmap_length: U32,
    pub mmap_addr: U32,
    pub drives_length: U32,
    pub drives_addr: U32,
    pub config_table: U32,
    pub boot_loader_name: U32,
    pub apm_table: U32,
    pub vbe: [U32; 4],
    pub framebuffer: framebuffer,
}

/// The screen: the end of `multiboot_info`, and the content of a version 2 tag.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug, Default, PartialEq, Eq)]
pub struct framebuffer {
    pub addr: U64,
    pub pitch: U32,
    pub width: U32,
    pub height: U32,
    pub bpp: u8,
    pub r#type: u8,
}

/// Position and width in bits of the colours of an RGB framebuffer.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug, Default, PartialEq, Eq)]
pub struct framebuffer_rgb {
    pub red_position: u8,
    pub red_size: u8,
    pub green_position: u8,
    pub green_size: u8,
    pub blue_position: u8,
    pub blue_size: u8,
}

/// A module of version 1.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct mod_list {
    pub start: U32,
    pub end: U32,
    pub cmdline: U32,
    pub pad: U32,
}

/// A range of memory in version 1. `size` does not count itself.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct mmap_entry {
    pub size: U32,
    pub addr: U64,
    pub len: U64,
    pub r#type: U32,
}

/// A range of memory in version 2.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct mmap2_entry {
    pub addr: U64,
    pub len: U64,
    pub r#type: U32,
    pub zero: U32,
}

/// Head of a tag of version 2; `size` counts it and its content, not the padding to 8 bytes.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct tag {
    pub r#type: U32,
    pub size: U32,
}

/// Content of a framebuffer tag, before the colours.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct framebuffer_tag {
    pub common: framebuffer,
    pub reserved: U16,
}

/// In EAX for version 1.
pub const BOOTLOADER_MAGIC: u32 = 0x2bad_b002;
/// In EAX for version 2.
pub const BOOTLOADER_MAGIC2: u32 = 0x36d7_6289;

/// Flags of [`multiboot_info`].
#[allow(missing_docs)]
pub mod info {
    pub const MEMORY: u32 = 1 << 0;
    pub const CMDLINE: u32 = 1 << 2;
    pub const MODS: u32 = 1 << 3;
    pub const MEM_MAP: u32 = 1 << 6;
    pub const BOOT_LOADER_NAME: u32 = 1 << 9;
    pub const FRAMEBUFFER: u32 = 1 << 12;
}

/// Types of tags of version 2.
#[allow(missing_docs)]
pub mod tags {
    pub const END: u32 = 0;
    pub const CMDLINE: u32 = 1;
    pub const BOOT_LOADER_NAME: u32 = 2;
    pub const MODULE: u32 = 3;
    pub const BASIC_MEMINFO: u32 = 4;
    pub const MMAP: u32 = 6;
    pub const FRAMEBUFFER: u32 = 8;
    pub const LOAD_BASE_ADDR: u32 = 21;
}

/// `framebuffer.type`: pixels of red, green and blue.
pub const FRAMEBUFFER_RGB: u8 = 1;
/// `framebuffer.type`: VGA text.
pub const FRAMEBUFFER_EGA_TEXT: u8 = 2;

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(multiboot_info, mmap_length) == 44 && offset_of!(multiboot_info, boot_loader_name) == 64);
    assert!(offset_of!(multiboot_info, framebuffer) == 88 && size_of::<multiboot_info>() == 110);
    assert!(size_of::<framebuffer_rgb>() == 6 && size_of::<mod_list>() == 16 && size_of::<mmap_entry>() == 24);
    assert!(size_of::<mmap2_entry>() == 24 && size_of::<framebuffer_tag>() == 24);
};
