//! A relay: kernels that start one another by kexec in one machine, each saying what it was given.
//!
//! A disk (/dev/vda, mounted read-only at /mnt) holds the files; `SUITE.vmlinuz` and `SUITE.initrd` of each
//! suite are among them. Every initrd has the script of all legs: `stage=` on the command line chooses.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Guest, Kernel, Machine, Outcome, SUITE, disk, workdir};

/// Before the legs: who this is, and the way to the next.
///
/// `go STAGE OPTION...` loads by `kexec OPTION... --append=...` and executes.
const BEGIN: &str = r#"
stage=$(sed -n 's/.*stage=\([a-z0-9_]*\).*/\1/p' /proc/cmdline)
echo "LAB-$stage-RELEASE $(uname -r)"
echo "LAB-$stage-CMDLINE [$(cat /proc/cmdline)]"
mount -t ext4 -o ro /dev/vda /mnt || echo LAB-NO-DISK
line() { echo "console=ttyS0 panic=-1 stage=$1$MORE"; }
execute() {
    echo LAB-$stage-LOAD $1
    kexec -e
    echo LAB-$stage-EXEC-RETURNED $?
}
go() {
    to=$1; shift
    kexec "$@" --append="$(line $to)"
    execute $?
}
"#;

/// What is not loaded where the disk is: it is in every kernel's own initrd.
const DISK: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// A relay being prepared.
pub struct Relay {
    name: String,
    work: PathBuf,
    suites: Vec<(String, Vec<&'static str>)>,
    legs: String,
    upstream: bool,
    programs: Vec<[PathBuf; 2]>,
}

impl Relay {
    /// No kernel, no legs yet. The case's directory is emptied.
    pub fn new(name: &str) -> Self {
        let work = workdir(name);
        fs::create_dir(work.join("disk")).expect("make the disk's contents");
        Self {
            name: name.to_owned(),
            work,
            suites: Vec::new(),
            legs: String::new(),
            upstream: false,
            programs: Vec::new(),
        }
    }

    /// The case's directory.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// One more suite's kernel, with `modules` beside those for the disk. The first one is booted by QEMU.
    pub fn kernel(mut self, suite: &str, modules: &[&'static str]) -> Self {
        self.suites.push((suite.to_owned(), modules.to_vec()));
        self
    }

    /// A file for the disk.
    pub fn file(self, name: &str, from: &Path) -> Self {
        let to = self.work.join("disk").join(name);
        fs::copy(from, &to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
        self
    }

    /// The kexec of these legs is upstream's, of the usual suite.
    pub fn upstream(mut self) -> Self {
        self.upstream = true;
        self
    }

    /// A program below `root`, for every leg as /bin/NAME; `kexec` is there as `theirs`.
    pub fn program(mut self, root: &Path, program: &str) -> Self {
        self.programs.push([root.to_owned(), root.join(program)]);
        self
    }

    /// What the kernel started as `stage` (letters and digits) does; the end of the script is a reboot.
    pub fn leg(mut self, stage: &str, script: &str) -> Self {
        self.legs.push_str(&format!("{stage})\n{script}\n;;\n"));
        self
    }

    /// What will be on the disk.
    pub fn disk(&self) -> PathBuf {
        self.work.join("disk")
    }

    /// Puts the kernels and their initrds among the disk's files; the legs are complete.
    pub fn made(self) -> Self {
        let script = format!("{BEGIN}case $stage in\n{}esac\n", self.legs);
        for (suite, modules) in &self.suites {
            let kernel = Kernel::of(suite);
            let modules: Vec<&str> = DISK.iter().chain(modules).copied().collect();
            let guest = Guest::new(&kernel, &modules, &script);
            let guest = if self.upstream { guest.tool("kexec") } else { guest.product(&["kexec", "kdump-save"]) };
            let guest = self.programs.iter().fold(guest, |guest, [root, program]| {
                let name = program.file_name().and_then(|n| n.to_str()).expect("a program has a name");
                guest.program(root, program, if name == "kexec" { "theirs" } else { name })
            });
            guest.tool("strace").write_gzip(&self.work.join(format!("{suite}.initrd")));
            fs::rename(self.work.join(format!("{suite}.initrd")), self.disk().join(format!("{suite}.initrd")))
                .expect("move the initrd");
            fs::copy(kernel.vmlinuz(), self.disk().join(format!("{suite}.vmlinuz"))).expect("copy the kernel");
        }
        self
    }

    /// The machine, ready to run: 1 GiB, 2 CPUs.
    pub fn machine(self) -> Machine {
        let (relay, image) = self.finished();
        let [kernel, initrd] = relay.first();
        Machine::new(&relay.name, &relay.work, &kernel).initrd(&initrd).append("stage=first").disk(&image).timeout(300)
    }

    /// The same with a hypervisor below the first kernel, which is its dom0.
    pub fn machine_on(self, xen: &Path, arguments: &str) -> Machine {
        let (relay, image) = self.finished();
        let [kernel, initrd] = relay.first().map(|p| p.display().to_string());
        Machine::new(&relay.name, &relay.work, xen)
            .command_line(arguments)
            .argument("-initrd")
            .argument(&format!("{kernel} console=hvc0 panic=-1 stage=first,{initrd}"))
            .disk(&image)
            .timeout(300)
    }

    fn first(&self) -> [PathBuf; 2] {
        let suite = &self.suites.first().expect("a relay has a kernel").0;
        ["vmlinuz", "initrd"].map(|kind| self.disk().join(format!("{suite}.{kind}")))
    }

    fn finished(self) -> (Self, PathBuf) {
        let relay = if self.first()[1].is_file() { self } else { self.made() };
        let disk = relay.disk();
        let bytes: u64 = fs::read_dir(&disk)
            .expect("the disk's contents")
            .map(|entry| entry.and_then(|e| e.metadata()).expect("a file of the disk").len())
            .sum();
        let image = disk::ext4(&relay.work.join("disk.img"), (bytes >> 20) * 9 / 8 + 16, "relay", Some(&disk));
        (relay, image)
    }
}

/// What the kernel started as `stage` said about `key`.
pub fn said<'a>(outcome: &'a Outcome, stage: &str, key: &str) -> &'a str {
    let value = outcome.value(&format!("LAB-{stage}-{key} "));
    value.unwrap_or_else(|| panic!("nothing about {key} from the kernel '{stage}'\n{}", outcome.tail()))
}

/// Fails the test unless the kernel of `suite` came up as `stage`.
pub fn arrived(outcome: &Outcome, stage: &str, suite: &str) {
    assert_eq!(said(outcome, stage, "RELEASE"), Kernel::of(suite).release, "{}", outcome.tail());
}

/// A relay of the usual kernel alone.
pub fn usual(name: &str) -> Relay {
    Relay::new(name).kernel(SUITE, &[])
}

/// The usual kernel and its initrd, as options.
pub fn usual_kernel() -> String {
    format!("/mnt/{SUITE}.vmlinuz --initrd=/mnt/{SUITE}.initrd")
}

/// Fails the test unless each stage came up, and each but the last was loaded and executed.
pub fn all_arrived(outcome: &Outcome, stages: &[(&str, &str)]) {
    outcome.ended().refuse("EXEC-RETURNED");
    for (stage, suite) in stages {
        arrived(outcome, stage, suite);
    }
}
