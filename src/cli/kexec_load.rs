//! `kexec -l` and `-p`: what the user named is read and understood, planned, and handed over.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::kexec::Options;
use super::kexec_holder::Holder;
use super::kexec_input::{self, Input, Loadable};
use super::kexec_mode::Mode;
use super::kexec_plan;
use crate::boot::kernel::Kernel;
use crate::boot::linux::{self, Plan, Purpose};
use crate::boot::purgatory::Settings;
use crate::boot::{elf, multiboot};
use crate::error::{Error, Kind, Result};
use crate::host::{Host, Machine, state};
use crate::load::linux::{Files, Linux, Syscall, falls_back};
use crate::load::{Backend, Slot, xen};
use crate::mem::Range;

/// Loads what `options` name, or prints what would be done.
///
/// # Errors
/// Everything is known to work before the first side effect; then only what the kernel says.
pub(super) fn load(holder: &mut Holder, host: &Host, options: &Options, mode: Mode, dry_run: bool) -> Result<()> {
    match holder {
        Holder::Linux(linux) if options.load_jump_back_helper => return load_return(linux, options, dry_run),
        Holder::Xen(_) if options.load_jump_back_helper || options.load_preserve_context => {
            let text = "Xen returns from no image: --load-preserve-context and --load-jump-back-helper need a machine \
                        without it";
            return Err(Error::new(Kind::Usage, text));
        }
        _ => {}
    }
    let input = kexec_input::read(host, options, mode)?;
    // Below Xen the reservation is Xen's, and comes with the machine.
    let unreserved = || Ok(state::crash_size(host)?.unwrap_or(0) == 0);
    if mode.slot == Slot::Crash && host.is_live() && !holder.is_xen() && unreserved()? {
        return Err(linux::no_reservation());
    }
    let error = match hand_over(holder, host, options, mode, &input, dry_run) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let name = input.path.clone();
    let Some(packed) = input.packed() else { return Err(error) };
    eprintln!("kexec: {name} unpacked: {error}; loading it as it is");
    hand_over(holder, host, options, mode, &packed, dry_run)
}

/// Plans, and loads or prints.
fn hand_over(
    holder: &mut Holder,
    host: &Host,
    options: &Options,
    mode: Mode,
    input: &Input,
    dry_run: bool,
) -> Result<()> {
    if dry_run {
        let plan = if input.syscall == Syscall::File { None } else { Some(plan(holder, host, options, mode, input)?) };
        let shown = kexec_plan::Shown {
            kernel: &input.path,
            initrds: &input.initrd.names(),
            command_line: &input.command_line,
            slot: mode.slot,
            syscall: (!holder.is_xen()).then_some(input.syscall),
            plan: plan.as_ref(),
        };
        print!("{}", if options.dry_run_json { shown.json() } else { shown.human() });
        tell(plan.as_ref());
        return Ok(());
    }
    let by_segments = |holder: &mut Holder| {
        let plan = plan(holder, host, options, mode, input)?;
        tell(Some(&plan));
        if options.debug {
            eprint!("{}", kexec_plan::human(&plan));
        }
        holder.backend().load(mode.slot, &plan.image).map_err(|e| match (&input.kernel, e.kind()) {
            (Loadable::Linux { file_call: true, .. }, _) | (_, Kind::System) => e,
            _ if holder.is_xen() => e,
            _ => e.with_hint(format!("{} can be loaded by kexec_load only", input.kernel.name())),
        })
    };
    let Holder::Linux(linux) = holder else { return by_segments(holder) };
    let by_file = |linux: &Linux| linux.load_files(mode.slot, &files(options, input)?);
    match input.syscall {
        Syscall::Segments => by_segments(holder),
        Syscall::File => by_file(linux),
        Syscall::Auto => match by_file(linux) {
            Err(first) if falls_back(&first) => {
                by_segments(holder).map_err(|second| second.context(format!("{first}; then by kexec_load")))
            }
            outcome => outcome,
        },
    }
}

fn tell(plan: Option<&Plan>) {
    for notice in plan.iter().flat_map(|p| &p.notices) {
        eprintln!("kexec: {notice}");
    }
}

