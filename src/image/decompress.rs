//! Compression around a kernel file: gzip (RFC 1952), xz, lzma, zstd, lz4 (frames, and the legacy frame kernels use),
//! bzip2. Output is bounded, truncated input is an error.

use std::io::Read;

use crate::error::{Error, Kind, Result};

const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// A lzma file has no magic: these are the usual properties (lc 3, lp 0, pb 2) and a dictionary of whole 64 KiB.
const LZMA: &[u8] = &[0x5d, 0, 0];
/// Memory a lzma file's dictionary may take, KiB.
const LZMA_MEMORY_KIB: u32 = 256 << 10;

/// The unpacked bytes; `None` if `file` is not compressed in a known way.
///
/// # Errors
/// [`Kind::Invalid`] for a damaged or truncated stream, or one that unpacks to more than `limit` bytes.
pub fn unwrap(file: &[u8], limit: usize) -> Result<Option<Vec<u8>>> {
    if file.starts_with(GZIP) {
        gunzip(file, limit).map(Some)
    } else if file.starts_with(XZ) {
        bounded("xz", lzma_rust2::XzReader::new(file, true), limit).map(Some)
    } else if file.starts_with(ZSTD) {
        let decoder = zstd::Decoder::with_buffer(file).map_err(|e| broken("zstd", &e.to_string()))?;
        bounded("zstd", decoder, limit).map(Some)
    } else if file.starts_with(LZ4) {
        bounded("lz4", lz4_flex::frame::FrameDecoder::new(file), limit).map(Some)
    } else if file.starts_with(LZ4_LEGACY) {
        lz4_legacy(file, limit).map(Some)
    } else if file.starts_with(b"BZh") {
        bounded("bzip2", bzip2::read::MultiBzDecoder::new(file), limit).map(Some)
    } else if file.starts_with(LZMA) {
        let decoder = lzma_rust2::LzmaReader::new_mem_limit(file, LZMA_MEMORY_KIB, None);
        bounded("lzma", decoder.map_err(|e| broken("lzma", &e.to_string()))?, limit).map(Some)
    } else {
        Ok(None)
    }
}

fn broken(format: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, format!("the {format} stream is damaged or truncated ({why})"))
}

fn too_big(format: &str, limit: usize) -> Error {
    Error::new(Kind::Invalid, format!("the {format} stream unpacks to more than {limit} bytes"))
}

fn bounded(format: &str, reader: impl Read, limit: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(bound).read_to_end(&mut out).map_err(|e| broken(format, &e.to_string()))?;
    if out.len() > limit { Err(too_big(format, limit)) } else { Ok(out) }
}

/// The frame of `lz4 -l` (`lib/decompress_unlz4.c`): blocks of up to 8 MiB, each behind its packed size. It has no end
/// mark; a size no block has (zero, or the sum the kernel's build appends) ends it.
fn lz4_legacy(file: &[u8], limit: usize) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    let mut block = vec![0; BLOCK];
    let mut rest = file.get(LZ4_LEGACY.len()..).unwrap_or_default();
    while let Some((size, tail)) = rest.split_first_chunk() {
        let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let last = tail.is_empty() && !out.is_empty();
        if last || size == 0 {
            return Ok(out);
        }
        let packed = tail.get(..size).ok_or_else(|| broken("lz4", "a block ends early"))?;
        let len = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| broken("lz4", &e.to_string()))?;
        out.extend_from_slice(block.get(..len).unwrap_or_default());
        if out.len() > limit {
            return Err(too_big("lz4", limit));
        }
        rest = tail.get(size..).unwrap_or_default();
    }
    if out.is_empty() || !rest.is_empty() { Err(broken("lz4", "it ends early")) } else { Ok(out) }
}

/// All members of a gzip file, joined.
fn gunzip(file: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = file;
    while rest.starts_with(GZIP) {
        let body = gzip_body(rest).ok_or_else(|| broken("gzip", "its header ends early"))?;
        let used = inflate(body, &mut out, limit)?;
        // Behind the data: CRC32 and length modulo 2^32 of the member.
        rest = body.get(used..).and_then(|t| t.get(8..)).ok_or_else(|| broken("gzip", "its trailer is missing"))?;
    }
    Ok(out)
}

