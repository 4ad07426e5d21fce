//! `kexec`: options to a request, one load, what to print. Options and exit codes are kexec-tools'.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use super::kexec_mode::{Action, After, Mode};
use super::{kexec_load, kexec_plan};
use crate::boot::purgatory::COM1;
use crate::error::{Error, Kind, Result};
use crate::host::{Host, parse_number, state};
use crate::load::linux::{Linux, interfaces_down};
use crate::load::{Backend, Slot};

const GRAMMAR: Grammar = Grammar {
    aliases: &[("append", "command-line"), ("ramdisk", "initrd")],
    shorts: &[('?', "help")],
    exact: &["dry-run", "dry-run-json", "root"],
};

/// Loads and starts kernels: kexec [OPTIONS] KERNEL.
///
/// Without a mode the kernel is loaded and the machine shut down into it. The last mode given wins.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
#[expect(dead_code, reason = "modes count in the order given, which argh does not keep")]
pub(super) struct Options {
    /// load KERNEL, to be started by --exec
    #[argh(switch, short = 'l')]
    pub(super) load: bool,
    /// load KERNEL as the crash kernel, to be started by a panic
    #[argh(switch, short = 'p')]
    pub(super) load_panic: bool,
    /// start the loaded kernel at once, without shutting services down
    #[argh(switch, short = 'e')]
    pub(super) exec: bool,
    /// load KERNEL and start it at once, without shutting services down
    #[argh(switch, short = 'f')]
    pub(super) force: bool,
    /// drop the loaded kernel; with --load-panic the crash kernel
    #[argh(switch, short = 'u')]
    pub(super) unload: bool,
    /// say by the exit code whether a crash kernel, or with --load the next kernel, is loaded: 1 loaded, 0 not
    #[argh(switch, short = 'S')]
    pub(super) status: bool,
    /// use kexec_file_load(2) only: the kernel checks signatures
    #[argh(switch, short = 's')]
    pub(super) kexec_file_syscall: bool,
    /// use kexec_load(2) only
    #[argh(switch, short = 'c')]
    pub(super) kexec_syscall: bool,
    /// try kexec_file_load(2), then kexec_load(2) if the kernel lacks it (default)
    #[argh(switch, short = 'a')]
    pub(super) kexec_syscall_auto: bool,
    /// the next kernel's command line (also --append)
    #[argh(option, arg_name = "TEXT")]
    pub(super) command_line: Option<String>,
    /// begin with the running kernel's command line
    #[argh(switch)]
    pub(super) reuse_cmdline: bool,
    /// initial ramdisk (also --ramdisk); several are joined
    #[argh(option, arg_name = "FILE")]
    pub(super) initrd: Vec<String>,
    /// lowest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) mem_min: Option<u64>,
    /// highest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) mem_max: Option<u64>,
    /// verify neither the kernel's own CRC when it is loaded nor the image when it is started
    #[argh(switch, short = 'i')]
    pub(super) no_checks: bool,
    /// do not take network interfaces down
    #[argh(switch, short = 'x')]
    pub(super) no_ifdown: bool,
    /// do not sync file systems
    #[argh(switch, short = 'y')]
    pub(super) no_sync: bool,
    /// type of the kernel's file: bzImage, bzImage64
    #[argh(option, short = 't', arg_name = "TYPE")]
    pub(super) r#type: Option<String>,
    /// let the purgatory speak on the serial port
    #[argh(switch)]
    pub(super) console_serial: bool,
    /// serial port for that: ttyS0, ttyS1 or an I/O port (default ttyS0)
    #[argh(option, arg_name = "PORT", default = "COM1", from_str_fn(port))]
    pub(super) serial: u16,
    /// set the serial port's speed
    #[argh(option, arg_name = "BAUD", default = "0", from_str_fn(divisor))]
    pub(super) serial_baud: u16,
    /// describe a crash kernel's memory on its command line too
    #[argh(switch)]
    pub(super) pass_memmap_cmdline: bool,
    /// do not hand EFI's runtime services over
    #[argh(switch)]
    pub(super) noefi: bool,
    /// print the bytes reserved for a crash kernel
    #[argh(switch)]
    pub(super) print_ckr_size: bool,
    /// accepted for kexec-tools' sake: the header is always ELF64
    #[argh(switch)]
    pub(super) elf64_core_headers: bool,
    /// accepted for kexec-tools' sake: the header is always ELF64
    #[argh(switch)]
    pub(super) elf32_core_headers: bool,
    /// accepted for kexec-tools' sake: the screen is always handed over as the running kernel has it
    #[argh(switch)]
    pub(super) reuse_video_type: bool,
    /// treat an ELF kernel as Linux (vmlinux): boot_params, initrd
    #[argh(switch)]
    pub(super) args_linux: bool,
    /// treat an ELF kernel as a program that takes ELF boot notes (default)
    #[argh(switch)]
    pub(super) args_elf: bool,
    /// give an ELF kernel no arguments
    #[argh(switch)]
    pub(super) args_none: bool,
    /// enter a bzImage by its 16-bit setup code, which asks the BIOS
    #[argh(switch)]
    pub(super) real_mode: bool,
    /// enter a bzImage by its 32-bit entry point
    #[argh(switch, long = "entry-32bit")]
    pub(super) entry_32bit: bool,
    /// device tree handed to a bzImage
    #[argh(option, arg_name = "FILE")]
    pub(super) dtb: Option<String>,
    /// multiboot module: a file and its arguments (repeatable, in order)
    #[argh(option, arg_name = "\"FILE ARGS\"")]
    pub(super) module: Vec<String>,
    /// load this hypervisor, with KERNEL as its dom0; the command line is "XEN_ARGS -- DOM0_ARGS"
    #[argh(option, arg_name = "XEN")]
    pub(super) vmm: Option<String>,
    /// reset the VGA to text mode before the next kernel
    #[argh(switch)]
    pub(super) reset_vga: bool,
    /// let the purgatory speak on the VGA screen
    #[argh(switch)]
    pub(super) console_vga: bool,
    /// let the kernel keep a crash kernel's elfcorehdr up to date by itself (done anyway where it can)
    #[argh(switch)]
    pub(super) hotplug: bool,
    /// with kexec_file_load: do not use CMA for segments
    #[argh(switch)]
    pub(super) no_cma: bool,
    /// with kexec_file_load: hand the running kernel's device tree on
    #[argh(switch)]
    pub(super) force_dtb: bool,
    /// load an image that can jump back to this kernel; needs --mem-max and kexec_load
    #[argh(switch)]
    pub(super) load_preserve_context: bool,
    /// load the helper that jumps back; needs --entry
    #[argh(switch)]
    pub(super) load_jump_back_helper: bool,
    /// address to jump to, for --load-jump-back-helper
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) entry: Option<u64>,
    /// print what would be loaded and where; change nothing
    #[argh(switch)]
    pub(super) dry_run: bool,
    /// the same as JSON (also --dry-run=json)
    #[argh(switch)]
    pub(super) dry_run_json: bool,
    /// read the machine's /proc and /sys below DIR, with --dry-run
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    pub(super) root: String,
    /// print what is loaded and where
    #[argh(switch, short = 'd')]
    pub(super) debug: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    pub(super) version: bool,
    #[argh(positional, hidden_help)]
    pub(super) kernel: Vec<String>,
}

