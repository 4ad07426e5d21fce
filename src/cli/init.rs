//! `init`: PID 1 of the crash kernel takes no options; its stages do.

use std::ffi::OsString;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::error::Kind;

/// PID 1 of the crash kernel: mounts, loads modules, saves the dump, ends the machine.
///
/// Reads /etc/kdump.conf and kdump.NAME=VALUE on the kernel command line. Does nothing unless it is PID 1.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// run one stage, as init itself does
    #[argh(option, arg_name = "NAME")]
    stage: Option<String>,
    /// where the stage 'finish' writes the outcome, and where 'save' goes on
    #[argh(option, arg_name = "DIR")]
    directory: Option<String>,
    /// the reason that the stage 'finish' writes, and why 'save' goes on
    #[argh(option, arg_name = "TEXT")]
    failure: Option<String>,
    /// the rung that the stage 'save' goes on with
    #[argh(option, arg_name = "N")]
    rung: Option<usize>,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
}

/// Runs `init ARGS`.
pub fn run(args: &[OsString]) -> ExitCode {
    // The kernel hands PID 1 every word of its command line that it does not know itself: those are not for us.
    if rustix::process::getpid().is_init() {
        return crate::init::main();
    }
    match getopt::parse::<Options>("init", Grammar::default(), args) {
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Run(options, _)) if options.version => {
            println!("init (kdumpbox) {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Outcome::Run(options, _)) => match &options.stage {
            Some(stage) => {
                crate::init::stage(stage, options.directory.as_deref(), options.failure.as_deref(), options.rung)
            }
            None => crate::init::main(),
        },
        Err(e) => {
            eprintln!("init: {e}");
            ExitCode::from(Kind::Usage.save_code())
        }
    }
}
