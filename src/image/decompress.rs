//! Compression around a kernel file: gzip (RFC 1952), xz, lzma, zstd (RFC 8878), lz4 (frames, and the legacy frame
//! kernels use), bzip2, lzo (as lzop packs it). Output is bounded, truncated input is an error.
//!
//! Several streams in a row unpack to their contents in a row; what follows the last (the kernel's build appends the
//! unpacked size) is ignored. What a checksum in the stream says is checked.

use std::io::Read;

use super::{le, lzo};
use crate::error::{Error, Kind, Result};

const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// A lzma file has no magic: these are the usual properties (lc 3, lp 0, pb 2) and a dictionary of whole 64 KiB. Zeros
/// are valid properties too, but then every file that begins with zeros would be an empty lzma stream.
const LZMA: &[u8] = &[0x5d, 0, 0];
/// Memory the dictionary of xz or lzma may take, KiB: the kernel's build uses 128 MiB.
const LZMA_MEMORY_KIB: u32 = 256 << 10;

/// Why a stream does not unpack.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is damaged or truncated.
    Broken(&'static str),
    /// The same, in the decoder's words.
    Decoder(String),
    /// It unpacks to more than the limit.
    TooBig,
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Fault::Broken(what)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Fault::Decoder(error.to_string())
    }
}

/// Unpacks the stream that the bytes begin with behind the output, not beyond so many bytes of it; returns the rest.
type Unpack = for<'a> fn(&'a [u8], &mut Vec<u8>, usize) -> Result<&'a [u8], Fault>;

/// Name, first bytes and decoder.
const FORMATS: [(&str, &[u8], Unpack); 8] = [
    ("gzip", GZIP, gzip),
    ("xz", XZ, xz),
    ("zstd", ZSTD, zstd),
    ("lz4", LZ4, lz4),
    ("lz4", LZ4_LEGACY, lz4_legacy),
    ("bzip2", b"BZh", bzip2),
    ("lzma", LZMA, lzma),
    ("lzo", lzo::MAGIC, lzo::unpack),
];

/// The unpacked bytes; `None` if `file` is not compressed in a known way.
///
/// # Errors
/// [`Kind::Invalid`] for a damaged or truncated stream, or one that unpacks to more than `limit` bytes.
pub fn unwrap(file: &[u8], limit: usize) -> Result<Option<Vec<u8>>> {
    let mut rest = behind_skippable(file);
    let Some((name, magic, unpack)) = FORMATS.iter().find(|(_, magic, _)| rest.starts_with(magic)) else {
        return Ok(None);
    };
    let mut out = Vec::new();
    while rest.starts_with(magic) {
        rest = unpack(rest, &mut out, limit).map_err(|fault| {
            let text = match fault {
                Fault::Broken(why) => broken(name, why),
                Fault::Decoder(why) => broken(name, &why),
                Fault::TooBig => {
                    format!("the {name} stream unpacks to more than {limit} bytes, the most a kernel may have")
                }
            };
            Error::new(Kind::Invalid, text)
        })?;
        rest = behind_skippable(rest);
    }
    Ok(Some(out))
}

fn broken(name: &str, why: &str) -> String {
    format!("the {name} stream is damaged or truncated ({why}); copy it again")
}

