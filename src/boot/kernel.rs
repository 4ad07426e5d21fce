//! A Linux kernel as placing sees it: from a bzImage, or uncompressed (vmlinux).
//!
//! A vmlinux is entered where a bzImage ends up after unpacking itself (`arch/x86/kernel/head_64.S: startup_64`). That
//! code finds out where it lies and adapts its page tables, in steps of 2 MiB; virtual addresses stay as linked, so
//! nothing in the file needs relocating.

use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use crate::abi::bootparam::{
    BOOT_FLAG, HEADER_MAGIC, LOADED_HIGH, XLF_5LEVEL, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_EFI_KEXEC, XLF_KERNEL_64,
    setup_header,
};
use crate::error::{Error, Kind, Result};
use crate::image::elf::{Load, Machine};
use crate::image::{self, BzImage, Elf};
use crate::mem::{Bytes, PAGE_SIZE};

/// Steps in which `startup_64` can be moved (`PMD_SIZE`).
const VMLINUX_ALIGN: u64 = 2 << 20;
/// `COMMAND_LINE_SIZE` on x86, without the final NUL.
const COMMAND_LINE_MAX: u32 = 2047;
/// The newest protocol whose fields are filled in.
const PROTOCOL: u16 = 0x20f;

/// By which of its entry points a kernel is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryMode {
    /// 64-bit, anywhere in memory.
    #[default]
    Long,
    /// 32-bit, below 4 GiB.
    Protected,
    /// 16-bit: the setup code asks the BIOS again.
    Real,
}

/// What the loader needs to know of a kernel. Holding one proves that it can be entered by its mode.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What goes into `boot_params`.
    pub header: setup_header,
    /// How it is entered.
    pub mode: EntryMode,
    /// Its parts, at the addresses it was linked for.
    pub loads: Vec<Load>,
    /// Where it was linked for: `pref_address`.
    pub base: u64,
    /// Memory it needs from there on, whole pages.
    pub len: u64,
    /// Steps it may be moved in; `None` if it may not be.
    pub align: Option<u64>,
    /// The entry point of its mode, from `base`.
    pub entry: u64,
    /// 16-bit setup code.
    pub setup: Bytes,
}

impl Kernel {
    /// A bzImage, to be entered by `mode`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if it has no such entry point.
    pub fn from_bzimage(image: &BzImage, mode: EntryMode) -> Result<Self> {
        if mode == EntryMode::Long && !image.has_entry_64() {
            let text = "the kernel has no 64-bit entry point (xloadflags bit 0 is clear); use --entry-32bit";
            return Err(Error::new(Kind::Invalid, text));
        }
        let base = image.header.pref_address.get();
        Ok(Self {
            header: image.header.clone(),
            mode,
            loads: vec![Load { phys: base, virt: 0, len: image.memory_len(), data: image.code.clone() }],
            base,
            len: image.memory_len(),
            align: image.is_relocatable().then(|| u64::from(image.header.kernel_alignment.get())),
            entry: if mode == EntryMode::Long { BzImage::entry_64(0) } else { 0 },
            setup: image.setup(),
        })
    }

    /// An uncompressed kernel.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for one that is not x86_64.
    pub fn from_vmlinux(elf: &Elf) -> Result<Self> {
        if elf.machine != Machine::X86_64 {
            return Err(Error::new(Kind::Invalid, "the vmlinux is for i386; only x86_64 kernels are loaded from ELF"));
        }
        let extent = elf.extent();
        let base = extent.start();
        let len = extent.len().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let mut header = setup_header::new_zeroed();
        header.boot_flag = U16::new(BOOT_FLAG);
        header.header = U32::new(HEADER_MAGIC);
        header.version = U16::new(PROTOCOL);
        header.loadflags = LOADED_HIGH;
        header.initrd_addr_max = U32::new(0x7fff_ffff);
        header.relocatable_kernel = 1;
        header.kernel_alignment = U32::new(2 << 20);
        // An ELF file does not say whether it was built with X86_5LEVEL, as nearly every kernel since Linux 4.17 is.
        header.xloadflags = U16::new(XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G | XLF_EFI_KEXEC | XLF_5LEVEL);
        header.cmdline_size = U32::new(COMMAND_LINE_MAX);
        header.pref_address = U64::new(base);
        header.init_size = U32::new(u32::try_from(len).unwrap_or(u32::MAX));
        Ok(Self {
            header,
            mode: EntryMode::Long,
            loads: elf.loads.clone(),
            base,
            len,
            align: base.is_multiple_of(VMLINUX_ALIGN).then_some(VMLINUX_ALIGN),
            entry: elf.entry.saturating_sub(base),
            setup: Bytes::default(),
        })
    }

