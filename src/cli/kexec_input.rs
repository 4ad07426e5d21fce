//! What the user of `kexec -l` named, read and understood: kernel, initrds, modules, command line; and which system
//! call takes it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use super::kexec::Options;
use super::kexec_mode::Mode;
use crate::boot::kernel::{EntryMode, Kernel};
use crate::boot::multiboot::Module;
use crate::boot::{command_line, linux, xen};
use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, state};
use crate::image::{self, BzImage, Elf, Embedded, Multiboot, Sniffed};
use crate::load::Slot;
use crate::load::linux::Syscall;
use crate::mem::Bytes;

/// A kernel with what only its kind has.
#[derive(Debug)]
pub enum Loadable {
    /// Linux.
    Linux {
        /// What is placed.
        kernel: Kernel,
        /// Whether `kexec_file_load` takes it.
        file_call: bool,
    },
    /// Another program.
    Elf {
        /// The program.
        elf: Elf,
        /// Whether it is given ELF boot notes.
        arguments: bool,
    },
    /// A multiboot kernel.
    Multiboot {
        /// The kernel.
        kernel: Multiboot,
        /// Whether it is Xen.
        xen: bool,
        /// Its modules.
        modules: Vec<Module>,
    },
}

impl Loadable {
    /// Its kind, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linux { file_call: true, .. } => "a bzImage",
            Self::Linux { .. } => "a vmlinux, or a bzImage entered in 32-bit or real mode,",
            Self::Elf { .. } => "an ELF program",
            Self::Multiboot { xen: true, .. } => "Xen",
            Self::Multiboot { .. } => "a multiboot kernel",
        }
    }
}

/// All that was named.
#[derive(Debug)]
pub struct Input {
    /// The kernel's file.
    pub path: String,
    /// The kernel's bytes, if its file is not what `kexec_file_load` takes.
    pub unpacked: Option<Bytes>,
    /// The kernel.
    pub kernel: Loadable,
    /// Its initrds.
    pub initrd: Initrd,
    /// Its device tree.
    pub dtb: Option<Bytes>,
    /// Its command line.
    pub command_line: String,
    /// How it is loaded.
    pub syscall: Syscall,
    /// The bzImage that the kernel was unpacked from, and how that is loaded.
    packed: Option<(Loadable, Syscall)>,
}

impl Input {
    /// The same with the kernel as it was before `--unpack`; `None` if it is.
    pub fn packed(self) -> Option<Self> {
        let (kernel, syscall) = self.packed?;
        Some(Self { kernel, syscall, packed: None, ..self })
    }
}

