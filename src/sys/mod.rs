//! Every system call that needs `unsafe`, wrapped so that no caller can misuse it.
// UNSAFETY: mappings of files; kexec system calls and interface flags, which no crate wraps.
#![expect(unsafe_code)]

pub mod privcmd;

use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags};

/// Makes a write beyond the file size limit (`ulimit -f`) fail with EFBIG instead of ending the process: a dump that
/// ends early must be reported.
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal installs no handler, so nothing can run at a bad moment.
    let _ =
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) };
}

/// A read-only private mapping of a part of a file. Its bytes can only be copied out.
///
/// The file may change or shrink underneath: bytes are read, never referenced; a page that is gone raises SIGBUS,
/// so map only what can't be truncated (`/proc/vmcore`) or what the caller owns.
pub struct Mapping {
    start: *const u8,
    len: usize,
}

// SAFETY: the mapping is read-only, owned by this value, and not tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (a multiple of the page size).
    ///
    /// # Errors
    /// The errno of `mmap(2)`.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> rustix::io::Result<Self> {
        // SAFETY: no address is asked for, so the kernel picks one that nothing else uses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, fd, offset) }?;
        Ok(Self { start: start.cast_const().cast(), len })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never true of a mapping that could be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset` bytes into the mapping; `false`, and nothing done, if that is not all inside.
    pub fn copy_to(&self, offset: usize, buf: &mut [u8]) -> bool {
        if offset.checked_add(buf.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: offset is within the mapping, by the test above.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: `buf.len()` bytes from `from` are mapped readable by the test above, `buf` is writable for as many
        // and can't overlap a mapping that only this value refers to.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and len are those of a mapping made in `new`, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), self.len) };
    }
}

/// `struct kexec_segment`: user buffer, then destination (`include/uapi/linux/kexec.h`).
#[repr(C)]
struct KexecSegment {
    buf: *const u8,
    bufsz: usize,
    mem: u64,
    memsz: u64,
}

/// `KEXEC_ARCH_X86_64`
const KEXEC_ARCH_X86_64: u64 = 62 << 16;

/// `kexec_load(2)`: `segments` are (data, destination, bytes of the destination); none unloads.
///
/// # Errors
/// The errno of the call.
pub fn kexec_load(entry: u64, segments: &[(&[u8], u64, u64)], flags: u64) -> rustix::io::Result<()> {
    let raw: Vec<KexecSegment> = segments
        .iter()
        .map(|(data, mem, memsz)| KexecSegment { buf: data.as_ptr(), bufsz: data.len(), mem: *mem, memsz: *memsz })
        .collect();
    // SAFETY: `raw` and the buffers it points to outlive the call, which only reads them; their lengths are theirs.
    let result = unsafe {
        nix::libc::syscall(nix::libc::SYS_kexec_load, entry, raw.len(), raw.as_ptr(), flags | KEXEC_ARCH_X86_64)
    };
    errno_of(result)
}

/// `kexec_file_load(2)`; without a kernel only for `KEXEC_FILE_UNLOAD`.
///
/// # Errors
/// The errno of the call.
pub fn kexec_file_load(
    kernel: Option<BorrowedFd<'_>>,
    initrd: Option<BorrowedFd<'_>>,
    command_line: &std::ffi::CStr,
    flags: u64,
) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let raw = |fd: Option<BorrowedFd<'_>>| nix::libc::c_long::from(fd.map_or(-1, |fd| fd.as_raw_fd()));
    let text = command_line.to_bytes_with_nul();
    // SAFETY: the descriptors are borrowed and so open, and the text is as long as said, NUL included.
    let result = unsafe {
        nix::libc::syscall(nix::libc::SYS_kexec_file_load, raw(kernel), raw(initrd), text.len(), text.as_ptr(), flags)
    };
    errno_of(result)
}

fn errno_of(result: nix::libc::c_long) -> rustix::io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(rustix::io::Errno::from_raw_os_error(nix::errno::Errno::last_raw())) }
}

/// Takes a network interface down (`SIOCSIFFLAGS`), so that its device stops writing to memory.
///
/// # Errors
/// The errno of the call; `EINVAL` for a name that is too long.
pub fn interface_down(socket: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut request = nix::libc::ifreq {
        ifr_name: [0; nix::libc::IFNAMSIZ],
        ifr_ifru: nix::libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.len() >= nix::libc::IFNAMSIZ {
        return Err(rustix::io::Errno::INVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = nix::libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request is a whole `ifreq` with a terminated name; the call fills in its flags.
    errno_of(unsafe { nix::libc::ioctl(socket.as_raw_fd(), nix::libc::SIOCGIFFLAGS, &raw mut request) }.into())?;
    // SAFETY: the call above filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = nix::libc::c_short::try_from(nix::libc::IFF_UP).unwrap_or(1);
    request.ifr_ifru.ifru_flags = flags & !up;
    // SAFETY: as for the first call; this one only reads the request.
    errno_of(unsafe { nix::libc::ioctl(socket.as_raw_fd(), nix::libc::SIOCSIFFLAGS, &raw const request) }.into())
}
