//! Writes a small bzImage by the offsets of the boot protocol (`Documentation/arch/x86/boot.rst`).
//!
//! A writer of the tests' own: it shares no structure with the reader it tests. The code in it is no kernel.

/// What the image says of itself; the defaults are those of a distribution's kernel, scaled down.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// Sectors of setup code behind the first.
    pub setup_sects: u8,
    /// Bytes of protected-mode code, a multiple of 16; the last four hold the CRC.
    pub code_len: u32,
    /// Memory needed to unpack.
    pub init_size: u32,
    /// Longest command line.
    pub cmdline_size: u32,
    /// Whether the build's CRC is at the end.
    pub crc: bool,
    /// Entry points and what they take; the default is everything.
    pub xloadflags: u16,
    /// Whether it may be loaded where it was not linked for.
    pub relocatable: bool,
    /// What it would unpack, compressed; noise where empty.
    pub payload: Vec<u8>,
}

impl Default for BzImage {
    fn default() -> Self {
        Self {
            setup_sects: 3,
            code_len: 0x1_2340,
            init_size: 0x3f8_0000,
            cmdline_size: 2047,
            crc: true,
            xloadflags: 0x7f,
            relocatable: true,
            payload: Vec::new(),
        }
    }
}

impl BzImage {
    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let setup = (usize::from(self.setup_sects) + 1) * 512;
        let mut file = vec![0u8; setup + self.code_len as usize];
        let mut at = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        at(0x000, b"MZ");
        at(0x1f1, &[self.setup_sects]);
        at(0x1f4, &(self.code_len / 16).to_le_bytes()); // syssize
        at(0x1fe, &[0x55, 0xaa]); // boot_flag
        at(0x200, &[0xeb, 0x6a]); // jump: the header ends at 0x26c
        at(0x202, b"HdrS");
        at(0x206, &[0x0f, 0x02]); // protocol 2.15
        at(0x211, &[0x01]); // loadflags: LOADED_HIGH
        at(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
        at(0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
        at(0x234, &[self.relocatable.into(), 21]); // relocatable_kernel, min_alignment
        at(0x236, &self.xloadflags.to_le_bytes()); // xloadflags
        at(0x238, &self.cmdline_size.to_le_bytes());
        at(0x248, &0x2ccu32.to_le_bytes()); // payload_offset
        let payload_len = if self.payload.is_empty() { self.code_len - 0x300 } else { self.payload.len() as u32 };
        at(0x24c, &payload_len.to_le_bytes()); // payload_length
        at(0x258, &0x100_0000u64.to_le_bytes()); // pref_address
        at(0x260, &self.init_size.to_le_bytes());
        let mut noise = 1u32;
        for byte in &mut file[setup..] {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (noise >> 24) as u8;
        }
        let payload = setup + 0x2cc;
        file[payload..payload + self.payload.len()].copy_from_slice(&self.payload);
        let end = file.len() - 4;
        let crc = if self.crc { remainder(&file[..end]) } else { 0 };
        file[end..].copy_from_slice(&crc.to_le_bytes());
        file
    }
}

/// CRC-32 bit by bit, as the kernel's build leaves it: not inverted.
fn remainder(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
