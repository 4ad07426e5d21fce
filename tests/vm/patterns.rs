//! The six patterns of "Kexec and Kdump for Xen" as one table: four starts in one machine, one after the other, and
//! two crashes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::lab::{Outcome, SUITE, Xen, say};
use crate::relay::{Relay, arrived, said, usual, usual_kernel};
use crate::xen::{DOM0, Spelling, load};
use crate::xen_host::{self, ORACLE, REFUSED, Trigger, XEN_ARGS};

const CRASH: &str = "--append='console=ttyS0 panic=-1 irqpoll nr_cpus=1 reset_devices stage=crash'";

/// One row: what starts what, by which command, and whether it did.
struct Row {
    pattern: &'static str,
    command: &'static str,
    result: Result<String, String>,
}

/// A row of what `look` finds; its assertions are the row's result.
fn row(pattern: &'static str, command: &'static str, look: impl FnOnce() -> String) -> Row {
    let result = catch_unwind(AssertUnwindSafe(look)).map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
        text.unwrap_or("failed").to_owned()
    });
    Row { pattern, command, result }
}

/// Linux, Linux, Xen, Xen, Linux: every kernel but the first was started by the one before it.
fn starts(xen: &Xen) -> Outcome {
    let linux = "--console-serial --append='console=ttyS0 panic=-1 stage=";
    let [again, last] = ["again", "last"].map(str::to_owned);
    let xen_again = load(Spelling::Modules, "/mnt/xen", XEN_ARGS).replace("stage=dom0", &format!("stage={again}"));
    Relay::new("patterns")
        .kernel(SUITE, &["xen-privcmd"])
        .file("xen", &xen.gz)
        .leg("first", &format!("kexec -l {} {linux}second'\nexecute $?", usual_kernel()))
        .leg("second", &format!("{}\nexecute $?", load(Spelling::Vmm, "/mnt/xen", XEN_ARGS)))
        .leg("dom0", &format!("{REFUSED}{DOM0}{xen_again}\nexecute $?"))
        .leg(&again, &format!("{}kexec -l {} {linux}{last}'\nexecute $?", DOM0.replace("dom0", &again), usual_kernel()))
        .leg(&last, "echo \"LAB-last-HYPERVISOR [$(cat /sys/hypervisor/type)]\"")
        .machine()
        .timeout(400)
        .run()
}

fn started(outcome: &Outcome, from: &str, to: &str, hypervisor: &str) -> String {
    assert_eq!(said(outcome, from, "LOAD"), "0", "{}", outcome.tail());
    arrived(outcome, to, SUITE);
    if hypervisor != "none" {
        assert_eq!(said(outcome, to, "HYPERVISOR"), hypervisor, "{}", outcome.tail());
    }
    format!("Linux {}", said(outcome, to, "RELEASE"))
}

/// Linux panics, the crash kernel reads its log.
fn linux_crash() -> String {
    let script = format!(
        "kexec -p {} {CRASH}; echo LAB-first-LOADS $?\necho '{ORACLE}' > /dev/kmsg\necho c > /proc/sysrq-trigger\n",
        usual_kernel()
    );
    let look = "kdump-save -d 31 -z /proc/vmcore /tmp/dump; echo LAB-crash-DUMP $?
kdump-save --dump-dmesg /proc/vmcore | grep -o 'LAB-ORACLE.*' | sed 's/^/LAB-crash-FOUND /'\n";
    let outcome =
        usual("patterns-crash").leg("first", &script).leg("crash", look).machine().append("crashkernel=192M").run();
    outcome.ended();
    arrived(&outcome, "crash", SUITE);
    for (key, value) in [("DUMP", "0"), ("FOUND", ORACLE)] {
        assert_eq!(said(&outcome, "crash", key), value, "{}", outcome.tail());
    }
    "dump at level 31, log".to_owned()
}

#[test]
fn the_six_patterns() {
    let begin = Instant::now();
    let xen = Xen::of(SUITE);
    let outcome = starts(&xen);
    let hypervisor = format!("xen {}", xen.version);
    let mut rows = vec![
        row("Linux -> Linux", "-l, -e", || started(&outcome, "first", "second", "none")),
        row("Linux -> Xen", "-l --vmm=XEN --append=\"XEN_ARGS -- DOM0_ARGS\", -e", || {
            started(&outcome, "second", "dom0", &hypervisor)
        }),
        row("Xen -> Xen", "-l XEN --module=\"DOM0 ARGS\", -e", || started(&outcome, "dom0", "again", &hypervisor)),
        row("Xen -> Linux", "-l, -e", || {
            outcome.ended().refuse("Xen BUG").refuse("was overwritten").refuse("EXEC-RETURNED");
            started(&outcome, "again", "last", "[]")
        }),
    ];
    rows.push(row("crash, Linux -> Linux", "-p, a panic", linux_crash));
    rows.push(row("crash, Xen -> Linux", "-p, a panic of dom0", || {
        xen_host::crash(SUITE, Trigger::Dom0);
        "notes, dom0's log, Xen's console".to_owned()
    }));
    for Row { pattern, command, result } in &rows {
        let found = result.as_ref().map_or("FAILED", String::as_str);
        say(&format!("| {pattern:<22} | {command:<51} | {found}"));
    }
    say(&format!("the six patterns took {:.0} s", begin.elapsed().as_secs_f64()));
    let failed: Vec<String> =
        rows.iter().filter_map(|r| Some(format!("{}: {}", r.pattern, r.result.as_ref().err()?))).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    xen_host::refused(&outcome);
}