/// What follows the header of RFC 1952, section 2.3.
fn gzip_body(file: &[u8]) -> Option<&[u8]> {
    let flags = *file.get(3)?;
    let mut rest = file.get(10..)?;
    if flags & 4 != 0 {
        let len = u16::from_le_bytes(rest.first_chunk().copied()?);
        rest = rest.get(usize::from(len).checked_add(2)?..)?;
    }
    for name_or_comment in [8, 16] {
        if flags & name_or_comment != 0 {
            let end = rest.iter().position(|b| *b == 0)?;
            rest = rest.get(end.checked_add(1)?..)?;
        }
    }
    if flags & 2 != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

/// Inflates one raw deflate stream behind `out`; returns the bytes of input it took.
fn inflate(body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<usize> {
    use miniz_oxide::inflate::stream::{InflateState, inflate};
    use miniz_oxide::{DataFormat, MZFlush, MZStatus};
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let mut buffer = vec![0; 1 << 16];
    let mut used: usize = 0;
    loop {
        let input = body.get(used..).unwrap_or_default();
        let result = inflate(&mut state, input, &mut buffer, MZFlush::None);
        used = used.saturating_add(result.bytes_consumed);
        out.extend_from_slice(buffer.get(..result.bytes_written).unwrap_or_default());
        if out.len() > limit {
            return Err(too_big("gzip", limit));
        }
        match result.status {
            Ok(MZStatus::StreamEnd) => return Ok(used),
            Ok(_) if result.bytes_consumed > 0 || result.bytes_written > 0 => {}
            Ok(_) => return Err(broken("gzip", "it ends early")),
            Err(e) => return Err(broken("gzip", &format!("{e:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gzip(data: &[u8], flags: u8, extra: &[u8]) -> Vec<u8> {
        let mut file = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255];
        file.extend(extra);
        file.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
        file.extend([0; 8]);
        file
    }

    fn sample() -> Vec<u8> {
        (0..200_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn every_format_unpacks_and_is_bounded() {
        let data = sample();
        let mut both = gzip(&data[..1000], 8 + 4, b"\x02\0xxname\0");
        both.extend(gzip(&data[1000..], 0, b""));
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).expect("a writer");
        std::io::Write::write_all(&mut xz, &data).expect("written");
        for file in [both, zstd::encode_all(&data[..], 3).expect("packs"), xz.finish().expect("packs")] {
            assert!(unwrap(&file, data.len()).expect("unpacks").expect("compressed") == data);
            let bomb = unwrap(&file, data.len() - 1).expect_err("bounded").to_string();
            assert!(bomb.contains("unpacks to more than 799999 bytes"), "{bomb}");
            for cut in [file.len() - 1, file.len() / 2, 12] {
                let e = unwrap(&file[..cut], data.len()).expect_err("truncated").to_string();
                assert!(e.contains("damaged or truncated"), "{e}");
            }
        }
        assert_eq!(unwrap(b"plain", 10).expect("no error"), None);
    }

    #[test]
    fn formats_without_an_encoder_here_unpack_what_their_tools_packed() {
        // Each made by its tool (lzma, lz4, lz4 -l, bzip2) from the digits 0 to 9, repeated 400 times.
        let data = b"0123456789".repeat(400);
        for (name, file) in [
            ("lzma", &include_bytes!("../../tests/fixtures/packed/digits.lzma")[..]),
            ("lz4", include_bytes!("../../tests/fixtures/packed/digits.lz4")),
            ("lz4 -l", include_bytes!("../../tests/fixtures/packed/digits.legacy.lz4")),
            ("bzip2", include_bytes!("../../tests/fixtures/packed/digits.bz2")),
        ] {
            assert!(unwrap(file, 4000).expect(name).expect(name) == data, "{name}");
            let bomb = unwrap(file, 3999).expect_err("bounded").to_string();
            assert!(bomb.contains("unpacks to more than 3999 bytes"), "{name}: {bomb}");
            for cut in [file.len() - 2, file.len() / 2] {
                let e = unwrap(&file[..cut], 4000).expect_err("truncated").to_string();
                assert!(e.contains("damaged or truncated"), "{name} cut to {cut}: {e}");
            }
        }
        // As the kernel's build does: the unpacked size behind the stream.
        let mut with_size = include_bytes!("../../tests/fixtures/packed/digits.legacy.lz4").to_vec();
        with_size.extend(4000u32.to_le_bytes());
        assert!(unwrap(&with_size, 4000).expect("unpacks").expect("compressed") == data);
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..3000, byte: u8, which in 0usize..3) {
            let data = &sample()[..6000];
            let mut file = [gzip(data, 0, b""), zstd::encode_all(data, 1).expect("packs"), XZ.to_vec()][which].clone();
            let at = at % file.len();
            file[at] = byte;
            if let Ok(Some(out)) = unwrap(&file, 1 << 20) {
                prop_assert!(out.len() <= 1 << 20);
            }
        }
    }
}