/// Reads and understands everything, and says what has no effect.
///
/// # Errors
/// [`Kind::Open`] for a file that can't be read, [`Kind::Invalid`] for one that is not what it must be, with its name.
pub fn read(host: &Host, options: &Options, mode: Mode) -> Result<Input> {
    let Some(operand) = options.kernel.first() else {
        return Err(Error::new(Kind::Invalid, "no kernel specified; name the kernel to load (kexec --help)"));
    };
    let path = options.vmm.as_ref().unwrap_or(operand);
    let wanted = options.r#type.as_deref().map(str::parse).transpose()?;
    let glanced = if mode.syscall == Syscall::File { glance(path, wanted, options.no_checks) } else { None };
    let unchecked = glanced.is_none() && !options.no_checks;
    let sniffed = match glanced {
        Some(sniffed) => sniffed,
        None => image::sniff(slurp(path)?, wanted).context(|| path.clone())?,
    };
    let Sniffed { kernel, bytes, was_packed, embedded } = sniffed;
    let embedded = embedded.unwrap_or_default();
    for path in &options.initrd {
        open(path)?;
    }
    let mut initrd = Initrd { embedded: embedded.initrds.clone(), files: options.initrd.clone() };
    let running = host.text("proc/cmdline")?.unwrap_or_default();
    let crash = mode.slot == Slot::Crash;
    let mut text = asked_command_line(options, &embedded, &running, crash);
    let mut packed = None;
    let kernel = match kernel {
        image::Kernel::BzImage(image) => {
            if unchecked {
                image.check_sum().context(|| path.clone())?;
            }
            let whole = bzimage(options, mode.syscall, &image)?;
            match options.unpack.then(|| inside(host, mode, &text, &whole, &image)) {
                Some(Ok(kernel)) => {
                    packed = Some(whole);
                    Loadable::Linux { kernel, file_call: false }
                }
                Some(Err(reason)) => {
                    eprintln!("kexec: --unpack has no effect on {path}: {reason}");
                    whole
                }
                None => whole,
            }
        }
        image::Kernel::Elf(elf) => program(options, *elf)?,
        image::Kernel::Multiboot(kernel) => {
            let xen = options.vmm.is_some() || xen::is_xen(&kernel);
            let mut modules = Vec::new();
            if options.vmm.is_some() {
                let reused = options.reuse_cmdline.then_some(running.as_str());
                text = options.command_line.clone().unwrap_or_default();
                modules = dom0(options, operand, &mut text, reused, std::mem::take(&mut initrd))?;
            }
            let first = modules.len();
            for (i, text) in options.module.iter().enumerate() {
                modules.push(module(text, xen && first.saturating_add(i) > 0)?);
            }
            Loadable::Multiboot { kernel: *kernel, xen, modules }
        }
    };
    if options.vmm.is_some() && !matches!(kernel, Loadable::Multiboot { .. }) {
        let text = format!("{path} is {}, not a multiboot hypervisor; --vmm=XEN names Xen's own image", kernel.name());
        return Err(Error::new(Kind::Invalid, text));
    }
    if crash && !matches!(kernel, Loadable::Linux { .. }) {
        let text = format!(
            "{path} is {}: only Linux can be a crash kernel, since only Linux shows the old memory as /proc/vmcore",
            kernel.name()
        );
        return Err(Error::new(Kind::Invalid, text));
    }
    let packed = packed.map(|whole| syscall(options, mode.syscall, &whole).map(|call| (whole, call))).transpose()?;
    let syscall = syscall(options, mode.syscall, &kernel)?;
    if let Loadable::Linux { kernel, .. } = &kernel {
        let added = if syscall == Syscall::File { linux::FILE_CALL_ADDS } else { 0 };
        command_line::check(&text, added, kernel.command_line_max())?;
    }
    let dtb = options.dtb.as_ref().map(|path| slurp(path).map(Bytes::from)).transpose()?;
    no_effect(options, &kernel, syscall, crash);
    Ok(Input {
        path: path.clone(),
        unpacked: was_packed.then_some(bytes),
        kernel,
        initrd,
        dtb,
        command_line: text,
        syscall,
        packed,
    })
}

/// The kernel inside a bzImage, for `--unpack`.
///
/// # Errors
/// Why the bzImage is needed: what its own code does, this does not.
fn inside(host: &Host, mode: Mode, text: &str, whole: &Loadable, image: &BzImage) -> Result<Kernel> {
    let refuse = |text: &str| Err(Error::new(Kind::Invalid, text));
    if mode.slot != Slot::Crash {
        return refuse("it is for crash kernels (-p); the next kernel's KASLR needs the bzImage");
    }
    if mode.syscall == Syscall::File {
        return refuse("kexec_file_load (-s) takes the bzImage only");
    }
    if !matches!(whole, Loadable::Linux { kernel, .. } if kernel.mode == EntryMode::Long) {
        return refuse("only the bzImage has the entry point asked for");
    }
    if state::five_levels(host) && text.split_whitespace().any(|word| word == "no5lvl") {
        return refuse("'no5lvl' on the command line is obeyed by the bzImage's own code");
    }
    if state::encrypted_guest(host) {
        return refuse("this guest's memory is encrypted (SEV, TDX), which the bzImage's own code sets up");
    }
    Kernel::unpacked(image)
}

/// The command line asked for; without one, what the image carries.
fn asked_command_line(options: &Options, embedded: &Embedded, running: &str, crash: bool) -> String {
    let asked = options.command_line.as_deref();
    let text = if asked.is_none() && !options.reuse_cmdline {
        embedded.command_line.clone().unwrap_or_default()
    } else {
        command_line::reuse(options.reuse_cmdline.then_some(running), asked.unwrap_or_default(), crash)
    };
    if options.lean && crash { command_line::lean(&text) } else { text }
}

