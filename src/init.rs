//! PID 1 of the crash kernel: mounts, log, self-check, the stages of the capture in processes it watches, the final action.
//!
//! It never returns while the machine can still be ended properly, never waits without a bound, and touches nothing
//! unless it is PID 1 and the kernel offers `/proc/vmcore`: a healthy machine is never rebooted by mistake.
//! Linux's own contract for PID 1: `Documentation/admin-guide/init.rst`.

mod kmsg;
mod supervise;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::capture::actions::{self, Action};
use crate::capture::again::{Again, Attempts};
use crate::capture::config::Config;
use crate::capture::progress::{Message, Patience};
use crate::capture::run;
use crate::error::{Error, Kind, Result};
use supervise::{Stage, supervise};

/// File systems every stage counts on: type, mount point, flags, options.
const MOUNTS: &[(&str, &str, MountFlags, &std::ffi::CStr)] = &[
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    ("sysfs", "/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC), c""),
    // CONFIG_DEVTMPFS_MOUNT does nothing for an initramfs.
    ("devtmpfs", "/dev", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=0755"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755,size=1m"),
];

/// What is written where, and why.
const SYSCTLS: &[(&str, &str)] = &[
    // "quiet" of the crashed kernel's command line must not silence the reason of a failure.
    ("/proc/sys/kernel/printk", "7"),
    // Our log goes through /dev/kmsg, which lets ten lines in 5 s pass.
    ("/proc/sys/kernel/printk_devkmsg", "on"),
    // ext4 and the crypto API ask for modules by name; the path is a build option of the kernel.
    ("/proc/sys/kernel/modprobe", "/sbin/modprobe"),
    ("/proc/sys/vm/overcommit_memory", "1"),
    // The saver may be killed for memory; the machine must not panic a second time over it.
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic_on_oops", "0"),
    // The last net: should PID 1 end, the panic that follows reboots.
    ("/proc/sys/kernel/panic", "10"),
    // Else 2 MiB more have to stay free each time kinds of pages mix, which they always do in so little memory.
    ("/proc/sys/vm/watermark_boost_factor", "0"),
    // Its default, which is written to have all marks computed anew: what was added so far goes.
    ("/proc/sys/vm/watermark_scale_factor", "10"),
    ("/proc/self/oom_score_adj", "-1000"),
];

/// What a panic in PID 1 does to the machine.
static ON_PANIC: OnceLock<Action> = OnceLock::new();

/// Runs as PID 1 of a crash kernel; as any other process, says so and does nothing.
pub fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        eprintln!("init: this is PID {}, not PID 1 of a crash kernel; nothing was done", rustix::process::getpid());
        return ExitCode::from(Kind::Usage.save_code());
    }
    kmsg::install();
    std::panic::set_hook(Box::new(|info| {
        log::error!("internal error: {info}");
        actions::perform(*ON_PANIC.get().unwrap_or(&Action::Reboot));
    }));
    let failures = mount_all();
    // Only now do /dev/kmsg and /dev/console surely exist.
    kmsg::install();
    open_console();
    for failure in failures {
        log::error!("{failure}");
    }
    let _ = unpacked();
    for (path, value) in SYSCTLS {
        // printk_devkmsg takes its word only with the end of the line.
        if let Err(e) = std::fs::write(path, format!("{value}\n")) {
            log::debug!("write {value} to {path}: {e}");
        }
    }
    let config = read_config();
    kmsg::set_debug(config.debug);
    // Set once, here only.
    let _ = ON_PANIC.set(config.failure_action);
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let action = match capture(&config) {
        Ok(()) => config.final_action,
        Err(e) => {
            log::error!("no dump: {e}");
            config.failure_action
        }
    };
    log::info!("{}", action.name());
    actions::perform(action);
    ExitCode::FAILURE
}

/// The configuration, as every stage reads it.
pub fn read_config() -> Config {
    let file = std::fs::read("/etc/kdump.conf").unwrap_or_default();
    let cmdline = std::fs::read("/proc/cmdline").unwrap_or_default();
    Config::parse(&String::from_utf8_lossy(&file), &String::from_utf8_lossy(&cmdline))
}

fn mount_all() -> Vec<Error> {
    let mut failures = Vec::new();
    for (fs, at, flags, options) in MOUNTS {
        // The initramfs has these directories; one cut short may not.
        let _ = std::fs::create_dir(at);
        if let Err(e) = rustix::mount::mount(*fs, *at, *fs, *flags, *options) {
            failures.push(Error::errno(e, format!("mount {fs} on {at}")));
        }
    }
    failures
}

/// Where this program was packed, its other names lead to what it has become, and the packed one's memory is given back.
fn unpacked() -> std::io::Result<()> {
    if std::fs::read_link("/proc/self/exe")?.to_string_lossy().starts_with("/memfd:") {
        std::fs::remove_file("/init")?;
        std::os::unix::fs::symlink("/proc/1/exe", "/init")?;
    }
    Ok(())
}

