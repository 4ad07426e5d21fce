//! The crashed kernel's log: the lockless ring of 5.10 and later ([`printk_ring`](super::printk_ring)), the record buffer
//! of 3.5 to 5.9 and the plain text before ([`log_buf`](super::log_buf)); here what they share: the forms it is written in.
//!
//! Nothing that can't be read ends the log: a hole is marked and the rest still comes out.

use std::fmt::Write as _;
use std::io::Write;

use super::le::{index, wide};
use super::{AddressSpace, Fault, PhysMem, Vmcore, VmcoreInfo};
use crate::error::{Context, Error, Kind, Result};
use crate::mem::VirtAddr;

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As `dmesg` has them: `[    1.234567] text`, further lines of a record indented. Records that were being written
    /// when the machine crashed are there, and marked.
    #[default]
    Dmesg,
    /// As `makedumpfile --dump-dmesg` of 1.7.5 and later has them: with the caller, finished records with text only.
    Makedumpfile,
    /// As kexec-tools' `vmcore-dmesg` has them: further lines not indented, an empty line for a record without text.
    VmcoreDmesg,
    /// One JSON object a line: `seq`, `time` (seconds), `level`, `facility`, `caller`, `subsystem`, `device`, `text`,
    /// each where known; `"unfinished":true` for a record that was being written; `{"hole":"..."}`.
    Json,
}

/// What of the log, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The form of a record.
    pub form: Form,
    /// Only what came after the last `dmesg -c`.
    pub partial: bool,
}

/// What became of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmesg {
    /// Records written.
    pub records: u64,
    /// Bytes of text written.
    pub bytes: u64,
    /// Records that were overwritten, still being written, or unreadable.
    pub lost: u64,
}

/// Writes the log of the crashed kernel to `out` as `dmesg` would.
///
/// # Errors
/// As [`dmesg_as`].
pub fn dmesg(core: &Vmcore, out: &mut dyn Write) -> Result<Dmesg> {
    dmesg_as(core, Options::default(), out)
}

/// Writes the log of the crashed kernel to `out`.
///
/// # Errors
/// `Missing` when the vmcore does not say where the log is, `Invalid` when what is there is no log, and `out`'s own.
pub fn dmesg_as(core: &Vmcore, options: Options, out: &mut dyn Write) -> Result<Dmesg> {
    dmesg_from(core, &core.reader(), options, out)
}

/// The same, reading by `mem`.
///
/// # Errors
/// As [`dmesg_as`].
pub fn dmesg_from(core: &Vmcore, mem: &dyn PhysMem, options: Options, out: &mut dyn Write) -> Result<Dmesg> {
    let info = core.vmcoreinfo().ok_or_else(|| {
        Error::new(Kind::Missing, "the vmcore has no VMCOREINFO note, so where the kernel's log lies is not known")
    })?;
    let log = Log { info, space: AddressSpace::of(core, info), mem, partial: options.partial };
    let mut printer = Printer { out, form: options.form, stats: Dmesg::default(), hole: 0 };
    if info.symbol("prb").is_some() {
        log.ring(&mut printer).context(|| "read the printk ring")?;
    } else if info.symbol("log_first_idx").is_some() {
        log.records(&mut printer).context(|| "read the log buffer's records")?;
    } else if info.symbol("log_buf").is_some() {
        log.text(&mut printer).context(|| "read the log buffer")?;
    } else {
        return Err(Error::new(
            Kind::Missing,
            "VMCOREINFO names neither prb nor log_buf: the kernel has no log to read",
        ));
    }
    printer.finish()
}

/// One record. What a kernel does not tell is `None`.
#[derive(Default)]
pub(super) struct Record {
    pub(super) seq: Option<u64>,
    pub(super) ts_nsec: Option<u64>,
    /// Facility, level.
    pub(super) priority: Option<(u8, u8)>,
    pub(super) caller: Option<u32>,
    /// Whether the kernel itself prints the caller (`CONFIG_PRINTK_CALLER`); the ring has it in any case.
    pub(super) caller_is_printed: bool,
    /// Subsystem, device.
    pub(super) device: Option<(String, String)>,
    pub(super) text: Vec<u8>,
    /// Without a block of text: an empty line, or one whose text was lost.
    pub(super) dataless: bool,
    /// It was being written when the machine crashed.
    pub(super) unfinished: bool,
}

