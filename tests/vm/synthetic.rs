//! A crash without a panic: one kernel is started with `elfcorehdr=` and finds, in memory it does not use itself, the
//! made-up machine of `tests/support`. Its /proc/vmcore is known byte for byte, and a case takes ten seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Kernel, Machine, SUITE, product, run, workdir};
use crate::support::kernel::{Kernel as Crashed, V6_1};
use crate::support::log::{Record, RingShape, ring};
use crate::support::machine::{PAGE, Phdr, ehdr};

/// Where the ELF header lies, above the crash kernel's `mem=`.
pub const HEADER: u64 = 0x1800_0000;
/// What is added to a physical address of the made-up machine to get where its bytes lie.
const SHIFT: u64 = 0x1a00_0000;
/// The last line of the made-up log.
pub const LAST_LINE: &str = "Kernel panic - not syncing: made up";
/// Where the capture puts the dump: host and time of the made-up crash, 2025-11-25 11:00:11 UTC.
pub const DIRECTORY: &str = "/var/crash/host-2025-11-25-11-00-11";

/// One crash to be captured.
pub struct Crash {
    /// The case's directory.
    pub work: PathBuf,
    /// The crash kernel.
    pub kernel: Kernel,
    /// The machine that crashed.
    pub crashed: Crashed,
    name: String,
}

/// The machine of every case: a 6.1 with a name, a log and a time.
fn crashed() -> Crashed {
    let mut crashed = Crashed::new(V6_1, 4);
    let records = [Record::new(1_000_000, "Linux version 6.1.0-made-up"), Record::new(2_000_000, LAST_LINE)];
    ring(&mut crashed, RingShape::default(), &records);
    crashed.info.push_str("CRASHTIME=1764068411\n");
    crashed
}

impl Crash {
    /// A crash of the usual machine, for the case `name`.
    pub fn new(name: &str) -> Self {
        Self { work: workdir(name), kernel: Kernel::of(SUITE), crashed: crashed(), name: name.to_owned() }
    }

    /// Our initramfs for virtio and ext4 on /dev/vda, with more options.
    pub fn image(&self, options: &[&str]) -> PathBuf {
        let image = self.work.join("crash.img");
        let modules = self.kernel.dir.join("lib/modules").join(&self.kernel.release);
        run(Command::new(product())
            .args(["kdump-initramfs", "--target=ext4:/dev/vda", "--drivers=virtio_blk", "--module-dir"])
            .arg(modules)
            .args(options)
            .arg("--output")
            .arg(&image));
        image
    }

    /// The crash kernel, about to find what `header` says; `words` go to its command line.
    pub fn machine(&self, header: &Path, image: &Path, words: &str) -> Machine {
        let line =
            format!("console=ttyS0 elfcorehdr={HEADER:#x} mem=128M reset_devices nr_cpus=1 panic=1 nokaslr {words}");
        let mut machine = Machine::new(&self.name, &self.work, &self.kernel.vmlinuz())
            .initrd(image)
            .command_line(&line)
            .memory(640)
            .cpus(1)
            .timeout(90)
            .blob(header, HEADER);
        for (number, (start, bytes)) in self.memory().into_iter().enumerate() {
            let file = self.work.join(format!("memory{number}.bin"));
            fs::write(&file, bytes).unwrap();
            machine = machine.blob(&file, start + SHIFT);
        }
        machine
    }

    /// The pieces of memory: physical address, bytes.
    fn memory(&self) -> Vec<(u64, Vec<u8>)> {
        let bytes = |(start, end)| -> Vec<u8> {
            (start / PAGE..end / PAGE).flat_map(|pfn| self.crashed.memory.page(pfn)).collect()
        };
        crate::support::kernel::RAM.map(|piece| (piece.0, bytes(piece))).to_vec()
    }

    /// The ELF header as kexec would have left it: offsets are addresses of this machine, `p_paddr` those of the crashed one.
    pub fn header(&self) -> PathBuf {
        let core = self.crashed.core();
        let len = core.notes.len() as u64;
        let notes = Phdr { kind: 4, offset: HEADER + PAGE, vaddr: 0, paddr: HEADER + PAGE, filesz: len, memsz: len };
        let load = |(start, end, vaddr): &(u64, u64, u64)| {
            let size = end - start;
            Phdr { kind: 1, offset: start + SHIFT, vaddr: *vaddr, paddr: *start, filesz: size, memsz: size }
        };
        let phdrs: Vec<Phdr> = std::iter::once(notes).chain(core.loads.iter().map(load)).collect();
        let mut header = ehdr(64, phdrs.len() as u16);
        header.extend(phdrs.iter().flat_map(Phdr::bytes));
        header.resize(PAGE as usize, 0);
        header.extend(&core.notes);
        self.blob("header.bin", &header)
    }

    /// A file of the case.
    pub fn blob(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.work.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}
