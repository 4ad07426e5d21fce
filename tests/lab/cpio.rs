//! Writes newc cpio archives as the kernel unpacks them (Documentation/driver-api/early-userspace/buffer-format).
//!
//! A writer of the tests' own: the product's builder is not judged by its own code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// An archive being written: entries in the order given, parents made as needed.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    dirs: BTreeSet<String>,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], rdev: (u32, u32)) {
        let size = u32::try_from(data.len()).expect("a file in an initramfs is smaller than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        let inode = self.inode;
        self.inode += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A directory and those above it.
    pub fn dir(&mut self, path: &str) {
        let mut whole = String::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            whole = if whole.is_empty() { part.to_owned() } else { format!("{whole}/{part}") };
            if self.dirs.insert(whole.clone()) {
                self.entry(&whole, 0o040_755, b"", (0, 0));
            }
        }
    }

    fn parent(&mut self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.dir(dir);
        }
        path.to_owned()
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        let path = self.parent(path);
        self.entry(&path, 0o100_000 | mode, data, (0, 0));
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = self.parent(path);
        self.entry(&path, 0o120_777, target.as_bytes(), (0, 0));
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        let path = self.parent(path);
        self.entry(&path, 0o020_600, b"", (major, minor));
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"", (0, 0));
        self.bytes
    }

    /// Ends the archive and writes it to `path`.
    pub fn write(self, path: &Path) {
        fs::write(path, self.finish()).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
}
