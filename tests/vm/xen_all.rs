//! Every hypervisor by both spellings on both firmwares; the chosen few of `xen.rs` are the target vm's.

use crate::lab::xen::SUITES;
use crate::xen::{Firmware, Spelling, case, upstream};
use crate::xen_host::{self, Trigger};

fn every(firmware: Firmware) {
    for suite in SUITES {
        for spelling in [Spelling::Modules, Spelling::Vmm] {
            case(suite, spelling, firmware);
        }
    }
}

#[test]
fn the_rig_with_upstreams_kexec() {
    upstream();
}

#[test]
fn every_xen_on_bios() {
    every(Firmware::Bios);
}

#[test]
fn every_xen_on_efi() {
    every(Firmware::Efi);
}

/// What is random in a machine shows in the second or third run.
const ROUNDS: usize = 3;

#[test]
fn every_xen_is_followed_by_itself_and_by_linux() {
    for suite in SUITES.repeat(ROUNDS) {
        xen_host::next(suite);
    }
}

#[test]
fn every_xen_crashes_into_linux() {
    for suite in SUITES.repeat(ROUNDS) {
        for trigger in [Trigger::Dom0, Trigger::Console] {
            xen_host::crash(suite, trigger);
        }
    }
}

#[test]
fn whatever_brings_xen_down_the_crash_kernel_starts() {
    for trigger in [Trigger::DebugKeys, Trigger::Oops, Trigger::Xen].repeat(ROUNDS) {
        xen_host::crash("bookworm", trigger);
    }
}

#[test]
fn without_a_reservation_the_next_kernel_lies_low() {
    xen_host::without_reservation("bookworm");
}

#[test]
fn a_xen_started_on_efi_starts_another() {
    xen_host::twice_on_efi("bookworm");
}
