//! In which order pages go, so that a dump that is cut short still tells what happened: what the log is printed from, the
//! kernel's image, the stacks of the stopped CPUs and the page tables that lead there; then the kernel's memory; then
//! struct pages; then page cache, memory of processes and free pages, as far as the level keeps them.

use super::bitmap::Bitmap;
use super::filter::Filtered;
use super::verify::stacks;
use crate::mem::PAGE_SIZE;
use crate::vmcore::elf::KERNEL_IMAGE;
use crate::vmcore::reader::Noting;
use crate::vmcore::{AddressSpace, Vmcore, printk};

/// How many rounds it takes.
pub const ROUNDS: usize = 4;

/// See the module. Costs, beside what the filter has found, a bitmap of a few pages.
pub struct Order<'a> {
    /// What the pages are taken from.
    pub filtered: &'a Filtered,
    /// Pages of the first round, the third and the last; the second has all others. A page goes in the first it is in.
    rounds: [&'a Bitmap; 3],
}

impl<'a> Order<'a> {
    /// The order of the pages that `filtered` keeps, of which `first` go first.
    pub fn new(filtered: &'a Filtered, first: &'a Bitmap) -> Self {
        Self { filtered, rounds: [first, &filtered.struct_pages, &filtered.rest] }
    }

    /// The same pages as they are numbered; `none` has none.
    pub fn ascending(filtered: &'a Filtered, none: &'a Bitmap) -> Self {
        Self { filtered, rounds: [none; 3] }
    }

    /// The first page at or behind `from` that may go in `round`: one that is kept. Others are not looked at one by one,
    /// as the classes may name pages where there is no memory, as many as an address can count.
    pub fn next(&self, round: usize, mut from: u64) -> Option<u64> {
        let kept = &self.filtered.kept;
        let pages = match round {
            1 => return kept.next(from),
            n => self.rounds.get(n.saturating_sub(1))?,
        };
        loop {
            let pfn = pages.next(from)?;
            from = kept.next(pfn)?;
            if from == pfn {
                return Some(pfn);
            }
        }
    }

    /// Whether `pfn`, which [`Order::next`] named, does.
    pub fn has(&self, round: usize, pfn: u64) -> bool {
        let before = if round == 1 { &self.rounds[..] } else { &self.rounds[..round.saturating_sub(1)] };
        !before.iter().any(|pages| pages.get(pfn))
    }
}

/// Pages of `core` that are worth most; not all of them need be kept.
pub fn first(core: &Vmcore, filtered: &Filtered) -> Bitmap {
    let mut first = Bitmap::new(filtered.ram.end());
    if let Some(info) = core.vmcoreinfo() {
        let noting = Noting::new(core, first);
        // Whatever it takes to print the log is what a reader of the dump needs for it.
        let _ = printk::dmesg_from(core, &noting, printk::Options::default(), &mut std::io::sink());
        let space = AddressSpace::of(core, info);
        for stack in stacks(core) {
            let _ = space.read(&noting, stack, &mut [0]);
        }
        first = noting.into_pages();
    }
    filtered.pinned.runs().for_each(|pinned| first.set(pinned));
    for image in core.loads().iter().filter(|load| load.vaddr >= KERNEL_IMAGE) {
        first.set(image.phys.start() / PAGE_SIZE..image.phys.end().div_ceil(PAGE_SIZE));
    }
    first.keep_common(&filtered.kept);
    first
}
