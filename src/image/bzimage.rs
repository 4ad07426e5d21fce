//! The Linux/x86 boot image (`Documentation/arch/x86/boot.rst`): header, sizes, entry points.
//!
//! The payload inside stays as it is: the kernel unpacks itself.

use zerocopy::FromBytes;

use crate::abi::bootparam::{
    BOOT_FLAG, HEADER_MAGIC, LOADED_HIGH, SETUP_HEADER_OFFSET, XLF_5LEVEL, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_EFI_KEXEC,
    XLF_KERNEL_64, setup_header,
};
use crate::error::{Error, Kind, Result};
use crate::mem::{Bytes, PAGE_SIZE};

/// Oldest protocol with `init_size` and a relocatable 64-bit entry point (Linux 3.8).
const MIN_PROTOCOL: u16 = 0x20c;
const SECTOR: usize = 512;
/// Offset of the 64-bit entry point in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Largest `init_size` believed: no kernel needs a GiB to unpack itself.
const MAX_INIT_SIZE: u32 = 1 << 30;

/// A bzImage whose header is consistent and whose bytes are all there.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// The header, as in the file; only its defined part is not zero.
    pub header: setup_header,
    /// The protected-mode code: what is loaded.
    pub code: Bytes,
    /// Setup code and protected-mode code: what the build's checksum covers.
    whole: Bytes,
}

impl BzImage {
    /// Reads the header; `None` if `file` is something else.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a bzImage that is too old, truncated, or contradicts itself.
    pub fn parse(file: &Bytes) -> Result<Option<Self>> {
        let Some((mut header, _)) =
            file.get(SETUP_HEADER_OFFSET..).and_then(|tail| setup_header::read_from_prefix(tail).ok())
        else {
            return Ok(None);
        };
        if header.boot_flag.get() != BOOT_FLAG || header.header.get() != HEADER_MAGIC {
            return Ok(None);
        }
        let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
        let version = header.version.get();
        if version < MIN_PROTOCOL {
            return invalid(format!("bzImage protocol {version:#06x} is older than {MIN_PROTOCOL:#06x} (Linux 3.8)"));
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return invalid("bzImage is a zImage: its code is loaded below 1 MiB".into());
        }
        let setup_sects = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
        let setup_len = setup_sects.saturating_add(1).saturating_mul(SECTOR);
        let code_len = usize::try_from(header.syssize.get()).unwrap_or(usize::MAX).saturating_mul(16);
        let needed = setup_len.saturating_add(code_len);
        if file.len() < needed {
            return invalid(format!(
                "bzImage is truncated: its header announces {needed} bytes, the file has {}; copy it again",
                file.len()
            ));
        }
        clear_undefined(&mut header, file);
        let image = Self { header, code: file.slice(setup_len, needed), whole: file.slice(0, needed) };
        image.check()?;
        Ok(Some(image))
    }

    fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
        let h = &self.header;
        let payload_end = u64::from(h.payload_offset.get()).saturating_add(u64::from(h.payload_length.get()));
        if payload_end > self.code_len() {
            let len = self.code_len();
            return invalid(format!("bzImage's payload ends at {payload_end:#x}, behind its {len:#x} bytes of code"));
        }
        if h.init_size.get() == 0 || h.init_size.get() > MAX_INIT_SIZE || self.code_len() > self.memory_len() {
            let (init, len) = (h.init_size.get(), self.code_len());
            return invalid(format!("bzImage's init_size {init:#x} does not fit its {len:#x} bytes of code"));
        }
        let align = h.kernel_alignment.get();
        if !align.is_power_of_two() || u64::from(align) < PAGE_SIZE || align > 1 << 30 {
            return invalid(format!("bzImage's kernel_alignment {align:#x} is no power of two from 4 KiB to 1 GiB"));
        }
        if self.code_len() <= ENTRY_64 {
            return invalid(format!("bzImage has only {:#x} bytes of code", self.code_len()));
        }
        Ok(())
    }

    /// Compares the image with the CRC of its build; `Ok(false)` if it has none.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if they differ.
    pub fn check_sum(&self) -> Result<bool> {
        super::checksum::check(&self.whole)
    }

    /// Whether `file` agrees with the CRC of its build, if it has one, when of this image only the header was read.
    ///
    /// # Errors
    /// What reading says.
    pub fn agrees_with(&self, file: &mut (impl std::io::Read + std::io::Seek)) -> std::io::Result<bool> {
        super::checksum::is_good(&self.whole, file)
    }

    /// What it unpacks when it starts: an ELF file ([`super::Elf`]), compressed, as
    /// [`decompress::unwrap`](super::decompress::unwrap) takes it.
    pub fn payload(&self) -> Bytes {
        let place = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let start = place(self.header.payload_offset.get());
        self.code.slice(start, start.saturating_add(place(self.header.payload_length.get())))
    }

    /// Bytes of protected-mode code.
    pub fn code_len(&self) -> u64 {
        u64::try_from(self.code.len()).unwrap_or(u64::MAX)
    }

    /// Memory it needs from its load address on until it has unpacked itself, whole pages.
    pub fn memory_len(&self) -> u64 {
        u64::from(self.header.init_size.get()).next_multiple_of(PAGE_SIZE)
    }

    /// Longest command line in bytes, without the final NUL (`cmdline_size`).
    pub fn command_line_max(&self) -> usize {
        usize::try_from(self.header.cmdline_size.get()).unwrap_or(usize::MAX)
    }

    /// Whether it has the 64-bit entry point.
    pub fn has_entry_64(&self) -> bool {
        self.header.xloadflags.get() & XLF_KERNEL_64 != 0
    }

    /// Whether it may be loaded at another address than it was linked for.
    pub fn is_relocatable(&self) -> bool {
        self.header.relocatable_kernel != 0
    }

    /// Whether kernel, initrd and boot_params may lie above 4 GiB.
    pub fn above_4g(&self) -> bool {
        self.header.xloadflags.get() & XLF_CAN_BE_LOADED_ABOVE_4G != 0
    }

    /// Whether it may be entered with 5-level paging on.
    pub fn takes_5_levels(&self) -> bool {
        self.header.xloadflags.get() & XLF_5LEVEL != 0
    }

    /// Whether it takes over EFI runtime memory from a kexec.
    pub fn takes_efi(&self) -> bool {
        self.header.xloadflags.get() & XLF_EFI_KEXEC != 0
    }

    /// The 16-bit setup code, header included: what precedes the protected-mode code.
    pub fn setup(&self) -> Bytes {
        self.whole.slice(0, self.whole.len().saturating_sub(self.code.len()))
    }

    /// The 64-bit entry point if loaded at `base`.
    pub fn entry_64(base: u64) -> u64 {
        base.saturating_add(ENTRY_64)
    }
}

