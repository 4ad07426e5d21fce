//! Any text as configuration, command line and memory map.
#![no_main]

use kdumpbox::crashkernel::syntax::{X86_64, linux};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (first, second) = text.split_once('\0').unwrap_or((text, text));
    let _ = kdumpbox::capture::config::Config::parse(first, second);
    for ram in [1 << 30, 64 << 30, u64::MAX] {
        if let Ok(Some(reservation)) = linux(text, ram, X86_64) {
            assert!(reservation.size > 0 && reservation.size < ram);
        }
    }
    let _ = kdumpbox::host::iomem::Iomem::parse(text);
});
