//! The lockless ring of 5.10 and later (kernel/printk/printk_ringbuffer.h): descriptors, infos beside them, and blocks of
//! text in a ring of bytes. All offsets are VMCOREINFO's.

use super::le::{index, u16_at, u32_at, u64_at, wide};
use super::printk::{Log, Paged, Printer, Record, c_string};
use crate::error::{Error, Kind, Result};

/// Where the members of the ring's structures lie.
struct RingLayout {
    desc_size: usize,
    state: usize,
    begin: usize,
    next: usize,
    info_size: usize,
    ts_nsec: usize,
    text_len: usize,
    seq: Option<usize>,
    /// With it also facility and level, which lie between text_len and it.
    caller: Option<usize>,
    /// Subsystem and device: offset, length.
    device: Option<[(usize, usize); 2]>,
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
/// `state`: being written; finished but may still be extended; finished.
const RESERVED: u64 = 0;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// `begin` and `next` of a record without text: one that was an empty line (`NO_LPOS`).
const NO_LPOS: u64 = 3;
/// Every text block starts with its descriptor's id.
const BLOCK_ID: u64 = 8;

/// What is in a descriptor's slot.
enum Slot {
    /// A record.
    Record(Record),
    /// None, or one of another lap.
    Empty,
    /// One whose text did not fit the ring, or that was begun and has none yet.
    Lost,
    /// It can't be read.
    Unreadable,
}

/// The arrays of a ring.
struct Arrays<'a> {
    descs: Paged<'a>,
    infos: Paged<'a>,
    data: Paged<'a>,
}

impl Log<'_> {
    pub(super) fn ring(&self, printer: &mut Printer<'_>) -> Result<()> {
        let layout = self.ring_layout()?;
        let ring = match self.variable("prb").and_then(|prb| self.ring_head(prb)) {
            Ok(ring) => ring,
            // The first ring is a variable of its own: at least the boot's messages are in it.
            Err(e) => {
                let first = self.info.symbol("printk_rb_static").and_then(|at| self.ring_head(at).ok()).ok_or(e)?;
                printer.hole();
                first
            }
        };
        let mut arrays = Arrays {
            descs: Paged::new(self, ring.descs),
            infos: Paged::new(self, ring.infos),
            data: Paged::new(self, ring.data),
        };
        let from = if self.partial { self.clear_seq()? } else { 0 };
        let mut id = ring.tail_id;
        for _ in 0..ring.count {
            match ring.slot(&layout, id, &mut arrays) {
                Slot::Record(record) if record.seq.is_some_and(|seq| seq < from) => {}
                Slot::Record(record) => printer.record(&record)?,
                Slot::Empty => {}
                Slot::Lost => printer.lost(),
                Slot::Unreadable => printer.hole(),
            }
            if id == ring.head_id {
                break;
            }
            id = id.wrapping_add(1) & ID_MASK;
        }
        Ok(())
    }

    /// The first record after the last `dmesg -c`: since 5.12 a latch of two values, the lowest bit of whose count says
    /// which is whole.
    fn clear_seq(&self) -> Result<u64> {
        let at = self.address("clear_seq")?;
        let value = match (self.info.size("latched_seq"), self.info.offset("latched_seq.val")) {
            (Some(_), Some(val)) => {
                let which = self.variable32("clear_seq")? & 1;
                at.wrapping_add(wide(val)).wrapping_add(which.wrapping_mul(8))
            }
            _ => at,
        };
        self.number("clear_seq", value)
    }

    fn ring_layout(&self) -> Result<RingLayout> {
        let lpos = self.offset("prb_desc.text_blk_lpos")?;
        let inside = |name| Ok(lpos.saturating_add(self.offset(name)?));
        let text_len = self.offset("printk_info.text_len")?;
        let device = || {
            let at = self.info.offset("printk_info.dev_info")?;
            let field = |offset, length| {
                let length = self.info.length(length).filter(|n| *n <= 4096)?;
                Some((at.saturating_add(self.info.offset(offset)?), index(length)))
            };
            Some([
                field("dev_printk_info.subsystem", "printk_info_subsystem")?,
                field("dev_printk_info.device", "printk_info_device")?,
            ])
        };
        Ok(RingLayout {
            desc_size: self.size("prb_desc")?,
            state: self
                .offset("prb_desc.state_var")?
                .saturating_add(self.info.offset("atomic_long_t.counter").unwrap_or(0)),
            begin: inside("prb_data_blk_lpos.begin")?,
            next: inside("prb_data_blk_lpos.next")?,
            info_size: self.size("printk_info")?,
            ts_nsec: self.offset("printk_info.ts_nsec")?,
            text_len,
            seq: self.info.offset("printk_info.seq"),
            caller: self.info.offset("printk_info.caller_id").filter(|at| *at == text_len.saturating_add(4)),
            device: device(),
        })
    }

    fn ring_head(&self, prb: u64) -> Result<Ring> {
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
}

