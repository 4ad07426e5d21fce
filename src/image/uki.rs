//! Unified kernel images: an EFI program (PE32+, x86_64) that carries a Linux and what it needs in sections
//! (UAPI group specification 5, "Unified Kernel Image").
//!
//! Profiles: the sections before the first `.profile` are the base, those behind it are that profile's. What boots
//! without a choice is profile 0, the first; so its sections win over the base's of the same name, and further profiles
//! are not looked at. Of several sections of one name the first counts, as in systemd-stub. Device trees (`.dtbauto`),
//! splash and signatures have no part in a kexec, nor has `.osrel`, which names the system and not the kernel.

use super::le;
use crate::error::{Error, Kind, Result};
use crate::mem::Bytes;

/// `IMAGE_FILE_MACHINE_AMD64`
const MACHINE: u16 = 0x8664;
/// `IMAGE_NT_OPTIONAL_HDR64_MAGIC`
const PE32_PLUS: u16 = 0x20b;
/// `sizeof(IMAGE_SECTION_HEADER)`
const SECTION: usize = 40;
/// Bytes of signature and `IMAGE_FILE_HEADER`; the optional header follows.
const FILE_HEADER: usize = 24;

/// What a unified kernel image carries beside its kernel.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// Microcode (`.ucode`) first, then the initrd (`.initrd`); each as it is, without padding.
    pub initrds: Vec<Bytes>,
    /// The command line (`.cmdline`), on one line, without space around it.
    pub command_line: Option<String>,
    /// The kernel's release (`.uname`).
    pub release: Option<String>,
}

/// A section: its name and its bytes in the file.
struct Section {
    name: [u8; 8],
    data: Bytes,
}

impl Section {
    fn is(&self, name: &str) -> bool {
        let (head, padding) = self.name.split_at_checked(name.len()).unwrap_or_default();
        head == name.as_bytes() && padding.iter().all(|b| *b == 0)
    }
}

/// The kernel of a unified kernel image and what comes with it; `None` if `file` is no EFI program, or one without a
/// kernel in it.
///
/// # Errors
/// [`Kind::Invalid`] for an EFI program that is truncated, contradicts itself, or is not for x86_64.
pub fn parse(file: &Bytes) -> Result<Option<(Bytes, Embedded)>> {
    let Some(pe) = le::size(file, 0x3c).filter(|_| file.starts_with(b"MZ")) else { return Ok(None) };
    let sections = sections(file, pe).map_err(|why| Error::new(Kind::Invalid, format!("EFI program (PE) {why}")))?;
    let mut parts = sections.split(|s| s.is(".profile"));
    let (base, profile) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let section = |name: &str| profile.iter().chain(base).find(|s| s.is(name)).map(|s| s.data.clone());
    let Some(kernel) = section(".linux") else { return Ok(None) };
    let text = |name: &str| section(name).map(|data| text(name, &data)).transpose();
    let embedded = Embedded {
        initrds: [".ucode", ".initrd"].into_iter().filter_map(section).filter(|s| !s.is_empty()).collect(),
        command_line: text(".cmdline")?,
        release: text(".uname")?,
    };
    Ok(Some((kernel, embedded)))
}

/// The section headers, with their bytes; `pe` is where the PE header should be. A program for DOS has none.
fn sections(file: &Bytes, pe: usize) -> Result<Vec<Section>, String> {
    let len = file.len();
    let header =
        file.get(pe..).ok_or_else(|| format!("header offset {pe:#x} lies behind its {len:#x} bytes; copy it again"))?;
    let truncated = || format!("header at {pe:#x} is truncated at {len:#x}; copy it again");
    let half = |at: usize| le::u16(header, at).ok_or_else(truncated);
    if !header.starts_with(b"PE\0\0") {
        return Ok(Vec::new());
    }
    if half(4)? != MACHINE {
        return Err(format!("is for machine {:#06x}, not for x86_64 ({MACHINE:#06x})", half(4)?));
    }
    if half(FILE_HEADER)? != PE32_PLUS {
        return Err(format!(
            "has the optional header {:#06x}, not that of PE32+ ({PE32_PLUS:#06x})",
            half(FILE_HEADER)?
        ));
    }
    let (count, start) = (usize::from(half(6)?), FILE_HEADER.saturating_add(usize::from(half(20)?)));
    let table = header.get(start..start.saturating_add(count.saturating_mul(SECTION))).ok_or_else(|| {
        format!("is truncated: its {count} section headers end behind its {len:#x} bytes; copy it again")
    })?;
    let section = |header: &[u8]| {
        let name = le::array(header, 0).unwrap_or_default();
        let size = |at: usize| le::size(header, at).unwrap_or_default();
        let (virt, raw, offset) = (size(8), size(16), size(20));
        let end = offset.saturating_add(raw);
        if raw > 0 && end > len {
            let name = name.split(|b| *b == 0).next().unwrap_or_default().escape_ascii();
            return Err(format!(
                "is truncated: its section {name} ends at {end:#x}, behind its {len:#x} bytes; copy it again"
            ));
        }
        // The file's alignment pads the bytes; VirtualSize says how many count. More of it than there are bytes means
        // zeros in memory, which a file in a section does not have.
        let used = if virt == 0 { raw } else { raw.min(virt) };
        Ok(Section { name, data: file.slice(offset, offset.saturating_add(used)) })
    };
    table.chunks_exact(SECTION).map(section).collect()
}

/// A section's text: to the first NUL, control characters (a line's end among them) as spaces, none of them around it.
fn text(name: &str, data: &[u8]) -> Result<String> {
    let text = data.split(|b| *b == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|e| {
        let text =
            format!("section {name} of the unified kernel image is no UTF-8 text from its byte {}", e.valid_up_to());
        Error::new(Kind::Invalid, text)
    })?;
    Ok(text.replace(|c: char| c.is_ascii_control(), " ").trim().to_owned())
}