/// The way back to the kernel that started this one with its context preserved.
fn load_return(backend: &Linux, options: &Options, dry_run: bool) -> Result<()> {
    let Some(entry) = options.entry else {
        let text = "--load-jump-back-helper needs --entry=ADDR: kexec_jump_back_entry of this kernel's command line";
        return Err(Error::new(Kind::Usage, text));
    };
    if backend.loaded(Slot::Next)? == Some(true) {
        let text = "a kernel is loaded already, and the way back would replace it; unload it first (kexec -u)";
        return Err(Error::new(Kind::Invalid, text));
    }
    if dry_run {
        println!("would load the way back to the kernel at {entry:#x}");
        return Ok(());
    }
    backend.load_return(entry)
}

fn plan(holder: &mut Holder, host: &Host, options: &Options, mode: Mode, input: &Input) -> Result<Plan> {
    let machine = holder.backend().machine(mode.slot)?;
    if !holder.is_xen() || mode.slot == Slot::Crash {
        return plan_on(&machine, host, options, mode, input);
    }
    // Xen's own heap is no safe place for an image: see there.
    let inside = xen::inside_crash_area(&machine).map(|m| plan_on(&m, host, options, mode, input));
    if let Some(Ok(plan)) = inside {
        return Ok(plan);
    }
    let mut plan = plan_on(&machine, host, options, mode, input)?;
    plan.notices.push(xen::unsafe_place(&machine));
    Ok(plan)
}

fn plan_on(machine: &Machine, host: &Host, options: &Options, mode: Mode, input: &Input) -> Result<Plan> {
    let max = options.mem_max.map_or(u64::MAX, |m| m.saturating_add(1));
    let window = Range::new(options.mem_min.unwrap_or(0), max)
        .ok_or_else(|| Error::new(Kind::Usage, "--mem-max lies below --mem-min"))?;
    let purgatory = Settings {
        serial_port: options.serial,
        serial_divisor: options.serial_baud,
        announce: options.console_serial || options.console_vga,
        skip_checks: options.no_checks,
        reset_vga: options.reset_vga,
        console_vga: options.console_vga,
        ..Settings::default()
    };
    match &input.kernel {
        Loadable::Linux { kernel, .. } => {
            let whole;
            let machine = if options.load_preserve_context {
                whole = Machine::read(host, true)?;
                &whole
            } else {
                machine
            };
            plan_linux(options, mode, input, kernel, machine, window, purgatory)
        }
        Loadable::Elf { elf, arguments } => elf::plan(&elf::Request {
            elf,
            command_line: arguments.then_some(input.command_line.as_str()),
            machine,
            window,
            purgatory,
        }),
        Loadable::Multiboot { kernel, xen, modules } => multiboot::plan(multiboot::Request {
            kernel,
            name: &input.path,
            command_line: &input.command_line,
            modules: modules.clone(),
            machine,
            window,
            purgatory,
            xen: *xen,
        }),
    }
}

fn plan_linux(
    options: &Options,
    mode: Mode,
    input: &Input,
    kernel: &Kernel,
    machine: &Machine,
    window: Range,
    purgatory: Settings,
) -> Result<Plan> {
    let mut seed = [0; 32];
    let seeded = File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut seed)).is_ok();
    linux::plan(&linux::Request {
        kernel,
        initrd: input.initrd.bytes()?,
        dtb: input.dtb.clone(),
        command_line: &input.command_line,
        machine,
        purpose: match mode.slot {
            Slot::Crash => Purpose::Crash,
            Slot::Next if options.load_preserve_context => Purpose::Return,
            Slot::Next => Purpose::Next,
        },
        window,
        purgatory,
        seed: seeded.then_some(seed),
        efi: !options.noefi,
        memmap_parameters: options.pass_memmap_cmdline,
    })
}

/// Descriptors for `kexec_file_load`: the files themselves, or memory where they must be unpacked or joined first.
fn files(options: &Options, input: &Input) -> Result<Files> {
    let kernel = match &input.unpacked {
        Some(bytes) => kexec_input::memory_file(c"kernel", |file| std::io::Write::write_all(file, bytes))?,
        None => OwnedFd::from(kexec_input::open(&input.path)?),
    };
    Ok(Files {
        kernel,
        initrd: input.initrd.descriptor()?,
        command_line: input.command_line.clone(),
        no_cma: options.no_cma,
        force_dtb: options.force_dtb,
    })
}
