//! Kernels of other releases start one another, by both system calls, with a large initrd.

use std::fs::{self, File};
use std::process::Command;

use crate::lab::cpio::Archive;
use crate::lab::{SUITE, run};
use crate::relay::{all_arrived, said, usual};

#[test]
fn kernels_of_other_releases_by_both_system_calls() {
    let relay = usual("releases").kernel("bullseye", &[]).kernel("trixie", &[]).kernel("sid", &[]);
    // Of no pattern: what arrives is compared by its sum.
    let words: Vec<u8> =
        (0..9u32 << 20).flat_map(|n| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let plain = relay.work().join("plain");
    fs::write(&plain, &words).expect("write the large file");
    let sum = run(Command::new("md5sum").stdin(File::open(&plain).expect("the large file"))).stdout;
    let sum = String::from_utf8_lossy(&sum).split_whitespace().next().unwrap_or_default().to_owned();
    let mut archive = Archive::default();
    archive.file("big", 0o644, &words);
    let big = relay.work().join("big");
    archive.write(&big);
    let tell = "echo LAB-$stage-SUM $(md5sum < /big | cut -d ' ' -f 1)";
    let hop = |to: &str, call: &str, suite: &str| {
        format!("go {to} {call} -l /mnt/{suite}.vmlinuz --initrd=/mnt/{suite}.initrd")
    };
    let outcome = relay
        .file("big", &big)
        .leg("first", &format!("{} --initrd=/mnt/big", hop("c612", "-c", "trixie")))
        .leg("c612", &format!("{tell}\n{}", hop("s72", "-s", "sid")))
        .leg("s72", &hop("c510", "-c", "bullseye"))
        .leg("c510", &hop("s612", "-s", "trixie"))
        .leg("s612", &hop("c72", "-c", "sid"))
        .leg("c72", &format!("{} --initrd=/mnt/big", hop("s510", "-s", "bullseye")))
        .leg("s510", &format!("{tell}\n{}", hop("c61", "-c", SUITE)))
        .leg("c61", &hop("s61", "-s", SUITE))
        .leg("s61", "true")
        .machine()
        .run();
    let suites = [
        ("c612", "trixie"),
        ("s72", "sid"),
        ("c510", "bullseye"),
        ("s612", "trixie"),
        ("c72", "sid"),
        ("s510", "bullseye"),
        ("c61", SUITE),
        ("s61", SUITE),
    ];
    all_arrived(&outcome, &suites);
    for stage in ["c612", "s510"] {
        assert_eq!(said(&outcome, stage, "SUM"), sum, "{}", outcome.tail());
    }
}
