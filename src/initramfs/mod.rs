//! The minimal crash initramfs: our binary, its names, the kernel modules the target needs, `kdump.conf`. No shell, no
//! C library. Built from a kernel's module directory alone, without the machine it is for and without kmod.
//!
//! `modinfo` reads what a module says of itself, `closure` picks the modules, `cpio` writes the archive, `build`
//! strings them together.

pub mod build;
pub mod closure;
pub mod cpio;
pub mod modinfo;
pub mod packed;
