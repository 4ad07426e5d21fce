//! Virtual addresses of the running kernel, from `/proc/kcore`'s program headers and `/proc/kallsyms`.
//!
//! A vmcore's PT_LOADs carry virtual addresses; readers that do not walk page tables need them.

use std::io::Read;

use super::Host;
use crate::error::{Context, Result};

/// Start of the kernel image's mapping (`__START_KERNEL_map`).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// The kernel image is mapped in pages of this size.
pub const IMAGE_PAGE: u64 = 0x20_0000;
/// Bytes between the kernel image's mapping and that of modules (`KERNEL_IMAGE_SIZE`).
const MAX_IMAGE: u64 = 1 << 30;
/// More program headers than any kernel writes.
const MAX_HEADERS: usize = 1 << 14;

/// Where the running kernel maps things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `PAGE_OFFSET`: virtual address of physical address 0 in the direct map.
    pub page_offset: Option<u64>,
    /// Virtual address of `_stext`, or of the first symbol of the image's text.
    pub stext: Option<u64>,
    /// Bytes of the kernel image's mapping from the page of `stext` on: up to `_end`, which lies behind the last part
    /// that `/proc/iomem` names.
    pub image_len: Option<u64>,
}

/// Reads the layout; a kernel without `/proc/kcore`, or one locked down, leaves its parts `None`.
///
/// # Errors
/// Reading fails for another reason than absence.
pub fn layout(host: &Host) -> Result<Layout> {
    let stext = stext(host)?;
    let headers = program_headers(host).unwrap_or_default();
    let page_offset = headers.chunks_exact(56).find_map(direct_map);
    let image_len = stext.and_then(|at| headers.chunks_exact(56).find_map(|phdr| image_len(phdr, at)));
    Ok(Layout { page_offset, stext, image_len })
}

fn program_headers(host: &Host) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(host.path("proc/kcore")).ok()?;
    let mut header = [0; 64];
    file.read_exact(&mut header).ok()?;
    let u16_at = |at: usize| header.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes);
    let count = usize::from(u16_at(56)?).min(MAX_HEADERS);
    if !header.starts_with(b"\x7fELF\x02\x01") || u16_at(54)? != 56 || u64_at(&header, 32)? != 64 {
        return None;
    }
    let mut headers = vec![0; count.checked_mul(56)?];
    file.read_exact(&mut headers).ok()?;
    Some(headers)
}

/// What is left of this PT_LOAD from the 2 MiB page of `stext` on, if it is the kernel image's.
fn image_len(phdr: &[u8], stext: u64) -> Option<u64> {
    let (kind, virt, len) = (u64_at(phdr, 0)? & 0xffff_ffff, u64_at(phdr, 16)?, u64_at(phdr, 40)?);
    let rest = virt.checked_add(len)?.checked_sub(stext & !IMAGE_PAGE.saturating_sub(1))?;
    (kind == 1 && START_KERNEL_MAP <= virt && virt <= stext && rest <= MAX_IMAGE).then_some(rest)
}

/// The direct map's offset if this is a PT_LOAD of RAM: its virtual and physical addresses differ by a page-aligned
/// constant in the lower part of the kernel's half.
fn direct_map(phdr: &[u8]) -> Option<u64> {
    let (kind, virt, phys) = (u64_at(phdr, 0)? & 0xffff_ffff, u64_at(phdr, 16)?, u64_at(phdr, 24)?);
    let offset = virt.checked_sub(phys)?;
    let ram = kind == 1 && phys != u64::MAX && virt < START_KERNEL_MAP && offset.is_multiple_of(1 << 30);
    (ram && offset >= 0xff00_0000_0000_0000).then_some(offset)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// `_stext` (or `_text`) from kallsyms; zeros, shown without privilege, count as absent.
fn stext(host: &Host) -> Result<Option<u64>> {
    use std::io::BufRead;
    let path = host.path("proc/kallsyms");
    let Ok(file) = std::fs::File::open(&path) else { return Ok(None) };
    let mut text = None;
    for line in std::io::BufReader::new(file).lines() {
        let line = line.context(|| format!("read {}", path.display()))?;
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(name)) = (words.next(), words.nth(1)) else { continue };
        if name == "_stext" || name == "_text" {
            let address = u64::from_str_radix(address, 16).ok().filter(|a| *a != 0);
            if name == "_stext" {
                return Ok(address.or(text));
            }
            text = address;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phdr(virt: u64, phys: u64) -> Vec<u8> {
        let mut bytes = vec![1, 0, 0, 0, 7, 0, 0, 0];
        for word in [0, virt, phys, 0, 0, 0] {
            bytes.extend(u64::to_le_bytes(word));
        }
        bytes
    }

    #[test]
    fn only_ram_gives_the_direct_maps_offset() {
        assert_eq!(direct_map(&phdr(0xffff_ffff_8100_0000, 0x100_0000)), None, "kernel text");
        assert_eq!(direct_map(&phdr(0xffff_c900_0000_0000, u64::MAX)), None, "vmalloc");
        assert_eq!(direct_map(&phdr(0xffff_8880_0010_0000, 0x10_0000)), Some(0xffff_8880_0000_0000));
        assert_eq!(direct_map(&phdr(0xff29_1234_c010_0000, 0x10_0000)), Some(0xff29_1234_c000_0000));
    }

    #[test]
    fn the_image_reaches_from_the_page_of_stext_to_the_end_of_its_mapping() {
        let mut text = phdr(0xffff_ffff_8100_0000, 0x100_0000);
        text[40..48].copy_from_slice(&0x343_0000u64.to_le_bytes());
        assert_eq!(image_len(&text, 0xffff_ffff_8100_0040), Some(0x343_0000));
        assert_eq!(image_len(&text, 0xffff_ffff_8120_0000), Some(0x323_0000));
        for (virt, len) in [(0xffff_ffff_c000_0000, 0x3f00_0000), (0xffff_ffff_8000_0000, 0x100), (0, u64::MAX)] {
            let mut other = phdr(virt, 0);
            other[40..48].copy_from_slice(&u64::to_le_bytes(len));
            assert_eq!(image_len(&other, 0xffff_ffff_8100_0040), None, "{virt:#x}");
        }
    }

    #[test]
    fn stext_wins_over_text_and_zeros_are_no_address() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("proc")).expect("made");
        let host = Host::new(dir.path());
        assert_eq!(layout(&host).expect("absent"), Layout::default());
        for (text, expected) in [
            ("ffffffff81000000 T _text\nffffffff81000040 T _stext\n", Some(0xffff_ffff_8100_0040)),
            ("ffffffff81000000 T _text\n", Some(0xffff_ffff_8100_0000)),
            ("0000000000000000 T _text\n0000000000000000 T _stext\n", None),
        ] {
            std::fs::write(dir.path().join("proc/kallsyms"), text).expect("written");
            assert_eq!(layout(&host).expect("reads").stext, expected);
        }
    }
}
