//! Hypercalls from dom0 through Linux's privcmd device, and the memory that they may point to.
//!
//! A hypercall faults on memory that is not mapped at that very moment. `/dev/xen/hypercall` gives memory that always
//! is; where it is missing (before Linux 4.18) or refuses a large piece (64 pages before 5.0), locked memory is next best.
// UNSAFETY: an ioctl that no crate wraps, and mappings that the hypervisor reads and writes.
#![expect(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::errno_of;
use crate::abi::bootparam::boot_e820_entry;
use crate::abi::xen::{
    HYPERVISOR_KEXEC_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_XEN_VERSION, IOCTL_PRIVCMD_HYPERCALL, XEN_COMMANDLINE_LEN,
    XENMEM_MACHINE_MEMORY_MAP, XENVER_COMMANDLINE, privcmd_hypercall,
};

const PAGE: usize = 4096;
const E820_RECORD: usize = size_of::<boot_e820_entry>();

/// What an argument points to: an array, whose elements may point to data in their turn.
pub struct Behind<'a> {
    /// Offset in the argument of the address of `array`.
    pub at: usize,
    /// Read by the hypervisor, and written back.
    pub array: &'a mut [u8],
    /// Offsets in `array` of the addresses of these bytes, which are only read.
    pub data: &'a [(usize, &'a [u8])],
}

/// A hypervisor to be asked; a recording in tests.
pub trait Hypercall {
    /// Does `op` with the command `cmd` and `argument`, which is read and written back.
    ///
    /// # Errors
    /// The hypervisor's errno, or that of getting memory for the call.
    fn call(&self, op: u64, cmd: u64, argument: &mut [u8], behind: Option<Behind<'_>>) -> Result<u64, Errno>;
}

/// The hypervisor that this kernel runs on.
#[derive(Debug)]
pub struct Privcmd {
    calls: File,
    memory: Option<File>,
}

impl Privcmd {
    /// On the open files `/dev/xen/privcmd` and, if there is one, `/dev/xen/hypercall`.
    pub fn new(calls: File, memory: Option<File>) -> Self {
        Self { calls, memory }
    }

    fn buffer(&self, len: usize) -> Result<Buffer, Errno> {
        match self.memory.as_ref().map(|file| Buffer::map(len, Some(file.as_fd()))) {
            Some(Ok(buffer)) => Ok(buffer),
            _ => Buffer::map(len, None),
        }
    }

    fn filled(&self, bytes: &[u8]) -> Result<Buffer, Errno> {
        let mut buffer = self.buffer(bytes.len())?;
        buffer.write(bytes);
        Ok(buffer)
    }
}

impl Hypercall for Privcmd {
    fn call(&self, op: u64, cmd: u64, argument: &mut [u8], behind: Option<Behind<'_>>) -> Result<u64, Errno> {
        // Only these are known to write nowhere but to `argument` and, for the map, to as many records of `array`.
        let records =
            argument.first_chunk().map_or(0, |n| usize::try_from(u32::from_le_bytes(*n)).unwrap_or(usize::MAX));
        let room = behind.as_ref().map_or(0, |b| b.array.len());
        match (op, cmd) {
            (HYPERVISOR_KEXEC_OP, _) => {}
            (HYPERVISOR_XEN_VERSION, XENVER_COMMANDLINE) if argument.len() == XEN_COMMANDLINE_LEN => {}
            (HYPERVISOR_MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP) if records <= room / E820_RECORD => {}
            _ => return Err(Errno::INVAL),
        }
        // Everything pointed to must live until the call is over.
        let mut data = Vec::new();
        let mut array = None;
        if let Some(behind) = behind {
            for (at, bytes) in behind.data {
                let buffer = self.filled(bytes)?;
                put_address(behind.array, *at, buffer.address());
                data.push(buffer);
            }
            let buffer = self.filled(behind.array)?;
            put_address(argument, behind.at, buffer.address());
            array = Some((buffer, behind.array));
        }
        let top = self.filled(argument)?;
        let call = privcmd_hypercall { op, arg: [cmd, top.address(), 0, 0, 0] };
        // SAFETY: the request is whole, and every address that the hypervisor may write to is that of a mapping of ours,
        // alive, page-sized at least (no kexec structure is as long) and as long as `argument` says, by the test above.
        let result = unsafe { nix::libc::ioctl(self.calls.as_raw_fd(), IOCTL_PRIVCMD_HYPERCALL, &raw const call) };
        errno_of(result.into())?;
        top.read(argument);
        if let Some((buffer, bytes)) = array {
            buffer.read(bytes);
        }
        Ok(u64::try_from(result).unwrap_or(0))
    }
}

fn put_address(bytes: &mut [u8], at: usize, address: u64) {
    if let Some(place) = at.checked_add(8).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(&address.to_le_bytes());
    }
}

