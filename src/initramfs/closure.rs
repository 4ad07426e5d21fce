//! Which modules go in: the drivers asked for, what they depend on, and what no dependency names (a virtio disk is
//! useless without the PCI transport, a SCSI host without the disk driver, ext4 without a crc32c).
//!
//! Works on a module directory as a kernel package holds it, without `depmod`'s files.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::modinfo::{self, ModInfo, normal};
use crate::error::{Context, Error, Kind, Result};

/// Storage drivers of virtual machines and of plain PCs: the set that makes one image fit most guests.
/// A kernel that lacks one of these (or has it compiled in) is no error.
pub const PORTABLE_DRIVERS: &[&str] = &[
    "virtio_blk",
    "virtio_scsi",
    "virtio_mmio",
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "xen-blkfront",
    "hv_storvsc",
    "vmw_pvscsi",
];

/// What a bus needs although none of its drivers depends on it: an alias prefix of the driver, the modules.
const TRANSPORTS: &[(&str, &[&str])] = &[
    ("virtio:", &["virtio_pci"]),
    ("vmbus:", &["hv_vmbus", "pci-hyperv"]),
    ("usb:", &["xhci_pci", "ehci_pci", "uhci_hcd"]),
];

/// Modules a file system asks the kernel for while it is mounted.
const FILE_SYSTEM_EXTRAS: &[(&str, &[&str])] = &[("vfat", &["nls_cp437", "nls_iso8859-1", "nls_ascii", "nls_utf8"])];

/// Where modules live that others name by an alias (`crypto-crc32c`), as opposed to drivers that devices name.
const ALIASED: [&str; 4] = ["crypto/", "arch/", "lib/", "fs/"];

/// A directory `lib/modules/RELEASE`.
pub struct Tree {
    dir: PathBuf,
    release: String,
    /// Module name to path below `dir`.
    files: BTreeMap<String, String>,
    /// What is compiled in, if the directory tells: not every package has `modules.builtin`.
    builtin: Option<BTreeSet<String>>,
    builtin_alias: BTreeSet<String>,
    /// Alias to the modules that have it; made on first use.
    aliases: RefCell<Option<BTreeMap<String, Vec<String>>>>,
}

/// One module of the closure.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name with underscores.
    pub name: String,
    /// Its path below the module directory, packing included (`kernel/fs/ext4/ext4.ko.xz`).
    pub path: String,
    /// What it says of itself.
    pub info: ModInfo,
}

/// The modules to put in, sorted by path; holding one proves that every `depends=` of each is in it or compiled in.
#[derive(Debug, Default)]
pub struct Closure {
    /// The modules.
    pub modules: Vec<Module>,
    /// Optional drivers and soft dependencies this kernel does not have.
    pub absent: Vec<String>,
}

impl Tree {
    /// Lists the modules in `dir`, which are to be those of `release`.
    ///
    /// # Errors
    /// [`Kind::Open`] if the directory can't be read or holds no module.
    pub fn scan(dir: &Path, release: &str) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut waiting = vec![PathBuf::from("kernel"), "updates".into(), "extra".into()];
        while let Some(relative) = waiting.pop() {
            let Ok(entries) = std::fs::read_dir(dir.join(&relative)) else { continue };
            for entry in entries {
                let entry = entry.context(|| format!("list {}", dir.join(&relative).display()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = relative.join(&name);
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    waiting.push(path);
                } else if let Some(module) = modinfo::module_name(&name) {
                    files.insert(module, path.to_string_lossy().into_owned());
                }
            }
        }
        if files.is_empty() {
            let what =
                format!("no kernel module below {}/kernel; install or unpack the kernel's package", dir.display());
            return Err(Error::new(Kind::Open, what));
        }
        let builtin = std::fs::read_to_string(dir.join("modules.builtin")).ok();
        let builtin = builtin.map(|b| b.lines().filter_map(|l| modinfo::module_name(l.rsplit('/').next()?)).collect());
        let builtin_alias = std::fs::read(dir.join("modules.builtin.modinfo")).unwrap_or_default();
        let builtin_alias = modinfo::builtin_aliases(&builtin_alias).into_iter().map(|(_, a)| normal(&a)).collect();
        Ok(Self {
            dir: dir.into(),
            release: release.into(),
            files,
            builtin,
            builtin_alias,
            aliases: RefCell::default(),
        })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin.as_ref().is_some_and(|b| b.contains(name)) || self.builtin_alias.contains(name)
    }

