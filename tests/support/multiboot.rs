//! Writes multiboot headers word by word, as the two specifications number them.
//!
//! A writer of the tests' own: it shares no structure with the reader it tests.

/// A header of version 1: `flags`, and the address fields' five words behind the checksum.
pub fn header_1(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let words = [0x1bad_b002, flags, checksum];
    words.iter().chain(addresses).flat_map(|w| w.to_le_bytes()).collect()
}

/// A header of version 2 with these tags; the end tag is added.
pub fn header_2(tags: &[Vec<u8>]) -> Vec<u8> {
    let mut body: Vec<u8> = tags.concat();
    body.extend(tag(0, 0, &[]));
    let len = 16 + body.len() as u32;
    let checksum = 0u32.wrapping_sub(0xe852_50d6).wrapping_sub(len);
    let mut header: Vec<u8> = [0xe852_50d6, 0, len, checksum].iter().flat_map(|w| w.to_le_bytes()).collect();
    header.extend(body);
    header
}

/// A tag of version 2 with these words, padded to 8 bytes.
pub fn tag(kind: u16, flags: u16, words: &[u32]) -> Vec<u8> {
    let mut tag = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    tag.extend((8 + 4 * words.len() as u32).to_le_bytes());
    tag.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    tag.resize(tag.len().next_multiple_of(8), 0);
    tag
}

/// What Xen asks for, in its order.
pub fn xen_2() -> Vec<u8> {
    header_2(&[
        tag(1, 0, &[4, 6]),
        tag(6, 0, &[]),
        tag(10, 1, &[0x20_0000, 0xffff_ffff, 0x20_0000, 2]),
        tag(4, 1, &[2]),
        tag(5, 1, &[0, 0, 0]),
        tag(7, 1, &[]),
        tag(9, 1, &[0x20_0200]),
    ])
}
