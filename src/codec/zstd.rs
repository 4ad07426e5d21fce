//! zstd (RFC 8878), a file of it in memory.

use std::io::{Read, Result};

/// What `packed` holds, no more than `most` bytes. Where it says its size, without a window beside the result: modules are
/// unpacked where memory is short.
///
/// # Errors
/// Those of the decoder, for bytes that are no zstd.
pub fn decode(packed: &[u8], most: u64) -> Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().filter(|size| *size <= most);
    let whole = size.and_then(|size| zstd::bulk::decompress(packed, usize::try_from(size).ok()?).ok());
    whole.map_or_else(
        || {
            let mut data = Vec::new();
            zstd::Decoder::new(packed)?.take(most).read_to_end(&mut data)?;
            Ok(data)
        },
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_and_without_its_size_in_one_frame_and_in_two() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let sized = zstd::bulk::compress(&data, 3).expect("packed");
        let streamed = zstd::encode_all(&data[..], 3).expect("packed");
        for packed in [&sized, &streamed] {
            assert!(decode(packed, 1 << 20).expect("unpacked") == data);
            let half = packed.get(..packed.len() / 2).expect("half");
            assert!(decode(half, 1 << 20).is_err());
        }
        let twice = decode(&[sized, streamed].concat(), 1 << 20).expect("unpacked");
        assert!(twice == data.repeat(2));
        assert!(decode(b"no zstd", 1 << 20).is_err());
    }
}
