//! The stages of a capture, each run in a process of its own that `init` watches: reach the target, save, close.
//!
//! Saving goes from what is most surely had to what is wanted most: a directory with a status, the log, the dump at the
//! level asked for, without the classes that need struct pages, raw memory. Only a full target ends the ladder early: a wider dump would not fit either.

use std::cell::Cell;
use std::fs::{DirBuilder, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::again::Again;
use super::config::Config;
use super::device;
use super::modules::{self, Database, Loader};
use super::progress::Message;
use super::summary::Summary;
use crate::dump::{self, Level, Report, Request};
use crate::error::{Context, Error, Kind, Result, SAVED_DEGRADED, SAVED_INCOMPLETE, SAVED_RAW};
use crate::mem::{Range, VirtAddr};
use crate::target::Sink;
use crate::target::file::FileSink;
use crate::vmcore::calendar::utc;
use crate::vmcore::{AddressSpace, FileInput, Input, Vmcore, conring, printk};

/// Where the target is mounted.
pub const MOUNT_POINT: &str = "/target";
/// The crashed machine's memory.
pub const VMCORE: &str = "/proc/vmcore";

/// Loads drivers, waits for the target's device, mounts it.
///
/// # Errors
/// [`Kind::Missing`] without a target in the configuration, [`Kind::Timeout`] if its device does not appear in time.
pub fn reach_target(config: &Config) -> Result<()> {
    let mut loader = match Database::of_this_kernel() {
        Ok(database) => Loader::new(database),
        Err(e) => {
            // All drivers may be compiled in.
            log::warn!("{e}");
            Loader::new(Database::default())
        }
    };
    let rule = "name one in /etc/kdump.conf (ext4 /dev/vda1) or by kdump.target=ext4:/dev/vda1";
    let none = || Error::new(Kind::Missing, format!("no target is configured: {rule}"));
    let target = config.target.as_ref().ok_or_else(none)?;
    // The largest module as a rule: while most memory is free.
    if let Err(e) = loader.load(&format!("fs-{}", target.fs)) {
        // It may be compiled in; mount decides.
        log::debug!("{e}");
    }
    let count = modules::coldplug(&mut loader);
    log::info!("devices of this machine made {count} module requests load something");
    let start = Instant::now();
    let path = loop {
        if let Some(path) = device::find(&target.device) {
            break path;
        }
        if start.elapsed() >= config.device_timeout {
            let (device, seconds) = (&target.device, config.device_timeout.as_secs());
            let what = format!(
                "target {device} did not appear within {seconds} s; block devices there are: {}",
                device::present()
            );
            return Err(Error::new(Kind::Timeout, what));
        }
        std::thread::sleep(Duration::from_millis(200));
        // Disks behind a controller that scans its bus appear one by one.
        modules::coldplug(&mut loader);
    };
    device::mount(target, &path, Path::new(MOUNT_POINT))?;
    log::info!("target {} ({}) mounted", path.display(), target.fs);
    Ok(())
}

/// Saves everything. The directory and progress go to the supervisor, the outcome into the summary. With `again`, goes on
/// where savers have died: what came before the dump was tried, and is not tried again.
///
/// # Errors
/// Why no dump was saved; log and summary may be there nevertheless.
///
/// Returns the exit code that says how well it went: 0, [`SAVED_DEGRADED`], [`SAVED_INCOMPLETE`] or [`SAVED_RAW`].
pub fn save(config: &Config, again: Option<&Again>) -> Result<u8> {
    if let Some(again) = again
        && again.rung >= rungs(level(config)).len()
    {
        return copy(config, again);
    }
    let core = Vmcore::open(Path::new(VMCORE)).map(|mut core| {
        core.search_vmcoreinfo();
        core
    });
    let crash = core.as_ref().map_or_else(|_| Crash::unknown(), Crash::of);
    let directory = go_on_in(again).map_or_else(|| make_directory(config, &crash), Ok)?;
    Message::Directory(directory.display().to_string()).send();
    if let Some(again) = again {
        let Ok(core) = core else { return copy(config, again) };
        return ladder(&core, config, &directory, Some(again)).map(|s| done(Summary::read(&directory), &directory, s));
    }
    let mut summary = Summary::default();
    summary.set("status", "started");
    if let Some((core, xen)) = core.as_ref().ok().and_then(|c| Some((c, c.xen()?))) {
        summary.set("xen", xen.describe(&core.reader()));
        for (cpu, registers) in xen.cpus(core.notes()).into_iter().enumerate() {
            summary.set(&format!("xen-cpu-{cpu}"), registers);
        }
    }
    summary.set("kernel", crash.release.as_str());
    summary.set("host", crash.host.as_str());
    summary.set("crashed", utc(crash.seconds, '-', ':', "Z"));
    // A summary that can't be written is no reason to stop: the dump is what counts.
    note(&summary, &directory);
    let core = match core {
        Ok(core) => core,
        Err(e) => {
            log::error!("{e}; memory is saved raw");
            summary.set("reason", e.to_string());
            let saved = raw(&FileInput::open(Path::new(VMCORE))?, &[], &directory)?;
            return Ok(done(summary, &directory, saved));
        }
    };
    let saved = dmesg(&core, &directory);
    match &saved {
        Ok(text) => log::info!("vmcore-dmesg.txt saved, {text}"),
        Err(e) => log::error!("the log can't be saved: {e}"),
    }
    if core.xen().is_some() {
        summary.set("xen-console", xen_console(&core, &directory).unwrap_or_else(|e| format!("failed: {e}")));
    }
    summary.set("status", "dmesg");
    summary.set("dmesg", saved.unwrap_or_else(|e| format!("failed: {e}")));
    note(&summary, &directory);
    ladder(&core, config, &directory, None).map(|saved| done(summary, &directory, saved))
}

/// The copy that looks at nothing.
fn copy(config: &Config, again: &Again) -> Result<u8> {
    let directory = go_on_in(Some(again)).map_or_else(|| make_directory(config, &Crash::unknown()), Ok)?;
    Message::Directory(directory.display().to_string()).send();
    Message::Rung(rungs(level(config)).len()).send();
    log::info!("saving all memory raw");
    let mut saved = raw(&FileInput::open(Path::new(VMCORE))?, &[], &directory)?;
    saved.reasons.push(again.reason.clone());
    Ok(done(Summary::read(&directory), &directory, saved))
}

fn go_on_in(again: Option<&Again>) -> Option<PathBuf> {
    again.and_then(|again| again.directory.clone())
}

fn note(summary: &Summary, directory: &Path) {
    if let Err(e) = summary.write(directory) {
        log::error!("{e}");
    }
}

/// A rung that held.
struct Saved {
    vmcore: String,
    /// Why it is not what was asked for.
    reasons: Vec<String>,
    code: u8,
}

fn done(mut summary: Summary, directory: &Path, saved: Saved) -> u8 {
    log::info!("saved {}/{}", directory.display(), saved.vmcore);
    summary.set("vmcore", saved.vmcore);
    summary.set("status", if saved.code == SAVED_INCOMPLETE { "incomplete" } else { "complete" });
    if !saved.reasons.is_empty() {
        for reason in &saved.reasons {
            log::warn!("{reason}");
        }
        summary.set("reason", saved.reasons.join("; "));
    }
    note(&summary, directory);
    saved.code
}

/// The level that is asked for.
pub(super) fn level(config: &Config) -> Level {
    Level::new(config.level).unwrap_or(Level::MAX)
}

/// The rungs in order: dump levels, then none for raw memory.
pub(super) fn rungs(asked: Level) -> Vec<Option<Level>> {
    let widest = asked.without_struct_pages();
    let levels = [Some(asked), Some(widest).filter(|w| *w != asked)];
    levels.into_iter().flatten().map(Some).chain([None]).collect()
}

fn ladder(core: &Vmcore, config: &Config, directory: &Path, again: Option<&Again>) -> Result<Saved> {
    // Whoever died may have died of too little memory: one worker needs least.
    let threads = if again.is_some() { 1 } else { 0 };
    let mut failure = again.map(|again| Error::new(Kind::Killed, again.reason.clone()));
    for (number, rung) in rungs(level(config)).into_iter().enumerate().skip(again.map_or(0, |again| again.rung)) {
        Message::Rung(number).send();
        let saved = match rung {
            Some(level) => {
                log::info!("saving at level {level}");
                filtered(core, config, level, threads, directory)
            }
            None => {
                log::info!("saving raw memory, but what is broken");
                raw(core.input(), &dump::raw::broken(core), directory)
            }
        };
        match saved {
            Ok(mut saved) => {
                if let Some(e) = &failure {
                    saved.reasons.push(e.to_string());
                    saved.code = saved.code.max(SAVED_DEGRADED);
                }
                return Ok(saved);
            }
            Err(e) if e.kind() == Kind::NoSpace => return Err(e),
            Err(e) => {
                log::error!("{e}");
                failure = failure.or(Some(e));
            }
        }
    }
    Err(failure.unwrap_or_else(|| Error::new(Kind::System, "nothing was tried")))
}

fn filtered(core: &Vmcore, config: &Config, level: Level, threads: usize, directory: &Path) -> Result<Saved> {
    let path = directory.join("vmcore");
    let mut sink = FileSink::create(&path, true)?;
    let (codec, exclude_guests) = (config.codec, config.exclude_guests);
    let request = Request { level, codec, exclude_guests, threads, ..Request::default() };
    let told = Cell::new(Instant::now());
    let progress = |p: dump::Progress| {
        // The supervisor's timer needs no more than this, and a serial console is slow.
        if told.get().elapsed() >= Duration::from_secs(1) {
            told.set(Instant::now());
            Message::Done(p.pages, p.total).send();
        }
    };
    let report = dump::save(core, &request, &sink, &progress)?;
    sink.finish()?;
    let code = match (&report.incomplete, report.degraded.is_empty()) {
        (Some(_), _) => SAVED_INCOMPLETE,
        (None, false) => SAVED_DEGRADED,
        (None, true) => 0,
    };
    for warning in &report.warnings {
        log::warn!("{warning}");
    }
    let reasons = report.degraded.iter().chain(&report.incomplete).cloned().collect();
    Ok(Saved { vmcore: describe(&report, config), reasons, code })
}

fn describe(report: &Report, config: &Config) -> String {
    let Report { bytes, level, kept, pages, .. } = report;
    let mut text = format!("vmcore, {bytes} bytes, level {level}, {}, {kept} of {pages} pages", config.codec.name());
    if report.unreadable != 0 {
        text.push_str(&format!(", {} unreadable", report.unreadable));
    }
    text
}

fn dmesg(core: &Vmcore, directory: &Path) -> Result<String> {
    let stats = text_file(directory, "vmcore-dmesg", |writer| printk::dmesg(core, writer))?;
    Ok(format!("{} records, {} bytes", stats.records, stats.bytes))
}

/// What the hypervisor printed: a crash of its own is nowhere else.
fn xen_console(core: &Vmcore, directory: &Path) -> Result<String> {
    let text = conring::text(core)?;
    let write = |writer: &mut dyn Write| writer.write_all(&text).context(|| "write the console");
    text_file(directory, "xen-console", write).map(|()| format!("{} bytes", text.len()))
}

/// `NAME.txt`: on stable storage under that name, or not at all.
fn text_file<T>(directory: &Path, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let (working, path) = (directory.join(format!("{name}-incomplete.txt")), directory.join(format!("{name}.txt")));
    let what = || format!("write {}", path.display());
    let file = create(&working)?;
    let mut writer = BufWriter::new(&file);
    // Half a log may hold the line that matters: on an error it stays, under the name that says so.
    let filled = fill(&mut writer).and_then(|s| writer.flush().context(what).map(|()| s))?;
    let finish = || {
        file.sync_all()?;
        std::fs::rename(&working, &path)?;
        File::open(directory)?.sync_all()
    };
    finish().context(what)?;
    Ok(filled)
}

fn create(path: &Path) -> Result<File> {
    let open = File::options().write(true).create_new(true).mode(0o600).open(path);
    open.context(|| format!("create {}", path.display()))
}

/// `/proc/vmcore` as it is, but for what is in the ranges `skip` of it.
fn raw(input: &dyn Input, skip: &[Range], directory: &Path) -> Result<Saved> {
    let mut sink = FileSink::create(&directory.join("vmcore"), true)?;
    let progress = |done, total| Message::Done(done, total).send();
    let dump::raw::Copied { bytes, unreadable } = dump::raw::copy(input, skip, &sink, &progress)?;
    sink.finish()?;
    let vmcore = format!("vmcore, {bytes} bytes, raw, {unreadable} pages unreadable");
    Ok(Saved { vmcore, reasons: Vec::new(), code: SAVED_RAW })
}

/// What the directory is named after.
struct Crash {
    host: String,
    release: String,
    seconds: u64,
}

impl Crash {
    /// Of a machine whose vmcore tells nothing: now, here.
    fn unknown() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { host: "localhost".into(), release: "unknown".into(), seconds: now.as_secs() }
    }

    fn of(core: &Vmcore) -> Self {
        let mut crash = Self::unknown();
        let Some(info) = core.vmcoreinfo() else { return crash };
        if let Some(release) = info.get("OSRELEASE") {
            crash.release = release.into();
        }
        // The crash kernel's own clock may be anything; the crashed kernel wrote down its own.
        if let Some(seconds) = info.get("CRASHTIME").and_then(|t| t.parse().ok()) {
            crash.seconds = seconds;
        }
        crash.host = nodename(core).unwrap_or(crash.host);
        crash
    }
}

