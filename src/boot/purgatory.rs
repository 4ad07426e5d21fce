//! The purgatory: position-independent code that checks every segment's SHA-256 digest between two kernels.
//!
//! Its text is `purgatory.S`, assembled into this binary; [`build`] copies it and fills in its fields, so there are no
//! relocations and no blob. Digests run over whole 64-byte blocks: the kernel zero-fills the rest of a segment's last
//! page, and so does [`Digest`]. On a mismatch the machine is reset, not left spinning.
// UNSAFETY: the bounds of the assembled text are linker symbols, and the tests call its SHA-256.
#![expect(unsafe_code)]

use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Kind, Result};
use crate::mem::Range;

core::arch::global_asm!(include_str!("purgatory.S"));

unsafe extern "C" {
    safe static kdumpbox_purgatory_start: u8;
    safe static kdumpbox_purgatory_entry: u8;
    safe static kdumpbox_purgatory_end: u8;
}

/// `flags`: go on without looking at the digest (`--no-checks`).
const SKIP_CHECKS: u64 = 1;
/// `flags`: print a line on entry (`--console-serial`).
const ANNOUNCE: u64 = 2;
/// `flags`: program the VGA for text (`--reset-vga`).
const RESET_VGA: u64 = 4;
/// `flags`: print on the VGA's text screen too (`--console-vga`).
const CONSOLE_VGA: u64 = 8;

/// First serial port; a mismatch is told there unless another one is named.
pub const COM1: u16 = 0x3f8;

/// Regions the digest may cover: every segment of `kexec_load(2)`.
pub const MAX_REGIONS: usize = 16;

const BLOCK: u64 = 64;

/// FIPS 180-4, section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The fields at the start of the text, in its order.
#[repr(C)]
#[derive(FromZeros, IntoBytes, Immutable, KnownLayout)]
struct Fields {
    target_entry: u64,
    target_rsi: u64,
    target_rdi: u64,
    target_eax: u32,
    target_ebx: u32,
    mode: u64,
    backup_from: u64,
    backup_to: u64,
    backup_len: u64,
    jump_back: u64,
    copy_from: u32,
    copy_to: u32,
    copy_len: u64,
    serial_port: u32,
    serial_divisor: u32,
    flags: u64,
    region_count: u64,
    regions: [[u64; 2]; MAX_REGIONS],
    last_block: [u8; 64],
    digest: [u32; 8],
    state: [u32; 8],
}

const _: () = assert!(size_of::<Fields>() == 112 + 16 * MAX_REGIONS + 128);

/// How the next kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In 64-bit mode with memory mapped one to one.
    Long {
        /// RIP.
        entry: u64,
        /// RSI: Linux's `boot_params`.
        rsi: u64,
        /// RDI: ELF boot notes.
        rdi: u64,
    },
    /// In flat 32-bit protected mode with paging off. Everything, the purgatory included, lies below 4 GiB.
    Protected {
        /// EIP.
        entry: u32,
        /// ESI: Linux's `boot_params`.
        esi: u32,
        /// EAX: multiboot's magic.
        eax: u32,
        /// EBX: multiboot's information.
        ebx: u32,
    },
    /// In real mode, at this segment + 0x20, stack below 0xe000. The purgatory lies below 640 KiB.
    Real {
        /// DS, ES, FS, GS, SS: Linux's setup code.
        segment: u16,
    },
}

impl Default for Start {
    fn default() -> Self {
        Self::Long { entry: 0, rsi: 0, rdi: 0 }
    }
}

impl Start {
    /// First address that the purgatory may not reach.
    pub const fn purgatory_end(&self) -> u64 {
        match self {
            Self::Long { .. } => u64::MAX,
            Self::Protected { .. } => 1 << 32,
            Self::Real { .. } => 0xa_0000,
        }
    }

    fn fill(self, fields: &mut Fields) {
        fields.mode = match self {
            Self::Long { .. } => 64,
            Self::Protected { .. } => 32,
            Self::Real { .. } => 16,
        };
        match self {
            Self::Long { entry, rsi, rdi } => {
                (fields.target_entry, fields.target_rsi, fields.target_rdi) = (entry, rsi, rdi);
            }
            Self::Protected { entry, esi, eax, ebx } => {
                (fields.target_entry, fields.target_rsi) = (entry.into(), esi.into());
                (fields.target_eax, fields.target_ebx) = (eax, ebx);
            }
            Self::Real { segment } => fields.target_entry = segment.into(),
        }
    }
}