fn bzimage(options: &Options, asked: Syscall, image: &BzImage) -> Result<Loadable> {
    // kexec-tools' loader of that name enters at the 32-bit entry point; with kexec_file_load it ignores the name.
    let named = options.r#type.as_deref() == Some(image::Type::BzImage.name()) && asked != Syscall::File;
    let entry = match options {
        Options { real_mode: true, .. } => EntryMode::Real,
        Options { entry_32bit: true, .. } => EntryMode::Protected,
        _ if named || !image.has_entry_64() => EntryMode::Protected,
        _ => EntryMode::Long,
    };
    Ok(Loadable::Linux { kernel: Kernel::from_bzimage(image, entry)?, file_call: entry == EntryMode::Long })
}

fn program(options: &Options, elf: Elf) -> Result<Loadable> {
    let asked = options.args_linux || options.args_elf || options.args_none;
    if options.args_linux || (!asked && elf.is_linux()) {
        if !asked {
            eprintln!("kexec: the ELF file is a Linux kernel and is loaded as one, as by --args-linux");
        }
        return Ok(Loadable::Linux { kernel: Kernel::from_vmlinux(&elf)?, file_call: false });
    }
    if !options.initrd.is_empty() {
        let text = "--initrd goes with Linux: an ELF program takes none; if it is a vmlinux, add --args-linux";
        return Err(Error::new(Kind::Usage, text));
    }
    Ok(Loadable::Elf { elf, arguments: !options.args_none })
}

/// dom0's kernel and initrd as modules, and `text` split between it and Xen.
fn dom0(options: &Options, path: &str, text: &mut String, reused: Option<&str>, initrd: Initrd) -> Result<Vec<Module>> {
    let sniffed = image::sniff(slurp(path)?, None).context(|| path.to_owned())?;
    match &sniffed.kernel {
        image::Kernel::BzImage(image) if !options.no_checks => drop(image.check_sum().context(|| path.to_owned())?),
        image::Kernel::Multiboot(_) => {
            let text = format!("{path} is a multiboot kernel; dom0's kernel is a Linux (kexec --vmm=XEN VMLINUZ)");
            return Err(Error::new(Kind::Invalid, text));
        }
        _ => {}
    }
    let embedded = sniffed.embedded.unwrap_or_default();
    let padded = format!(" {text} ");
    if !padded.contains(" -- ") && !text.is_empty() {
        eprintln!("kexec: there is no ' -- ' in the command line: all of it goes to Xen, nothing to dom0's kernel");
    }
    let mut dom0_text = path.to_owned();
    if let Some(running) = reused {
        dom0_text = [dom0_text, command_line::reuse(Some(running), "", false)].join(" ");
    } else if let Some(own) = embedded.command_line.filter(|_| !padded.contains(" -- ")) {
        dom0_text = [dom0_text, own].join(" ");
    }
    let mut modules = vec![Module { data: sniffed.bytes, text: dom0_text }];
    let initrd = Initrd { embedded: embedded.initrds, ..initrd };
    if let Some(data) = initrd.bytes()? {
        modules.push(Module { data, text: initrd.names().join("+") });
    }
    Ok(modules)
}

/// A module by its text: the first word is its file, unpacked unless `as_it_is` (Xen hands initrds on to dom0, which
/// unpacks them itself).
fn module(text: &str, as_it_is: bool) -> Result<Module> {
    let path = text.split(' ').next().unwrap_or_default();
    let bytes = slurp(path)?;
    let unpacked = if as_it_is {
        None
    } else {
        image::decompress::unwrap(&bytes, image::MAX_UNPACKED).context(|| path.to_owned())?
    };
    Ok(Module { data: unpacked.unwrap_or(bytes).into(), text: text.to_owned() })
}

/// The system call follows from the image; the options choose only where both could do it.
fn syscall(options: &Options, asked: Syscall, kernel: &Loadable) -> Result<Syscall> {
    let by_file = matches!(kernel, Loadable::Linux { file_call: true, .. });
    let only_segments = [
        (!by_file, kernel.name()),
        (options.dtb.is_some(), "--dtb"),
        (options.load_preserve_context, "--load-preserve-context"),
    ];
    let reason = only_segments.iter().find(|(given, _)| *given).map(|(_, name)| *name);
    match (asked, reason) {
        (Syscall::File, Some(what)) => {
            let text = format!(
                "{what} can't be loaded by kexec_file_load: it takes bzImages in 64-bit mode only; leave -s out"
            );
            Err(Error::new(Kind::Invalid, text))
        }
        (Syscall::Auto, None) if options.mem_min.is_none() && options.mem_max.is_none() => Ok(Syscall::Auto),
        (Syscall::File, None) => Ok(Syscall::File),
        _ => Ok(Syscall::Segments),
    }
}