/// Memory that a hypercall may point to.
struct Buffer {
    start: *mut u8,
    len: usize,
}

impl Buffer {
    /// At least `len` bytes, zero.
    fn map(len: usize, file: Option<BorrowedFd<'_>>) -> Result<Self, Errno> {
        let len = len.max(1).checked_next_multiple_of(PAGE).ok_or(Errno::NOMEM)?;
        let (prot, null) = (ProtFlags::READ | ProtFlags::WRITE, std::ptr::null_mut());
        let start = match file {
            // SAFETY: no address is asked for, so the kernel picks one that nothing else uses.
            Some(fd) => unsafe { rustix::mm::mmap(null, len, prot, MapFlags::SHARED, fd, 0) }?,
            None => {
                let flags = MapFlags::PRIVATE | MapFlags::LOCKED | MapFlags::POPULATE;
                // SAFETY: as above.
                let start = unsafe { rustix::mm::mmap_anonymous(null, len, prot, flags) }?;
                // A fork would make the pages copy-on-write: the hypervisor writes past that.
                // SAFETY: the advice is about a whole mapping of ours and does not change what it holds.
                let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontFork) };
                start
            }
        };
        Ok(Self { start: start.cast(), len })
    }

    fn address(&self) -> u64 {
        u64::try_from(self.start.addr()).unwrap_or(0)
    }

    /// Writes `bytes`, or as many as fit, to the start.
    fn write(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.len);
        // SAFETY: `len` bytes are readable at `bytes` and writable at `start`; a fresh mapping overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, len) };
    }

    /// Reads `bytes`, or as many as there are, from the start.
    fn read(&self, bytes: &mut [u8]) {
        let len = bytes.len().min(self.len);
        // SAFETY: as for `write`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(self.start, bytes.as_mut_ptr(), len) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: start and len are those of a mapping made in `map`, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_memory_stands_in_for_the_device() {
        let mut buffer = Buffer::map(5000, None).expect("mapped");
        assert_eq!((buffer.len, buffer.address() % 4096), (8192, 0));
        buffer.write(b"segment");
        let mut back = [0xff; 8];
        buffer.read(&mut back);
        assert_eq!(&back, b"segment\0");
    }

    #[test]
    fn a_file_that_takes_no_hypercalls_is_an_errno() {
        let null = || File::open("/dev/null").expect("opened");
        let privcmd = Privcmd::new(null(), Some(null()));
        let mut array = [0; 32];
        let data = [(0, &b"data"[..])];
        let behind = Behind { at: 8, array: &mut array, data: &data };
        let mut argument = [0; 24];
        assert_eq!(privcmd.call(37, 4, &mut argument, Some(behind)), Err(Errno::NOTTY));
        assert_ne!(argument[8..16], [0; 8], "the array's address was filled in");
        assert_ne!(array[..8], [0; 8], "and that of its data");
        let behind = Behind { at: 8, array: &mut array, data: &[] };
        argument[0] = 2;
        assert_eq!(privcmd.call(12, 10, &mut argument, Some(behind)), Err(Errno::INVAL), "two records need 40 bytes");
    }
}
