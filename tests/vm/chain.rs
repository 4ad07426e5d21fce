//! The main job: a kernel panics, its memory is on disk, and others can read it.

use crate::lab::{Kernel, SUITE, disk, workdir};
use crate::panic::{Panic, UPSTREAM_LOAD, baseline_image};

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
        load: UPSTREAM_LOAD,
        image: &image,
        target_mib: 256,
        fill: true,
    };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-LOAD 0").expect("LAB-SAVED");
    assert_eq!(disk::files(&target), ["/dump/vmcore", "/dump/vmcore-dmesg.txt"]);
}