/// Says once what was given and changes nothing: scripts pass options for kernels of every kind.
fn no_effect(options: &Options, kernel: &Loadable, syscall: Syscall, crash: bool) {
    let linux = matches!(kernel, Loadable::Linux { .. });
    let multiboot = matches!(kernel, Loadable::Multiboot { .. });
    let elf = options.args_elf || options.args_none;
    let bzimage = matches!(kernel, Loadable::Linux { kernel, .. } if !kernel.setup.is_empty());
    let file = syscall == Syscall::File;
    for (unused, name) in [
        (options.args_linux && (bzimage || multiboot), "args-linux"),
        (elf && (bzimage || multiboot), if options.args_elf { "args-elf" } else { "args-none" }),
        (options.elf32_core_headers, "elf32-core-headers"),
        (options.elf64_core_headers, "elf64-core-headers"),
        (options.reuse_video_type, "reuse-video-type"),
        (!options.module.is_empty() && !multiboot, "module"),
        (!options.initrd.is_empty() && multiboot && options.vmm.is_none(), "initrd"),
        (options.real_mode && !bzimage, "real-mode"),
        (options.entry_32bit && !bzimage, "entry-32bit"),
        (options.dtb.is_some() && !linux, "dtb"),
        (options.entry.is_some(), "entry"),
        (options.lean && !crash, "lean"),
        (options.no_cma && syscall == Syscall::Segments, "no-cma"),
        (options.force_dtb && syscall == Syscall::Segments, "force-dtb"),
        (file && options.pass_memmap_cmdline, "pass-memmap-cmdline"),
        (file && options.noefi, "noefi"),
        (file && options.reset_vga, "reset-vga"),
        (file && options.console_vga, "console-vga"),
        (file && options.console_serial, "console-serial"),
        (file && options.mem_min.is_some(), "mem-min"),
        (file && options.mem_max.is_some(), "mem-max"),
    ] {
        if unused {
            eprintln!("kexec: --{name} has no effect here");
        }
    }
}

/// An initrd in parts, each beginning at a multiple of four as the kernel's cpio reader wants.
#[derive(Debug, Default)]
pub struct Initrd {
    embedded: Vec<Bytes>,
    files: Vec<String>,
}

impl Initrd {
    /// What it is made of, for people.
    pub fn names(&self) -> Vec<String> {
        let own = self.embedded.iter().map(|_| "(in the kernel's file)".to_owned());
        own.chain(self.files.iter().cloned()).collect()
    }

    /// All of it in memory, read once and not copied; `None` if there is none.
    ///
    /// # Errors
    /// [`Kind::Open`] for a file that can't be read; [`Kind::Invalid`] for an empty one.
    pub fn bytes(&self) -> Result<Option<Bytes>> {
        match (self.embedded.as_slice(), self.files.as_slice()) {
            ([], []) => return Ok(None),
            ([one], []) => return Ok(Some(one.clone())),
            _ => {}
        }
        let mut whole = Vec::with_capacity(usize::try_from(self.len_at_most()).unwrap_or(0));
        self.write(&mut whole)?;
        Ok(Some(whole.into()))
    }

    /// All of it as an open file: the one named, or memory where there are several.
    ///
    /// # Errors
    /// As [`Initrd::bytes`].
    pub fn descriptor(&self) -> Result<Option<OwnedFd>> {
        match (self.embedded.as_slice(), self.files.as_slice()) {
            ([], []) => Ok(None),
            ([], [one]) => Ok(Some(open(one)?.into())),
            _ => {
                let mut failed = Ok(0);
                let fd = memory_file(c"initrd", |file| {
                    failed = self.write(file);
                    Ok(())
                })?;
                failed?;
                Ok(Some(fd))
            }
        }
    }

    /// Bytes with all padding, by the files' sizes.
    fn len_at_most(&self) -> u64 {
        let own = self.embedded.iter().map(|b| u64::try_from(b.len()).unwrap_or(0));
        let files = self.files.iter().map(|f| std::fs::metadata(f).map_or(0, |m| m.len()));
        own.chain(files).map(|n| n.saturating_add(4)).fold(0, u64::saturating_add)
    }

