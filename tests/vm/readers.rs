//! A captured dump through the eyes of tools that read debug symbols: crash and drgn.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::core::{ORACLE, vmcore};
use crate::lab::{Kernel, SUITE, checkout, disk, drgn, fetch, product, run, say, tool_of, workdir};
use crate::levels;
use crate::panic::{Panic, UPSTREAM_LOAD, baseline_image, our_image, our_load};

/// What drgn says with symbols; the same for every dump of one panic.
fn drgn_report(dump: &Path, vmlinux: &Path) -> String {
    let output = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(dump).arg(vmlinux));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether `crash` of `suite` with these `options` ends well, and what it says of `dump`; nothing of the names of files and
/// places in its own code.
pub fn crash(
    suite: &str,
    options: &[&str],
    [symbols, dump]: [&Path; 2],
    commands: &str,
    work: &Path,
) -> (bool, String) {
    let input = work.join("crash.commands");
    fs::write(&input, format!("{commands}\nquit\n")).expect("write crash's commands");
    let mut command = Command::new(fetch(&["crash", suite]).join("bin/crash"));
    command.args(options).arg("-s").arg("-i").arg(&input).arg(symbols).arg(dump).stdin(Stdio::null());
    let out = command.output().expect("start crash");
    let text = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    let lines = text.lines().filter(|l| !l.contains("DUMPFILE:") && !l.contains("error trace:"));
    (out.status.success(), lines.map(|l| format!("{l}\n")).collect())
}

fn check(dump: &Path, kernel: &Kernel, work: &Path) {
    let vmlinux = fetch(&["debug", SUITE]).join("vmlinux");
    let report = drgn_report(dump, &vmlinux);
    let value = |key: &str| report.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    assert_eq!(value("memory_release="), kernel.release);
    assert_eq!(value("first_tasks="), "init kthreadd");
    assert!(value("tasks=").parse::<u32>().is_ok_and(|n| n > 40), "{report}");
    assert!(value("stack=").contains("sysrq_handle_crash"), "{report}");
    assert_eq!(value("unreadable_stacks="), "0");
    assert!(report.contains(ORACLE), "{report}");
    let (ended, report) = crash(SUITE, &[], [&vmlinux, dump], "sys\nbt\nlog\nmod", work);
    assert!(ended, "{report}");
    for text in [&kernel.release, "sysrq_handle_crash", "sysrq triggered crash", ORACLE, "virtio_blk"] {
        assert!(report.contains(text), "crash does not show '{text}':\n{report}");
    }
}

#[test]
fn our_dump_shows_crash_and_drgn_the_same_as_upstreams() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("readers-ours");
    let config = "ext4 LABEL=target\npath /var/crash\ncore_collector makedumpfile -c -d 31\n";
    let image = our_image(&kernel, &work, config, &[]);
    let load = our_load("-c");
    let panic = Panic { cpu: "max", ..Panic::new("readers-ours", &kernel, &work, &image, &load) };
    let (outcome, target) = panic.run();
    outcome.ended();
    let files = disk::files(&target);
    let dump = files.iter().find(|f| f.ends_with("/vmcore")).unwrap_or_else(|| panic!("{files:?}\n{}", outcome.tail()));
    check(&disk::copy_out(&target, dump, &work.join("vmcore")), &kernel, &work);
}

#[test]
fn upstreams_dump_is_what_the_readers_expect() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("readers-upstream");
    let image = baseline_image(&kernel, &work);
    let panic = Panic { cpu: "max", ..Panic::new("readers-upstream", &kernel, &work, &image, UPSTREAM_LOAD) };
    let (outcome, target) = panic.run();
    outcome.ended().expect("LAB-SAVED");
    check(&disk::copy_out(&target, "/dump/vmcore", &work.join("vmcore")), &kernel, &work);
}

/// Sessions that touch tasks, stacks, slabs, file systems, interrupts, timers and one process's tables.
const SESSION: &str = "sys\nbt -a\nforeach bt\nps\nlog\nkmem -i\nkmem -s\nmount\nfiles 1\nvm 1\nirq\ntimer\nrunq\nmod";

/// The newest `crash` shows of our dump at level 31, word for word, what it shows of the vmcore: of one by kdump, and of one
/// with five levels of page tables. Of upstream's dump too, if it opens that.
fn a_session_is_that_of_the_raw_vmcore(suite: &str, options: &[&str], also: &[&str]) {
    let kernel = Kernel::of(suite);
    let vmlinux = fetch(&["debug", suite]).join("vmlinux");
    let work = workdir(&format!("readers-{suite}"));
    let by_kdump = levels::by_kdump(&kernel, &work);
    let panicked = ["sysrq_handle_crash", "sysrq triggered crash"];
    for (core, texts) in [(&by_kdump, &panicked[..]), (&vmcore(&kernel, "max"), &[])] {
        let dump = work.join("vmcore");
        run(Command::new(product()).args(["kdump-save", "-f", "-z", "-d31"]).arg(core).arg(&dump));
        let show = |dump: &Path| crash(levels::NEWEST, options, [&vmlinux, dump], SESSION, &work);
        let (ours, raw) = (show(&dump), show(core));
        assert!(ours.0 && ours == raw, "{}: ours:\n{}\nraw:\n{}", core.display(), ours.1, raw.1);
        run(tool_of(levels::NEWEST, "makedumpfile").args(["-f", "-c", "-d31"]).arg(core).arg(&dump));
        let theirs = show(&dump);
        let opens = if theirs.0 { "opens" } else { "does not open" };
        say(&format!("readers: crash {opens} upstream's dump of {}", kernel.release));
        assert!(!theirs.0 || theirs == raw, "{}: upstream's:\n{}\nraw:\n{}", core.display(), theirs.1, raw.1);
        for text in [&kernel.release, ORACLE, "TOTAL MEM", "/proc", "process_timeout"].iter().chain(texts).chain(also) {
            assert!(raw.1.contains(text), "crash does not show '{text}':\n{}", raw.1);
        }
        assert!(raw.1.matches("COMMAND: ").count() > 50, "a stack for every task:\n{}", raw.1);
    }
    fs::remove_file(by_kdump).expect("remove the raw vmcore");
}

#[test]
fn a_session_on_6_12_is_that_of_the_raw_vmcore() {
    a_session_is_that_of_the_raw_vmcore("trixie", &[], &["kmalloc-64", "virtio_blk"]);
}

/// Of 7.3, crash 9.0.2 shows neither modules nor slabs, of the raw vmcore neither ("invalid structure member offset:
/// module_num_gpl_syms", "kmem_cache_local_node"). It does not open makedumpfile 1.7.8's dump: that drops tail pages
/// of slabs, half of the tasks among them.
#[test]
fn a_session_on_7_3_is_that_of_the_raw_vmcore() {
    a_session_is_that_of_the_raw_vmcore("trixie-backports", &["--no_modules"], &[]);
}