/// `init_uts_ns.name.nodename`: the second of the 65-byte strings of `struct new_utsname`.
fn nodename(core: &Vmcore) -> Option<String> {
    let info = core.vmcoreinfo()?;
    let name = u64::try_from(info.offset("uts_namespace.name").unwrap_or(4)).ok()?;
    let at = info.symbol("init_uts_ns")?.checked_add(name)?.checked_add(65)?;
    let mut bytes = [0; 65];
    AddressSpace::of(core, info).read(&core.reader(), VirtAddr(at), &mut bytes).ok()?;
    let text = bytes.split(|b| *b == 0).next()?;
    Some(portable(&String::from_utf8_lossy(text))).filter(|n| !n.is_empty())
}

/// Letters every file system and every tool takes; the rest becomes a dash. `(none)`, a kernel's name for a host that
/// was never named, becomes nothing.
fn portable(name: &str) -> String {
    if name == "(none)" {
        return String::new();
    }
    let fine = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    name.chars().map(fine).collect::<String>().trim_start_matches(['.', '-']).to_owned()
}

/// `PATH/HOST-YYYY-MM-DD-HH-MM-SS`, new; `-2` and so on if a crash of that second is there already.
fn make_directory(config: &Config, crash: &Crash) -> Result<PathBuf> {
    let parent = Path::new(MOUNT_POINT).join(config.path.trim_start_matches('/'));
    DirBuilder::new().recursive(true).mode(0o700).create(&parent).context(|| format!("make {}", parent.display()))?;
    new_directory(&parent, &format!("{}-{}", crash.host, utc(crash.seconds, '-', '-', "")))
}

