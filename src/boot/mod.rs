//! Image and machine to what is loaded: every address decided, nothing done yet.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod command_line;
pub mod crash;
pub mod elf;
pub mod kernel;
pub mod linux;
pub mod multiboot;
pub mod multiboot_info;
pub mod params;
pub mod parts;
pub mod place;
pub mod purgatory;
mod real_mode;
pub mod xen;

use crate::error::Result;
use crate::host::Machine;
use crate::mem::{Image, Limits, MIB, Range, Ranges, Segment};

/// Name of the segment that is not verified where the kernel keeps it up to date.
const ELFCOREHDR: &str = "elfcorehdr";

/// Adds the purgatory, which verifies every other segment and leaves by `settings`, and checks the whole.
fn finish(image: &mut Image, settings: &purgatory::Settings, purgatory_at: Range, limits: &Limits) -> Result<()> {
    // The backup area is filled by the purgatory itself: no bytes, no digest.
    let mut digest = purgatory::Digest::default();
    for s in image.segments.iter().filter(|s| !(image.updates_elfcorehdr && s.name == ELFCOREHDR)) {
        digest.add(s.range.start(), &s.data);
    }
    let data = purgatory::build(settings, &digest)?.into();
    image.segments.push(Segment { name: "purgatory", data, range: purgatory_at });
    image.segments.sort_by_key(|s| s.range);
    image.entry = purgatory_at.start().saturating_add(purgatory::entry_offset());
    image.check(limits)
}

/// RAM from `lowest` to the BIOS's own at the end of the first 640 KiB.
fn low_memory(machine: &Machine, lowest: u64) -> Ranges {
    let window = Range::new(lowest, 0xa_0000.min(MIB)).unwrap_or_default();
    let ram = machine.map.ram().within(window);
    if machine.system_ram.is_empty() {
        return ram;
    }
    ram.iter().flat_map(|r| machine.system_ram.within(r).iter().collect::<Vec<_>>()).collect()
}
