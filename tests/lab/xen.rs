//! A distribution's Xen hypervisor as its package unpacks: the compressed image it ships and the ELF within.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{cache, fetch, run};

/// The suites that have a Xen here, oldest first.
pub const SUITES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// A hypervisor, fetched on first use.
#[derive(Clone, Debug)]
pub struct Xen {
    /// `4.17`: what `/sys/hypervisor/version` begins with on it.
    pub version: &'static str,
    /// As distributions ship it.
    pub gz: PathBuf,
    /// Unpacked: the only form that upstream's kexec of bookworm takes.
    pub elf: PathBuf,
}

impl Xen {
    /// The hypervisor of `suite`.
    pub fn of(suite: &str) -> Self {
        let version = match suite {
            "bullseye" => "4.14",
            "bookworm" => "4.17",
            "trixie" => "4.20",
            other => panic!("no Xen is known in {other}"),
        };
        let gz = fetch(&["tree", suite, &format!("xen-hypervisor-{version}-amd64")])
            .join(format!("boot/xen-{version}-amd64.gz"));
        let elf = cache().join("xen").join(format!("{version}.elf"));
        if !elf.is_file() {
            fs::create_dir_all(elf.parent().expect("it is below the cache")).expect("make the directory of Xen");
            let new = elf.with_extension(format!("{}", std::process::id()));
            fs::write(&new, run(Command::new("gzip").arg("-dc").arg(&gz)).stdout).expect("write the unpacked Xen");
            fs::rename(&new, &elf).expect("keep the unpacked Xen");
        }
        Self { version, gz, elf }
    }
}
