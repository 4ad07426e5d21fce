//! `kexec`: options to a request, one load, what to print. Options and exit codes are kexec-tools'.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use super::kexec_mode::{Action, After, Mode};
use super::kexec_plan;
use crate::boot::command_line;
use crate::boot::linux::{self, Plan, Request};
use crate::boot::purgatory::{COM1, Settings};
use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, parse_number, state};
use crate::image::{self, BzImage, Kernel, Sniffed};
use crate::load::linux::{Files, Linux, Syscall, falls_back, interfaces_down};
use crate::load::{Backend, Slot};
use crate::mem::{Bytes, Range};

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
struct Options {
    /// load KERNEL, to be started by --exec
    #[argh(switch, short = 'l')]
    load: bool,
    /// load KERNEL as the crash kernel, to be started by a panic
    #[argh(switch, short = 'p')]
    load_panic: bool,
    /// start the loaded kernel at once, without shutting services down
    #[argh(switch, short = 'e')]
    exec: bool,
    /// load KERNEL and start it at once, without shutting services down
    #[argh(switch, short = 'f')]
    force: bool,
    /// drop the loaded kernel; with --load-panic the crash kernel
    #[argh(switch, short = 'u')]
    unload: bool,
    /// say by the exit code whether a crash kernel, or with --load the next kernel, is loaded: 1 loaded, 0 not
    #[argh(switch, short = 'S')]
    status: bool,
    /// use kexec_file_load(2) only: the kernel checks signatures
    #[argh(switch, short = 's')]
    kexec_file_syscall: bool,
    /// use kexec_load(2) only
    #[argh(switch, short = 'c')]
    kexec_syscall: bool,
    /// try kexec_file_load(2), then kexec_load(2) if the kernel lacks it (default)
    #[argh(switch, short = 'a')]
    kexec_syscall_auto: bool,
    /// the next kernel's command line (also --append)
    #[argh(option, arg_name = "TEXT")]
    command_line: Option<String>,
    /// begin with the running kernel's command line
    #[argh(switch)]
    reuse_cmdline: bool,
    /// initial ramdisk (also --ramdisk); several are joined
    #[argh(option, arg_name = "FILE")]
    initrd: Vec<String>,
    /// lowest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    mem_min: Option<u64>,
    /// highest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    mem_max: Option<u64>,
    /// verify neither the kernel's own CRC when it is loaded nor the image when it is started
    #[argh(switch, short = 'i')]
    no_checks: bool,
    /// do not take network interfaces down
    #[argh(switch, short = 'x')]
    no_ifdown: bool,
    /// do not sync file systems
    #[argh(switch, short = 'y')]
    no_sync: bool,
    /// type of the kernel's file: bzImage, bzImage64
    #[argh(option, short = 't', arg_name = "TYPE")]
    r#type: Option<String>,
    /// let the purgatory speak on the serial port
    #[argh(switch)]
    console_serial: bool,
    /// serial port for that: ttyS0, ttyS1 or an I/O port (default ttyS0)
    #[argh(option, arg_name = "PORT", default = "COM1", from_str_fn(port))]
    serial: u16,
    /// set the serial port's speed
    #[argh(option, arg_name = "BAUD", default = "0", from_str_fn(divisor))]
    serial_baud: u16,
    /// describe a crash kernel's memory on its command line too
    #[argh(switch)]
    pass_memmap_cmdline: bool,
    /// do not hand EFI's runtime services over
    #[argh(switch)]
    noefi: bool,
    /// print the bytes reserved for a crash kernel
    #[argh(switch)]
    print_ckr_size: bool,
    /// accepted for kexec-tools' sake: the header is always ELF64
    #[argh(switch)]
    elf64_core_headers: bool,
    /// accepted for kexec-tools' sake: the header is always ELF64
    #[argh(switch)]
    elf32_core_headers: bool,
    /// accepted for kexec-tools' sake: the screen is always handed over as the running kernel has it
    #[argh(switch)]
    reuse_video_type: bool,
    /// accepted for kexec-tools' sake: a bzImage is Linux
    #[argh(switch)]
    args_linux: bool,
    /// print what would be loaded and where; change nothing
    #[argh(switch)]
    dry_run: bool,
    /// the same as JSON (also --dry-run=json)
    #[argh(switch)]
    dry_run_json: bool,
    /// read the machine's /proc and /sys below DIR, with --dry-run
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    root: String,
    /// print what is loaded and where
    #[argh(switch, short = 'd')]
    debug: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
    #[argh(positional, hidden_help)]
    kernel: Vec<String>,
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
            load(&mut backend, &host, &options, mode, dry_run)?;
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

/// What the user named, read and understood.
struct Input {
    path: String,
    /// The file's bytes, if it had to be unpacked.
    unpacked: Option<Bytes>,
    kernel: BzImage,
    command_line: String,
}

fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|e| Error::io(&e, format!("cannot open {path}")).with_kind(Kind::Open))
}

