//! What a kernel module says of itself: the `.modinfo` section of a `.ko` file (ELF64), NUL-separated `key=value`.
//!
//! Reads only the ELF header, the section table and that section, so that a whole kernel tree (4000 modules, 350 MB)
//! takes a fraction of a second; compressed modules (`.ko.xz`, `.ko.zst`, `.ko.gz`) are unpacked whole.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::codec;
use crate::error::{Context, Error, Kind, Result};

/// The parts of `.modinfo` that decide what else a module needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// `depends=`: modules whose symbols it uses.
    pub depends: Vec<String>,
    /// `softdep=pre:`: modules to load before it, by name or alias.
    pub softdep_pre: Vec<String>,
    /// `alias=`: patterns by which the kernel asks for it.
    pub aliases: Vec<String>,
    /// First word of `vermagic=`: the kernel release it was built for.
    pub release: Option<String>,
}

/// Bound on an unpacked module; the largest in use (amdgpu with debug symbols) is below 500 MB.
const MODULE_MAX: u64 = 1 << 30;
/// Bound on the section; real ones are below 300 KiB.
const MODINFO_MAX: u64 = 16 << 20;

/// File name endings of a module, and how each is packed.
pub const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// Name of the module in file `file_name` with dashes as the kernel prints them (`crc32c-intel.ko.xz` is `crc32c_intel`).
pub fn module_name(file_name: &str) -> Option<String> {
    let stem = ENDINGS.iter().rev().find_map(|e| file_name.strip_suffix(e))?;
    Some(normal(stem))
}

/// `-` and `_` are the same in a module's name.
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's ELF file, unpacked.
pub fn read_module(path: &Path) -> Result<Vec<u8>> {
    let broken = |e: &dyn std::fmt::Display| {
        Error::new(Kind::Invalid, format!("module {} can't be unpacked: {e}; is it complete?", path.display()))
    };
    let file = File::open(path).context(|| format!("open module {}", path.display()))?;
    let mut data = Vec::new();
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let read = match ending {
        "xz" => {
            // Behind `dyn`, as for kernels: the decoder, 20 KB, is there once.
            let file: &mut dyn Read = &mut std::io::BufReader::new(file);
            lzma_rust2::XzReader::new(file, true).take(MODULE_MAX).read_to_end(&mut data)
        }
        "zst" => {
            let mut packed = Vec::new();
            let read = file.take(MODULE_MAX).read_to_end(&mut packed);
            return read.and_then(|_| codec::zstd::decode(&packed, MODULE_MAX)).map_err(|e| broken(&e));
        }
        "gz" => return gunzip(path, file),
        _ => file.take(MODULE_MAX).read_to_end(&mut data),
    };
    read.map_err(|e| broken(&e))?;
    Ok(data)
}

/// The module's file, gzip (RFC 1952) with or without a name field.
fn gunzip(path: &Path, mut file: File) -> Result<Vec<u8>> {
    let broken = || Error::new(Kind::Invalid, format!("module {} is no complete gzip file", path.display()));
    let mut packed = Vec::new();
    file.read_to_end(&mut packed).context(|| format!("read module {}", path.display()))?;
    let size = packed.last_chunk::<4>().map(|b| u32::from_le_bytes(*b)).ok_or_else(broken)?;
    let size = usize::try_from(size).ok().filter(|s| *s <= 1 << 30).ok_or_else(broken)?;
    let mut data = vec![0; size];
    let unpacked = libdeflater::Decompressor::new().gzip_decompress(&packed, &mut data).map_err(|_| broken())?;
    data.truncate(unpacked);
    Ok(data)
}

/// What the module in the file at `path` says of itself.
///
/// # Errors
/// [`Kind::Invalid`] when it is no 64-bit ELF file or its tables point outside of it.
pub fn read(path: &Path) -> Result<ModInfo> {
    let section = if path.extension().is_some_and(|e| e == "ko") {
        let file = File::open(path).context(|| format!("open module {}", path.display()))?;
        let size = file.metadata().context(|| format!("stat module {}", path.display()))?.len();
        section(size, |offset, buffer| file.read_exact_at(buffer, offset).is_ok())
    } else {
        let data = read_module(path)?;
        let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
        section(size, |offset, buffer| {
            let source = usize::try_from(offset).ok().and_then(|o| data.get(o..)).and_then(|d| d.get(..buffer.len()));
            source.inspect(|s| buffer.copy_from_slice(s)).is_some()
        })
    };
    let rule = "is no 64-bit ELF module with a .modinfo section, or is cut off";
    let section = section.ok_or_else(|| Error::new(Kind::Invalid, format!("module {} {rule}", path.display())))?;
    Ok(parse(&section))
}

