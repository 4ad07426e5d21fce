//! `crashkernel-check`: findings, one a line, and an exit code: 0 ready, 1 not ready, 2 warnings only, 3 usage.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::crashkernel::chain::Named;
use crate::crashkernel::check::{self, Report};
use crate::crashkernel::report;
use crate::error::{Kind, Result};

/// Says whether this machine would leave a dump if it crashed now: crashkernel-check [OPTIONS].
///
/// Also: crashkernel-check parse SPEC... [OPTIONS] says what crashkernel=SPEC reserves.
/// crashkernel-check estimate [OPTIONS] says how much to reserve.
/// The exit code is 0 if it is ready, 1 if not, 2 if there are only warnings, 3 if the options are wrong.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// read the machine's /proc and /sys below DIR, a recording or an unpacked sosreport
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    root: String,
    /// the crash kernel that is loaded; otherwise looked for where it usually is
    #[argh(option, arg_name = "FILE")]
    kernel: Option<PathBuf>,
    /// its initramfs, likewise
    #[argh(option, arg_name = "FILE")]
    initrd: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// print nothing; the exit code tells
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
}

/// Runs `crashkernel-check ARGS`.
pub fn run(args: &[OsString]) -> ExitCode {
    let done = match args.split_first() {
        Some((word, rest)) if word == "parse" => super::crashkernel_parse::run(rest),
        Some((word, rest)) if word == "estimate" => super::crashkernel_estimate::run(rest),
        Some((word, rest)) if word == "crash-here" => crate::crashkernel::measure::crash_here(rest),
        _ => try_run(args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("crashkernel-check: {e}");
            ExitCode::from(if e.kind() == Kind::Usage { 3 } else { 1 })
        }
    }
}

fn try_run(args: &[OsString]) -> Result<u8> {
    let options = match getopt::parse::<Options>("crashkernel-check", Grammar::default(), args)? {
        Outcome::Run(options, _) => options,
        Outcome::Help(text) => {
            print!("{text}");
            return Ok(0);
        }
    };
    if options.version {
        println!("crashkernel-check (kdumpbox {})", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let named = Named { kernel: options.kernel, initrd: options.initrd };
    let report: Report = check::check(&check::host(&options.root), &named)?;
    if options.json {
        print!("{}", report.json());
    } else if !options.quiet {
        print!("{}", report::human(&report.findings, std::io::stdout().is_terminal()));
    }
    Ok(report::worst(&report.findings).code())
}
