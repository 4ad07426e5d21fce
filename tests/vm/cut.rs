//! Dumps that are cut, streams and ELF cores with a limit, as `crash` and drgn see them: the same as the whole dump. And
//! what takes debug symbols to make: a dump that something was erased from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::core::{ORACLE, vmcore};
use crate::lab::{Kernel, SUITE, checkout, drgn, fetch, product, run, tool, workdir};

/// What `crash` says of the kernel of [`SUITE`] in `dump`, without what it says of the file.
fn crash(dump: &Path, options: &[&str], work: &Path) -> Vec<String> {
    let commands = work.join("crash.commands");
    fs::write(&commands, "sys\nbt\nps\nmod\nkmem -i\nlog\nquit\n").expect("write crash's commands");
    let mut command = Command::new(fetch(&["crash", SUITE]).join("bin/crash"));
    command.arg("-s").args(options).arg("-i").arg(&commands);
    command.arg(fetch(&["debug", SUITE]).join("vmlinux")).arg(dump).stdin(Stdio::null());
    let said = String::from_utf8_lossy(&run(&mut command).stdout).into_owned();
    // Behind the warnings, if any.
    let lines = said.lines().skip_while(|line| !line.contains("KERNEL: "));
    lines.filter(|line| !line.contains("DUMPFILE: ")).map(str::to_owned).collect()
}

fn save(core: &Path, work: &Path, name: &str, options: &[&str], code: i32) -> PathBuf {
    let dump = work.join(name);
    let mut command = Command::new(product());
    let out = command.args(["kdump-save", "-q", "-f"]).args(options).arg(core).arg(&dump).output().expect("run");
    assert_eq!(out.status.code(), Some(code), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    dump
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).expect("there").len()
}

/// What drgn finds without symbols: the notes, names in memory, tasks.
fn drgn_reads(dump: &Path, release: &str) {
    let said = run(drgn().arg(checkout().join("tests/lab/read_dump.py")).arg(dump));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("memory_release={release}\n")), "{}: {said}", dump.display());
}

/// Half of a dump of all memory has what readers need; so has what fits a limit, in either format.
#[test]
fn case_15_half_a_dump_shows_crash_and_drgn_what_the_whole_one_shows() {
    let kernel = Kernel::of(SUITE);
    let core = vmcore(&kernel, "qemu64");
    let work = workdir("half");
    for level in ["0", "1"] {
        let whole = save(&core, &work, "whole", &["-c", "-d", level], 0);
        let expected = crash(&whole, &[], &work);
        assert!(expected.len() > 300 && expected.iter().any(|l| l.contains(ORACLE)), "{expected:?}");
        let half = work.join("half");
        fs::copy(&whole, &half).expect("copy");
        let file = fs::File::options().read(true).write(true).open(&half).expect("open");
        file.set_len(size(&half) / 2).expect("cut");
        // As a writer leaves it that was stopped there.
        let mut status = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut status, 424).expect("read");
        std::os::unix::fs::FileExt::write_all_at(&file, &[status[0] | 8], 424).expect("mark");
        let limited = save(&core, &work, "limited", &["-c", "-d", level, "-L", &(size(&whole) / 2).to_string()], 9);
        for dump in [&half, &limited] {
            for options in [&[][..], &["--zero_excluded"]] {
                let said = crash(dump, options, &work);
                assert!(said == expected, "level {level}, {} {options:?}: {said:#?}", dump.display());
            }
            drgn_reads(dump, &kernel.release);
        }
        let elf = save(&core, &work, "elf", &["-E", "-d", level], 0);
        let cut = save(&core, &work, "cut", &["-E", "-d", level, "-L", &(size(&elf) / 2).to_string()], 9);
        let said = crash(&cut, &[], &work);
        assert!(said == expected, "level {level}, half an ELF core: {said:#?}");
        drgn_reads(&cut, &kernel.release);
    }
    let whole = save(&core, &work, "elf", &["-E", "-d", "31"], 0);
    let elf = save(&core, &work, "cut", &["-E", "-d", "31", "-L", &(size(&whole) / 4 * 3).to_string()], 9);
    let log = run(Command::new(product()).args(["kdump-save", "--dump-dmesg"]).arg(&elf)).stdout;
    assert!(String::from_utf8_lossy(&log).trim_end().ends_with(ORACLE));
    drgn_reads(&elf, &kernel.release);
    fs::remove_dir_all(work).expect("remove");
}

#[test]
fn case_18_crash_reads_streams_as_they_are() {
    let core = vmcore(&Kernel::of(SUITE), "qemu64");
    let work = workdir("streams");
    let expected = crash(&save(&core, &work, "plain", &["-c", "-d", "31"], 0), &[], &work);
    for options in [&["-F", "-c", "-d", "31"][..], &["-F", "-z", "-d", "31"], &["-F", "-E", "-d", "31"]] {
        let stream = save(&core, &work, "stream", options, 0);
        let said = crash(&stream, &[], &work);
        assert!(said == expected, "{options:?}: {said:#?}");
    }
    fs::remove_dir_all(work).expect("remove");
}

/// makedumpfile erases a string of the kernel, and says so in the last part only.
#[test]
fn case_24_what_makedumpfile_erased_is_told_when_its_parts_are_joined() {
    let core = vmcore(&Kernel::of(SUITE), "qemu64");
    let work = workdir("erased");
    let at = |name: &str| work.join(name);
    let (one, two, config) = (at("one"), at("two"), at("erase.conf"));
    fs::write(&config, "[vmlinux]\nerase saved_command_line size 16\n").expect("write");
    let mut command = tool("makedumpfile");
    command.args(["-f", "-c", "-d", "31", "--split", "--splitblock-size", "65536", "-x"]);
    command.arg(fetch(&["debug", SUITE]).join("vmlinux")).arg("--config").arg(&config);
    run(command.arg(&core).args([&one, &two]));
    let text = |join: Command, name: &str| {
        let (mut join, joined) = (join, at(name));
        run(join.args(["-f", "--reassemble"]).args([&one, &two, &joined]));
        let dump = fs::read(joined).expect("read");
        let word = |at: usize| u64::from_le_bytes(dump[4096 + at..4096 + at + 8].try_into().expect("8 bytes")) as usize;
        dump[word(64)..][..word(72)].to_vec()
    };
    let mut ours = Command::new(product());
    ours.arg("makedumpfile");
    let (mine, theirs) = (text(ours, "mine"), text(tool("makedumpfile"), "theirs"));
    assert_eq!(String::from_utf8_lossy(&mine), "erase saved_command_line size 16\n");
    assert_eq!(mine, theirs);
    fs::remove_dir_all(work).expect("remove");
}
