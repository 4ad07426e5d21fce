//! Descriptors of the notes that Xen adds to a vmcore (xen/include/xen/elfcore.h, xen/include/public/elfnote.h), x86_64.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Name of the notes below.
pub const NAME: &[u8] = b"Xen";
/// Name of the note with the hypervisor's own VMCOREINFO text.
pub const VMCOREINFO_XEN: &[u8] = b"VMCOREINFO_XEN";
/// `XEN_ELFNOTE_CRASH_INFO`: [`CrashXenInfo`], once.
pub const XEN_ELFNOTE_CRASH_INFO: u32 = 0x100_0001;
/// `XEN_ELFNOTE_CRASH_REGS`: [`CrashXenCore`], once for each CPU.
pub const XEN_ELFNOTE_CRASH_REGS: u32 = 0x100_0002;

/// `crash_xen_core_t`: a CPU's control registers.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CrashXenCore {
    /// CR0.
    pub cr0: U64,
    /// CR2: the last page fault's address.
    pub cr2: U64,
    /// CR3: machine address of the page table in use.
    pub cr3: U64,
    /// CR4.
    pub cr4: U64,
}

/// `crash_xen_info_t`: the hypervisor about itself. Strings are given by machine address.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CrashXenInfo {
    /// 4 of 4.17.7.
    pub xen_major_version: U64,
    /// 17 of 4.17.7.
    pub xen_minor_version: U64,
    /// String: `.7` of 4.17.7.
    pub xen_extra_version: U64,
    /// String.
    pub xen_changeset: U64,
    /// String.
    pub xen_compiler: U64,
    /// String.
    pub xen_compile_date: U64,
    /// String.
    pub xen_compile_time: U64,
    /// `TAINT_*`.
    pub tainted: U64,
    /// Machine address of the hypervisor's image, where `XEN_VIRT_START` is mapped.
    pub xen_phys_start: U64,
    /// Machine frame of the root of dom0's p2m list.
    pub dom0_pfn_to_mfn_frame_list_list: U64,
}

const _: () = {
    assert!(size_of::<CrashXenCore>() == 32);
    assert!(size_of::<CrashXenInfo>() == 80);
    assert!(std::mem::offset_of!(CrashXenInfo, tainted) == 56);
    assert!(std::mem::offset_of!(CrashXenInfo, dom0_pfn_to_mfn_frame_list_list) == 72);
};
