//! The Linux/x86 boot protocol (`Documentation/arch/x86/boot.rst`, `arch/x86/include/uapi/asm/bootparam.h`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `setup_header`: at 0x1f1 of an image and of `boot_params`.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct setup_header {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    pub jump: U16,
    pub header: U32,
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}

/// `boot_e820_entry`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
pub struct boot_e820_entry {
    pub addr: U64,
    pub size: U64,
    pub r#type: U32,
}

/// `efi_info`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug, Default)]
pub struct efi_info {
    pub efi_loader_signature: U32,
    pub efi_systab: U32,
    pub efi_memdesc_size: U32,
    pub efi_memdesc_version: U32,
    pub efi_memmap: U32,
    pub efi_memmap_size: U32,
    pub efi_systab_hi: U32,
    pub efi_memmap_hi: U32,
}

/// `boot_params`, the zero page. Fields that nothing here reads or writes are part of the `_pad` arrays.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct boot_params {
    pub screen_info: [u8; 0x40],
    pub _pad1: [u8; 0x30],
    pub acpi_rsdp_addr: U64,
    pub _pad2: [u8; 0x48],
    pub ext_ramdisk_image: U32,
    pub ext_ramdisk_size: U32,
    pub ext_cmd_line_ptr: U32,
    pub _pad3: [u8; 0x74],
    pub edid_info: [u8; 0x80],
    pub efi_info: efi_info,
    pub alt_mem_k: U32,
    pub scratch: U32,
    pub e820_entries: u8,
    pub eddbuf_entries: u8,
    pub edd_mbr_sig_buf_entries: u8,
    pub kbd_status: u8,
    pub secure_boot: u8,
    pub _pad4: [u8; 2],
    pub sentinel: u8,
    pub _pad5: [u8; 1],
    pub hdr: setup_header,
    pub _pad6: [u8; 0x24],
    pub edd_mbr_sig_buffer: [u8; 0x40],
    pub e820_table: [boot_e820_entry; E820_MAX_ENTRIES_ZEROPAGE],
    pub _pad7: [u8; 0x30],
    pub eddbuf: [u8; 0x1ec],
    pub _pad8: [u8; 0x114],
}

/// `setup_data`: a node of the list behind `setup_header.setup_data`; its data follows.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct setup_data {
    pub next: U64,
    pub r#type: U32,
    pub len: U32,
}

/// `efi_setup_data`: content of a `SETUP_EFI` node.
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Debug)]
pub struct efi_setup_data {
    pub fw_vendor: U64,
    pub __unused: U64,
    pub tables: U64,
    pub smbios: U64,
    pub reserved: [U64; 8],
}

/// `E820_MAX_ENTRIES_ZEROPAGE`
pub const E820_MAX_ENTRIES_ZEROPAGE: usize = 128;
/// Offset of [`setup_header`].
pub const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// `boot_flag`
pub const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS"
pub const HEADER_MAGIC: u32 = 0x5372_6448;
/// `loadflags`: the protected-mode code is loaded at 1 MiB.
pub const LOADED_HIGH: u8 = 1;
/// `loadflags`: `heap_end_ptr` is filled in.
pub const CAN_USE_HEAP: u8 = 0x80;
/// `xloadflags`: there is a 64-bit entry point at 0x200.
pub const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: kernel, boot_params, command line and ramdisk may lie above 4 GiB.
pub const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// `xloadflags`: takes EFI runtime memory from kexec.
pub const XLF_EFI_KEXEC: u16 = 1 << 4;
/// `xloadflags`: can be entered with 5-level paging on.
pub const XLF_5LEVEL: u16 = 1 << 5;
/// `setup_data` of further E820 entries.
pub const SETUP_E820_EXT: u32 = 1;
/// `setup_data` of a device tree.
pub const SETUP_DTB: u32 = 2;
/// `setup_data` of EFI tables.
pub const SETUP_EFI: u32 = 4;
/// `setup_data` of 32 random bytes.
pub const SETUP_RNG_SEED: u32 = 9;
/// `type_of_loader`: kexec.
pub const LOADER_TYPE_KEXEC: u8 = 0xd0;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<setup_header>() == 0x7b);
    assert!(size_of::<boot_params>() == 4096);
    assert!(size_of::<efi_info>() == 32 && size_of::<boot_e820_entry>() == 20 && size_of::<setup_data>() == 16);
    assert!(size_of::<efi_setup_data>() == 96);
    assert!(SETUP_HEADER_OFFSET + offset_of!(setup_header, header) == 0x202);
    assert!(SETUP_HEADER_OFFSET + offset_of!(setup_header, xloadflags) == 0x236);
    assert!(SETUP_HEADER_OFFSET + offset_of!(setup_header, init_size) == 0x260);
    assert!(offset_of!(boot_params, acpi_rsdp_addr) == 0x70 && offset_of!(boot_params, ext_ramdisk_image) == 0xc0);
    assert!(offset_of!(boot_params, efi_info) == 0x1c0 && offset_of!(boot_params, e820_entries) == 0x1e8);
    assert!(offset_of!(boot_params, secure_boot) == 0x1ec && offset_of!(boot_params, hdr) == SETUP_HEADER_OFFSET);
    assert!(offset_of!(boot_params, edd_mbr_sig_buffer) == 0x290 && offset_of!(boot_params, e820_table) == 0x2d0);
    assert!(offset_of!(boot_params, eddbuf) == 0xd00);
};
