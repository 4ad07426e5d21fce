//! Any bytes as a kernel file and as a module's information.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = kdumpbox::image::sniff(data.to_vec());
    let _ = kdumpbox::image::decompress::unwrap(data, 1 << 22);
    let _ = kdumpbox::initramfs::modinfo::parse(data);
});
