//! `kdump-initramfs`: options to a request, one call, the figures.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use crate::capture::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::initramfs::build::{self, Compression, Image};
use crate::initramfs::closure::{self, Closure, PORTABLE_DRIVERS, Tree, Wanted};

/// Builds the minimal crash initramfs: our binary, kdump.conf and the modules that reach the target.
///
/// The kernel's modules are looked for in /lib/modules/RELEASE, or in the directory given; it needs no depmod.
/// Boot the image with rootfstype=ramfs: otherwise the kernel caps it at half of its memory.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// the crash kernel's release (default: the name of --module-dir, or the running kernel's release)
    #[argh(option, arg_name = "RELEASE")]
    kernel_release: Option<String>,
    /// directory with that kernel's modules (default: /lib/modules/RELEASE)
    #[argh(option, arg_name = "DIR")]
    module_dir: Option<PathBuf>,
    /// where the dump goes: TYPE:DEVICE, as in ext4:/dev/vda, xfs:UUID=... or ext4:LABEL=...
    #[argh(option, arg_name = "TARGET")]
    target: Option<String>,
    /// kdump.conf to put in; --target adds its line to it
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// only these drivers and what they need, separated by commas (default: those of common virtual machines)
    #[argh(option, arg_name = "LIST")]
    drivers: Option<String>,
    /// another file to put in, under its own path or under PATH
    #[argh(option, arg_name = "FILE[:PATH]")]
    add: Vec<String>,
    /// packed (default: least memory, any kernel), zstd (smallest file, Linux 5.9 or newer), gzip or none
    #[argh(option, arg_name = "METHOD", default = "String::from(\"packed\")")]
    compress: String,
    /// the binary to put in (default: this one)
    #[argh(option, arg_name = "FILE")]
    binary: Option<PathBuf>,
    /// file to write
    #[argh(option, short = 'o', arg_name = "FILE")]
    output: Option<PathBuf>,
    /// print the modules that go in
    #[argh(switch)]
    verbose: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
}

/// Runs `kdump-initramfs ARGS`. Exit codes as those of `kdump-save`.
pub fn run(args: &[OsString]) -> ExitCode {
    let options = match getopt::parse::<Options>("kdump-initramfs", Grammar::default(), args) {
        Ok(Outcome::Run(options, _)) => options,
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => return complain(&e),
    };
    if options.version {
        println!("kdump-initramfs (kdumpbox) {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match try_run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => complain(&e),
    }
}

fn complain(e: &Error) -> ExitCode {
    eprintln!("kdump-initramfs: {e}");
    ExitCode::from(e.kind().save_code())
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

fn try_run(options: &Options) -> Result<()> {
    let output = options.output.as_deref().ok_or_else(|| usage("give the file to write: --output FILE"))?;
    let compression = match options.compress.as_str() {
        "packed" => Compression::Packed,
        "zstd" => Compression::Zstd,
        "gzip" => Compression::Gzip,
        "none" => Compression::None,
        other => return Err(usage(format!("--compress {other}: there is packed, zstd, gzip and none"))),
    };
    let (text, config) = configuration(options)?;
    let (dir, release) = kernel(options)?;
    let tree = Tree::scan(&dir, &release)?;
    let closure = modules(options, &tree, &config)?;
    let files = options.add.iter().map(|a| added(a)).collect::<Result<Vec<_>>>()?;
    let binary = options.binary.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let request = build::Request {
        binary: &binary,
        release: &release,
        tree: &tree,
        closure: &closure,
        config: &text,
        files: &files,
        compression,
    };
    let image = build::build(&request)?;
    write(output, &image.bytes)?;
    report(options, output, &image, &closure);
    Ok(())
}

/// The text that goes in and what it means; a line that `init` would only warn of is an error here, where there is somebody to mend it.
fn configuration(options: &Options) -> Result<(String, Config)> {
    let mut text = match &options.config {
        Some(path) => std::fs::read_to_string(path)
            .context(|| format!("read the configuration {}", path.display()))
            .map_err(|e| e.with_kind(Kind::Open))?,
        None => String::new(),
    };
    if let Some(target) = &options.target {
        let rule = || usage(format!("--target {target}: write TYPE:DEVICE, as in ext4:/dev/vda"));
        let (fs, device) = target.split_once(':').ok_or_else(rule)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{fs} {device}\n"));
    }
    let config = Config::parse(&text, "");
    if let Some(warning) = config.warnings.first() {
        return Err(Error::new(Kind::Invalid, warning.clone()));
    }
    if config.target.is_none() {
        return Err(usage("no target: give --target TYPE:DEVICE, or --config with a line such as 'ext4 /dev/vda1'"));
    }
    Ok((text, config))
}

fn kernel(options: &Options) -> Result<(PathBuf, String)> {
    let name = |dir: &Path| dir.file_name().map(|n| n.to_string_lossy().into_owned());
    let release = match (&options.kernel_release, &options.module_dir) {
        (Some(release), _) => release.clone(),
        (None, Some(dir)) => name(dir).ok_or_else(|| usage(format!("{}: give --kernel-release too", dir.display())))?,
        (None, None) => rustix::system::uname().release().to_string_lossy().into_owned(),
    };
    if release.contains('/') || release.is_empty() {
        return Err(usage(format!("'{release}' is no kernel release; 'uname -r' prints one")));
    }
    let dir = options.module_dir.clone().unwrap_or_else(|| Path::new("/lib/modules").join(&release));
    Ok((dir, release))
}

fn modules(options: &Options, tree: &Tree, config: &Config) -> Result<Closure> {
    let list = options.drivers.as_deref().unwrap_or_default();
    let drivers: Vec<String> = list.split([',', ' ']).filter(|d| !d.is_empty()).map(str::to_owned).collect();
    let file_systems: Vec<String> = config.target.iter().map(|t| t.fs.clone()).collect();
    let optional = if options.drivers.is_some() { &[][..] } else { PORTABLE_DRIVERS };
    closure::close(tree, Wanted { drivers: &drivers, optional, file_systems: &file_systems })
}

fn added(word: &str) -> Result<(PathBuf, String)> {
    let (from, to) = word.split_once(':').unwrap_or((word, word));
    if !to.starts_with('/') || to.split('/').any(|s| s == "..") || to.ends_with('/') {
        return Err(usage(format!("--add {word}: the path in the image must be absolute and name a file")));
    }
    Ok((from.into(), to.into()))
}

/// Beside the output first, so that a full disk leaves no half image under its name.
fn write(output: &Path, bytes: &[u8]) -> Result<()> {
    let mut working = output.as_os_str().to_owned();
    working.push(".new");
    let written = std::fs::write(&working, bytes).and_then(|()| std::fs::rename(&working, output));
    if written.is_err() {
        // Nothing of ours stays behind; the first error is the one to tell.
        let _ = std::fs::remove_file(&working);
    }
    written.context(|| format!("write {}", output.display()))
}

fn report(options: &Options, output: &Path, image: &Image, closure: &Closure) {
    for name in closure.absent.iter().filter(|n| n.starts_with("fs-")) {
        eprintln!("kdump-initramfs: warning: no module {name} and no modules.builtin: it must be compiled in");
    }
    if options.verbose {
        for module in &closure.modules {
            println!("module {}", module.path);
        }
        for name in &closure.absent {
            println!("absent {name}");
        }
    }
    println!(
        "{}: {} bytes, archive {}: binary {}, {} modules {}",
        output.display(),
        image.bytes.len(),
        image.unpacked,
        image.binary,
        closure.modules.len(),
        image.modules
    );
}