/// What follows frames that carry no content (RFC 8878, section 3.1.2; lz4 has the same).
fn behind_skippable(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some((0x184d_2a50..=0x184d_2a5f, len)) = le::u32(rest, 0).zip(le::size(rest, 4)) {
        match rest.get(8..).and_then(|r| r.get(len..)) {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    rest
}

/// Reads `reader` to its end, but not past the limit.
fn fill(reader: &mut dyn Read, out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let bound = limit.saturating_sub(out.len()).saturating_add(1);
    reader.take(u64::try_from(bound).unwrap_or(u64::MAX)).read_to_end(out)?;
    if out.len() > limit { Err(Fault::TooBig) } else { Ok(()) }
}

fn xz<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let mut rest = file;
    // Behind `dyn`, as for modules: the decoder, 20 KB, is there once.
    let input: &mut dyn Read = &mut rest;
    fill(&mut lzma_rust2::XzReader::new_mem_limit(input, false, LZMA_MEMORY_KIB), out, limit)?;
    // Streams may be padded to a multiple of four.
    while let Some(behind) = rest.strip_prefix(&[0; 4]) {
        rest = behind;
    }
    Ok(rest)
}

fn lzma<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let mut reader = lzma_rust2::LzmaReader::new_mem_limit(file, LZMA_MEMORY_KIB, None)?;
    fill(&mut reader, out, limit)?;
    Ok(&[])
}

fn zstd<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let mut reader = zstd::Decoder::with_buffer(file)?.single_frame();
    fill(&mut reader, out, limit)?;
    Ok(reader.finish())
}

fn bzip2<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let mut reader = bzip2::bufread::BzDecoder::new(file);
    fill(&mut reader, out, limit)?;
    Ok(reader.into_inner())
}

fn lz4<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    // The decoder takes an input that ends between two blocks for a whole one: these bytes are a block's size that it
    // refuses, and it only comes to them where the end mark is missing.
    const NO_END_MARK: &[u8] = &[0xff; 4];
    let mut reader = lz4_flex::frame::FrameDecoder::new(file.chain(NO_END_MARK));
    fill(&mut reader, out, limit)?;
    Ok(reader.into_inner().into_inner().0)
}

/// The frame of `lz4 -l` (`lib/decompress_unlz4.c`): blocks of up to 8 MiB, each behind its packed size. It has no end
/// mark; a size no block has (zero, or the sum the kernel's build appends) ends it.
fn lz4_legacy<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    const BLOCK: usize = 8 << 20;
    let mut block = vec![0; BLOCK];
    let mut rest = file.get(LZ4_LEGACY.len()..).unwrap_or_default();
    while let Some((size, tail)) = rest.split_first_chunk() {
        if size == LZ4_LEGACY {
            return Ok(rest);
        }
        let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let last = tail.is_empty() && !out.is_empty();
        if last || size == 0 {
            return Ok(tail);
        }
        let packed = tail.get(..size).ok_or(Fault::Broken("a block ends early"))?;
        let len = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| Fault::Decoder(e.to_string()))?;
        out.extend_from_slice(block.get(..len).unwrap_or_default());
        if out.len() > limit {
            return Err(Fault::TooBig);
        }
        rest = tail.get(size..).unwrap_or_default();
    }
    if out.is_empty() || !rest.is_empty() { Err(Fault::Broken("it ends early")) } else { Ok(rest) }
}

