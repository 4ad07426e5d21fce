//! What a `struct page` says about the page it describes (include/linux/mm_types.h, page-flags.h), from 4.x to 7.x.
//!
//! Everything is told apart by which keys VMCOREINFO has, never by version. A key that is missing takes away the
//! classes it is needed for: their pages are kept.

use super::le::{u32_at, u64_at};
use super::vmcoreinfo::VmcoreInfo;
use crate::error::{Error, Kind, Result};

/// Why a page may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Free memory in the buddy allocator (or not yet accepted by a confidential guest).
    Free,
    /// Page cache without private data.
    Cache,
    /// Page cache with private data (buffer heads).
    CachePrivate,
    /// Memory of user processes: anonymous, KSM, huge pages of hugetlbfs.
    User,
    /// Broken memory: reading it may stop the machine.
    Hwpoison,
    /// Logically offline: given back by a balloon or a virtual memory device.
    Offline,
    /// Memory of a Xen guest.
    Guest,
}

impl Class {
    /// Every one.
    pub const ALL: [Class; 7] =
        [Class::Free, Class::Cache, Class::CachePrivate, Class::User, Class::Hwpoison, Class::Offline, Class::Guest];
}

/// What the head of some pages says: `1 << order` of them are of `class`; `None` is "keep".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why they may go.
    pub class: Option<Class>,
    /// Binary logarithm of how many pages this is about.
    pub order: u32,
}

const KEEP: Verdict = Verdict { class: None, order: 0 };

/// Largest order believed: 16 GiB, the largest huge page of any x86_64 kernel is 1 GiB.
const MAX_ORDER: u32 = 22;

/// How a kernel marks the head of a hugetlbfs page.
#[derive(Clone, Copy, Debug)]
enum Hugetlb {
    /// 6.9 and later: a page type.
    Type(PageType),
    /// 6.6 to 6.8: a flag of the first tail page.
    TailFlag(u64),
    /// Before: the id of a destructor in the first tail page.
    Dtor { at: usize, id: u8 },
    /// Not known: such pages are kept.
    Unknown,
}

/// Where the order of a compound page is stored.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// A byte of the first tail page (the low byte of a 16-bit number before 4.16).
    TailByte(usize),
    /// 6.6 and later: the low byte of the first tail page's flags.
    TailFlags,
}

/// A value of `page_type` (`_mapcount` before it had a name), and which bits of the field tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageType {
    mask: u32,
    value: u32,
}

impl PageType {
    /// What no page has.
    const NONE: Self = Self { mask: 0, value: 1 };

    /// 6.12 and later number the types in the top byte and leave the low 24 bits to the page's owner (4ffca5a96678
    /// "mm: support only one page_type per page"); before, each type is a cleared bit and the value compares whole.
    fn from(info: &VmcoreInfo, name: &str) -> Self {
        // Exported as a signed or an unsigned decimal: the low 32 bits are the field's.
        let bytes = info.number(name).map(u64::to_le_bytes);
        let Some(value) = bytes.and_then(|bytes| u32_at(&bytes, 0)) else { return Self::NONE };
        let numbered = value & 0x00ff_ffff == 0 && (0xf0..=0xfe).contains(&(value >> 24));
        Self { mask: if numbered { 0xff00_0000 } else { u32::MAX }, value }
    }

    const fn matches(self, page_type: u32) -> bool {
        page_type & self.mask == self.value
    }
}

/// What is looked at of one struct.
struct Words {
    flags: u64,
    compound_head: u64,
    mapping: u64,
    page_type: u32,
}

/// Where the members of `struct page` are and what their values mean.
#[derive(Clone, Copy, Debug)]
pub struct PageLayout {
    /// `sizeof(struct page)`.
    pub size: usize,
    flags: usize,
    mapping: usize,
    mapcount: usize,
    private: usize,
    compound_head: usize,
    lru_mask: u64,
    private_mask: u64,
    swapcache_mask: u64,
    swapbacked_mask: u64,
    slab_mask: u64,
    hwpoison_mask: u64,
    head_mask: u64,
    buddy: PageType,
    slab: PageType,
    offline: PageType,
    unaccepted: PageType,
    hugetlb: Hugetlb,
    order: Order,
    /// `LENGTH(zone.free_area)`: orders of the buddy allocator, that is, its largest order and one.
    free_areas: u32,
    /// Flags without which a page is the kernel's own, if its `mapping` and type don't say otherwise.
    telling: u64,
    /// Whether a struct is eight words and none of those looked at lies across two.
    in_words: bool,
}

fn mask_of_bit(bit: Option<u64>) -> u64 {
    bit.and_then(|b| u32::try_from(b).ok()).and_then(|b| 1u64.checked_shl(b)).unwrap_or(0)
}

