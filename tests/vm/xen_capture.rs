//! A crash of Xen from its load to the disk with nothing but ours: our kexec loads the crash kernel in dom0, our init
//! saves in it. What is on the disk is compared with the machine's memory as QEMU saw it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::lab::core::{FILL, ORACLE, fill_disk};
use crate::lab::{Guest, Kernel, Machine, Outcome, SUITE, Xen, disk, workdir};
use crate::panic::our_image;
use crate::support::kdump::{Kdump, Page};

/// The machine's memory.
const MEMORY_MIB: u32 = 1024;
const PAGE: u64 = 4096;
/// What the crash kernel overwrites, so that QEMU sees other bytes there: its first MiB, which was saved before.
const OVERWRITTEN: u64 = 0x100;

/// What a capture left behind.
pub struct Captured {
    pub outcome: Outcome,
    pub work: PathBuf,
    /// Copies of the saved files, by name.
    files: Vec<String>,
    target: PathBuf,
    /// All of physical memory while the crash kernel ran.
    pub memory: PathBuf,
}

impl Captured {
    /// The one saved file of this name, copied out of the target.
    pub fn file(&self, name: &str) -> PathBuf {
        let found: Vec<&String> = self.files.iter().filter(|f| f.ends_with(&format!("/{name}"))).collect();
        assert_eq!(found.len(), 1, "one file {name} was wanted of {:?}\n{}", self.files, self.outcome.tail());
        disk::copy_out(&self.target, found[0], &self.work.join(name))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|e| panic!("{name} is no text: {e}"))
    }
}

/// Boots `suite`'s Xen and a dom0 of 384 MiB, which loads our crash image by our kexec and panics.
pub fn capture(name: &str, suite: &str, collector: &str) -> Captured {
    let (xen, kernel, work) = (Xen::of(suite), Kernel::of(SUITE), workdir(name));
    let config = format!("ext4 LABEL=target\npath /var/crash\ncore_collector {collector}\n");
    let image = our_image(&kernel, &work, &config, &[]);
    let script = format!(
        "{FILL}
kexec -p /boot/vmlinuz --initrd=/boot/crash.img --console-serial \
    --append='console=ttyS0 reset_devices nr_cpus=1 irqpoll panic=-1 rootfstype=ramfs'
echo LAB-LOAD $?
kexec -p -S
echo LAB-LOADED $?
echo '{ORACLE}' > /dev/kmsg
echo c > /proc/sysrq-trigger
"
    );
    let first = Guest::new(&kernel, &["virtio_pci", "virtio_blk", "ext4", "xen-privcmd"], &script)
        .product(&["kexec"])
        .file("boot/vmlinuz", &kernel.vmlinuz())
        .file("boot/crash.img", &image)
        .write_gzip(&work.join("first.img"));
    let target = disk::ext4(&work.join("target.img"), 256, "target", None);
    let memory = work.join("memory.raw");
    let save = format!("pmemsave 0 {:#x} \"{}\"", u64::from(MEMORY_MIB) << 20, memory.display());
    let outcome = Machine::new(name, &work, &xen.elf)
        .command_line("console=com1 com1=115200,8n1 loglvl=all dom0_mem=384M,max:384M crashkernel=192M no-real-mode")
        .argument("-initrd")
        .argument(&format!("{} console=hvc0 panic=-1,{}", kernel.vmlinuz().display(), first.display()))
        .memory(MEMORY_MIB)
        .disk(&fill_disk(&work.join("fill.img")))
        .disk(&target)
        .monitor("(ext4) mounted", &save)
        .timeout(400)
        .run();
    outcome.ended().expect("LAB-LOAD 0").expect("LAB-LOADED 1").refuse("Attempted to kill init");
    let files = disk::files(&target);
    Captured { outcome, work, files, target, memory }
}

/// The last line of the hypervisor on the console is the last in the file, and says what happened.
fn check_console(captured: &Captured) {
    let text = captured.text("xen-console.txt");
    let last = |text: &str| text.lines().rfind(|l| l.starts_with("(XEN)")).map(str::to_owned);
    assert_eq!(last(&text), last(&captured.outcome.console), "Xen's last words");
    assert!(text.contains("Hardware Dom0 crashed"), "{text}");
}

fn check_summary(captured: &Captured, xen: &Xen) {
    let summary = captured.text("summary.txt");
    let value = |key: &str| summary.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": ")).unwrap_or_default();
    assert_eq!(value("status"), "complete", "{summary}");
    assert!(value("xen").starts_with(&format!("Xen {}", xen.version)), "{summary}");
    assert!(value("xen").contains("not tainted") && value("xen").ends_with("control registers of 2 CPUs"), "{summary}");
    for cpu in ["xen-cpu-0", "xen-cpu-1"] {
        // In the hypervisor: both were stopped there.
        assert!(value(cpu).starts_with("rip 0xffff82d0") && value(cpu).contains("cr3 0x"), "{summary}");
    }
    assert!(value("xen-console").ends_with(" bytes") && value("dmesg").contains(" records"), "{summary}");
}

/// Every page that the dump has is what memory holds. Returns how many there are.
pub fn check_pages(dump: &Path, memory: &Path) -> u64 {
    let (dump, memory) = (Kdump::open(dump), File::open(memory).expect("QEMU saved memory"));
    let mut page = vec![0; PAGE as usize];
    let kept = dump.kept();
    for (index, pfn) in kept.iter().enumerate().filter(|(_, pfn)| **pfn >= OVERWRITTEN) {
        memory.read_exact_at(&mut page, pfn * PAGE).expect("memory reaches that far");
        assert!(dump.by_index(index, *pfn) == Page::Data(page.clone()), "{pfn:#x} has other bytes than memory");
    }
    kept.len() as u64
}

/// One capture, everything looked at.
pub fn case(suite: &str) {
    let xen = Xen::of(suite);
    let captured = capture(&format!("xen-capture-{}", xen.version), suite, "makedumpfile -c -X -d 31");
    assert!(!captured.files.iter().any(|f| f.contains("incomplete")), "{:?}", captured.files);
    let log = captured.text("vmcore-dmesg.txt");
    for wanted in [ORACLE, "Kernel panic - not syncing: sysrq triggered crash", &Kernel::of(SUITE).release] {
        assert!(log.contains(wanted), "dom0's log lacks '{wanted}':\n{log}");
    }
    check_console(&captured);
    check_summary(&captured, &xen);
    let kept = check_pages(&captured.file("vmcore"), &captured.memory);
    assert!((5_000..60_000).contains(&kept), "{kept} pages are kept, zeros included");
    fs::remove_file(&captured.memory).expect("a GiB less");
}
