//! `crashkernel-check`: findings, one a line, and an exit code: 0 ready, 1 not ready, 2 warnings only, 3 usage.

use std::ffi::OsString;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::crashkernel::check::{Severity, check};
use crate::error::{Kind, Result};
use crate::host::Host;

/// Says whether this machine would leave a dump if it crashed now: crashkernel-check [OPTIONS].
///
/// The exit code is 0 if it is ready, 1 if not, 2 if there are only warnings, 3 if the options are wrong.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// read the machine's /proc and /sys below DIR
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    root: String,
    /// print nothing; the exit code tells
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
}

/// Runs `crashkernel-check ARGS`.
pub fn run(args: &[OsString]) -> ExitCode {
    match try_run(args) {
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
    let findings = check(&Host::new(&options.root))?;
    if !options.quiet {
        for finding in &findings {
            println!("{finding}");
        }
    }
    Ok(match findings.iter().map(|f| f.severity).max() {
        Some(Severity::Error) => 1,
        Some(Severity::Warning) => 2,
        _ => 0,
    })
}
