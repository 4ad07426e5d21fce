//! What comes after the panic: the crash kernel's image, its initramfs, the room for both, and the target of the dump.

use std::path::PathBuf;

use super::archive::Archive;
use super::check::finding;
use super::dump_size::Classes;
use super::estimate::{Estimate, estimate};
use super::facts::Facts;
use super::pieces::{Needs, Piece};
use super::report::{Finding, Severity, mib};
use crate::capture::config::{Config, Device};
use crate::capture::device;
use crate::error::Error;
use crate::mem::Ranges;

/// Files that were named instead of looked for.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The crash kernel.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
}

/// What was found on the way.
#[derive(Default)]
pub struct Chain {
    /// Findings, in the order they are needed.
    pub findings: Vec<Finding>,
    /// How much memory it takes, if both files are there.
    pub estimate: Option<Estimate>,
}

impl Chain {
    fn add(&mut self, severity: Severity, topic: &'static str, text: impl Into<String>, remedy: &str) {
        self.findings.push(finding(severity, topic, text, remedy));
    }

    /// Looks at everything.
    pub fn follow(facts: &Facts, named: &Named, classes: Option<&Classes>) -> Self {
        let mut chain = Self::default();
        let release = facts.release();
        let given = |path: &Option<PathBuf>| path.clone().map(|p| Piece::at(p.clone()).ok_or(p));
        let kernel = given(&named.kernel).or_else(|| Piece::kernel(&facts.host, &release).map(Ok));
        let initramfs = given(&named.initrd).or_else(|| Piece::initramfs(&facts.host, &release).map(Ok));
        let kernel = chain.named(kernel, "image", "kernel");
        let initramfs = chain.named(initramfs, "initramfs", "initrd");
        let needs = kernel.as_ref().and_then(|piece| chain.image(facts, piece));
        let archive =
            initramfs.as_ref().and_then(|piece| chain.initramfs(facts, piece, kernel.as_ref(), needs.as_ref()));
        if let (Some(needs), Some(archive)) = (&needs, &archive) {
            chain.room(facts, needs, archive);
        }
        let config = archive.as_ref().and_then(|a| a.config.clone());
        let config = config.or_else(|| facts.host.text("etc/kdump.conf").ok().flatten());
        if let Some(text) = config {
            chain.target(facts, &Config::parse(&text, ""), archive.is_some_and(|a| a.ours), classes);
        }
        chain
    }

    fn named(&mut self, piece: Option<Result<Piece, PathBuf>>, topic: &'static str, option: &str) -> Option<Piece> {
        match piece {
            Some(Ok(piece)) => Some(piece),
            Some(Err(path)) => {
                let text = format!("there is no file {}", path.display());
                self.add(Severity::Error, topic, text, "name the file that is loaded");
                None
            }
            None => {
                let text = format!("none is where one usually is, so it is not looked into (--{option} FILE names it)");
                self.add(Severity::Fine, topic, text, "");
                None
            }
        }
    }

    /// A file that does not read as what it should be.
    fn unreadable(&mut self, topic: &'static str, error: &Error) {
        let denied = matches!(error.raw_errno(), Some(1 | 13));
        let (severity, remedy) = match denied {
            true => (Severity::Fine, "run as root to have it looked into"),
            false => (Severity::Error, "make or copy it again, and load it again"),
        };
        self.add(severity, topic, error.to_string(), remedy);
    }

    fn image(&mut self, facts: &Facts, piece: &Piece) -> Option<Needs> {
        const TOPIC: &str = "image";
        let needs = piece.image().map_err(|e| self.unreadable(TOPIC, &e)).ok()?;
        let path = piece.path.display();
        match needs.fixed {
            None => self.add(Severity::Fine, TOPIC, format!("{path} runs wherever it is loaded"), ""),
            Some(at) => {
                let inside = facts.areas.as_ref().and_then(|areas| areas.find(at));
                let fits = inside.is_some_and(|r| r.end().saturating_sub(at) >= needs.load);
                let severity = if fits { Severity::Fine } else { Severity::Error };
                let text = format!("{path} can't be moved: it runs at {at:#x} only");
                let remedy = format!("use a kernel with CONFIG_RELOCATABLE, or reserve memory around {at:#x}");
                self.add(severity, TOPIC, text, if fits { "" } else { &remedy });
            }
        }
        Some(needs)
    }

