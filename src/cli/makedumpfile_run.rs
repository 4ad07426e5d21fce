//! What `makedumpfile` does once its command line is understood: one call of the engine each, and the lines that scripts
//! look for.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::kdump_join::reassemble;
use super::makedumpfile::{Action, Job, Talk};
use super::output::Output;
use super::unflatten;
use crate::dump::{self, Format, Level, Report, Request};
use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, iomem::Iomem};
use crate::mem::{PAGE_SIZE, Range, VirtAddr};
use crate::target::file::{FileSink, SinkWriter};
use crate::target::{Nowhere, Sink, flat};
use crate::vmcore::{AddressSpace, Vmcore, VmcoreInfo, printk, vmlinux};

/// Whose words about the crashed kernel count: the dump's own unless one of these is given.
pub(super) struct Release {
    /// -x
    pub(super) vmlinux: Option<PathBuf>,
    /// -i
    pub(super) vmcoreinfo: Option<PathBuf>,
}

/// Does `action`. Whether it ends without a word about its completion, as --mem-usage does.
pub(super) fn act(action: &Action, job: &Job) -> Result<bool> {
    let talk = job.talk;
    let saved =
        |what: &str, to: &Path| talk.say(Talk::COMMON, &format!("\nThe {what} is saved to {}.\n", to.display()));
    match action {
        Action::Generate { vmlinux, to } => {
            let text = vmlinux::vmcoreinfo(vmlinux)?;
            std::fs::write(to, text).context(|| format!("write {}", to.display()))?;
            saved("vmcoreinfo", to);
        }
        Action::Dmesg { core, to } => {
            let core = open(core, &job.release)?;
            let options = printk::Options { form: printk::Form::Makedumpfile, partial: job.partial };
            match to {
                None => printk::dmesg_as(&core, options, &mut std::io::BufWriter::new(std::io::stdout().lock()))?,
                Some(to) => {
                    let mut sink = FileSink::create(to, job.force)?;
                    let written =
                        printk::dmesg_as(&core, options, &mut std::io::BufWriter::new(SinkWriter::new(&sink)));
                    let written = written.inspect_err(|_| sink.discard())?;
                    sink.finish()?;
                    written
                }
            };
            let to = to.as_deref().unwrap_or(Path::new("the standard output"));
            talk.say(Talk::COMMON, &format!("\nThe dmesg log is saved to {}.\n", to.display()));
        }
        Action::MemUsage(path) => {
            usage(path, job)?;
            return Ok(true);
        }
        Action::Create { core, to } => create(core, to, job)?,
        Action::Rearrange(to) => {
            let mut sink = FileSink::create(to, job.force)?;
            if let Some(reason) = flat::rearrange(&mut std::io::stdin().lock(), &sink)? {
                unflatten::salvage(&mut sink)?;
                talk.say(Talk::COMMON, "This is an incomplete dumpfile, but might analyzable.\n");
                return Err(Error::new(Kind::Invalid, reason));
            }
            sink.finish()?;
            saved("dumpfile", to);
        }
        Action::Reassemble { parts, to } => {
            let parts: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
            if let Some(why) = reassemble(&parts, to, job.force)? {
                talk.say(Talk::ERROR, &format!("incomplete: {why}"));
            }
            saved("dumpfile", to);
        }
    }
    Ok(false)
}

/// Opens a vmcore, with the VMCOREINFO that was asked for.
fn open(path: &Path, release: &Release) -> Result<Vmcore> {
    let mut core = Vmcore::open(path)?;
    let (text, from) = match (&release.vmcoreinfo, &release.vmlinux) {
        (Some(file), _) => {
            let text = std::fs::read(file).context(|| format!("read the vmcoreinfo file {}", file.display()))?;
            (text, file)
        }
        // What the dump says of itself is right for it; the kernel file only proves that it is the one.
        (None, Some(file)) if core.vmcoreinfo().is_some() => {
            let text = format!("OSRELEASE={}\n", vmlinux::release(file)?);
            same_release(&core, &VmcoreInfo::parse(text.as_bytes()), file, path)?;
            return Ok(core);
        }
        (None, Some(file)) => (vmlinux::vmcoreinfo(file)?.into_bytes(), file),
        (None, None) => return Ok(core),
    };
    let info = VmcoreInfo::parse(&text);
    if info.get("OSRELEASE").is_none() || info.get("PAGESIZE").is_none() {
        let rule = format!("{} lacks OSRELEASE= or PAGESIZE=: it is no vmcoreinfo text", from.display());
        return Err(Error::new(Kind::Invalid, rule));
    }
    same_release(&core, &info, from, path)?;
    core.set_vmcoreinfo(info);
    Ok(core)
}

