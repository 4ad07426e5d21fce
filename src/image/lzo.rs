//! LZO: the container of lzop as `lib/decompress_unlzo.c` reads it.
//!
//! Output grows as it is decoded: no announced size is believed before its bytes are there.

use super::decompress::Fault;
use crate::codec::lzo::{self, Input};

/// lzop's first bytes.
pub(super) const MAGIC: &[u8] = &[0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];
/// Largest block of lzop (`MAX_BLOCK_SIZE`).
const MAX_BLOCK: usize = 64 << 20;

/// Adler-32 and CRC-32 of the unpacked, Adler-32 and CRC-32 of the packed bytes of a block (`F_*_D`, `F_*_C`).
const ADLER_UNPACKED: u32 = 0x1;
const ADLER_PACKED: u32 = 0x2;
const CRC_UNPACKED: u32 = 0x100;
const CRC_PACKED: u32 = 0x200;
/// An extra field follows the header (`F_H_EXTRA_FIELD`).
const EXTRA_FIELD: u32 = 0x40;
/// A filter's number is in the header (`F_H_FILTER`).
const FILTER: u32 = 0x800;

fn be16(input: &mut Input) -> Result<u16, Fault> {
    Ok(u16::from_be_bytes(input.array()?))
}

fn be32(input: &mut Input) -> Result<u32, Fault> {
    Ok(u32::from_be_bytes(input.array()?))
}

fn size(input: &mut Input) -> Result<usize, Fault> {
    be32(input).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Unpacks one lzop file, which `file` begins with, behind `out`; returns what follows it.
pub(super) fn unpack<'a>(file: &'a [u8], out: &mut Vec<u8>, limit: usize) -> Result<&'a [u8], Fault> {
    let mut input = Input(file);
    input.take(MAGIC.len())?;
    let flags = header(&mut input)?;
    loop {
        let unpacked = size(&mut input)?;
        if unpacked == 0 {
            return Ok(input.0);
        }
        let packed = size(&mut input)?;
        if unpacked > MAX_BLOCK || packed > unpacked {
            return Err(Fault::Broken("a block's size is impossible"));
        }
        let mut sum = |flag: u32| if flags & flag != 0 { be32(&mut input).map(Some) } else { Ok(None) };
        let (adler, crc) = (sum(ADLER_UNPACKED)?, sum(CRC_UNPACKED)?);
        if packed < unpacked {
            // The sums over the unpacked bytes find whatever these would.
            sum(ADLER_PACKED)?;
            sum(CRC_PACKED)?;
        }
        let bytes = input.take(packed)?;
        let start = out.len();
        let end = start.checked_add(unpacked).filter(|end| *end <= limit).ok_or(Fault::TooBig)?;
        if packed == unpacked {
            out.extend_from_slice(bytes);
        } else {
            lzo::decode(bytes, out, end).map_err(Fault::Broken)?;
        }
        let block = out.get(start..).unwrap_or_default();
        if adler.is_some_and(|sum| sum != libdeflater::adler32(block))
            || crc.is_some_and(|sum| sum != libdeflater::crc32(block))
        {
            return Err(Fault::Broken("a block's checksum is wrong"));
        }
    }
}

/// Reads lzop's header; returns its flags.
fn header(input: &mut Input) -> Result<u32, Fault> {
    let version = be16(input)?;
    input.take(2)?; // the library's version
    if version >= 0x940 {
        input.take(2)?; // the version needed to extract
    }
    let method = input.byte()?;
    if !(1..=3).contains(&method) {
        return Err(Fault::Broken("its method is not LZO1X"));
    }
    if version >= 0x940 {
        input.take(1)?; // the level
    }
    let flags = be32(input)?;
    if flags & FILTER != 0 {
        return Err(Fault::Broken("it was packed through a filter"));
    }
    // Mode, time, and from this version on the time's upper half.
    input.take(if version >= 0x940 { 12 } else { 8 })?;
    let name = input.byte()?;
    input.take(name)?;
    input.take(4)?; // the header's checksum
    if flags & EXTRA_FIELD != 0 {
        let len = size(input)?;
        input.take(len)?;
        input.take(4)?;
    }
    Ok(flags)
}
