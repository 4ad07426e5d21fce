//! Is memory reserved, is a crash kernel loaded, and will a panic reach it?
//!
//! Every finding is one sentence and, where something is wrong, one remedy.

pub use super::facts::{host, rules};

use super::chain::{Chain, Named};
use super::dump_size::{Classes, classes};
use super::estimate::Estimate;
use super::facts::Facts;
use super::report::{self, Finding, Object, Severity, array, describe, mib};
use super::settings::settings;
use super::syntax::{Verdict, linux};
use super::xen::xen;
use crate::error::Result;
use crate::host::xen::Domain;
use crate::host::{Host, state};
use crate::mem::Ranges;

/// What is known of a machine, and what follows.
pub struct Report {
    /// What was gathered.
    pub facts: Facts,
    /// What the command line asks for; none where that can't be told.
    pub asked: Option<Verdict>,
    /// The machine's memory by class; none if it is not known.
    pub classes: Option<Classes>,
    /// How much memory the crash kernel needs; none if its files were not found.
    pub estimate: Option<Estimate>,
    /// In the order they are needed.
    pub findings: Vec<Finding>,
}

/// A finding.
pub(super) fn finding(severity: Severity, topic: &'static str, text: impl Into<String>, remedy: &str) -> Finding {
    Finding { topic, severity, text: text.into(), remedy: remedy.into() }
}

fn fine(topic: &'static str, text: impl Into<String>) -> Finding {
    finding(Severity::Fine, topic, text, "")
}

/// Everything that decides whether the machine of `host` would leave a dump, in the order it is needed.
///
/// # Errors
/// State files that are there but can't be read or understood.
pub fn check(host: &Host, named: &Named) -> Result<Report> {
    let facts = Facts::gather(host)?;
    let asked = facts.command_line.as_ref().filter(|_| facts.rules.ram > 0).map(|line| match facts.below_xen() {
        true => xen(line, facts.rules.ram),
        false => linux(line, &facts.rules),
    });
    let classes = classes(host);
    let mut report = Report { facts, asked, classes, estimate: None, findings: Vec::new() };
    if let Some(found) = report.domain() {
        let dead = found.severity == Severity::Error;
        report.findings.push(found);
        if dead {
            return Ok(report);
        }
    }
    report.findings.extend(report.asked());
    report.findings.extend(report.reserved());
    if report.facts.size.map_or(report.facts.below_xen(), |s| s > 0) {
        report.findings.push(report.loaded());
        let chain = Chain::follow(&report.facts, named, report.classes.as_ref());
        report.findings.extend(chain.findings);
        report.estimate = chain.estimate;
        report.findings.extend(settings(&report.facts));
    }
    if let Some(classes) = &report.classes {
        let whose = if report.facts.below_xen() { "of dom0, without guests and Xen itself: " } else { "" };
        report.findings.push(fine("dump", format!("{whose}{}", classes.describe())));
    }
    Ok(report)
}

impl Report {
    /// For programs.
    pub fn json(&self) -> String {
        let facts = &self.facts;
        let platform = match facts.domain {
            None => "linux",
            Some(Domain::Dom0Pv) => "xen-dom0-pv",
            Some(Domain::Dom0Other) => "xen-dom0-pvh",
            Some(Domain::GuestPv) => "xen-guest-pv",
            Some(Domain::GuestHvm) => "xen-guest-hvm",
        };
        let areas = facts.areas.iter().flat_map(Ranges::iter);
        let areas =
            areas.map(|r| Object::default().number("start", Some(r.start())).number("size", Some(r.len())).finish());
        let worst = report::worst(&self.findings);
        let object =
            Object::default().truth("ready", worst != Severity::Error).number("exit", Some(worst.code().into()));
        let object = object.text("platform", platform).text("kernel", &facts.release());
        let object = object.text("arch", facts.rules.arch.name).number("memory", Some(facts.rules.ram));
        let asked = self.asked.as_ref().map_or_else(|| "null".into(), report::verdict);
        let object = object.raw("asked", &asked).number("reserved", facts.size).raw("areas", &array(areas));
        let loaded = facts.loaded.map_or("null", |l| if l { "true" } else { "false" });
        let object = match &self.classes {
            None => object.raw("dump", "null"),
            Some(c) => {
                let classes = Object::default().number("kernel", Some(c.kernel)).number("user", Some(c.user));
                let classes = classes.number("cache", Some(c.cache)).number("free", Some(c.free));
                object.raw("dump", &classes.number("compressed", Some(c.compressed().0)).finish())
            }
        };
        let estimate = self.estimate.as_ref();
        let object = object.number("smallest", estimate.map(|e| e.smallest));
        let object = object.number("recommended", estimate.map(|e| e.recommended));
        format!("{}\n", object.raw("loaded", loaded).raw("findings", &report::findings(&self.findings)).finish())
    }

