//! Any bytes as a multiboot kernel, with and without ELF headers.
#![no_main]

use kdumpbox::image::multiboot::{Multiboot, Version};
use kdumpbox::image::{Elf, sniff};
use kdumpbox::mem::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A checksum is not guessed: here the first word decides what the header's is made to fit.
    let mut data = data.to_vec();
    repair(&mut data);
    let file = Bytes::from(data.clone());
    let elf = Elf::parse(&file).ok().flatten();
    let both = [Multiboot::find_version(&file, elf.as_ref(), Version::One), Multiboot::find(&file, elf.as_ref())];
    for kernel in both.into_iter().flatten().flatten() {
        assert!(kernel.loads.iter().any(|l| l.range().contains(kernel.entry)));
        assert!(kernel.loads.iter().all(|l| l.len > 0 && l.data.len() as u64 <= l.len && l.range().end() <= 1 << 32));
        if let Some(to) = kernel.relocatable {
            assert!(to.min < to.end && to.align >= 4096 && to.align.is_power_of_two());
        }
    }
    let _ = sniff(data, None);
});

/// Corrects the checksum of each header in the file.
fn repair(data: &mut [u8]) {
    for at in (0..data.len().saturating_sub(15)).step_by(4) {
        let word = |n: usize| u32::from_le_bytes(data[at + 4 * n..][..4].try_into().expect("four bytes"));
        let (place, sum) = match word(0) {
            0x1bad_b002 => (2, word(0).wrapping_add(word(1))),
            0xe852_50d6 => (3, word(0).wrapping_add(word(1)).wrapping_add(word(2))),
            _ => continue,
        };
        data[at + 4 * place..][..4].copy_from_slice(&0u32.wrapping_sub(sum).to_le_bytes());
    }
}
