//! Loads the kernel modules the initramfs carries, as modprobe would: by name or alias, each behind what it needs.
//!
//! Works from `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin` as depmod writes them
//! (`modules.dep(5)`), with modules as they are or packed by zstd. Two users: [`coldplug`], which loads what the devices of
//! this machine ask for, and the `modprobe` applet, through which the kernel asks for what it finds missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::codec;
use crate::error::{Context, Error, Kind, Result};

/// Bound on an unpacked module: more does not go into memory reserved for a crash kernel.
const MODULE_MAX: u64 = 1 << 28;

/// What the tables of one kernel say.
#[derive(Debug, Default)]
pub struct Database {
    dir: PathBuf,
    /// Module name: its path, and those of what must be loaded before it, nearest first.
    files: BTreeMap<String, (String, Vec<String>)>,
    /// (pattern, module).
    aliases: Vec<(String, String)>,
    /// Module name: names or aliases to load before it if they are there.
    softdeps: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// Dashes are underscores in module names, and in aliases outside of brackets.
fn normal(name: &str) -> String {
    let mut bracket = false;
    let normal = |c| match c {
        '[' => (bracket = true, c).1,
        ']' => (bracket = false, c).1,
        '-' if !bracket => '_',
        c => c,
    };
    name.chars().map(normal).collect()
}

fn name_of(path: &str) -> Option<String> {
    path.rsplit('/').next()?.strip_suffix(".ko").map(normal)
}

impl Database {
    /// Reads the tables in `dir` (`/lib/modules/RELEASE`). A missing table is an empty one.
    pub fn open(dir: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let mut database = Self::parse(&text("modules.dep"), &text("modules.alias"), &text("modules.softdep"));
        database.builtin = text("modules.builtin").lines().filter_map(name_of).collect();
        database.dir = dir.into();
        database
    }

    /// The tables of the running kernel.
    ///
    /// # Errors
    /// [`Kind::Missing`] when there are tables, but for another kernel.
    pub fn of_this_kernel() -> Result<Self> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let base = Path::new("/lib/modules");
        let dir = base.join(&*release);
        if !dir.exists() {
            let others: Vec<_> =
                std::fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
            let others = others.iter().map(|n| n.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let what = match others.as_str() {
                "" => "the initramfs has no modules at all".to_owned(),
                _ => format!("the initramfs has modules of {others} only; rebuild it with --kernel-release {release}"),
            };
            return Err(Error::new(Kind::Missing, format!("this kernel is {release}: {what}")));
        }
        Ok(Self::open(&dir))
    }

    fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut database = Self::default();
        for (path, needs) in dep.lines().filter_map(|l| l.split_once(':')) {
            if let Some(name) = name_of(path) {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                database.files.insert(name, (path.to_owned(), needs));
            }
        }
        let words = alias.lines().filter_map(|l| l.strip_prefix("alias ")?.rsplit_once(' '));
        database.aliases = words.map(|(pattern, module)| (normal(pattern), normal(module))).collect();
        for (module, words) in softdep.lines().filter_map(|l| l.strip_prefix("softdep ")?.split_once(" pre: ")) {
            let pre = words.split_whitespace().take_while(|w| *w != "post:").map(normal).collect();
            database.softdeps.insert(normal(module), pre);
        }
        database
    }

    /// Modules that answer to `request`; [`None`] if nothing does, an empty list if it is compiled in.
    pub fn resolve(&self, request: &str) -> Option<Vec<&str>> {
        let request = normal(request);
        if let Some((name, _)) = self.files.get_key_value(&request) {
            return Some(vec![name]);
        }
        let found: Vec<&str> = self
            .aliases
            .iter()
            .filter(|(p, _)| glob(p.as_bytes(), request.as_bytes()))
            .map(|(_, m)| m.as_str())
            .collect();
        if found.is_empty() && !self.builtin.contains(&request) {
            return None;
        }
        Some(found)
    }

    /// Paths to load for `module`, in order: soft dependencies, dependencies, the module.
    pub fn order(&self, module: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.collect(module, &mut order, &mut BTreeSet::new());
        order
    }

    fn collect<'a>(&'a self, module: &str, order: &mut Vec<&'a str>, visited: &mut BTreeSet<String>) {
        let Some((path, needs)) = self.files.get(module) else { return };
        // Soft dependencies may name each other in a circle.
        if !visited.insert(module.to_owned()) {
            return;
        }
        for pre in self.softdeps.get(module).into_iter().flatten() {
            for name in self.resolve(pre).unwrap_or_default() {
                self.collect(name, order, visited);
            }
        }
        for need in needs.iter().rev().chain([path]) {
            if need != path
                && let Some(name) = name_of(need)
            {
                self.collect(&name, order, visited);
            }
            if !order.contains(&need.as_str()) {
                order.push(need);
            }
        }
    }
}

/// Shell-style match of a whole string: `*`, `?`, `[abc]`, `[a-z]`.
///
/// Goes back to the last `*` only, so the time is bounded by the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(width), _) => (p, t) = (p + width, t + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Width of the class at the start of `pattern` if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|c| *c == b']')?;
    let mut members = &pattern[1..end];
    loop {
        match members {
            [low, b'-', high, rest @ ..] => {
                if (low..=high).contains(&&byte) {
                    return Some(end + 1);
                }
                members = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return Some(end + 1);
                }
                members = rest;
            }
            [] => return None,
        }
    }
}

/// Loads modules into the running kernel and remembers which it tried.
pub struct Loader {
    database: Database,
    tried: BTreeSet<String>,
}

