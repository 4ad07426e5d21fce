//! Multiboot kernels, Xen among them: the header, of version 1 (Multiboot 0.6.96) or 2 (Multiboot2 2.0), and what it
//! asks for.
//!
//! The header's own address fields win over ELF headers, as both specifications say. Wishes that only make sense while
//! the firmware is still there (EFI boot services, EFI entry points) are ignored: a kexec comes too late for them.

use super::elf::{Elf, Load};
use super::le;
use crate::error::{Error, Kind, Result};
use crate::mem::{Bytes, PAGE_SIZE};

/// `MULTIBOOT_HEADER_MAGIC`
const MAGIC_1: u32 = 0x1bad_b002;
/// `MULTIBOOT2_HEADER_MAGIC`
const MAGIC_2: u32 = 0xe852_50d6;
/// Version 1: bits that a loader must know (`MULTIBOOT_MUSTKNOW`) and this one does not. Known are 0 (modules on pages),
/// 1 (memory information) and 2 (a screen).
const UNKNOWN_1: u32 = 0xfff8;
/// Version 1: the address fields count (`MULTIBOOT_AOUT_KLUDGE`).
const ADDRESS_FIELDS: u32 = 1 << 16;
/// Version 1: a screen is wanted (`MULTIBOOT_VIDEO_MODE`).
const VIDEO_MODE: u32 = 1 << 2;
/// Version 2: the loader may ignore the tag (`MULTIBOOT_HEADER_TAG_OPTIONAL`).
const OPTIONAL: u16 = 1;
/// Version 2: the last information tag the specification knows (`MULTIBOOT_TAG_TYPE_LOAD_BASE_ADDR`).
const LAST_INFORMATION: u32 = 21;
/// The machine is entered in 32-bit mode: nothing of the kernel may lie behind this.
const END: u64 = 1 << 32;

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

/// A multiboot kernel whose header this loader can satisfy. Holding one proves what [`Elf`] proves of its loads, that
/// they end below 4 GiB, and that the entry point is in one of them.
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

/// What the header says, before anything is made of it.
#[derive(Default)]
struct Header {
    addresses: Option<Addresses>,
    entry: Option<u64>,
    relocatable: Option<Relocatable>,
    wants_framebuffer: bool,
}

/// The address fields: which part of the file goes where.
struct Addresses {
    /// Where the header is to be.
    header: u32,
    /// First byte loaded.
    load: u32,
    /// Behind the last byte loaded; 0: the file's end.
    load_end: u32,
    /// Behind the zeroed rest; 0: none.
    bss_end: u32,
}

impl Version {
    /// How it is called in messages.
    fn name(self) -> &'static str {
        match self {
            Version::One => "multiboot header",
            Version::Two => "multiboot2 header",
        }
    }

    /// The offset of the header, if there is one: magic number and checksum agree.
    pub(super) fn locate(self, file: &[u8]) -> Option<usize> {
        // Where to search, in which steps, and how many words sum up to zero.
        let (magic, search, step, words) = match self {
            Version::One => (MAGIC_1, 8192usize, 4, 3usize),
            Version::Two => (MAGIC_2, 32768, 8, 4),
        };
        let head = file.get(..search).unwrap_or(file);
        (0..head.len()).step_by(step).find(|at| {
            let word = |n: usize| le::u32(head, at.saturating_add(n.saturating_mul(4)));
            word(0) == Some(magic) && (0..words).try_fold(0u32, |sum, n| Some(sum.wrapping_add(word(n)?))) == Some(0)
        })
    }
}

impl Multiboot {
    /// Finds the header in `file` (`elf`: what its ELF headers say, if it has any). Version 2 is preferred; where its
    /// header cannot be used and there is one of version 1, that is taken. `None` if there is neither.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a header that is broken or asks for what there is not.
    pub fn find(file: &Bytes, elf: Option<&Elf>) -> Result<Option<Self>> {
        match Self::find_version(file, elf, Version::Two) {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Self::find_version(file, elf, Version::One),
            Err(error) => {
                Self::find_version(file, elf, Version::One).ok().flatten().map_or(Err(error), |o| Ok(Some(o)))
            }
        }
    }

