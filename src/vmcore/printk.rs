//! The crashed kernel's log: the lockless ring of 5.10 and later (kernel/printk/printk_ringbuffer.h), the record buffer
//! of 3.5 to 5.9, the plain text buffer before.
//!
//! Lines look like `dmesg`'s and makedumpfile's: `[    1.234567] text`, further lines of a record indented below it. A
//! record that can't be read is counted and passed over, so that the rest of the log still comes out.

use std::io::Write;

use super::le::{index, u16_at, u64_at, wide};
use super::{AddressSpace, Fault, PhysMem, Vmcore, VmcoreInfo};
use crate::error::{Context, Error, Kind, Result};
use crate::mem::VirtAddr;

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

/// Writes the log of the crashed kernel to `out`.
///
/// # Errors
/// `Missing` when the vmcore does not say where the log is, `Invalid` when what is there is no log, and `out`'s own.
pub fn dmesg(core: &Vmcore, out: &mut dyn Write) -> Result<Dmesg> {
    let info = core.vmcoreinfo().ok_or_else(|| {
        Error::new(Kind::Missing, "the vmcore has no VMCOREINFO note, so where the kernel's log lies is not known")
    })?;
    let reader = core.reader();
    let log = Log { info, space: AddressSpace::of(core, info), mem: &reader };
    let mut printer = Printer { out, stats: Dmesg::default() };
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
    printer.out.flush().context(|| "write the log")?;
    Ok(printer.stats)
}

struct Printer<'a> {
    out: &'a mut dyn Write,
    stats: Dmesg,
}

impl Printer<'_> {
    /// One record. Bytes that are not printable ASCII come out as `\xHH`, as the kernel's console prints them.
    fn record(&mut self, ts_nsec: u64, text: &[u8]) -> Result<()> {
        let (seconds, rest) = (ts_nsec.wrapping_div(1_000_000_000), ts_nsec.wrapping_rem(1_000_000_000));
        let mut line = format!("[{seconds:5}.{:06}] ", rest.wrapping_div(1000));
        let indent = line.len();
        for byte in text {
            match byte {
                b'\n' => {
                    line.push('\n');
                    line.extend(std::iter::repeat_n(' ', indent));
                }
                b' '..=b'~' | b'\t' => line.push(char::from(*byte)),
                _ => line.push_str(&format!("\\x{byte:02x}")),
            }
        }
        line.push('\n');
        self.raw(line.as_bytes())?;
        self.stats.records = self.stats.records.saturating_add(1);
        Ok(())
    }

    fn raw(&mut self, text: &[u8]) -> Result<()> {
        self.stats.bytes = self.stats.bytes.saturating_add(wide(text.len()));
        self.out.write_all(text).context(|| "write the log")
    }

    fn lost(&mut self) {
        self.stats.lost = self.stats.lost.saturating_add(1);
    }
}

/// An array of the crashed kernel, read a page at a time.
struct Paged<'a> {
    log: &'a Log<'a>,
    start: u64,
    page: Option<u64>,
    bytes: Vec<u8>,
}

impl<'a> Paged<'a> {
    fn new(log: &'a Log<'a>, start: u64) -> Self {
        Self { log, start, page: None, bytes: vec![0; 4096] }
    }

    /// Fills `buf` from `offset` bytes into the array.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
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
}

struct Log<'a> {
    info: &'a VmcoreInfo,
    space: AddressSpace,
    mem: &'a dyn PhysMem,
}

/// Where the members of the ring's structures lie.
struct RingLayout {
    desc_size: usize,
    state: usize,
    begin: usize,
    next: usize,
    info_size: usize,
    ts_nsec: usize,
    text_len: usize,
}

/// The ring as its head describes it.
struct Ring {
    count: u64,
    descs: u64,
    infos: u64,
    head_id: u64,
    tail_id: u64,
    size: u64,
    data: u64,
}

/// `DESC_SV_BITS - 2`: ids have 62 bits, the state the two above.
const ID_MASK: u64 = (1 << 62) - 1;
/// `state`: finished but may still be extended; finished.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// `begin` and `next` of a record without text: one that was an empty line (`NO_LPOS`).
const NO_LPOS: u64 = 3;
/// Every text block starts with its descriptor's id.
const BLOCK_ID: u64 = 8;

