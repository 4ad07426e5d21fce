//! The rig of the real chain: a first kernel with a reservation loads a crash kernel and panics; what the crash
//! kernel saves is on a disk afterwards. Also the image that upstream's tools would run in, as the baseline.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::core::{FILL, ORACLE, fill_disk};
use crate::lab::{Guest, Kernel, Machine, Outcome, disk, product, run};

/// The crash kernel's command line, as a user would write it.
pub const APPEND: &str = "console=ttyS0 reset_devices nr_cpus=1 irqpoll panic=-1 rootfstype=ramfs";

/// One panic to be staged.
pub struct Panic<'a> {
    /// Name of the case.
    pub name: &'a str,
    /// The kernel on both sides.
    pub kernel: &'a Kernel,
    /// The case's directory.
    pub work: &'a Path,
    /// `crashkernel=` of the first kernel.
    pub crashkernel: &'a str,
    /// CPU model.
    pub cpu: &'a str,
    /// The command that loads: /boot/vmlinuz and /boot/crash.img are there, and `$APPEND`.
    pub load: &'a str,
    /// The crash initramfs.
    pub image: &'a Path,
    /// Size of the target disk (/dev/vdb, ext4, labelled "target").
    pub target_mib: u64,
    /// Whether memory is filled before the panic.
    pub fill: bool,
    /// The machine's memory.
    pub memory_mib: u32,
}

impl<'a> Panic<'a> {
    /// The usual machine: 1 GiB filled to a third, `crashkernel=128M`, 4-level paging, a disk of 256 MiB.
    pub fn new(name: &'a str, kernel: &'a Kernel, work: &'a Path, image: &'a Path, load: &'a str) -> Self {
        let (crashkernel, cpu) = ("128M", "qemu64");
        Self { name, kernel, work, crashkernel, cpu, load, image, target_mib: 256, fill: true, memory_mib: 1024 }
    }

    /// Boots, loads, panics; waits for the end. The second value is the image of the target disk.
    pub fn run(&self) -> (Outcome, PathBuf) {
        self.run_watched(|_| {})
    }

    /// The same, and hands each console line to `watch` as it comes.
    pub fn run_watched(&self, watch: impl FnMut(&str)) -> (Outcome, PathBuf) {
        let fill = if self.fill { FILL } else { "" };
        let script = format!(
            "{fill}\nAPPEND='{APPEND}'
echo LAB-RESERVED $(cat /sys/kernel/kexec_crash_size)
{}
echo LAB-LOAD $?
echo LAB-LOADED $(cat /sys/kernel/kexec_crash_loaded)
grep -E 'MemFree|^Cached|AnonPages|Shmem:' /proc/meminfo
[ $(cat /sys/kernel/kexec_crash_loaded) = 1 ] || reboot -f
echo '{ORACLE}' > /dev/kmsg
echo c > /proc/sysrq-trigger
",
            self.load
        );
        let guest = Guest::new(self.kernel, &["virtio_pci", "virtio_blk", "ext4"], &script)
            .product(&["kexec"])
            .tool("kexec")
            .file("boot/vmlinuz", &self.kernel.vmlinuz())
            .file("boot/crash.img", self.image);
        let target = disk::ext4(&self.work.join("target.img"), self.target_mib, "target", None);
        let outcome = Machine::new(self.name, self.work, &self.kernel.vmlinuz())
            .initrd(&guest.write(&self.work.join("first.cpio")))
            .append(&format!("crashkernel={}", self.crashkernel))
            .cpu(self.cpu)
            .memory(self.memory_mib)
            .disk(&fill_disk(&self.work.join("fill.img")))
            .disk(&target)
            .timeout(240)
            .run_watched(watch);
        (outcome, target)
    }
}

/// The image of today's minimum: busybox's shell around upstream's makedumpfile and vmcore-dmesg.
pub fn baseline_image(kernel: &Kernel, work: &Path) -> PathBuf {
    let script = "
mount -t ext4 /dev/vdb /mnt
mkdir /mnt/dump
vmcore-dmesg /proc/vmcore > /mnt/dump/vmcore-dmesg.txt && echo LAB-DMESG-SAVED
makedumpfile --message-level 4 -c -d 31 /proc/vmcore /mnt/dump/vmcore && echo LAB-SAVED
grep -E 'MemTotal|MemFree|MemAvailable' /proc/meminfo
umount /mnt
";
    Guest::new(kernel, &["virtio_pci", "virtio_blk", "ext4"], script)
        .tool("makedumpfile")
        .tool("vmcore-dmesg")
        .write_gzip(&work.join("baseline.img"))
}

/// How upstream's kexec loads the crash kernel.
pub const UPSTREAM_LOAD: &str = "/bin/kexec -p -s /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\"";

/// How ours loads it: `mode` is `-s`, `-c` or `-a`.
pub fn our_load(mode: &str) -> String {
    format!("/sbin/kexec -p {mode} /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\"")
}

/// Our own crash initramfs, made as `initramfs/build` makes it; `more` are further options.
pub fn our_image(kernel: &Kernel, work: &Path, config: &str, more: &[&str]) -> PathBuf {
    let (conf, image) = (work.join("kdump.conf"), work.join("crash.img"));
    std::fs::write(&conf, config).unwrap_or_else(|e| panic!("write {}: {e}", conf.display()));
    let modules = kernel.dir.join("lib/modules").join(&kernel.release);
    let mut command = Command::new(product());
    command.arg("kdump-initramfs").arg("--module-dir").arg(modules).arg("--config").arg(&conf);
    run(command.args(more).arg("--output").arg(&image));
    image
}
