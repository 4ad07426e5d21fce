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
#[path = "oracle/parts.rs"]
mod parts;
#[path = "support/recorded.rs"]
mod recorded;
#[path = "oracle/recover.rs"]
mod recover;
mod support;
#[path = "oracle/tells.rs"]
mod tells;
#[path = "oracle/upstream.rs"]
mod upstream;
#[path = "oracle/xen.rs"]
mod xen;

use lab::{Kernel, SUITE};

/// Whose kernels are read: 5.10, 6.1, 6.12 and the two newest.
const SUITES: [&str; 5] = ["bullseye", SUITE, "trixie", "sid", "trixie-backports"];

#[test]
fn case_01_four_levels_of_page_tables_keep_what_makedumpfile_keeps() {
    dump::compare(&Kernel::of(SUITE), "qemu64", SUITE);
}

#[test]
fn case_01_five_levels_of_page_tables_keep_what_makedumpfile_keeps() {
    dump::compare(&Kernel::of(SUITE), "max", SUITE);
}

#[test]
fn types_and_symbols_come_out_of_the_dump_where_vmcoreinfo_lacks_them() {
    for suite in SUITES {
        recover::same_without_keys(suite, "qemu64");
    }
    recover::same_without_keys(SUITE, "max");
}

#[test]
fn struct_pages_that_makedumpfile_leaves_out_are_left_out() {
    dump::compare_struct_pages(&Kernel::of(SUITE), SUITE);
}

#[test]
fn what_upstream_gets_wrong_is_right() {
    upstream::agree();
    for case in [
        upstream::one_struct_page,
        upstream::one_section,
        upstream::sixth_flag,
        upstream::owners_bits,
        upstream::high_flags,
        upstream::broken_memory,
        upstream::release,
        upstream::partial_page,
        upstream::no_vmcoreinfo,
    ] {
        case();
    }
}

#[test]
fn the_text_of_vmcoreinfo_is_found_in_memory_where_its_note_is_missing() {
    for suite in SUITES {
        recover::same_without_note(suite);
    }
}

#[test]
fn vtop_and_mem_usage_say_what_upstreams_say() {
    for (suite, cpu) in SUITES.map(|suite| (suite, "qemu64")).into_iter().chain([(SUITE, "max")]) {
        tells::same_addresses(suite, cpu);
    }
    for suite in ["bullseye", SUITE, "trixie"] {
        tells::same_classes(suite);
    }
}

#[test]
fn case_27_the_log_is_what_the_console_showed() {
    for suite in SUITES {
        tells::log_is_what_the_console_showed(suite);
    }
}

#[test]
fn case_24_parts_and_streams_are_put_together_by_either() {
    parts::either_way(SUITE);
}