    fn write(&self, out: &mut impl Write) -> Result<u64> {
        let mut written: u64 = 0;
        let failed = || "put the initrds together".to_owned();
        for (name, part) in self.parts() {
            let padding = written.next_multiple_of(4).saturating_sub(written);
            let zeros = [0; 4].get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default().to_vec();
            out.write_all(&zeros).context(failed)?;
            let len = match part {
                Some(bytes) => {
                    out.write_all(bytes).context(failed)?;
                    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
                }
                None => std::io::copy(&mut open(name)?, out)
                    .map_err(|e| Error::io(&e, format!("cannot read {name}")).with_kind(Kind::Open))?,
            };
            if len == 0 {
                return Err(Error::new(Kind::Invalid, format!("the initrd {name} is empty")));
            }
            written = written.saturating_add(padding).saturating_add(len);
        }
        Ok(written)
    }

    fn parts(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        let own = self.embedded.iter().map(|b| ("in the kernel's file", Some(b)));
        own.chain(self.files.iter().map(|f| (f.as_str(), None)))
    }
}

/// Opens what the user named.
///
/// # Errors
/// [`Kind::Open`] with its name.
pub fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|e| Error::io(&e, format!("cannot open {path}")).with_kind(Kind::Open))
}

fn slurp(path: &str) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let len = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1));
    file.read_to_end(&mut bytes).map_err(|e| Error::io(&e, format!("cannot read {path}")).with_kind(Kind::Open))?;
    Ok(bytes)
}

/// What a plain bzImage is, checked, without keeping it in memory: the kernel reads it again by its descriptor. Behind
/// its head the bytes are zeros that take no memory. `None` for all else, and for a damaged one: who reads it whole
/// finds out what is wrong.
fn glance(path: &str, wanted: Option<image::Type>, no_checks: bool) -> Option<Sniffed> {
    // More than any header: that of multiboot2 ends before 32 KiB.
    const HEAD: usize = 64 << 10;
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let len = usize::try_from(metadata.len()).ok().filter(|len| (HEAD..=image::MAX_UNPACKED).contains(len))?;
    let mut bytes = vec![0; len];
    file.read_exact(bytes.get_mut(..HEAD)?).ok()?;
    let sniffed = image::sniff(bytes, wanted).ok().filter(|sniffed| !sniffed.was_packed)?;
    let image::Kernel::BzImage(image) = &sniffed.kernel else { return None };
    (no_checks || image.agrees_with(&mut file).ok()?).then_some(sniffed)
}

/// A file in memory, filled by `fill`, at its start.
///
/// # Errors
/// The errno of making or filling it.
pub fn memory_file(name: &std::ffi::CStr, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).context(|| "make a file in memory")?;
    let mut file = File::from(fd);
    fill(&mut file).context(|| "fill a file in memory")?;
    file.rewind().context(|| "rewind a file in memory")?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initrds_are_joined_at_multiples_of_four() {
        let dir = tempfile::tempdir().expect("a directory");
        let files: Vec<String> = [&b"12345"[..], b"abc"]
            .iter()
            .enumerate()
            .map(|(i, bytes)| {
                let path = dir.path().join(i.to_string());
                std::fs::write(&path, bytes).expect("written");
                path.display().to_string()
            })
            .collect();
        let joined = |embedded: &[&[u8]], files: &[String]| {
            let embedded = embedded.iter().map(|b| Bytes::from(b.to_vec())).collect();
            let initrd = Initrd { embedded, files: files.to_vec() };
            let mut read = Vec::new();
            if let Some(fd) = initrd.descriptor()? {
                File::from(fd).read_to_end(&mut read).expect("a file in memory");
            }
            let bytes = initrd.bytes()?.map(|b| b.to_vec()).unwrap_or_default();
            assert_eq!(bytes, read, "both ways are the same");
            Ok::<_, Error>(bytes)
        };
        assert_eq!(joined(&[], &[]).expect("none"), b"");
        assert_eq!(joined(&[], &files).expect("joined"), b"12345\0\0\0abc");
        assert_eq!(joined(&[b"x", b"yz"], &files[1..]).expect("joined"), b"x\0\0\0yz\0\0abc");
        assert_eq!(joined(&[b"x"], &[]).expect("one"), b"x");
        std::fs::write(&files[1], "").expect("written");
        assert!(joined(&[], &files).expect_err("empty").to_string().contains("is empty"));
        std::fs::remove_file(&files[1]).expect("removed");
        assert_eq!(joined(&[], &files).expect_err("missing").kind(), Kind::Open);
    }
}
