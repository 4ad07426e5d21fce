//! An initramfs archive in the "newc" format (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Reproducible: no time, owner or inode of the building machine gets in; entries appear in the order given. The first
//! entry is the manifest, a text that lists every file with its size, because a kernel that runs out of room while it
//! unpacks goes on without the rest and says so in one line only. Linux gives a file its full size before it writes the
//! contents, so the size of the file it stopped in proves nothing: the last entry, an empty file, does. Hard links are
//! not written.

use crate::error::{Error, Kind, Result};

/// Name of the manifest in the archive; `init` reads it as `/manifest`.
pub const MANIFEST: &str = "manifest";

/// Name of the last entry, which is there only if everything before it is.
pub const END: &str = "manifest.end";

/// What an archive's entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A file with its contents.
    File(Vec<u8>),
    /// A symbolic link to a path.
    Link(String),
    /// A character device: major and minor number.
    Char(u32, u32),
}

/// One path of the archive, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes.
    pub path: String,
    /// What it is.
    pub node: Node,
    /// Permission bits.
    pub mode: u32,
}

/// The archive of `entries` in their order, manifest first, uncompressed.
///
/// # Errors
/// [`Kind::Invalid`] for two entries of one path, an empty or absolute path, or a file of 4 GiB or more.
pub fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut seen = std::collections::BTreeSet::new();
    for entry in entries {
        if entry.path.is_empty() || entry.path.starts_with('/') || !seen.insert(&entry.path) {
            let rule = "every path must be relative and appear once";
            return Err(Error::new(Kind::Invalid, format!("initramfs entry '{}': {rule}", entry.path)));
        }
    }
    let end = Entry { path: END.into(), node: Node::File(Vec::new()), mode: 0o444 };
    let text = manifest(entries.iter().chain([&end])).into_bytes();
    let manifest = Entry { path: MANIFEST.into(), node: Node::File(text), mode: 0o444 };
    let mut out = Vec::new();
    for (number, entry) in (1_u32..).zip(std::iter::once(&manifest).chain(entries).chain([&end])) {
        append(&mut out, number, entry)?;
    }
    append(&mut out, 0, &Entry { path: "TRAILER!!!".into(), node: Node::File(Vec::new()), mode: 0 })?;
    // cpio pads to its block size; the kernel needs none, other readers warn without.
    out.resize(out.len().next_multiple_of(512), 0);
    Ok(out)
}

/// One line for each file and link, in the archive's order: size in bytes, a blank, the path with a leading slash. A link's size is its target's length.
fn manifest<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let mut text = String::new();
    for entry in entries {
        let size = match &entry.node {
            Node::File(data) => data.len(),
            Node::Link(target) => target.len(),
            Node::Dir | Node::Char(..) => continue,
        };
        text.push_str(&format!("{size} /{}\n", entry.path));
    }
    text
}

fn append(out: &mut Vec<u8>, ino: u32, entry: &Entry) -> Result<()> {
    let (kind, links, rdev, data): (u32, u32, (u32, u32), &[u8]) = match &entry.node {
        Node::Dir => (0o040_000, 2, (0, 0), &[]),
        Node::File(data) => (0o100_000, 1, (0, 0), data),
        Node::Link(target) => (0o120_000, 1, (0, 0), target.as_bytes()),
        Node::Char(major, minor) => (0o020_000, 1, (*major, *minor), &[]),
    };
    let size = u32::try_from(data.len())
        .map_err(|_| Error::new(Kind::Invalid, format!("initramfs entry '{}' is 4 GiB or larger", entry.path)))?;
    let name_size = u32::try_from(entry.path.len()).unwrap_or(u32::MAX).saturating_add(1);
    let kind = if entry.path == "TRAILER!!!" { 0 } else { kind };
    // c_magic, c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_maj, c_min, c_rmaj, c_rmin, c_namesize, c_chksum
    let fields = [ino, kind | entry.mode, 0, 0, links, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(entry.path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, node: Node, mode: u32) -> Entry {
        Entry { path: path.into(), node, mode }
    }

    /// Reads the archive back by the format's rules: (path, mode, size, rdev minor, data).
    fn list(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let all = bytes.len();
        loop {
            let field = |n: usize| {
                let at = 6 + n * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).expect("hex"), 16).expect("hex")
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).expect("name");
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(all % 512, 0);
                return found;
            }
            found.push((name, mode, bytes[data..data + size].to_vec()));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn the_manifest_comes_first_and_lists_files_and_links_with_sizes() {
        let entries = [
            entry("dev", Node::Dir, 0o755),
            entry("dev/console", Node::Char(5, 1), 0o600),
            entry("init", Node::File(b"ELF".to_vec()), 0o755),
            entry("sbin-modprobe", Node::Link("/init".into()), 0o777),
        ];
        let read = list(&archive(&entries).expect("archive"));
        assert_eq!(read[0], ("manifest".into(), 0o100_444, b"3 /init\n5 /sbin-modprobe\n0 /manifest.end\n".to_vec()));
        let rest: Vec<_> = read[1..].iter().map(|(n, m, d)| (n.as_str(), *m, d.len())).collect();
        let wanted = [
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 0),
            ("init", 0o100_755, 3),
            ("sbin-modprobe", 0o120_777, 5),
            ("manifest.end", 0o100_444, 0),
        ];
        assert_eq!(rest, wanted);
    }

    #[test]
    fn paths_that_a_kernel_would_unpack_elsewhere_or_twice_are_refused() {
        for paths in [&["/init"][..], &[""], &["a", "a"]] {
            let entries: Vec<Entry> = paths.iter().map(|p| entry(p, Node::Dir, 0o755)).collect();
            assert_eq!(archive(&entries).expect_err("refused").kind(), Kind::Invalid, "{paths:?}");
        }
    }
}
