//! `kexec -l` and `-p`: what the user named is read and understood, planned, and handed over.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::kexec::Options;
use super::kexec_mode::Mode;
use super::kexec_plan;
use crate::boot::command_line;
use crate::boot::linux::{self, Plan, Request};
use crate::boot::purgatory::Settings;
use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, state};
use crate::image::{self, BzImage, Kernel, Sniffed};
use crate::load::linux::{Files, Linux, Syscall, falls_back};
use crate::load::{Backend, Slot};
use crate::mem::{Bytes, Range};

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
    let Sniffed { kernel, bytes, was_packed, .. } = image::sniff(read(path)?, None).context(|| path.clone())?;
    let Kernel::BzImage(kernel) = kernel else {
        let text = format!("{path} is {}; only a bzImage can be loaded", kernel.describe());
        return Err(Error::new(Kind::Invalid, text));
    };
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

/// Loads what `options` name, or prints what would be done.
///
/// # Errors
/// Everything is known to work before the first side effect; then only what the kernel says.
pub(super) fn load(backend: &mut Linux, host: &Host, options: &Options, mode: Mode, dry_run: bool) -> Result<()> {
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