    /// Modules called `name`, or with the alias `name`.
    fn find(&self, name: &str) -> Result<Vec<String>> {
        let name = normal(name);
        if self.files.contains_key(&name) {
            return Ok(vec![name]);
        }
        let mut aliases = self.aliases.borrow_mut();
        if aliases.is_none() {
            *aliases = Some(self.read_aliases()?);
        }
        Ok(aliases.as_ref().and_then(|a| a.get(&name)).cloned().unwrap_or_default())
    }

    fn read_aliases(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (module, path) in &self.files {
            let inner = path.strip_prefix("kernel/").unwrap_or(path);
            if ALIASED.iter().any(|d| inner.starts_with(d)) {
                for alias in modinfo::read(&self.dir.join(path))?.aliases {
                    aliases.entry(normal(&alias)).or_default().push(module.clone());
                }
            }
        }
        Ok(aliases)
    }

    fn module(&self, name: &str) -> Result<Option<Module>> {
        let Some(path) = self.files.get(name) else { return Ok(None) };
        let info = modinfo::read(&self.dir.join(path))?;
        if let Some(release) = info.release.as_ref().filter(|r| **r != self.release) {
            let rule = format!("but the image is for {}; give the module directory of that kernel", self.release);
            return Err(Error::new(Kind::Invalid, format!("module {path} is built for kernel {release}, {rule}")));
        }
        Ok(Some(Module { name: name.into(), path: path.clone(), info }))
    }
}

/// What to close over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Drivers that must be there (or be compiled in).
    pub drivers: &'a [String],
    /// Drivers taken if the kernel has them.
    pub optional: &'a [&'a str],
    /// File systems that must be there (or be compiled in), by the name `mount` takes.
    pub file_systems: &'a [String],
}

/// Closes `wanted` over dependencies, soft dependencies and transports.
///
/// # Errors
/// [`Kind::Missing`] naming a wanted module or a dependency that the tree lacks; [`Kind::Invalid`] for a module of another kernel.
pub fn close(tree: &Tree, wanted: Wanted<'_>) -> Result<Closure> {
    let mut work = Work { tree, taken: BTreeMap::new(), absent: BTreeSet::new(), waiting: Vec::new() };
    for name in wanted.drivers {
        work.require(name, "it was asked for; check its spelling, or --kernel-release")?;
    }
    for fs in wanted.file_systems {
        let known = !tree.find(fs)?.is_empty() || tree.is_builtin(&normal(fs));
        let name = if known { fs.clone() } else { format!("fs-{fs}") };
        match &tree.builtin {
            // Nobody can say that it is not compiled in: the report names it.
            None if !known && tree.find(&name)?.is_empty() => drop(work.absent.insert(name)),
            _ => work.require(&name, "the target's file system needs it")?,
        }
        let extras = FILE_SYSTEM_EXTRAS.iter().filter(|(f, _)| f == fs).flat_map(|(_, e)| e.iter());
        extras.for_each(|extra| work.waiting.push(((*extra).into(), None)));
    }
    wanted.optional.iter().for_each(|name| work.waiting.push(((*name).into(), None)));
    work.run()
}

struct Work<'a> {
    tree: &'a Tree,
    taken: BTreeMap<String, Module>,
    absent: BTreeSet<String>,
    /// Name or alias, and why it must be there if it must.
    waiting: Vec<(String, Option<String>)>,
}

