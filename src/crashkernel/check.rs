//! Is memory reserved, is a crash kernel loaded, and will a panic reach it?
//!
//! Facts come from `/proc` and `/sys`; every finding is one sentence and, where something is wrong, one remedy.

use std::fmt;

use super::syntax::{self, X86_64};
use crate::error::Result;
use crate::host::iomem::Iomem;
use crate::host::{Host, state};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// A dump may still be lost.
    Warning,
    /// No dump will be taken.
    Error,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub text: String,
    /// What to do; empty if nothing.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Fine => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{word:<8} {}", self.text)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n         {}", self.remedy) }
    }
}

fn finding(severity: Severity, text: impl Into<String>, remedy: &'static str) -> Finding {
    Finding { severity, text: text.into(), remedy }
}

/// Everything that decides whether the machine of `host` would leave a dump, in the order it is needed.
///
/// # Errors
/// State files that are there but can't be read or understood.
pub fn check(host: &Host) -> Result<Vec<Finding>> {
    if host.text("sys/hypervisor/guest_type")?.as_deref() == Some("PV") {
        let text = "this is a PV guest or dom0 of Xen: the hypervisor's crashkernel= counts, and only it can tell";
        return Ok(vec![finding(Severity::Error, text, "look for 'Kdump:' in 'xl dmesg'")]);
    }
    let size = state::crash_size(host)?;
    let mut found = asked(host, size)?;
    found.extend(reserved(host, size)?);
    if size.unwrap_or(0) > 0 {
        found.push(loaded(host)?);
        found.extend(triggers(host)?);
    }
    Ok(found)
}

/// What the command line asks for, by the kernel's own rules.
fn asked(host: &Host, size: Option<u64>) -> Result<Vec<Finding>> {
    let Some(command_line) = host.text("proc/cmdline")? else { return Ok(Vec::new()) };
    // Without privilege the map is hidden; what is managed comes close enough for the ranges' 128 MiB steps.
    let mapped = host.text("proc/iomem")?.and_then(|t| Iomem::parse(&t).ok()).map(|i| i.system_ram().total());
    let managed = state::total_pages(host).map(|p| p.saturating_mul(4096).saturating_add(size.unwrap_or(0)));
    let Some(ram) = mapped.filter(|r| *r > 0).or(managed) else { return Ok(Vec::new()) };
    Ok(vec![match syntax::linux(&command_line, ram, X86_64) {
        Ok(None) => finding(
            Severity::Error,
            "the kernel was started without crashkernel=",
            "add crashkernel=SIZE to its command line in the boot loader and reboot",
        ),
        Ok(Some(r)) => finding(Severity::Fine, format!("asked for: {}", describe(&r)), ""),
        Err(refusal) => finding(
            Severity::Error,
            format!("the kernel does not accept its crashkernel=: {refusal}"),
            "correct it in the boot loader and reboot",
        ),
    }])
}

fn describe(r: &syntax::Reservation) -> String {
    let mut text = mib(r.size);
    if let Some(offset) = r.offset {
        text.push_str(&format!(" at {offset:#x}"));
    }
    if r.high {
        text.push_str(" above 4 GiB if there is room");
    }
    for (size, what) in [(r.low, "below 4 GiB"), (r.cma, "in CMA")] {
        if size > 0 {
            text.push_str(&format!(", {} {what}", mib(size)));
        }
    }
    text
}

