//! `crashkernel-check parse`: what a `crashkernel=` reserves, before anyone boots with it.

use std::ffi::OsString;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::crashkernel::check::{self, rules};
use crate::crashkernel::syntax::{ARCHES, linux};
use crate::crashkernel::xen::xen;
use crate::crashkernel::{memory_size, report};
use crate::error::{Error, Kind, Result};

/// Says what crashkernel=SPEC reserves: crashkernel-check parse SPEC... [OPTIONS].
///
/// The exit code is 0 if memory is reserved, 1 if none is, 2 if it is but there is something to say, 3 if the options are
/// wrong.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// memory of the machine (64G); this machine's otherwise
    #[argh(option, arg_name = "SIZE")]
    memory: Option<String>,
    /// read it as Xen does
    #[argh(switch)]
    xen: bool,
    /// a whole command line, instead of SPEC
    #[argh(option, arg_name = "LINE")]
    cmdline: Option<String>,
    /// the release of Linux whose rules count (6.1); the newest otherwise
    #[argh(option, arg_name = "RELEASE")]
    kernel: Option<String>,
    /// the architecture whose rules count (x86_64, aarch64, ...)
    #[argh(option, arg_name = "ARCH", default = "String::from(\"x86_64\")")]
    arch: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// print nothing; the exit code tells
    #[argh(switch, short = 'q')]
    quiet: bool,
    #[argh(positional)]
    specs: Vec<String>,
}

/// Runs `crashkernel-check parse ARGS`.
///
/// # Errors
/// [`Kind::Usage`], or the machine's memory is not known.
pub fn run(args: &[OsString]) -> Result<u8> {
    let options = match getopt::parse::<Options>("crashkernel-check parse", Grammar::default(), args)? {
        Outcome::Run(options, _) => options,
        Outcome::Help(text) => {
            print!("{text}");
            return Ok(0);
        }
    };
    let usage = |text: String| Err(Error::new(Kind::Usage, text));
    let line = match (&options.cmdline, options.specs.is_empty()) {
        (Some(line), true) => line.trim_end_matches('\n').to_owned(),
        (None, false) => command_line(&options.specs),
        _ => return usage("either SPEC (crashkernel-check parse 256M) or --cmdline LINE is wanted, not both".into()),
    };
    let mut rules = rules(&check::host("/"), 0);
    if let Some(text) = &options.memory {
        let Some(ram) = memory_size(text) else { return usage(format!("--memory {text}: no size like 64G or 2048M")) };
        rules = crate::crashkernel::syntax::Rules::new(ram);
    }
    let Some(arch) = ARCHES.into_iter().find(|a| a.name == options.arch) else {
        let names = ARCHES.map(|a| a.name).join(", ");
        return usage(format!("--arch {}: not one of {names}", options.arch));
    };
    rules.arch = arch;
    rules.version = (u32::MAX, 0);
    if let Some(release) = &options.kernel {
        rules = rules.of_release(release);
        if rules.version.0 == u32::MAX {
            return usage(format!("--kernel {release}: no release like 6.1"));
        }
    }
    if rules.ram == 0 {
        return usage("how much memory this machine has is not known; say --memory SIZE".into());
    }
    let verdict = if options.xen { xen(&line, rules.ram) } else { linux(&line, &rules) };
    if options.json {
        println!("{}", report::verdict(&verdict));
    } else if !options.quiet {
        println!("memory    {}", report::mib(rules.ram));
        println!(
            "reserves  {}",
            if verdict.asked { report::describe(&verdict) } else { "nothing: not asked for".into() }
        );
        for remark in &verdict.remarks {
            print!("{}", report::mark(&line, remark));
        }
    }
    Ok(match (verdict.reservation.size, verdict.remarks.is_empty()) {
        (0, _) => 1,
        (_, true) => 0,
        (_, false) => 2,
    })
}

/// The command line of words that may lack their `crashkernel=`.
fn command_line(specs: &[String]) -> String {
    let words = specs.iter().flat_map(|s| s.split(' ')).filter(|w| !w.is_empty());
    let words = words.map(|w| if w.contains("crashkernel=") { w.to_owned() } else { format!("crashkernel={w}") });
    let line = words.collect::<Vec<_>>().join(" ");
    if line.is_empty() { "crashkernel=".into() } else { line }
}
