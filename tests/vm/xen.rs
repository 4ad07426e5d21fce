//! Linux to Xen: distributions' hypervisors, on BIOS and on EFI, in both spellings, to a dom0 that says what it has.

use std::path::Path;

use crate::lab::{Machine, Outcome, SUITE, Xen};
use crate::relay::{Relay, arrived, said, usual};

/// What dom0 found.
pub const DOM0: &str = r#"
echo "LAB-dom0-HYPERVISOR $(cat /sys/hypervisor/type) $(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)"
echo "LAB-dom0-CPUS $(grep -c ^processor /proc/cpuinfo)"
echo "LAB-dom0-TABLES $(ls /sys/firmware/acpi/tables | grep -c .)"
echo "LAB-dom0-APIC $(ls /sys/firmware/acpi/tables | grep -c APIC)"
echo "LAB-dom0-MEMORY $(sed -n 's/MemTotal: *//p' /proc/meminfo)"
"#;

/// How Xen and its dom0 are named on kexec's command line.
#[derive(Clone, Copy, Debug)]
pub enum Spelling {
    /// Today's: the hypervisor is the kernel, dom0 its modules.
    Modules,
    /// The hypervisor is an option, one line for both.
    Vmm,
}

/// The firmware of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Efi,
}

const XEN_ARGS: &str = "console=com1 com1=115200,8n1 loglvl=all dom0_mem=420M,max:420M";
const DOM0_ARGS: &str = "console=hvc0 panic=-1 stage=dom0 word=\"a b\"";

/// The command that loads Xen and its dom0.
pub fn load(spelling: Spelling, xen: &str, xen_args: &str) -> String {
    let (kernel, initrd) = (format!("/mnt/{SUITE}.vmlinuz"), format!("/mnt/{SUITE}.initrd"));
    match spelling {
        Spelling::Modules => {
            format!("kexec -l {xen} --command-line='{xen_args}' --module='{kernel} {DOM0_ARGS}' --module={initrd}")
        }
        Spelling::Vmm => {
            format!("kexec -l --append='{xen_args} -- {DOM0_ARGS}' --vmm={xen} {kernel} --initrd={initrd}")
        }
    }
}

/// Linux, then Xen, then dom0.
fn boot(relay: Relay, image: &Path, firmware: Firmware, load: &str) -> Outcome {
    let relay = relay.file("xen", image).leg("first", &format!("{load}\nexecute $?")).leg("dom0", DOM0);
    let machine: Machine = relay.machine().cpu("qemu64").timeout(240);
    match firmware {
        Firmware::Bios => machine.run(),
        Firmware::Efi => machine.argument("-machine").argument("q35").ovmf().run(),
    }
}

/// Fails the test unless dom0 came up, with all CPUs and ACPI, and was given its command line.
fn check(outcome: &Outcome, xen: &Xen, firmware: Firmware) {
    outcome.ended();
    assert_eq!(said(outcome, "first", "LOAD"), "0", "{}", outcome.tail());
    arrived(outcome, "dom0", SUITE);
    assert_eq!(said(outcome, "dom0", "HYPERVISOR"), format!("xen {}", xen.version), "{}", outcome.tail());
    let given = said(outcome, "dom0", "CMDLINE");
    let more = given.strip_prefix(&format!("[{DOM0_ARGS}")).unwrap_or_else(|| panic!("dom0 was given {given}"));
    // dom0 has no EFI system table to find ACPI by.
    match firmware {
        Firmware::Bios => assert_eq!(more, "]"),
        Firmware::Efi => assert!(more.starts_with(" acpi_rsdp=0x"), "dom0 was given {given}"),
    }
    assert_eq!(said(outcome, "dom0", "CPUS"), "2", "{}", outcome.tail());
    assert_eq!(said(outcome, "dom0", "APIC"), "1", "{}", outcome.tail());
    outcome.expect("(XEN) ACPI: RSDP").expect("(XEN) Brought up 2 CPUs").refuse("EXEC-RETURNED");
}

/// One case by our kexec.
pub fn case(suite: &str, spelling: Spelling, firmware: Firmware) {
    let xen = Xen::of(suite);
    let name = format!("xen-{}-{spelling:?}-{firmware:?}", xen.version).to_lowercase();
    check(&boot(usual(&name), &xen.gz, firmware, &load(spelling, "/mnt/xen", XEN_ARGS)), &xen, firmware);
}

/// The same rig by upstream's kexec, which takes no compressed Xen and has no `--vmm`.
pub fn upstream() {
    let xen = Xen::of(SUITE);
    let line = load(Spelling::Modules, "/mnt/xen", &format!("no-real-mode {XEN_ARGS}"));
    check(&boot(usual("xen-upstream").upstream(), &xen.elf, Firmware::Bios, &line), &xen, Firmware::Bios);
}