fn address(text: &str) -> std::result::Result<u64, String> {
    parse_number(text).ok_or_else(|| format!("'{text}' is no address"))
}

fn port(text: &str) -> std::result::Result<u16, String> {
    match text {
        "ttyS0" => Ok(COM1),
        "ttyS1" => Ok(0x2f8),
        _ => {
            let hex = u16::from_str_radix(text.trim_start_matches("0x"), 16).ok().filter(|p| *p != 0);
            hex.ok_or_else(|| format!("'{text}' is neither ttyS0, ttyS1 nor an I/O port in hexadecimal"))
        }
    }
}

fn divisor(text: &str) -> std::result::Result<u16, String> {
    let baud: u32 = text.parse().map_err(|_| format!("'{text}' is no speed"))?;
    if !(9600..=115_200).contains(&baud) || 115_200 % baud != 0 {
        return Err(format!("speed {baud} is not 115200 divided by a whole number up to 12"));
    }
    Ok((115_200 / baud) as u16)
}

/// Runs `kexec ARGS` with kexec-tools' exit codes.
pub fn run(args: &[OsString]) -> ExitCode {
    // argh has no options with an optional value.
    let json = |a: &OsString| if a == "--dry-run=json" { OsString::from("--dry-run-json") } else { a.clone() };
    let args: Vec<OsString> = args.iter().map(json).collect();
    match try_run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("kexec: {e}");
            ExitCode::from(e.kind().kexec_code())
        }
    }
}

