//! A Linux kernel entered by its 16-bit setup code (`Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel").
//!
//! ```text
//! low memory   segment:0x0000   setup code, its header filled in
//!              segment:0xe000   end of heap and stack; the command line
//!              purgatory
//! above 1 MiB  kernel, initrd   below 4 GiB
//! ```
//! The setup code asks the BIOS for memory, screen and disks, so nothing of the running kernel is handed over.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::linux::{Plan, Request, len_of, place_kernel};
use super::place::{Space, Wish};
use super::purgatory::{self, Start};
use super::{command_line, finish};
use crate::abi::bootparam::{CAN_USE_HEAP, LOADER_TYPE_KEXEC, SETUP_HEADER_OFFSET, setup_header};
use crate::error::{Error, Kind, Result};
use crate::mem::{Image, Limits, MIB, MemoryMap, Range, Segment};

/// Nothing is put below: interrupt vectors, BIOS data, and what boot loaders leave there.
pub const LOWEST: u64 = 0x1_0000;
/// End of heap and stack in the segment; the command line begins there.
const HEAP_END: u16 = 0xe000;
/// The stack's share of that.
const STACK: u16 = 0x200;
const SEGMENT: usize = 0x1_0000;

pub fn plan(request: &Request<'_>, mut space: Space, limits: &Limits) -> Result<Plan> {
    let kernel = request.kernel;
    let low = Range::new(LOWEST, 0xa_0000).unwrap_or_default();
    let high = |from: u64| Range::new(from, kernel.top().max(from)).unwrap_or_default();
    let purgatory_at = space.take("the purgatory", Wish::pages(len_of(purgatory::len()), low))?;
    let setup_at = space.take("the setup code", Wish::pages(len_of(SEGMENT), low))?;
    let mut segments = place_kernel(kernel, &mut space, high(MIB))?;
    let kernel_at = segments.first().map_or(0, |s| s.range.start());
    let initrd = match &request.initrd {
        Some(data) => Some((data.clone(), space.take("the initrd", Wish::pages(len_of(data.len()), high(16 * MIB)))?)),
        None => None,
    };
    let text = request.command_line;
    let room = SEGMENT.saturating_sub(usize::from(HEAP_END)).saturating_sub(1);
    command_line::check(text, 0, kernel.command_line_max().min(room))?;

    let word = |address: u64| U32::new(u32::try_from(address).unwrap_or(u32::MAX));
    let mut header = kernel.header.clone();
    header.type_of_loader = LOADER_TYPE_KEXEC;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = U16::new(HEAP_END.saturating_sub(STACK));
    header.code32_start = word(kernel_at);
    header.cmd_line_ptr = word(setup_at.start().saturating_add(HEAP_END.into()));
    if let Some((data, range)) = &initrd {
        (header.ramdisk_image, header.ramdisk_size) = (word(range.start()), word(len_of(data.len())));
    }
    let setup = segment(&kernel.setup, &header, text)?;
    segments.push(Segment { name: "setup", data: setup.into(), range: setup_at });
    segments.extend(initrd.map(|(data, range)| Segment { name: "initrd", data, range }));
    let mut settings = request.purgatory;
    settings.start = Start::Real { segment: u16::try_from(setup_at.start() >> 4).unwrap_or(0) };
    let mut image = Image { segments, ..Image::default() };
    finish(&mut image, &settings, purgatory_at, limits)?;
    let (command_line, map) = (text.to_owned(), MemoryMap::default());
    Ok(Plan { image, command_line, map, modules: Vec::new(), notices: Vec::new() })
}

/// The 64 KiB of setup code, heap, stack and command line.
fn segment(setup: &[u8], header: &setup_header, text: &str) -> Result<Vec<u8>> {
    let heap = usize::from(HEAP_END.saturating_sub(STACK));
    if setup.len() >= heap {
        let text =
            format!("the setup code has {:#x} bytes, more than the {heap:#x} that real mode has for it", setup.len());
        return Err(Error::new(Kind::Invalid, text));
    }
    let mut bytes = setup.to_vec();
    bytes.resize(SEGMENT, 0);
    let at = |offset: usize, len: usize| offset..offset.saturating_add(len);
    // Behind the header's own end there is code, which stays.
    let own = setup_header::read_from_prefix(setup.get(SETUP_HEADER_OFFSET..).unwrap_or_default());
    let defined = own.map_or(0, |(h, _)| usize::from(h.jump.get() >> 8).saturating_add(0x202 - SETUP_HEADER_OFFSET));
    let filled = header.as_bytes().get(..defined.min(size_of::<setup_header>())).unwrap_or_default();
    for (offset, data) in [(SETUP_HEADER_OFFSET, filled), (usize::from(HEAP_END), text.as_bytes())] {
        if let Some(place) = bytes.get_mut(at(offset, data.len())) {
            place.copy_from_slice(data);
        }
    }
    Ok(bytes)
}
