//! The logs before the ring: variable records in a circular buffer (3.5 to 5.9, `struct printk_log`, before 3.11
//! `struct log`), and before 3.5 bytes as they were printed.

use super::le::{index, u16_at, u32_at, u64_at, wide};
use super::printk::{Log, Paged, Printer, Record, c_string};
use crate::error::{Error, Kind, Result};

/// Where the members of a record's head lie.
struct Layout {
    size: usize,
    ts_nsec: usize,
    len: usize,
    text_len: usize,
    /// With it also facility and level, which follow it.
    dict_len: Option<usize>,
    /// There only if the kernel was built to print it.
    caller: Option<usize>,
}

/// A record's head.
struct Head {
    bytes: Vec<u8>,
    len: u64,
    text_len: u64,
    dict_len: u64,
}

/// A buffer of records.
struct Records<'a> {
    layout: Layout,
    bytes: Paged<'a>,
    size: u64,
    /// Where the next record would go.
    next: u64,
}

/// Longest line of the buffer before 3.5 that is kept together.
const MAX_LINE: usize = 8192;

impl Log<'_> {
    /// 3.5 to 5.9.
    pub(super) fn records(&self, printer: &mut Printer<'_>) -> Result<()> {
        let kind = if self.info.size("printk_log").is_some() { "printk_log" } else { "log" };
        let member = |name: &str| self.offset(&format!("{kind}.{name}"));
        let layout = Layout {
            size: self.size(kind)?,
            ts_nsec: member("ts_nsec")?,
            len: member("len")?,
            text_len: member("text_len")?,
            dict_len: member("dict_len").ok(),
            caller: member("caller_id").ok(),
        };
        let mut records = Records {
            layout,
            bytes: Paged::new(self, self.variable("log_buf")?),
            size: self.variable32("log_buf_len")?,
            next: self.variable32("log_next_idx")?,
        };
        let first = self.variable32("log_first_idx")?;
        if self.partial {
            let clear = self.variable32("clear_idx")?;
            // What was cleared may have been overwritten since; then all there is came after it.
            let mut met = false;
            records.walk(first, &mut |at, _| {
                met |= at == Some(clear);
                Ok(())
            })?;
            let from = if met || clear == records.next { clear } else { first };
            return records.print(from, printer);
        }
        records.print(first, printer)
    }

    /// Before 3.5: `log_end` counts all bytes ever written, `logged_chars` those since the last `dmesg -c`.
    pub(super) fn text(&self, printer: &mut Printer<'_>) -> Result<()> {
        let (buffer, size, end) =
            (self.variable("log_buf")?, self.variable32("log_buf_len")?, self.variable32("log_end")?);
        if !size.is_power_of_two() || size > 1 << 31 {
            return Err(Error::new(
                Kind::Invalid,
                format!("log_buf_len is {size:#x}, which is no size of a log buffer"),
            ));
        }
        let have = if self.partial { self.variable32("logged_chars")? } else { size }.min(size).min(end);
        let mut bytes = Paged::new(self, buffer);
        let mut line = Vec::new();
        let mut chunk = [0u8; 1024];
        let mut done = 0u64;
        while done < have {
            let at = end.wrapping_sub(have).wrapping_add(done) & size.wrapping_sub(1);
            let here = have.saturating_sub(done).min(size.saturating_sub(at)).min(wide(chunk.len()));
            let Some(part) = chunk.get_mut(..index(here)) else { break };
            match bytes.read(at, part) {
                Ok(()) => {
                    for byte in part.iter() {
                        match byte {
                            b'\n' => text_line(&mut line, printer)?,
                            _ if line.len() == MAX_LINE => text_line(&mut line, printer)?,
                            _ => line.push(*byte),
                        }
                    }
                }
                Err(_) => {
                    text_line(&mut line, printer)?;
                    printer.hole();
                }
            }
            done = done.saturating_add(here);
        }
        if line.is_empty() { Ok(()) } else { text_line(&mut line, printer) }
    }
}

/// `<6>[    0.000000] text`: the level as the console never shows it, the time only if the kernel was told to print it.
fn text_line(line: &mut Vec<u8>, printer: &mut Printer<'_>) -> Result<()> {
    let mut record = Record::default();
    let mut text = line.as_slice();
    if !printer.keeps_prefix()
        && let Some((priority, rest)) = prefix(text)
    {
        record.priority = Some((priority >> 3, priority & 7));
        text = rest;
    }
    record.text = text.to_vec();
    line.clear();
    printer.record(&record)
}

/// The number between the angle brackets a line begins with, and what follows.
fn prefix(line: &[u8]) -> Option<(u8, &[u8])> {
    let rest = line.strip_prefix(b"<")?;
    let end = rest.iter().take(4).position(|b| *b == b'>')?;
    let number = std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
    Some((number, rest.get(end.saturating_add(1)..)?))
}

