//! The parts of a split dump as one: no page is unpacked, only descriptors are moved along with the data they point at.

use std::mem::offset_of;

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::diskdump::{DUMP_DH_COMPRESSED_INCOMPLETE, DiskDumpHeader, KdumpSubHeader, PageDesc};
use crate::error::{Context, Error, Kind, Result};
use crate::mem::PAGE_SIZE;
use crate::target::Sink;
use crate::vmcore::Kdump;
use crate::vmcore::elf::read_full;
use crate::vmcore::kdump::Part;

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// Descriptors moved at once.
const DESCRIPTORS: usize = 4096;
const SIZE: u64 = size_of::<PageDesc>() as u64;

/// Writes the dump whose parts `dump` is to `sink`, which the caller then finishes. Why it is marked incomplete, if it is.
///
/// # Errors
/// [`Kind::Invalid`] when these are no parts, [`Kind::Missing`] when some were not given; reading a part; the sink's.
pub fn join(dump: &Kdump, sink: &dyn Sink) -> Result<Option<String>> {
    let Some(first) = dump.files().first().filter(|_| dump.header.split) else {
        return Err(Error::new(Kind::Invalid, "it is no part of a split dump: there is nothing to put together"));
    };
    if let Some(gap) = dump.gaps().first() {
        let rule = format!("page frames {:#x} to {:#x} are in a part that was not given", gap.start, gap.end);
        return Err(Error::new(Kind::Missing, rule).with_hint("name all parts"));
    }
    let data = dump.files().iter().fold(first.descriptors, |at, part| at + part.count * SIZE);
    headers(dump, first, erased(dump, data), sink)?;
    let (mut descriptors, mut at, mut lost) = (first.descriptors, data, 0);
    for part in dump.files() {
        let from = part.descriptors + part.count * SIZE;
        let end = part.input.size().max(from);
        copy(part, from..end, at, sink)?;
        lost += move_descriptors(part, from, at, descriptors, sink)?;
        descriptors += part.count * SIZE;
        at += end - from;
    }
    sink.sync().context(|| "sync the dump")?;
    if dump.header.incomplete() || lost != 0 {
        return Ok(Some(format!("{lost} pages of the parts were never written, or a part is marked incomplete")));
    }
    let status = dump.header.status.to_le_bytes();
    let done = sink.write_at(offset_of!(DiskDumpHeader, status) as u64, &status);
    done.context(|| "mark the dump complete").map(|()| None)
}

/// Where the text of what was erased will lie, and its length: it is behind the pages of one part, and moves with them.
fn erased(dump: &Kdump, data: u64) -> Option<(u64, u64)> {
    let mut at = data;
    for part in dump.files() {
        let from = part.descriptors + part.count * SIZE;
        if let Some(text) = part.eraseinfo.filter(|text| text.start() >= from && text.end() <= part.input.size()) {
            return Some((text.start() - from + at, text.len()));
        }
        at += part.input.size().saturating_sub(from);
    }
    None
}

/// Writes all in front of the descriptors, which is the same in all parts, without a part's borders.
fn headers(dump: &Kdump, first: &Part, erased: Option<(u64, u64)>, sink: &dyn Sink) -> Result<()> {
    let mut block = [0u8; 2 * PAGE_SIZE as usize];
    read_full(first.input.as_ref(), 0, &mut block).context(|| "read the first part's headers")?;
    let status = dump.header.status | DUMP_DH_COMPRESSED_INCOMPLETE;
    let at = offset_of!(DiskDumpHeader, status);
    block[at..at + 4].copy_from_slice(&status.to_le_bytes());
    let bytes = &mut block[PAGE_SIZE as usize..][..size_of::<KdumpSubHeader>()];
    if let Ok(sub) = KdumpSubHeader::mut_from_bytes(bytes) {
        sub.split.set(0);
        sub.start_pfn.set(0);
        sub.end_pfn.set(0);
        // Newer fields are the notes of an older version.
        if dump.header.version >= 6 {
            sub.start_pfn_64.set(0);
            sub.end_pfn_64.set(0);
        }
        // Versions before 5 have something else in its place.
        if dump.header.version >= 5 {
            let (offset, size) = erased.unwrap_or_default();
            sub.offset_eraseinfo.set(offset);
            sub.size_eraseinfo.set(size);
        }
    }
    let len = block.len().min(first.descriptors as usize);
    sink.write_at(0, &block[..len]).context(|| "write the dump's headers")?;
    copy(first, len as u64..first.descriptors, len as u64, sink)?;
    sink.sync().context(|| "sync the dump's headers")
}

/// Copies `range` of a part to `to`; holes stay holes.
fn copy(part: &Part, range: std::ops::Range<u64>, to: u64, sink: &dyn Sink) -> Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    let mut at = range.start;
    while at < range.end {
        // The last byte is written in any case, so that the file reaches as far.
        at = part.input.data_at(at).min(range.end - 1);
        let chunk = &mut buffer[..(range.end - at).min(CHUNK as u64) as usize];
        let len = chunk.len();
        let what = || format!("copy {len} bytes at {at:#x} of a part");
        match read_full(part.input.as_ref(), at, chunk) {
            Ok(n) if n == len => {}
            Ok(_) => return Err(Error::new(Kind::Invalid, "the part ends early").context(what())),
            Err(e) => return Err(Error::io(&e, what())),
        }
        sink.write_at(to + (at - range.start), chunk).context(|| "write the dump")?;
        at += len as u64;
    }
    Ok(())
}

/// Writes the descriptors of a part whose data begins at `from` and is now at `data`. How many have no data.
fn move_descriptors(part: &Part, from: u64, data: u64, to: u64, sink: &dyn Sink) -> Result<u64> {
    let mut buffer = vec![0u8; DESCRIPTORS * SIZE as usize];
    let (mut done, mut lost) = (0, 0);
    while done < part.count * SIZE {
        let chunk = &mut buffer[..(part.count * SIZE - done).min(DESCRIPTORS as u64 * SIZE) as usize];
        // What is behind the end of a part whose writer was stopped is missing.
        chunk.fill(0);
        read_full(part.input.as_ref(), part.descriptors + done, chunk).context(|| "read a part's descriptors")?;
        for bytes in chunk.chunks_exact_mut(SIZE as usize) {
            let Ok(mut descriptor) = PageDesc::read_from_bytes(bytes) else { continue };
            let offset = descriptor.offset.get();
            let end = offset.checked_add(u64::from(descriptor.size.get()));
            if offset >= from && end.is_some_and(|end| end <= part.input.size()) {
                descriptor.offset.set(offset - from + data);
            } else {
                descriptor = PageDesc::default();
                lost += 1;
            }
            bytes.copy_from_slice(descriptor.as_bytes());
        }
        sink.write_at(to + done, chunk).context(|| "write the descriptors")?;
        done += chunk.len() as u64;
    }
    Ok(lost)
}
