//! `kdump-save`: options to a request, one call, what to print.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use super::output::Output;
use super::{info, kdump_join, makedumpfile, unflatten};
use crate::capture::run as capture;
use crate::dump::raw::Copied;
use crate::dump::{self, Codec, Format, Level, Progress, Report, Request};
use crate::error::{Context, Error, Kind, Result, SAVED_DEGRADED, SAVED_INCOMPLETE, SAVED_RAW};
use crate::target::Sink;
use crate::target::file::{FileSink, SinkWriter};
use crate::vmcore::{FileInput, Input, Vmcore, conring, printk};

/// Saves a crashed kernel's memory: kdump-save [OPTIONS] VMCORE DUMPFILE, or --split VMCORE DUMPFILE DUMPFILE..., or
/// -F VMCORE [DUMPFILE], or --reassemble PART... DUMPFILE, or
/// --dump-dmesg|--dump-xen-console VMCORE [FILE], or unflatten [STREAM] DUMPFILE.
///
/// VMCORE is /proc/vmcore or a saved core or dump. DUMPFILE is written in the kdump-compressed format, as
/// DUMPFILE-incomplete until it is whole. 'kdump-save info' says what a dump is.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// compress pages with zlib
    #[argh(switch, short = 'c')]
    zlib: bool,
    /// compress pages with LZO
    #[argh(switch, short = 'l')]
    lzo: bool,
    /// compress pages with snappy
    #[argh(switch, short = 'p')]
    snappy: bool,
    /// compress pages with zstd
    #[argh(switch, short = 'z')]
    zstd: bool,
    /// write an ELF core, uncompressed
    #[argh(switch, short = 'E')]
    elf: bool,
    /// what to leave out, the sum of: 1 zero pages, 2 page cache, 4 page cache with private data, 8 user data, 16 free
    /// pages (default 0); L1,L2,... are tried in turn while there is no room
    #[argh(option, short = 'd', arg_name = "LEVEL", default = "vec![Level::default()]", from_str_fn(levels))]
    dump_level: makedumpfile::Levels,
    /// most bytes of a DUMPFILE (K, M, G, T behind it); what needs more takes the next level, or ends there, marked incomplete
    #[argh(option, short = 'L', arg_name = "SIZE", from_str_fn(makedumpfile::size))]
    size_limit: Option<u64>,
    /// write several DUMPFILEs, each with a part of the pages
    #[argh(switch)]
    split: bool,
    /// make one dump of the parts of a split one
    #[argh(switch)]
    reassemble: bool,
    /// do everything but write: the report says how large the dump would be, and memory is read and compressed for it
    #[argh(switch)]
    dry_run: bool,
    /// print the report whatever else is said of messages
    #[argh(switch)]
    show_stats: bool,
    /// of a crashed Xen, leave out the memory of guests and what Xen has free
    #[argh(switch, short = 'X')]
    exclude_guests: bool,
    /// copy VMCORE as it is if its headers make no sense (always done with /proc/vmcore)
    #[argh(switch)]
    raw_on_failure: bool,
    /// write a flattened dump, to DUMPFILE or to the standard output: a stream without going back, for a pipe
    #[argh(switch, short = 'F')]
    flatten: bool,
    /// leave out struct pages that describe only pages that are left out
    #[argh(switch, short = 'e')]
    exclude_struct_pages: bool,
    /// replace DUMPFILE if it exists
    #[argh(switch, short = 'f')]
    force: bool,
    /// write the kernel's log to FILE, or to the standard output, instead of a dump
    #[argh(switch)]
    dump_dmesg: bool,
    /// with --dump-dmesg: only what came after the last "dmesg -c"
    #[argh(switch)]
    partial_dmesg: bool,
    /// with --dump-dmesg: one JSON object a line
    #[argh(switch)]
    json: bool,
    /// of a crashed Xen, write the hypervisor's console to FILE, or to the standard output, instead of a dump
    #[argh(switch)]
    dump_xen_console: bool,
    /// worker threads (default: one for each CPU, as memory allows)
    #[argh(option, arg_name = "N", default = "0")]
    num_threads: usize,
    /// what to print, the sum of: 1 progress, 2 common messages, 4 errors, 8 debug messages, 16 the report (default 23)
    #[argh(option, arg_name = "N")]
    message_level: Option<u8>,
    /// print errors only
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// print debug messages too
    #[argh(switch, short = 'D')]
    debug: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
    #[argh(positional, hidden_help)]
    files: Vec<String>,
}