fn read(path: &str) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let len = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1));
    std::io::Read::read_to_end(&mut file, &mut bytes)
        .map_err(|e| Error::io(&e, format!("cannot read {path}")).with_kind(Kind::Open))?;
    Ok(bytes)
}

fn input(options: &Options, host: &Host, mode: Mode) -> Result<Input> {
    if let Some(kind) = options.r#type.as_deref().filter(|t| !["bzImage", "bzImage64"].contains(t)) {
        return Err(Error::new(
            Kind::Invalid,
            format!("unsupported kernel type '{kind}'; bzImage and bzImage64 are known"),
        ));
    }
    let Some(path) = options.kernel.first() else {
        return Err(Error::new(Kind::Invalid, "no kernel specified; name the kernel to load (kexec --help)"));
    };
    for (given, name) in [
        (options.args_linux, "args-linux"),
        (options.elf32_core_headers, "elf32-core-headers"),
        (options.elf64_core_headers, "elf64-core-headers"),
        (options.reuse_video_type, "reuse-video-type"),
    ] {
        if given {
            eprintln!("kexec: --{name} has no effect here");
        }
    }
    let Sniffed { kernel: Kernel::BzImage(kernel), bytes, was_packed } =
        image::sniff(read(path)?).context(|| path.clone())?;
    if !options.no_checks {
        kernel.check_sum().context(|| path.clone())?;
    }
    let running = host.text("proc/cmdline")?.unwrap_or_default();
    let command_line = command_line::reuse(
        options.reuse_cmdline.then_some(running.as_str()),
        options.command_line.as_deref().unwrap_or_default(),
        mode.slot == Slot::Crash,
    );
    let added = if mode.syscall == Syscall::File { linux::FILE_CALL_ADDS } else { 0 };
    command_line::check(&command_line, added, &kernel)?;
    Ok(Input { path: path.clone(), unpacked: was_packed.then_some(bytes), kernel: *kernel, command_line })
}

fn load(backend: &mut Linux, host: &Host, options: &Options, mode: Mode, dry_run: bool) -> Result<()> {
    let input = input(options, host, mode)?;
    for path in &options.initrd {
        open(path)?;
    }
    if mode.slot == Slot::Crash && host.is_live() && state::crash_size(host)?.unwrap_or(0) == 0 {
        return Err(linux::no_reservation());
    }
    if dry_run {
        let plan = if mode.syscall == Syscall::File { None } else { Some(plan(backend, options, mode, &input)?) };
        let shown = kexec_plan::Shown {
            kernel: &input.path,
            initrds: &options.initrd,
            command_line: &input.command_line,
            slot: mode.slot,
            syscall: mode.syscall,
            plan: plan.as_ref(),
        };
        print!("{}", if options.dry_run_json { shown.json() } else { shown.human() });
        return Ok(());
    }
    let by_segments = |backend: &mut Linux| {
        let plan = plan(backend, options, mode, &input)?;
        if options.debug {
            eprint!("{}", kexec_plan::human(&plan));
        }
        backend.load(mode.slot, &plan.image)
    };
    let by_file = |backend: &Linux| {
        let files = files(options, &input)?;
        backend.load_files(mode.slot, &files)
    };
    match mode.syscall {
        Syscall::Segments => by_segments(backend),
        Syscall::File => by_file(backend),
        Syscall::Auto => match by_file(backend) {
            Err(first) if falls_back(&first) => {
                by_segments(backend).map_err(|second| second.context(format!("{first}; then by kexec_load")))
            }
            outcome => outcome,
        },
    }
}