/// Bit 31 of a caller: a CPU's number, not a task's.
const CALLER_IS_CPU: u32 = 1 << 31;

fn caller_name(caller: u32) -> String {
    let kind = if caller & CALLER_IS_CPU != 0 { 'C' } else { 'T' };
    format!("{kind}{}", caller & !CALLER_IS_CPU)
}

pub(super) struct Printer<'a> {
    out: &'a mut dyn Write,
    form: Form,
    stats: Dmesg,
    /// Records in a row that could not be read.
    hole: u64,
}

impl Printer<'_> {
    pub(super) fn record(&mut self, record: &Record) -> Result<()> {
        self.close_hole()?;
        match self.form {
            Form::Makedumpfile if record.dataless || record.unfinished => return Ok(()),
            Form::VmcoreDmesg if record.unfinished => return Ok(()),
            _ => {}
        }
        let line = if self.form == Form::Json { json(record) } else { self.plain(record) };
        self.raw(line.as_bytes())?;
        self.stats.records = self.stats.records.saturating_add(1);
        Ok(())
    }

    fn plain(&self, record: &Record) -> String {
        let mut line = String::with_capacity(record.text.len().saturating_add(32));
        // Before 3.5 the time is part of the text, if it is there at all.
        if let Some(ts_nsec) = record.ts_nsec {
            let (seconds, micros) = (ts_nsec.wrapping_div(1_000_000_000), ts_nsec.wrapping_rem(1_000_000_000) / 1000);
            let _ = write!(line, "[{seconds:5}.{micros:06}] ");
        }
        if let Some(caller) = record.caller
            && (self.form == Form::Makedumpfile || (self.form == Form::Dmesg && record.caller_is_printed))
        {
            let _ = write!(line, "[{:>8}] ", caller_name(caller));
        }
        let indent = if self.form == Form::VmcoreDmesg { 0 } else { line.len() };
        for byte in &record.text {
            match byte {
                b'\n' => {
                    line.push('\n');
                    line.extend(std::iter::repeat_n(' ', indent));
                }
                b' '..=b'~' | b'\t' => line.push(char::from(*byte)),
                // What isspace() takes: the old programs let it through.
                0x0b..=0x0d if self.form != Form::Dmesg => line.push(char::from(*byte)),
                _ => {
                    let _ = write!(line, "\\x{byte:02x}");
                }
            }
        }
        line.push_str(if record.unfinished { " <unfinished>\n" } else { "\n" });
        line
    }

    /// A record that could not be read: adjacent ones make one hole.
    pub(super) fn hole(&mut self) {
        self.lost();
        self.hole = self.hole.saturating_add(1);
    }

    fn close_hole(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.hole);
        if count == 0 {
            return Ok(());
        }
        let what = format!("at least {count} record(s) could not be read");
        let line = if self.form == Form::Json { format!("{{\"hole\":\"{what}\"}}\n") } else { format!("<{what}>\n") };
        self.raw(line.as_bytes())
    }

    fn raw(&mut self, text: &[u8]) -> Result<()> {
        self.stats.bytes = self.stats.bytes.saturating_add(wide(text.len()));
        self.out.write_all(text).context(|| "write the log")
    }

    pub(super) fn lost(&mut self) {
        self.stats.lost = self.stats.lost.saturating_add(1);
    }

    /// Whether levels in front of text lines (`<6>`) are written as they are.
    pub(super) fn keeps_prefix(&self) -> bool {
        matches!(self.form, Form::Makedumpfile | Form::VmcoreDmesg)
    }

    fn finish(mut self) -> Result<Dmesg> {
        self.close_hole()?;
        self.out.flush().context(|| "write the log")?;
        Ok(self.stats)
    }
}

fn json(record: &Record) -> String {
    let mut line = String::from("{");
    if let Some(seq) = record.seq {
        let _ = write!(line, "\"seq\":{seq},");
    }
    if let Some(ts_nsec) = record.ts_nsec {
        let (seconds, rest) = (ts_nsec.wrapping_div(1_000_000_000), ts_nsec.wrapping_rem(1_000_000_000));
        let _ = write!(line, "\"time\":{seconds}.{:06},", rest / 1000);
    }
    if let Some((facility, level)) = record.priority {
        let _ = write!(line, "\"level\":{level},\"facility\":{facility},");
    }
    if let Some(caller) = record.caller {
        let _ = write!(line, "\"caller\":\"{}\",", caller_name(caller));
    }
    if let Some((subsystem, device)) = &record.device {
        let _ = write!(line, "\"subsystem\":{},\"device\":{},", json_string(subsystem), json_string(device));
    }
    if record.unfinished {
        line.push_str("\"unfinished\":true,");
    }
    let _ = writeln!(line, "\"text\":{}}}", json_string(&String::from_utf8_lossy(&record.text)));
    line
}

