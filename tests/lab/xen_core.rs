//! Vmcores of a crashed Xen, made once and cached: Xen boots a dom0, upstream's kexec loads a crash kernel, dom0
//! panics, and the crash kernel copies its /proc/vmcore to a disk.
//!
//! Upstream's `kexec -p` leaves out dom0's VMCOREINFO, so [`XenCore::with_dom0`] is the same core with that note
//! added: what a loader that knows better leaves behind. That it is one shows Xen 4.14, where upstream's kexec of
//! bookworm says "Cannot load": there ours loads, which adds the note itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::core::{FILL, ORACLE, fill_disk};
use super::{Guest, Kernel, Machine, SUITE, Xen, cache, lock, run, say};

/// A cached core in both forms, and what was known when it was made.
pub struct XenCore {
    /// As upstream's kexec leaves it; of 4.14 as ours does.
    pub plain: PathBuf,
    /// With dom0's VMCOREINFO as one more note.
    pub with_dom0: PathBuf,
    /// The serial console: Xen's and dom0's words up to the crash, then the crash kernel's.
    pub console: PathBuf,
}

/// What the crash kernel does with its one disk, /dev/vdb.
const SAVE: &str = "
echo LAB-VMCORE-SIZE $(stat -c %s /proc/vmcore)
dd if=/proc/vmcore of=/dev/vdb bs=1M && sync && echo LAB-VMCORE-SAVED
";

/// The core of a crash of `suite`'s Xen under the kernel of [`SUITE`]: 1 GiB, two CPUs, dom0 with 384 MiB.
pub fn vmcore(suite: &str) -> XenCore {
    let xen = Xen::of(suite);
    let dir = cache().join("core");
    fs::create_dir_all(&dir).expect("make the directory of cores");
    let of = |what: &str| dir.join(format!("xen-{}-{what}", xen.version));
    let core = XenCore { plain: of("plain.elf"), with_dom0: of("dom0.elf"), console: of("console.log") };
    let _made_once = lock(&dir.join("lock"));
    if core.with_dom0.is_file() {
        return core;
    }
    say(&format!("making a vmcore of Xen {}", xen.version));
    make(&xen, &core);
    core
}

fn make(xen: &Xen, core: &XenCore) {
    let kernel = Kernel::of(SUITE);
    let work = super::workdir(&format!("core-xen-{}", xen.version));
    let modules = ["virtio_pci", "virtio_blk"];
    let crash = Guest::new(&kernel, &modules, SAVE).write_gzip(&work.join("crash.img"));
    let ours = xen.version == "4.14";
    let kexec = if ours { "/sbin/kexec" } else { "/bin/kexec" };
    let script = format!(
        "{FILL}
echo LAB-VMCOREINFO $(cat /sys/kernel/vmcoreinfo)
{kexec} -p /boot/vmlinuz --initrd=/boot/crash.img --append='console=ttyS0 maxcpus=1 irqpoll reset_devices panic=-1'
echo LAB-LOAD $?
echo '{ORACLE}' > /dev/kmsg
grep -E 'MemFree|^Cached|AnonPages|Shmem:' /proc/meminfo
echo c > /proc/sysrq-trigger
"
    );
    let first = Guest::new(&kernel, &["virtio_pci", "virtio_blk", "ext4", "xen-privcmd"], &script);
    let first = if ours { first.product(&["kexec"]) } else { first.tool("kexec") };
    let first = first
        .file("boot/vmlinuz", &kernel.vmlinuz())
        .file("boot/crash.img", &crash)
        .write_gzip(&work.join("first.img"));
    let saved = work.join("saved.img");
    File::create(&saved).and_then(|f| f.set_len(1 << 30)).expect("make the disk for the core");
    let modules = format!("{} console=hvc0 panic=-1,{}", kernel.vmlinuz().display(), first.display());
    let outcome = Machine::new(&format!("core-xen-{}", xen.version), &work, &xen.elf)
        .command_line("console=com1 com1=115200,8n1 loglvl=all dom0_mem=384M,max:384M crashkernel=192M no-real-mode")
        .argument("-initrd")
        .argument(&modules)
        .memory(1024)
        .disk(&fill_disk(&work.join("fill.img")))
        .disk(&saved)
        .timeout(400)
        .run();
    outcome.expect("LAB-VMCORE-SAVED");
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal");
    let size = outcome.value("LAB-VMCORE-SIZE").and_then(|s| s.parse().ok()).expect("the core's size");
    let note: Vec<u64> =
        outcome.value("LAB-VMCOREINFO").expect("where the note is").split_whitespace().map(number).collect();
    File::options().write(true).open(&saved).and_then(|f| f.set_len(size)).expect("cut the disk to the core");
    let copy = |from: &Path, to: &Path| run(Command::new("cp").arg("--sparse=always").args([from, to]));
    copy(&saved, &core.plain);
    fs::copy(&outcome.log, &core.console).expect("keep the console");
    if ours {
        return fs::hard_link(&core.plain, &core.with_dom0).expect("name the core twice");
    }
    let new = work.join("dom0.elf");
    copy(&core.plain, &new);
    add_note(&new, note[0]);
    copy(&new, &core.with_dom0.with_extension("new"));
    fs::rename(core.with_dom0.with_extension("new"), &core.with_dom0).expect("keep the core");
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Adds the note at machine address `at` to the core's notes. They move to its end: their place has no room.
fn add_note(core: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(core).expect("open the core");
    let mut head = vec![0; 4096];
    file.read_exact_at(&mut head, 0).expect("read the headers");
    let phnum = usize::from(head[56]);
    let phdr = |i: usize| &head[64 + i * 56..64 + (i + 1) * 56];
    let load = (1..phnum).map(phdr).find(|p| (u64_at(p, 24)..u64_at(p, 24) + u64_at(p, 32)).contains(&at));
    let load = load.expect("the note is in memory");
    let mut note = vec![0; 4096 - (at % 4096) as usize];
    file.read_exact_at(&mut note, u64_at(load, 8) + at - u64_at(load, 24)).expect("read the note");
    let sizes = [0, 4].map(|i| u32::from_le_bytes(note[i..i + 4].try_into().expect("4 bytes")));
    note.truncate(sizes.iter().fold(12, |n, size| n + size.next_multiple_of(4) as usize));
    assert_eq!(&note[12..22], b"VMCOREINFO", "a note is where /sys/kernel/vmcoreinfo says");
    let (offset, len) = (u64_at(phdr(0), 8), u64_at(phdr(0), 32));
    let mut notes = vec![0; len as usize];
    file.read_exact_at(&mut notes, offset).expect("read the notes");
    notes.extend(note);
    let end = file.metadata().expect("the core").len().next_multiple_of(4096);
    file.write_all_at(&notes, end).expect("write the notes");
    head[64 + 8..64 + 16].copy_from_slice(&end.to_le_bytes());
    for field in [32, 40] {
        head[64 + field..64 + field + 8].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    }
    file.write_all_at(&head[..64 + 56], 0).expect("write the headers");
}