/// Standard input, output and error become the console, which must not block us if nobody drains it.
fn open_console() {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    if let Ok(console) = rustix::fs::open("/dev/console", flags, Mode::empty()) {
        let dup = rustix::stdio::dup2_stdin(&console);
        let dup = dup.and(rustix::stdio::dup2_stdout(&console)).and(rustix::stdio::dup2_stderr(&console));
        if let Err(e) = dup {
            log::warn!("use /dev/console: {e}");
        }
    }
}

fn capture(config: &Config) -> Result<()> {
    let size = std::fs::metadata(run::VMCORE).map_or(0, |m| m.len());
    if size == 0 {
        let rule = "this kernel was not started by a panic, or the elfcorehdr it was given is broken";
        return Err(Error::new(Kind::Missing, format!("there is no {}: {rule}", run::VMCORE)));
    }
    log::info!("{} has {} MiB", run::VMCORE, size >> 20);
    check_image();
    let mut directory = None;
    let target =
        Stage { name: "target", patience: Patience::Total(config.device_timeout + MOUNT_TIME), arguments: &[] };
    let result = supervise(&target, &mut |_| {}).and_then(|()| {
        let mut attempts = Attempts::default();
        let saved = save(config, &mut attempts);
        directory = attempts.directory;
        finish(directory.as_deref(), saved.as_ref().err());
        saved
    });
    if result.is_err() && directory.is_none() {
        let stage = Stage { name: "last-words", patience: Patience::Total(Duration::from_secs(20)), arguments: &[] };
        if let Err(e) = supervise(&stage, &mut |_| {}) {
            log::error!("{e}");
        }
    }
    result
}

/// Saves; where the saver dies of a signal, another goes on with a wider rung.
fn save(config: &Config, attempts: &mut Attempts) -> Result<()> {
    let mut again: Option<Again> = None;
    let mut told: Option<Instant> = None;
    loop {
        let rung = again.as_ref().map(|again| again.rung.to_string());
        let going_on = again.as_ref().map(|again| {
            let directory = again.directory.as_ref().and_then(|d| d.to_str());
            [("--rung", rung.as_deref()), ("--failure", Some(again.reason.as_str())), ("--directory", directory)]
        });
        let arguments: Vec<&str> = options(going_on.as_ref().map_or(&[], |told| told.as_slice()));
        let stage = Stage { name: "save", patience: Patience::Stall(config.stall_timeout), arguments: &arguments };
        let saved = supervise(&stage, &mut |message| match message {
            Message::Directory(path) => attempts.directory = Some(path.clone()),
            Message::Rung(rung) => attempts.reached = Some(*rung),
            Message::Done(done, total) if told.is_none_or(|told| told.elapsed() >= TELL) => {
                told = Some(Instant::now());
                let percent = u128::from(*done) * 100 / u128::from((*total).max(1));
                log::info!("{percent} % saved");
            }
            Message::Done(..) | Message::Failed(_) => {}
        });
        let killed = saved.as_ref().err().filter(|e| e.kind() == Kind::Killed).map(Error::to_string);
        match killed.and_then(|reason| Some((attempts.next(config, reason.clone())?, reason))) {
            Some((next, reason)) => {
                log::error!("{reason}; the saver begins again, with rung {}", next.rung);
                again = Some(next);
            }
            None => return saved,
        }
    }
}

/// How often the console is told how far the dump is.
const TELL: Duration = Duration::from_secs(1);

/// Options that have a value.
fn options<'a>(all: &[(&'a str, Option<&'a str>)]) -> Vec<&'a str> {
    all.iter().filter_map(|(option, value)| Some([*option, (*value)?])).flatten().collect()
}

/// What mounting may take beyond the wait for the device: a journal to replay on a slow disk.
const MOUNT_TIME: Duration = Duration::from_secs(60);

/// Leaves the reason in the target and unmounts it; both may hang on a dead disk, so a child does it.
fn finish(directory: Option<&str>, failure: Option<&Error>) {
    let failure = failure.map(|e| e.to_string());
    let arguments = options(&[("--directory", directory), ("--failure", failure.as_deref())]);
    let stage = Stage { name: "finish", patience: Patience::Total(FINISH_TIME), arguments: &arguments };
    if let Err(e) = supervise(&stage, &mut |_| {}) {
        log::error!("{e}");
    }
}

/// What the last sync may take.
const FINISH_TIME: Duration = Duration::from_secs(30);

/// Runs one stage; only a child of PID 1 of a crash kernel may.
pub fn stage(name: &str, directory: Option<&str>, failure: Option<&str>, rung: Option<usize>) -> ExitCode {
    let parent = rustix::process::getppid();
    if !parent.is_some_and(|p| p.is_init()) || !Path::new(run::VMCORE).exists() {
        eprintln!("init: --stage is for init itself, in a crash kernel; nothing was done");
        return ExitCode::from(Kind::Usage.save_code());
    }
    kmsg::install();
    // Should memory run out, this process goes and init stays to say so.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let config = read_config();
    kmsg::set_debug(config.debug);
    let result = match name {
        "target" => run::reach_target(&config).map(|()| 0),
        "save" => {
            bound_dirty_pages();
            let again = rung.map(|rung| Again {
                directory: directory.map(PathBuf::from),
                rung,
                reason: failure.unwrap_or_default().to_owned(),
            });
            run::save(&config, again.as_ref())
        }
        "finish" => run::close(&config, directory.map(Path::new), failure).map(|()| 0),
        "last-words" => run::last_words(20).map(|()| 0),
        _ => Err(Error::new(Kind::Usage, format!("there is no stage '{name}'"))),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            Message::Failed(e.to_string()).send();
            ExitCode::from(e.kind().save_code())
        }
    }
}