/// Finds `.modinfo` with `read(offset, buffer)`, which says whether the bytes are there.
fn section(size: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
    let bytes = |offset: u64, len: u64, max: u64| -> Option<Vec<u8>> {
        if len > max || offset.checked_add(len)? > size {
            return None;
        }
        let mut buffer = vec![0; usize::try_from(len).ok()?];
        read(offset, &mut buffer).then_some(buffer)
    };
    let u16_at = |b: &[u8], at: usize| b.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let u32_at = |b: &[u8], at: usize| b.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let u64_at = |b: &[u8], at: usize| b.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    // Elf64_Ehdr: e_shoff at 0x28, e_shentsize at 0x3a, e_shnum at 0x3c, e_shstrndx at 0x3e.
    let header = bytes(0, 64, 64)?;
    if header.get(..6)? != b"\x7fELF\x02\x01" || u16_at(&header, 0x3a)? != 64 {
        return None;
    }
    let (count, names) = (u64::from(u16_at(&header, 0x3c)?), usize::from(u16_at(&header, 0x3e)?));
    let table = bytes(u64_at(&header, 0x28)?, count.checked_mul(64)?, 64 << 16)?;
    // Elf64_Shdr: sh_name at 0, sh_offset at 0x18, sh_size at 0x20.
    let place = |s: &[u8]| Some((u64_at(s, 0x18)?, u64_at(s, 0x20)?));
    let (offset, len) = place(table.chunks_exact(64).nth(names)?)?;
    let names = bytes(offset, len, MODINFO_MAX)?;
    let section = table.chunks_exact(64).find(|s| {
        let name = u32_at(s, 0).and_then(|n| usize::try_from(n).ok()).and_then(|n| names.get(n..));
        name.is_some_and(|n| n.starts_with(b".modinfo\0"))
    })?;
    let (offset, len) = place(section)?;
    bytes(offset, len, MODINFO_MAX)
}

/// The section's text.
pub fn parse(section: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    for field in section.split(|b| *b == 0) {
        let text = String::from_utf8_lossy(field);
        match text.split_once('=') {
            Some(("depends", names)) => info.depends.extend(names.split(',').filter(|n| !n.is_empty()).map(normal)),
            Some(("alias", pattern)) => info.aliases.push(pattern.to_owned()),
            Some(("softdep", words)) => info.softdep_pre.extend(softdep_pre(words)),
            Some(("vermagic", magic)) => info.release = magic.split_whitespace().next().map(str::to_owned),
            _ => {}
        }
    }
    info
}

/// Words behind `pre:` up to `post:` or another `pre:`.
fn softdep_pre(words: &str) -> Vec<String> {
    let mut pre = false;
    let mut found = Vec::new();
    for word in words.split_whitespace() {
        match word {
            "pre:" => pre = true,
            "post:" => pre = false,
            name if pre => found.push(name.to_owned()),
            _ => {}
        }
    }
    found
}

/// `NAME.key=value` fields of `modules.builtin.modinfo`: (module, alias) of what is compiled in.
pub fn builtin_aliases(text: &[u8]) -> Vec<(String, String)> {
    let fields = text.split(|b| *b == 0).map(String::from_utf8_lossy);
    let alias = |f: std::borrow::Cow<'_, str>| {
        let (key, value) = f.split_once('=')?;
        Some((normal(key.strip_suffix(".alias")?), value.to_owned()))
    };
    fields.filter_map(alias).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A module file with nothing but the section: ELF header, `.modinfo`, names, three section headers.
    pub fn module(fields: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = fields.iter().flat_map(|f| f.bytes().chain([0])).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table_at = (names_at + names.len()).next_multiple_of(8);
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[0x28..0x30].copy_from_slice(&(table_at as u64).to_le_bytes());
        elf[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        elf.extend(&info);
        elf.extend(names);
        elf.resize(table_at, 0);
        for (name, offset, size) in [(0_u32, 0, 0), (1, info_at, info.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn every_packing_gives_the_same_answer() {
        let elf = module(&["license=GPL", "depends=jbd2,crc-x", "softdep=pre: crypto-crc32c post: z", "alias=fs-ext4"]);
        let dir = tempfile::tempdir().expect("dir");
        let mut gz = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let mut gzip = vec![0; gz.gzip_compress_bound(elf.len())];
        let len = gz.gzip_compress(&elf, &mut gzip).expect("gzip");
        gzip.truncate(len);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).expect("xz");
        std::io::Write::write_all(&mut xz, &elf).expect("xz");
        let files = [
            ("a.ko", elf.clone()),
            ("a.ko.zst", zstd::encode_all(&elf[..], 3).expect("zstd")),
            ("a.ko.gz", gzip),
            ("a.ko.xz", xz.finish().expect("xz")),
        ];
        for (name, data) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, data).expect("write");
            let info = read(&path).expect(name);
            assert_eq!(info.depends, ["jbd2", "crc_x"], "{name}");
            assert_eq!((info.softdep_pre, info.aliases), (vec!["crypto-crc32c".into()], vec!["fs-ext4".into()]));
            assert_eq!(read_module(&path).expect(name), elf, "{name}");
            assert_eq!(module_name(name).as_deref(), Some("a"));
        }
    }

    #[test]
    fn a_cut_off_module_is_refused_at_every_length() {
        let elf = module(&["depends="]);
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("cut.ko");
        for len in 0..elf.len() {
            std::fs::write(&path, &elf[..len]).expect("write");
            let e = read(&path).expect_err("cut off");
            assert_eq!(e.kind(), Kind::Invalid, "{len}: {e}");
        }
    }

    #[test]
    fn builtin_aliases_carry_the_module_in_front() {
        let text = b"sha1_generic.alias=crypto-sha1\0sha1-generic.license=GPL\0";
        assert_eq!(builtin_aliases(text), [("sha1_generic".to_owned(), "crypto-sha1".to_owned())]);
    }
}
