//! The long matrix, `./tests/run --full`: what takes large downloads or many boots.

#[allow(dead_code, unused_imports, reason = "each test target takes what it needs of the laboratory")]
#[path = "../lab/mod.rs"]
mod lab;

#[path = "../support/mod.rs"]
mod support;

#[path = "capture_slow.rs"]
mod capture_slow;
#[allow(dead_code, reason = "each test target takes what it needs of the rig")]
#[path = "panic.rs"]
mod panic;
#[allow(dead_code, reason = "shared with the target vm")]
#[path = "synthetic.rs"]
mod synthetic;

#[path = "readers.rs"]
mod readers;
#[allow(dead_code, reason = "shared with the target vm")]
#[path = "relay.rs"]
mod relay;
#[path = "releases.rs"]
mod releases;
#[path = "reservation.rs"]
mod reservation;
#[path = "suites.rs"]
mod suites;
#[path = "systemd.rs"]
mod systemd;
#[path = "xen.rs"]
mod xen;
#[path = "xen_all.rs"]
mod xen_all;