/// Dirty pages are the one thing that grows with the dump, and what can't be written yet can't be given back: a fourth of the
/// memory that is free now, no more than 16 MiB.
fn bound_dirty_pages() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let dirty = dirty_bytes(&meminfo);
    for (path, bytes) in [("dirty_bytes", dirty), ("dirty_background_bytes", dirty / 4)] {
        let path = format!("/proc/sys/vm/{path}");
        if let Err(e) = std::fs::write(&path, format!("{bytes}\n")) {
            log::debug!("write {bytes} to {path}: {e}");
        }
    }
}

fn dirty_bytes(meminfo: &str) -> u64 {
    let free = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:")?.split_whitespace().next()?.parse().ok());
    let free: u64 = free.unwrap_or(0);
    (free.saturating_mul(1024) / 4).clamp(1 << 20, 16 << 20)
}

/// Compares the initramfs with the manifest it begins with.
fn check_image() {
    let manifest = std::fs::read_to_string("/manifest").unwrap_or_default();
    let size = |path: &str| std::fs::symlink_metadata(path).ok().map(|m| m.len());
    if let Some(what) = truncated(&manifest, size) {
        let cause = "the kernel ran out of room while it unpacked the initramfs; boot it with rootfstype=ramfs";
        log::error!("initramfs truncated: {what}: {cause}");
    }
}

/// Where the unpacking of what `manifest` lists stopped, if it did. The kernel sets a file's size before it writes the
/// contents, so the file in front of the first one missing may look whole and is not.
fn truncated(manifest: &str, size: impl Fn(&str) -> Option<u64>) -> Option<String> {
    let lines = manifest.lines().filter_map(|l| l.split_once(' '));
    // The first program runs, so it is whole; where it was packed, it is a link now.
    let files: Vec<(u64, &str)> =
        lines.filter(|(_, path)| *path != "/init").filter_map(|(s, path)| Some((s.parse().ok()?, path))).collect();
    let short = files.iter().find_map(|(wanted, path)| match size(path) {
        Some(has) if has != *wanted => Some(format!("{path} has {has} of {wanted} bytes")),
        _ => None,
    });
    let missing = files.iter().position(|(_, path)| size(path).is_none()).map(|first| {
        let last = files.get(..first).and_then(|f| f.last()).map_or("/init", |(_, path)| path);
        let count = files.iter().filter(|(_, path)| size(path).is_none()).count();
        format!("it stopped at {last}, and {count} files behind it are missing")
    });
    missing.or(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_pages_take_a_part_of_what_is_free() {
        for (meminfo, bytes) in [
            ("MemTotal: 80000 kB\nMemFree:   8192 kB\n", 2 << 20),
            ("MemFree: 1 kB\n", 1 << 20),
            ("MemFree: 1000000 kB\n", 16 << 20),
            ("", 1 << 20),
        ] {
            assert_eq!(dirty_bytes(meminfo), bytes, "{meminfo}");
        }
    }

    #[test]
    fn a_truncated_image_is_told_by_its_manifest() {
        let manifest = "3 /init\n10 /etc/kdump.conf\n7 /lib/x.ko\ngarbage\n0 /manifest.end\n";
        let sizes = |known: &'static [(&str, u64)]| {
            truncated(manifest, move |path| known.iter().find(|(p, _)| *p == path).map(|(_, s)| *s))
        };
        let whole = sizes(&[("/init", 3), ("/etc/kdump.conf", 10), ("/lib/x.ko", 7), ("/manifest.end", 0)]);
        assert_eq!(whole, None);
        let cut = sizes(&[("/init", 3), ("/etc/kdump.conf", 10)]);
        assert_eq!(cut.as_deref(), Some("it stopped at /etc/kdump.conf, and 2 files behind it are missing"));
        let odd = sizes(&[("/init", 3), ("/etc/kdump.conf", 4), ("/lib/x.ko", 7), ("/manifest.end", 0)]);
        assert_eq!(odd.as_deref(), Some("/etc/kdump.conf has 4 of 10 bytes"));
        assert_eq!(truncated("", |_| None), None, "an image of another builder has no manifest");
    }

    #[test]
    fn outside_a_crash_kernel_nothing_is_done() {
        let refused = ExitCode::from(Kind::Usage.save_code());
        assert_eq!(format!("{:?}", main()), format!("{refused:?}"));
        assert_eq!(format!("{:?}", stage("finish", None, None, None)), format!("{refused:?}"));
    }
}
