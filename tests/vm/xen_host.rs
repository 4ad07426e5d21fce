//! Xen as the host: its dom0 loads, tells, unloads, and starts what comes behind: Xen, Linux, a crash kernel.

use crate::lab::{Outcome, SUITE, Xen, fetch};
use crate::relay::{Relay, arrived, said, usual_kernel};
use crate::xen::{DOM0, Spelling, load};

/// The hypervisor's command line.
pub const XEN_ARGS: &str = "console=com1 com1=115200,8n1 loglvl=all dom0_mem=420M,max:420M crashkernel=192M";
/// What dom0 leaves in its log, for the crash kernel to find.
pub const ORACLE: &str = "LAB-ORACLE of dom0";
/// Linux's console behind Xen.
const LINUX: &str = "--console-serial --append='console=ttyS0 panic=-1 stage=linux'";

/// Everything that changes what is loaded, and what is told of it; `LOAD` stands for the load, `KIND` for its kind.
const TELL: &str = r#"
tell() { kexec -S $1; echo "LAB-$stage-$2 $?"; }
tell KIND FRESH
LOAD; echo "LAB-$stage-LOADS $?"
tell KIND LOADED
LOAD; echo "LAB-$stage-LOADS-AGAIN $?"
tell KIND RELOADED
kexec -u KIND; echo "LAB-$stage-UNLOADS $?"
tell KIND UNLOADED
kexec -u KIND; echo "LAB-$stage-UNLOADS-AGAIN $?"
tell KIND STILL
LOAD; code=$?
tell KIND READY
"#;

/// What is refused, with its sentence, before anything is asked of Xen.
pub const REFUSED: &str = r#"
dd if=/dev/zero of=/tmp/large bs=1 count=1 seek=209715199 2>/dev/null
refuse() { name=$1; shift; "$@" 2>/tmp/said; echo "LAB-REFUSED $name $? $(cat /tmp/said)"; }
kernel=/mnt/bookworm.vmlinuz
refuse exec kexec -e
refuse file kexec -s -l $kernel
refuse return kexec -l $kernel --load-preserve-context --mem-max=0x10000000
refuse xen kexec -p /mnt/xen --module=$kernel
refuse large kexec -p $kernel --initrd=/tmp/large
mv /dev/xen/privcmd /dev/xen/gone
refuse privcmd kexec -l $kernel
mv /dev/xen/gone /dev/xen/privcmd
echo "LAB-AREA $(kexec --print-ckr-size)"
rm /tmp/large
"#;

/// `-u` drops the next kernel unless it is told `-p`; `-l` behind it would make it a load.
fn tell(kind: &str, load: &str) -> String {
    let unload = if kind == "-l" { "kexec -u" } else { "kexec -p -u" };
    TELL.replace("kexec -u KIND", unload).replace("KIND", kind).replace("LOAD;", &format!("{load};"))
}

fn told(outcome: &Outcome, stage: &str) {
    for (key, value) in [
        ("FRESH", "0"),
        ("LOADS", "0"),
        ("LOADED", "1"),
        ("LOADS-AGAIN", "0"),
        ("RELOADED", "1"),
        ("UNLOADS", "0"),
        ("UNLOADED", "0"),
        ("UNLOADS-AGAIN", "0"),
        ("STILL", "0"),
        ("READY", "1"),
    ] {
        assert_eq!(said(outcome, stage, key), value, "{stage} {key}\n{}", outcome.tail());
    }
}

fn relay(name: &str, xen: &Xen) -> Relay {
    // dom0 makes hypercalls by a module.
    Relay::new(name).kernel(SUITE, &["xen-privcmd"]).file("xen", &xen.gz)
}

