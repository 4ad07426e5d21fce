//! Under a real init: `systemctl kexec` of a Debian root file system shuts it down into the kernel that our `kexec -l`
//! has loaded, by the `kexec -e` that systemd runs last.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::lab::{Kernel, SUITE, disk, fetch, product, run};
use crate::relay::{arrived, said, usual};

/// The packages of the root file system, with all they depend on.
const PACKAGES: [&str; 4] = ["systemd-sysv", "dash", "coreutils", "util-linux"];

/// What kexec is for systemd: ours, telling what it was asked.
const KEXEC: &str = "#!/bin/sh
echo \"LAB-KEXEC $*\" > /dev/console
exec /usr/sbin/kdumpbox kexec \"$@\"
";

/// Runs in the started system, as a user would type it.
const TYPED: &str = "#!/bin/sh
echo LAB-INIT $(cat /proc/1/comm)
kexec -l /boot/vmlinuz --initrd=/boot/initrd --append='console=ttyS0 panic=-1 stage=second'
echo LAB-LOAD $?
systemctl kexec
";

const UNIT: &str = "[Unit]
Description=What a user types
Conflicts=shutdown.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
ExecStart=/typed
";

fn write(root: &Path, path: &str, mode: u32, text: &str) {
    let path = root.join(path);
    fs::write(&path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
}

#[test]
fn systemctl_kexec_reboots_into_the_loaded_kernel() {
    let start = "mount -t ext4 /dev/vdb /mnt
for d in proc sys dev; do mount --move /$d /mnt/$d; done
exec switch_root /mnt /sbin/init";
    let relay = usual("systemd").leg("first", &format!("umount /mnt\n{start}")).leg("second", "true").made();
    let root = relay.work().join("root");
    let mut fetched = vec!["root", SUITE];
    fetched.extend(PACKAGES);
    run(Command::new("cp").arg("-a").arg(fetch(&fetched)).arg(&root));
    // What base-files would bring.
    for dir in ["boot", "dev", "proc", "root", "run", "sys", "tmp", "var/log", "var/lib"] {
        fs::create_dir_all(root.join(dir)).unwrap_or_else(|e| panic!("make {dir}: {e}"));
    }
    for (path, from) in [
        ("usr/sbin/kdumpbox", product()),
        ("boot/vmlinuz", Kernel::of(SUITE).vmlinuz()),
        ("boot/initrd", relay.disk().join(format!("{SUITE}.initrd"))),
    ] {
        fs::copy(&from, root.join(path)).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
    }
    write(&root, "usr/sbin/kexec", 0o755, KEXEC);
    write(&root, "typed", 0o755, TYPED);
    write(&root, "etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n");
    write(&root, "etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    write(&root, "etc/group", 0o644, "root:x:0:\ntty:x:5:\n");
    write(&root, "etc/systemd/system/typed.service", 0o644, UNIT);
    let image = disk::ext4(&relay.work().join("root.img"), 256, "root", Some(&root));
    let outcome = relay.machine().disk(&image).append("rw systemd.unit=typed.service").run();
    outcome.ended();
    assert_eq!(outcome.value("LAB-INIT "), Some("systemd"), "{}", outcome.tail());
    assert_eq!(outcome.value("LAB-LOAD "), Some("0"), "{}", outcome.tail());
    outcome.expect("LAB-KEXEC -e");
    arrived(&outcome, "second", SUITE);
    let line = "[console=ttyS0 panic=-1 stage=second]";
    assert_eq!(said(&outcome, "second", "CMDLINE"), line, "{}", outcome.tail());
}
