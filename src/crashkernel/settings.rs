//! What turns trouble into a panic, and what stands between the panic and the crash kernel.

use super::check::finding;
use super::facts::Facts;
use super::report::{Finding, Severity};
use crate::host::state;

/// Troubles that panic only where a sysctl says so.
const HANGS: [(&str, &str); 4] = [
    ("kernel.hung_task_panic", "hung tasks"),
    ("kernel.softlockup_panic", "soft lockups"),
    ("kernel.hardlockup_panic", "hard lockups"),
    ("vm.panic_on_oom", "lack of memory"),
];
/// Bit of `kernel.sysrq` that allows the key `c`, with others (`SYSRQ_ENABLE_DUMP`).
const SYSRQ_DUMP: u64 = 8;

/// Everything of this kind that is known.
pub fn settings(facts: &Facts) -> Vec<Finding> {
    let mut found = triggers(facts);
    let mut add = |severity, topic, text: String, remedy: &str| found.push(finding(severity, topic, text, remedy));
    let command_line = facts.host.text("proc/cmdline").ok().flatten().unwrap_or_default();
    let has = |word: &str| command_line.split_whitespace().any(|w| w == word);
    let post = facts.host.text("sys/module/kernel/parameters/crash_kexec_post_notifiers").ok().flatten();
    if post.is_some_and(|p| p == "Y") || has("crash_kexec_post_notifiers") {
        let text = "panic notifiers run before the crash kernel (crash_kexec_post_notifiers), and one that hangs loses the dump";
        add(
            Severity::Warning,
            "notifiers",
            text.into(),
            "take the word from the command line, unless a hypervisor needs it",
        );
    }
    let low = facts.areas.iter().flat_map(crate::mem::Ranges::iter).any(|r| r.start() < 4 << 30);
    if !low && facts.areas.as_ref().is_some_and(|a| !a.is_empty()) && facts.rules.arch.default_low > 0 {
        let text = "the area lies above 4 GiB and there is none below: devices that reach no further can't be used";
        add(Severity::Warning, "low memory", text.into(), "leave crashkernel=0,low out");
    }
    if let Some(mode) = state::lockdown(&facts.host) {
        let text = format!("locked down ({mode}): a crash kernel must be signed, and is loaded by kexec -s");
        add(Severity::Fine, "lockdown", text, "");
    }
    if state::encrypted_guest(&facts.host) {
        let text = "the CPU encrypts this guest's memory (SEV or TDX): its crash kernel may see nothing but noise, or not start";
        add(Severity::Warning, "encryption", text.into(), "crash it once on purpose, and look at the dump");
    } else if has("mem_encrypt=on") || facts.log.contains("Memory Encryption Features active: AMD SME") {
        let text = "memory is encrypted (SME): the crash kernel needs 64 MiB more for bounce buffers";
        add(Severity::Fine, "encryption", text.into(), "");
    }
    for (_, dir) in facts.host.numbered("sys/class/watchdog", "watchdog").unwrap_or_default() {
        let text = |name: &str| facts.host.text(&format!("{dir}/{name}")).ok().flatten().unwrap_or_default();
        if text("state") == "active" {
            let said = format!(
                "{} resets the machine {} s after nothing fed it",
                text("identity"),
                facts.host.number(&format!("{dir}/timeout")).ok().flatten().unwrap_or(0)
            );
            let remedy = "have its driver in the crash initramfs (kdump-initramfs --drivers); init feeds it then";
            add(Severity::Warning, "watchdog", said, remedy);
        }
    }
    found
}

fn triggers(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match facts.sysctl("kernel.panic_on_oops") {
        Some(0) => {
            let text = "an oops only kills the task it hits (kernel.panic_on_oops=0)";
            found.push(finding(Severity::Warning, "oops", text, "sysctl kernel.panic_on_oops=1"));
        }
        Some(_) => found.push(finding(Severity::Fine, "oops", "an oops is a panic", "")),
        None => {}
    }
    if facts.sysctl("kernel.panic_on_warn").is_some_and(|v| v != 0) {
        let text = "every warning of the kernel is a panic (kernel.panic_on_warn=1)";
        found.push(finding(
            Severity::Warning,
            "warnings",
            text,
            "sysctl kernel.panic_on_warn=0 on a machine in service",
        ));
    }
    let quiet: Vec<&str> =
        HANGS.iter().filter(|(name, _)| facts.sysctl(name) == Some(0)).map(|(_, what)| *what).collect();
    if !quiet.is_empty() {
        let text = format!("no panic follows from {}; sysctl has a name for each", quiet.join(", "));
        found.push(finding(Severity::Fine, "hangs", text, ""));
    }
    if let Some(mask) = facts.sysctl("kernel.sysrq") {
        let text = match mask == 1 || mask & SYSRQ_DUMP != 0 {
            true => "the key c crashes the machine on request",
            false => "the key c is off (kernel.sysrq lacks 8); root can still write it to /proc/sysrq-trigger",
        };
        found.push(finding(Severity::Fine, "sysrq", text, ""));
    }
    found
}
