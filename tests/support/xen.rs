//! A crashed Xen made up around a dom0 that is a [`Kernel`](super::kernel): machine frames other than dom0's page
//! frames, a frame table in either layout of its bits, domains, a console ring. Facts from Xen's headers, in numbers.

use super::kernel::{Kernel, RAM};
use super::machine::{Core, Memory, PAGE, PageTables, note};

/// The two layouts of `count_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// To 4.16: broken is bit 57, the state bits 56 and 55.
    Old,
    /// From 4.17: bit 60, bits 59 and 58.
    New,
    /// From 4.22: the same, and a free frame that waits to be scrubbed says so by bit 57, broken's of old.
    Scrub,
}

/// What a frame of the guests' memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Guest,
    /// A guest's on its way out: no longer allocated.
    Leaving,
    Free,
    /// Free and to be scrubbed.
    Dirty,
    Offlined,
    Broken,
    /// Of a domain that is Xen's own.
    DomIo,
    Dom0,
    /// Xen's heap, with a guest's number where an owner would be.
    Heap,
    Nobody,
}

/// Frames in order: how many, of what.
pub const FRAMES: [(u64, Frame); 10] = [
    (512, Frame::Guest),
    (88, Frame::Leaving),
    (100, Frame::Free),
    (10, Frame::Dirty),
    (10, Frame::Offlined),
    (10, Frame::Broken),
    (10, Frame::DomIo),
    (10, Frame::Dom0),
    (10, Frame::Heap),
    (264, Frame::Nobody),
];

/// Where dom0's first piece of memory is.
const DOM0: u64 = 0x1000_0000;
/// Where its second is, the last page frame first.
const REVERSED: u64 = 0x1800_0000;
/// The memory that [`FRAMES`] describes.
pub const GUESTS: (u64, u64) = (0x2000_0000, 0x2040_0000);
/// The hypervisor's: image, heap, frame table.
pub const XEN: (u64, u64) = (0x3000_0000, 0x3200_0000);
const HEAP: u64 = XEN.0 + 0x80_0000;
const TABLE: u64 = XEN.0 + 0x100_0000;
const IMAGE_VA: u64 = 0xffff_82d0_4000_0000;
const DIRECT_VA: u64 = 0xffff_8300_0000_0000;
const TABLE_VA: u64 = 0xffff_82e0_0000_0000;
/// Bytes of the console ring, and where it is.
pub const RING: u64 = 0x4000;
const RING_AT: u64 = HEAP + 0x10_0000;
/// The frames of the lists that lead from page frames to machine frames.
const LISTS: u64 = XEN.0 + 0x180_0000;

/// The machine.
#[derive(Clone)]
pub struct Xen {
    pub kernel: Kernel,
    pub memory: Memory,
    pub states: States,
    pub version: (u64, u64, String),
    pub tainted: u64,
    pub info: String,
    /// Whether the core has dom0's VMCOREINFO.
    pub with_dom0: bool,
    pub frame_list_list: u64,
}

/// The machine frame of one of dom0's page frames.
pub fn machine(pfn: u64) -> u64 {
    let [first, second] = RAM.map(|(start, end)| start / PAGE..end / PAGE);
    if first.contains(&pfn) {
        DOM0 / PAGE + pfn
    } else if second.contains(&pfn) {
        REVERSED / PAGE + (second.end - 1 - pfn)
    } else {
        panic!("dom0 has no page frame {pfn:#x}")
    }
}

/// What the frame `n` of the guests' memory is.
pub fn frame(n: u64) -> Frame {
    let mut before = 0;
    for (count, what) in FRAMES {
        before += count;
        if n < before {
            return what;
        }
    }
    panic!("the guests' memory has no frame {n}")
}

impl Xen {
    pub fn new(kernel: Kernel, states: States, minor: u64, extra: &str) -> Self {
        let mut xen = Self {
            kernel,
            memory: Memory::default(),
            states,
            version: (4, minor, extra.to_owned()),
            tainted: 0,
            info: String::new(),
            with_dom0: true,
            frame_list_list: LISTS / PAGE,
        };
        xen.dom0();
        xen.lists();
        xen.hypervisor();
        xen.frames();
        let (start, end) = GUESTS;
        for pfn in start / PAGE..end / PAGE {
            xen.memory.write_u64(pfn * PAGE, pfn | 1 << 50);
        }
        xen
    }