impl PageLayout {
    /// From what the vmcore says about itself.
    ///
    /// # Errors
    /// `Missing`, naming the key without which no page can be told from another.
    pub fn new(info: &VmcoreInfo) -> Result<Self> {
        let missing = |key: String| Error::new(Kind::Missing, format!("VMCOREINFO lacks {key}"));
        let offset = |member: &str| info.offset(member).ok_or_else(|| missing(format!("OFFSET({member})")));
        let size = info.size("page").filter(|n| *n >= 32).ok_or_else(|| missing("SIZE(page)".into()))?;
        let flag = |name: &str| mask_of_bit(info.number(name));
        // 7.1 renamed compound_head to compound_info (d50569612c29); bit 0 still marks a tail page.
        let compound_head = offset("page.compound_head").or_else(|_| offset("page.compound_info"))?;
        let in_tail = |member: &str| info.offset(member).and_then(|at| at.checked_sub(size));
        let order = match (in_tail("folio._folio_order"), info.offset("page.compound_order")) {
            (Some(at), _) | (None, Some(at)) => Order::TailByte(at),
            (None, None) => Order::TailFlags,
        };
        let mut layout = Self {
            size,
            flags: offset("page.flags")?,
            mapping: offset("page.mapping")?,
            mapcount: offset("page._mapcount")?,
            private: offset("page.private")?,
            compound_head,
            lru_mask: flag("PG_lru"),
            private_mask: flag("PG_private"),
            swapcache_mask: flag("PG_swapcache"),
            swapbacked_mask: flag("PG_swapbacked"),
            slab_mask: flag("PG_slab"),
            hwpoison_mask: flag("PG_hwpoison"),
            head_mask: info.number("PG_head_mask").unwrap_or(0),
            buddy: PageType::from(info, "PAGE_BUDDY_MAPCOUNT_VALUE"),
            slab: PageType::from(info, "PAGE_SLAB_MAPCOUNT_VALUE"),
            offline: PageType::from(info, "PAGE_OFFLINE_MAPCOUNT_VALUE"),
            unaccepted: PageType::from(info, "PAGE_UNACCEPTED_MAPCOUNT_VALUE"),
            hugetlb: Self::hugetlb(info, in_tail("folio._folio_dtor")),
            order,
            free_areas: info.length("zone.free_area").and_then(|n| u32::try_from(n).ok()).unwrap_or(11).min(MAX_ORDER),
            telling: 0,
            in_words: false,
        };
        layout.telling = layout.lru_mask | layout.swapcache_mask | layout.head_mask | layout.hwpoison_mask;
        let words = [layout.flags, layout.mapping, compound_head];
        layout.in_words =
            size == 64 && words.iter().all(|at| at.is_multiple_of(8)) && layout.mapcount.is_multiple_of(4);
        let last = [layout.flags, layout.mapping, layout.private, compound_head].into_iter().max().unwrap_or(0);
        if last.saturating_add(8) > size || layout.mapcount.saturating_add(4) > size {
            return Err(Error::new(
                Kind::Invalid,
                format!("VMCOREINFO puts members of struct page behind its {size} bytes"),
            ));
        }
        Ok(layout)
    }

