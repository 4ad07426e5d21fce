//! How much memory a crash kernel needs: from the images themselves and from what kernels were seen to take
//! (`estimate --measure` and the test of that name boot what is computed here).

use std::fmt::Write;

use super::archive::Archive;
use super::pieces::Needs;
use super::report::{Object, mib};
use super::syntax::{Rules, linux};
use crate::mem::MIB;

/// What a kernel allocates for itself until its first program runs: slab, hash tables, page tables, reserves.
const KERNEL: u64 = 14 * MIB;
/// What `init` and `kdump-save` take: their own pages, buffers, the target's file system.
const OURS: u64 = 13 * MIB;
/// What a shell, udev and makedumpfile take.
const SHELL: u64 = 12 * MIB;
/// What systemd takes beside them.
const SYSTEMD: u64 = 14 * MIB;
/// One more CPU: per-CPU areas, stacks, workers.
const CPU: u64 = 384 << 10;

/// What `kexec -p --lean` saves: before Linux 6.6, where the files of tracing take most of it, and from then on.
const LEAN: [u64; 2] = [12 * MIB, 5 * MIB];

/// What distributions reserve by default.
pub const DEFAULTS: [(&str, &str); 4] = [
    ("Debian 12", "384M-:128M"),
    ("Debian 13", "512M-:192M"),
    ("Fedora, RHEL 10", "2G-64G:256M,64G-:512M"),
    ("Ubuntu", "2G-4G:320M,4G-32G:512M,32G-64G:1024M,64G-128G:2048M,128G-:4096M"),
];

/// The addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What it is made of, bytes.
    pub parts: Vec<(&'static str, u64)>,
    /// The smallest reservation that should capture, bytes, whole MiB.
    pub smallest: u64,
    /// The same for a crash kernel that is loaded with `--lean`.
    pub lean: u64,
    /// What to ask for: with room for a device more or a kernel a little larger.
    pub recommended: u64,
    /// The smallest without `rootfstype=ramfs`, where the kernel gives an initramfs half of its memory.
    pub half_rule: u64,
}

/// The sum for a crash kernel on `cpus` CPUs and a machine of `ram` bytes.
pub fn estimate(kernel: &Needs, archive: &Archive, cpus: u64, ram: u64) -> Estimate {
    let bits = ram / crate::mem::PAGE_SIZE / 8;
    let user = match (archive.ours, archive.systemd) {
        (true, _) => OURS,
        (false, false) => SHELL,
        (false, true) => SHELL.saturating_add(SYSTEMD),
    };
    // The packed initramfs is given back when it has been unpacked, before the first program runs.
    let run = user.saturating_add(bits.saturating_mul(2)).saturating_add(archive.modules / 2);
    let mut parts = vec![
        ("the kernel, unpacked", kernel.run),
        ("its own memory", KERNEL),
        ("further CPUs", cpus.saturating_sub(1).saturating_mul(CPU)),
        ("initramfs, unpacked", archive.unpacked),
    ];
    parts.push(if run > archive.packed {
        ("programs and modules", run)
    } else {
        ("initramfs, packed", archive.packed)
    });
    let sum = |parts: &[(&str, u64)]| parts.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    // 64 bytes of struct page for each page there is.
    let whole = |bytes: u64| bytes.saturating_add(bytes / 63).next_multiple_of(MIB);
    parts.push(("page structures", sum(&parts) / 63));
    parts.retain(|(_, bytes)| *bytes > 0);
    let running = sum(&parts).next_multiple_of(MIB);
    // To be loaded: room to unpack itself, at a multiple of 2 MiB, beside the initramfs and a few small segments.
    let loading = kernel.load.saturating_add(archive.packed).saturating_add(4 * MIB).next_multiple_of(MIB);
    let smallest = running.max(loading);
    let [before, since] = LEAN;
    let saved = if Rules::new(ram).of_release(&kernel.release).version < (6, 6) { before } else { since };
    let lean = running.saturating_sub(saved).max(loading);
    // A fifth more, in steps of 16 MiB, in which the kernel places it anyway.
    let recommended = smallest.saturating_add(smallest / 5).next_multiple_of(16 * MIB);
    let capped = kernel.run.saturating_add(KERNEL).saturating_add(archive.unpacked.saturating_mul(2));
    Estimate { parts, smallest, lean, recommended, half_rule: whole(capped).max(smallest) }
}

/// What each distribution's default comes to on this machine, bytes.
pub fn defaults(rules: &Rules) -> Vec<(&'static str, u64)> {
    let all = DEFAULTS.iter();
    all.map(|(name, spec)| (*name, linux(&format!("crashkernel={spec}"), rules).reservation.size)).collect()
}

impl Estimate {
    /// For people.
    pub fn human(&self, defaults: &[(&str, u64)]) -> String {
        let mut text = String::new();
        let mut line = |name: &str, bytes: u64| {
            let _ = writeln!(text, "{name:<28} {:>6}.{} MiB", bytes / MIB, (bytes % MIB).saturating_mul(10) / MIB);
        };
        for (name, bytes) in &self.parts {
            line(name, *bytes);
        }
        line("smallest that should do", self.smallest);
        line("with kexec -p --lean", self.lean);
        line("without rootfstype=ramfs", self.half_rule);
        for (name, bytes) in defaults {
            line(&format!("default of {name}"), *bytes);
        }
        let _ = writeln!(text, "recommended: crashkernel={}M", self.recommended / MIB);
        text
    }

    /// For programs.
    pub fn json(&self, defaults: &[(&str, u64)], measured: Option<u64>) -> String {
        let object = |items: &[(&str, u64)]| {
            items.iter().fold(Object::default(), |o, (name, bytes)| o.number(name, Some(*bytes))).finish()
        };
        let all = Object::default().raw("parts", &object(&self.parts)).number("smallest", Some(self.smallest));
        let all = all
            .number("recommended", Some(self.recommended))
            .number("lean", Some(self.lean))
            .number("without_ramfs", Some(self.half_rule));
        format!("{}\n", all.raw("defaults", &object(defaults)).number("measured", measured).finish())
    }

    /// In one clause.
    pub fn in_short(&self) -> String {
        format!("{} should do, {} are recommended", mib(self.smallest), mib(self.recommended))
    }
}
