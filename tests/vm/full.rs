//! The long matrix, `./tests/run --full`: what takes large downloads or many boots.

#[allow(dead_code, unused_imports, reason = "each test target takes what it needs of the laboratory")]
#[path = "../lab/mod.rs"]
mod lab;

#[allow(dead_code, reason = "each test target takes what it needs of the rig")]
#[path = "panic.rs"]
mod panic;

#[path = "readers.rs"]
mod readers;
#[path = "reservation.rs"]
mod reservation;
#[path = "suites.rs"]
mod suites;
