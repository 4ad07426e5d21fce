//! Kernels started on an EFI machine by our own plan: they find ACPI, EFI's runtime services and the screen, and can do
//! it again.

use crate::lab::{Guest, Kernel, Machine, Outcome, SUITE, workdir};

/// What this kernel found, told under its stage's name.
const FOUND: &str = r#"
stage=$(sed -n 's/.*stage=\([a-z]*\).*/\1/p' /proc/cmdline)
echo "LAB-$stage-ACPI $(cat /sys/firmware/efi/systab | grep ACPI20)"
echo "LAB-$stage-RUNTIME $(cat /sys/firmware/efi/runtime-map/*/phys_addr | sort | tr '\n' ' ')"
echo "LAB-$stage-CPUS $(grep -c ^processor /proc/cpuinfo)"
echo "LAB-$stage-SCREEN $(cat /proc/fb) $(cat /sys/class/graphics/fb0/virtual_size) $(cat /sys/class/graphics/fb0/stride)"
echo "LAB-$stage-TABLES $(ls /sys/firmware/acpi/tables | grep -c .)"
dmesg | grep -E "efi: .*(EFI v|failed|invalid)|Runtime.*disabled" | sed "s/^/LAB-$stage-SAYS /"
"#;

/// A machine with OVMF as its firmware.
fn machine(name: &str, kernel: &Kernel, work: &std::path::Path) -> Machine {
    Machine::new(name, work, &kernel.vmlinuz()).ovmf().cpu("max").timeout(240).argument("-vga").argument("std")
}

fn stage<'a>(outcome: &'a Outcome, stage: &str, key: &str) -> &'a str {
    let value = outcome.value(&format!("LAB-{stage}-{key} "));
    value.unwrap_or_else(|| panic!("nothing about {key} from stage {stage}\n{}", outcome.tail()))
}

#[test]
fn kernels_hand_efi_and_acpi_on_twice() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("efi-next");
    let script = format!(
        "{FOUND}
case $stage in
first) next=second ;;
second) next=third ;;
*) reboot -f ;;
esac
kexec -c -l /boot/vmlinuz --initrd=/boot/next --console-serial --append=\"console=ttyS0 panic=-1 stage=$next\"
echo LAB-$stage-LOAD $?
kexec -e
"
    );
    let third = Guest::new(&kernel, &[], &script).write_gzip(&work.join("third"));
    let with = |next: &std::path::Path| {
        Guest::new(&kernel, &[], &script)
            .product(&["kexec"])
            .file("boot/vmlinuz", &kernel.vmlinuz())
            .file("boot/next", next)
    };
    let second = with(&third).write_gzip(&work.join("second"));
    let first = with(&second).write(&work.join("first.cpio"));
    let outcome = machine("efi-next", &kernel, &work).initrd(&first).append("stage=first").run();
    outcome.ended();
    for key in ["ACPI", "RUNTIME", "CPUS", "SCREEN", "TABLES"] {
        let found = stage(&outcome, "first", key);
        assert!(found.len() > usize::from(key == "ACPI") * 8, "{key}: '{found}'");
        for later in ["second", "third"] {
            assert_eq!(stage(&outcome, later, key), found, "{key} in the {later} kernel\n{}", outcome.tail());
        }
    }
    assert!(stage(&outcome, "first", "SCREEN").starts_with("0 EFI VGA "), "{}", outcome.tail());
    for later in ["first", "second", "third"] {
        assert!(stage(&outcome, later, "SAYS").contains("EFI v2."), "{}", outcome.tail());
    }
}

#[test]
fn a_panic_on_an_efi_machine_reaches_the_crash_kernel() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("efi-crash");
    let look = format!(
        "{FOUND}
kdump-save --dump-dmesg /proc/vmcore /tmp/dmesg; echo LAB-crash-DMESG $?
grep -o 'LAB-EFI-ORACLE.*' /tmp/dmesg | sed 's/^/LAB-crash-/'
"
    );
    let image = Guest::new(&kernel, &[], &look).product(&["kdump-save"]).write_gzip(&work.join("look.img"));
    let script = format!(
        "{FOUND}
kexec -c -p /boot/vmlinuz --initrd=/boot/crash.img --append='console=ttyS0 nr_cpus=1 irqpoll panic=-1 stage=crash'
echo LAB-first-LOAD $?
[ $(cat /sys/kernel/kexec_crash_loaded) = 1 ] || reboot -f
echo 'LAB-EFI-ORACLE 77' > /dev/kmsg
echo c > /proc/sysrq-trigger
"
    );
    let guest = Guest::new(&kernel, &[], &script)
        .product(&["kexec"])
        .file("boot/vmlinuz", &kernel.vmlinuz())
        .file("boot/crash.img", &image)
        .write(&work.join("first.cpio"));
    let machine = machine("efi-crash", &kernel, &work).initrd(&guest);
    let outcome = machine.append("stage=first crashkernel=160M").run();
    outcome.ended().expect("LAB-first-LOAD 0").expect("LAB-crash-DMESG 0").expect("LAB-crash-LAB-EFI-ORACLE 77");
    for key in ["ACPI", "RUNTIME", "TABLES"] {
        assert_eq!(stage(&outcome, "crash", key), stage(&outcome, "first", key), "{key}");
    }
}
