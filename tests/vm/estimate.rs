//! `crashkernel-check estimate`: what it says is enough, and at most 15 % above what is.
//!
//! Two boots an image decide it: one with the estimate, which must capture, and one with the largest size that would
//! make the estimate more than 15 % too high, which must not.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Kernel, SUITE, disk, dracut, product, run, say, workdir};
use crate::panic::{Panic, our_image, our_load};

const CONFIG: &str = "ext4 LABEL=target\ncore_collector makedumpfile -z -d 31\n";

/// The estimate in MiB: `smallest`, or `lean` for `kexec -p --lean`.
fn estimate(kernel: &Kernel, image: &Path, key: &str) -> u32 {
    let mut command = Command::new(product());
    command.args(["crashkernel-check", "estimate", "--json", "--memory", "1G"]);
    let output = run(command.arg("--kernel").arg(kernel.vmlinuz()).arg("--initrd").arg(image));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes =
        text.split_once(&format!("\"{key}\": ")).and_then(|(_, rest)| rest.split(',').next()?.parse::<u64>().ok());
    u32::try_from(bytes.unwrap_or_else(|| panic!("no estimate in {text}")) >> 20).expect("MiB")
}

fn captures(name: &str, kernel: &Kernel, image: &Path, load: &str, mib: u32) -> bool {
    let name = format!("{name}-{mib}M");
    let work = workdir(&name);
    let crashkernel = format!("{mib}M");
    let panic = Panic { crashkernel: &crashkernel, ..Panic::new(&name, kernel, &work, image, load) };
    let (_, target) = panic.run();
    let saved = disk::files(&target).iter().any(|path| path.ends_with("/vmcore"));
    say(&format!("{name}: {}", if saved { "captured" } else { "not captured" }));
    saved
}

fn check(name: &str, kernel: &Kernel, image: &Path, load: &str) {
    let mib = estimate(kernel, image, if load.contains("--lean") { "lean" } else { "smallest" });
    // The largest size of which the estimate is more than 1.15 times.
    let below = (mib * 100 - 1) / 115;
    say(&format!("{name}: estimated {mib}M; {below}M must not do"));
    assert!(captures(name, kernel, image, load, mib), "{name}: the estimate, {mib}M, is not enough");
    assert!(!captures(name, kernel, image, load, below), "{name}: {below}M would do, so {mib}M is too much");
}

fn ours(suite: &str) {
    let kernel = Kernel::of(suite);
    let image = our_image(&kernel, &workdir(&format!("estimate-ours-{suite}")), CONFIG, &["--drivers", "virtio_blk"]);
    check(&format!("estimate-ours-{suite}"), &kernel, &image, &our_load("-s"));
    check(&format!("estimate-lean-{suite}"), &kernel, &image, &our_load("-s --lean"));
}

fn by_dracut(suite: &str) {
    let kernel = Kernel::of(suite);
    let image: PathBuf = dracut::image(&kernel, &workdir(&format!("estimate-dracut-{suite}")));
    let load = our_load("-s").replace("$APPEND", &format!("$APPEND {}", dracut::UNIT));
    check(&format!("estimate-dracut-{suite}"), &kernel, &image, &load);
}

#[test]
fn for_our_initramfs_on_6_1() {
    ours(SUITE);
}

#[test]
fn for_our_initramfs_on_7() {
    ours("sid");
}

#[test]
fn for_dracut_on_6_1() {
    by_dracut(SUITE);
}

#[test]
fn for_dracut_on_7() {
    by_dracut("sid");
}

/// The command does by itself what the tests above do.
#[test]
fn measured_by_the_command_itself() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("estimate-measure");
    let image = our_image(&kernel, &work, CONFIG, &["--drivers", "virtio_blk"]);
    let mut command = crate::lab::in_turn(&product());
    command.args(["crashkernel-check", "estimate", "--measure", "--json", "--memory", "1G"]);
    let output = run(command.arg("--kernel").arg(kernel.vmlinuz()).arg("--initrd").arg(&image));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let measured =
        text.split_once("\"measured\": ").and_then(|(_, rest)| rest.trim_end_matches("}\n").parse::<u64>().ok());
    let measured = u32::try_from(measured.unwrap_or_else(|| panic!("no measure in {text}")) >> 20).expect("MiB");
    let estimated = estimate(&kernel, &image, "smallest");
    say(&format!("estimate-measure: measured {measured}M, estimated {estimated}M"));
    assert!(measured <= estimated.next_multiple_of(4) && estimated * 100 <= (measured * 115).next_multiple_of(100));
}