fn plan(backend: &Linux, options: &Options, mode: Mode, input: &Input) -> Result<Plan> {
    let machine = backend.machine(mode.slot)?;
    let initrd = if options.initrd.is_empty() { None } else { Some(Bytes::from(joined(&options.initrd)?)) };
    let mut seed = [0; 32];
    let seeded = File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut seed)).is_ok();
    let max = options.mem_max.map_or(u64::MAX, |m| m.saturating_add(1));
    let window = Range::new(options.mem_min.unwrap_or(0), max)
        .ok_or_else(|| Error::new(Kind::Usage, "--mem-max lies below --mem-min"))?;
    linux::plan(&Request {
        kernel: &input.kernel,
        initrd,
        command_line: &input.command_line,
        machine: &machine,
        crash: mode.slot == Slot::Crash,
        window,
        purgatory: Settings {
            serial_port: options.serial,
            serial_divisor: options.serial_baud,
            announce: options.console_serial,
            skip_checks: options.no_checks,
            ..Settings::default()
        },
        seed: seeded.then_some(seed),
        efi: !options.noefi,
        memmap_parameters: options.pass_memmap_cmdline,
    })
}

/// The initrds one behind the other, each starting at a multiple of four as the kernel's cpio reader wants.
fn joined(paths: &[String]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = read(path)?;
        if bytes.is_empty() {
            return Err(Error::new(Kind::Invalid, format!("the initrd {path} is empty")));
        }
        if all.is_empty() {
            all = bytes;
        } else {
            all.resize(all.len().next_multiple_of(4), 0);
            all.extend_from_slice(&bytes);
        }
    }
    Ok(all)
}

/// Descriptors for `kexec_file_load`: the files themselves, or memory where they must be unpacked or joined first.
fn files(options: &Options, input: &Input) -> Result<Files> {
    let kernel = match &input.unpacked {
        Some(bytes) => memory_file(c"kernel", bytes)?,
        None => open(&input.path)?.into(),
    };
    let initrd = match options.initrd.as_slice() {
        [] => None,
        [one] => Some(open(one)?.into()),
        several => Some(memory_file(c"initrd", &joined(several)?)?),
    };
    Ok(Files { kernel, initrd, command_line: input.command_line.clone() })
}

fn memory_file(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).context(|| "make a file in memory")?;
    let mut file = File::from(fd);
    file.write_all(bytes).context(|| "fill a file in memory")?;
    file.rewind().context(|| "rewind a file in memory")?;
    Ok(file.into())
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

    #[test]
    fn initrds_are_joined_at_multiples_of_four() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths: Vec<String> = [&b"12345"[..], b"abc"]
            .iter()
            .enumerate()
            .map(|(i, bytes)| {
                let path = dir.path().join(i.to_string());
                std::fs::write(&path, bytes).expect("written");
                path.display().to_string()
            })
            .collect();
        assert_eq!(joined(&paths).expect("joined"), b"12345\0\0\0abc");
        std::fs::write(&paths[1], "").expect("written");
        assert!(joined(&paths).expect_err("empty").to_string().contains("is empty"));
        std::fs::remove_file(&paths[1]).expect("removed");
        assert_eq!(joined(&paths).expect_err("missing").kind(), Kind::Open);
    }
}
