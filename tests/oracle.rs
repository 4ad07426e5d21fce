//! Other people's tools as judges: `cargo test --test oracle`, which fetches them.

#[path = "oracle/dump.rs"]
mod dump;
#[path = "oracle/images.rs"]
mod images;
#[path = "oracle/kexec.rs"]
mod kexec;
#[path = "oracle/kexec_cli.rs"]
mod kexec_cli;
#[allow(dead_code, unused_imports, reason = "each test target takes what it needs of the laboratory")]
mod lab;
#[path = "support/recorded.rs"]
mod recorded;
mod support;
#[path = "oracle/xen.rs"]
mod xen;

use lab::{Kernel, SUITE};

#[test]
fn four_levels_of_page_tables_keep_what_makedumpfile_keeps() {
    dump::compare(&Kernel::of(SUITE), "qemu64", SUITE);
}

#[test]
fn five_levels_of_page_tables_keep_what_makedumpfile_keeps() {
    dump::compare(&Kernel::of(SUITE), "max", SUITE);
}