    /// The kernel's place on Xen.
    fn domain(&self) -> Option<Finding> {
        let found = |severity, text: &str, remedy| Some(finding(severity, "hypervisor", text, remedy));
        match self.facts.domain? {
            Domain::Dom0Pv => match &self.facts.xen_error {
                Some(why) => found(
                    Severity::Error,
                    &format!("Xen could not be asked: {why}"),
                    "modprobe xen-privcmd; run as root",
                ),
                None if self.own_line_asks() => found(
                    Severity::Warning,
                    "this is dom0 of a Xen, and crashkernel= on its own command line has no effect",
                    "put it on Xen's command line only",
                ),
                None => found(
                    Severity::Fine,
                    "this is dom0 of a Xen, which reserves the memory and takes the crash kernel",
                    "",
                ),
            },
            Domain::Dom0Other => found(
                Severity::Error,
                "this dom0 is not paravirtualised (PVH), and Xen takes a crash kernel from a PV dom0 only",
                "boot Xen with dom0=pv",
            ),
            Domain::GuestPv => found(
                Severity::Error,
                "this is a paravirtualised guest of Xen, which can start no crash kernel; Linux ignores its crashkernel=",
                "make the guest PVH or HVM, or dump it from dom0: xl dump-core",
            ),
            Domain::GuestHvm => {
                found(Severity::Fine, "this is a guest of Xen, which crashes like a machine of its own", "")
            }
        }
    }

    fn own_line_asks(&self) -> bool {
        self.facts.host.text("proc/cmdline").ok().flatten().is_some_and(|line| line.contains("crashkernel="))
    }

