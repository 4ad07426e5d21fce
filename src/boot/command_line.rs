//! The next kernel's command line: what is kept of the running one, and what the kernel takes.

use crate::error::{Error, Kind, Result};

/// The command line asked for: with `running`, the running kernel's without what must not come twice, then `text`.
pub fn reuse(running: Option<&str>, text: &str, crash: bool) -> String {
    let mut kept: Vec<&str> = words(running.unwrap_or_default());
    let twice: &[&str] = if crash { &["BOOT_IMAGE=", "crashkernel="] } else { &["BOOT_IMAGE="] };
    kept.retain(|w| !twice.iter().any(|t| w.starts_with(t)));
    let reused = kept.join(" ");
    match (reused.is_empty(), text.is_empty()) {
        (true, _) => text.to_owned(),
        (false, true) => reused,
        (false, false) => format!("{reused} {text}"),
    }
}

/// What a crash kernel does without and would have no memory for (`--lean`); what each saved on Debian's kernels:
/// the files of tracing (8.5 MB on 6.1, 6.3 on 5.10, 1 on 7.2), memcg's array of a 2 MiB per-CPU chunk (4.2 MB from
/// 6.1 on), chunks of that size at all (3.9 MB on 5.10), atomic DMA pools and hash tables for a desktop (0.6 MB).
const LEAN: &[&str] = &[
    "initcall_blacklist=tracer_init_tracefs",
    "cgroup.memory=nokmem",
    "percpu_alloc=page",
    "coherent_pool=64K",
    "dhash_entries=512",
    "ihash_entries=512",
];

/// `text` with what makes a crash kernel smaller; what it sets itself stays as it is.
pub fn lean(text: &str) -> String {
    let name = |word: &str| word.split_once('=').map_or(word, |(name, _)| name).to_owned();
    let given: Vec<String> = words(text).into_iter().map(name).collect();
    // Every initcall_blacklist= counts, not only the last.
    let added = LEAN.iter().filter(|w| w.starts_with("initcall") || !given.contains(&name(w)));
    [text].into_iter().chain(added.copied()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Words as the kernel splits them: at spaces outside double quotes.
fn words(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let at_space = |c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    };
    text.trim().split(at_space).filter(|w| !w.is_empty()).collect()
}

/// Whether a kernel that takes `max` bytes takes all of `text` and `added` bytes more.
///
/// # Errors
/// [`Kind::Invalid`] with both lengths; a command line is never cut.
pub fn check(text: &str, added: usize, max: usize) -> Result<()> {
    let len = text.len();
    if len.saturating_add(added) > max {
        let kept = if added > 0 { format!(" less {added} that kexec_file_load keeps back") } else { String::new() };
        let text = format!("the command line has {len} bytes, the kernel takes {max} (cmdline_size){kept}; shorten it");
        return Err(Error::new(Kind::Invalid, text));
    }
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return Err(Error::new(Kind::Invalid, format!("the command line holds a NUL byte at {at}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lean_command_line_keeps_what_the_user_set() {
        assert!(lean("").starts_with("initcall_blacklist=") && lean("").ends_with("ihash_entries=512"));
        let text = lean("quiet percpu_alloc=embed initcall_blacklist=x");
        assert!(text.starts_with("quiet percpu_alloc=embed initcall_blacklist=x initcall_blacklist=tracer"), "{text}");
        assert_eq!(text.matches("percpu_alloc").count(), 1, "{text}");
    }

    #[test]
    fn trap_m_the_running_command_line_is_reused_without_what_must_not_come_twice() {
        for (running, text, crash, expected) in [
            (None, "a=1", false, "a=1"),
            (Some("BOOT_IMAGE=/vmlinuz ro  quiet"), "", false, "ro quiet"),
            (Some("ro quiet \n"), "lab=2", false, "ro quiet lab=2"),
            (Some("ro crashkernel=64M crashkernel=1G,high xcrashkernel=1"), "p", true, "ro xcrashkernel=1 p"),
            (Some("ro crashkernel=64M"), "", false, "ro crashkernel=64M"),
            (Some("dyndbg=\"file a +p; BOOT_IMAGE=x\" ro"), "", false, "dyndbg=\"file a +p; BOOT_IMAGE=x\" ro"),
        ] {
            assert_eq!(reuse(running, text, crash), expected);
        }
    }
}
