//! A crash initramfs as dracut makes it, with systemd and udev: dracut runs below a root of its own packages.
//! That takes chroot, and so root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kernel, fetch, product, run};

/// What dracut needs beside itself, and what goes into the image.
const PACKAGES: [&str; 16] = [
    "dracut-core",
    "kmod",
    "systemd-sysv",
    "udev",
    "util-linux",
    "mount",
    "dash",
    "bash",
    "coreutils",
    "cpio",
    "gzip",
    "sed",
    "grep",
    "findutils",
    "libc-bin",
    "zstd",
];

/// The service that saves: our binary, started by systemd in dracut's image.
const SERVICE: &str = "[Unit]
DefaultDependencies=no
After=systemd-udevd.service systemd-udev-trigger.service
Wants=systemd-udevd.service systemd-udev-trigger.service
FailureAction=reboot-force
SuccessAction=reboot-force

[Service]
Type=oneshot
StandardOutput=journal+console
StandardError=journal+console
ExecStart=/bin/sh /bin/capture
";

const CAPTURE: &str = "modprobe virtio_pci
modprobe virtio_blk
modprobe ext4
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 1; done
mkdir -p /target
mount -t ext4 /dev/vdb /target
mkdir -p /target/dump
kdump-save -d 31 /proc/vmcore /target/dump/vmcore
umount /target
";

/// The word that starts it.
pub const UNIT: &str = "rd.systemd.unit=kdump.service";

/// Makes the image for `kernel` in `work`.
pub fn image(kernel: &Kernel, work: &Path) -> PathBuf {
    let packages: Vec<&str> = ["root", super::SUITE].into_iter().chain(PACKAGES).collect();
    let root = work.join("root");
    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(fetch(&packages)).arg(&root));
    let write = |name: &str, data: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(&path, data).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    };
    let base = format!("lib/modules/{}", kernel.release);
    for (name, bytes) in kernel.closure(&["virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "crc32c_cryptoapi"]) {
        write(&format!("{base}/kernel/{name}.ko"), &bytes);
    }
    for list in ["order", "builtin", "builtin.modinfo"] {
        write(&format!("{base}/modules.{list}"), b"");
    }
    write("etc/passwd", b"root:x:0:0::/root:/bin/sh\n");
    write("etc/group", b"root:x:0:\n");
    write("tmp/kdump.service", SERVICE.as_bytes());
    write("tmp/capture", CAPTURE.as_bytes());
    fs::create_dir_all(root.join("var/tmp")).expect("made");
    fs::copy(product(), root.join("usr/bin/kdump-save")).expect("copied");
    let inside = |command: &str| {
        let mut chroot = Command::new("chroot");
        chroot.arg(&root).args(["/bin/sh", "-c", command]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(&mut chroot);
    };
    inside("ldconfig; ln -sfn /proc/self/fd /dev/fd; [ -c /dev/null ] || mknod /dev/null c 1 3");
    inside(&format!("depmod {}", kernel.release));
    inside(&format!(
        "dracut --force --no-hostonly --no-early-microcode --gzip --kver {} \
         --modules 'systemd systemd-initrd dracut-systemd base kernel-modules udev-rules fs-lib' \
         --drivers 'virtio_pci virtio_blk ext4 crc32c_generic' --filesystems ext4 \
         --include /tmp/kdump.service /usr/lib/systemd/system/kdump.service --include /tmp/capture /bin/capture \
         --install 'mount umount sleep mkdir modprobe sh kdump-save' /tmp/crash.img",
        kernel.release
    ));
    root.join("tmp/crash.img")
}
