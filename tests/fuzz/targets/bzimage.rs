//! Any bytes as a Linux boot image; what is accepted keeps its promises.
#![no_main]

use kdumpbox::image::{BzImage, Type, sniff};
use kdumpbox::mem::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Some(image)) = BzImage::parse(&Bytes::from(data.to_vec())) {
        assert!(image.code_len() <= image.memory_len());
        assert!(image.payload().len() <= image.code.len() && image.setup().len() < data.len());
        let _ = image.check_sum();
    }
    let _ = sniff(data.to_vec(), Some(Type::BzImage));
});
