//! Little-endian numbers at an offset of a file's bytes; `None` where the file ends before.

/// The `N` bytes from `at` on.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// 16 bits.
pub(super) fn u16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// 32 bits.
pub(super) fn u32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// 64 bits.
pub(super) fn u64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// 32 bits that count bytes or are an offset.
pub(super) fn size(bytes: &[u8], at: usize) -> Option<usize> {
    u32(bytes, at).and_then(|n| usize::try_from(n).ok())
}
