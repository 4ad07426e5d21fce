//! The binary under its own name: runs an applet, lists them, makes their links.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::error::{Context, Error, Kind, Result};

/// kexec, kdump-save and crashkernel-check in one binary.
///
/// Runs the applet whose name is the first argument: kdumpbox APPLET [ARGUMENTS].
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// print the names of the applets
    #[argh(switch)]
    list: bool,
    /// make a symbolic link for every applet in this directory
    #[argh(option, arg_name = "DIR")]
    install: Option<String>,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
    #[argh(positional, hidden_help)]
    applet: Vec<String>,
}

/// Runs `kdumpbox ARGS`. Exit code 0, or 1 with a sentence on stderr.
pub fn run(args: &[OsString]) -> ExitCode {
    if let Some((first, rest)) = args.split_first()
        && let Some(applet) = crate::find(first)
    {
        return (applet.run)(rest);
    }
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kdumpbox: {e}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(args: &[OsString]) -> Result<()> {
    let options = match getopt::parse::<Options>("kdumpbox", Grammar::default(), args)? {
        Outcome::Run(options, _) => options,
        Outcome::Help(text) => {
            print!("{text}{}", applet_list());
            return Ok(());
        }
    };
    if options.version {
        println!("kdumpbox {}", env!("CARGO_PKG_VERSION"));
    } else if options.list {
        for applet in crate::APPLETS {
            println!("{}", applet.name);
        }
    } else if let Some(dir) = options.install {
        install(Path::new(&dir))?;
    } else {
        let asked = match options.applet.first() {
            Some(name) => format!("there is no applet '{name}'"),
            None => "no applet given".to_owned(),
        };
        return Err(Error::new(Kind::Usage, format!("{asked}; 'kdumpbox --list' names them")));
    }
    Ok(())
}

fn applet_list() -> String {
    let lines: Vec<String> = crate::APPLETS.iter().map(|a| format!("  {:<18}{}\n", a.name, a.about)).collect();
    format!("\nApplets:\n{}", lines.concat())
}

/// Links every applet's name in `dir` to this binary; a link that is there is replaced, any other file is not.
fn install(dir: &Path) -> Result<()> {
    let binary = std::env::current_exe().context(|| "find this binary")?;
    for applet in crate::APPLETS {
        let link = dir.join(applet.name);
        if link.is_symlink() {
            std::fs::remove_file(&link).context(|| format!("replace {}", link.display()))?;
        }
        std::os::unix::fs::symlink(&binary, &link).context(|| format!("make the link {}", link.display()))?;
    }
    Ok(())
}