/// What the purgatory does besides verifying.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// How it ends.
    pub start: Start,
    /// Memory copied away before anything else, and where to (a crash kernel's first 640 KiB).
    pub backup: Option<(Range, u64)>,
    /// Memory copied at the end, and where to, all below 4 GiB: with [`Start::Protected`] only, since paging is off then
    /// and reaches what the way here did not map.
    pub copy: Option<(Range, u64)>,
    /// I/O port of the UART for messages; 0 for none.
    pub serial_port: u16,
    /// Divisor of 115200 to program the UART with; 0 leaves it alone.
    pub serial_divisor: u16,
    /// Print a line on entry, not only on a mismatch.
    pub announce: bool,
    /// Go on without verifying.
    pub skip_checks: bool,
    /// Program the VGA for text mode first.
    pub reset_vga: bool,
    /// Print on the VGA's text screen too.
    pub console_vga: bool,
    /// Physical address of 16 hexadecimal digits to replace by the address that leads back to the running kernel.
    pub jump_back: Option<u64>,
}

/// The digest over several regions, in the order they are added.
#[derive(Default)]
pub struct Digest {
    sha: sha2::Sha256,
    regions: Vec<[u64; 2]>,
    total: u64,
}

impl Digest {
    /// Covers `data`, which will lie at `address`.
    pub fn add(&mut self, address: u64, data: &[u8]) {
        use sha2::Digest as _;
        self.sha.update(data);
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let padded = len.next_multiple_of(BLOCK);
        let zeros = usize::try_from(padded.saturating_sub(len)).unwrap_or(0);
        self.sha.update([0u8; 64].get(..zeros).unwrap_or_default());
        self.total = self.total.saturating_add(padded);
        if padded > 0 {
            self.regions.push([address, padded]);
        }
    }

    /// The words the purgatory's state must end with. The padding block is part of SHA-256 itself.
    fn words(&self) -> [u32; 8] {
        use sha2::Digest as _;
        let bytes = self.sha.clone().finalize();
        let mut words = [0; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = chunk.iter().fold(0, |w: u32, b| w << 8 | u32::from(*b));
        }
        words
    }

    /// SHA-256's last block after a whole number of blocks: a one bit, zeros, the length in bits.
    fn last_block(&self) -> [u8; 64] {
        let mut block = [0; 64];
        let bits = self.total.wrapping_mul(8).to_be_bytes();
        if let Some((first, rest)) = block.split_first_mut() {
            *first = 0x80;
            if let Some(tail) = rest.last_chunk_mut() {
                *tail = bits;
            }
        }
        block
    }
}

/// The assembled text, fields all zero.
fn text() -> &'static [u8] {
    let start = &raw const kdumpbox_purgatory_start;
    let len = (&raw const kdumpbox_purgatory_end).addr().wrapping_sub(start.addr());
    // SAFETY: both symbols bound one section of this binary that is mapped readable and never written.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Bytes of the purgatory, whatever is filled in.
pub fn len() -> usize {
    text().len()
}

/// Distance from the purgatory's start to its entry point, bytes.
pub fn entry_offset() -> u64 {
    let start = (&raw const kdumpbox_purgatory_start).addr();
    let offset = (&raw const kdumpbox_purgatory_entry).addr().wrapping_sub(start);
    u64::try_from(offset).unwrap_or(0)
}

