//! The crash initramfs: the reviewed list `initramfs/rootfs.list`, `kdump.conf`, files asked for, modules; one archive, compressed.
//!
//! What matters most comes first, so that a kernel that runs out of room while it unpacks still has our binary and its
//! configuration, then the modules; files asked for come last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::closure::{self, Closure, Tree};
use super::cpio::{self, Entry, Node};
use super::{modinfo, packed};
use crate::error::{Context, Error, Kind, Result};

/// The directories, nodes and links of every image.
pub const ROOTFS: &str = include_str!("../../initramfs/rootfs.list");

/// How the archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Our binary and each module by itself, the archive not: any kernel, and the least memory while it unpacks. `init`
    /// unpacks the rest when the kernel has freed what it needed to boot.
    Packed,
    /// zstd, level 19: the smallest file; Linux 5.9 or newer with `CONFIG_RD_ZSTD`.
    Zstd,
    /// gzip: any kernel with `CONFIG_RD_GZIP`.
    Gzip,
    /// None.
    None,
}

/// What to build.
pub struct Request<'a> {
    /// Our binary.
    pub binary: &'a Path,
    /// Kernel release, the name of the directory below `/lib/modules` in the image.
    pub release: &'a str,
    /// The kernel's modules.
    pub tree: &'a Tree,
    /// Those that go in.
    pub closure: &'a Closure,
    /// Text of `/etc/kdump.conf`.
    pub config: &'a str,
    /// Further files: from where, to which path in the image.
    pub files: &'a [(PathBuf, String)],
    /// How to compress.
    pub compression: Compression,
}

/// An image and where its bytes come from.
#[derive(Debug)]
pub struct Image {
    /// The file's contents.
    pub bytes: Vec<u8>,
    /// Bytes of the archive.
    pub unpacked: usize,
    /// Bytes of our binary, unpacked.
    pub binary: usize,
    /// Bytes of the modules, unpacked.
    pub modules: usize,
}

/// Builds the image. The same request gives the same bytes on any machine, at any time.
///
/// # Errors
/// [`Kind::Open`] for an unreadable binary or file, [`Kind::Invalid`] for a broken module or a path given twice.
pub fn build(request: &Request<'_>) -> Result<Image> {
    let binary = std::fs::read(request.binary)
        .context(|| format!("read the binary {}", request.binary.display()))
        .map_err(|e| e.with_kind(Kind::Open))?;
    check_binary(&binary, request.binary)?;
    let packs = request.compression == Compression::Packed;
    let size = binary.len();
    let program = if packs { packed::pack(&binary, Some(1))? } else { binary };
    let mut entries = rootfs(ROOTFS, &program)?;
    push(&mut entries, "etc/kdump.conf", request.config.as_bytes().to_vec());
    let modules = add_modules(&mut entries, request)?;
    for (from, to) in request.files {
        let data = std::fs::read(from).context(|| format!("read {}", from.display()));
        push(&mut entries, to.trim_start_matches('/'), data.map_err(|e| e.with_kind(Kind::Open))?);
    }
    let archive = cpio::archive(&entries)?;
    let unpacked = archive.len();
    let bytes = compress(archive, request.compression)?;
    Ok(Image { bytes, unpacked, binary: size, modules })
}

/// A binary that wants an interpreter can't start in an image without one; the kernel would only say "No working init found".
fn check_binary(binary: &[u8], path: &Path) -> Result<()> {
    let elf = goblin::elf::Elf::parse(binary)
        .map_err(|e| Error::new(Kind::Invalid, format!("the binary {} is no ELF file: {e}", path.display())))?;
    match elf.interpreter {
        None => Ok(()),
        Some(loader) => {
            let what = format!("the binary {} is not static, it wants {loader}", path.display());
            Err(Error::new(Kind::Invalid, format!("{what}; build it with this project's .cargo/config.toml")))
        }
    }
}

/// The entries of a list in gen_init_cpio's grammar; owners are ignored, everything belongs to root.
pub fn rootfs(list: &str, binary: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(list.lines()) {
        let words: Vec<&str> = line.split_whitespace().take_while(|w| !w.starts_with('#')).collect();
        let broken = || Error::new(Kind::Invalid, format!("rootfs.list line {number}: can't read '{line}'"));
        let (path, mode, node) = match *words.as_slice() {
            [] => continue,
            ["dir", path, mode, ..] => (path, mode, Node::Dir),
            ["file", path, "@binary", mode, ..] => (path, mode, Node::File(binary.to_vec())),
            ["slink", path, target, mode, ..] => (path, mode, Node::Link(target.into())),
            ["nod", path, mode, _, _, "c", major, minor] => {
                let number = |s: &str| s.parse().map_err(|_| broken());
                (path, mode, Node::Char(number(major)?, number(minor)?))
            }
            _ => return Err(broken()),
        };
        let mode = u32::from_str_radix(mode, 8).map_err(|_| broken())?;
        entries.push(Entry { path: path.trim_start_matches('/').into(), node, mode });
    }
    Ok(entries)
}

