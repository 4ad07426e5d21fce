//! A dump written to what has no offsets, a pipe or a socket: makedumpfile's flattened format, whose records say where
//! their bytes belong (`vmcore/flat.rs` draws it).
//!
//! Writes that follow each other become one record, and records wait until some megabytes are together: readers sort all
//! of them before they show anything. The first record is the one at offset 0. Of those that leave together the last in
//! the file go first, so that a cut stream has no descriptor without the data it points at.
//!
//! Where records overlap, crash takes the first and makedumpfile the last. So a dump's mark, which is what would be
//! written twice, is left out until the end is known; a stream that is cut says so by its missing end.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Mutex, MutexGuard};

use super::Sink;
use crate::error::{Context, Error, Kind, Result};
use crate::vmcore::flat::{HEADER, MAGIC};

/// Bytes that wait to be written.
const PENDING: usize = 4 << 20;
/// Bytes of a record that are read at once.
const CHUNK: usize = 1 << 20;
/// Most separate runs of them.
const RUNS: usize = 256;

/// See the module.
pub struct FlatSink<'a> {
    state: Mutex<State<'a>>,
}

struct State<'a> {
    out: Box<dyn Write + Send + 'a>,
    /// Whether the stream's header is out.
    begun: bool,
    /// Disjoint runs by their offset in the file.
    runs: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl<'a> FlatSink<'a> {
    /// Nothing is written to `out` before the first record is.
    pub fn new(out: Box<dyn Write + Send + 'a>) -> Self {
        Self { state: Mutex::new(State { out, begun: false, runs: BTreeMap::new(), bytes: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State<'_> {
    fn add(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let end_of = |(start, run): (&u64, &Vec<u8>)| start + run.len() as u64;
        // What is written twice keeps its order.
        if self.runs.range(..end).next_back().map(end_of).is_some_and(|last| last > offset) {
            self.flush()?;
        }
        match self.runs.range_mut(..=offset).next_back() {
            Some((start, run)) if start + run.len() as u64 == offset => run.extend_from_slice(data),
            _ => {
                self.runs.insert(offset, data.to_vec());
            }
        }
        self.bytes += data.len();
        if self.bytes >= PENDING || self.runs.len() >= RUNS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes all runs, neighbours as one record.
    fn flush(&mut self) -> std::io::Result<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            let mut head = [0u8; 4096];
            head[..12].copy_from_slice(b"makedumpfile");
            head[16..24].copy_from_slice(&1u64.to_be_bytes());
            head[24..32].copy_from_slice(&1u64.to_be_bytes());
            self.out.write_all(&head)?;
        }
        let mut records: Vec<(u64, u64, Vec<Vec<u8>>)> = Vec::new();
        for (start, run) in std::mem::take(&mut self.runs) {
            let len = run.len() as u64;
            match records.last_mut() {
                Some((first, size, runs)) if *first + *size == start => {
                    *size += len;
                    runs.push(run);
                }
                _ => records.push((start, len, vec![run])),
            }
        }
        self.bytes = 0;
        if !first {
            records.reverse();
        }
        for (start, size, runs) in records {
            self.out.write_all(&[start.to_be_bytes(), size.to_be_bytes()].concat())?;
            for run in runs {
                self.out.write_all(&run)?;
            }
        }
        Ok(())
    }
}

impl Sink for FlatSink<'_> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.state().add(offset, data).context(|| "write the flattened dump")
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state();
        state.flush().and_then(|()| state.out.flush()).context(|| "write the flattened dump")
    }

    fn rewrites(&self) -> bool {
        false
    }

    fn finish(&mut self) -> Result<()> {
        let mut state = self.state();
        let end = state.flush().and_then(|()| state.out.write_all(&[0xff; 16])).and_then(|()| state.out.flush());
        end.context(|| "write the end of the flattened dump")
    }
}

/// Puts the records of a flattened `stream` where they belong in `sink`; why they end early, if they do.
///
/// # Errors
/// [`Kind::Invalid`] for what does not begin as a flattened dump, and what the sink says.
pub fn rearrange(stream: &mut dyn Read, sink: &dyn Sink) -> Result<Option<String>> {
    let mut buffer = vec![0u8; CHUNK];
    let (head, _) = buffer.split_at_mut(HEADER as usize);
    let begins = stream.read_exact(head).is_ok() && head.starts_with(MAGIC);
    if !begins || head[16..32] != [1u64.to_be_bytes(), 1u64.to_be_bytes()].concat() {
        let rule = "the stream does not begin with the header of a flattened dump, type 1, version 1";
        return Err(Error::new(Kind::Invalid, rule));
    }
    let mut at = HEADER;
    loop {
        let mut record = [0u8; 16];
        if let Err(e) = stream.read_exact(&mut record) {
            return Ok(Some(format!("the stream ends at {at:#x} without its end mark: {e}")));
        }
        let [offset, size] = [0, 8].map(|at| i64::from_be_bytes(record[at..at + 8].try_into().unwrap_or_default()));
        if (offset, size) == (-1, -1) {
            return Ok(None);
        }
        let range = u64::try_from(offset).ok().zip(u64::try_from(size).ok().filter(|n| *n != 0));
        let Some((mut to, mut left)) = range.filter(|_| offset.checked_add(size).is_some()) else {
            return Ok(Some(format!("the record at {at:#x} of the stream has offset {offset} and size {size}")));
        };
        at += 16 + left;
        while left != 0 {
            let part = &mut buffer[..left.min(CHUNK as u64) as usize];
            let got = read_most(stream, part);
            sink.write_at(to, &part[..got])?;
            if got < part.len() {
                return Ok(Some(format!(
                    "the stream ends {} bytes before the record's end at {at:#x}",
                    left - got as u64
                )));
            }
            to += got as u64;
            left -= got as u64;
        }
    }
}

/// Reads until `buf` is full or nothing comes any more; how many bytes came.
fn read_most(stream: &mut dyn Read, buf: &mut [u8]) -> usize {
    let mut got = 0;
    while got < buf.len() {
        match stream.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    got
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcore::flat::FlatInput;
    use proptest::prelude::*;

    /// Offset and bytes of each record.
    fn records(stream: &[u8]) -> Vec<(i64, Vec<u8>)> {
        assert!(stream.starts_with(b"makedumpfile\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01"));
        assert!(stream[32..4096].iter().all(|b| *b == 0));
        let mut rest = &stream[4096..];
        let mut found = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<16>() {
            let offset = i64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
            let size = i64::from_be_bytes(head[8..].try_into().expect("8 bytes"));
            let (data, after) = tail.split_at(size.max(0) as usize);
            found.push((offset, data.to_vec()));
            rest = after;
        }
        assert_eq!(found.pop(), Some((-1, Vec::new())), "the end mark is last");
        found
    }

    #[test]
    fn neighbours_are_one_record_the_header_is_first_and_what_is_written_twice_stays_in_order() {
        let mut stream = Vec::new();
        let mut sink = FlatSink::new(Box::new(&mut stream));
        for (at, data) in [(0, "head"), (4, "er"), (8, "bits")] {
            sink.write_at(at, data.as_bytes()).expect("written");
        }
        sink.sync().expect("synced");
        for (at, data) in [(20, "data"), (12, "de"), (24, "more"), (16, "4444")] {
            sink.write_at(at, data.as_bytes()).expect("written");
        }
        sink.sync().expect("synced");
        sink.write_at(0, b"H").expect("written");
        sink.write_at(40, b"x").expect("written");
        sink.write_at(0, b"I").expect("written");
        sink.finish().expect("finished");
        drop(sink);
        let expected: Vec<(i64, Vec<u8>)> =
            [(0, "header"), (8, "bits"), (16, "4444datamore"), (12, "de"), (40, "x"), (0, "H"), (0, "I")]
                .map(|(at, data)| (at, data.as_bytes().to_vec()))
                .into();
        assert_eq!(records(&stream), expected);
    }

    #[test]
    fn what_waits_is_bounded_and_a_closed_pipe_is_an_error() {
        let mut stream = Vec::new();
        let mut sink = FlatSink::new(Box::new(&mut stream));
        for i in 0..10u64 {
            sink.write_at(i << 20, &[1; 1 << 20]).expect("written");
            assert!(sink.state().bytes < PENDING);
        }
        sink.finish().expect("finished");
        drop(sink);
        let sizes: Vec<usize> = records(&stream).iter().map(|(_, data)| data.len() >> 20).collect();
        assert_eq!(sizes, [4, 4, 2]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let sink = FlatSink::new(Box::new(writer));
        sink.write_at(0, b"x").expect("it waits");
        assert_eq!(sink.sync().expect_err("nobody reads").raw_errno(), Some(32));
    }

    fn flattened(writes: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut sink = FlatSink::new(Box::new(&mut stream));
        for (offset, data) in writes {
            sink.write_at(*offset, data).expect("written");
        }
        sink.finish().expect("finished");
        drop(sink);
        stream
    }

    proptest! {
        #[test]
        fn whatever_is_written_last_is_read(
            writes in proptest::collection::vec(
                (0u64..3_000_000, 1usize..300_000, any::<u8>()).prop_map(|(at, len, byte)| (at, vec![byte; len])), 1..30
            ),
        ) {
            let mut file = Vec::new();
            for (at, data) in &writes {
                let at = *at as usize;
                file.resize(file.len().max(at + data.len()), 0);
                file[at..at + data.len()].copy_from_slice(data);
            }
            let input = FlatInput::open(Box::new(flattened(&writes))).expect("opens");
            prop_assert!(input.fault.is_none());
            let mut read = vec![1; file.len()];
            crate::vmcore::elf::read_full(&input, 0, &mut read).expect("reads");
            prop_assert!(read == file);
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("file");
            let mut sink = crate::target::file::FileSink::create(&path, false).expect("created");
            prop_assert_eq!(rearrange(&mut &flattened(&writes)[..], &sink).expect("rearranged"), None);
            sink.finish().expect("finished");
            prop_assert!(std::fs::read(&path).expect("read") == file);
        }
    }
}