/// Zeroes what lies behind the header's own end (0x202 + the jump's operand): there is code there, not fields.
fn clear_undefined(header: &mut setup_header, file: &[u8]) {
    use zerocopy::IntoBytes;
    let end = file.get(0x201).map_or(0, |jump| usize::from(*jump).saturating_add(0x202));
    let defined = end.saturating_sub(SETUP_HEADER_OFFSET);
    if let Some(rest) = header.as_mut_bytes().get_mut(defined..) {
        rest.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bzImage with 2 setup sectors and 4 KiB of code, every poke by its documented offset.
    fn sample() -> Vec<u8> {
        let mut file = vec![0x90; 3 * 512 + 4096];
        let mut poke = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        poke(0x1f1, &[2]);
        poke(0x1f4, &256u32.to_le_bytes()); // syssize
        poke(0x1fe, &[0x55, 0xaa]);
        poke(0x200, &[0xeb, 0x6a]);
        poke(0x202, b"HdrS\x0f\x02");
        poke(0x211, &[1]); // loadflags
        poke(0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
        poke(0x234, &[1]); // relocatable_kernel
        poke(0x236, &0x1fu16.to_le_bytes()); // xloadflags
        poke(0x238, &2047u32.to_le_bytes()); // cmdline_size
        poke(0x248, &0x300u32.to_le_bytes()); // payload_offset
        poke(0x24c, &0x100u32.to_le_bytes()); // payload_length
        poke(0x258, &0x100_0000u64.to_le_bytes()); // pref_address
        poke(0x260, &0x1001u32.to_le_bytes()); // init_size
        file
    }

    fn parse(file: Vec<u8>) -> Result<Option<BzImage>> {
        BzImage::parse(&Bytes::from(file))
    }

    #[test]
    fn a_good_image() {
        let image = parse(sample()).expect("parses").expect("a bzImage");
        assert_eq!((image.code_len(), image.memory_len(), image.command_line_max()), (4096, 8192, 2047));
        assert!(image.has_entry_64() && image.above_4g() && image.takes_efi());
        assert_eq!(image.header.kernel_info_offset.get(), 0x9090_9090);
        assert_eq!(BzImage::entry_64(0x100_0000), 0x100_0200);
        assert_eq!(image.payload().len(), 0x100);
    }

    #[test]
    fn fields_behind_the_headers_end_are_not_believed() {
        let mut file = sample();
        file[0x201] = 0x62; // ends at 0x264, behind init_size
        let image = parse(file).expect("parses").expect("a bzImage");
        assert_eq!((image.header.init_size.get(), image.header.kernel_info_offset.get()), (0x1001, 0));
    }

    #[test]
    fn broken_images_name_the_value_and_the_rule() {
        for (at, bytes, text) in [
            (0x206usize, &[0x0b, 0x02][..], "protocol 0x020b is older than 0x020c"),
            (0x211, &[0], "zImage"),
            (0x1f4, &[1, 1], "truncated: its header announces 5648 bytes, the file has 5632"),
            (0x1f1, &[9], "truncated"),
            (0x24c, &[0, 0x10, 0, 0], "payload ends at 0x1300, behind its 0x1000"),
            (0x260, &[0, 0, 0, 0], "init_size 0x0"),
            (0x260, &[0xff; 4], "init_size 0xffffffff"),
            (0x230, &[1, 0x10], "kernel_alignment 0x201001"),
        ] {
            let mut file = sample();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            let e = parse(file).expect_err(text).to_string();
            assert!(e.contains(text), "{e} lacks {text}");
        }
        assert!(parse(sample()[..0x250].to_vec()).expect("no error").is_none(), "no whole header");
        assert!(parse(vec![0; 8192]).expect("no error").is_none());
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0x7b), cut in 0usize..6000) {
            let mut file = sample();
            file[0x1f1..0x1f1 + 0x7b].copy_from_slice(&bytes);
            file[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
            file.truncate(cut);
            if let Ok(Some(image)) = parse(file) {
                prop_assert!(image.code_len() <= image.memory_len());
            }
        }
    }
}