fn new_directory(parent: &Path, name: &str) -> Result<PathBuf> {
    for attempt in 1..1000 {
        let path = parent.join(if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") });
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).context(|| format!("make {}", path.display())),
        }
    }
    Err(Error::new(Kind::Exists, format!("{} and 998 like it exist already", parent.join(name).display())))
}

/// Leaves the reason of a failure in the target, then syncs and unmounts it.
///
/// # Errors
/// What could not be written or unmounted; the caller goes on to its final action anyhow.
pub fn close(config: &Config, directory: Option<&Path>, failure: Option<&str>) -> Result<()> {
    let noted = match (directory, failure) {
        (_, None) => Ok(()),
        (Some(directory), Some(reason)) => fail(directory, reason),
        (None, Some(reason)) => make_directory(config, &Crash::unknown()).and_then(|d| fail(&d, reason)),
    };
    if let Some(Err(e)) = directory.map(own_log) {
        log::warn!("{e}");
    }
    rustix::fs::sync();
    let flags = rustix::mount::UnmountFlags::empty();
    noted.and(rustix::mount::unmount(MOUNT_POINT, flags).context(|| format!("unmount {MOUNT_POINT}")))
}

/// Name of the crash kernel's own log beside the dump, as kdump-utils has it.
const OWN_LOG: &str = "kexec-dmesg.log";

