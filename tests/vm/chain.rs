//! The main job: a kernel panics, its memory is on disk, and others can read it.

use crate::lab::{Kernel, SUITE, disk, workdir};
use crate::panic::{Panic, baseline_image};

#[test]
fn the_rig_with_upstreams_tools() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("chain-upstream");
    let image = baseline_image(&kernel, &work);
    let panic = Panic {
        name: "chain-upstream",
        kernel: &kernel,
        work: &work,
        crashkernel: "128M",
        cpu: "qemu64",
        load: "/bin/kexec -p -s /boot/vmlinuz --initrd=/boot/crash.img --append=\"$APPEND\"",
        image: &image,
        target_mib: 256,
        fill: true,
    };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-LOAD 0").expect("LAB-SAVED");
    assert_eq!(disk::files(&target), ["/dump/vmcore", "/dump/vmcore-dmesg.txt"]);
}