/// The purgatory, filled in. It goes to any page-aligned address.
///
/// # Errors
/// [`Kind::Invalid`] for more than [`MAX_REGIONS`] regions.
pub fn build(settings: &Settings, digest: &Digest) -> Result<Vec<u8>> {
    let mut fields = Fields::new_zeroed();
    settings.start.fill(&mut fields);
    fields.jump_back = settings.jump_back.unwrap_or(0);
    if let Some((from, to)) = settings.backup {
        (fields.backup_from, fields.backup_to, fields.backup_len) = (from.start(), to, from.len());
    }
    if let Some((from, to)) = settings.copy {
        let word = |address| u32::try_from(address).unwrap_or(0);
        (fields.copy_from, fields.copy_to, fields.copy_len) = (word(from.start()), word(to), from.len());
    }
    fields.serial_port = settings.serial_port.into();
    fields.serial_divisor = settings.serial_divisor.into();
    for (asked, flag) in [
        (settings.skip_checks, SKIP_CHECKS),
        (settings.announce, ANNOUNCE),
        (settings.reset_vga, RESET_VGA),
        (settings.console_vga, CONSOLE_VGA),
    ] {
        fields.flags |= if asked { flag } else { 0 };
    }
    if digest.regions.len() > MAX_REGIONS {
        let message = format!("{} segments to verify; the purgatory holds {MAX_REGIONS}", digest.regions.len());
        return Err(Error::new(Kind::Invalid, message));
    }
    for (slot, region) in fields.regions.iter_mut().zip(&digest.regions) {
        *slot = *region;
        fields.region_count = fields.region_count.saturating_add(1);
    }
    fields.last_block = digest.last_block();
    fields.digest = digest.words();
    fields.state = INITIAL;
    let mut bytes = text().to_vec();
    if let Some(place) = bytes.get_mut(..size_of::<Fields>()) {
        place.copy_from_slice(fields.as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn kdumpbox_sha256_blocks(state: *mut u32, data: *const u8, blocks: u64);
    }

    fn blocks(state: &mut [u32; 8], data: &[u8]) {
        assert_eq!(data.len() % 64, 0);
        // SAFETY: the state has eight words, and `data` holds as many whole blocks as are announced.
        unsafe { kdumpbox_sha256_blocks(state.as_mut_ptr(), data.as_ptr(), data.len() as u64 / 64) };
    }

    /// What the purgatory does: every region in whole blocks, then the last block.
    fn in_purgatory(digest: &Digest, regions: &[Vec<u8>]) -> [u32; 8] {
        let mut state = INITIAL;
        for region in regions {
            let mut padded = region.clone();
            padded.resize(region.len().next_multiple_of(64), 0);
            blocks(&mut state, &padded);
        }
        blocks(&mut state, &digest.last_block());
        state
    }

    #[test]
    fn the_assembled_sha256_agrees_with_the_crate() {
        let byte = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8;
        for lens in [&[][..], &[0], &[1], &[63, 64, 65], &[4096, 100_000, 3]] {
            let regions: Vec<Vec<u8>> = lens.iter().map(|n| (0..*n).map(byte).collect()).collect();
            let mut digest = Digest::default();
            for region in &regions {
                digest.add(0, region);
            }
            assert_eq!(in_purgatory(&digest, &regions), digest.words(), "{lens:?}");
            let Some(damaged) = regions.iter().position(|r| !r.is_empty()) else { continue };
            let mut other = regions.clone();
            other[damaged][0] ^= 1;
            assert_ne!(in_purgatory(&digest, &other), digest.words(), "{lens:?}");
        }
    }

    #[test]
    fn abc_is_the_standards_own_example() {
        let mut block = [0; 64];
        block[..4].copy_from_slice(b"abc\x80");
        block[63] = 24;
        let mut state = INITIAL;
        blocks(&mut state, &block);
        assert_eq!((state[0], state[7]), (0xba78_16bf, 0xf200_15ad));
    }

    #[test]
    fn fields_land_where_the_text_reads_them() {
        let settings = Settings {
            start: Start::Long { entry: 0x1122, rsi: 0x3344, rdi: 0 },
            serial_port: COM1,
            ..Settings::default()
        };
        let mut digest = Digest::default();
        digest.add(0x5000, &[1; 100]);
        let built = build(&settings, &digest).expect("builds");
        let word = |at: usize| u64::from_le_bytes(built[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!([word(0), word(8), word(32), word(88)], [0x1122, 0x3344, 64, 0x3f8]);
        assert_eq!([word(104), word(112), word(120)], [1, 0x5000, 128]);
        assert_eq!(built.len(), len());
        assert!(entry_offset() as usize > size_of::<Fields>() && (entry_offset() as usize) < built.len());
        assert!(built[size_of::<Fields>()..] == text()[size_of::<Fields>()..]);
    }

    #[test]
    fn the_text_holds_no_absolute_address() {
        // Position-independent text is the same wherever this binary was mapped: no byte run equals our own address.
        let own = (text().as_ptr().addr() as u64 >> 12).to_le_bytes();
        assert!(!text().windows(5).any(|w| w == &own[..5]));
    }

    #[test]
    fn too_many_regions_are_refused() {
        let mut digest = Digest::default();
        for i in 0..17 {
            digest.add(i * 4096, &[0; 64]);
        }
        assert!(build(&Settings::default(), &digest).expect_err("refused").to_string().contains("17 segments"));
    }
}