/// Adds a file and the directories above it that are not there yet.
fn push(entries: &mut Vec<Entry>, path: &str, data: Vec<u8>) {
    for (at, _) in path.match_indices('/') {
        let dir = path.get(..at).unwrap_or_default();
        if !entries.iter().any(|e| e.path == dir) {
            entries.push(Entry { path: dir.into(), node: Node::Dir, mode: 0o755 });
        }
    }
    entries.push(Entry { path: path.into(), node: Node::File(data), mode: 0o644 });
}

/// Adds modules and the tables `modprobe` reads; says how many bytes of modules.
fn add_modules(entries: &mut Vec<Entry>, request: &Request<'_>) -> Result<usize> {
    let base = format!("lib/modules/{}", request.release);
    for (name, text) in closure::tables(request.closure) {
        push(entries, &format!("{base}/{name}"), text.into_bytes());
    }
    let builtin = std::fs::read(request.tree.dir().join("modules.builtin")).unwrap_or_default();
    push(entries, &format!("{base}/modules.builtin"), builtin);
    let mut bytes = 0;
    let mut seen = BTreeSet::new();
    for module in &request.closure.modules {
        let path = closure::image_path(&module.path);
        if seen.insert(path) {
            let data = modinfo::read_module(&request.tree.dir().join(&module.path))?;
            bytes += data.len();
            if request.compression == Compression::Packed {
                let packed = zstd::bulk::compress(&data, LEVEL).context(|| format!("pack module {path}"))?;
                push(entries, &format!("{base}/{path}.zst"), packed);
            } else {
                push(entries, &format!("{base}/{path}"), data);
            }
        }
    }
    Ok(bytes)
}

/// zstd's, for what is packed once and unpacked where every byte counts.
const LEVEL: i32 = 19;

/// The kernel allocates the whole window while it unpacks. Measured with Debian's 6.1: 128 KiB instead of level 19's 8 MiB
/// makes the image 5 % larger and the reservation the crash kernel needs 8 MiB smaller.
const WINDOW_LOG: u32 = 17;

fn compress(archive: Vec<u8>, compression: Compression) -> Result<Vec<u8>> {
    match compression {
        Compression::Packed | Compression::None => Ok(archive),
        Compression::Zstd => {
            let zstd = |bytes: &[u8]| {
                let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
                compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))?;
                compressor.compress(bytes)
            };
            zstd(&archive).context(|| "compress the initramfs with zstd")
        }
        Compression::Gzip => {
            let level = libdeflater::CompressionLvl::new(9).unwrap_or_default();
            let mut compressor = libdeflater::Compressor::new(level);
            let mut bytes = vec![0; compressor.gzip_compress_bound(archive.len())];
            let len = compressor.gzip_compress(&archive, &mut bytes);
            let what = |e| Error::new(Kind::System, format!("compress the initramfs with gzip: {e}"));
            bytes.truncate(len.map_err(what)?);
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::closure::tests::kernel;
    use super::*;
    use closure::{Wanted, close};

    fn image(config: &str, compression: Compression) -> Image {
        let dir = tempfile::tempdir().expect("dir");
        let tree = Tree::scan(&kernel(dir.path()), "6.1.0-t").expect("tree");
        let wanted = Wanted { file_systems: &["ext4".into()], ..Wanted::default() };
        let closure = close(&tree, wanted).expect("closes");
        let binary = std::env::current_exe().expect("the test itself, a static binary");
        let release = "6.1.0-t";
        let request =
            Request { binary: &binary, release, tree: &tree, closure: &closure, config, files: &[], compression };
        build(&request).expect("builds")
    }

    #[test]
    fn same_request_same_bytes_wherever_the_kernel_lies() {
        let (a, b) = (image("path /x\n", Compression::None), image("path /x\n", Compression::None));
        assert!(a.bytes == b.bytes, "two builds differ");
        assert!(a.bytes != image("path /y\n", Compression::None).bytes);
        assert_eq!(a.unpacked, a.bytes.len());
    }

    #[test]
    fn the_list_is_read_as_gen_init_cpio_would() {
        let entries = rootfs(ROOTFS, b"ELF").expect("the project's own list");
        let init = entries.iter().find(|e| e.path == "init").expect("init");
        assert_eq!((&init.node, init.mode), (&Node::File(b"ELF".to_vec()), 0o755));
        assert!(entries.iter().any(|e| e.path == "dev/console" && e.node == Node::Char(5, 1)));
        for line in ["dir /x", "file /x other 0755 0 0", "dir /x 0999 0 0", "pipe /x 0600 0 0"] {
            let e = rootfs(line, b"").expect_err(line);
            assert_eq!(e.to_string(), format!("rootfs.list line 1: can't read '{line}'"));
        }
    }

    #[test]
    fn a_binary_that_wants_a_loader_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("script");
        std::fs::write(&path, "#!/bin/sh\n").expect("write");
        let e = check_binary(b"#!/bin/sh\n", &path).expect_err("no ELF");
        assert!(e.to_string().contains("is no ELF file"), "{e}");
    }
}