/// One member of a gzip file.
fn gzip<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let body = gzip_body(file).ok_or(Fault::Broken("its header ends early"))?;
    let start = out.len();
    let used = inflate(body, out, limit)?;
    let trailer = body.get(used..).unwrap_or_default();
    let (crc, len) = le::u32(trailer, 0).zip(le::size(trailer, 4)).ok_or(Fault::Broken("its trailer is missing"))?;
    let data = out.get(start..).unwrap_or_default();
    // The length is kept modulo 2^32; a kernel of that size is refused anyway.
    if crc != libdeflater::crc32(data) || len != data.len() {
        return Err(Fault::Broken("its checksum is wrong"));
    }
    Ok(trailer.get(8..).unwrap_or_default())
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
fn inflate(body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<usize, Fault> {
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
            return Err(Fault::TooBig);
        }
        match result.status {
            Ok(MZStatus::StreamEnd) => return Ok(used),
            Ok(_) if result.bytes_consumed > 0 || result.bytes_written > 0 => {}
            Ok(_) => return Err(Fault::Broken("it ends early")),
            Err(e) => return Err(Fault::Decoder(format!("{e:?}"))),
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
        file.extend(libdeflater::crc32(data).to_le_bytes());
        file.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
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
        // Each made by its tool (lzma, lz4, lz4 -l, bzip2, lzop) from the digits 0 to 9, repeated 400 times.
        let data = b"0123456789".repeat(400);
        for (name, file) in [
            ("lzma", &include_bytes!("../../tests/fixtures/packed/digits.lzma")[..]),
            ("lz4", include_bytes!("../../tests/fixtures/packed/digits.lz4")),
            ("lz4 -l", include_bytes!("../../tests/fixtures/packed/digits.legacy.lz4")),
            ("bzip2", include_bytes!("../../tests/fixtures/packed/digits.bz2")),
            ("lzo", include_bytes!("../../tests/fixtures/packed/digits.lzo")),
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

    /// What `mixed.*.lzo` unpack to: runs, matches near and far, literals; 300 zeros in each block at the end.
    fn mixed() -> Vec<u8> {
        let noise = |len: usize, seed: u32| {
            let mut x = seed;
            let step = move || {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            };
            std::iter::repeat_with(step).take(len).collect::<Vec<u8>>()
        };
        let first = noise(300, 1);
        let letters: Vec<u8> = noise(4000, 7).iter().map(|b| b % 6 + 97).take(1500).collect();
        [&first[..], &b"0123456789".repeat(2000), &first, &letters, &first[..100], &[0; 300_000]].concat()
    }

    #[test]
    fn lzo_unpacks_what_lzop_packed_and_notices_damage() {
        // lzop -1, and lzop -9 --crc32: the compressors LZO1X-1 and LZO1X-999, two blocks each.
        for (name, file) in [
            ("1", &include_bytes!("../../tests/fixtures/packed/mixed.lzo1x-1.lzo")[..]),
            ("999", include_bytes!("../../tests/fixtures/packed/mixed.lzo1x-999.lzo")),
        ] {
            let data = mixed();
            assert!(unwrap(file, data.len()).expect(name).expect(name) == data, "{name}");
            let e = unwrap(file, data.len() - 1).expect_err("bounded").to_string();
            assert!(e.contains("the lzo stream unpacks to more than 322199 bytes"), "{e}");
            for cut in (9..file.len()).step_by(7) {
                let e = unwrap(&file[..cut], data.len()).expect_err("truncated").to_string();
                assert!(e.contains("the lzo stream is damaged or truncated (it ends early)"), "{cut}: {e}");
            }
            // The packed bytes of the first block begin behind the header and three numbers.
            let mut noticed = 0;
            for at in 60..file.len() - 4 {
                let mut damaged = file.to_vec();
                damaged[at] ^= 0x20;
                match unwrap(&damaged, data.len()) {
                    // Adler-32 misses a few letters exchanged for others.
                    Ok(out) => assert!(name == "1" || out.expect("lzo") == data, "damage at {at} went unnoticed"),
                    Err(_) => noticed += 1,
                }
            }
            // The rest of the zeros changes little: other lengths and distances of the same.
            assert!(noticed > file.len() / 2, "{name}: {noticed}");
        }
    }

    #[test]
    fn lzo_headers_that_are_none_of_lzops() {
        let good = include_bytes!("../../tests/fixtures/packed/digits.lzo");
        for (at, byte, text) in [
            (15, 9, "its method is not LZO1X"),
            (19, 0x08, "it was packed through a filter"), // F_H_FILTER
            (48, 0xff, "a block's size is impossible"),
        ] {
            let mut file = good.to_vec();
            file[at] = byte;
            let e = unwrap(&file, 4000).expect_err(text).to_string();
            assert!(e.contains(text), "{e} lacks {text}");
        }
    }

    #[test]
    fn trap_p_streams_in_a_row_unpack_in_a_row_and_what_follows_them_is_ignored() {
        let data = sample();
        let (first, second) = data.split_at(70_000);
        let xz = |data: &[u8]| {
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).expect("a writer");
            std::io::Write::write_all(&mut xz, data).expect("written");
            xz.finish().expect("packs")
        };
        let zstd = |data: &[u8]| {
            // Without the size in the header.
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("a writer");
            std::io::Write::write_all(&mut encoder, data).expect("written");
            encoder.finish().expect("packs")
        };
        let skippable = b"\x53\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let empty_zstd = zstd(b"");
        for (name, streams) in [
            ("gzip", vec![gzip(first, 0, b""), gzip(b"", 0, b""), gzip(second, 0, b"")]),
            ("xz", vec![xz(first), vec![0; 8], xz(second)]),
            ("zstd", vec![zstd(first), empty_zstd, zstd(second)]),
            (
                "zstd with skippable frames",
                vec![skippable.clone(), zstd(first), skippable.clone(), zstd(second), skippable],
            ),
        ] {
            for trailer in [&b""[..], &200_000u32.to_le_bytes(), b"any other bytes, long ones too"] {
                let file = [streams.concat(), trailer.to_vec()].concat();
                let out = unwrap(&file, data.len()).unwrap_or_else(|e| panic!("{name}: {e}")).expect(name);
                assert!(out == data, "{name} before {trailer:?}");
            }
        }
        for (name, file) in [
            ("bzip2", &include_bytes!("../../tests/fixtures/packed/digits.bz2")[..]),
            ("lz4", include_bytes!("../../tests/fixtures/packed/digits.lz4")),
            ("lz4 -l", include_bytes!("../../tests/fixtures/packed/digits.legacy.lz4")),
            ("lzo", include_bytes!("../../tests/fixtures/packed/digits.lzo")),
        ] {
            let both = [file, file, &8000u32.to_le_bytes()].concat();
            let out = unwrap(&both, 8000).unwrap_or_else(|e| panic!("{name}: {e}")).expect(name);
            assert!(out == b"0123456789".repeat(800), "{name}");
        }
        assert_eq!(unwrap(b"\x53\x2a\x4d\x18\x01\0\0\0a", 10).expect("no error"), None);
    }

    #[test]
    fn a_lz4_frame_without_its_end_mark_is_truncated() {
        let whole = include_bytes!("../../tests/fixtures/packed/digits.lz4");
        // End mark and checksum are its last eight bytes.
        for cut in 1..=8 {
            let e = unwrap(&whole[..whole.len() - cut], 4000).expect_err("truncated").to_string();
            assert!(e.contains("the lz4 stream is damaged or truncated"), "{cut}: {e}");
        }
    }

    #[test]
    fn a_wrong_checksum_behind_gzip_is_damage() {
        for at in [1, 5] {
            let mut file = gzip(b"some text", 0, b"");
            let end = file.len();
            file[end - at] ^= 1;
            let e = unwrap(&file, 100).expect_err("damaged").to_string();
            assert!(e.contains("gzip stream is damaged or truncated (its checksum is wrong)"), "{e}");
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..3000, byte: u8, which in 0usize..8) {
            let data = &sample()[..6000];
            let mut file = [
                gzip(data, 0, b""),
                zstd::encode_all(data, 1).expect("packs"),
                XZ.to_vec(),
                include_bytes!("../../tests/fixtures/packed/mixed.lzo1x-1.lzo").to_vec(),
                include_bytes!("../../tests/fixtures/packed/mixed.lzo1x-999.lzo").to_vec(),
                include_bytes!("../../tests/fixtures/packed/digits.lzma").to_vec(),
                include_bytes!("../../tests/fixtures/packed/digits.bz2").to_vec(),
                include_bytes!("../../tests/fixtures/packed/digits.lz4").to_vec(),
            ][which].clone();
            let at = at % file.len();
            file[at] = byte;
            if let Ok(Some(out)) = unwrap(&file, 1 << 20) {
                prop_assert!(out.len() <= 1 << 20);
            }
        }
    }
}
