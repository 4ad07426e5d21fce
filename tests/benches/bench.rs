//! What `tests/benches/run` can't do in a script: cores of large machines, and figures that need the library's own
//! parts. `cargo bench --bench bench -- WHAT ARGUMENTS...`; the last line on stdout is the answer.

#[allow(dead_code, unused_imports, reason = "each target takes what it needs of the laboratory")]
#[path = "../lab/mod.rs"]
mod lab;
#[allow(dead_code, reason = "each target takes what it needs of the rig")]
#[path = "../vm/panic.rs"]
mod panic;
mod parts;
mod reboot;
mod sparse;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use lab::{Kernel, SUITE};

fn main() {
    // cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["core", gib] => {
            let gib = gib.parse().expect("a number of GiB");
            println!("{}", lab::ram::vmcore(&Kernel::of(SUITE), gib).display());
        }
        ["sparse"] => println!("{}", sparse::vmcore().display()),
        ["codec", core, codec] => println!("{}", parts::codec(Path::new(core), codec)),
        ["read", core] => println!("{}", parts::read(Path::new(core))),
        ["reboot", runs] => reboot::table(runs.parse().expect("a number of runs")),
        _ => {
            eprintln!("bench: core GIB | sparse | codec CORE CODEC | read CORE | reboot RUNS");
            std::process::exit(2);
        }
    }
}
