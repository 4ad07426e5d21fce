//! Multiboot kernels, Xen among them: the header, of version 1 or 2, and what it asks for.

use super::elf::Load;

/// Where a relocatable kernel may go (`MULTIBOOT_HEADER_TAG_RELOCATABLE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocatable {
    /// Lowest address.
    pub min: u64,
    /// First address behind the highest.
    pub end: u64,
    /// A power of two, at least a page.
    pub align: u64,
}

/// The protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Multiboot 0.6.96: EAX is 0x2BADB002.
    One,
    /// Multiboot 2: EAX is 0x36D76289.
    Two,
}

/// A multiboot kernel whose header this loader can satisfy.
#[derive(Clone, Debug)]
pub struct Multiboot {
    /// By which protocol.
    pub version: Version,
    /// Physical entry point, for the addresses of `loads`.
    pub entry: u64,
    /// Its parts, as in [`super::Elf`]: of the ELF headers, or of the header's own address fields.
    pub loads: Vec<Load>,
    /// Whether and where it may be moved.
    pub relocatable: Option<Relocatable>,
    /// Whether it asks for a screen.
    pub wants_framebuffer: bool,
}
