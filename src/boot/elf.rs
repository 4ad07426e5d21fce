//! A program for the bare machine from an ELF file, told its command line by ELF boot notes (`--args-elf`) or nothing
//! (`--args-none`). An uncompressed Linux is no such program: see `kernel.rs`.
//!
//! The notes are those of the "ELF boot proposal" that etherboot and kexec-tools share: a header with an Internet
//! checksum, then notes without names for the loader's name, its version and the command line.

use super::linux::{Plan, len_of, next_limits};
use super::place::{Space, Wish};
use super::purgatory::{self, Settings, Start};
use super::{finish, parts};
use crate::error::{Error, Kind, Result};
use crate::host::Machine;
use crate::image::{Elf, elf};
use crate::mem::{Image, MIB, MemoryMap, Range, Segment};

const ELF_BOOT_MAGIC: u32 = 0x0e1f_b007;
const EBN_BOOTLOADER_NAME: u32 = 2;
const EBN_BOOTLOADER_VERSION: u32 = 3;
const EBN_COMMAND_LINE: u32 = 4;

/// What to load.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The program.
    pub elf: &'a Elf,
    /// Its command line; `None` if it takes no arguments.
    pub command_line: Option<&'a str>,
    /// The machine.
    pub machine: &'a Machine,
    /// Physical memory segments may lie in.
    pub window: Range,
    /// How the purgatory talks and whether it verifies.
    pub purgatory: Settings,
}

/// Places everything and checks it against every rule of the kernel.
///
/// # Errors
/// [`Kind::Invalid`] for what does not fit: such a program is loaded where it was linked for, or not at all.
pub fn plan(request: &Request<'_>) -> Result<Plan> {
    let limits = next_limits(request.machine, request.window);
    let mut space = Space::new(limits.memory.clone(), limits.memory_name);
    let mut segments = parts::segments(&request.elf.loads, 0, "program")?;
    parts::take_fixed(&mut space, &segments)?;
    let narrow = request.elf.machine == elf::Machine::I386;
    let above = Range::new(MIB, if narrow { 1 << 32 } else { u64::MAX }).unwrap_or_default();
    let mut notes_at = 0;
    if let Some(text) = request.command_line {
        let data = notes(text)?;
        let range = space.take("the ELF boot notes", Wish::pages(len_of(data.len()), above))?;
        notes_at = range.start();
        segments.push(Segment { name: "notes", data: data.into(), range });
    }
    let purgatory_at = space.take("the purgatory", Wish::pages(len_of(purgatory::len()), above))?;
    let mut settings = request.purgatory;
    settings.start = match narrow {
        true => start_32(request.elf.entry, notes_at)?,
        false => Start::Long { entry: request.elf.entry, rsi: 0, rdi: notes_at },
    };
    let mut image = Image { segments, ..Image::default() };
    finish(&mut image, &settings, purgatory_at, &limits)?;
    let command_line = request.command_line.unwrap_or_default().to_owned();
    Ok(Plan { image, command_line, map: MemoryMap::default(), modules: Vec::new(), notices: Vec::new() })
}

fn start_32(entry: u64, notes_at: u64) -> Result<Start> {
    match (u32::try_from(entry), u32::try_from(notes_at)) {
        (Ok(entry), Ok(ebx)) => {
            Ok(Start::Protected { entry, esi: 0, eax: if ebx == 0 { 0 } else { ELF_BOOT_MAGIC }, ebx })
        }
        _ => Err(Error::new(Kind::Invalid, format!("the 32-bit program's entry point {entry:#x} lies above 4 GiB"))),
    }
}

/// Header and three notes.
fn notes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend(ELF_BOOT_MAGIC.to_le_bytes());
    bytes.extend([0; 4]); // size
    bytes.extend([0; 2]); // checksum
    bytes.extend(3u16.to_le_bytes());
    let version = env!("CARGO_PKG_VERSION");
    let all = [(EBN_BOOTLOADER_NAME, "kdumpbox"), (EBN_BOOTLOADER_VERSION, version), (EBN_COMMAND_LINE, text)];
    for (kind, value) in all {
        let len = u32::try_from(value.len()).ok().and_then(|n| n.checked_add(1));
        let len = len.ok_or_else(|| Error::new(Kind::Invalid, "the command line is longer than 4 GiB"))?;
        for word in [0, len, kind] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(value.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&size);
    }
    let sum = internet_checksum(&bytes).to_le_bytes();
    if let Some(place) = bytes.get_mut(8..10) {
        place.copy_from_slice(&sum);
    }
    Ok(bytes)
}

/// The ones' complement of the ones' complement sum of all 16-bit words (RFC 1071).
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|c| u64::from(c.first().copied().unwrap_or(0)) | u64::from(c.get(1).copied().unwrap_or(0)) << 8);
    let mut sum: u64 = words.fold(0, u64::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_sum_to_zero_and_hold_the_command_line() {
        let bytes = notes("a=1 b").expect("made");
        assert_eq!(bytes[..4], ELF_BOOT_MAGIC.to_le_bytes());
        assert_eq!(u32::from_le_bytes(bytes[4..8].try_into().expect("four")), bytes.len() as u32);
        assert_eq!(internet_checksum(&bytes), 0);
        let tail = &bytes[bytes.len() - 20..];
        assert_eq!(tail[..12], [0, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(&tail[12..], b"a=1 b\0\0\0");
    }
}
