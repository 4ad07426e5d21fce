//! The root file system of a first kernel: busybox's shell, chosen programs, modules and one script.
//!
//! Its /init mounts proc, sys, dev and tmp, loads the modules in order, runs the script (shell, errors shown)
//! and reboots, which ends a machine started with `-no-reboot`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::{Kernel, SUITE, fetch, run};

/// busybox's names that scripts here may use.
const APPLETS: &str = "sh cat chmod cp cut dd dmesg echo false find free grep head hexdump insmod ip kill killall ln ls lsmod \
    md5sum mkdir mkfifo mknod modprobe mount mv od poweroff ps reboot rm sed seq sha256sum sleep sort stat switch_root sync tail tee test \
    time timeout touch tr true umount uname wc";

/// The way from power on to the script.
const INIT: &str = "#!/bin/sh
export PATH=/bin:/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
exec </dev/console >/dev/console 2>&1
for m in $(cat /modules/order); do insmod /modules/$m.ko || echo \"LAB: no module $m\"; done
. /script
sync
reboot -f
";

/// A root file system being put together.
pub struct Guest {
    archive: Archive,
    libraries: Vec<String>,
}

impl Guest {
    /// busybox, the named modules of `kernel` with what they depend on, and `script`.
    pub fn new(kernel: &Kernel, modules: &[&str], script: &str) -> Self {
        let mut archive = Archive::default();
        for dir in ["proc", "sys", "dev", "tmp", "mnt", "bin", "sbin", "modules"] {
            archive.dir(dir);
        }
        archive.device("dev/console", 5, 1);
        let busybox = fetch(&["tools", SUITE]).join("programs/busybox");
        archive.file("bin/busybox", 0o755, &fs::read(busybox).expect("busybox-static was fetched"));
        for applet in APPLETS.split_whitespace() {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        let closure = kernel.closure(modules);
        let order: Vec<&str> = closure.iter().map(|(name, _)| name.as_str()).collect();
        archive.file("modules/order", 0o644, order.join("\n").as_bytes());
        for (name, bytes) in &closure {
            archive.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("script", 0o755, script.as_bytes());
        Self { archive, libraries: Vec::new() }
    }

    /// A file from this machine at `path` in the guest.
    pub fn file(mut self, path: &str, from: &Path) -> Self {
        let data = fs::read(from).unwrap_or_else(|e| panic!("read {}: {e}", from.display()));
        self.archive.file(path, 0o755, &data);
        self
    }

    /// A file with this content at `path` in the guest.
    pub fn content(mut self, path: &str, data: &[u8]) -> Self {
        self.archive.file(path, 0o644, data);
        self
    }

    /// A symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.archive.link(path, target);
        self
    }

    /// Our own binary as /bin/kdumpbox, with links for the named applets.
    pub fn product(mut self, applets: &[&str]) -> Self {
        self = self.file("bin/kdumpbox", &super::product());
        applets.iter().fold(self, |guest, applet| guest.link(&format!("sbin/{applet}"), "/bin/kdumpbox"))
    }

    /// One of upstream's programs (`kexec`, `makedumpfile`, `vmcore-dmesg`, `strace`) as /bin/NAME, with its libraries.
    pub fn tool(self, name: &str) -> Self {
        let tools = fetch(&["tools", SUITE]);
        self.program(&tools.join("root"), &tools.join("programs").join(name), name)
    }

    /// A program below `root`, which has its libraries, as /bin/NAME with them.
    pub fn program(mut self, root: &Path, program: &Path, name: &str) -> Self {
        let program = fs::canonicalize(program).expect("a fetched program");
        let loader = root.join("lib64/ld-linux-x86-64.so.2");
        let path = format!("{0}/lib/x86_64-linux-gnu:{0}/usr/lib/x86_64-linux-gnu", root.display());
        let list = run(Command::new(&loader).args(["--library-path", &path, "--list"]).arg(&program));
        let mut wanted = vec![(loader.clone(), "lib64/ld-linux-x86-64.so.2".to_owned())];
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            // "libz.so.1 => /.../libz.so.1 (0x7f...)"
            let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
            let from = PathBuf::from(rest.split(" (").next().unwrap_or_default());
            // The dynamic loader lists itself by its path in the program.
            if !name.starts_with('/') {
                wanted.push((from, format!("lib/x86_64-linux-gnu/{name}")));
            }
        }
        for (from, to) in wanted {
            // Two programs of one suite share libraries, from whichever tree the first one came.
            if !self.libraries.contains(&to) {
                self = self.file(&to, &from);
                self.libraries.push(to);
            }
        }
        self.file(&format!("bin/{name}"), &program)
    }

    /// Writes the archive, uncompressed, and returns its path.
    pub fn write(self, path: &Path) -> PathBuf {
        self.archive.write(path);
        path.to_owned()
    }

    /// Writes the archive compressed by gzip.
    pub fn write_gzip(self, path: &Path) -> PathBuf {
        let plain = path.with_extension("cpio");
        self.archive.write(&plain);
        let packed = run(Command::new("gzip").args(["-n6c"]).arg(&plain)).stdout;
        fs::write(path, packed).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path.to_owned()
    }
}