impl Work<'_> {
    fn require(&mut self, name: &str, why: &str) -> Result<()> {
        self.take(name, Some(why))
    }

    fn run(mut self) -> Result<Closure> {
        while let Some((name, why)) = self.waiting.pop() {
            self.take(&name, why.as_deref())?;
        }
        let mut modules: Vec<Module> = self.taken.into_values().collect();
        modules.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Closure { modules, absent: self.absent.into_iter().collect() })
    }

    fn take(&mut self, name: &str, why: Option<&str>) -> Result<()> {
        let found = self.tree.find(name)?;
        if found.is_empty() && !self.tree.is_builtin(&normal(name)) {
            let Some(why) = why else {
                self.absent.insert(normal(name));
                return Ok(());
            };
            let place = self.tree.dir.display();
            let unknown = "there is no modules.builtin: what is compiled in must be left out of the list";
            let why = if self.tree.builtin.is_none() { format!("{why}; {unknown}") } else { why.to_owned() };
            return Err(Error::new(Kind::Missing, format!("no kernel module '{name}' in {place}: {why}")));
        }
        for name in found {
            if self.taken.contains_key(&name) {
                continue;
            }
            let Some(module) = self.tree.module(&name)? else { continue };
            let why = format!("module {name} depends on it");
            self.waiting.extend(module.info.depends.iter().map(|d| (d.clone(), Some(why.clone()))));
            self.waiting.extend(module.info.softdep_pre.iter().map(|d| (d.clone(), None)));
            self.waiting.extend(companions(&module.info).map(|c| (c.to_owned(), None)));
            self.taken.insert(name, module);
        }
        Ok(())
    }
}

/// Modules that `info`'s module needs to be of use although it names none of them.
fn companions(info: &ModInfo) -> impl Iterator<Item = &'static str> {
    let transports = TRANSPORTS.iter().filter(|(prefix, _)| info.aliases.iter().any(|a| a.starts_with(prefix)));
    let disks = info.depends.iter().any(|d| d == "scsi_mod" || d == "libata");
    transports.flat_map(|(_, modules)| modules.iter().copied()).chain(disks.then_some("sd_mod"))
}

/// The three texts `modprobe` works from, in the forms of depmod: `modules.dep`, `modules.alias`, `modules.softdep`.
/// Paths are those in the image, where every module is unpacked.
pub fn tables(closure: &Closure) -> [(&'static str, String); 3] {
    let by_name: BTreeMap<&str, &Module> = closure.modules.iter().map(|m| (m.name.as_str(), m)).collect();
    let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
    for module in &closure.modules {
        let mut order = Vec::new();
        needs(&by_name, module, &mut order);
        let paths: String = order.iter().rev().map(|m| format!(" {}", image_path(&m.path))).collect();
        dep.push_str(&format!("{}:{paths}\n", image_path(&module.path)));
        for pattern in &module.info.aliases {
            alias.push_str(&format!("alias {pattern} {}\n", module.name));
        }
        if !module.info.softdep_pre.is_empty() {
            softdep.push_str(&format!("softdep {} pre: {}\n", module.name, module.info.softdep_pre.join(" ")));
        }
    }
    [("modules.dep", dep), ("modules.alias", alias), ("modules.softdep", softdep)]
}

/// What `module` depends on, each behind its own dependencies, without `module` itself.
fn needs<'a>(all: &BTreeMap<&str, &'a Module>, module: &Module, order: &mut Vec<&'a Module>) {
    for name in &module.info.depends {
        if let Some(dependency) = all.get(name.as_str())
            && !order.iter().any(|m| m.name == dependency.name)
        {
            needs(all, dependency, order);
            order.push(dependency);
        }
    }
}

