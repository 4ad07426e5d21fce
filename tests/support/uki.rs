//! Writes EFI programs with sections, as `objcopy --add-section` makes a unified kernel image of an EFI stub.
//!
//! A writer of the tests' own: it shares no structure with the reader it tests. The program in it is none.

/// Where the PE header is.
pub const PE: usize = 0x80;
/// Where the first section header is.
pub const SECTIONS: usize = PE + 24 + 240;

/// The file: each section's bytes padded to 512, with its true size in `VirtualSize`.
pub fn write(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; (SECTIONS + 40 * sections.len()).next_multiple_of(512)];
    let mut at = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    at(0, b"MZ");
    at(0x3c, &(PE as u32).to_le_bytes());
    at(PE, b"PE\0\0");
    at(PE + 4, &0x8664u16.to_le_bytes());
    at(PE + 6, &(sections.len() as u16).to_le_bytes());
    at(PE + 20, &240u16.to_le_bytes()); // SizeOfOptionalHeader
    at(PE + 24, &0x20bu16.to_le_bytes()); // PE32+
    for (n, (name, data)) in sections.iter().enumerate() {
        let offset = file.len();
        file.extend(*data);
        file.resize(file.len().next_multiple_of(512), 0);
        let mut at = |field: usize, bytes: &[u8]| {
            let start = SECTIONS + 40 * n + field;
            file[start..start + bytes.len()].copy_from_slice(bytes);
        };
        at(0, name.as_bytes());
        at(8, &(data.len() as u32).to_le_bytes());
        at(12, &(0x1_0000 * (n as u32 + 1)).to_le_bytes());
        at(16, &(data.len().next_multiple_of(512) as u32).to_le_bytes());
        at(20, &(offset as u32).to_le_bytes());
    }
    file
}