fn mib(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

/// What is there.
fn reserved(host: &Host, size: Option<u64>) -> Result<Option<Finding>> {
    let Some(size) = size else {
        let text = "the running kernel has no kexec: /sys/kernel/kexec_crash_size is missing";
        return Ok(Some(finding(Severity::Error, text, "run a kernel with CONFIG_KEXEC and CONFIG_CRASH_DUMP")));
    };
    if size == 0 {
        let remedy = "look for 'crashkernel' in the boot messages; ask for less, or drop a fixed @OFFSET";
        return Ok(Some(finding(Severity::Error, "no memory is reserved for a crash kernel", remedy)));
    }
    let areas = host.text("proc/iomem")?.and_then(|t| Iomem::parse(&t).ok()).map(|i| i.crash());
    let places: Vec<String> = areas.iter().flat_map(|a| a.iter()).map(|r| r.to_string()).collect();
    let text = match places.is_empty() {
        true => format!("reserved: {} (its place is shown to root only)", mib(size)),
        false => format!("reserved: {} at {}", mib(size), places.join(" and ")),
    };
    Ok(Some(finding(Severity::Fine, text, "")))
}

fn loaded(host: &Host) -> Result<Finding> {
    if state::loaded(host, true)? == Some(true) {
        return Ok(finding(Severity::Fine, "a crash kernel is loaded", ""));
    }
    if state::load_disabled(host) {
        let text = "no crash kernel is loaded, and kernel.kexec_load_disabled forbids loading one";
        return Ok(finding(Severity::Error, text, "reboot, and load it before the sysctl is set"));
    }
    Ok(finding(Severity::Error, "no crash kernel is loaded", "load one: kexec -p KERNEL --initrd=INITRD --append=…"))
}

/// What turns trouble into a panic, and so into a dump.
fn triggers(host: &Host) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    if host.number("proc/sys/kernel/panic_on_oops")? == Some(0) {
        let text = "an oops only kills the task it hits (kernel.panic_on_oops=0)";
        found.push(finding(Severity::Warning, text, "sysctl kernel.panic_on_oops=1"));
    }
    if let Some(mode) = state::lockdown(host) {
        let text = format!("the kernel is locked down ({mode}): crash kernels must be signed and loaded with -s");
        found.push(finding(Severity::Fine, text, ""));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorded machine: files below a temporary root.
    fn check_machine(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        check(&Host::new(dir.path())).expect("checks").iter().map(|f| f.to_string()).collect()
    }

    const IOMEM: (&str, &str) = (
        "proc/iomem",
        "00001000-0009fbff : System RAM\n00100000-3ffdffff : System RAM\n  33000000-3effffff : Crash kernel\n",
    );

    #[test]
    fn a_machine_that_is_ready() {
        let lines = check_machine(&[
            ("proc/cmdline", "ro crashkernel=192M"),
            IOMEM,
            ("sys/kernel/kexec_crash_size", "201326592\n"),
            ("sys/kernel/kexec_crash_loaded", "1\n"),
            ("proc/sys/kernel/panic_on_oops", "0\n"),
        ]);
        assert_eq!(
            lines,
            [
                "ok       asked for: 192 MiB",
                "ok       reserved: 192 MiB at 0x33000000-0x3f000000",
                "ok       a crash kernel is loaded",
                "warning  an oops only kills the task it hits (kernel.panic_on_oops=0)\n         \
                 sysctl kernel.panic_on_oops=1",
            ]
        );
    }

    #[test]
    fn each_way_of_not_being_ready_is_told_apart() {
        let zero = ("sys/kernel/kexec_crash_size", "0\n");
        let meminfo = ("proc/meminfo", "MemTotal: 1048576 kB\n");
        for (files, text) in [
            (&[("proc/cmdline", "ro"), zero, meminfo][..], "error    the kernel was started without crashkernel="),
            (&[("proc/cmdline", "crashkernel=64MB"), zero, meminfo], "unrecognized character 'B'"),
            (&[("proc/cmdline", "crashkernel=64M@1M"), zero, IOMEM], "error    no memory is reserved"),
            (&[("proc/cmdline", "crashkernel=64M")], "error    the running kernel has no kexec"),
            (&[("sys/hypervisor/guest_type", "PV\n")], "the hypervisor's crashkernel= counts"),
            (&[("sys/kernel/kexec_crash_size", "4096\n")], "error    no crash kernel is loaded\n"),
            (
                &[("sys/kernel/kexec_crash_size", "4096\n"), ("proc/sys/kernel/kexec_load_disabled", "1\n")],
                "kexec_load_disabled forbids",
            ),
        ] {
            let lines = check_machine(files).join("\n");
            assert!(lines.contains(text), "{lines}\nlacks: {text}");
        }
    }
}