/// Xen, then Xen, then Linux in one machine; what dom0 refuses on the way.
pub fn next(suite: &str) {
    let xen = Xen::of(suite);
    let again = tell("-l", &load(Spelling::Vmm, "/mnt/xen", XEN_ARGS));
    let linux = tell("-l", &format!("kexec -l {} {LINUX}", usual_kernel()));
    let outcome = relay(&format!("xen-host-{}", xen.version), &xen)
        .leg("first", &format!("{REFUSED}\n{again}execute $code"))
        .leg("dom0", &format!("{DOM0}{linux}execute $code"))
        .leg("linux", "echo \"LAB-linux-HYPERVISOR [$(cat /sys/hypervisor/type)]\"")
        .machine_on(&xen.elf, XEN_ARGS)
        .timeout(400)
        .run();
    outcome.ended().refuse("EXEC-RETURNED").refuse("Xen BUG").refuse("was overwritten");
    for stage in ["first", "dom0"] {
        arrived(&outcome, stage, SUITE);
        told(&outcome, stage);
    }
    arrived(&outcome, "linux", SUITE);
    assert_eq!(said(&outcome, "linux", "HYPERVISOR"), "[]");
    assert_eq!(said(&outcome, "linux", "CMDLINE"), "[console=ttyS0 panic=-1 stage=linux]");
    assert_eq!(said(&outcome, "dom0", "HYPERVISOR"), format!("xen {}", xen.version));
    outcome.expect("(XEN) Brought up 2 CPUs").expect("in purgatory");
    refused(&outcome);
}

/// Fails the test unless each wrong request got its sentence.
pub fn refused(outcome: &Outcome) {
    assert_eq!(outcome.value("LAB-AREA "), Some("201326592"));
    for (name, code, text) in [
        ("exec", 255, "Xen says that nothing has been loaded"),
        ("file", 255, "leave -s out"),
        ("return", 1, "Xen returns from no image"),
        ("xen", 255, "only Linux can be a crash kernel"),
        ("large", 255, "no room for the initrd"),
        ("privcmd", 255, "modprobe xen-privcmd"),
    ] {
        let said = outcome.value(&format!("LAB-REFUSED {name} ")).unwrap_or_default();
        assert!(said.starts_with(&format!("{code} kexec: ")) && said.contains(text), "{name}: {said}");
    }
}

/// Xen without a reservation: no crash kernel, and a next one in the lowest memory.
pub fn without_reservation(suite: &str) {
    let xen = Xen::of(suite);
    let script = format!(
        "kexec -p {0} 2>/tmp/said; echo \"LAB-first-CRASH $? $(cat /tmp/said)\"
kexec -l {0} {LINUX} 2>/tmp/said; code=$?; echo \"LAB-first-NOTICE $(cat /tmp/said)\"
execute $code",
        usual_kernel()
    );
    let arguments = XEN_ARGS.replace(" crashkernel=192M", "");
    let outcome = relay(&format!("xen-bare-{}", xen.version), &xen)
        .leg("first", &script)
        .leg("linux", "")
        .machine_on(&xen.elf, &arguments)
        .run();
    outcome.ended().refuse("was overwritten");
    arrived(&outcome, "linux", SUITE);
    let refused = said(&outcome, "first", "CRASH");
    assert!(refused.starts_with("254 ") && refused.contains("on Xen's own command line"), "{refused}");
    let notice = said(&outcome, "first", "NOTICE");
    assert!(notice.contains("goes to the lowest memory"), "{notice}");
}

/// On EFI: Linux, Xen, Xen. The second hypervisor was started by one that has no EFI itself, and still finds ACPI.
pub fn twice_on_efi(suite: &str) {
    let xen = Xen::of(suite);
    let again = load(Spelling::Modules, "/mnt/xen", XEN_ARGS).replace("stage=dom0", "stage=again");
    let outcome = relay(&format!("xen-twice-{}", xen.version), &xen)
        .leg("first", &format!("{}\nexecute $?", load(Spelling::Vmm, "/mnt/xen", XEN_ARGS)))
        .leg("dom0", &format!("{DOM0}{again}\nexecute $?"))
        .leg("again", &DOM0.replace("dom0", "again"))
        .machine()
        .argument("-machine")
        .argument("q35")
        .ovmf()
        .run();
    outcome.ended().refuse("EXEC-RETURNED");
    for stage in ["dom0", "again"] {
        arrived(&outcome, stage, SUITE);
        assert_eq!(said(&outcome, stage, "HYPERVISOR"), format!("xen {}", xen.version));
        assert_eq!((said(&outcome, stage, "CPUS"), said(&outcome, stage, "APIC")), ("2", "1"), "{}", outcome.tail());
        assert!(said(&outcome, stage, "CMDLINE").contains(" acpi_rsdp=0x"), "{}", outcome.tail());
    }
}

/// What brings the machine down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A panic of dom0.
    Dom0,
    /// `C`, typed on Xen's console.
    Console,
    /// The same key, sent by dom0.
    DebugKeys,
    /// An oops of dom0 that panics: Linux's own loader of kernels, which is not made for a PV dom0.
    Oops,
    /// A panic of Xen itself: an NMI that nobody claims.
    Xen,
}

