//! What is loaded, what is reserved, and what forbids loading.
//!
//! Kernels from 7.x keep these files in `/sys/kernel/kexec/`; the old names are links until they go.

use super::Host;
use crate::error::Result;

/// Whether an image is loaded; `None` on a kernel without kexec.
///
/// # Errors
/// The file holds no number.
pub fn loaded(host: &Host, crash: bool) -> Result<Option<bool>> {
    let (old, new) = if crash { ("kexec_crash_loaded", "crash_loaded") } else { ("kexec_loaded", "loaded") };
    Ok(either(host, old, new)?.map(|n| n != 0))
}

/// Bytes reserved for a crash kernel; `None` on a kernel without kexec.
///
/// # Errors
/// The file holds no number.
pub fn crash_size(host: &Host) -> Result<Option<u64>> {
    either(host, "kexec_crash_size", "crash_size")
}

/// Bytes for an ELF core header that the kernel keeps up to date itself; `None` on a kernel that does not.
///
/// # Errors
/// The file holds no number.
pub fn elfcorehdr_size(host: &Host) -> Result<Option<u64>> {
    either(host, "crash_elfcorehdr_size", "crash_elfcorehdr_size")
}

fn either(host: &Host, old: &str, new: &str) -> Result<Option<u64>> {
    match host.number(&format!("sys/kernel/kexec/{new}"))? {
        Some(n) => Ok(Some(n)),
        None => host.number(&format!("sys/kernel/{old}")),
    }
}

/// The lockdown mode in force (`integrity`, `confidentiality`); `None` if there is none.
pub fn lockdown(host: &Host) -> Option<String> {
    let text = host.text("sys/kernel/security/lockdown").ok().flatten()?;
    let mode = text.split_once('[')?.1.split_once(']')?.0;
    (mode != "none").then(|| mode.to_owned())
}

/// Whether `kernel.kexec_load_disabled` is set.
pub fn load_disabled(host: &Host) -> bool {
    host.number("proc/sys/kernel/kexec_load_disabled").ok().flatten() == Some(1)
}

/// `kernel.kexec_load_limit_reboot` or `_panic`: loads left; `None` where unlimited.
pub fn load_limit(host: &Host, crash: bool) -> Option<u64> {
    let name = if crash { "panic" } else { "reboot" };
    host.number(&format!("proc/sys/kernel/kexec_load_limit_{name}")).ok().flatten()
}

/// Whether the kernel runs with 5-level paging: the CPU flag is hidden otherwise.
pub fn five_levels(host: &Host) -> bool {
    has_cpu_flag(host, &["la57"])
}

/// Whether this is a guest whose memory the CPU encrypts or may encrypt (AMD SEV, Intel TDX).
pub fn encrypted_guest(host: &Host) -> bool {
    has_cpu_flag(host, &["tdx_guest"]) || has_cpu_flag(host, &["hypervisor"]) && has_cpu_flag(host, &["sev", "sev_es"])
}

/// Whether `/proc/cpuinfo` lists any of `names`.
fn has_cpu_flag(host: &Host, names: &[&str]) -> bool {
    let text = host.text("proc/cpuinfo").ok().flatten().unwrap_or_default();
    let flags = text.lines().find_map(|l| l.strip_prefix("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|f| names.contains(&f))
}

/// Pages of memory the kernel manages, from `MemTotal` in `/proc/meminfo`.
pub fn total_pages(host: &Host) -> Option<u64> {
    let text = host.text("proc/meminfo").ok().flatten()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_homes_of_the_state_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        assert_eq!(loaded(&host, true).expect("absent"), None);
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("sys/kernel/kexec_crash_loaded", "1\n");
        write("sys/kernel/kexec_loaded", "0\n");
        assert_eq!((loaded(&host, true).expect("1"), loaded(&host, false).expect("0")), (Some(true), Some(false)));
        write("sys/kernel/kexec/crash_size", "201326592\n");
        assert_eq!(crash_size(&host).expect("reads"), Some(192 << 20));
        write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert_eq!(lockdown(&host).as_deref(), Some("integrity"));
        write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
        assert_eq!(lockdown(&host), None);
        write("proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 1 kB\n");
        assert_eq!(total_pages(&host), Some(524_288));
        assert!(!five_levels(&host));
        write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu la57 xsave\n");
        assert!(five_levels(&host) && !encrypted_guest(&host));
        for (flags, expected) in [("fpu sev", false), ("hypervisor sev", true), ("hypervisor tdx_guest", true)] {
            write("proc/cpuinfo", &format!("flags\t\t: {flags}\n"));
            assert_eq!(encrypted_guest(&host), expected, "{flags}");
        }
    }
}
