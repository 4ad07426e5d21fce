//! BTF (Documentation/bpf/btf.rst): the types of a kernel, and the lines of VMCOREINFO that follow from them.

use std::fmt::Write;

use super::le::{index, u16_at, u32_at};
use crate::error::{Error, Kind, Result};

/// Anonymous structures in anonymous structures: the kernel's own nest 4 deep.
const MAX_DEPTH: u32 = 16;

/// Structures whose size goes into it.
const SIZES: &str = "page mem_section pglist_data zone free_area list_head printk_ringbuffer prb_desc_ring prb_desc \
    prb_data_blk_lpos printk_info dev_printk_info prb_data_ring latched_seq printk_log log";
/// Members whose offset goes into it.
const OFFSETS: &str = "uts_namespace.name page.flags page._refcount page.mapping page.lru page._mapcount page.private \
    page.compound_dtor page.compound_order page.compound_head page.compound_info folio._folio_dtor folio._folio_order \
    mem_section.section_mem_map pglist_data.node_zones pglist_data.nr_zones pglist_data.node_start_pfn \
    pglist_data.node_spanned_pages pglist_data.node_id zone.free_area zone.vm_stat zone.spanned_pages \
    free_area.free_list list_head.next list_head.prev vmap_area.va_start vmap_area.list printk_ringbuffer.desc_ring \
    printk_ringbuffer.text_data_ring printk_ringbuffer.fail prb_desc_ring.count_bits prb_desc_ring.descs \
    prb_desc_ring.infos prb_desc_ring.head_id prb_desc_ring.tail_id prb_desc.state_var prb_desc.text_blk_lpos \
    prb_data_blk_lpos.begin prb_data_blk_lpos.next printk_info.seq printk_info.ts_nsec printk_info.text_len \
    printk_info.caller_id printk_info.dev_info dev_printk_info.subsystem dev_printk_info.device \
    prb_data_ring.size_bits prb_data_ring.data prb_data_ring.head_lpos prb_data_ring.tail_lpos latched_seq.val \
    printk_log.ts_nsec printk_log.len printk_log.text_len printk_log.dict_len printk_log.caller_id";
/// Arrays whose length goes into it: the name there, then the member.
const LENGTHS: &str = "zone.free_area=zone.free_area free_area.free_list=free_area.free_list \
    printk_info_subsystem=dev_printk_info.subsystem printk_info_device=dev_printk_info.device";
/// Enumerators whose value goes into it.
const NUMBERS: &str = "PG_lru PG_private PG_swapcache PG_swapbacked PG_slab PG_hwpoison PG_hugetlb NR_FREE_PAGES \
    HUGETLB_PAGE_DTOR";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

/// The string that starts at `at` of a string table.
pub(super) fn c_str(table: &[u8], at: u32) -> &[u8] {
    let rest = table.get(index(u64::from(at))..).unwrap_or_default();
    rest.split(|b| *b == 0).next().unwrap_or_default()
}

/// The lines of VMCOREINFO that follow from types alone.
///
/// # Errors
/// [`Kind::Invalid`] if `btf` is no BTF.
pub fn types(btf: &[u8]) -> Result<String> {
    let btf = Btf::parse(btf)?;
    let mut text = String::new();
    for name in SIZES.split_whitespace() {
        if let Some(size) = btf.structure(name).and_then(|at| u32_at(btf.types, at.saturating_add(8))) {
            let _ = writeln!(text, "SIZE({name})={size}");
        }
    }
    for path in OFFSETS.split_whitespace() {
        if let Some((offset, _)) = btf.member(path) {
            let _ = writeln!(text, "OFFSET({path})={offset}");
        }
    }
    // atomic_long_t is a typedef of atomic64_t, itself a structure with nothing in front.
    text.push_str("SIZE(atomic_long_t)=8\nOFFSET(atomic_long_t.counter)=0\n");
    for (name, path) in LENGTHS.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        if let Some(length) = btf.member(path).and_then(|(_, id)| btf.array_length(id)) {
            let _ = writeln!(text, "LENGTH({name})={length}");
        }
    }
    for name in NUMBERS.split_whitespace() {
        if let Some(value) = btf.enumerator(name) {
            let _ = writeln!(text, "NUMBER({name})={value}");
        }
    }
    if let Some(mask) = btf.enumerator("PG_head").and_then(|bit| 1u64.checked_shl(u32::try_from(bit).ok()?)) {
        let _ = writeln!(text, "NUMBER(PG_head_mask)={mask}");
    }
    // A top byte since 6.12; in 6.10 and 6.11 bits that are cleared, by name; before, macros, which BTF lacks.
    for (kind, before) in
        [("buddy", Some(-129)), ("offline", Some(-257)), ("hugetlb", None), ("slab", None), ("unaccepted", None)]
    {
        let cleared = |bit: i64| i64::from(!i32::try_from(bit).unwrap_or(0));
        let byte = btf.enumerator(&format!("PGTY_{kind}")).map(|v| v << 24);
        let bit = || btf.enumerator(&format!("PG_{kind}")).filter(|v| *v > 0xffff).map(cleared);
        let old = if btf.enumerator("PGTY_buddy").is_none() { before } else { None };
        if let Some(value) = byte.or_else(bit).or(old) {
            let _ = writeln!(text, "NUMBER(PAGE_{}_MAPCOUNT_VALUE)={value}", kind.to_uppercase());
        }
    }
    text.push_str("LENGTH(mem_section)=4096\nNUMBER(SECTION_SIZE_BITS)=27\nNUMBER(KERNEL_IMAGE_SIZE)=1073741824\n");
    Ok(text)
}

