//! A distribution's kernel as its package unpacks: image, release, and modules looked up by name.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel, fetched on first use.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The directory it was unpacked into (`lib/modules/RELEASE` below it).
    pub dir: PathBuf,
    /// What `uname -r` says on it.
    pub release: String,
    modules: HashMap<String, PathBuf>,
}

impl Kernel {
    /// The current kernel of `suite`.
    pub fn of(suite: &str) -> Self {
        let dir = super::fetch(&["kernel", suite]);
        let release = fs::read_to_string(dir.join("release")).expect("a fetched kernel has a release file");
        let release = release.trim().to_owned();
        let mut modules = HashMap::new();
        let mut waiting = vec![dir.join("lib/modules").join(&release).join("kernel")];
        while let Some(at) = waiting.pop() {
            for entry in fs::read_dir(&at).unwrap_or_else(|e| panic!("read {}: {e}", at.display())).flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if let Some(name) = module_name(&path) {
                    modules.insert(name, path);
                }
            }
        }
        Self { dir, release, modules }
    }

    /// The bzImage.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The uncompressed ELF within the bzImage, written to `path`.
    ///
    /// Offsets as Documentation/arch/x86/boot.rst gives them; the payload's last four bytes are the
    /// length of what it unpacks to, which no decompressor knows about.
    pub fn vmlinux(&self, path: &Path) -> PathBuf {
        let image = fs::read(self.vmlinuz()).expect("read the bzImage");
        let field = |at: usize| {
            let bytes = image[at..at + 4].try_into().expect("4 bytes");
            usize::try_from(u32::from_le_bytes(bytes)).expect("an offset")
        };
        let payload = (usize::from(image[0x1f1]) + 1) * 512 + field(0x248);
        let packed = &image[payload..payload + field(0x24c) - 4];
        let program = if packed.starts_with(b"\xfd7zXZ") { "xz" } else { "zstd" };
        let file = path.with_extension("packed");
        fs::write(&file, packed).unwrap_or_else(|e| panic!("write {}: {e}", file.display()));
        let elf = super::run(Command::new(program).args(["-dc"]).arg(&file)).stdout;
        assert!(elf.starts_with(b"\x7fELF"), "the payload of {} is no ELF", self.release);
        fs::write(path, elf).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path.to_owned()
    }

    /// The contents of the modules and of all they depend on, in loading order. A name that is no module
    /// of this kernel is taken to be built in: what is missing shows when the guest needs it.
    pub fn closure(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut ordered = Vec::new();
        for name in names {
            self.visit(&name.replace('-', "_"), &mut ordered);
        }
        ordered
    }

    fn visit(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) {
        let Some(path) = self.modules.get(name) else { return };
        if ordered.iter().any(|(n, _)| n == name) {
            return;
        }
        let bytes = read_module(path);
        for need in depends(&bytes) {
            self.visit(&need, ordered);
        }
        // ext4 asks the kernel for crc32c by alias, which no `depends` names.
        if name == "ext4" {
            self.visit("crc32c_generic", ordered);
        }
        ordered.push((name.to_owned(), bytes));
    }
}

/// `virtio_pci` for `.../virtio_pci.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, packing) = path.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&packing).then(|| name.replace('-', "_"))
}

fn read_module(path: &Path) -> Vec<u8> {
    let unpack = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display())),
    };
    super::run(Command::new(unpack).arg("-dc").arg(path)).stdout
}

/// The `depends=` line of a module's `.modinfo`, found by its text: NUL before, NUL after.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value: Vec<u8> = module[at + KEY.len()..].iter().copied().take_while(|b| *b != 0).collect();
    let text = String::from_utf8_lossy(&value).replace('-', "_");
    text.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}