/// `text` as a JSON string, quotes included.
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c < ' ' || c == '\x7f' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A C string in a field of fixed size.
pub(super) fn c_string(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Where the log is read from.
pub(super) struct Log<'a> {
    pub(super) info: &'a VmcoreInfo,
    pub(super) space: AddressSpace,
    pub(super) mem: &'a dyn PhysMem,
    pub(super) partial: bool,
}

impl Log<'_> {
    pub(super) fn offset(&self, name: &str) -> Result<usize> {
        self.info
            .offset(name)
            .ok_or_else(|| Error::new(Kind::Missing, format!("VMCOREINFO lacks OFFSET({name}) of the kernel's log")))
    }

    /// Bytes in a structure. None of the log's has more than a page.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        self.info.size(name).filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
            Error::new(Kind::Missing, format!("VMCOREINFO lacks a plausible SIZE({name}) of the kernel's log"))
        })
    }

    pub(super) fn number(&self, what: &str, va: u64) -> Result<u64> {
        self.space
            .read_u64(self.mem, VirtAddr(va))
            .map_err(|e| Error::new(Kind::Invalid, format!("read {what} at {va:#x}: {e}")))
    }

    pub(super) fn address(&self, name: &str) -> Result<u64> {
        self.info
            .symbol(name)
            .ok_or_else(|| Error::new(Kind::Missing, format!("VMCOREINFO lacks SYMBOL({name}) of the kernel's log")))
    }

    /// The value of the 64-bit variable that `SYMBOL(name)` is the address of.
    pub(super) fn variable(&self, name: &str) -> Result<u64> {
        self.number(name, self.address(name)?)
    }

    /// The same of a 32-bit variable.
    pub(super) fn variable32(&self, name: &str) -> Result<u64> {
        let va = self.address(name)?;
        let read = self.space.read_u32(self.mem, VirtAddr(va));
        read.map(u64::from).map_err(|e| Error::new(Kind::Invalid, format!("read {name} at {va:#x}: {e}")))
    }
}

/// An array of the crashed kernel, read a page at a time.
pub(super) struct Paged<'a> {
    log: &'a Log<'a>,
    start: u64,
    page: Option<u64>,
    bytes: Vec<u8>,
}

impl<'a> Paged<'a> {
    pub(super) fn new(log: &'a Log<'a>, start: u64) -> Self {
        Self { log, start, page: None, bytes: vec![0; 4096] }
    }

    /// Fills `buf` from `offset` bytes into the array.
    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut va = self.start.wrapping_add(offset);
        let mut rest = buf;
        while !rest.is_empty() {
            let page = va & !4095;
            if self.page != Some(page) {
                self.page = None;
                self.log.space.read(self.log.mem, VirtAddr(page), &mut self.bytes)?;
                self.page = Some(page);
            }
            let within = index(va & 4095);
            let here = rest.len().min(4096usize.saturating_sub(within));
            let (now, later) = rest.split_at_mut_checked(here).ok_or(Fault::NotMapped(va))?;
            let from = self.bytes.get(within..within.saturating_add(here)).ok_or(Fault::NotMapped(va))?;
            now.copy_from_slice(from);
            va = va.wrapping_add(wide(here));
            rest = later;
        }
        Ok(())
    }

    /// The first offset behind `offset` that lies in another page.
    pub(super) fn next_page(&self, offset: u64) -> u64 {
        let va = self.start.wrapping_add(offset);
        offset.saturating_add(4096u64.saturating_sub(va & 4095))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_hold_any_text() {
        assert_eq!(json_string("a\"b\\c\n\t\u{7f}ü"), "\"a\\\"b\\\\c\\n\\u0009\\u007fü\"");
        assert_eq!(c_string(b"pci\0rest"), "pci");
    }
}
