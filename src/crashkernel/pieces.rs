//! The crash kernel and its initramfs as files: where they usually are, and what they say of themselves.

use std::path::PathBuf;
use std::time::SystemTime;

use super::archive::Archive;
use crate::error::{Context, Kind, Result};
use crate::host::Host;
use crate::image::{BzImage, Elf, Kernel, MAX_UNPACKED, decompress, sniff};
use crate::mem::Bytes;

/// Where distributions put the kernel; `{}` is its release.
const KERNELS: [&str; 4] = ["boot/vmlinuz-{}", "lib/modules/{}/vmlinuz", "var/lib/kdump/vmlinuz", "boot/vmlinuz"];
/// Where a crash initramfs goes: by our README, Fedora, Debian, openSUSE.
const INITRAMFS: [&str; 8] = [
    "boot/crash-{}.img",
    "boot/crash.img",
    "boot/initramfs-{}kdump.img",
    "var/lib/kdump/initramfs-{}kdump.img",
    "var/lib/kdump/initrd.img-{}",
    "var/lib/kdump/initrd.img",
    "boot/initrd-{}-kdump",
    "var/lib/kdump/initrd",
];
/// What decides what such an initramfs holds.
const CONFIGURATIONS: [&str; 3] = ["etc/kdump.conf", "etc/default/kdump-tools", "etc/sysconfig/kdump"];

/// A file that was found, or named.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Where it is.
    pub path: PathBuf,
    /// When it was written.
    pub written: Option<SystemTime>,
}

impl Piece {
    /// The file at `path`; none if there is none.
    pub fn at(path: PathBuf) -> Option<Self> {
        let data = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self { path, written: data.modified().ok() })
    }

    fn first(host: &Host, names: &[&str], release: &str) -> Option<Self> {
        names.iter().find_map(|name| Self::at(host.path(&name.replace("{}", release))))
    }

    /// The crash kernel, if it is where one usually is.
    pub fn kernel(host: &Host, release: &str) -> Option<Self> {
        Self::first(host, &KERNELS, release)
    }

    /// The crash initramfs, likewise.
    pub fn initramfs(host: &Host, release: &str) -> Option<Self> {
        Self::first(host, &INITRAMFS, release)
    }

    /// The configurations that were written after `self`.
    pub fn older_than_configuration(&self, host: &Host) -> Option<Self> {
        let all = CONFIGURATIONS.iter().filter_map(|name| Self::at(host.path(name)));
        all.into_iter().find(|c| c.written > self.written)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Kind::Open`] if it can't be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.path)
            .context(|| format!("read {}", self.path.display()))
            .map_err(|e| e.with_kind(Kind::Open))
    }

    /// What an initramfs holds.
    ///
    /// # Errors
    /// It can't be read, or the kernel would not unpack all of it.
    pub fn archive(&self) -> Result<Archive> {
        Archive::read(&self.read()?).context(|| format!("initramfs {}", self.path.display()))
    }

    /// What a kernel needs.
    ///
    /// # Errors
    /// It can't be read, or is no kernel.
    pub fn image(&self) -> Result<Needs> {
        let sniffed = sniff(self.read()?, None).context(|| format!("kernel {}", self.path.display()))?;
        Ok(match sniffed.kernel {
            Kernel::BzImage(image) => Needs::of_bzimage(&image),
            Kernel::Elf(elf) => {
                let size = elf.extent().len();
                Needs { load: size, run: size, fixed: None, release: String::new() }
            }
            Kernel::Multiboot(_) => {
                return Err(crate::error::Error::new(
                    Kind::Invalid,
                    format!("{} is Xen or the like, which can't be a crash kernel; name a Linux", self.path.display()),
                ));
            }
        })
    }
}

/// Memory that a kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Until it has unpacked itself (`init_size`), bytes.
    pub load: u64,
    /// Afterwards: code, data and bss, bytes.
    pub run: u64,
    /// The only address it runs at, if it can't be moved.
    pub fixed: Option<u64>,
    /// The kernel's release; empty if it does not say.
    pub release: String,
}

impl Needs {
    fn of_bzimage(image: &BzImage) -> Self {
        let load = image.memory_len();
        let elf = decompress::unwrap(&image.payload(), MAX_UNPACKED).ok().flatten();
        let elf = elf.and_then(|bytes| Elf::parse(&Bytes::from(bytes)).ok().flatten());
        let fixed = (!image.is_relocatable()).then(|| image.header.pref_address.get());
        // A text in the setup code, 0x200 behind what the header says, if it does; the release is its first word.
        let setup = image.setup();
        let at = Some(usize::from(image.header.kernel_version.get())).filter(|at| *at > 0);
        let text = at.and_then(|at| setup.get(at.saturating_add(0x200)..)).unwrap_or_default();
        let text = text.split(|b| *b == 0 || *b == b' ').next().unwrap_or_default();
        let release = String::from_utf8_lossy(text).into_owned();
        Self { load, run: elf.map_or(load, |elf| elf.extent().len()), fixed, release }
    }
}
