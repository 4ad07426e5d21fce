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

#[path = "cut.rs"]
mod cut;
#[allow(dead_code, reason = "shared with the target oracle")]
#[path = "../oracle/dump.rs"]
mod dump;
#[path = "estimate.rs"]
mod estimate;
#[path = "grammar.rs"]
mod grammar;
#[path = "levels.rs"]
mod levels;
#[path = "readers.rs"]
mod readers;
#[path = "ready.rs"]
mod ready;
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
#[path = "xen_capture.rs"]
mod xen_capture;
#[allow(dead_code, reason = "shared with the target vm")]
#[path = "xen_host.rs"]
mod xen_host;
#[path = "xen_readers.rs"]
mod xen_readers;
