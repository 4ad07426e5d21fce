//! `vmcore-dmesg`: kexec-tools' program of that name, its text and its exit codes.

use std::ffi::OsString;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::error::{Error, Kind, Result};
use crate::vmcore::{Vmcore, printk};

/// Prints the log of a crashed kernel: vmcore-dmesg VMCORE.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// one JSON object a line
    #[argh(switch)]
    json: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
    #[argh(positional, hidden_help)]
    files: Vec<PathBuf>,
}

/// Runs `vmcore-dmesg ARGS`. Exit code 0; 1 for a wrong command line, 2 for a file that can't be opened, 4 for one that
/// is no vmcore, 50 if it lacks what the log needs, 54 if the log could not be written.
pub fn run(args: &[OsString]) -> ExitCode {
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, e)) => {
            eprintln!("vmcore-dmesg: {e}");
            ExitCode::from(code)
        }
    }
}

fn try_run(args: &[OsString]) -> Result<(), (u8, Error)> {
    let usage = |e| (1, e);
    let options = match getopt::parse::<Options>("vmcore-dmesg", Grammar::default(), args).map_err(usage)? {
        Outcome::Run(options, _) => options,
        Outcome::Help(text) => {
            print!("{text}");
            return Ok(());
        }
    };
    if options.version {
        println!("vmcore-dmesg {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let [file] = options.files.as_slice() else {
        return Err(usage(Error::new(Kind::Usage, "usage: vmcore-dmesg <kernel core file>")));
    };
    let core = Vmcore::open(file).map_err(|e| (if e.kind() == Kind::Open { 2 } else { 4 }, e))?;
    let form = if options.json { printk::Form::Json } else { printk::Form::VmcoreDmesg };
    let log = printk::Options { form, partial: false };
    let done = printk::dmesg_as(&core, log, &mut BufWriter::new(std::io::stdout().lock()));
    done.map(drop).map_err(|e| (if matches!(e.kind(), Kind::Missing | Kind::Invalid) { 50 } else { 54 }, e))
}
