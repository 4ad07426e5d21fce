//! The smallest `crashkernel=` with which a panic of a 1 GiB machine is captured, in steps of 4 MiB.

use std::path::Path;

use crate::lab::{Kernel, SUITE, disk, say, workdir};
use crate::panic::{Panic, UPSTREAM_LOAD, baseline_image, our_image, our_load};

const STEP_MIB: u32 = 4;

const CONFIG: &str = "ext4 LABEL=target\ncore_collector makedumpfile -c -d 31\n";

/// Whether a whole dump is on the target disk after a panic with this reservation.
fn captures(name: &str, kernel: &Kernel, image: &Path, load: &str, mib: u32) -> bool {
    let name = format!("{name}-{mib}M");
    let work = workdir(&name);
    let crashkernel = format!("{mib}M");
    let panic = Panic { crashkernel: &crashkernel, ..Panic::new(&name, kernel, &work, image, load) };
    let (outcome, target) = panic.run();
    outcome.expect(&format!("LAB-RESERVED {}", u64::from(mib) << 20));
    let saved = disk::files(&target).iter().any(|path| path.ends_with("/vmcore"));
    say(&format!("{name}: {}", if saved { "captured" } else { "not captured" }));
    saved
}

/// Bisects between a reservation known to be too small and one expected to be enough.
fn smallest(name: &str, kernel: &Kernel, image: &Path, load: &str) -> u32 {
    let (mut bad, mut good) = (64, 160);
    assert!(captures(name, kernel, image, load, good), "{name}: {good}M is not enough");
    while good - bad > STEP_MIB {
        let middle = (bad + good) / 2 / STEP_MIB * STEP_MIB;
        if captures(name, kernel, image, load, middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    say(&format!("{name}: the smallest crashkernel= that captures is {good}M"));
    good
}

#[test]
fn busybox_and_makedumpfile_need() {
    let kernel = Kernel::of(SUITE);
    let image = baseline_image(&kernel, &workdir("reserve-baseline"));
    let need = smallest("reserve-baseline", &kernel, &image, UPSTREAM_LOAD);
    assert!((84..=128).contains(&need), "the baseline needs {need}M, which no earlier measurement came near");
}

/// With the drivers of this machine only, as the baseline has them.
#[test]
fn ours_needs() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("reserve-ours");
    let image = our_image(&kernel, &work, CONFIG, &["--drivers", "virtio_blk"]);
    let need = smallest("reserve-ours", &kernel, &image, &our_load("-s"));
    // At 84M the kernel itself is at its end before init runs: two times of three it gets through.
    assert!(need <= 88, "we need {need}M, busybox and makedumpfile 92M");
}

/// With the drivers of all common virtual machines, as the image is by default.
#[test]
fn ours_with_portable_drivers_needs() {
    let kernel = Kernel::of(SUITE);
    let image = our_image(&kernel, &workdir("reserve-portable"), CONFIG, &[]);
    let need = smallest("reserve-portable", &kernel, &image, &our_load("-s"));
    assert!(need <= 92, "we need {need}M");
}

/// The same with a command line on a diet, the kernel as it is.
#[test]
fn ours_on_a_lean_command_line_needs() {
    let kernel = Kernel::of(SUITE);
    let image = our_image(&kernel, &workdir("reserve-lean"), CONFIG, &["--drivers", "virtio_blk"]);
    let need = smallest("reserve-lean", &kernel, &image, &our_load("-s --lean"));
    assert!(need <= 76, "we need {need}M");
}

/// And with the kernel unpacked when it is loaded: nothing is reserved for unpacking it after the panic.
#[test]
fn ours_unpacked_at_load_time_needs() {
    let kernel = Kernel::of(SUITE);
    let image = our_image(&kernel, &workdir("reserve-unpacked"), CONFIG, &["--drivers", "virtio_blk"]);
    let need = smallest("reserve-unpacked", &kernel, &image, &our_load("--lean --unpack"));
    assert!(need <= 76, "we need {need}M");
}
