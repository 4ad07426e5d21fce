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
pub mod uki;

pub use bzimage::BzImage;
pub use elf::Elf;
pub use multiboot::Multiboot;
pub use uki::Embedded;

use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::mem::Bytes;
use elf::Machine;
use multiboot::Version;

/// Most bytes a compressed kernel may unpack to: larger is taken for a decompression bomb.
pub const MAX_UNPACKED: usize = 1 << 30;
/// Wrappings around a kernel that are taken off: compression, and a unified kernel image.
const MAX_LAYERS: usize = 4;
/// An EFI program's first bytes.
const EFI: &[u8] = b"MZ";
/// What can be loaded, for messages.
const NEEDED: &str =
    "a bzImage (vmlinuz), a vmlinux, another ELF executable, a multiboot kernel (Xen) or a UKI is needed";

/// A kernel that can be loaded.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A Linux/x86 boot image.
    BzImage(Box<BzImage>),
    /// An ELF executable, an uncompressed Linux perhaps ([`Elf::is_linux`]).
    Elf(Box<Elf>),
    /// A multiboot kernel.
    Multiboot(Box<Multiboot>),
}

impl Kernel {
    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Kernel::BzImage(_) => "a bzImage",
            Kernel::Elf(elf) => match (elf.is_linux(), elf.machine) {
                (true, Machine::X86_64) => "an uncompressed Linux (vmlinux, ELF for x86_64)",
                (true, Machine::I386) => "an uncompressed Linux (vmlinux, ELF for i386)",
                (false, Machine::X86_64) => "an ELF executable for x86_64",
                (false, Machine::I386) => "an ELF executable for i386",
            },
            Kernel::Multiboot(kernel) => match kernel.version {
                Version::One => "a multiboot kernel",
                Version::Two => "a multiboot2 kernel",
            },
        }
    }
}

/// What the user says a file is (`--type`), by kexec-tools' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `multiboot2-x86`
    Multiboot2,
    /// `elf-x86_64`
    Elf64,
    /// `multiboot-x86`
    Multiboot,
    /// `elf-x86`
    Elf32,
    /// `bzImage64`: one with the 64-bit entry point, that may be loaded anywhere.
    BzImage64,
    /// `bzImage`
    BzImage,
    /// `uki`
    Uki,
}

impl Type {
    /// All, in the order in which kexec-tools tries them.
    const NAMES: [(&str, Type); 7] = [
        ("multiboot2-x86", Type::Multiboot2),
        ("elf-x86_64", Type::Elf64),
        ("multiboot-x86", Type::Multiboot),
        ("elf-x86", Type::Elf32),
        ("bzImage64", Type::BzImage64),
        ("bzImage", Type::BzImage),
        ("uki", Type::Uki),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Reads `file` as this and nothing else; `None` if it is something else.
    fn read(self, file: &Bytes) -> Result<Option<Found>> {
        let elf = |machine| Ok(Elf::parse(file)?.filter(|elf| elf.machine == machine).map(Found::elf));
        let multiboot = |version| {
            let elf = Elf::parse(file);
            Ok(Multiboot::find_version(file, elf.as_ref().ok().and_then(Option::as_ref), version)?
                .map(Found::multiboot))
        };
        match self {
            Type::Multiboot2 => multiboot(Version::Two),
            Type::Multiboot => multiboot(Version::One),
            Type::Elf64 => elf(Machine::X86_64),
            Type::Elf32 => elf(Machine::I386),
            Type::BzImage64 => {
                Ok(BzImage::parse(file)?.filter(|image| image.has_entry_64() && image.above_4g()).map(Found::bzimage))
            }
            Type::BzImage => Ok(BzImage::parse(file)?.map(Found::bzimage)),
            Type::Uki => Ok(uki::parse(file)?.map(Found::Uki)),
        }
    }
}

/// By its name; [`Kind::Invalid`] for one that is unknown, or one of kexec-tools' that is not supported.
impl FromStr for Type {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some((_, found)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*found);
        }
        let known: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
        let why = match name {
            "beoboot-x86" | "nbi-x86" => "not supported: network boot images have been out of use since 2010",
            _ => "unknown",
        };
        let text = format!("unsupported kernel type '{name}' is {why}; use {}, or leave --type out", known.join(", "));
        Err(Error::new(Kind::Invalid, text))
    }
}

/// A file without compression, read.
enum Found {
    Kernel(Kernel),
    /// The kernel inside, which is yet to be read, and what comes with it.
    Uki((Bytes, Embedded)),
}

impl Found {
    fn bzimage(image: BzImage) -> Self {
        Found::Kernel(Kernel::BzImage(Box::new(image)))
    }

    fn elf(elf: Elf) -> Self {
        Found::Kernel(Kernel::Elf(Box::new(elf)))
    }

    fn multiboot(kernel: Multiboot) -> Self {
        Found::Kernel(Kernel::Multiboot(Box::new(kernel)))
    }