/// `kernel/fs/ext4/ext4.ko.xz` is `kernel/fs/ext4/ext4.ko` in the image.
pub fn image_path(path: &str) -> &str {
    match modinfo::ENDINGS.iter().rev().find(|e| path.ends_with(**e)) {
        Some(ending) => path.get(..path.len() - ending.len() + ".ko".len()).unwrap_or(path),
        None => path,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::modinfo::tests::module;
    use super::*;

    /// A kernel as a package unpacks it: no `modules.dep`.
    pub fn kernel(dir: &Path) -> PathBuf {
        let magic = "vermagic=6.1.0-t SMP preempt";
        let files: &[(&str, &[&str])] = &[
            ("fs/ext4/ext4.ko", &["depends=jbd2,crc16", "softdep=pre: crypto-crc32c", "alias=fs-ext4", magic]),
            ("fs/jbd2/jbd2.ko", &["depends=", magic]),
            ("crypto/crc32c_generic.ko", &["alias=crypto-crc32c", magic]),
            ("arch/x86/crypto/crc32c-intel.ko", &["alias=crypto-crc32c", magic]),
            ("drivers/block/virtio_blk.ko", &["alias=virtio:d2v*", "depends=virtio", magic]),
            ("drivers/virtio/virtio.ko", &["depends=", magic]),
            ("drivers/virtio/virtio_pci.ko", &["alias=pci:v00001AF4d*", "depends=virtio", magic]),
            ("drivers/scsi/other.ko", &["depends=gone", "vermagic=6.1.0-t"]),
            ("drivers/scsi/old.ko", &["depends=", "vermagic=5.10.0 SMP"]),
        ];
        let root = dir.join("6.1.0-t");
        for (path, fields) in files {
            let path = root.join("kernel").join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, module(fields)).expect("write");
        }
        std::fs::write(root.join("modules.builtin"), "kernel/lib/crc16.ko\nkernel/fs/vfat/vfat.ko\n").expect("write");
        root
    }

    fn names(drivers: &[&str], fs: &[&str]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().expect("dir");
        let tree = Tree::scan(&kernel(dir.path()), "6.1.0-t").expect("tree");
        let own = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).to_owned()).collect() };
        let (drivers, file_systems) = (own(drivers), own(fs));
        let wanted = Wanted { drivers: &drivers, optional: &[], file_systems: &file_systems };
        Ok(close(&tree, wanted)?.modules.into_iter().map(|m| m.name).collect())
    }

    #[test]
    fn a_virtio_disk_brings_its_transport_and_ext4_every_crc32c() {
        let wanted = ["crc32c_intel", "crc32c_generic", "virtio_blk", "virtio", "virtio_pci", "ext4", "jbd2"];
        assert_eq!(names(&["virtio-blk"], &["ext4"]).expect("closes"), wanted);
        assert_eq!(names(&[], &["vfat"]).expect("compiled in"), [""; 0]);
    }

    #[test]
    fn what_is_missing_or_of_another_kernel_is_named() {
        let cases = [
            (&["virtio_blkk"][..], &[][..], Kind::Missing, "no kernel module 'virtio_blkk'"),
            (&[], &["zfs"], Kind::Missing, "no kernel module 'fs-zfs'"),
            (&["other"], &[], Kind::Missing, "no kernel module 'gone'"),
            (&["old"], &[], Kind::Invalid, "is built for kernel 5.10.0, but the image is for 6.1.0-t"),
        ];
        for (drivers, fs, kind, text) in cases {
            let e = names(drivers, fs).expect_err(text);
            assert_eq!(e.kind(), kind);
            assert!(e.to_string().contains(text), "{e}");
        }
    }

    #[test]
    fn without_a_list_of_what_is_compiled_in_a_file_system_is_taken_to_be() {
        let dir = tempfile::tempdir().expect("dir");
        let root = kernel(dir.path());
        std::fs::remove_file(root.join("modules.builtin")).expect("remove");
        std::fs::write(root.join("kernel/fs/ext4/ext4.ko"), module(&["alias=fs-ext4", "depends=jbd2"])).expect("write");
        let tree = Tree::scan(&root, "6.1.0-t").expect("tree");
        let wanted = Wanted { file_systems: &["xfs".into()], ..Wanted::default() };
        assert_eq!(close(&tree, wanted).expect("closes").absent, ["fs-xfs"]);
        let wanted = Wanted { drivers: &["virtio_net".into()], ..Wanted::default() };
        let e = close(&tree, wanted).expect_err("a driver is asked for by name").to_string();
        assert!(e.ends_with("what is compiled in must be left out of the list"), "{e}");
    }

    #[test]
    fn the_tables_are_those_of_depmod() {
        let dir = tempfile::tempdir().expect("dir");
        let tree = Tree::scan(&kernel(dir.path()), "6.1.0-t").expect("tree");
        let wanted = Wanted { file_systems: &["ext4".into()], ..Wanted::default() };
        let [dep, alias, softdep] = tables(&close(&tree, wanted).expect("closes"));
        let lines: Vec<&str> = dep.1.lines().filter(|l| l.contains("ext4")).collect();
        assert_eq!(lines, ["kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko"]);
        assert!(alias.1.contains("alias crypto-crc32c crc32c_intel\n"));
        assert_eq!(softdep.1, "softdep ext4 pre: crypto-crc32c\n");
        assert_eq!(image_path("kernel/a-b.ko.zst"), "kernel/a-b.ko");
    }
}
