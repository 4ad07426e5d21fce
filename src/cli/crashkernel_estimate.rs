//! `crashkernel-check estimate`: how much memory a crash kernel and its initramfs need.

use std::ffi::OsString;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::crashkernel::check::{self, rules};
use crate::crashkernel::estimate::{defaults, estimate};
use crate::crashkernel::facts::release;
use crate::crashkernel::measure::{Pair, smallest};
use crate::crashkernel::memory_size;
use crate::crashkernel::pieces::Piece;
use crate::error::{Error, Kind, Result};
use crate::mem::MIB;

/// Says how much memory to reserve for a crash kernel: crashkernel-check estimate [OPTIONS].
///
/// The sum is made for the command line that kexec -p is given in the README: nr_cpus=1 and rootfstype=ramfs.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// the crash kernel; otherwise the running kernel's own file
    #[argh(option, arg_name = "FILE")]
    kernel: Option<PathBuf>,
    /// its initramfs; otherwise the one found where it usually is
    #[argh(option, arg_name = "FILE")]
    initrd: Option<PathBuf>,
    /// memory of the machine that crashes (64G); this machine's otherwise
    #[argh(option, arg_name = "SIZE")]
    memory: Option<String>,
    /// how many CPUs the crash kernel starts (nr_cpus=)
    #[argh(option, arg_name = "N", default = "1")]
    cpus: u64,
    /// read the machine's /proc, /sys and /boot below DIR
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    root: String,
    /// boot both in QEMU, crash, and find the smallest reservation that captured
    #[argh(switch)]
    measure: bool,
    /// more words for the crash kernel's command line, with --measure
    #[argh(option, arg_name = "WORDS", default = "String::new()")]
    append: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs `crashkernel-check estimate ARGS`.
///
/// # Errors
/// [`Kind::Usage`]; a file that can't be found or read.
pub fn run(args: &[OsString]) -> Result<u8> {
    let options = match getopt::parse::<Options>("crashkernel-check estimate", Grammar::default(), args)? {
        Outcome::Run(options, _) => options,
        Outcome::Help(text) => {
            print!("{text}");
            return Ok(0);
        }
    };
    let host = check::host(&options.root);
    let release = release(&host);
    let mut rules = rules(&host, 0);
    if let Some(text) = &options.memory {
        let Some(ram) = memory_size(text) else {
            return Err(Error::new(Kind::Usage, format!("--memory {text}: no size like 64G or 2048M")));
        };
        rules = crate::crashkernel::syntax::Rules::new(ram);
    }
    let piece = |named: Option<PathBuf>, usual: Option<Piece>, option: &str| match named {
        Some(path) => Piece::at(path.clone())
            .ok_or_else(|| Error::new(Kind::Open, format!("--{option} {}: there is no such file", path.display()))),
        None => usual.ok_or_else(|| {
            Error::new(Kind::Open, format!("nothing for --{option} is where it usually is; say --{option} FILE"))
        }),
    };
    let kernel = piece(options.kernel, Piece::kernel(&host, &release), "kernel")?;
    let initramfs = piece(options.initrd, Piece::initramfs(&host, &release), "initrd")?;
    let archive = initramfs.archive()?;
    let sum = estimate(&kernel.image()?, &archive, options.cpus, rules.ram);
    let mut measured = None;
    if options.measure {
        let (kernel, initramfs, append) = (&kernel.path, &initramfs.path, options.append.as_str());
        let pair = Pair { kernel, initramfs, ours: archive.ours, append };
        let mut tell = |bytes, captured| {
            eprintln!("crashkernel={}M {}", bytes / MIB, if captured { "captured" } else { "did not capture" });
        };
        measured = Some(smallest(&pair, sum.smallest, &mut tell)?);
    }
    let defaults = defaults(&rules);
    if options.json {
        print!("{}", sum.json(&defaults, measured));
    } else {
        println!("kernel     {}", kernel.path.display());
        println!("initramfs  {}", initramfs.path.display());
        print!("{}", sum.human(&defaults));
        if let Some(bytes) = measured {
            println!("measured: crashkernel={}M is the smallest that captured", bytes / MIB);
        }
    }
    Ok(0)
}
