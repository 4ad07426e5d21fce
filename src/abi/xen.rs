//! Xen's kexec hypercall (`xen/include/public/kexec.h`), the map of machine memory (`public/memory.h`) and Linux's way
//! to hypercalls (`include/uapi/xen/privcmd.h`).

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `privcmd_hypercall`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
pub struct privcmd_hypercall {
    pub op: u64,
    pub arg: [u64; 5],
}

/// `IOCTL_PRIVCMD_HYPERCALL`: `_IOC(_IOC_NONE, 'P', 0, sizeof(privcmd_hypercall))`
pub const IOCTL_PRIVCMD_HYPERCALL: u64 = 0x30_5000;

/// `__HYPERVISOR_memory_op`
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_xen_version`
pub const HYPERVISOR_XEN_VERSION: u64 = 17;
/// `XENVER_commandline`
pub const XENVER_COMMANDLINE: u64 = 9;
/// Bytes of `xen_commandline_t`.
pub const XEN_COMMANDLINE_LEN: usize = 1024;
/// `__HYPERVISOR_kexec_op`
pub const HYPERVISOR_KEXEC_OP: u64 = 37;

/// `XENMEM_machine_memory_map`
pub const XENMEM_MACHINE_MEMORY_MAP: u64 = 10;
/// `KEXEC_CMD_kexec`
pub const KEXEC_CMD_KEXEC: u64 = 0;
/// `KEXEC_CMD_kexec_get_range`
pub const KEXEC_CMD_GET_RANGE: u64 = 3;
/// `KEXEC_CMD_kexec_load`, of Xen 4.4
pub const KEXEC_CMD_LOAD: u64 = 4;
/// `KEXEC_CMD_kexec_unload`, of Xen 4.4
pub const KEXEC_CMD_UNLOAD: u64 = 5;
/// `KEXEC_CMD_kexec_status`, of Xen 4.9
pub const KEXEC_CMD_STATUS: u64 = 6;

/// `KEXEC_TYPE_DEFAULT`
pub const KEXEC_TYPE_DEFAULT: u8 = 0;
/// `KEXEC_TYPE_CRASH`
pub const KEXEC_TYPE_CRASH: u8 = 1;

/// `KEXEC_RANGE_MA_CRASH`
pub const KEXEC_RANGE_MA_CRASH: i32 = 0;
/// `KEXEC_RANGE_MA_CPU`
pub const KEXEC_RANGE_MA_CPU: i32 = 2;
/// `KEXEC_RANGE_MA_VMCOREINFO`
pub const KEXEC_RANGE_MA_VMCOREINFO: i32 = 6;

/// Segments of an image: one less than `KEXEC_SEGMENT_MAX`, which `kexec_load` in Xen refuses already.
pub const XEN_SEGMENTS: usize = 15;
/// `EM_X86_64`: the image is entered in long mode.
pub const EM_X86_64: u16 = 62;

/// `xen_kexec_exec`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
pub struct xen_kexec_exec {
    pub r#type: I32,
}

/// `xen_kexec_range`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
pub struct xen_kexec_range {
    pub range: I32,
    pub nr: I32,
    pub size: U64,
    pub start: U64,
}

/// `xen_kexec_segment`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
pub struct xen_kexec_segment {
    pub buf: U64,
    pub buf_size: U64,
    pub dest_maddr: U64,
    pub dest_size: U64,
}

/// `xen_kexec_load`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
pub struct xen_kexec_load {
    pub r#type: u8,
    pub _pad: u8,
    pub arch: U16,
    pub nr_segments: U32,
    pub segments: U64,
    pub entry_maddr: U64,
}

/// `xen_memory_map`
#[allow(non_camel_case_types, missing_docs)]
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
pub struct xen_memory_map {
    pub nr_entries: U32,
    pub _pad: U32,
    pub buffer: U64,
}

/// Offset of `xen_kexec_load::segments`.
pub const LOAD_SEGMENTS_AT: usize = 8;
/// Offset of `xen_memory_map::buffer`.
pub const MAP_BUFFER_AT: usize = 8;

const _: () = {
    assert!(size_of::<privcmd_hypercall>() == 48);
    assert!(size_of::<xen_kexec_exec>() == 4);
    assert!(size_of::<xen_kexec_range>() == 24);
    assert!(size_of::<xen_kexec_segment>() == 32);
    assert!(size_of::<xen_kexec_load>() == 24);
    assert!(std::mem::offset_of!(xen_kexec_load, segments) == LOAD_SEGMENTS_AT);
    assert!(size_of::<xen_memory_map>() == 16);
    assert!(std::mem::offset_of!(xen_memory_map, buffer) == MAP_BUFFER_AT);
};