    /// dom0's memory at its machine frames. Page tables are where the kernel made them; their entries move.
    fn dom0(&mut self) {
        let tables = self.kernel.tables.clone();
        for pfn in Kernel::pfns() {
            let mut page = self.kernel.memory.page(pfn);
            let at = pfn * PAGE;
            let is_table = at == tables.root || (tables.root + 0x10_0000..tables.next).contains(&at);
            if is_table {
                for entry in page.chunks_exact_mut(8) {
                    let old = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
                    if old & 1 != 0 {
                        entry.copy_from_slice(&(old + DOM0).to_le_bytes());
                    }
                }
            }
            if page.iter().any(|b| *b != 0) {
                self.memory.set_page(machine(pfn), page);
            }
        }
    }

    /// Three levels; page frames without memory share one list of "none".
    fn lists(&mut self) {
        let (root, list, none, mut next) = (LISTS, LISTS + PAGE, LISTS + 2 * PAGE, LISTS + 3 * PAGE);
        for slot in 0..512 {
            self.memory.write_u64(none + slot * 8, u64::MAX);
            self.memory.write_u64(root + slot * 8, if slot == 0 { list } else { LISTS + 0x20_000 } / PAGE);
            self.memory.write_u64(LISTS + 0x20_000 + slot * 8, none / PAGE);
            self.memory.write_u64(list + slot * 8, none / PAGE);
        }
        for pfn in Kernel::pfns() {
            let slot = list + pfn / 512 * 8;
            if self.memory.read_u64(slot) == none / PAGE {
                self.memory.write_u64(slot, next / PAGE);
                self.memory.set_page(next / PAGE, vec![0xff; PAGE as usize]);
                next += PAGE;
            }
            let leaf = self.memory.read_u64(slot) * PAGE;
            self.memory.write_u64(leaf + pfn % 512 * 8, machine(pfn));
        }
        assert!(next < LISTS + 0x20_000 || next < XEN.1, "the lists fit");
    }

    fn hypervisor(&mut self) {
        let root = XEN.0 + 0x1000;
        let mut tables = PageTables { root, levels: 4, next: XEN.0 + 0x40_0000, extra: 0 };
        for offset in (0..0x40_0000).step_by(0x20_0000) {
            tables.map(&mut self.memory, IMAGE_VA + offset, XEN.0 + offset, 0x20_0000);
            tables.map(&mut self.memory, DIRECT_VA + HEAP + offset, HEAP + offset, 0x20_0000);
        }
        for offset in (0..XEN.1 / PAGE * 32).step_by(0x20_0000) {
            tables.map(&mut self.memory, TABLE_VA + offset, TABLE + offset, 0x20_0000);
        }
        self.set_image(0x8000, DIRECT_VA + HEAP);
        self.set_image(0x8008, TABLE_VA);
        // dom0, then a guest: struct domain with its id at 0, the next one at 136.
        self.memory.write(HEAP, &0u16.to_le_bytes());
        self.memory.write_u64(HEAP + 136, DIRECT_VA + HEAP + PAGE);
        self.memory.write(HEAP + PAGE, &7u16.to_le_bytes());
        let extra = format!("{}\0", self.version.2);
        self.memory.write(XEN.0 + 0x9000, extra.as_bytes());
        self.memory.write(XEN.0 + 0x9100, b"a1b2c3\0");
        self.set_image(0xa000, DIRECT_VA + RING_AT);
        self.set_image(0xa008, RING);
        self.info = format!(
            "PAGESIZE=4096\nSYMBOL(domain_list)={:x}\nSYMBOL(frame_table)={:x}\nSYMBOL(pgd_l4)={:x}\nSIZE(page_info)=32\n\
             SIZE(domain)=2304\nOFFSET(page_info.count_info)=8\nOFFSET(page_info._domain)=24\nOFFSET(domain.domain_id)=0\n\
             OFFSET(domain.next_in_list)=136\n",
            IMAGE_VA + 0x8000,
            IMAGE_VA + 0x8008,
            IMAGE_VA + 0x1000,
        );
    }

    /// A 64-bit variable of the image.
    pub fn set_image(&mut self, offset: u64, value: u64) {
        self.memory.write_u64(XEN.0 + offset, value);
    }