    /// The kernel inside a bzImage, entered where the bzImage would end up: no memory is needed to unpack it in, and no
    /// time. What the code that unpacks does besides (KASLR, switching the number of paging levels) is not done.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if the image holds no x86_64 kernel in a format known here, or one that can't be moved.
    pub fn unpacked(packed: &BzImage) -> Result<Self> {
        let invalid = |text: &str| Error::new(Kind::Invalid, text);
        let payload = packed.payload();
        let bytes = match image::decompress::unwrap(&payload, image::MAX_UNPACKED)? {
            Some(bytes) => Bytes::from(bytes),
            None => payload,
        };
        let elf = Elf::parse(&bytes)?.ok_or_else(|| invalid("its payload is no ELF file"))?;
        let kernel = Self::from_vmlinux(&elf)?;
        if !packed.is_relocatable() || kernel.align.is_none() {
            return Err(invalid("it is not relocatable"));
        }
        let mut header = packed.header.clone();
        header.kernel_alignment = kernel.header.kernel_alignment;
        header.pref_address = kernel.header.pref_address;
        header.init_size = kernel.header.init_size;
        Ok(Self { header, setup: packed.setup(), ..kernel })
    }

    /// Longest command line in bytes, without the final NUL.
    pub fn command_line_max(&self) -> usize {
        usize::try_from(self.header.cmdline_size.get()).unwrap_or(usize::MAX)
    }

    /// First address that kernel, initrd and `boot_params` may not reach.
    pub fn top(&self) -> u64 {
        let below_4g = match self.header.initrd_addr_max.get() {
            0 => 0x3800_0000,
            max => u64::from(max).saturating_add(1),
        };
        match self.mode {
            EntryMode::Long if self.has(XLF_CAN_BE_LOADED_ABOVE_4G) => u64::MAX,
            _ => below_4g,
        }
    }

    /// Whether it may be entered with 5-level paging on: out of 64-bit mode, paging is off.
    pub fn takes_5_levels(&self) -> bool {
        self.mode != EntryMode::Long || self.has(XLF_5LEVEL)
    }

    /// Whether it takes over EFI runtime memory from a kexec.
    pub fn takes_efi(&self) -> bool {
        self.mode != EntryMode::Real && self.has(XLF_EFI_KEXEC)
    }

    fn has(&self, flag: u16) -> bool {
        self.header.xloadflags.get() & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmlinux() -> Elf {
        let load = |phys, len, data: &[u8]| Load { phys, virt: 0, len, data: data.to_vec().into() };
        Elf {
            machine: Machine::X86_64,
            entry: 0x100_0040,
            loads: vec![load(0x100_0000, 0x1000, b"x"), load(0x120_0000, 0x12_3456, b"")],
        }
    }

    #[test]
    fn a_vmlinux_can_be_moved_and_says_what_it_takes() {
        let kernel = Kernel::from_vmlinux(&vmlinux()).expect("a kernel");
        assert_eq!((kernel.base, kernel.len, kernel.entry), (0x100_0000, 0x32_4000, 0x40));
        assert_eq!((kernel.align, kernel.top()), (Some(2 << 20), u64::MAX));
        assert!(kernel.takes_5_levels() && kernel.takes_efi());
        let i386 = Elf { machine: Machine::I386, ..vmlinux() };
        assert!(Kernel::from_vmlinux(&i386).expect_err("refused").to_string().contains("for i386"));
    }
}
