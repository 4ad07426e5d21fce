//! Any text as configuration, command line, memory map and archive.
#![no_main]

use kdumpbox::crashkernel::archive::Archive;
use kdumpbox::crashkernel::syntax::{Rules, Verdict, linux};
use kdumpbox::crashkernel::xen::xen;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (first, second) = text.split_once('\0').unwrap_or((text, text));
    let _ = kdumpbox::capture::config::Config::parse(first, second);
    for ram in [1 << 30, 64 << 30, u64::MAX] {
        let newest = Rules::new(ram);
        let readers: [&dyn Fn(&str) -> Verdict; 3] =
            [&|line| linux(line, &newest), &|line| linux(line, &newest.of_release("6.1")), &|line| xen(line, ram)];
        for read in readers {
            let asked = read(text).reservation;
            assert!(asked.size < ram);
            assert!(asked.size == 0 || read(&asked.to_string()).reservation == asked);
        }
    }
    let _ = kdumpbox::host::iomem::Iomem::parse(text);
    let _ = Archive::read(text.as_bytes());
});