fn levels(text: &str) -> std::result::Result<Vec<Level>, String> {
    text.split(',').map(|level| level.parse().map_err(|e: Error| e.to_string())).collect()
}

/// What is printed: makedumpfile's bits.
#[derive(Clone, Copy)]
struct Messages(u8);

impl Messages {
    const PROGRESS: u8 = 1;
    const COMMON: u8 = 2;
    const ERROR: u8 = 4;
    const DEBUG: u8 = 8;
    const REPORT: u8 = 16;

    fn print(self, bit: u8, text: &str) {
        if self.0 & bit != 0 {
            eprintln!("kdump-save: {text}");
        }
    }
}

/// Runs `kdump-save ARGS`; see [`crate::error`] for the exit codes.
pub fn run(args: &[OsString]) -> ExitCode {
    if args.first().is_some_and(|word| word == "info") {
        return info::run(&args[1..]);
    }
    if args.first().is_some_and(|word| word == "unflatten") {
        return unflatten::run(&args[1..]);
    }
    let options = match getopt::parse::<Options>("kdump-save", Grammar::default(), args) {
        Ok(Outcome::Run(options, _)) => options,
        Ok(Outcome::Help(text)) => {
            print!("{text}{}", EXIT_CODES);
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("kdump-save: {e}; 'kdump-save --help' lists the options");
            return ExitCode::from(e.kind().save_code());
        }
    };
    if options.version {
        println!("kdump-save {} (codecs: zlib lzo snappy zstd)", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let default = if options.quiet { Messages::ERROR } else { 0x17 };
    let debug = if options.debug { Messages::DEBUG } else { 0 };
    let debug = debug | if options.show_stats { Messages::REPORT } else { 0 };
    let messages = Messages(options.message_level.unwrap_or(default) | debug);
    crate::sys::ignore_file_size_signal();
    match try_run(&options, messages) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            messages.print(Messages::ERROR, &e.to_string());
            ExitCode::from(e.kind().save_code())
        }
    }
}

const EXIT_CODES: &str = "
Exit codes:
  0  saved as asked
  1  another failure
  2  the command line is wrong
  3  a file can't be opened, or a directory or what the log needs is missing
  4  the input is no vmcore, or holds what breaks its format's rules
  5  the output exists
  6  no room left; the dump stays as DUMPFILE-incomplete
  7  a deadline passed
  8  saved, but with more pages than asked for
  9  saved, but marked incomplete: the vmcore is truncated, or the dump needs more than -L allows
  10 saved, but as it is: no dump could be made of the vmcore
";

