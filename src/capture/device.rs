//! Finds the target's block device and mounts it. There is no udev in a crash initramfs, so UUIDs and labels are read
//! from the superblocks of all block devices (ext2/3/4: Linux `fs/ext4/ext4.h`; XFS: `fs/xfs/libxfs/xfs_format.h`).

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::config::{Device, Target};
use crate::error::{Context, Error, Kind, Result};

/// What a superblock says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Superblock {
    uuid: String,
    label: String,
}

/// The first 2 KiB of a device, as far as they are a superblock we know.
fn superblock(start: &[u8; 2048]) -> Option<Superblock> {
    let (uuid, label): (&[u8], &[u8]) = if start[1080..1082] == [0x53, 0xef] {
        // struct ext4_super_block at 1024: s_magic 0x38, s_uuid 0x68, s_volume_name 0x78.
        (&start[1128..1144], &start[1144..1160])
    } else if start.starts_with(b"XFSB") {
        // struct xfs_dsb: sb_uuid at 32, sb_fname at 108.
        (&start[32..48], &start[108..120])
    } else {
        return None;
    };
    let label = label.split(|b| *b == 0).next().unwrap_or_default();
    Some(Superblock { uuid: uuid_text(uuid), label: String::from_utf8_lossy(label).trim_end().into() })
}

fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The path of `device` if it is there now.
pub fn find(device: &Device) -> Option<PathBuf> {
    if let Device::Path(path) = device {
        let is_block = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
        return is_block.then(|| path.into());
    }
    let mut names: Vec<_> = std::fs::read_dir("/sys/class/block").ok()?.flatten().map(|e| e.file_name()).collect();
    names.sort();
    names.into_iter().map(|n| Path::new("/dev").join(n)).find(|path| {
        let mut start = [0; 2048];
        let read = File::open(path).and_then(|f| f.read_exact_at(&mut start, 0));
        let found = read.ok().and_then(|()| superblock(&start));
        found.is_some_and(|s| match device {
            Device::Uuid(uuid) => s.uuid == *uuid,
            Device::Label(label) => s.label == *label,
            Device::Path(_) => false,
        })
    })
}

/// Names of the block devices that are there, for the message when the right one is not.
pub fn present() -> String {
    let names = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

/// Mounts `target`, found at `device`, on `directory`.
///
/// # Errors
/// With the errno of `mount(2)` and what it usually means here.
pub fn mount(target: &Target, device: &Path, directory: &Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let what = format!("mount {} as {}", device.display(), target.fs);
    match rustix::mount::mount(device, directory, target.fs.as_str(), flags, None) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NODEV) => {
            let rule = "the kernel has no such file system; build the initramfs for this target";
            Err(Error::new(Kind::Missing, format!("{what}: {rule}")))
        }
        Err(rustix::io::Errno::INVAL) => {
            let rule = "there is no such file system on it, or its journal can't be replayed";
            Err(Error::new(Kind::Invalid, format!("{what}: {rule}")))
        }
        Err(e) => Err(e).context(|| what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_tell_uuid_and_label() {
        let mut ext = [0; 2048];
        ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
        ext[1128..1144].copy_from_slice(&std::array::from_fn::<u8, 16, _>(|i| i as u8));
        ext[1144..1148].copy_from_slice(b"dump");
        let wanted = Superblock { uuid: "00010203-0405-0607-0809-0a0b0c0d0e0f".into(), label: "dump".into() };
        assert_eq!(superblock(&ext), Some(wanted));
        let mut xfs = [0; 2048];
        xfs[..4].copy_from_slice(b"XFSB");
        xfs[108..120].copy_from_slice(b"twelve bytes");
        assert_eq!(superblock(&xfs).map(|s| s.label).as_deref(), Some("twelve bytes"));
        assert_eq!(superblock(&[0; 2048]), None);
    }
}
