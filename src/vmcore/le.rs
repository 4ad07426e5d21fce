//! Little-endian numbers at offsets of byte slices that may be too short: `None` instead of a panic.

/// `N` bytes at `offset`.
pub fn bytes_at<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// A 16-bit number at `offset`.
pub fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    bytes_at(data, offset).map(u16::from_le_bytes)
}

/// A 32-bit number at `offset`.
pub fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    bytes_at(data, offset).map(u32::from_le_bytes)
}

/// A 64-bit number at `offset`.
pub fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    bytes_at(data, offset).map(u64::from_le_bytes)
}

/// A number as an index. Exact: the house is built for 64 bits only.
pub const fn index(n: u64) -> usize {
    const { assert!(usize::BITS == 64) };
    #[expect(clippy::as_conversions, reason = "lossless, by the assertion above")]
    {
        n as usize
    }
}

/// A length as a 64-bit number. Exact, as in [`index`].
pub const fn wide(n: usize) -> u64 {
    #[expect(clippy::as_conversions, reason = "lossless: no target has more than 64 bits")]
    {
        n as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_edge_of_a_slice() {
        let data = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(u16_at(&data, 7), Some(0x0908));
        assert_eq!(u16_at(&data, 8), None);
        assert_eq!(u32_at(&data, 5), Some(0x0908_0706));
        assert_eq!(u64_at(&data, 1), Some(0x0908_0706_0504_0302));
        assert_eq!(u64_at(&data, usize::MAX), None);
    }
}