fn same_release(core: &Vmcore, info: &VmcoreInfo, from: &Path, path: &Path) -> Result<()> {
    let (theirs, ours) = (info.get("OSRELEASE"), core.vmcoreinfo().and_then(|i| i.get("OSRELEASE")));
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(Error::new(
            Kind::WrongRelease,
            format!("{} and {} don't match: one is of {theirs}, the other of {ours}", from.display(), path.display()),
        )),
        _ => Ok(()),
    }
}

fn create(path: &Path, to: &[PathBuf], job: &Job) -> Result<()> {
    let talk = job.talk;
    if let Some(output) = to.iter().find(|output| output.exists() && !job.force && !job.dry_run) {
        return Err(Error::new(Kind::Exists, format!("Can't open the dump file ({}). File exists", output.display())));
    }
    let core = open(path, &job.release)?;
    vtop(&core, job);
    let mut output = match job.dry_run {
        true => Output::Nowhere(to.len().max(1)),
        false => Output::create(to, to.is_empty(), job.force)?,
    };
    let mut report = Report::default();
    let saved = output.fill(&mut |sinks| {
        report = write(&core, job, sinks)?;
        Ok(())
    });
    // The last attempt stays, marked incomplete, under the names that were asked for: that is where scripts look for what
    // could be had.
    let finished = match saved.as_ref().is_err_and(|e| e.kind() != Kind::NoSpace) {
        true => Ok(()),
        false => output.finish(),
    };
    if saved.is_err() || report.incomplete.is_some() {
        talk.say(Talk::COMMON, "This is an incomplete dumpfile, but might analyzable.\n");
    }
    saved?;
    finished?;
    if let Some(reason) = &report.incomplete {
        let kind = if report.over_limit { Kind::NoSpace } else { Kind::Invalid };
        return Err(Error::new(kind, reason.clone()));
    }
    stats(&core, &report, talk);
    let names: Vec<String> = to.iter().map(|output| output.display().to_string()).collect();
    let text = match names.as_slice() {
        [] => "The dumpfile is saved to STDOUT".into(),
        [one] => format!("The dumpfile is saved to {one}"),
        [most @ .., last] => format!("The dumpfiles are saved to {}, and {last}", most.join(", ")),
    };
    talk.say(Talk::COMMON, &format!("\n{text}.\n"));
    Ok(())
}

/// Tries one level after the other while there is no room.
fn write(core: &Vmcore, job: &Job, sinks: &[&dyn Sink]) -> Result<Report> {
    let talk = job.talk;
    let with_old = |level: &Level| Level::new(level.bits() | core.filtered_by()).unwrap_or(*level);
    let levels: Vec<Level> = job.levels.iter().map(with_old).collect();
    let request = Request {
        level: Level::default(),
        codec: job.codec,
        format: if job.elf { Format::Elf } else { Format::Kdump },
        exclude_guests: job.exclude_domains,
        exclude_struct_pages: job.exclude_vmemmap,
        threads: job.threads,
    };
    let told = Cell::new(Instant::now());
    let show = |pages: u64, total: u64| {
        let permille = (pages * 1000).checked_div(total).unwrap_or(1000).min(1000);
        let (whole, tenth) = (permille / 10, permille % 10);
        talk.say(Talk::PROGRESS, &format!("\r{:<50}: [{whole:3}.{tenth} %]", "Copying data"));
    };
    let progress = |p: dump::Progress| {
        if told.get().elapsed() >= Duration::from_secs(1) {
            told.set(Instant::now());
            show(p.pages, p.total);
        }
    };
    let again = |level| talk.say(Talk::COMMON, &format!("Retry to create a dumpfile by dump_level({level}).\n"));
    let report = dump::save_within(core, &request, &levels, job.limit, sinks, &again, &progress)?;
    if !report.over_limit {
        show(1, 1);
    }
    talk.say(Talk::PROGRESS, "\n");
    for reason in report.warnings.iter().chain(&report.degraded) {
        talk.say(Talk::ERROR, reason);
    }
    Ok(report)
}

