//! Any bytes as a unified kernel image.
#![no_main]

use kdumpbox::image::{sniff, uki};
use kdumpbox::mem::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Some((kernel, beside))) = uki::parse(&Bytes::from(data.to_vec())) {
        assert!(kernel.len() <= data.len() && beside.initrds.len() <= 2);
        let texts = [beside.command_line, beside.release];
        assert!(texts.iter().flatten().all(|text| !text.contains(|c: char| c.is_ascii_control())));
    }
    let _ = sniff(data.to_vec(), None);
});