fn try_run(args: &[OsString]) -> Result<u8> {
    let (options, given) = match getopt::parse::<Options>("kexec", GRAMMAR, args)? {
        Outcome::Run(options, parsed) => {
            for name in parsed.overridden.iter().filter(|n| *n != "initrd") {
                eprintln!("kexec: --{name} was given more than once; the last counts");
            }
            (options, parsed.given)
        }
        Outcome::Help(text) => {
            print!("{text}");
            return Ok(0);
        }
    };
    if options.version {
        println!("kexec (kdumpbox {}), compatible with kexec-tools 2.0.32", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let host = Host::new(&options.root);
    if options.print_ckr_size {
        println!("{}", state::crash_size(&host)?.unwrap_or(0));
        return Ok(0);
    }
    let mode = Mode::from_given(given.iter().map(String::as_str), !options.kernel.is_empty());
    let dry_run = options.dry_run || options.dry_run_json;
    if !host.is_live() && !dry_run {
        return Err(Error::new(Kind::Usage, "--root goes with --dry-run: only the running machine can be changed"));
    }
    let mut backend = Linux::new(host.clone(), mode.syscall);
    match mode.action {
        Action::Status => return status(&backend, mode.slot),
        Action::Unload if dry_run => println!("would unload the {}", kexec_plan::slot_name(mode.slot)),
        Action::Unload => backend.unload(mode.slot)?,
        Action::Exec => {
            if !options.kernel.is_empty() {
                eprintln!("kexec: --exec starts what is loaded; '{}' is not loaded now", options.kernel.join(" "));
            }
            exec(&mut backend, &host, &options, dry_run)?;
        }
        Action::Load(after) => {
            kexec_load::load(&mut backend, &host, &options, mode, dry_run)?;
            match after {
                After::Rest => {}
                _ if dry_run => println!("would start it then"),
                After::Exec => exec(&mut backend, &host, &options, dry_run)?,
                After::Shutdown => shutdown()?,
            }
        }
    }
    Ok(0)
}

fn status(backend: &dyn Backend, slot: Slot) -> Result<u8> {
    match backend.loaded(slot)? {
        Some(loaded) => Ok(u8::from(loaded)),
        None => Err(Error::new(Kind::System, "the running kernel has no kexec: /sys/kernel/kexec_loaded is missing")),
    }
}

/// Everything is known to work before the first side effect.
fn exec(backend: &mut dyn Backend, host: &Host, options: &Options, dry_run: bool) -> Result<()> {
    if backend.loaded(Slot::Next)? != Some(true) {
        return Err(Error::new(Kind::NotLoaded, "nothing has been loaded; load a kernel with 'kexec -l' first"));
    }
    if dry_run {
        println!("would start the loaded kernel");
        return Ok(());
    }
    if !options.no_sync {
        rustix::fs::sync();
    }
    if !options.no_ifdown
        && let Err(e) = interfaces_down(host)
    {
        eprintln!("kexec: {e}; going on");
    }
    backend.exec()
}

/// Hands over to the service manager, which starts the loaded kernel at the end.
fn shutdown() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let places = ["/sbin/shutdown", "/usr/sbin/shutdown", "/etc/shutdown", "/bin/shutdown"];
    let Some(program) = places.iter().find(|p| Path::new(p).exists()) else {
        return Err(Error::new(
            Kind::Missing,
            "the kernel is loaded, but there is no shutdown program; use 'kexec -e'",
        ));
    };
    let e = std::process::Command::new(program).args(["-r", "now"]).exec();
    Err(Error::io(&e, format!("run {program}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_their_rules() {
        assert_eq!((address("0x100"), address("4096")), (Ok(256), Ok(4096)));
        assert_eq!((port("ttyS1"), port("0x3e8"), port("3f8")), (Ok(0x2f8), Ok(0x3e8), Ok(0x3f8)));
        assert_eq!((divisor("115200"), divisor("9600")), (Ok(1), Ok(12)));
        for bad in [divisor("1234").is_err(), divisor("300").is_err(), port("ttyS9").is_err(), address("zz").is_err()] {
            assert!(bad);
        }
    }
}