    /// The second domain's link to a third.
    pub fn link_guest(&mut self, to: u64) {
        self.memory.write_u64(HEAP + PAGE + 136, to);
    }

    /// A third domain in a page that the frame table does not call Xen's heap.
    pub fn link_outside_the_heap(&mut self) {
        self.memory.write(HEAP + 4 * PAGE, &9u16.to_le_bytes());
        self.link_guest(DIRECT_VA + HEAP + 4 * PAGE);
    }

    /// Writes `struct page_info` of a machine frame.
    pub fn set_frame(&mut self, frame: u64, count_info: u64, owner: u64) {
        self.memory.write_u64(TABLE + frame * 32 + 8, count_info);
        self.memory.write(TABLE + frame * 32 + 24, &(owner as u32).to_le_bytes());
    }

    fn frames(&mut self) {
        const ALLOCATED: u64 = 1 << 63;
        const HEAP_BIT: u64 = 1 << 62;
        let (broken, state) = match self.states {
            States::Old => (1u64 << 57, 55),
            States::New | States::Scrub => (1u64 << 60, 58),
        };
        let (dom0, guest) = (HEAP / PAGE, HEAP / PAGE + 1);
        for pfn in Kernel::pfns() {
            self.set_frame(machine(pfn), ALLOCATED | 1, dom0);
        }
        for at in [dom0, guest] {
            self.set_frame(at, ALLOCATED | HEAP_BIT | 1, 0);
        }
        self.set_frame(LISTS / PAGE, ALLOCATED | 1, dom0);
        for n in 0..(GUESTS.1 - GUESTS.0) / PAGE {
            let (count_info, owner) = match frame(n) {
                Frame::Guest => (ALLOCATED | 1, guest),
                Frame::Leaving => (1, guest),
                Frame::Free => (3 << state, 0),
                Frame::Dirty if self.states == States::Scrub => (3 << state | 1 << 57, 0),
                Frame::Dirty => (3 << state | ALLOCATED, guest),
                Frame::Offlined => (2 << state, 0),
                Frame::Broken => (broken | 2 << state, 0),
                Frame::DomIo => (ALLOCATED | 1, 0x1234),
                Frame::Dom0 => (ALLOCATED | 1, dom0),
                Frame::Heap => (ALLOCATED | HEAP_BIT | 1, guest),
                Frame::Nobody => (0, 0),
            };
            self.set_frame(GUESTS.0 / PAGE + n, count_info, owner);
        }
    }

    /// Fills the console ring: `text` as printed since power on.
    pub fn print(&mut self, text: &str) {
        for (i, byte) in text.bytes().enumerate() {
            self.memory.write(RING_AT + i as u64 % RING, &[byte]);
        }
        let produced = text.len() as u64;
        self.set_image(0xb000, produced.saturating_sub(RING) | produced << 32);
    }

    /// The core file, as the crash kernel's /proc/vmcore would be.
    pub fn core(&self) -> Core {
        let string = |at: u64| XEN.0 + at;
        let crash = [
            self.version.0,
            self.version.1,
            string(0x9000),
            string(0x9100),
            string(0x9100),
            string(0x9100),
            string(0x9100),
            self.tainted,
            XEN.0,
            self.frame_list_list,
        ];
        let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let registers = note("Xen", 0x100_0002, &words(&[0x8005_003b, 0, 0x3000_1000, 0x26f0]));
        let mut notes =
            [note("CORE", 1, &[0; 336]), registers.clone(), note("Xen", 0x100_0001, &words(&crash))].concat();
        notes.extend(note("CORE", 1, &[1; 336]));
        notes.extend(registers);
        let mut text = self.info.clone().into_bytes();
        text.resize(4068, 0);
        notes.extend(note("VMCOREINFO_XEN", 0, &text));
        if self.with_dom0 {
            notes.extend(note("VMCOREINFO", 0, self.kernel.info.as_bytes()));
        }
        let second = RAM[1].1 - RAM[1].0;
        let ranges = [(DOM0 + RAM[0].0, DOM0 + RAM[0].1), (REVERSED, REVERSED + second), GUESTS, XEN];
        let loads = ranges.map(|(start, end)| (start, end, 0xffff_8880_0000_0000 + start)).to_vec();
        Core { memory: self.memory.clone(), loads, notes }
    }
}