    /// As [`find`](Self::find), for one version only.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a header that is broken or asks for what there is not.
    pub fn find_version(file: &Bytes, elf: Option<&Elf>, version: Version) -> Result<Option<Self>> {
        let Some(at) = version.locate(file) else { return Ok(None) };
        let read = || {
            let header = match version {
                Version::One => header_1(file, at)?,
                Version::Two => header_2(file, at)?,
            };
            header.resolve(version, file, at, elf)
        };
        read().map(Some).map_err(|why: String| {
            Error::new(Kind::Invalid, format!("{} at offset {at:#x} cannot be used: {why}", version.name()))
        })
    }
}

/// The header of version 1 at `at`.
fn header_1(file: &[u8], at: usize) -> Result<Header, String> {
    let word = |n: usize| le::u32(file, at.saturating_add(n.saturating_mul(4))).ok_or("it is truncated; copy it again");
    let flags = word(1)?;
    if flags & UNKNOWN_1 != 0 {
        return Err(format!("it requires features {:#x} (flags {flags:#x}) that are not known", flags & UNKNOWN_1));
    }
    let mut header = Header { wants_framebuffer: flags & VIDEO_MODE != 0, ..Header::default() };
    if flags & ADDRESS_FIELDS != 0 {
        header.addresses = Some(Addresses { header: word(3)?, load: word(4)?, load_end: word(5)?, bss_end: word(6)? });
        header.entry = Some(u64::from(word(7)?));
    }
    Ok(header)
}

