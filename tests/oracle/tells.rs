//! What makedumpfile tells without a dump, on real kernels: ours says the same.

use std::path::Path;
use std::process::Command;

use kdumpbox::vmcore::Vmcore;

use crate::lab::core::{ORACLE, console, vmcore};
use crate::lab::{Kernel, run, tool_of, workdir};

fn ours() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg("makedumpfile");
    command
}

/// What `--vtop` says, from the line that names the address to the one that answers.
fn vtop(mut command: Command, core: &Path, dump: &Path, va: u64) -> String {
    command.args(["--dry-run", "-d31", "--message-level", "2", &format!("--vtop={va:#x}")]);
    let said = String::from_utf8_lossy(&run(command.arg(core).arg(dump)).stdout).into_owned();
    let from = said.find("Translating").expect("an answer");
    let to = said[from..].find("\n\n").map_or(said.len(), |n| from + n);
    said[from..to].to_owned()
}

/// Page tables of every depth, pages of every size, addresses that lead nowhere.
pub fn same_addresses(suite: &str, cpu: &str) {
    let path = vmcore(&Kernel::of(suite), cpu);
    let core = Vmcore::open(&path).expect("a vmcore");
    let info = core.vmcoreinfo().expect("VMCOREINFO");
    let dump = workdir(&format!("vtop-{suite}-{cpu}")).join("dump");
    let mut addresses: Vec<u64> = ["_stext", "mem_section", "prb", "init_uts_ns", "vmemmap", "swapper_pg_dir"]
        .iter()
        .filter_map(|name| info.symbol(name).map(|va| va + 0x123))
        .collect();
    let five = info.number("pgtable_l5_enabled") == Some(1);
    // Below the image, in the hole in the middle, the last page.
    addresses.extend([0xffff_ffff_8000_0000 - 0x1000, 0x1234, u64::MAX - 0xfff]);
    assert!(addresses.len() >= 7 && (cpu == "max") == five, "{suite} on {cpu}: {addresses:x?}");
    for va in addresses {
        let theirs = vtop(tool_of("sid", "makedumpfile"), &path, &dump, va);
        assert_eq!(vtop(ours(), &path, &dump, va), theirs, "{suite} on {cpu}: {va:#x}");
    }
}

/// `--mem-usage` of a vmcore (upstream takes the running kernel only) against the report of upstream's dump of it.
pub fn same_classes(suite: &str) {
    let path = vmcore(&Kernel::of(suite), "qemu64");
    let said = run(ours().arg("--mem-usage").arg(&path));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let dump = workdir(&format!("usage-{suite}")).join("dump");
    let mut theirs = tool_of("sid", "makedumpfile");
    let report = run(theirs.args(["--dry-run", "-d31", "--message-level", "16"]).arg(&path).arg(&dump));
    let report = [report.stdout, report.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).concat();
    for (row, line) in [
        ("NON_PRI_CACHE", "Non-private cache pages"),
        ("PRI_CACHE", "Private cache pages"),
        ("USER", "User process data pages"),
        ("FREE", "Free pages"),
    ] {
        let mine = said.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).find(|l| l.first() == Some(&row));
        let mine: u64 = mine.and_then(|l| l.get(1)?.parse().ok()).unwrap_or_else(|| panic!("{row} in {said}"));
        let other = report.lines().find_map(|l| l.trim().strip_prefix(line)?.trim().strip_prefix(": 0x"));
        let other = other.and_then(|n| u64::from_str_radix(n, 16).ok()).unwrap_or_else(|| panic!("{line} in {report}"));
        assert_eq!(mine, other, "{suite}: {row}");
    }
}

/// Every line the kernel showed on its console is in the log, in the same order.
pub fn log_is_what_the_console_showed(suite: &str) {
    let kernel = Kernel::of(suite);
    let shown = std::fs::read(console(&kernel, "qemu64")).expect("read the console");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let said = run(Command::new(env!("CARGO_BIN_EXE_kdumpbox"))
        .args(["kdump-save", "--dump-dmesg"])
        .arg(vmcore(&kernel, "qemu64")));
    let log = String::from_utf8(said.stdout).expect("text");
    let time = |line: &&str| {
        let stamp = line.strip_prefix('[').and_then(|l| l.split_once("] ")).map(|(stamp, _)| stamp.trim());
        stamp.is_some_and(|s| s.contains('.') && s.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    };
    let mut rest = log.lines();
    let mut count = 0;
    for line in shown.lines().map(|l| l.trim_end_matches('\r')).filter(time) {
        // The console repeats the time for a record's further lines, the log indents them.
        let (head, text) = line.split_at(line.find("] ").map_or(0, |at| at + 2));
        let further = format!("{}{text}", " ".repeat(head.len()));
        assert!(
            rest.any(|l| l == line || l == further),
            "{suite}: not in the log, or not behind the line before it: {line}"
        );
        count += 1;
    }
    assert!(count > 150 && log.contains(ORACLE), "{suite}: {count} lines\n{log}");
}