/// What the crash kernel finds.
const LOOK: &str = r#"
dd if=/proc/vmcore bs=64k count=1 2>/dev/null | tr -c 'A-Z_' '\n' > /tmp/words
for word in CORE VMCOREINFO_XEN VMCOREINFO; do echo "LAB-crash-NOTES-$word $(grep -c "^$word\$" /tmp/words)"; done
kdump-save --dump-dmesg /proc/vmcore /tmp/dmesg; echo "LAB-crash-DMESG $?"
grep -o 'LAB-ORACLE.*' /tmp/dmesg | sed 's/^/LAB-crash-FOUND /'
kdump-save --dump-xen-console /proc/vmcore /tmp/console; echo "LAB-crash-CONSOLE $?"
tail -n 5 /tmp/console | sed 's/^/LAB-crash-LAST /'
"#;

/// A crash kernel, loaded by dom0, started by `trigger`.
pub fn crash(suite: &str, trigger: Trigger) {
    let xen = Xen::of(suite);
    let name = format!("xen-crash-{}-{trigger:?}", xen.version).to_lowercase();
    let load = format!(
        "kexec -p {} --console-serial --append='console=ttyS0 panic=-1 irqpoll nr_cpus=1 reset_devices stage=crash'",
        usual_kernel()
    );
    let pull = match trigger {
        Trigger::Dom0 => "echo c > /proc/sysrq-trigger".to_owned(),
        Trigger::Console => "echo LAB-TYPE-NOW".to_owned(),
        Trigger::DebugKeys => "xl debug-keys C".to_owned(),
        Trigger::Oops => {
            format!("echo 1 > /proc/sys/kernel/panic_on_oops\ntheirs -s -l {} --append=oops", usual_kernel())
        }
        Trigger::Xen => "echo LAB-NMI-NOW".to_owned(),
    };
    let first = format!("{}echo '{ORACLE}' > /dev/kmsg\n{pull}\nsleep 60\necho LAB-NOTHING-CAME\n", tell("-p", &load));
    let relay = relay(&name, &xen).leg("first", &first).leg("crash", LOOK);
    let relay = match trigger {
        Trigger::Dom0 | Trigger::Console | Trigger::Xen => relay,
        Trigger::DebugKeys => {
            let package = format!("xen-utils-{}", xen.version);
            relay.program(&fetch(&["root", suite, &package]), &format!("usr/lib/xen-{}/bin/xl", xen.version))
        }
        Trigger::Oops => relay.program(&fetch(&["tools", SUITE]).join("root"), "sbin/kexec"),
    };
    let machine = relay.machine_on(&xen.elf, &format!("{XEN_ARGS} nmi=fatal")).timeout(300);
    let outcome = match trigger {
        Trigger::Console => machine.typed("LAB-TYPE-NOW", b"\x01\x01\x01C").run(),
        Trigger::Xen => machine.monitor("LAB-NMI-NOW", "nmi").run(),
        _ => machine.run(),
    };
    outcome.ended().refuse("was overwritten").refuse("NOTHING-CAME").refuse("Xen BUG");
    told(&outcome, "first");
    arrived(&outcome, "crash", SUITE);
    for (key, value) in [("CORE", "2"), ("VMCOREINFO_XEN", "1"), ("VMCOREINFO", "1")] {
        assert_eq!(said(&outcome, "crash", &format!("NOTES-{key}")), value, "{}", outcome.tail());
    }
    assert_eq!(said(&outcome, "crash", "DMESG"), "0", "{}", outcome.tail());
    assert_eq!(said(&outcome, "crash", "FOUND"), ORACLE);
    assert_eq!(said(&outcome, "crash", "CONSOLE"), "0", "{}", outcome.tail());
    let last = match trigger {
        Trigger::Dom0 | Trigger::Oops => "Hardware Dom0 crashed: Executing kexec image",
        Trigger::Console | Trigger::DebugKeys => "'C' pressed -> triggering crashdump",
        Trigger::Xen => "Executing kexec image",
    };
    outcome.expect(last);
    let found = |text: &str| outcome.console.lines().any(|l| l.starts_with("LAB-crash-LAST (XEN)") && l.contains(text));
    assert!(found(last), "{last}\n{}", outcome.tail());
}