    fn whose(&self) -> &'static str {
        if self.facts.below_xen() { "Xen" } else { "the kernel" }
    }

    /// What the command line asks for, by the kernel's own rules.
    fn asked(&self) -> Option<Finding> {
        const TOPIC: &str = "asked for";
        let reserved = self.facts.size.unwrap_or(0) > 0;
        let Some(verdict) = &self.asked else {
            let text = format!("what {} was told is not known", self.whose());
            return (!reserved)
                .then(|| finding(Severity::Warning, TOPIC, text, "look at its command line in the boot loader"));
        };
        let line = if self.facts.below_xen() {
            "Xen's own command line (on dom0's it has no effect)"
        } else {
            "its command line"
        };
        if !verdict.asked {
            let text = format!("{} was started without crashkernel=", self.whose());
            let severity = if reserved { Severity::Warning } else { Severity::Error };
            return Some(finding(
                severity,
                TOPIC,
                text,
                &format!("add crashkernel=SIZE to {line} in the boot loader and reboot"),
            ));
        }
        let remark = verdict.remarks.first().map(|r| format!("{r}"));
        Some(match remark {
            Some(remark) if verdict.reservation.size == 0 => {
                let text = format!("{} reserves nothing for its crashkernel=: {remark}", self.whose());
                finding(Severity::Error, TOPIC, text, "correct it in the boot loader and reboot")
            }
            Some(remark) if !verdict.valid() => {
                let text = format!("{}, but {} complains: {remark}", describe(verdict), self.whose());
                finding(Severity::Warning, TOPIC, text, "correct it in the boot loader")
            }
            Some(remark) => fine(TOPIC, format!("{}; note: {remark}", describe(verdict))),
            None => fine(TOPIC, describe(verdict)),
        })
    }

    /// What is there, and whether it is what was asked for.
    fn reserved(&self) -> Vec<Finding> {
        const TOPIC: &str = "reserved";
        let Some(size) = self.facts.size else {
            let (text, remedy) = if self.facts.below_xen() {
                ("whether Xen has memory for a crash kernel is not known", "look for 'Kdump:' in 'xl dmesg'")
            } else {
                (
                    "the running kernel has no kexec: /sys/kernel/kexec_crash_size is missing",
                    "run a kernel with CONFIG_KEXEC and CONFIG_CRASH_DUMP",
                )
            };
            return vec![finding(Severity::Error, TOPIC, text, remedy)];
        };
        let asked = self.asked.as_ref().map(|v| v.reservation).unwrap_or_default();
        if size == 0 {
            let why = self.failure().map_or_else(String::new, |line| format!(": {line}"));
            let remedy = match (asked.size, asked.offset) {
                (0, _) => "once it is asked for, it is there after a reboot",
                (_, Some(_)) => "leave @ADDRESS out, so that a free place is looked for, and reboot",
                _ => "look for 'crashkernel' in the boot messages; ask for less, or for SIZE,high, and reboot",
            };
            return vec![finding(
                Severity::Error,
                TOPIC,
                format!("no memory is reserved for a crash kernel{why}"),
                remedy,
            )];
        }
        let places: Vec<String> = self.facts.areas.iter().flat_map(Ranges::iter).map(|r| r.to_string()).collect();
        let shown = self.facts.areas.as_ref().map(Ranges::total).filter(|t| *t > 0).unwrap_or(size);
        let mut found = vec![fine(
            TOPIC,
            match places.is_empty() {
                true => format!("{} (its place is shown to root only)", mib(shown)),
                false => format!("{} at {}", mib(shown), places.join(" and ")),
            },
        )];
        // Before 6.5 the kernel's own figure leaves the low area out.
        let same = [asked.size, asked.size.saturating_add(asked.low)];
        let main = self.facts.areas.iter().flat_map(Ranges::iter).any(|r| r.len() == asked.size);
        if asked.size > 0 && !main && !same.contains(&size) && !same.contains(&shown) {
            let (text, remedy) = match size < asked.size {
                true => (
                    format!(
                        "{} were asked for: the rest was given back since (by a write to kexec_crash_size)",
                        mib(asked.size)
                    ),
                    "reboot if the crash kernel needs it all",
                ),
                false => (
                    format!("{} were asked for: this is not the command line the kernel went by", mib(asked.size)),
                    "look at the boot messages for the command line that counted",
                ),
            };
            found.push(finding(Severity::Warning, TOPIC, text, remedy));
        }
        found
    }

    /// The line of the log that says why there is no memory.
    fn failure(&self) -> Option<String> {
        const SIGNS: [&str; 8] =
            ["fail", "cannot", "expected", "unrecognized", "invalid", "gnoring", "DISABLED", "zero bytes"];
        let mut lines = self.facts.log.lines().filter(|l| l.contains("crashkernel") || l.contains("Kdump: "));
        let line = lines.rfind(|l| SIGNS.iter().any(|s| l.contains(s)) && !l.contains("ommand line:"))?;
        // Behind the time stamp, if there is one, or the fields of a record.
        let text = line.split_once("] ").or_else(|| line.split_once(';')).map_or(line, |(_, text)| text);
        Some(text.trim().to_owned())
    }

    fn loaded(&self) -> Finding {
        const TOPIC: &str = "crash kernel";
        if self.facts.loaded == Some(true) {
            return fine(TOPIC, "loaded");
        }
        if self.facts.loaded.is_none() && self.facts.below_xen() {
            let text = "whether one is loaded only the running Xen knows";
            return finding(Severity::Warning, TOPIC, text, "run kexec -S -p in this dom0");
        }
        if state::load_disabled(&self.facts.host) {
            let text = "none is loaded, and kernel.kexec_load_disabled forbids loading one";
            return finding(Severity::Error, TOPIC, text, "reboot, and load it before the sysctl is set");
        }
        if state::load_limit(&self.facts.host, true) == Some(0) {
            let text = "none is loaded, and kernel.kexec_load_limit_panic is used up";
            return finding(Severity::Error, TOPIC, text, "reboot, and load it once");
        }
        finding(Severity::Error, TOPIC, "none is loaded", "load one: kexec -p KERNEL --initrd=INITRD --append=...")
    }
}