/// Saves this kernel's log: what `init` and its stages said is part of it. One record a read, and no waiting for more.
fn own_log(directory: &Path) -> Result<()> {
    let mut kmsg = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open("/dev/kmsg");
    let kmsg = kmsg.as_mut().map_err(|e| Error::io(e, "open /dev/kmsg"))?;
    let mut writer = BufWriter::new(create(&directory.join(OWN_LOG))?);
    let mut record = [0; 8192];
    loop {
        match kmsg.read(&mut record) {
            Ok(0) => break,
            // "priority,sequence,microseconds,flags;text\n", then lines of a dictionary that begin with a blank.
            Ok(count) => {
                let text = String::from_utf8_lossy(record.get(..count).unwrap_or_default()).into_owned();
                let (head, text) = text.split_once(';').unwrap_or(("", &text));
                let time: u64 = head.split(',').nth(2).and_then(|t| t.parse().ok()).unwrap_or(0);
                let line = text.lines().next().unwrap_or_default();
                writeln!(writer, "[{:5}.{:06}] {line}", time / 1_000_000, time % 1_000_000)
                    .context(|| "write the own log")?;
            }
            // EPIPE: the ring has moved on past us; the next read goes on with what is left.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    writer.flush().context(|| "write the own log")
}

fn fail(directory: &Path, reason: &str) -> Result<()> {
    let mut summary = Summary::read(directory);
    summary.set("status", "failed");
    summary.set("reason", reason);
    summary.write(directory)
}

/// Logs the last lines of the crashed kernel's log, when the console is the only place left for them.
pub fn last_words(count: usize) -> Result<()> {
    let core = Vmcore::open(Path::new(VMCORE))?;
    let mut tail = Tail::default();
    printk::dmesg(&core, &mut tail)?;
    for line in tail.last(count) {
        log::error!("crashed kernel: {line}");
    }
    Ok(())
}

/// Keeps the end of what is written to it.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn last(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(count)).map(|l| (*l).to_owned()).collect()
    }
}

