//! What an errno of the kexec system calls means on this machine, and what to do about it.

use rustix::io::Errno;

use super::Slot;
use crate::host::{Host, state};

/// One clause with the cause and the remedy; empty if nothing is known beyond the errno.
pub fn errno(host: &Host, errno: Errno, slot: Slot, file_call: bool) -> String {
    let crash = slot == Slot::Crash;
    match errno {
        Errno::PERM => denied(host, crash, file_call),
        Errno::ACCESS => "the integrity policy (IMA appraisal) does not trust the file".into(),
        Errno::KEYREJECTED | Errno::NOKEY | Errno::NOPKG | Errno::BADMSG | Errno::LIBBAD | Errno::NODATA => {
            let signature = match errno {
                Errno::NODATA => "is missing",
                Errno::NOKEY => "is of a key the running kernel does not trust",
                Errno::NOPKG => "uses an algorithm the running kernel lacks",
                Errno::KEYREJECTED => "does not match the file, or its key is not trusted",
                _ => "can't be read",
            };
            format!(
                "the running kernel takes signed kernels only, and the signature of this one {signature}; \
                 use a kernel of the running one's distribution, or sign it with an enrolled key"
            )
        }
        Errno::ADDRNOTAVAIL if crash => match state::crash_size(host) {
            Ok(Some(size)) if size > 0 => format!(
                "the image does not fit the {} MiB reserved by crashkernel=; reserve more or use a smaller initrd",
                size >> 20
            ),
            _ => "no memory is reserved for a crash kernel; boot with crashkernel=SIZE".into(),
        },
        Errno::ADDRNOTAVAIL => "no free memory at the addresses the image needs".into(),
        Errno::NOEXEC => "the kernel does not know the image's format".into(),
        Errno::NOSYS if file_call => "the running kernel lacks this system call; use -c".into(),
        Errno::NOSYS => "the running kernel lacks this system call, or a sandbox forbids it".into(),
        Errno::BUSY => "another process is loading or unloading a kernel just now; try again".into(),
        Errno::NOMEM => "not enough free memory for the image".into(),
        _ => String::new(),
    }
}

fn denied(host: &Host, crash: bool, file_call: bool) -> String {
    if state::load_disabled(host) {
        return "kernel.kexec_load_disabled is 1: nothing can be loaded or unloaded until the next boot".into();
    }
    if state::load_limit(host, crash) == Some(0) {
        let name = if crash { "panic" } else { "reboot" };
        return format!(
            "kernel.kexec_load_limit_{name} is used up: no further image can be loaded until the next boot"
        );
    }
    match state::lockdown(host) {
        Some(mode) if !file_call => {
            format!(
                "the kernel is locked down ({mode}), which forbids kexec_load: Xen and everything else but a signed \
                 bzImage, which -s takes, can't be loaded"
            )
        }
        Some(mode) => {
            format!("the kernel is locked down ({mode}) and this file has no signature it trusts; use a signed kernel")
        }
        None => "this needs CAP_SYS_BOOT; run as root".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eperm_names_its_cause_on_this_machine() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        let say = |file_call| errno(&host, Errno::PERM, Slot::Next, file_call);
        assert!(say(false).contains("run as root"));
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert!(say(false).contains("locked down (integrity), which forbids kexec_load: Xen"));
        assert!(say(true).contains("signature"));
        write("proc/sys/kernel/kexec_load_limit_reboot", "0\n");
        assert!(say(true).contains("kexec_load_limit_reboot is used up"));
        write("proc/sys/kernel/kexec_load_disabled", "1\n");
        assert!(say(true).contains("kexec_load_disabled is 1"));
    }

    #[test]
    fn a_refused_signature_is_told_with_its_reason() {
        let host = Host::new("/nonexistent");
        for (code, reason) in [
            (Errno::NODATA, "is missing"),
            (Errno::NOKEY, "key the running kernel does not trust"),
            (Errno::KEYREJECTED, "does not match"),
            (Errno::BADMSG, "can't be read"),
        ] {
            let text = errno(&host, code, Slot::Next, true);
            assert!(text.contains("signature") && text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_crash_image_that_does_not_fit_is_told_the_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        let say = || errno(&host, Errno::ADDRNOTAVAIL, Slot::Crash, true);
        assert!(say().contains("crashkernel=SIZE"));
        std::fs::create_dir_all(dir.path().join("sys/kernel")).expect("made");
        std::fs::write(dir.path().join("sys/kernel/kexec_crash_size"), "67108864\n").expect("written");
        assert!(say().contains("the 64 MiB reserved"));
    }
}