/// The header of version 2 at `at`: a list of tags, each on 8 bytes.
fn header_2(file: &[u8], at: usize) -> Result<Header, String> {
    const TRUNCATED: &str = "it is truncated; copy it again";
    let word = |n: usize| le::size(file, at.saturating_add(n.saturating_mul(4))).ok_or(TRUNCATED);
    let (architecture, len) = (word(1)?, word(2)?);
    if architecture != 0 {
        return Err(format!("its architecture {architecture} is not i386 (0)"));
    }
    let mut rest = file.get(at..at.saturating_add(len)).and_then(|h| h.get(16..)).ok_or_else(|| {
        format!("its length {len:#x} is less than 16 or ends behind the file's {:#x} bytes", file.len())
    })?;
    let mut header = Header::default();
    while !rest.is_empty() {
        let (kind, flags, size) = (|| Some((le::u16(rest, 0)?, le::u16(rest, 2)?, le::size(rest, 4)?)))()
            .ok_or("its last tag is cut off by its length")?;
        let tag = rest.get(..size).filter(|_| size >= 8);
        let tag = tag
            .ok_or_else(|| format!("its tag {kind} has the size {size:#x}, the header {:#x} more bytes", rest.len()))?;
        if kind == 0 {
            break;
        }
        header.take(kind, flags, tag)?;
        // The padding of the last tag may lie outside the header.
        rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(header)
}

impl Header {
    /// Takes in one tag of version 2.
    fn take(&mut self, kind: u16, flags: u16, tag: &[u8]) -> Result<(), String> {
        let word = |n: usize| {
            le::u32(tag, n.saturating_mul(4))
                .ok_or_else(|| format!("its tag {kind} is too short, {:#x} bytes", tag.len()))
        };
        match kind {
            // Information request.
            1 => {
                let mut asked = tag.chunks_exact(4).skip(2).filter_map(|t| le::u32(t, 0));
                if let Some(unknown) = asked.find(|t| *t > LAST_INFORMATION).filter(|_| flags & OPTIONAL == 0) {
                    return Err(format!(
                        "it requires information tag {unknown}, of which {LAST_INFORMATION} is the last known"
                    ));
                }
            }
            2 => {
                self.addresses =
                    Some(Addresses { header: word(2)?, load: word(3)?, load_end: word(4)?, bss_end: word(5)? });
            }
            3 => self.entry = Some(u64::from(word(2)?)),
            5 => self.wants_framebuffer = true,
            // Console flags, modules on pages (ours always are), and what concerns the firmware: boot services, entry
            // points for EFI.
            4 | 6..=9 => {}
            10 => self.relocatable = Some(relocatable(word(2)?, word(3)?, word(4)?)?),
            _ if flags & OPTIONAL != 0 => {}
            _ => return Err(format!("it requires tag {kind}, which is not known")),
        }
        Ok(())
    }

    /// Where everything goes.
    fn resolve(self, version: Version, file: &Bytes, at: usize, elf: Option<&Elf>) -> Result<Multiboot, String> {
        let loads = match (&self.addresses, elf) {
            (Some(addresses), _) => vec![addresses.load(file, at)?],
            (None, Some(elf)) => elf.loads.clone(),
            (None, None) => return Err("it has no addresses, and the file is no ELF executable that has".into()),
        };
        let entry = match (self.entry, elf) {
            (Some(entry), _) => entry,
            (None, Some(elf)) if self.addresses.is_none() => elf.entry,
            _ => return Err("it has addresses but no entry point".into()),
        };
        if let Some(load) = loads.iter().find(|l| l.range().end() > END) {
            return Err(format!("its part {} lies above 4 GiB", load.range()));
        }
        if !loads.iter().any(|l| l.range().contains(entry)) {
            return Err(format!("its entry point {entry:#x} lies outside what is loaded"));
        }
        let (relocatable, wants_framebuffer) = (self.relocatable, self.wants_framebuffer);
        Ok(Multiboot { version, entry, loads, relocatable, wants_framebuffer })
    }
}

fn relocatable(min: u32, max: u32, align: u32) -> Result<Relocatable, String> {
    let found = Relocatable {
        min: u64::from(min),
        end: u64::from(max).saturating_add(1),
        align: u64::from(align).max(PAGE_SIZE),
    };
    if !found.align.is_power_of_two() || found.min >= found.end {
        return Err(format!(
            "its relocatable tag asks for {min:#x} to {max:#x}, aligned to {align:#x}: the first must be below the second, the \
             third a power of two"
        ));
    }
    Ok(found)
}

impl Addresses {
    /// The part of the file they name; the header is at `at`.
    fn load(&self, file: &Bytes, at: usize) -> Result<Load, String> {
        let at_64 = u64::try_from(at).unwrap_or(u64::MAX);
        // All ones in version 2: from the file's first byte on.
        let load =
            if self.load == u32::MAX { u64::from(self.header).checked_sub(at_64) } else { Some(self.load.into()) };
        let contradiction = || {
            let Self { header, load, load_end, bss_end } = self;
            format!(
                "its addresses contradict each other or the file's {:#x} bytes: header {header:#x}, load {load:#x} to \
                 {load_end:#x}, zeroed to {bss_end:#x}",
                file.len()
            )
        };
        let found = || {
            let load = load?;
            let before = usize::try_from(u64::from(self.header).checked_sub(load)?).ok()?;
            let start = at.checked_sub(before)?;
            let end = match self.load_end {
                0 => file.len(),
                end => start.checked_add(usize::try_from(u64::from(end).checked_sub(load)?).ok()?)?,
            };
            if end > file.len() {
                return None;
            }
            let data = file.slice(start, end);
            let filled = u64::try_from(data.len()).ok()?;
            let len = match self.bss_end {
                0 => filled,
                end => u64::from(end).checked_sub(load).filter(|len| *len >= filled)?,
            };
            (len > 0).then_some(Load { phys: load, virt: load, len, data })
        };
        found().ok_or_else(contradiction)
    }
}
