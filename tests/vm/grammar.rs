//! `crashkernel=` as real kernels take it: the cases of the table that are marked so, booted as far as the kernel or Xen
//! has said what it reserved.

use std::path::Path;

use kdumpbox::crashkernel::syntax::{Reservation, Rules, linux};
use kdumpbox::crashkernel::xen::xen;

use crate::lab::{Kernel, Machine, SUITE, Xen, say, workdir};

#[path = "../support/grammar.rs"]
mod table;

use table::Case;

/// Main area, low area and CMA in MiB, and where the main one begins.
type Reserved = [u64; 4];

/// The number in front of which `before` stands on a line of the log that has `key`, with `radix`.
fn number(log: &str, key: &str, before: &str, radix: u32) -> Option<u64> {
    let line = log.lines().find(|l| l.contains(key))?;
    let text = line.split_once(before)?.1;
    u64::from_str_radix(text.split(|c: char| !c.is_digit(radix)).next()?, radix).ok()
}

/// What the log says, in Linux's old words, its new ones, or Xen's.
fn told(log: &str) -> Reserved {
    let old = "for crashkernel (System RAM";
    let new = "crashkernel reserved: ";
    let main = number(log, old, "Reserving ", 10).or_else(|| number(log, new, " (", 10));
    let low = number(log, "for crashkernel (low RAM", "Reserving ", 10);
    let low = low.or_else(|| number(log, "crashkernel low memory reserved", " (", 10));
    let cma = number(log, "crashkernel CMA reserved: ", "reserved: ", 10);
    let at = number(log, old, "memory at ", 10).map(|mib| mib << 20).or_else(|| number(log, new, ": 0x", 16));
    if let Some(size) = number(log, "Kdump: ", "Kdump: ", 10) {
        return [size, 0, 0, number(log, "Kdump: ", "at 0x", 16).unwrap_or(0)];
    }
    [main, low, cma, at].map(Option::unwrap_or_default)
}

/// Whether the two agree.
fn same(expected: &Reservation, told: Reserved) -> bool {
    let [size, low, cma, at] = told;
    [expected.size, expected.low, expected.cma] == [size << 20, low << 20, cma << 20]
        && expected.offset.is_none_or(|o| o == at)
        && expected.below.is_none_or(|limit| at + (size << 20) <= limit)
}

fn mib(case: &Case) -> u32 {
    u32::try_from(case.memory >> 20).expect("a machine that can be booted")
}

/// Boots what `machine` sets up for each of the cases of `kernel`.
fn boot(
    name: &str,
    kernel: &str,
    machine: impl Fn(&str, &Path, &Case) -> Machine,
    read: impl Fn(&Case) -> Reservation,
) {
    let work = workdir(name);
    let mut wrong = Vec::new();
    let cases: Vec<Case> = table::cases().into_iter().filter(|c| c.booted && c.kernel == kernel).collect();
    assert!(cases.len() >= 4);
    for (number, case) in cases.iter().enumerate() {
        let outcome = machine(&format!("{name}-{number}"), &work, case).timeout(120).run();
        let told = told(&outcome.console);
        let expected = read(case);
        let fine = same(&expected, told);
        say(&format!("{name}: {}: {told:x?} {}", case.command_line, if fine { "as told" } else { "OTHERWISE" }));
        if !fine {
            wrong.push(format!("{case:?}: expected {expected:?}, reserved {told:x?}\n{}", outcome.tail()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn on_linux(suite: &str, kernel: &str) {
    let booted = Kernel::of(suite);
    let machine = |name: &str, work: &Path, case: &Case| {
        // It is over once memory has been counted.
        let machine = Machine::new(name, work, &booted.vmlinuz()).append(&format!("nokaslr {}", case.command_line));
        machine.memory(mib(case)).cpus(1).monitor("K available (", "quit")
    };
    boot(&format!("grammar-{kernel}"), kernel, machine, |case| {
        linux(case.command_line, &Rules::new(case.memory).of_release(&booted.release)).reservation
    });
}

#[test]
fn linux_6_1() {
    on_linux(SUITE, "6.1");
}

#[test]
fn linux_5_10() {
    on_linux("bullseye", "5.10");
}

#[test]
fn linux_6_12() {
    on_linux("trixie", "6.12");
}

#[test]
fn linux_7() {
    on_linux("sid", "7.2");
}

fn on_xen(suite: &str) {
    let booted = Xen::of(suite);
    let dom0 = Kernel::of(SUITE);
    let machine = |name: &str, work: &Path, case: &Case| {
        let line = format!("console=com1 com1=115200,8n1 loglvl=all {}", case.command_line);
        let machine = Machine::new(name, work, &booted.elf).command_line(&line).initrd(&dom0.vmlinuz());
        machine.memory(mib(case)).cpus(1).monitor("Domain heap initialised", "quit")
    };
    boot(&format!("grammar-xen-{}", booted.version), "xen", machine, |case| {
        xen(case.command_line, case.memory).reservation
    });
}

#[test]
fn xen_4_17() {
    on_xen("bookworm");
}

#[test]
fn xen_4_20() {
    on_xen("trixie");
}