fn try_run(options: &Options, messages: Messages) -> Result<u8> {
    let usage = |message: &str| Err(Error::new(Kind::Usage, message));
    if [options.zlib, options.lzo, options.snappy, options.zstd].iter().filter(|given| **given).count() > 1 {
        return usage("-c, -l, -p and -z exclude each other: a dump has one codec");
    }
    if options.elf && (options.zlib || options.lzo || options.snappy || options.zstd) {
        return usage("-E excludes -c, -l, -p and -z: an ELF core holds no compressed pages");
    }
    if options.elf && options.split {
        return usage("-E excludes --split: only kdump-compressed dumps have parts");
    }
    if (options.json || options.partial_dmesg) && !options.dump_dmesg {
        return usage("--json and --partial-dmesg need --dump-dmesg");
    }
    let form = if options.json { printk::Form::Json } else { printk::Form::Dmesg };
    let log = printk::Options { form, partial: options.partial_dmesg };
    let log = |core: &Vmcore, out: &mut dyn Write| printk::dmesg_as(core, log, out).map(|s| s.bytes);
    let text: Option<(&str, Extract<'_>)> = match (options.dump_dmesg, options.dump_xen_console) {
        (true, true) => return usage("--dump-dmesg and --dump-xen-console exclude each other"),
        (true, false) => Some(("log", &log)),
        (false, true) => Some(("console", &console)),
        (false, false) => None,
    };
    let Some((input, outputs)) = options.files.split_first() else { return usage("give the VMCORE to read") };
    if options.flatten && (options.split || options.dump_level.len() > 1) {
        return usage("-F takes one level and no --split: a stream can't be begun again, and goes to one place");
    }
    match outputs {
        _ if options.reassemble => return reassemble(input, outputs, options, messages),
        [] if text.is_none() && !options.flatten && !options.dry_run => return usage("give the DUMPFILE to write"),
        [] | [_] if options.split => return usage("--split needs two DUMPFILEs or more"),
        [] | [_] => {}
        _ if !options.split || text.is_some() => return usage("more than two files given"),
        _ => {}
    }
    let mut core = match Vmcore::open(Path::new(input)) {
        Err(e)
            if e.kind() == Kind::Invalid
                && text.is_none()
                && !options.dry_run
                && (options.raw_on_failure || input == capture::VMCORE) =>
        {
            return raw(&e, Path::new(input), outputs, options, messages);
        }
        opened => opened?,
    };
    core.search_vmcoreinfo();
    describe(&core, messages);
    match (text, outputs.first()) {
        (Some((what, extract)), Some(output)) if output != "-" => {
            let mut sink = FileSink::create(Path::new(output), options.force)?;
            let bytes = extract(&core, &mut std::io::BufWriter::new(SinkWriter::new(&sink)));
            // A log that could not be read leaves nothing behind.
            let bytes = bytes.inspect_err(|_| sink.discard())?;
            sink.finish()?;
            messages.print(Messages::COMMON, &format!("{what} of {bytes} bytes saved to {output}"));
            Ok(0)
        }
        (Some((_, extract)), _) => {
            extract(&core, &mut std::io::BufWriter::new(std::io::stdout().lock()))?;
            Ok(0)
        }
        (None, _) => save(&core, options, outputs, messages),
    }
}

/// Writes one of the texts in a vmcore and returns how many bytes it has.
type Extract<'a> = &'a dyn Fn(&Vmcore, &mut dyn Write) -> Result<u64>;

fn console(core: &Vmcore, out: &mut dyn Write) -> Result<u64> {
    let text = conring::text(core)?;
    out.write_all(&text).and_then(|()| out.flush()).context(|| "write the console")?;
    Ok(text.len() as u64)
}

fn describe(core: &Vmcore, messages: Messages) {
    let release = core.vmcoreinfo().and_then(|i| i.get("OSRELEASE")).unwrap_or("of unknown release");
    if let Some(xen) = core.xen() {
        messages.print(Messages::COMMON, &xen.describe(&core.reader()));
    }
    messages.print(
        Messages::DEBUG,
        &format!("kernel {release}, {} bytes, {} CPUs with registers", core.size(), core.notes().cpus),
    );
    for segment in core.segments() {
        messages.print(Messages::DEBUG, &format!("memory {} at file offset {:#x}", segment.phys, segment.offset));
    }
}

fn reassemble(first: &str, rest: &[String], options: &Options, messages: Messages) -> Result<u8> {
    let Some((to, rest)) = rest.split_last() else {
        return Err(Error::new(Kind::Usage, "--reassemble takes the parts, then the DUMPFILE to write"));
    };
    let parts: Vec<&Path> = std::iter::once(first).chain(rest.iter().map(String::as_str)).map(Path::new).collect();
    let incomplete = kdump_join::reassemble(&parts, Path::new(to), options.force)?;
    messages.print(Messages::COMMON, &format!("saved {to}, of {} parts", parts.len()));
    Ok(incomplete.map_or(0, |why| {
        messages.print(Messages::ERROR, &format!("incomplete: {why}"));
        SAVED_INCOMPLETE
    }))
}

/// The last rung: the vmcore as it is, because of `reason`.
fn raw(reason: &Error, input: &Path, outputs: &[String], options: &Options, messages: Messages) -> Result<u8> {
    let input = FileInput::open(input)?;
    if input.size() == 0 {
        return Err(reason.clone());
    }
    let mut output = Output::create(&outputs[..outputs.len().min(1)], options.flatten, options.force)?;
    let mut copied = Copied::default();
    output.fill(&mut |sinks| {
        copied = dump::raw::copy(&input, &[], sinks[0], &|_, _| ())?;
        Ok(())
    })?;
    output.finish()?;
    messages.print(Messages::ERROR, &format!("saved as it is: {reason}"));
    let text = format!("saved {}: {}, {} pages unreadable", names(outputs), size(copied.bytes), copied.unreadable);
    messages.print(Messages::COMMON, &text);
    Ok(SAVED_RAW)
}