/// Told each record: where it is and its head; `None` for one that can't be read.
type Visit<'a> = &'a mut dyn FnMut(Option<u64>, Option<(&Head, &mut Paged<'_>)>) -> Result<()>;

impl Records<'_> {
    fn head(&mut self, at: u64) -> Option<Head> {
        let mut bytes = vec![0u8; self.layout.size];
        if at.saturating_add(wide(bytes.len())) > self.size {
            return None;
        }
        self.bytes.read(at, &mut bytes).ok()?;
        let half = |at: usize| u16_at(&bytes, at).map(u64::from);
        let (len, text_len) = (half(self.layout.len)?, half(self.layout.text_len)?);
        let dict_len = self.layout.dict_len.and_then(half).unwrap_or(0);
        Some(Head { bytes, len, text_len, dict_len })
    }

    /// Whether a record of this buffer can begin at `at` with `head`.
    fn plausible(&self, at: u64, head: &Head) -> bool {
        let inside = head.text_len.saturating_add(head.dict_len).saturating_add(wide(self.layout.size)) <= head.len;
        inside && at.saturating_add(head.len) <= self.size
    }

    /// The first place from `from` on where three records in a row are plausible, or fewer up to the end of all.
    fn resume(&mut self, from: u64) -> Option<u64> {
        let end = if from <= self.next { self.next } else { self.size };
        let mut from = from.checked_next_multiple_of(4)?;
        while from < end {
            // A page that can't be read has no record to go on with.
            if self.bytes.read(from, &mut [0; 4]).is_err() {
                from = self.bytes.next_page(from);
                continue;
            }
            let mut at = from;
            for _ in 0..3 {
                if at == self.next {
                    return Some(from);
                }
                match self.head(at) {
                    // The rest of the buffer is unused: the newest records are at its start.
                    Some(head) if head.len == 0 && at != from && self.next < from => return Some(from),
                    Some(head) if self.plausible(at, &head) => at = at.saturating_add(head.len),
                    _ => {
                        at = 0;
                        break;
                    }
                }
            }
            if at != 0 {
                return Some(from);
            }
            from = from.saturating_add(4);
        }
        // Past the buffer's end the newest records begin at 0.
        (end == self.size).then_some(0)
    }

    /// Goes through the records from `at` on. Ends where the next would go, or after as many as the buffer can hold.
    fn walk(&mut self, mut at: u64, visit: Visit<'_>) -> Result<()> {
        // No record is shorter than its head, so this many steps see them all; a corrupt cycle ends here too.
        let steps = self.size.checked_div(wide(self.layout.size)).unwrap_or(0).saturating_add(2);
        let mut wrapped = false;
        for _ in 0..steps {
            if at == self.next {
                return Ok(());
            }
            let head = self.head(at);
            let unreadable = head.is_none();
            match head {
                // The rest of the buffer was too short for the next record, which starts over at 0.
                Some(head) if head.len == 0 && !wrapped && at != 0 => {
                    (at, wrapped) = (0, true);
                }
                Some(head) if head.len != 0 && self.plausible(at, &head) => {
                    visit(Some(at), Some((&head, &mut self.bytes)))?;
                    at = at.saturating_add(head.len);
                }
                _ => {
                    visit(None, None)?;
                    let from = if unreadable { self.bytes.next_page(at) } else { at.saturating_add(4) };
                    match self.resume(from) {
                        Some(0) if wrapped => return Ok(()),
                        Some(0) => (at, wrapped) = (0, true),
                        Some(next) => at = next,
                        None => return Ok(()),
                    }
                }
            }
        }
        visit(None, None)
    }

    fn print(&mut self, from: u64, printer: &mut Printer<'_>) -> Result<()> {
        let Layout { size, ts_nsec, dict_len, caller, .. } = self.layout;
        self.walk(from, &mut |at, found| {
            let (Some(at), Some((head, bytes))) = (at, found) else {
                printer.hole();
                return Ok(());
            };
            let mut text = vec![0u8; index(head.text_len.saturating_add(head.dict_len))];
            if bytes.read(at.saturating_add(wide(size)), &mut text).is_err() {
                printer.hole();
                return Ok(());
            }
            let dict = text.split_off(index(head.text_len));
            let byte = |skip: usize| head.bytes.get(dict_len?.saturating_add(skip)).copied();
            let record = Record {
                ts_nsec: u64_at(&head.bytes, ts_nsec),
                // u16 dict_len, u8 facility, u8 flags:5 level:3.
                priority: byte(2).zip(byte(3)).map(|(facility, level)| (facility, level >> 5)),
                caller: caller.and_then(|at| u32_at(&head.bytes, at)),
                caller_is_printed: true,
                device: device(&dict),
                text,
                ..Record::default()
            };
            printer.record(&record)
        })
    }
}

/// `SUBSYSTEM=pci\0DEVICE=+pci:0000:00:01.0`.
fn device(dict: &[u8]) -> Option<(String, String)> {
    let value = |key: &[u8]| dict.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(key)).map(c_string);
    Some((value(b"SUBSYSTEM=")?, value(b"DEVICE=").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_front_of_lines() {
        assert_eq!(prefix(b"<6>[    0.0] x"), Some((6, &b"[    0.0] x"[..])));
        assert_eq!(prefix(b"<30>x"), Some((30, &b"x"[..])));
        for odd in [&b"<>x"[..], b"<a>x", b"<999>x", b"x", b"", b"<6"] {
            assert_eq!(prefix(odd), None);
        }
    }
}
