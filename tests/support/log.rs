//! The log of a made-up kernel: the ring of 5.10 and later, the record buffer before.

use super::kernel::Kernel;

/// A record of the ring.
#[derive(Clone)]
pub struct Record {
    pub ns: u64,
    pub text: Vec<u8>,
    /// 0 being written, 1 committed, 2 finalized, 3 reusable.
    pub state: u64,
    /// Written in place of the text's position: records without text.
    pub lpos: Option<[u64; 2]>,
    /// Written in place of the text's length.
    pub text_len: Option<u16>,
    pub facility: u8,
    pub level: u8,
    /// Bit 31: a CPU.
    pub caller: u32,
    /// Subsystem, device.
    pub device: [&'static str; 2],
}

impl Record {
    pub fn new(ns: u64, text: &str) -> Self {
        Self {
            ns,
            text: text.as_bytes().to_vec(),
            state: 2,
            lpos: None,
            text_len: None,
            facility: 0,
            level: 6,
            caller: 1,
            device: [""; 2],
        }
    }
}

/// How the ring is made.
#[derive(Clone, Copy)]
pub struct RingShape {
    pub count_bits: u32,
    pub size_bits: u32,
    /// Id of the first record: not 0 once the ring has wrapped.
    pub first_id: u64,
    /// Position of the first text.
    pub first_lpos: u64,
    /// 6.18 and later: a block may end exactly at the ring's end.
    pub fills_the_end: bool,
    /// The first record after `dmesg -c`.
    pub clear_seq: u64,
}

impl Default for RingShape {
    fn default() -> Self {
        Self { count_bits: 4, size_bits: 9, first_id: 0, first_lpos: 0, fills_the_end: false, clear_seq: 0 }
    }
}

/// Puts a printk ring with `records` into the kernel's image. Returns the address of the ring's head.
pub fn ring(kernel: &mut Kernel, shape: RingShape, records: &[Record]) -> u64 {
    let (count, size) = (1u64 << shape.count_bits, 1u64 << shape.size_bits);
    let (head, descs, infos) = (kernel.alloc(88), kernel.alloc(count * 24), kernel.alloc(count * 88));
    let data = kernel.alloc(size);
    kernel.page_align();
    let (pointer, clear) = (kernel.alloc(8), kernel.alloc(24));
    kernel.page_align();
    for slot in 0..count {
        // Never used: reusable, with the id of the lap before.
        kernel.put(descs + slot * 24, &((slot.wrapping_sub(count) & ((1 << 62) - 1)) | 3 << 62).to_le_bytes());
    }
    let mut lpos = shape.first_lpos;
    for (i, record) in records.iter().enumerate() {
        let id = shape.first_id + i as u64;
        let slot = id % count;
        let block = (8 + record.text.len() as u64).next_multiple_of(8);
        let end = lpos + block;
        let fits = if shape.fills_the_end { (end - 1) / size == lpos / size } else { end / size == lpos / size };
        let (begin, next, at) = if fits {
            (lpos, end, lpos % size)
        } else {
            let start = (lpos / size + 1) * size;
            (lpos, start + block, 0)
        };
        let [begin, next] = record.lpos.unwrap_or_else(|| {
            lpos = next;
            kernel.put(data + at, &id.to_le_bytes());
            kernel.put(data + at + 8, &record.text);
            [begin, next]
        });
        for (offset, value) in [(0, id | record.state << 62), (8, begin), (16, next)] {
            kernel.put(descs + slot * 24 + offset, &value.to_le_bytes());
        }
        kernel.put(infos + slot * 88, &id.to_le_bytes());
        kernel.put(infos + slot * 88 + 8, &record.ns.to_le_bytes());
        let text_len = record.text_len.unwrap_or(record.text.len() as u16);
        kernel.put(infos + slot * 88 + 16, &text_len.to_le_bytes());
        kernel.put(infos + slot * 88 + 18, &[record.facility, record.level << 5 | 2]);
        kernel.put(infos + slot * 88 + 20, &record.caller.to_le_bytes());
        for (at, text) in [24, 40].into_iter().zip(record.device) {
            kernel.put(infos + slot * 88 + at, text.as_bytes());
        }
    }
    let last = shape.first_id + (records.len() as u64).saturating_sub(1);
    kernel.put(head, &shape.count_bits.to_le_bytes());
    for (offset, value) in [(8, descs), (16, infos), (24, last), (32, shape.first_id)] {
        kernel.put(head + offset, &value.to_le_bytes());
    }
    kernel.put(head + 48, &shape.size_bits.to_le_bytes());
    kernel.put(head + 56, &data.to_le_bytes());
    kernel.put(pointer, &head.to_le_bytes());
    // The latch's count is odd: the second of its two values counts.
    for (offset, value) in [(0, 1), (8, u64::MAX), (16, shape.clear_seq)] {
        kernel.put(clear + offset, &value.to_le_bytes());
    }
    kernel.symbol("prb", pointer);
    kernel.symbol("printk_rb_static", head);
    kernel.symbol("clear_seq", clear);
    kernel.info.push_str("SIZE(latched_seq)=24\nOFFSET(latched_seq.val)=8\n");
    kernel.info.push_str(
        "SIZE(printk_ringbuffer)=88\nOFFSET(printk_ringbuffer.desc_ring)=0\nOFFSET(printk_ringbuffer.text_data_ring)=48\n\
         SIZE(prb_desc_ring)=48\nOFFSET(prb_desc_ring.count_bits)=0\nOFFSET(prb_desc_ring.descs)=8\n\
         OFFSET(prb_desc_ring.infos)=16\nOFFSET(prb_desc_ring.head_id)=24\nOFFSET(prb_desc_ring.tail_id)=32\n\
         SIZE(prb_desc)=24\nOFFSET(prb_desc.state_var)=0\nOFFSET(prb_desc.text_blk_lpos)=8\n\
         OFFSET(prb_data_blk_lpos.begin)=0\nOFFSET(prb_data_blk_lpos.next)=8\nSIZE(printk_info)=88\n\
         OFFSET(printk_info.seq)=0\nOFFSET(printk_info.dev_info)=24\nSIZE(dev_printk_info)=64\n\
         OFFSET(dev_printk_info.subsystem)=0\nOFFSET(dev_printk_info.device)=16\nLENGTH(printk_info_subsystem)=16\n\
         LENGTH(printk_info_device)=48\nOFFSET(printk_info.ts_nsec)=8\nOFFSET(printk_info.text_len)=16\nOFFSET(printk_info.caller_id)=20\n\
         OFFSET(prb_data_ring.size_bits)=0\nOFFSET(prb_data_ring.data)=8\nOFFSET(atomic_long_t.counter)=0\n",
    );
    head
}

/// How the buffer of 3.5 to 5.9 is laid out.
#[derive(Clone, Copy)]
pub struct OldShape {
    /// `printk_log`, before 3.11 `log`.
    pub name: &'static str,
    /// 5.1 and later with CONFIG_PRINTK_CALLER: a caller behind the rest.
    pub caller: Option<u32>,
}

impl Default for OldShape {
    fn default() -> Self {
        Self { name: "printk_log", caller: None }
    }
}

/// A record of the buffer of 3.5 to 5.9, as bytes.
pub fn old_record(shape: OldShape, ns: u64, text: &str, dict: &str) -> Vec<u8> {
    let mut out = ns.to_le_bytes().to_vec();
    let head = 16 + shape.caller.map_or(0, |_| 8);
    let len = (head + text.len() + dict.len()).next_multiple_of(8);
    for half in [len, text.len(), dict.len()] {
        out.extend((half as u16).to_le_bytes());
    }
    // Facility, flags and level.
    out.extend([1, 6 << 5 | 2]);
    if let Some(caller) = shape.caller {
        out.extend(u64::from(caller).to_le_bytes());
    }
    out.extend(text.as_bytes());
    out.extend(dict.as_bytes());
    out.resize(len, 0);
    out
}

/// Puts a record buffer with `bytes` into the image; reading goes from `first` to `next`. Returns the buffer's address.
pub fn old_log(kernel: &mut Kernel, shape: OldShape, bytes: &[u8], first: u32, next: u32, clear: u32) -> u64 {
    kernel.page_align();
    let buffer = kernel.alloc(bytes.len() as u64);
    kernel.page_align();
    let variables = kernel.alloc(48);
    kernel.put(buffer, bytes);
    kernel.put(variables, &buffer.to_le_bytes());
    for (i, value) in [bytes.len() as u32, first, next, clear].into_iter().enumerate() {
        kernel.put(variables + 8 + 8 * i as u64, &value.to_le_bytes());
    }
    let names = ["log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "clear_idx"];
    for (i, name) in names.into_iter().enumerate() {
        kernel.symbol(name, variables + 8 * i as u64);
    }
    let name = shape.name;
    let size = 16 + shape.caller.map_or(0, |_| 8);
    kernel.info.push_str(&format!(
        "SIZE({name})={size}\nOFFSET({name}.ts_nsec)=0\nOFFSET({name}.len)=8\nOFFSET({name}.text_len)=10\n\
         OFFSET({name}.dict_len)=12\n"
    ));
    if shape.caller.is_some() {
        kernel.info.push_str(&format!("OFFSET({name}.caller_id)=16\n"));
    }
    buffer
}

/// Puts a buffer of text, as before 3.5, into the image: `printed` is all that was ever printed, `size` what it holds.
pub fn text_log(kernel: &mut Kernel, printed: &[u8], size: usize, since_clear: u32) {
    let (buffer, variables) = (kernel.alloc(size as u64), kernel.alloc(32));
    let start = printed.len().saturating_sub(size);
    for (i, byte) in printed.iter().enumerate().skip(start) {
        kernel.put(buffer + (i % size) as u64, &[*byte]);
    }
    kernel.put(variables, &buffer.to_le_bytes());
    for (i, value) in [size as u32, printed.len() as u32, since_clear].into_iter().enumerate() {
        kernel.put(variables + 8 + 8 * i as u64, &value.to_le_bytes());
    }
    for (i, name) in ["log_buf", "log_buf_len", "log_end", "logged_chars"].into_iter().enumerate() {
        kernel.symbol(name, variables + 8 * i as u64);
    }
}
