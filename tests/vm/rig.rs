//! The laboratory itself: if these fail, no other result counts.

use crate::lab::{End, Guest, Kernel, Machine, SUITE, core, disk, tool, workdir};

#[test]
fn a_guest_boots_and_its_files_come_back() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("rig-boot");
    let script = "mount -t ext4 /dev/vda /mnt && uname -r > /mnt/release && umount /mnt\necho LAB-MARK $(uname -r)\n";
    let guest = Guest::new(&kernel, &["virtio_pci", "virtio_blk", "ext4"], script);
    let image = disk::ext4(&work.join("disk.img"), 32, "target", None);
    let outcome = Machine::new("rig-boot", &work, &kernel.vmlinuz())
        .initrd(&guest.write_gzip(&work.join("initrd")))
        .memory(512)
        .disk(&image)
        .run();
    outcome.ended();
    assert_eq!(outcome.value("LAB-MARK "), Some(kernel.release.as_str()), "{}", outcome.tail());
    assert_eq!(disk::files(&image), ["/release"]);
    let release = std::fs::read_to_string(disk::copy_out(&image, "/release", &work.join("release"))).unwrap();
    assert_eq!(release.trim(), kernel.release);
}

#[test]
fn a_guest_that_hangs_is_ended_and_said_to_have_timed_out() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("rig-hang");
    let outcome = Machine::new("rig-hang", &work, &kernel.vmlinuz())
        .append("rdinit=/none root=/dev/none rootwait")
        .timeout(5)
        .run();
    assert_eq!(outcome.end, End::TimedOut);
}

#[test]
fn upstream_reads_the_log_of_a_cached_vmcore() {
    let kernel = Kernel::of(SUITE);
    for cpu in ["qemu64", "max"] {
        let vmcore = core::vmcore(&kernel, cpu);
        let log = workdir("rig-core").join("log");
        let said = tool("makedumpfile").arg("--dump-dmesg").arg(&vmcore).arg(&log).output().unwrap();
        assert!(said.status.success(), "{cpu}: {}", String::from_utf8_lossy(&said.stderr));
        let log = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        assert!(
            log.trim_end().ends_with(core::ORACLE),
            "{cpu}: the log ends otherwise: {}",
            log.lines().last().unwrap()
        );
        assert!(log.contains(&kernel.release), "{cpu}: the log does not name the release");
    }
}