/// --vtop: the entries of the page tables that lead to the address, and where it leads, if the dump has that.
fn vtop(core: &Vmcore, job: &Job) {
    let Some(va) = job.vtop else { return };
    let mut text = format!("\nTranslating virtual address {va:x} to physical address.\n");
    let mut phys = None;
    if let Some(info) = core.vmcoreinfo() {
        let (space, mem) = (AddressSpace::of(core, info), core.reader());
        let entries = space.entries(&mem, VirtAddr(va));
        let root = entries.first().map_or(0, |e| e.level);
        for entry in entries {
            let name = match entry.level {
                level if level == root => "PGD",
                4 => "P4D",
                3 => "PUD",
                2 => "PMD",
                _ => "PTE",
            };
            let _ = writeln!(text, "  {name} : {:16x} => {:16x}", entry.at.0, entry.value);
        }
        let there = |at: &u64| Range::with_len(*at, 1).is_some_and(|byte| core.covered(byte).is_some());
        phys = space.translate(&mem, VirtAddr(va)).ok().map(|mapped| mapped.phys.0).filter(there);
    }
    let _ = writeln!(text, "VIRTUAL           PHYSICAL\n{va:16x}  {:x}\n", phys.unwrap_or(u64::MAX));
    job.talk.say(Talk::COMMON, &text);
}

/// The report of --show-stats: makedumpfile's lines, for scripts read them.
fn stats(core: &Vmcore, report: &Report, talk: Talk) {
    let (end, dropped) = (core.end().0.div_ceil(PAGE_SIZE), &report.dropped);
    let excluded = report.zero + dropped.total();
    let left = report.pages.saturating_sub(excluded);
    let mut text = String::new();
    let mut line = |name: &str, pages: u64| {
        let _ = writeln!(text, "{name}: 0x{pages:016x}");
    };
    line("\nOriginal pages  ", report.pages);
    line("  Excluded pages   ", excluded);
    line("    Pages filled with zero  ", report.zero);
    line("    Non-private cache pages ", dropped.cache);
    line("    Private cache pages     ", dropped.cache_private);
    line("    User process data pages ", dropped.user);
    line("    Free pages              ", dropped.free);
    line("    Hwpoison pages          ", dropped.hwpoison);
    line("    Offline pages           ", dropped.offline);
    if dropped.guests != 0 {
        line("    Xen guests' pages       ", dropped.guests);
    }
    if dropped.struct_pages != 0 {
        line("    Struct pages of those   ", dropped.struct_pages);
    }
    line("  Remaining pages  ", left);
    let percent = (left * 100).checked_div(report.pages).unwrap_or(0);
    let _ = writeln!(text, "  (The number of pages is reduced to {percent}%.)");
    let _ = writeln!(text, "Memory Hole     : 0x{:016x}", end.saturating_sub(report.pages));
    let _ = writeln!(text, "{}\nTotal pages     : 0x{end:016x}", "-".repeat(50));
    let _ = writeln!(text, "Write bytes     : {}\n", report.bytes);
    talk.say(Talk::REPORT, &text);
}

/// --mem-usage: what a dump of the running kernel would be made of.
fn usage(path: &Path, job: &Job) -> Result<()> {
    let mut core = open(path, &job.release)?;
    // The crash kernel's own memory is not in a vmcore. Of a recorded kcore nobody knows where it was.
    if path == Path::new("/proc/kcore")
        && let Some(text) = Host::new("/").text("proc/iomem")?
    {
        Iomem::parse(&text)?.crash().iter().for_each(|range| core.leave_out(range));
    }
    let request = Request { level: Level::MAX, threads: job.threads, ..Request::default() };
    let report = dump::save(&core, &request, &Nowhere, &|_| ())?;
    if let Some(why) = report.degraded.first() {
        return Err(Error::new(Kind::Missing, format!("the pages can't be told apart: {why}")));
    }
    let d = &report.dropped;
    let mut text = format!("\nTYPE\t\tPAGES\t\t\tEXCLUDABLE\tDESCRIPTION\n{}\n", "-".repeat(70));
    for (kind, pages, excludable, about) in [
        ("ZERO\t", report.zero, "yes", "Pages filled with zero"),
        ("NON_PRI_CACHE", d.cache, "yes", "Cache pages without private flag"),
        ("PRI_CACHE", d.cache_private, "yes", "Cache pages with private flag"),
        ("USER\t", d.user, "yes", "User process pages"),
        ("FREE\t", d.free, "yes", "Free pages"),
        ("KERN_DATA", report.kept, "no", "Dumpable kernel data "),
    ] {
        let _ = writeln!(text, "{kind}\t{pages:<16}\t{excludable}\t\t{about}");
    }
    let _ = writeln!(text, "\npage size:\t\t{PAGE_SIZE:<16}\nTotal pages on system:\t{:<16}", report.pages);
    let _ = writeln!(text, "Total size on system:\t{:<16} Byte", report.pages * PAGE_SIZE);
    job.talk.say(Talk::COMMON, &text);
    Ok(())
}
