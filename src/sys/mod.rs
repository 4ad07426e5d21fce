//! Every system call that needs `unsafe`, wrapped so that no caller can misuse it.
// UNSAFETY: mappings of files; kexec system calls and interface flags, which no crate wraps; symbols of glibc, and of the
// assembled text.
#![expect(unsafe_code)]

pub mod privcmd;

use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

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
/// The file may change or shrink underneath: bytes are read, never referenced, and a page that is gone fails the copy.
pub struct Mapping {
    start: *const u8,
    len: usize,
}

thread_local! {
    /// Start and end of the mapping that this thread copies from, and whether a page of it was gone: atomic because the
    /// thread's own signal handler looks at them.
    static COPYING: [AtomicUsize; 3] = const { [AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)] };
}

/// What SIGBUS does: a page that is gone from a mapping being copied becomes zeros, and the copy goes on to say so. Any
/// other one ends the process, as it would have.
extern "C" fn page_gone(signal: c_int, info: *mut nix::libc::siginfo_t, _context: *mut c_void) {
    const PAGE: usize = 4096;
    // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: that of SIGBUS has an address in it.
    let at = unsafe { info.si_addr() }.addr();
    let ours = COPYING.with(|c| c[0].load(Ordering::Relaxed) <= at && at < c[1].load(Ordering::Relaxed));
    let page = std::ptr::without_provenance_mut::<c_void>(at & !(PAGE - 1));
    // SAFETY: the page belongs to a mapping that this thread is reading and nobody else refers to; mmap(2) is a plain
    // system call here, as safe in a handler as anywhere.
    let replaced = ours
        && unsafe {
            rustix::mm::mmap_anonymous(page, PAGE, ProtFlags::READ, MapFlags::PRIVATE.union(MapFlags::FIXED)).is_ok()
        };
    if replaced {
        COPYING.with(|c| c[2].store(1, Ordering::Relaxed));
    } else {
        // SAFETY: the default action needs no handler; the access is tried again and ends the process.
        unsafe { nix::libc::signal(signal, nix::libc::SIG_DFL) };
    }
}

/// Makes [`page_gone`] answer SIGBUS.
fn expect_gone_pages() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let handler = nix::sys::signal::SigHandler::SigAction(page_gone);
        let flags = nix::sys::signal::SaFlags::SA_ONSTACK;
        let action = nix::sys::signal::SigAction::new(handler, flags, nix::sys::signal::SigSet::empty());
        // SAFETY: the handler touches atomics of its own thread and makes one system call: both may happen at any moment.
        let _ = unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGBUS, &action) };
    });
}

// SAFETY: the mapping is read-only, owned by this value, and not tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (a multiple of the page size).
    ///
    /// # Errors
    /// The errno of `mmap(2)`.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> rustix::io::Result<Self> {
        expect_gone_pages();
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

    /// Fills `buf` from `offset` bytes into the mapping; `false` if that is not all inside, or a page of it is gone from
    /// the file. Such a page stays zero in this mapping.
    pub fn copy_to(&self, offset: usize, buf: &mut [u8]) -> bool {
        if offset.checked_add(buf.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: offset is within the mapping, by the test above.
        let from = unsafe { self.start.add(offset) };
        let start = self.start.addr();
        let set = |values: [usize; 3]| {
            COPYING.with(|c| c.iter().zip(values).for_each(|(c, v)| c.store(v, Ordering::Relaxed)));
            // What the signal handler of this thread may see and change stays on its side of the copy.
            compiler_fence(Ordering::SeqCst);
        };
        set([start, start + self.len, 0]);
        // SAFETY: `buf.len()` bytes from `from` are mapped readable by the test above, `buf` is writable for as many
        // and can't overlap a mapping that only this value refers to. A page that is gone is replaced by `page_gone`.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        compiler_fence(Ordering::SeqCst);
        let whole = COPYING.with(|c| c[2].load(Ordering::Relaxed) == 0);
        set([0; 3]);
        whole
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

#[cfg(not(debug_assertions))]
mod glibc {
    //! The parts of a static glibc that nothing here can reach, replaced by stubs: 340 KB of the binary.
    //!
    //! A static glibc carries its translations, its character set converters, its formatted input and output and its
    //! resolver into every program, by way of `malloc_stats`, `assert` and thread start, none of which uses them here.
    //! A symbol defined by the program keeps the archive's own out. Rust formats its own text; zstd and libdeflate print
    //! nothing. What changes: glibc's own last words (a failed `assert`) lose their text, and the error text of a number
    //! that glibc doesn't know is empty. Release builds only: without LTO the standard library's dead code asks for the
    //! real ones. A glibc without one of these names doesn't ask for it.

    use std::ffi::{c_char, c_int, c_uint, c_void};

    /// gettext's lookup (`intl/dcgettext.c`): a message is its own translation, as in the C locale.
    #[unsafe(no_mangle)]
    extern "C" fn __dcgettext(_domain: *const c_char, message: *const c_char, _category: c_int) -> *const c_char {
        message
    }

    /// The engine of the printf family (`stdio-common/vfprintf-internal.c`): fails, as with a stream that can't be written.
    #[unsafe(no_mangle)]
    extern "C" fn __vfprintf_internal(
        _file: *mut c_void,
        _format: *const c_char,
        _args: *mut c_void,
        _mode: c_uint,
    ) -> c_int {
        -1
    }

    /// The same for wide characters (`stdio-common/vfwprintf-internal.c`).
    #[unsafe(no_mangle)]
    extern "C" fn __vfwprintf_internal(
        _file: *mut c_void,
        _format: *const c_void,
        _args: *mut c_void,
        _mode: c_uint,
    ) -> c_int {
        -1
    }

    /// The engine of the scanf family (`stdio-common/vfscanf-internal.c`): the end of the input.
    ///
    /// Its one caller, `pthread_getattr_np`, then says that it doesn't know the main thread's stack, which costs the
    /// words "has overflowed its stack" and nothing else.
    #[unsafe(no_mangle)]
    extern "C" fn __vfscanf_internal(
        _file: *mut c_void,
        _format: *const c_char,
        _args: *mut c_void,
        _mode: c_uint,
    ) -> c_int {
        -1
    }

    // The resolver's state of a thread (`resolv/res_libc.c`), which thread start sets and nobody reads.
    std::arch::global_asm!(
        ".pushsection .tbss.__libc_resp, \"awT\", @nobits",
        ".globl __libc_resp",
        ".p2align 3",
        "__libc_resp: .zero 8",
        ".size __libc_resp, 8",
        ".popsection",
    );
}

core::arch::global_asm!(include_str!("packed.S"));

unsafe extern "C" {
    safe static kdumpbox_packed_start: u8;
    safe static kdumpbox_packed_entry: u8;
    safe static kdumpbox_packed_end: u8;
}

/// The code of a program that unpacks another (`packed.S`), fields at its start, and the offset at which it is entered.
pub fn unpacker() -> (&'static [u8], usize) {
    let start = &raw const kdumpbox_packed_start;
    let offset = |symbol: *const u8| symbol.addr().wrapping_sub(start.addr());
    // SAFETY: both symbols bound one section of read-only text.
    let text = unsafe { std::slice::from_raw_parts(start, offset(&raw const kdumpbox_packed_end)) };
    (text, offset(&raw const kdumpbox_packed_entry))
}
