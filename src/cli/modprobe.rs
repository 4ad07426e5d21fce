//! `modprobe`: what the kernel runs when it misses a module (`modprobe -q -- NAME`), on what the initramfs carries.

use std::ffi::OsString;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::capture::modules::{Database, Loader};
use crate::error::{Error, Kind, Result};

/// Loads kernel modules by name or alias, each behind what it needs: modprobe [-q] NAME...
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// say nothing about modules that are not there
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(positional, hidden_help)]
    names: Vec<String>,
}

/// Runs `modprobe ARGS`. Exit code 0, or 1 if a module could not be loaded.
pub fn run(args: &[OsString]) -> ExitCode {
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((quiet, e)) => {
            // Quiet hides what is not there, as the kernel asks for many things just in case; never what fails to load.
            if !quiet || e.kind() != Kind::Missing {
                eprintln!("modprobe: {e}");
            }
            ExitCode::FAILURE
        }
    }
}

fn try_run(args: &[OsString]) -> Result<(), (bool, Error)> {
    let options = match getopt::parse::<Options>("modprobe", Grammar::default(), args) {
        Ok(Outcome::Run(options, _)) => options,
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            return Ok(());
        }
        Err(e) => return Err((false, e)),
    };
    if options.version {
        println!("modprobe (kdumpbox) {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let fail = |e| (options.quiet, e);
    if options.names.is_empty() {
        return Err(fail(Error::new(Kind::Usage, "no module given; name one, as in 'modprobe ext4'")));
    }
    let mut loader = Loader::new(Database::of_this_kernel().map_err(fail)?);
    for name in &options.names {
        loader.load(name).map_err(fail)?;
    }
    Ok(())
}
