//! The Linux kernel as the holder of images: `kexec_load(2)`, `kexec_file_load(2)`, `reboot(2)`.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{Backend, Slot, explain};
use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, Machine, state};
use crate::mem::Image;
use crate::sys;

/// `KEXEC_ON_CRASH`
const ON_CRASH: u64 = 1;
/// `KEXEC_PRESERVE_CONTEXT`
const PRESERVE_CONTEXT: u64 = 2;
/// `KEXEC_UPDATE_ELFCOREHDR` (Linux 6.6)
const UPDATE_ELFCOREHDR: u64 = 4;
/// `KEXEC_FILE_UNLOAD`
const FILE_UNLOAD: u64 = 1;
/// `KEXEC_FILE_ON_CRASH`
const FILE_ON_CRASH: u64 = 2;
/// `KEXEC_FILE_NO_INITRAMFS`
const FILE_NO_INITRAMFS: u64 = 4;
/// `KEXEC_FILE_NO_CMA` (Linux 6.17)
const FILE_NO_CMA: u64 = 0x10;
/// `KEXEC_FILE_FORCE_DTB` (Linux 6.17)
const FILE_FORCE_DTB: u64 = 0x20;

const NO_JUMP: &str = "preserving a kernel's context needs a running kernel built with KEXEC_JUMP, which few are";

/// Which system call loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syscall {
    /// `kexec_file_load`, and `kexec_load` if the kernel can't.
    #[default]
    Auto,
    /// `kexec_file_load`: the kernel places the image and checks its signature.
    File,
    /// `kexec_load`: we place it.
    Segments,
}

/// What `kexec_file_load` gets.
#[derive(Debug)]
pub struct Files {
    /// The kernel, not compressed.
    pub kernel: OwnedFd,
    /// The initrd.
    pub initrd: Option<OwnedFd>,
    /// The command line.
    pub command_line: String,
    /// Keep segments out of the contiguous memory allocator's areas (`--no-cma`).
    pub no_cma: bool,
    /// Hand the running kernel's device tree on (`--force-dtb`).
    pub force_dtb: bool,
}

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Linux {
    host: Host,
    syscall: Syscall,
}

/// Whether a failure of the file call says that the kernel *can't*, not that it won't.
pub fn falls_back(error: &Error) -> bool {
    let reasons = [Errno::NOSYS, Errno::INVAL, Errno::NOEXEC, Errno::OPNOTSUPP];
    reasons.iter().any(|e| error.raw_errno() == Some(e.raw_os_error()))
}

impl Linux {
    /// The kernel of `host`, loaded by `syscall`.
    pub fn new(host: Host, syscall: Syscall) -> Self {
        Self { host, syscall }
    }

    /// Loads by `kexec_file_load`.
    ///
    /// # Errors
    /// The call's errno, with its cause on this machine.
    pub fn load_files(&self, slot: Slot, files: &Files) -> Result<()> {
        let text = CString::new(files.command_line.as_str())
            .map_err(|_| Error::new(Kind::Invalid, "the command line holds a NUL byte"))?;
        let mut flags = if slot == Slot::Crash { FILE_ON_CRASH } else { 0 };
        for (asked, flag) in [
            (files.initrd.is_none(), FILE_NO_INITRAMFS),
            (files.no_cma, FILE_NO_CMA),
            (files.force_dtb, FILE_FORCE_DTB),
        ] {
            flags |= if asked { flag } else { 0 };
        }
        sys::kexec_file_load(Some(files.kernel.as_fd()), files.initrd.as_ref().map(AsFd::as_fd), &text, flags)
            .map_err(|e| self.failed("kexec_file_load", e, slot, true))
    }

    /// Loads nothing but the way back to the kernel whose context was preserved, which is entered at `entry`.
    ///
    /// # Errors
    /// The call's errno, with its cause on this machine.
    pub fn load_return(&self, entry: u64) -> Result<()> {
        sys::kexec_load(entry, &[(&[], 0, 0)], PRESERVE_CONTEXT)
            .map_err(|e| self.failed("kexec_load", e, Slot::Next, false).with_hint(NO_JUMP))
    }

    fn failed(&self, call: &str, errno: Errno, slot: Slot, file_call: bool) -> Error {
        let error = Error::errno(errno, format!("{call} failed"));
        match explain::errno(&self.host, errno, slot, file_call) {
            hint if hint.is_empty() => error,
            hint => error.with_hint(hint),
        }
    }

    fn unload_by_file(&self, slot: Slot) -> Result<()> {
        let flags = FILE_UNLOAD | if slot == Slot::Crash { FILE_ON_CRASH } else { 0 };
        sys::kexec_file_load(None, None, c"", flags)
            .map_err(|e| self.failed("unloading by kexec_file_load", e, slot, true))
    }

    fn unload_by_segments(&self, slot: Slot) -> Result<()> {
        let flags = if slot == Slot::Crash { ON_CRASH } else { 0 };
        sys::kexec_load(0, &[], flags).map_err(|e| self.failed("unloading by kexec_load", e, slot, false))
    }
}

impl Backend for Linux {
    fn machine(&self, slot: Slot) -> Result<Machine> {
        Machine::read(&self.host, slot == Slot::Crash)
    }

    fn load(&mut self, slot: Slot, image: &Image) -> Result<()> {
        let segments: Vec<(&[u8], u64, u64)> =
            image.segments.iter().map(|s| (&*s.data, s.range.start(), s.range.len())).collect();
        let mut flags = if slot == Slot::Crash { ON_CRASH } else { 0 };
        flags |= if image.updates_elfcorehdr { UPDATE_ELFCOREHDR } else { 0 };
        flags |= if image.preserves_context { PRESERVE_CONTEXT } else { 0 };
        sys::kexec_load(image.entry, &segments, flags).map_err(|e| {
            let error = self.failed("kexec_load", e, slot, false);
            if image.preserves_context && e == Errno::INVAL { error.with_hint(NO_JUMP) } else { error }
        })
    }

    fn unload(&mut self, slot: Slot) -> Result<()> {
        match self.syscall {
            Syscall::File => self.unload_by_file(slot),
            Syscall::Segments => self.unload_by_segments(slot),
            Syscall::Auto => match self.unload_by_file(slot) {
                Err(e) if falls_back(&e) => self.unload_by_segments(slot),
                outcome => outcome,
            },
        }
    }

    fn loaded(&self, slot: Slot) -> Result<Option<bool>> {
        state::loaded(&self.host, slot == Slot::Crash)
    }

    fn exec(&mut self) -> Result<()> {
        rustix::system::reboot(rustix::system::RebootCommand::Kexec).context(|| "start the loaded kernel (reboot)")
    }
}

/// Takes every network interface but the loopback down. Failures are told, not fatal: the kernel resets devices too.
pub fn interfaces_down(host: &Host) -> Result<()> {
    let dir = host.path("sys/class/net");
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .context(|| "open a socket to take interfaces down")?;
    for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "lo" {
            continue;
        }
        if let Err(e) = sys::interface_down(socket.as_fd(), &name) {
            log::warn!("take interface {name} down: {e}");
        }
    }
    Ok(())
}