const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;

/// Types of a kernel.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; type 1 first.
    starts: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let field = |at| u32_at(bytes, at).map(|n| index(u64::from(n)));
        let part = |at: usize, len: usize| {
            let start = field(4)?.checked_add(field(at)?)?;
            bytes.get(start..start.checked_add(field(len)?)?)
        };
        let parts = part(8, 12).zip(part(16, 20)).filter(|_| u16_at(bytes, 0) == Some(0xeb9f));
        let (types, strings) = parts.ok_or_else(|| invalid("its .BTF section is no BTF"))?;
        let mut btf = Self { types, strings, starts: Vec::new() };
        let mut at = 0usize;
        while let Some((kind, count)) = btf.kind(at) {
            // What follows the 12 bytes each type has.
            let more = match kind {
                1 | 14 | 17 => 4,
                ARRAY => 12,
                STRUCT | UNION | 15 | 19 => count.saturating_mul(12),
                ENUM | 13 => count.saturating_mul(8),
                2 | 7..=12 | 16 | 18 => 0,
                other => return Err(invalid(format!("its .BTF has a type of the unknown kind {other}"))),
            };
            btf.starts.push(at);
            at = at.saturating_add(12).saturating_add(more);
        }
        Ok(btf)
    }

    /// Kind and number of parts of the type at `at`.
    fn kind(&self, at: usize) -> Option<(u32, usize)> {
        let info = u32_at(self.types, at.checked_add(4)?)?;
        Some((info >> 24 & 31, usize::from(u16_at(self.types, at.checked_add(4)?)?)))
    }

    fn name(&self, at: usize) -> &'a [u8] {
        u32_at(self.types, at).map_or(&[], |n| c_str(self.strings, n))
    }

    fn type_of(&self, id: u32) -> Option<usize> {
        self.starts.get(index(u64::from(id.checked_sub(1)?))).copied()
    }

    fn structure(&self, name: &str) -> Option<usize> {
        let is =
            |at: &&usize| self.kind(**at).is_some_and(|(kind, _)| kind == STRUCT) && self.name(**at) == name.as_bytes();
        self.starts.iter().find(is).copied()
    }

    /// Offset in bytes and type of `structure.member`, which may be in anonymous parts of it.
    fn member(&self, path: &str) -> Option<(u64, u32)> {
        let (structure, member) = path.split_once('.')?;
        self.find(self.structure(structure)?, member.as_bytes(), MAX_DEPTH)
    }

    fn find(&self, at: usize, member: &[u8], depth: u32) -> Option<(u64, u32)> {
        let (kind, count) = self.kind(at)?;
        if !matches!(kind, STRUCT | UNION) {
            return None;
        }
        let bitfields = u32_at(self.types, at.checked_add(4)?)? >> 31 != 0;
        (0..count).find_map(|i| {
            let entry = at.checked_add(12)?.checked_add(i.checked_mul(12)?)?;
            let (id, place) = (u32_at(self.types, entry.checked_add(4)?)?, u32_at(self.types, entry.checked_add(8)?)?);
            let offset = u64::from(if bitfields { place & 0xff_ffff } else { place }) >> 3;
            match self.name(entry) {
                name if name == member => Some((offset, id)),
                b"" => {
                    let (inner, id) = self.find(self.type_of(id)?, member, depth.checked_sub(1)?)?;
                    Some((offset.saturating_add(inner), id))
                }
                _ => None,
            }
        })
    }

    fn array_length(&self, id: u32) -> Option<u32> {
        let at = self.type_of(id)?;
        if self.kind(at)?.0 != ARRAY {
            return None;
        }
        u32_at(self.types, at.checked_add(20)?)
    }

    /// The value of an enumerator, of whatever enumeration.
    fn enumerator(&self, name: &str) -> Option<i64> {
        self.starts.iter().filter_map(|at| Some((*at, self.kind(*at)?))).find_map(|(at, (kind, count))| {
            (0..if kind == ENUM { count } else { 0 }).find_map(|i| {
                let entry = at.checked_add(12)?.checked_add(i.checked_mul(8)?)?;
                let value = u32_at(self.types, entry.checked_add(4)?)?;
                (self.name(entry) == name.as_bytes()).then(|| i64::from(value.cast_signed()))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_btf_is_refused_and_what_is_cut_ends() {
        assert!(types(b"").is_err() && types(&[0; 64]).is_err());
        let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        for word in [0u32, 40, 40, 8] {
            bytes.extend(word.to_le_bytes());
        }
        // struct page of 64 bytes, whose one member without name is itself.
        for word in [1u32, STRUCT << 24 | 1, 64, 0, 1, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0; 16]);
        bytes.extend(b"\0page\0\0\0");
        let text = types(&bytes).map_err(|e| e.to_string());
        assert!(text.as_ref().is_err_and(|e| e.contains("unknown kind 0")), "{text:?}");
        bytes.splice(12..16, 24u32.to_le_bytes());
        let text = types(&bytes).unwrap_or_default();
        assert!(text.contains("SIZE(page)=64\n") && !text.contains("OFFSET(page."), "{text}");
        for len in 0..bytes.len() {
            let _ = types(bytes.get(..len).unwrap_or_default());
        }
    }
}