/// The outputs' names, for people.
fn names(outputs: &[String]) -> String {
    if outputs.is_empty() { "to the standard output".into() } else { outputs.join(", ") }
}

fn save(core: &Vmcore, options: &Options, outputs: &[String], messages: Messages) -> Result<u8> {
    let asked = [
        (options.zlib, Codec::Zlib),
        (options.lzo, Codec::Lzo),
        (options.snappy, Codec::Snappy),
        (options.zstd, Codec::Zstd),
    ];
    let codec = asked.iter().find(|(given, _)| *given).map_or(Codec::None, |(_, codec)| *codec);
    let request = Request {
        level: Level::default(),
        codec,
        format: if options.elf { Format::Elf } else { Format::Kdump },
        exclude_guests: options.exclude_guests,
        exclude_struct_pages: options.exclude_struct_pages,
        threads: options.num_threads,
    };
    let mut output = match options.dry_run {
        true => Output::Nowhere(outputs.len().max(1)),
        false => Output::create(outputs, options.flatten, options.force)?,
    };
    let last = Cell::new(Instant::now());
    let progress = |p: Progress| {
        if last.get().elapsed() >= Duration::from_secs(2) {
            last.set(Instant::now());
            let percent = (p.pages * 100).checked_div(p.total).unwrap_or(100);
            messages
                .print(Messages::PROGRESS, &format!("{percent:3} % of {} pages, {} written", p.total, size(p.bytes)));
        }
    };
    let again = |level| messages.print(Messages::ERROR, &format!("no room: trying dump level {level}"));
    let mut report = Report::default();
    let filled = output.fill(&mut |sinks| {
        let (levels, limit) = (&options.dump_level, options.size_limit);
        report = dump::save_within(core, &request, levels, limit, sinks, &again, &progress)?;
        Ok(())
    });
    filled
        .context(|| format!("dump unfinished, what was written is {} and marked incomplete", output.working_names()))?;
    output.finish()?;
    print_report(&report, options, codec, outputs, messages);
    Ok(match (&report.incomplete, report.degraded.is_empty()) {
        (Some(_), _) => SAVED_INCOMPLETE,
        (None, false) => SAVED_DEGRADED,
        (None, true) => 0,
    })
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn print_report(report: &Report, options: &Options, codec: Codec, outputs: &[String], messages: Messages) {
    for warning in &report.warnings {
        messages.print(Messages::ERROR, &format!("warning: {warning}"));
    }
    for reason in &report.degraded {
        messages.print(Messages::ERROR, &format!("wider than asked: {reason}"));
    }
    if let Some(reason) = &report.incomplete {
        messages.print(Messages::ERROR, &format!("incomplete: {reason}"));
    }
    if report.unreadable != 0 {
        let text = format!("warning: {} pages could not be read and are zero in the dump", report.unreadable);
        messages.print(Messages::ERROR, &text);
    }
    let dropped = &report.dropped;
    messages.print(
        Messages::REPORT,
        &format!(
            "{} pages: kept {}; zero {}, cache {}, cache with private data {}, user {}, free {}, poisoned {}, offline {}{}",
            report.pages,
            report.kept,
            report.zero,
            dropped.cache,
            dropped.cache_private,
            dropped.user,
            dropped.free,
            dropped.hwpoison,
            dropped.offline,
            {
                let also = [(options.exclude_guests, "of guests", dropped.guests)];
                let also = also.into_iter().chain([(options.exclude_struct_pages, "struct pages", dropped.struct_pages)]);
                also.filter(|(on, ..)| *on).map(|(_, what, n)| format!(", {what} {n}")).collect::<String>()
            }
        ),
    );
    let what = if options.dry_run { "nothing saved".into() } else { format!("saved {}", names(outputs)) };
    messages.print(
        Messages::COMMON,
        &format!(
            "{what}: {} (level {}, {}), filter {:.2} s, writing {:.2} s, {} thread(s)",
            size(report.bytes),
            report.level,
            codec.name(),
            report.filter_time.as_secs_f64(),
            report.write_time.as_secs_f64(),
            report.threads
        ),
    );
}