impl Log<'_> {
    fn offset(&self, name: &str) -> Result<usize> {
        self.info
            .offset(name)
            .ok_or_else(|| Error::new(Kind::Missing, format!("VMCOREINFO lacks OFFSET({name}) of the printk ring")))
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.info
            .size(name)
            .filter(|n| *n != 0)
            .ok_or_else(|| Error::new(Kind::Missing, format!("VMCOREINFO lacks SIZE({name}) of the printk ring")))
    }

    fn number(&self, what: &str, va: u64) -> Result<u64> {
        self.space
            .read_u64(self.mem, VirtAddr(va))
            .map_err(|e| Error::new(Kind::Invalid, format!("read {what} at {va:#x}: {e}")))
    }

    /// The value of the 64-bit variable that `SYMBOL(name)` is the address of.
    fn variable(&self, name: &str) -> Result<u64> {
        let va = self
            .info
            .symbol(name)
            .ok_or_else(|| Error::new(Kind::Missing, format!("VMCOREINFO lacks SYMBOL({name}) of the log buffer")))?;
        self.number(name, va)
    }

    fn ring(&self, printer: &mut Printer<'_>) -> Result<()> {
        let layout = self.ring_layout()?;
        let ring = self.ring_head()?;
        let mut descs = Paged::new(self, ring.descs);
        let mut infos = Paged::new(self, ring.infos);
        let mut data = Paged::new(self, ring.data);
        let mut id = ring.tail_id;
        for _ in 0..ring.count {
            match ring.record(&layout, id, &mut descs, &mut infos, &mut data) {
                Some(Some((ts_nsec, text))) => printer.record(ts_nsec, &text)?,
                Some(None) => {}
                None => printer.lost(),
            }
            if id == ring.head_id {
                break;
            }
            id = id.wrapping_add(1) & ID_MASK;
        }
        Ok(())
    }

    fn ring_layout(&self) -> Result<RingLayout> {
        let lpos = self.offset("prb_desc.text_blk_lpos")?;
        let inside = |name| Ok(lpos.saturating_add(self.offset(name)?));
        Ok(RingLayout {
            desc_size: self.size("prb_desc")?,
            state: self
                .offset("prb_desc.state_var")?
                .saturating_add(self.info.offset("atomic_long_t.counter").unwrap_or(0)),
            begin: inside("prb_data_blk_lpos.begin")?,
            next: inside("prb_data_blk_lpos.next")?,
            info_size: self.size("printk_info")?,
            ts_nsec: self.offset("printk_info.ts_nsec")?,
            text_len: self.offset("printk_info.text_len")?,
        })
    }

    fn ring_head(&self) -> Result<Ring> {
        let prb = self.variable("prb")?;
        let at = |outer: &str, inner: &str| -> Result<u64> {
            Ok(prb.wrapping_add(wide(self.offset(outer)?)).wrapping_add(wide(self.offset(inner)?)))
        };
        let desc = |member: &str| at("printk_ringbuffer.desc_ring", &format!("prb_desc_ring.{member}"));
        let text = |member: &str| at("printk_ringbuffer.text_data_ring", &format!("prb_data_ring.{member}"));
        let count_bits = self.number("the ring's count_bits", desc("count_bits")?)? & 0xffff_ffff;
        let size_bits = self.number("the ring's size_bits", text("size_bits")?)? & 0xffff_ffff;
        // CONFIG_LOG_BUF_SHIFT and log_buf_len= end at 2 GiB of text, at least 32 bytes a record.
        if !(1..=26).contains(&count_bits) || !(3..=31).contains(&size_bits) {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the printk ring at {prb:#x} claims 2^{count_bits} records and 2^{size_bits} bytes: it is corrupt"
                ),
            ));
        }
        let power = |bits: u64| u32::try_from(bits).ok().and_then(|b| 1u64.checked_shl(b)).unwrap_or(0);
        Ok(Ring {
            count: power(count_bits),
            descs: self.number("descs", desc("descs")?)?,
            infos: self.number("infos", desc("infos")?)?,
            head_id: self.number("head_id", desc("head_id")?)? & ID_MASK,
            tail_id: self.number("tail_id", desc("tail_id")?)? & ID_MASK,
            size: power(size_bits),
            data: self.number("data", text("data")?)?,
        })
    }

    /// 3.5 to 5.9: `struct printk_log` (before 3.11 `struct log`), each with its text behind it, in a circular buffer.
    fn records(&self, printer: &mut Printer<'_>) -> Result<()> {
        let kind = if self.info.size("printk_log").is_some() { "printk_log" } else { "log" };
        let head_size = self.size(kind)?;
        let member = |name: &str| self.offset(&format!("{kind}.{name}"));
        let (ts_at, len_at, text_len_at) = (member("ts_nsec")?, member("len")?, member("text_len")?);
        let buffer = self.variable("log_buf")?;
        let low = |name| Ok::<u64, Error>(self.variable(name)? & 0xffff_ffff);
        let (size, mut at, next) = (low("log_buf_len")?, low("log_first_idx")?, low("log_next_idx")?);
        let mut bytes = Paged::new(self, buffer);
        // No record is shorter than its head, so this many steps see them all; a corrupt cycle ends here too.
        let steps = size.checked_div(wide(head_size)).unwrap_or(0).saturating_add(1);
        let mut head = vec![0u8; head_size];
        for _ in 0..steps {
            if at == next {
                return Ok(());
            }
            if at.saturating_add(wide(head_size)) > size || bytes.read(at, &mut head).is_err() {
                printer.lost();
                return Ok(());
            }
            let (Some(ts_nsec), Some(len), Some(text_len)) =
                (u64_at(&head, ts_at), u16_at(&head, len_at), u16_at(&head, text_len_at))
            else {
                printer.lost();
                return Ok(());
            };
            if len == 0 {
                // The rest of the buffer was too short for the next record, which starts over at 0.
                if at == 0 {
                    return Ok(());
                }
                at = 0;
                continue;
            }
            let end = at.saturating_add(u64::from(len));
            let text_at = at.saturating_add(wide(head_size));
            if usize::from(len) < head_size || end > size {
                printer.lost();
                return Ok(());
            }
            let mut text = vec![0u8; usize::from(text_len).min(usize::from(len).saturating_sub(head_size))];
            match bytes.read(text_at, &mut text) {
                Ok(()) => printer.record(ts_nsec, &text)?,
                Err(_) => printer.lost(),
            }
            at = end;
        }
        printer.lost();
        Ok(())
    }

    /// Before 3.5: bytes as printed, in a circular buffer; `log_end` counts all ever written.
    fn text(&self, printer: &mut Printer<'_>) -> Result<()> {
        let low = |name| Ok::<u64, Error>(self.variable(name)? & 0xffff_ffff);
        let (buffer, size, end) = (self.variable("log_buf")?, low("log_buf_len")?, low("log_end")?);
        if !size.is_power_of_two() || size > 1 << 31 {
            return Err(Error::new(
                Kind::Invalid,
                format!("log_buf_len is {size:#x}, which is no size of a log buffer"),
            ));
        }
        let have = self.variable("logged_chars").map_or(size, |n| n & 0xffff_ffff).min(size).min(end);
        let mut bytes = Paged::new(self, buffer);
        let mut chunk = [0u8; 1024];
        let mut done = 0u64;
        while done < have {
            let at = end.wrapping_sub(have).wrapping_add(done) & size.wrapping_sub(1);
            let here = have.saturating_sub(done).min(size.saturating_sub(at)).min(wide(chunk.len()));
            let Some(part) = chunk.get_mut(..index(here)) else { break };
            match bytes.read(at, part) {
                Ok(()) => printer.raw(part)?,
                Err(_) => printer.lost(),
            }
            done = done.saturating_add(here);
        }
        Ok(())
    }
}

