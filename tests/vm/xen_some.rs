//! The chosen few of the hypervisors; all of them are the target full's.

use crate::xen::{Firmware, Spelling, case};

#[test]
fn bookworms_xen_as_the_document_spells_it() {
    case("bookworm", Spelling::Vmm, Firmware::Bios);
}

#[test]
fn trixies_xen_on_efi_finds_acpi() {
    case("trixie", Spelling::Modules, Firmware::Efi);
}
