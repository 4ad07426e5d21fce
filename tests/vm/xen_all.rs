//! Every hypervisor by both spellings on both firmwares; the chosen few of `xen.rs` are the target vm's.

use crate::lab::xen::SUITES;
use crate::xen::{Firmware, Spelling, case, upstream};

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
