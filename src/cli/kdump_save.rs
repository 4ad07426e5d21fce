//! `kdump-save`: options to a request, one call, what to print.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::dump::{self, Codec, Level, Progress, Report, Request};
use crate::error::{Context, Error, Kind, Result, SAVED_DEGRADED, SAVED_INCOMPLETE};
use crate::target::Sink;
use crate::target::file::FileSink;
use crate::vmcore::{self, Vmcore};

/// Saves a crashed kernel's memory: kdump-save [OPTIONS] VMCORE DUMPFILE, or --dump-dmesg|--dump-xen-console VMCORE [FILE].
///
/// VMCORE is /proc/vmcore or a saved ELF core. DUMPFILE is written in the kdump-compressed format, as
/// DUMPFILE-incomplete until it is whole.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// compress pages with zlib
    #[argh(switch, short = 'c')]
    zlib: bool,
    /// compress pages with zstd
    #[argh(switch, short = 'z')]
    zstd: bool,
    /// what to leave out, the sum of: 1 zero pages, 2 page cache, 4 page cache with private data, 8 user data, 16 free
    /// pages (default 0)
    #[argh(option, short = 'd', arg_name = "LEVEL", default = "Level::default()", from_str_fn(level))]
    dump_level: Level,
    /// of a crashed Xen, leave out the memory of guests and what Xen has free
    #[argh(switch, short = 'X')]
    exclude_guests: bool,
    /// replace DUMPFILE if it exists
    #[argh(switch, short = 'f')]
    force: bool,
    /// write the kernel's log to FILE, or to the standard output, instead of a dump
    #[argh(switch)]
    dump_dmesg: bool,
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

fn level(text: &str) -> std::result::Result<Level, String> {
    text.parse().map_err(|e: Error| e.to_string())
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
        println!("kdump-save {} (codecs: zlib zstd)", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let default = if options.quiet { Messages::ERROR } else { 0x17 };
    let debug = if options.debug { Messages::DEBUG } else { 0 };
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
  9  saved, but marked incomplete: the vmcore is truncated
";

fn try_run(options: &Options, messages: Messages) -> Result<u8> {
    let usage = |message: &str| Err(Error::new(Kind::Usage, message));
    if options.zlib && options.zstd {
        return usage("-c and -z exclude each other");
    }
    let text: Option<(&str, Extract)> = match (options.dump_dmesg, options.dump_xen_console) {
        (true, true) => return usage("--dump-dmesg and --dump-xen-console exclude each other"),
        (true, false) => Some(("log", |core, out| vmcore::printk::dmesg(core, out).map(|s| s.bytes))),
        (false, true) => Some(("console", console)),
        (false, false) => None,
    };
    let (input, output) = match (options.files.as_slice(), text) {
        ([input, output], _) => (input, Some(output)),
        ([input], Some(_)) => (input, None),
        ([_], None) => return usage("give the DUMPFILE to write"),
        ([], _) => return usage("give the VMCORE to read"),
        _ => return usage("more than two files given"),
    };
    let core = Vmcore::open(Path::new(input))?;
    describe(&core, messages);
    match (text, output) {
        (Some((what, extract)), Some(output)) if output != "-" => {
            let mut sink = FileSink::create(Path::new(output), options.force)?;
            let mut writer = SinkWriter { sink: &sink, at: 0 };
            let bytes = extract(&core, &mut std::io::BufWriter::new(&mut writer));
            let bytes = bytes.inspect_err(|_| remove(&sink))?;
            sink.finish()?;
            messages.print(Messages::COMMON, &format!("{what} of {bytes} bytes saved to {output}"));
            Ok(0)
        }
        (Some((_, extract)), _) => {
            extract(&core, &mut std::io::BufWriter::new(std::io::stdout().lock()))?;
            Ok(0)
        }
        (None, Some(output)) => save(&core, options, Path::new(output), messages),
        (None, None) => usage("give the DUMPFILE to write"),
    }
}

/// Writes one of the texts in a vmcore and returns how many bytes it has.
type Extract = fn(&Vmcore, &mut dyn Write) -> Result<u64>;

fn console(core: &Vmcore, out: &mut dyn Write) -> Result<u64> {
    let text = vmcore::conring::text(core)?;
    out.write_all(&text).and_then(|()| out.flush()).context(|| "write the console")?;
    Ok(text.len() as u64)
}

/// A log that could not be read leaves nothing behind.
fn remove(sink: &FileSink) {
    let _ = std::fs::remove_file(sink.working_path());
}

/// A sink written from front to back.
struct SinkWriter<'a> {
    sink: &'a dyn Sink,
    at: u64,
}

impl Write for SinkWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.sink.write_at(self.at, data).map_err(|e| match e.raw_errno() {
            Some(errno) => std::io::Error::from_raw_os_error(errno),
            None => std::io::Error::other(e),
        })?;
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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

fn save(core: &Vmcore, options: &Options, output: &Path, messages: Messages) -> Result<u8> {
    let codec = match (options.zlib, options.zstd) {
        (true, _) => Codec::Zlib,
        (_, true) => Codec::Zstd,
        _ => Codec::None,
    };
    let request = Request {
        level: options.dump_level,
        codec,
        exclude_guests: options.exclude_guests,
        threads: options.num_threads,
    };
    let mut sink = FileSink::create(output, options.force)?;
    let last = Cell::new(Instant::now());
    let progress = |p: Progress| {
        if last.get().elapsed() >= Duration::from_secs(2) {
            last.set(Instant::now());
            let percent = (p.pages * 100).checked_div(p.total).unwrap_or(100);
            messages
                .print(Messages::PROGRESS, &format!("{percent:3} % of {} pages, {} written", p.total, size(p.bytes)));
        }
    };
    let report = dump::save(core, &request, &sink, &progress).context(|| {
        format!("dump unfinished, what was written is {} and marked incomplete", sink.working_path().display())
    })?;
    sink.finish()?;
    print_report(&report, options, codec, output, messages);
    Ok(match (&report.incomplete, report.degraded.is_empty()) {
        (Some(_), _) => SAVED_INCOMPLETE,
        (None, false) => SAVED_DEGRADED,
        (None, true) => 0,
    })
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn print_report(report: &Report, options: &Options, codec: Codec, output: &Path, messages: Messages) {
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
            if options.exclude_guests { format!(", of guests {}", dropped.guests) } else { String::new() }
        ),
    );
    messages.print(
        Messages::COMMON,
        &format!(
            "saved {}: {} (level {}, {}), filter {:.2} s, writing {:.2} s, {} thread(s)",
            output.display(),
            size(report.bytes),
            report.level,
            codec.name(),
            report.filter_time.as_secs_f64(),
            report.write_time.as_secs_f64(),
            report.threads
        ),
    );
}
