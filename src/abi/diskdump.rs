//! The kdump-compressed format, version 6, 64-bit (makedumpfile's `diskdump_mod.h`, read by crash, drgn and libkdumpfile).
//!
//! ```text
//! 0              disk_dump_header, padded to a block
//! 1 block        kdump_sub_header, then the notes, padded (sub_hdr_size blocks)
//! then           bitmap 1: pages the machine has;  bitmap 2: pages that have a descriptor
//! then           page_desc[], one for each bit of bitmap 2, ascending
//! then           page data, anywhere, in any order
//! ```

use zerocopy::byteorder::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `KDUMP_SIGNATURE`.
pub const SIGNATURE: [u8; 8] = *b"KDUMP   ";
/// `header_version`: page frame numbers of 64 bits.
pub const HEADER_VERSION: i32 = 6;
/// `status` and `page_desc.flags`: zlib.
pub const DUMP_DH_COMPRESSED_ZLIB: u32 = 0x1;
/// `status` and `page_desc.flags`: LZO1X.
pub const DUMP_DH_COMPRESSED_LZO: u32 = 0x2;
/// `status` and `page_desc.flags`: snappy's block format.
pub const DUMP_DH_COMPRESSED_SNAPPY: u32 = 0x4;
/// `status`: not everything was written.
pub const DUMP_DH_COMPRESSED_INCOMPLETE: u32 = 0x8;
/// `status`: struct pages that describe only pages left out were left out too (makedumpfile -e).
pub const DUMP_DH_EXCLUDED_VMEMMAP: u32 = 0x10;
/// `status` and `page_desc.flags`: zstd.
pub const DUMP_DH_COMPRESSED_ZSTD: u32 = 0x20;

/// `struct new_utsname`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NewUtsname {
    /// `Linux`.
    pub sysname: [u8; 65],
    /// Host name.
    pub nodename: [u8; 65],
    /// Kernel release.
    pub release: [u8; 65],
    /// Kernel build.
    pub version: [u8; 65],
    /// `x86_64`.
    pub machine: [u8; 65],
    /// NIS domain.
    pub domainname: [u8; 65],
}

/// `struct disk_dump_header`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiskDumpHeader {
    /// [`SIGNATURE`].
    pub signature: [u8; 8],
    /// [`HEADER_VERSION`].
    pub header_version: I32,
    /// Of the crashed kernel.
    pub utsname: NewUtsname,
    /// Alignment of what follows.
    pub pad: [u8; 6],
    /// When the dump was taken.
    pub tv_sec: I64,
    /// 0: libkdumpfile takes some values for the block size of a 32-bit header.
    pub tv_usec: I64,
    /// `DUMP_DH_*`.
    pub status: U32,
    /// Bytes in a page.
    pub block_size: U32,
    /// Blocks of sub header and notes.
    pub sub_hdr_size: U32,
    /// Blocks of both bitmaps together.
    pub bitmap_blocks: U32,
    /// [`KdumpSubHeader::max_mapnr_64`] or all ones.
    pub max_mapnr: U32,
    /// Unused.
    pub total_ram_blocks: U32,
    /// Unused.
    pub device_blocks: U32,
    /// Unused.
    pub written_blocks: U32,
    /// Unused.
    pub current_cpu: U32,
    /// CPUs with registers in the notes.
    pub nr_cpus: I32,
}

/// `struct kdump_sub_header`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KdumpSubHeader {
    /// Physical address the kernel's image was moved by.
    pub phys_base: U64,
    /// Classes that were left out.
    pub dump_level: I32,
    /// Whether this is a part of a split dump.
    pub split: I32,
    /// Of a split dump, 32 bits.
    pub start_pfn: U64,
    /// Of a split dump, 32 bits.
    pub end_pfn: U64,
    /// Absolute.
    pub offset_vmcoreinfo: U64,
    /// Bytes.
    pub size_vmcoreinfo: U64,
    /// Absolute.
    pub offset_note: U64,
    /// Bytes.
    pub size_note: U64,
    /// Absolute.
    pub offset_eraseinfo: U64,
    /// Bytes.
    pub size_eraseinfo: U64,
    /// Of a split dump.
    pub start_pfn_64: U64,
    /// Of a split dump.
    pub end_pfn_64: U64,
    /// Page frames the bitmaps cover.
    pub max_mapnr_64: U64,
}

/// `struct page_desc`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PageDesc {
    /// Absolute offset of the data; 0: the page is missing.
    pub offset: U64,
    /// Bytes of data.
    pub size: U32,
    /// How it is compressed; 0 if it is not.
    pub flags: U32,
    /// Unused.
    pub page_flags: U64,
}

const _: () = {
    assert!(size_of::<NewUtsname>() == 390);
    assert!(size_of::<DiskDumpHeader>() == 464);
    assert!(size_of::<KdumpSubHeader>() == 104);
    assert!(size_of::<PageDesc>() == 24);
    assert!(std::mem::offset_of!(DiskDumpHeader, tv_sec) == 408);
    assert!(std::mem::offset_of!(DiskDumpHeader, status) == 424);
    assert!(std::mem::offset_of!(DiskDumpHeader, nr_cpus) == 460);
    assert!(std::mem::offset_of!(KdumpSubHeader, max_mapnr_64) == 96);
};