    /// The first key without which a class of pages that every kernel has can't be told.
    pub const fn lacks(&self) -> Option<&'static str> {
        if self.buddy.mask == 0 {
            Some("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")
        } else if self.lru_mask == 0 {
            Some("NUMBER(PG_lru)")
        } else if self.private_mask == 0 {
            Some("NUMBER(PG_private)")
        } else if self.head_mask == 0 {
            Some("NUMBER(PG_head_mask)")
        } else {
            None
        }
    }

    fn hugetlb(info: &VmcoreInfo, folio_dtor: Option<usize>) -> Hugetlb {
        let kind = PageType::from(info, "PAGE_HUGETLB_MAPCOUNT_VALUE");
        if kind != PageType::NONE {
            return Hugetlb::Type(kind);
        }
        if let Some(bit) = info.number("PG_hugetlb") {
            return Hugetlb::TailFlag(mask_of_bit(Some(bit)));
        }
        let at = folio_dtor.or_else(|| info.offset("page.compound_dtor"));
        let id = info.number("HUGETLB_PAGE_DTOR").and_then(|n| u8::try_from(n).ok());
        match (at, id) {
            (Some(at), Some(id)) => Hugetlb::Dtor { at, id },
            _ => Hugetlb::Unknown,
        }
    }

    /// The words of the first of `structs`.
    #[inline]
    fn words(&self, structs: &[u8]) -> Option<Words> {
        if let Some(first) = structs.first_chunk::<64>().filter(|_| self.in_words) {
            // The masks change nothing, but say that all is inside: this runs once for each page of the machine.
            let (words, _) = first.as_chunks::<8>();
            let word = |at: usize| words.get((at >> 3) & 7).map(|bytes| u64::from_le_bytes(*bytes));
            let (halves, _) = first.as_chunks::<4>();
            let half = halves.get((self.mapcount >> 2) & 15).map(|bytes| u32::from_le_bytes(*bytes));
            return Some(Words {
                flags: word(self.flags)?,
                compound_head: word(self.compound_head)?,
                mapping: word(self.mapping)?,
                page_type: half?,
            });
        }
        Some(Words {
            flags: u64_at(structs, self.flags)?,
            compound_head: u64_at(structs, self.compound_head)?,
            mapping: u64_at(structs, self.mapping)?,
            page_type: u32_at(structs, self.mapcount)?,
        })
    }

    /// What the first of `structs` (it is that of `pfn`) says under `level`. The one behind it is asked where that is a
    /// head; `None` if there is not even the first.
    pub fn classify(&self, structs: &[u8], pfn: u64, level: u8) -> Option<Verdict> {
        let Words { flags, compound_head, mapping, page_type } = self.words(structs)?;
        // The head has decided about its tail pages, but broken memory is marked where it is.
        if compound_head & 1 != 0 {
            let broken = flags & self.hwpoison_mask != 0;
            return Some(if broken { Verdict { class: Some(Class::Hwpoison), order: 0 } } else { KEEP });
        }
        let slab = flags & self.slab_mask != 0 || self.slab.matches(page_type);
        if level & 16 != 0 {
            if self.buddy.matches(page_type) && !slab {
                return Some(self.buddy_run(u64_at(structs, self.private)?, pfn));
            }
            if self.unaccepted.matches(page_type) {
                // Unaccepted memory is kept in blocks of the largest buddy order (mm/page_alloc.c, accept_page).
                return Some(run(Class::Free, self.free_areas.saturating_sub(1), pfn));
            }
        }
        // Slab pages use the word for their own ends: bit 0 means nothing there (130d4df57390, 6.2).
        let anon = !slab && mapping & 1 != 0;
        let offline = self.offline.matches(page_type);
        if flags & self.telling == 0 && !anon && !offline {
            return Some(KEEP);
        }
        let (mut compound, mut hugetlb) = (0, false);
        if flags & self.head_mask != 0 && !slab {
            let tail = structs.get(self.size..self.size.saturating_mul(2)).unwrap_or_default();
            (compound, hugetlb) = (self.compound_order(tail, pfn), self.is_hugetlb(page_type, tail));
        }
        let swap_cached =
            flags & self.swapcache_mask != 0 && (self.swapbacked_mask == 0 || flags & self.swapbacked_mask != 0);
        let cached = (flags & self.lru_mask != 0 || swap_cached) && !anon;
        let private = flags & self.private_mask != 0;
        let class = if cached && level & 6 != 0 && (level & 4 != 0 || !private) {
            Some(if private { Class::CachePrivate } else { Class::Cache })
        } else if level & 8 != 0 && (anon || hugetlb) {
            Some(Class::User)
        } else if flags & self.hwpoison_mask != 0 {
            Some(Class::Hwpoison)
        } else if offline {
            Some(Class::Offline)
        } else {
            None
        };
        Some(Verdict { class, order: compound })
    }

    /// Free pages from here on. An order the allocator does not have is a corrupt one: keep.
    fn buddy_run(&self, order: u64, pfn: u64) -> Verdict {
        match u32::try_from(order) {
            Ok(order) if order < self.free_areas => run(Class::Free, order, pfn),
            _ => KEEP,
        }
    }

    fn compound_order(&self, tail: &[u8], pfn: u64) -> u32 {
        let order = match self.order {
            Order::TailByte(at) => tail.get(at).copied(),
            Order::TailFlags => tail.get(self.flags).copied(),
        };
        let order = order.map_or(0, u32::from);
        if order <= MAX_ORDER && aligned(pfn, order) { order } else { 0 }
    }

    fn is_hugetlb(&self, page_type: u32, tail: &[u8]) -> bool {
        match self.hugetlb {
            Hugetlb::Type(kind) => kind.matches(page_type),
            Hugetlb::TailFlag(mask) => u64_at(tail, self.flags).is_some_and(|f| f & mask != 0),
            Hugetlb::Dtor { at, id } => tail.get(at) == Some(&id),
            Hugetlb::Unknown => false,
        }
    }
}

fn run(class: Class, order: u32, pfn: u64) -> Verdict {
    if aligned(pfn, order) { Verdict { class: Some(class), order } } else { KEEP }
}

fn aligned(pfn: u64, order: u32) -> bool {
    1u64.checked_shl(order).is_some_and(|n| pfn & n.wrapping_sub(1) == 0)
}