impl Ring {
    fn slot(&self, layout: &RingLayout, id: u64, arrays: &mut Arrays<'_>) -> Slot {
        self.try_slot(layout, id, arrays).unwrap_or(Slot::Unreadable)
    }

    fn try_slot(&self, layout: &RingLayout, id: u64, arrays: &mut Arrays<'_>) -> Option<Slot> {
        let slot = id & self.count.wrapping_sub(1);
        let mut desc = vec![0u8; layout.desc_size];
        arrays.descs.read(slot.checked_mul(wide(layout.desc_size))?, &mut desc).ok()?;
        let state_var = u64_at(&desc, layout.state)?;
        // A slot of another lap was reused meanwhile, or never used at all.
        let unfinished = match state_var >> 62 {
            _ if state_var & ID_MASK != id => return Some(Slot::Empty),
            COMMITTED | FINALIZED => false,
            RESERVED => true,
            _ => return Some(Slot::Empty),
        };
        let mut info = vec![0u8; layout.info_size];
        arrays.infos.read(slot.checked_mul(wide(layout.info_size))?, &mut info).ok()?;
        let mut record = layout.head(&info)?;
        record.unfinished = unfinished;
        let text_len = u64::from(u16_at(&info, layout.text_len)?);
        let (begin, next) = (u64_at(&desc, layout.begin)?, u64_at(&desc, layout.next)?);
        if begin & 1 != 0 {
            record.dataless = true;
            // Anything else odd: the text did not fit the ring and is lost.
            let empty_line = begin == NO_LPOS && next == NO_LPOS && !unfinished;
            return Some(if empty_line { Slot::Record(record) } else { Slot::Lost });
        }
        let (at, room) = self.block(begin, next)?;
        // A writer fills the text in first and its length last; before it has a block, the last lap's position is there.
        let wanted = if unfinished && text_len == 0 { room } else { text_len.min(room) };
        let mut text = vec![0u8; index(wanted.min(u64::from(u16::MAX)))];
        let read = arrays.data.read(at, &mut text);
        if unfinished {
            let mut owner = [0u8; 8];
            let owned = arrays.data.read(at.wrapping_sub(BLOCK_ID), &mut owner).is_ok();
            if read.is_err() || !owned || u64::from_le_bytes(owner) != id {
                return Some(Slot::Lost);
            }
            text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
            if text.is_empty() {
                return Some(Slot::Lost);
            }
        }
        read.ok()?;
        record.text = text;
        Some(Slot::Record(record))
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

impl RingLayout {
    /// What the info says; the text is not in it.
    fn head(&self, info: &[u8]) -> Option<Record> {
        let byte = |at: usize| info.get(at).copied();
        let caller = self.caller.and_then(|at| u32_at(info, at));
        // u16 text_len, u8 facility, u8 flags:5 level:3, u32 caller_id.
        let facility = caller.and_then(|_| byte(self.text_len.saturating_add(2)));
        let level = caller.and_then(|_| byte(self.text_len.saturating_add(3)));
        let field = |(at, len): (usize, usize)| info.get(at..at.saturating_add(len)).map(c_string);
        let device = self.device.and_then(|[subsystem, device]| Some((field(subsystem)?, field(device)?)));
        Some(Record {
            seq: self.seq.and_then(|at| u64_at(info, at)),
            ts_nsec: Some(u64_at(info, self.ts_nsec)?),
            priority: facility.zip(level).map(|(facility, level)| (facility, level >> 5)),
            caller,
            device: device.filter(|(subsystem, _)| !subsystem.is_empty()),
            ..Record::default()
        })
    }
}
