//! A flattened dump, as `makedumpfile -F` and QEMU write it to a pipe, read as the file it stands for.
//!
//! ```text
//! 0      "makedumpfile", zeros to 16; big-endian type 1 and version 1; zeros to 4096
//! 4096   records: big-endian offset and size, then that many bytes;  the last has -1 and -1 and no bytes
//! ```
//!
//! Records may go backwards and overlap: what comes later wins. What no record holds is zero.

use std::collections::BTreeMap;
use std::io;

use super::elf::read_full;
use super::input::Input;
use super::le::{bytes_at, index, wide};
use crate::error::{Error, Kind, Result};

/// What a flattened dump begins with. Some writers leave garbage in the four bytes behind it.
pub const MAGIC: &[u8] = b"makedumpfile";
/// Bytes in front of the first record.
pub const HEADER: u64 = 4096;
/// Most records that are believed: a terabyte in makedumpfile's, which have 64 KiB.
const MAX_RECORDS: usize = 1 << 24;

/// A part of the file: where it starts and ends, and where its bytes are in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    start: u64,
    end: u64,
    from: u64,
}

/// The file that a stream stands for.
pub struct FlatInput {
    stream: Box<dyn Input>,
    /// Ascending, disjoint.
    records: Vec<Record>,
    /// Why the stream is not whole.
    pub fault: Option<String>,
}

fn be(bytes: &[u8], at: usize) -> i64 {
    bytes_at(bytes, at).map_or(0, i64::from_be_bytes)
}

impl FlatInput {
    /// Indexes the records of `stream`. One that is damaged ends them, with [`FlatInput::fault`] set.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when this is no flattened dump of a known version, or has more records than any has.
    pub fn open(stream: Box<dyn Input>) -> Result<Self> {
        let mut head = [0u8; 32];
        let got = read_full(stream.as_ref(), 0, &mut head).map_err(|e| Error::io(&e, "read the stream's header"))?;
        if got < head.len() || !head.starts_with(MAGIC) {
            return Err(Error::new(Kind::Invalid, "it ends inside the header of a flattened dump"));
        }
        let (kind, version) = (be(&head, 16), be(&head, 24));
        if (kind, version) != (1, 1) {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "it is a flattened dump of type {kind}, version {version}, but only type 1, version 1 is known"
                ),
            ));
        }
        let mut input = Self { stream, records: Vec::new(), fault: None };
        input.fault = input.read_records()?;
        input.records = disjoint(std::mem::take(&mut input.records));
        Ok(input)
    }

    /// Fills in the records in their order; why they end before the end.
    fn read_records(&mut self) -> Result<Option<String>> {
        let mut at = HEADER;
        let size = self.stream.size();
        loop {
            let mut head = [0u8; 16];
            let got = read_full(self.stream.as_ref(), at, &mut head).map_err(|e| Error::io(&e, "read a record"))?;
            if got < head.len() {
                return Ok(Some(format!("the stream ends at {at:#x} without its end mark")));
            }
            let (offset, len) = (be(&head, 0), be(&head, 8));
            if (offset, len) == (-1, -1) {
                return Ok(None);
            }
            let from = at.saturating_add(16);
            let bounds = u64::try_from(offset).ok().zip(u64::try_from(len).ok().filter(|n| *n != 0));
            let bounds = bounds.and_then(|(start, n)| Some((start, n, start.checked_add(n)?)));
            let Some((start, len, end)) = bounds.filter(|(.., end)| i64::try_from(*end).is_ok()) else {
                return Ok(Some(format!("the record at {at:#x} of the stream has offset {offset} and size {len}")));
            };
            let there = len.min(size.saturating_sub(from));
            if self.records.len() >= MAX_RECORDS {
                let rule = format!("it has more than {MAX_RECORDS} records; rebuild it first (makedumpfile -R)");
                return Err(Error::new(Kind::Invalid, rule));
            }
            if there != 0 {
                let end = end.min(start.saturating_add(there));
                self.records.push(Record { start, end, from });
            }
            if there < len {
                return Ok(Some(format!("the stream ends inside the record at {at:#x}")));
            }
            at = from.saturating_add(len);
        }
    }

    /// The record that holds `offset`, or the next one behind it.
    fn find(&self, offset: u64) -> Option<&Record> {
        self.records.get(self.records.partition_point(|r| r.end <= offset))
    }
}

/// The same bytes, ascending, each once: later records win.
fn disjoint(mut records: Vec<Record>) -> Vec<Record> {
    let overlap = |records: &[Record]| records.windows(2).any(|w| matches!(w, [a, b] if a.end > b.start));
    let arrived = records.clone();
    records.sort_by_key(|r| r.start);
    if !overlap(&records) {
        return records;
    }
    let mut map: BTreeMap<u64, Record> = BTreeMap::new();
    for new in arrived {
        // The one that begins before it loses what it shares, and may go on behind it.
        if let Some((_, old)) = map.range_mut(..new.start).next_back()
            && old.end > new.start
        {
            let tail = Record { start: new.end, end: old.end, from: shifted(old, new.end) };
            old.end = new.start;
            if tail.start < tail.end {
                map.insert(tail.start, tail);
            }
        }
        while let Some((start, old)) = map.range(new.start..new.end).next().map(|(s, r)| (*s, *r)) {
            map.remove(&start);
            if old.end > new.end {
                map.insert(new.end, Record { start: new.end, end: old.end, from: shifted(&old, new.end) });
            }
        }
        map.insert(new.start, new);
    }
    map.into_values().collect()
}