impl Ring {
    /// The record with `id`: time and text. `Some(None)` is a slot without one, `None` one that could not be read.
    #[expect(clippy::option_option, reason = "absent, valid and broken are three outcomes")]
    fn record(
        &self,
        layout: &RingLayout,
        id: u64,
        descs: &mut Paged<'_>,
        infos: &mut Paged<'_>,
        data: &mut Paged<'_>,
    ) -> Option<Option<(u64, Vec<u8>)>> {
        let slot = id & self.count.wrapping_sub(1);
        let mut desc = vec![0u8; layout.desc_size];
        descs.read(slot.checked_mul(wide(layout.desc_size))?, &mut desc).ok()?;
        let state_var = u64_at(&desc, layout.state)?;
        // A slot of another lap was reused meanwhile, or never used at all.
        if state_var & ID_MASK != id {
            return Some(None);
        }
        match state_var >> 62 {
            COMMITTED | FINALIZED => {}
            0 => return None,
            _ => return Some(None),
        }
        let mut info = vec![0u8; layout.info_size];
        infos.read(slot.checked_mul(wide(layout.info_size))?, &mut info).ok()?;
        let ts_nsec = u64_at(&info, layout.ts_nsec)?;
        let text_len = u64::from(u16_at(&info, layout.text_len)?);
        let (begin, next) = (u64_at(&desc, layout.begin)?, u64_at(&desc, layout.next)?);
        if begin & 1 != 0 {
            // NO_LPOS: an empty line. Anything else odd: the text did not fit the ring and is lost.
            return (begin == NO_LPOS && next == NO_LPOS).then(|| Some((ts_nsec, Vec::new())));
        }
        let (at, room) = self.block(begin, next)?;
        let mut text = vec![0u8; index(text_len.min(room))];
        data.read(at, &mut text).ok()?;
        Some(Some((ts_nsec, text)))
    }

    /// Where a block's text starts in the ring and how many bytes it may have.
    ///
    /// A block that would not fit before the ring's end starts over at 0. One that ends exactly there has `next` at 0:
    /// before 6.18 the kernel wrapped such a block too, so 0 means "ends at the end" (67e1b0052f6b "printk_ringbuffer:
    /// don't needlessly wrap data blocks around").
    fn block(&self, begin: u64, next: u64) -> Option<(u64, u64)> {
        let mask = self.size.wrapping_sub(1);
        let (begin_index, next_index) = (begin & mask, next & mask);
        let (start, end) = if next_index > begin_index {
            (begin_index, next_index)
        } else if next_index == 0 {
            (begin_index, self.size)
        } else {
            (0, next_index)
        };
        let text = start.checked_add(BLOCK_ID)?;
        Some((text, end.checked_sub(text)?))
    }
}