impl Loader {
    /// A loader that works from `database`.
    pub fn new(database: Database) -> Self {
        Self { database, tried: BTreeSet::new() }
    }

    /// Loads what answers to `request` (name or alias). A module that finds no hardware of its own (`ENODEV`: crc32c_intel
    /// on an old processor) or is there already is no failure. Says whether anything was loaded now.
    ///
    /// # Errors
    /// [`Kind::Missing`] if nothing answers; the kernel's errno if no module that answers could be loaded.
    pub fn load(&mut self, request: &str) -> Result<bool> {
        let Some(modules) = self.database.resolve(request) else {
            return Err(Error::new(Kind::Missing, format!("no module in the initramfs answers to '{request}'")));
        };
        let paths: Vec<String> = modules.iter().flat_map(|m| self.database.order(m)).map(str::to_owned).collect();
        let mut loaded = false;
        let mut failure = None;
        for path in paths {
            if self.tried.insert(path.clone()) {
                match insert(&self.database.dir.join(&path)) {
                    Ok(()) => loaded = true,
                    Err(e) => failure = Some(e),
                }
            }
        }
        match failure {
            Some(e) if !loaded => Err(e),
            Some(e) => {
                log::debug!("{e}");
                Ok(true)
            }
            None => Ok(loaded),
        }
    }
}

/// Loads the module in the file at `path`, or, where that is packed, in the one called the same and `.zst`. Of what was
/// packed nothing is left once it is loaded but the empty file: memory is short here.
fn insert(path: &Path) -> Result<()> {
    use rustix::io::Errno;
    let packed = path.with_extension("ko.zst");
    let result = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if std::fs::metadata(&packed).is_ok_and(|m| m.len() == 0) {
                return Ok(());
            }
            let what = || format!("unpack module {}", packed.display());
            let bytes = std::fs::read(&packed).context(what)?;
            rustix::system::init_module(&codec::zstd::decode(&bytes, MODULE_MAX).context(what)?, c"")
        }
        file => {
            let file = file.context(|| format!("open module {}", path.display()))?;
            rustix::system::finit_module(&file, c"", 0)
        }
    };
    match result {
        Ok(()) => {
            log::debug!("loaded {}", path.display());
            let _ = File::options().write(true).truncate(true).open(&packed);
            Ok(())
        }
        Err(Errno::EXIST | Errno::ALREADY | Errno::NODEV) => Ok(()),
        Err(e) => Err(e).context(|| format!("load module {}", path.display())),
    }
}

/// Loads a driver for every device below `/sys/devices` that has one in the initramfs, until that reveals no new device
/// (a PCI function becomes a virtio transport, which shows a virtio disk). Says how many requests loaded something.
pub fn coldplug(loader: &mut Loader) -> usize {
    let mut count = 0;
    // The deepest real chain is host bridge, transport, controller, disk; the bound only guards against a device that
    // appears and goes forever.
    for _ in 0..16 {
        let aliases = modaliases(Path::new("/sys/devices"));
        let fresh = aliases.iter().filter(|alias| matches!(loader.load(alias), Ok(true))).count();
        if fresh == 0 {
            break;
        }
        count += fresh;
    }
    count
}

fn modaliases(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // file_type does not follow links: sysfs is a graph, its real directories are a tree.
            match entry.file_type() {
                Ok(t) if t.is_dir() => waiting.push(entry.path()),
                Ok(t) if t.is_file() && entry.file_name() == "modalias" => {
                    let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                    found.extend(Some(text.trim().to_owned()).filter(|a| !a.is_empty()));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        let dep = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2/jbd2.ko:\nkernel/lib/crc16.ko:\n\
                   kernel/crypto/crc32c_generic.ko:\nkernel/arch/crc32c-intel.ko:\nkernel/drivers/virtio/virtio_pci.ko:\n";
        let alias = "alias fs-ext4 ext4\nalias crypto-crc32c crc32c_generic\nalias crypto-crc32c crc32c_intel\n\
                     alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias acpi*:PNP0[A-C]03:* acpi_thing\n";
        Database::parse(dep, alias, "softdep ext4 pre: crypto-crc32c\nsoftdep crc32c_generic pre: ext4\n")
    }

    #[test]
    fn requests_are_answered_by_name_alias_and_pattern() {
        let database = database();
        let device = "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00";
        for (request, answer) in [
            ("ext4", Some(vec!["ext4"])),
            ("crc32c-intel", Some(vec!["crc32c_intel"])),
            ("crypto-crc32c", Some(vec!["crc32c_generic", "crc32c_intel"])),
            ("fs-ext4", Some(vec!["ext4"])),
            (device, Some(vec!["virtio_pci"])),
            ("acpi:X:PNP0B03:", Some(vec!["acpi_thing"])),
            ("acpi:X:PNP0D03:", None),
            ("nls_cp437", None),
        ] {
            assert_eq!(database.resolve(request), answer, "{request}");
        }
    }

    #[test]
    fn a_module_comes_behind_everything_it_needs_even_if_soft_dependencies_go_in_a_circle() {
        let wanted =
            ["crypto/crc32c_generic.ko", "arch/crc32c-intel.ko", "lib/crc16.ko", "fs/jbd2/jbd2.ko", "fs/ext4/ext4.ko"];
        assert_eq!(database().order("ext4"), wanted.map(|p| format!("kernel/{p}")));
    }

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?x", "yx", true),
            ("[0-9a]", "a", true),
            ("[0-9]", "a", false),
            ("[0", "0", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }
}