/// Where in the stream the byte `at` of `record` is.
fn shifted(record: &Record, at: u64) -> u64 {
    record.from.saturating_add(at.saturating_sub(record.start))
}

impl Input for FlatInput {
    fn size(&self) -> u64 {
        self.records.last().map_or(0, |r| r.end)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some(record) = self.find(offset) else { return Ok(0) };
        let (stop, hole) = if record.start > offset { (record.start, true) } else { (record.end, false) };
        let len = index(stop.saturating_sub(offset).min(wide(buf.len())));
        let part = buf.get_mut(..len).unwrap_or_default();
        if hole {
            part.fill(0);
            return Ok(len);
        }
        self.stream.read_at(shifted(record, offset), part)
    }

    fn data_at(&self, offset: u64) -> u64 {
        self.find(offset).map_or(offset, |r| r.start.max(offset))
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test may panic"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(records: &[(i64, i64, &[u8])]) -> Vec<u8> {
        let mut out = b"makedumpfile".to_vec();
        out.resize(16, 0);
        out.extend([1u64.to_be_bytes(), 1u64.to_be_bytes()].concat());
        out.resize(4096, 0);
        for (offset, size, bytes) in records {
            out.extend([offset.to_be_bytes(), size.to_be_bytes()].concat());
            out.extend(*bytes);
        }
        out
    }

    fn contents(stream: Vec<u8>) -> (Vec<u8>, Option<String>) {
        let input = FlatInput::open(Box::new(stream)).expect("a stream");
        let mut out = vec![0xee; index(input.size()) + 1];
        let got = read_full(&input, 0, &mut out).expect("read");
        assert_eq!(got as u64, input.size());
        out.truncate(got);
        (out, input.fault)
    }

    #[test]
    fn case_19_records_of_every_oddity() {
        let end = (-1i64, -1i64, &b""[..]);
        let (bytes, fault) = contents(stream(&[(4, 3, b"abc"), (0, 2, b"xy"), (5, 1, b"B"), end]));
        assert_eq!((&bytes[..], fault), (&b"xy\0\0aBc"[..], None), "backwards, a hole, overlapping");
        let mut after = stream(&[(0, 2, b"xy"), end]);
        after.extend(b"garbage behind the end");
        assert_eq!(contents(after), (b"xy".to_vec(), None));
        let second = [stream(&[(0, 2, b"xy")]), stream(&[(9, 9, b"abc")])].concat();
        for (name, stream, said) in [
            ("no end mark", stream(&[(0, 2, b"xy")]), "without its end mark"),
            ("second magic", second, "has offset"),
            ("negative offset", stream(&[(0, 2, b"xy"), (-5, 2, b"ab")]), "offset -5"),
            ("size 0", stream(&[(0, 2, b"xy"), (0, 0, b""), (0, 1, b"z")]), "size 0"),
            ("negative size", stream(&[(0, 2, b"xy"), (0, -7, b"z")]), "size -7"),
            ("size 2^62 behind 2^62", stream(&[(0, 2, b"xy"), (1 << 62, 1 << 62, b"z")]), "offset"),
            ("beyond the end", stream(&[(0, 9, b"xy")]), "inside the record"),
        ] {
            let (bytes, fault) = contents(stream);
            assert_eq!(bytes, b"xy", "{name}");
            assert!(fault.as_ref().is_some_and(|f| f.contains(said)), "{name}: {fault:?}");
        }
        let mut other = stream(&[end]);
        other[23] = 2;
        let said = FlatInput::open(Box::new(other)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("type 2, version 1"), "{said}");
        assert!(FlatInput::open(Box::new(MAGIC.to_vec())).is_err());
    }

    proptest! {
        #[test]
        fn later_records_win(parts in proptest::collection::vec((0usize..200, 1usize..60, any::<u8>()), 0..20), cut in any::<prop::sample::Index>()) {
            let mut model: Vec<u8> = Vec::new();
            let bytes: Vec<Vec<u8>> = parts.iter().map(|(_, len, fill)| vec![*fill; *len]).collect();
            for ((at, len, fill), _) in parts.iter().zip(&bytes) {
                model.resize(model.len().max(at + len), 0);
                model[*at..at + len].fill(*fill);
            }
            let mut records: Vec<(i64, i64, &[u8])> = parts.iter().zip(&bytes).map(|((at, len, _), b)| (*at as i64, *len as i64, &b[..])).collect();
            records.push((-1, -1, b""));
            let whole = stream(&records);
            prop_assert_eq!(contents(whole.clone()), (model, None));
            let cut = cut.index(whole.len());
            if let Ok(input) = FlatInput::open(Box::new(whole[..cut].to_vec())) {
                prop_assert!(input.fault.is_some());
            }
        }
    }
}
