//! Any bytes as a compressed file: whatever they unpack to stays inside the limit.
#![no_main]

use kdumpbox::image::decompress;

const LIMIT: usize = 1 << 22;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Some(out)) = decompress::unwrap(data, LIMIT) {
        assert!(out.len() <= LIMIT);
    }
});
