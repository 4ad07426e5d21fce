//! Real kernels in QEMU: one module a subject. `cargo test --test vm` runs them all, one machine at a time.

#[allow(dead_code, unused_imports, reason = "each test target takes what it needs of the laboratory")]
#[path = "../lab/mod.rs"]
mod lab;

#[path = "../support/mod.rs"]
mod support;

mod capture;
mod capture_rungs;
mod chain;
mod efi;
mod images;
mod kexec;
mod main_job;
mod panic;
mod patterns;
mod purgatory;
#[allow(dead_code, reason = "shared with the target full")]
mod relay;
mod rig;
mod synthetic;
mod usage;
#[allow(dead_code, reason = "shared with the target full")]
mod xen;
#[allow(dead_code, reason = "shared with the target full")]
mod xen_capture;
#[allow(dead_code, reason = "shared with the target full")]
mod xen_host;
mod xen_some;
