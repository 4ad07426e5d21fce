//! `kdump-save info`: what dumps are.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::dump::info::Info;
use crate::error::{Context, Error, Kind, Result, SAVED_INCOMPLETE};

/// Says what dumps are: kdump-save info [--json] FILE...
///
/// FILE is a vmcore, a dump, a part of a split one, or a flattened stream, complete or not. Files that are parts of one
/// dump are described as one. The exit code is 0 if all are complete, 9 if one is not, 3 or 4 if one can't be opened or is
/// no vmcore.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// one JSON object a line
    #[argh(switch)]
    json: bool,
    #[argh(positional, hidden_help)]
    files: Vec<PathBuf>,
}

/// Runs `kdump-save info ARGS`.
pub(super) fn run(args: &[OsString]) -> ExitCode {
    let done = match getopt::parse::<Options>("kdump-save info", Grammar::default(), args) {
        Ok(Outcome::Run(options, _)) => try_run(&options),
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => Err(e),
    };
    ExitCode::from(done.unwrap_or_else(|e| told(&e)))
}

fn told(e: &Error) -> u8 {
    eprintln!("kdump-save: {e}");
    e.kind().save_code()
}

fn try_run(options: &Options) -> Result<u8> {
    if options.files.is_empty() {
        return Err(Error::new(Kind::Usage, "give the FILE to describe"));
    }
    let paths: Vec<&Path> = options.files.iter().map(PathBuf::as_path).collect();
    // Parts of one dump say more together; anything else is described one by one.
    let together = if paths.len() > 1 { Info::of(&paths).ok() } else { None };
    let described: Vec<Result<Info>> = match together {
        Some(info) => vec![Ok(info)],
        None => paths.iter().map(|path| Info::of(&[path])).collect(),
    };
    let mut code = 0;
    for (n, info) in described.into_iter().enumerate() {
        match info {
            Ok(info) => {
                let text = match (options.json, n) {
                    (true, _) => info.json() + "\n",
                    (false, 0) => info.lines(),
                    (false, _) => format!("\n{}", info.lines()),
                };
                std::io::stdout().write_all(text.as_bytes()).context(|| "write the description")?;
                if code == 0 && !info.complete {
                    code = SAVED_INCOMPLETE;
                }
            }
            Err(e) => code = told(&e),
        }
    }
    Ok(code)
}
