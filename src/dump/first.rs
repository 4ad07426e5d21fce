//! Which pages go first, so that a dump that is cut short still tells what happened: the kernel's image, its log, the
//! stacks of the stopped CPUs, and the page tables that lead there.

use super::bitmap::Bitmap;
use super::filter::Filtered;
use super::verify::stacks;
use crate::mem::PAGE_SIZE;
use crate::vmcore::elf::KERNEL_IMAGE;
use crate::vmcore::reader::Noting;
use crate::vmcore::{AddressSpace, Vmcore, printk};

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
    for pfn in &filtered.pinned {
        first.set(pfn.0..pfn.0 + 1);
    }
    for image in core.loads().iter().filter(|load| load.vaddr >= KERNEL_IMAGE) {
        first.set(image.phys.start() / PAGE_SIZE..image.phys.end().div_ceil(PAGE_SIZE));
    }
    first.keep_common(&filtered.kept);
    first
}
