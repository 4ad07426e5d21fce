//! What an initramfs holds, as the kernel would unpack it (`Documentation/driver-api/early-userspace/buffer-format.rst`):
//! newc archives in a row, the last of them perhaps compressed.

use crate::error::{Error, Kind, Result};
use crate::image::decompress;
use crate::mem::PAGE_SIZE;

/// Most bytes an initramfs may unpack to: more does not go into memory reserved for a crash kernel.
const MAX_UNPACKED: usize = 1 << 30;
const HEADER: usize = 110;
/// What a file costs beside its pages: inode, directory entry, page cache nodes. Bytes.
const INODE: u64 = 1536;

/// An initramfs, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// Bytes of the file.
    pub packed: u64,
    /// Bytes of memory it takes once unpacked: files in whole pages, and what the kernel keeps of each.
    pub unpacked: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of kernel modules in it, unpacked.
    pub modules: u64,
    /// Releases that modules in it are for.
    pub releases: Vec<String>,
    /// `/etc/kdump.conf`.
    pub config: Option<String>,
    /// Whether systemd is in it.
    pub systemd: bool,
    /// Whether it is ours: our binary is PID 1.
    pub ours: bool,
}

impl Archive {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`Kind::Invalid`] where the kernel would stop.
    pub fn read(file: &[u8]) -> Result<Self> {
        let mut found = Self { packed: u64::try_from(file.len()).unwrap_or(u64::MAX), ..Self::default() };
        let rest = found.archives(file)?;
        if !rest.is_empty() {
            let Some(bytes) = decompress::unwrap(rest, MAX_UNPACKED)? else {
                let at = file.len().saturating_sub(rest.len());
                let text = format!("byte {at} begins neither a newc archive nor a compressed one; is it an initramfs?");
                return Err(Error::new(Kind::Invalid, text));
            };
            let rest = found.archives(&bytes)?;
            if !rest.is_empty() {
                let text = "what is compressed in it is no newc archive; is it an initramfs?";
                return Err(Error::new(Kind::Invalid, text));
            }
        }
        if found.entries == 0 {
            return Err(Error::new(Kind::Invalid, "there is no file in it; is it an initramfs?"));
        }
        Ok(found)
    }

    /// Counts archives in a row; returns what comes behind.
    fn archives<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = bytes;
        loop {
            let zeros = rest.iter().take_while(|b| **b == 0).count();
            rest = rest.get(zeros..).unwrap_or_default();
            if !rest.starts_with(b"070701") && !rest.starts_with(b"070702") {
                return Ok(rest);
            }
            let at = bytes.len().saturating_sub(rest.len());
            rest = self.entry(rest).ok_or_else(|| {
                Error::new(Kind::Invalid, format!("the archive is cut off or broken at byte {at}; make it again"))
            })?;
        }
    }

    /// Counts one entry; returns what comes behind.
    fn entry<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let field = |number: usize| {
            let start = number.checked_mul(8)?.checked_add(6)?;
            let text = std::str::from_utf8(bytes.get(start..start.checked_add(8)?)?).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (mode, size, name_len) = (field(1)?, field(6)?, field(11)?);
        let name_end = HEADER.checked_add(name_len)?;
        let name = bytes.get(HEADER..name_end)?.strip_suffix(&[0])?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(size)?;
        let data = bytes.get(start..end)?;
        let name = String::from_utf8_lossy(name);
        let name = name.trim_start_matches("./").trim_start_matches('/');
        if name != "TRAILER!!!" {
            self.count(name, mode, data);
        }
        Some(bytes.get(end.checked_next_multiple_of(4)?.min(bytes.len())..).unwrap_or_default())
    }

    fn count(&mut self, name: &str, mode: usize, data: &[u8]) {
        let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.entries = self.entries.saturating_add(1);
        let pages = size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(size);
        self.unpacked = self.unpacked.saturating_add(pages).saturating_add(INODE);
        let inside = name.strip_prefix("usr/").unwrap_or(name);
        if let Some((release, file)) = inside.strip_prefix("lib/modules/").and_then(|rest| rest.split_once('/')) {
            if !self.releases.iter().any(|r| r == release) {
                self.releases.push(release.to_owned());
            }
            if file.contains(".ko") {
                // Packed ones by zstd say what they come to.
                let whole =
                    file.ends_with(".zst").then(|| zstd::zstd_safe::get_frame_content_size(data).ok().flatten());
                self.modules = self.modules.saturating_add(whole.flatten().filter(|w| *w <= 1 << 30).unwrap_or(size));
            }
        }
        match inside {
            "etc/kdump.conf" => self.config = Some(String::from_utf8_lossy(data).into_owned()),
            "lib/systemd/systemd" => self.systemd = true,
            // A regular file, which the first program is in no other image.
            "sbin/kdump-save" => self.ours = mode & 0o170_000 == 0o120_000,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::cpio::{self, Entry, Node};
    use proptest::prelude::*;

    fn image() -> Vec<u8> {
        let file = |path: &str, size| Entry { path: path.into(), node: Node::File(vec![7; size]), mode: 0o644 };
        let link = Entry { path: "sbin/kdump-save".into(), node: Node::Link("/init".into()), mode: 0o777 };
        let conf = Entry { path: "etc/kdump.conf".into(), node: Node::File(b"path /x\n".to_vec()), mode: 0o644 };
        let packed = zstd::bulk::compress(&[7; 3000], 1).expect("packed");
        let packed = Entry { path: "usr/lib/modules/6.1/b.ko.zst".into(), node: Node::File(packed), mode: 0o644 };
        cpio::archive(&[file("usr/lib/modules/6.1/a.ko", 2000), packed, file("init", 1), link, conf])
            .expect("an archive")
    }

    #[test]
    fn archives_in_a_row_and_a_compressed_one_are_counted() {
        let mut file = image();
        file.resize(file.len().next_multiple_of(512), 0);
        let plain = Archive::read(&file).expect("reads");
        assert_eq!((plain.modules, plain.config.as_deref(), plain.ours), (5000, Some("path /x\n"), true));
        // Five of ours, the manifest and its end.
        assert_eq!((plain.entries, plain.unpacked), (7, 7 * INODE + 6 * PAGE_SIZE));
        assert_eq!(plain.releases, ["6.1"]);
        file.extend(zstd::encode_all(&image()[..], 1).expect("packed"));
        let both = Archive::read(&file).expect("reads");
        assert_eq!((both.modules, both.entries), (10000, 14));
        assert_eq!(both.packed, file.len() as u64);
    }

    #[test]
    fn what_the_kernel_would_stop_at_is_named() {
        let file = image();
        for (bytes, text) in [
            (&b"\0\0nothing of the kind"[..], "byte 2 begins neither"),
            (&file[..file.len() / 2], "cut off or broken at byte"),
            (&[], "no file in it"),
        ] {
            let e = Archive::read(bytes).expect_err(text);
            assert!(e.to_string().contains(text), "{e}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0_usize..1000, byte: u8, cut in 0_usize..7000) {
            let mut file = image();
            let at = at % file.len();
            file[at] = byte;
            file.truncate(cut);
            drop(Archive::read(&file));
        }
    }
}