impl Write for Tail {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(data);
        let extra = self.0.len().saturating_sub(16 << 10);
        self.0.drain(..extra);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_gets_wider_and_ends_with_raw_memory() {
        let bits = |asked| -> Vec<Option<u8>> {
            rungs(Level::new(asked).expect("level")).into_iter().map(|r| r.map(Level::bits)).collect()
        };
        assert_eq!(bits(31), [Some(31), Some(1), None]);
        assert_eq!(bits(16), [Some(16), Some(0), None]);
        assert_eq!(bits(1), [Some(1), None]);
    }

    #[test]
    fn names_are_portable_and_times_are_utc() {
        assert_eq!(utc(1_764_068_411, '-', '-', ""), "2025-11-25-11-00-11");
        assert_eq!(utc(951_782_400, '-', ':', "Z"), "2000-02-29T00:00:00Z");
        assert_eq!(utc(u64::MAX, '-', '-', ""), "9999-12-31-23-59-59");
        for (name, wanted) in [("db1.example", "db1.example"), ("(none)", ""), ("../x y:z", "x-y-z"), ("ü", "")] {
            assert_eq!(portable(name), wanted, "{name}");
        }
    }

    #[test]
    fn a_directory_is_never_used_twice() {
        let dir = tempfile::tempdir().expect("dir");
        let names: Vec<_> = (0..3).map(|_| new_directory(dir.path(), "h-1").expect("made")).collect();
        assert_eq!(names, ["h-1", "h-1-2", "h-1-3"].map(|n| dir.path().join(n)));
    }

    #[test]
    fn the_tail_is_bounded_and_ends_with_the_last_line() {
        let mut tail = Tail::default();
        for i in 0..5000 {
            writeln!(tail, "line {i}").expect("memory");
        }
        assert_eq!(tail.last(2), ["line 4998", "line 4999"]);
        assert!(tail.0.len() <= 16 << 10);
    }
}
