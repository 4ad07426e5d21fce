//! The chosen few of the hypervisors; all of them are the target full's.

use crate::xen::{Firmware, Spelling, case};
use crate::xen_capture;
use crate::xen_host::{self, Trigger};

#[test]
fn bookworms_xen_as_the_document_spells_it() {
    case("bookworm", Spelling::Vmm, Firmware::Bios);
}

#[test]
fn trixies_xen_on_efi_finds_acpi() {
    case("trixie", Spelling::Modules, Firmware::Efi);
}

#[test]
fn bookworms_xen_crashes_into_linux_by_a_key_on_its_console() {
    xen_host::crash("bookworm", Trigger::Console);
}

#[test]
fn a_crash_of_bookworms_xen_is_on_the_disk() {
    xen_capture::case("bookworm");
}
