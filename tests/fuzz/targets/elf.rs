//! Any bytes as an ELF executable, whose loads must be what [`Elf`] says they are, and as a module's information.
#![no_main]

use kdumpbox::image::{Elf, sniff};
use kdumpbox::mem::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Some(elf)) = Elf::parse(&Bytes::from(data.to_vec())) {
        let _ = elf.is_linux();
        assert!(elf.loads.iter().any(|l| l.range().contains(elf.entry)));
        assert!(elf.loads.iter().all(|l| l.len > 0 && l.data.len() as u64 <= l.len && elf.extent().contains_range(l.range())));
        assert!(elf.loads.windows(2).all(|pair| pair[0].range().end() <= pair[1].range().start()));
    }
    let _ = sniff(data.to_vec(), None);
    let _ = kdumpbox::initramfs::modinfo::parse(data);
});
