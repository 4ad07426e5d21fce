//! What a kernel file is: sniff its magic, unwrap compression, read its header.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod bzimage;
pub mod checksum;
pub mod decompress;
pub mod elf;
mod le;
mod lzo;
pub mod multiboot;

pub use bzimage::BzImage;
pub use elf::Elf;
pub use multiboot::Multiboot;

use crate::error::{Error, Kind, Result};
use crate::mem::Bytes;

/// Most bytes a compressed kernel may unpack to: larger is taken for a decompression bomb.
pub const MAX_UNPACKED: usize = 1 << 30;

/// A kernel that can be loaded.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A Linux/x86 boot image.
    BzImage(Box<BzImage>),
    /// An ELF executable that is not multiboot.
    Elf(Box<Elf>),
    /// A multiboot kernel.
    Multiboot(Box<Multiboot>),
}

/// What a unified kernel image carries besides its kernel.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// Microcode, then the initrd.
    pub initrds: Vec<Bytes>,
    /// The command line.
    pub command_line: Option<String>,
}

/// A kernel's file, understood.
#[derive(Clone, Debug)]
pub struct Sniffed {
    /// What it is.
    pub kernel: Kernel,
    /// Its bytes, unpacked.
    pub bytes: Bytes,
    /// Whether they were compressed in the file.
    pub was_packed: bool,
    /// What came with it.
    pub embedded: Option<Embedded>,
}

/// Finds out what `file` is, unwrapping compression as often as it is wrapped. The file's name goes in front of any
/// error by the caller.
///
/// # Errors
/// [`Kind::Invalid`]: empty, unknown, truncated or broken.
pub fn sniff(file: Vec<u8>, _wanted: Option<Type>) -> Result<Sniffed> {
    let mut file = file;
    for layer in 0..4 {
        if file.is_empty() {
            return Err(Error::new(Kind::Invalid, "the file is empty; a bzImage (vmlinuz) is needed"));
        }
        if let Some(unpacked) = decompress::unwrap(&file, MAX_UNPACKED)? {
            file = unpacked;
            continue;
        }
        let bytes = Bytes::from(file);
        let elf = Elf::parse(&bytes)?;
        if let Some(kernel) = Multiboot::find(&bytes, elf.as_ref())? {
            return Ok(Sniffed { kernel: Kernel::Multiboot(Box::new(kernel)), bytes, was_packed: layer > 0, embedded: None });
        }
        if let Some(elf) = elf {
            return Ok(Sniffed { kernel: Kernel::Elf(Box::new(elf)), bytes, was_packed: layer > 0, embedded: None });
        }
        return match BzImage::parse(&bytes)? {
            Some(image) => Ok(Sniffed { kernel: Kernel::BzImage(Box::new(image)), bytes, was_packed: layer > 0, embedded: None }),
            None => Err(Error::new(Kind::Invalid, unknown(&bytes))),
        };
    }
    Err(Error::new(Kind::Invalid, "compressed more than three times over"))
}

/// A wanted type.
#[derive(Clone, Copy, Debug)]
pub struct Type;

impl std::str::FromStr for Type {
    type Err = Error;
    fn from_str(_: &str) -> Result<Self> {
        Ok(Self)
    }
}

fn unknown(file: &[u8]) -> String {
    let known: [(&[u8], &str); 3] = [
        (b"\x7fELF", "an ELF file"),
        (b"MZ", "an EFI program without a Linux boot header"),
        (b"07070", "a cpio archive"),
    ];
    let what = known.iter().find(|(magic, _)| file.starts_with(magic)).map_or("of an unknown type", |(_, name)| name);
    let head: Vec<String> = file.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("the file is {what} (it begins with {}); a bzImage (vmlinuz) is needed", head.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_said_in_one_sentence() {
        for (file, text) in [
            (&b""[..], "the file is empty"),
            (&[0; 4096], "begins with 00 00 00"),
            (b"#!/bin/sh\n", "of an unknown type"),
            (b"\x7fELF\x02\x01\x01", "an ELF file"),
            (b"MZ\0\0", "an EFI program"),
        ] {
            let e = sniff(file.to_vec(), None).expect_err("refused");
            assert!(e.to_string().contains(text), "{e} lacks {text}");
        }
    }
}
