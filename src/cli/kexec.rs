//! `kexec`: options to a request, one load, what to print. Options and exit codes are kexec-tools'.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use super::getopt::{self, Outcome};
use super::kexec_holder::{self, Holder};
use super::kexec_mode::{Action, After, Mode};
use super::kexec_options::GRAMMAR;
pub(super) use super::kexec_options::Options;
use super::{kexec_help, kexec_load, kexec_plan};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::load::Slot;
use crate::load::linux::{Syscall, falls_back, interfaces_down};

/// Runs `kexec ARGS` with kexec-tools' exit codes.
pub fn run(args: &[OsString]) -> ExitCode {
    // argh has no options with an optional value.
    let json = |a: &OsString| if a == "--dry-run=json" { OsString::from("--dry-run-json") } else { a.clone() };
    let args: Vec<OsString> = args.iter().map(json).collect();
    match try_run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            if e.kind() == Kind::Usage {
                print!("{}", kexec_help::USAGE);
            }
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
        Outcome::Help(_) => {
            print!("{}", kexec_help::text());
            return Ok(0);
        }
    };
    if options.version {
        // Scripts take the second word of kexec-tools' only line.
        println!("kexec-tools 2.0.32 compatible (kdumpbox {})", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let host = Host::new(&options.root);
    if options.print_ckr_size {
        println!("{}", kexec_holder::crash_size(&host)?);
        return Ok(0);
    }
    let mut mode = Mode::from_given(given.iter().map(String::as_str), !options.kernel.is_empty());
    let dry_run = options.dry_run || options.dry_run_json;
    if !host.is_live() && !dry_run {
        return Err(Error::new(Kind::Usage, "--root goes with --dry-run: only the running machine can be changed"));
    }
    refuse(&options, mode)?;
    say_what_is_lost(&options, mode);
    let mut holder = Holder::of(&host, &mut mode)?;
    match mode.action {
        Action::Status => return status(&mut holder, mode.slot),
        Action::Unload if dry_run => println!("would unload the {}", kexec_plan::slot_name(mode.slot)),
        Action::Unload => holder.backend().unload(mode.slot).map_err(|e| exit_code_of_call(e, mode.syscall, false))?,
        Action::Exec => exec(&mut holder, &host, &options, dry_run)?,
        Action::Load(after) => {
            let shutdown = if after == After::Shutdown && !dry_run { Some(shutdown_program()?) } else { None };
            kexec_load::load(&mut holder, &host, &options, mode, dry_run)
                .map_err(|e| exit_code_of_call(e, mode.syscall, true))?;
            match shutdown {
                Some(program) => {
                    if holder.is_xen() {
                        eprintln!(
                            "kexec: only a service manager that asks Xen (systemd from 261 on) starts the loaded kernel \
                             at the end of the shutdown, others reboot through the firmware: there, use 'kexec -l' and \
                             'kexec -e'"
                        );
                    }
                    shut_down(program)?
                }
                None if after == After::Rest => {}
                None if dry_run => println!("would start it then"),
                None => exec(&mut holder, &host, &options, dry_run)?,
            }
        }
    }
    Ok(0)
}

/// Combinations that can come to nothing, before anything is read or done.
fn refuse(options: &Options, mode: Mode) -> Result<()> {
    let usage = |text: &str| Err(Error::new(Kind::Usage, text));
    if options.load_live_update || options.exec_live_update {
        return usage("no released Xen has live update; use --load and --exec");
    }
    if options.reuseinitrd {
        return usage("--reuseinitrd: no x86 kernel keeps its initrd; name the file with --initrd");
    }
    let Action::Load(_) = mode.action else { return Ok(()) };
    if options.load_preserve_context || options.load_jump_back_helper {
        if mode.slot == Slot::Crash {
            return usage("--load-panic excludes --load-preserve-context and --load-jump-back-helper");
        }
        if mode.syscall == Syscall::File {
            return usage("kexec_file_load can neither preserve this kernel's context nor jump back; leave -s out");
        }
    }
    if options.kernel.is_empty() && !options.load_jump_back_helper {
        print!("{}", kexec_help::USAGE);
        return Err(Error::new(Kind::Invalid, "no kernel specified; name the kernel to load"));
    }
    Ok(())
}

/// Where kexec-tools drops a request without a word.
fn say_what_is_lost(options: &Options, mode: Mode) {
    if let Some((lost, winner)) = mode.lost {
        eprintln!("kexec: --{lost} is not done: --{winner}, given behind it, counts");
    }
    let (what, unused) = match (mode.action, options.kernel.as_slice()) {
        (Action::Load(_), [_, unused @ ..]) => ("only the first operand is the kernel", unused),
        (Action::Exec, all) => ("--exec starts what is loaded", all),
        (Action::Unload, all) => ("--unload takes no kernel", all),
        (Action::Status, all) => ("--status takes no kernel", all),
        (Action::Load(_), []) => return,
    };
    if !unused.is_empty() {
        eprintln!("kexec: {what}; ignored: {}", unused.join(" "));
    }
}

/// As kexec-tools has it: 253 is for a file call that can't do this and was asked for alone.
fn exit_code_of_call(e: Error, syscall: Syscall, load: bool) -> Error {
    let no_call = e.kind() == Kind::NoSyscall;
    match syscall {
        Syscall::File if no_call || load && falls_back(&e) => e.with_kind(Kind::NoSyscall),
        _ if no_call => e.with_kind(Kind::System),
        _ => e,
    }
}

fn status(holder: &mut Holder, slot: Slot) -> Result<u8> {
    match holder.backend().loaded(slot)? {
        Some(loaded) => Ok(u8::from(loaded)),
        None => Err(holder.no_status()),
    }
}

/// Everything is known to work before the first side effect.
fn exec(holder: &mut Holder, host: &Host, options: &Options, dry_run: bool) -> Result<()> {
    match holder.backend().loaded(Slot::Next)? {
        Some(true) => {}
        Some(false) if holder.is_xen() => {
            let text = "Xen says that nothing has been loaded; load a kernel with 'kexec -l' first (again, if another \
                        tool has loaded twice: that misleads Xen)";
            return Err(Error::new(Kind::NotLoaded, text));
        }
        Some(false) => {
            return Err(Error::new(Kind::NotLoaded, "nothing has been loaded; load a kernel with 'kexec -l' first"));
        }
        // An old Xen does not say, and refuses by itself where there is nothing.
        None if holder.is_xen() => {}
        None => return Err(holder.no_status()),
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
    holder.backend().exec()
}

/// Who shuts down; known before anything is loaded.
fn shutdown_program() -> Result<&'static str> {
    let places = ["/sbin/shutdown", "/usr/sbin/shutdown", "/etc/shutdown", "/bin/shutdown"];
    let found = places.into_iter().find(|p| Path::new(p).exists());
    found.ok_or_else(|| Error::new(Kind::Missing, "there is no /sbin/shutdown; use 'kexec -l' and then 'kexec -e'"))
}

/// Hands over to the service manager, which starts the loaded kernel at the end.
fn shut_down(program: &str) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let e = std::process::Command::new(program).args(["-r", "now"]).exec();
    Err(Error::io(&e, format!("run {program}")))
}