    fn initramfs(
        &mut self,
        facts: &Facts,
        piece: &Piece,
        kernel: Option<&Piece>,
        needs: Option<&Needs>,
    ) -> Option<Archive> {
        const TOPIC: &str = "initramfs";
        let archive = piece.archive().map_err(|e| self.unreadable(TOPIC, &e)).ok()?;
        let path = piece.path.display();
        let remedy = "make it again (kdump-initramfs, dracut or update-initramfs), and load it again";
        let release = needs.map(|n| n.release.as_str()).filter(|r| !r.is_empty());
        if let Some(release) =
            release.filter(|r| !archive.releases.is_empty() && !archive.releases.iter().any(|a| a == r))
        {
            let text = format!("{path} has modules for {}, the crash kernel is {release}", archive.releases.join(", "));
            self.add(Severity::Error, TOPIC, text, remedy);
        } else if kernel.is_some_and(|k| k.written > piece.written) {
            self.add(Severity::Warning, TOPIC, format!("{path} is older than the kernel"), remedy);
        } else if let Some(newer) = piece.older_than_configuration(&facts.host) {
            let text = format!("{path} is older than {}, and does not know what is in it", newer.path.display());
            self.add(Severity::Warning, TOPIC, text, remedy);
        } else {
            let text = format!("{path}: {}, {} unpacked", mib(archive.packed), mib(archive.unpacked));
            self.add(Severity::Fine, TOPIC, text, "");
        }
        Some(archive)
    }

    /// Whether the memory is enough.
    fn room(&mut self, facts: &Facts, needs: &Needs, archive: &Archive) {
        const TOPIC: &str = "room";
        let sum = estimate(needs, archive, 1, facts.rules.ram);
        // Segments go to the largest area; a low one is for devices.
        let area = facts.areas.iter().flat_map(Ranges::iter).map(|r| r.len()).max();
        if let Some(room) = area.or(facts.size).filter(|r| *r > 0) {
            let remedy = format!("boot with crashkernel={}M", sum.recommended >> 20);
            let text = format!("{} reserved: {}", mib(room), sum.in_short());
            // The estimate lies up to 15 % above what is needed, and how the crash kernel was loaded is not known.
            let certain = sum.lean.saturating_mul(100) / 115;
            let (severity, remedy) = match room {
                r if r < certain => (Severity::Error, remedy),
                r if r < sum.smallest => (Severity::Warning, format!("{remedy}, or load it by kexec -p --lean")),
                _ => (Severity::Fine, String::new()),
            };
            let remedy = remedy.as_str();
            self.add(severity, TOPIC, text, remedy);
        }
        self.estimate = Some(sum);
    }

    fn target(&mut self, facts: &Facts, config: &Config, ours: bool, classes: Option<&Classes>) {
        const TOPIC: &str = "target";
        let Some(target) = &config.target else {
            if ours {
                self.add(Severity::Error, TOPIC, "kdump.conf names none", "kdump-initramfs --target ext4:UUID=...");
            }
            return;
        };
        let name = format!("{} {}", target.fs, target.device);
        if !facts.host.is_live() {
            self.add(Severity::Fine, TOPIC, format!("{name}, which a recording does not show"), "");
            return;
        }
        if facts.size.is_some() && rustix::process::geteuid().as_raw() != 0 && !matches!(target.device, Device::Path(_))
        {
            self.add(Severity::Fine, TOPIC, format!("{name}, which only root can look for"), "");
            return;
        }
        let Some(found) = device::find(&target.device) else {
            let text = format!("{name}: there is no such device; there are {}", device::present());
            self.add(Severity::Error, TOPIC, text, "correct kdump.conf and make the initramfs again");
            return;
        };
        let name = format!("{name} ({})", found.display());
        let Some((free, whole)) = free_space(facts, &found) else {
            self.add(Severity::Fine, TOPIC, name, "");
            return;
        };
        let text = match whole {
            true => format!("{name} has {} in all; it is not mounted", mib(free)),
            false => format!("{name} has {} free", mib(free)),
        };
        let (likely, least) = classes.map_or((0, 0), Classes::compressed);
        let severity = match free {
            f if f < least => Severity::Error,
            f if f < likely => Severity::Warning,
            _ => Severity::Fine,
        };
        let remedy = if severity == Severity::Fine { "" } else { "remove old dumps, or take a larger target" };
        self.add(severity, TOPIC, text, remedy);
    }
}

/// Bytes free where the device is mounted, else all it has (and then true).
fn free_space(facts: &Facts, found: &std::path::Path) -> Option<(u64, bool)> {
    let real = std::fs::canonicalize(found).unwrap_or_else(|_| found.to_owned());
    let mounts = facts.host.text("proc/mounts").ok().flatten().unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let (source, rest) = line.split_once(' ')?;
        let same = std::fs::canonicalize(source).is_ok_and(|s| s == real);
        same.then(|| rest.split(' ').next().unwrap_or_default().to_owned())
    });
    if let Some(stat) = mounted.and_then(|at| rustix::fs::statvfs(at.as_str()).ok()) {
        return Some((stat.f_bavail.saturating_mul(stat.f_frsize), false));
    }
    let name = real.file_name()?.to_string_lossy().into_owned();
    let sectors = facts.host.number(&format!("sys/class/block/{name}/size")).ok()??;
    Some((sectors.saturating_mul(512), true))
}