    fn describe(&self) -> &'static str {
        match self {
            Found::Kernel(kernel) => kernel.describe(),
            Found::Uki(_) => "a unified kernel image",
        }
    }

    /// Reads `file` as what it is.
    fn in_file(file: &Bytes) -> Result<Option<Self>> {
        let elf = Elf::parse(file);
        let multiboot = Multiboot::find(file, elf.as_ref().ok().and_then(Option::as_ref));
        match (elf, multiboot) {
            (Ok(Some(elf)), Ok(None)) => Ok(Some(Found::elf(elf))),
            (Ok(Some(elf)), _) if elf.is_linux() => Ok(Some(Found::elf(elf))),
            // With addresses in its own header, its ELF headers need not be usable.
            (_, Ok(Some(kernel))) => Ok(Some(Found::multiboot(kernel))),
            (Err(error), _) | (Ok(Some(_)), Err(error)) => Err(error),
            (Ok(None), multiboot) => {
                if let Some(image) = BzImage::parse(file)? {
                    return Ok(Some(Found::bzimage(image)));
                }
                match uki::parse(file)? {
                    Some(uki) => Ok(Some(Found::Uki(uki))),
                    // Xen's EFI program has the multiboot2 header of its ELF file, and no use for it.
                    None if file.starts_with(EFI) => Ok(None),
                    // A header that cannot be used is worth a word only if the file is nothing else.
                    None => multiboot.map(|_| None),
                }
            }
        }
    }
}

/// A kernel's file, understood.
#[derive(Clone, Debug)]
pub struct Sniffed {
    /// What it is.
    pub kernel: Kernel,
    /// Its bytes, unpacked.
    pub bytes: Bytes,
    /// Whether they are not the file's own: it was compressed, or a unified kernel image around the kernel.
    pub was_packed: bool,
    /// What a unified kernel image carried beside the kernel, if it was one.
    pub embedded: Option<Embedded>,
}

/// Finds out what `file` is, taking off what is wrapped around it: compression, a unified kernel image. A Linux is a
/// Linux whatever else it looks like; then multiboot (2 before 1), other ELF executables, bzImage, UKI. With `wanted`
/// the file, once unpacked, is read as that only. The file's name goes in front of any error by the caller.
///
/// # Errors
/// [`Kind::Invalid`]: empty, unknown, truncated or broken, or not what was wanted.
pub fn sniff(file: Vec<u8>, wanted: Option<Type>) -> Result<Sniffed> {
    if file.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("the file is empty; {NEEDED}")));
    }
    let (mut bytes, mut wanted) = (Bytes::from(file), wanted);
    let mut embedded = None;
    for layer in 0..MAX_LAYERS {
        if let Some(unpacked) = decompress::unwrap(&bytes, MAX_UNPACKED)? {
            bytes = Bytes::from(unpacked);
            continue;
        }
        let found = match wanted {
            None => Found::in_file(&bytes)?,
            Some(wanted) => Some(wanted.read(&bytes)?.ok_or_else(|| wrong_type(wanted, &bytes))?),
        };
        match found {
            Some(Found::Kernel(kernel)) => return Ok(Sniffed { kernel, bytes, was_packed: layer > 0, embedded }),
            Some(Found::Uki(_)) if embedded.is_some() => break,
            Some(Found::Uki((kernel, beside))) => {
                // The type was that of the file; the kernel in it is what it is.
                (bytes, embedded, wanted) = (kernel, Some(beside), None);
            }
            None => {
                let what = unknown(&bytes);
                return Err(Error::new(Kind::Invalid, format!("the file is {what}; {NEEDED}")));
            }
        }
    }
    let text = format!("the kernel is wrapped {MAX_LAYERS} times or a unified kernel image twice over; {NEEDED}");
    Err(Error::new(Kind::Invalid, text))
}

fn wrong_type(wanted: Type, file: &Bytes) -> Error {
    let what = match Found::in_file(file) {
        Ok(Some(found)) => found.describe().to_owned(),
        Ok(None) => unknown(file),
        Err(error) => format!("broken ({error})"),
    };
    let name = wanted.name();
    Error::new(Kind::Invalid, format!("wrong file type '{name}': the file is {what}; correct --type or leave it out"))
}

/// What a file is that is no kernel, as far as its first bytes tell.
fn unknown(file: &[u8]) -> String {
    let known: [(&[u8], &str); 3] =
        [(EFI, "a DOS or EFI program without a Linux in it"), (b"07070", "a cpio archive"), (&[0; 8], "full of zeros")];
    let what = known.iter().find(|(magic, _)| file.starts_with(magic)).map_or("of an unknown type", |(_, name)| name);
    if file.starts_with(EFI) && Version::Two.locate(file).is_some() {
        return "an EFI program with a multiboot2 header, Xen's perhaps; of Xen its other file (xen.gz) is loaded"
            .to_owned();
    }
    let head: Vec<String> = file.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{what} (it begins with {})", head.join(" "))
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
            (b"\x7fELF\x02\x01\x01", "ELF header is truncated"),
            (b"MZ\0\0", "DOS or EFI program"),
        ] {
            let e = sniff(file.to_vec(), None).expect_err("refused");
            assert!(e.to_string().contains(text), "{e} lacks {text}");
        }
    }
}
