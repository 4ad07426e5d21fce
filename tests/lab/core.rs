//! Real vmcores without a panic, made once by QEMU's `dump-guest-memory` and kept in the cache.
//!
//! The guest holds some of every kind of page that a dump level names: page cache with and without private
//! data, anonymous memory, huge pages of both kinds, tmpfs, free pages; and [`ORACLE`] as the last line of its log.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{Guest, Kernel, Machine, cache, disk, lock, say};

/// Written to the guest's log last.
pub const ORACLE: &str = "LAB-ORACLE-LAST-LINE 4f2d";

/// Fills memory with pages of every kind; used before a real panic too. Wants a disk at /dev/vda with a
/// file /fill, and /tmp.
pub const FILL: &str = "
mount -t ext4 /dev/vda /mnt && cat /mnt/fill > /dev/null
dd if=/dev/urandom of=/mnt/written bs=1M count=8 2>/dev/null
echo 4 > /proc/sys/vm/nr_hugepages
echo always > /sys/kernel/mm/transparent_hugepage/enabled
dd if=/dev/urandom of=/tmp/random bs=1M count=24 2>/dev/null
dd if=/dev/zero of=/tmp/zero bs=1M count=8 2>/dev/null
mkfifo /tmp/pipe
sleep 10000 < /tmp/pipe &
dd if=/dev/urandom of=/tmp/pipe bs=24M count=1 iflag=fullblock 2>/dev/null &
# Until the process above has its 24 MiB.
for i in $(seq 50); do [ $(sed -n 's/AnonPages: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) -gt 24000 ] && break; sleep 0.2; done
";

/// A vmcore of `kernel` on the CPU model `cpu` (`qemu64`: 4-level paging, `max`: 5-level), 512 MiB.
pub fn vmcore(kernel: &Kernel, cpu: &str) -> PathBuf {
    made(kernel, cpu, "", "elf")
}

/// The same of a kernel with `words` on its command line.
pub fn vmcore_with(kernel: &Kernel, cpu: &str, words: &str) -> PathBuf {
    made(kernel, cpu, words, "elf")
}

/// What the kernel of [`vmcore`] printed on its console until then.
pub fn console(kernel: &Kernel, cpu: &str) -> PathBuf {
    made(kernel, cpu, "", "console")
}

fn made(kernel: &Kernel, cpu: &str, words: &str, which: &str) -> PathBuf {
    let dir = cache().join("core");
    fs::create_dir_all(&dir).expect("make the directory of cores");
    let name = [&kernel.release, cpu, words].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let [core, wanted] = ["elf", which].map(|kind| dir.join(format!("{name}.{kind}")));
    let _made_once = lock(&dir.join("lock"));
    if wanted.is_file() && core.with_extension("console").is_file() {
        return wanted;
    }
    say(&format!("making a vmcore of {name}"));
    let work = super::workdir(&format!("core-{name}"));
    let new = work.join("core.elf");
    let guest = filled(kernel);
    let initrd = guest.write_gzip(&work.join("initrd"));
    let machine = Machine::new(&format!("core-{name}"), &work, &kernel.vmlinuz())
        .append(words)
        .initrd(&initrd)
        .memory(512)
        .cpu(cpu)
        .disk(&fill_disk(&work.join("fill.img")))
        .argument("-device")
        .argument("vmcoreinfo")
        .monitor(READY, &format!("dump-guest-memory {}\nquit", new.display()))
        .timeout(240);
    let outcome = machine.run();
    outcome.ended();
    plain_headers(&new);
    let printed = work.join("core.console");
    fs::write(&printed, &outcome.console).expect("write what it printed");
    // The core last: where it is, its console is too.
    for (from, to) in [(printed, core.with_extension("console")), (new, core)] {
        fs::rename(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect("keep what was made");
    }
    wanted
}

/// What a guest of [`filled`] prints when its memory is as it shall be; then it waits.
pub const READY: &str = "LAB-CORE-READY";

/// A guest that fills its memory. Wants the disk of [`fill_disk`].
pub fn filled(kernel: &Kernel) -> Guest {
    let script = format!(
        "{FILL}\necho '{ORACLE}' > /dev/kmsg\necho {READY} $(grep -E \"MemFree|^Cached|AnonPages|AnonHuge|Shmem:|HugePages_Total\" /proc/meminfo | tr -s \" \\n\" \" \")\nsleep 1000\n"
    );
    Guest::new(kernel, &["virtio_pci", "virtio_blk", "ext4", "qemu_fw_cfg"], &script)
}

/// A disk with a file of 24 MiB to read into the page cache.
pub fn fill_disk(image: &Path) -> PathBuf {
    let contents = image.with_extension("contents");
    fs::create_dir_all(&contents).expect("make the disk's contents");
    let words: Vec<u8> = (0..3u32 << 20).flat_map(|n| (u64::from(n) * 0x9e37_79b9).to_le_bytes()).collect();
    fs::write(contents.join("fill"), words).expect("write the disk's contents");
    disk::ext4(image, 64, "fill", Some(&contents))
}

/// QEMU puts a section header before the program headers; makedumpfile reads program headers at 64 only.
/// So they are moved there, over the section header, which says no more than the program headers do.
fn plain_headers(core: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(core).expect("open the new core");
    let mut head = [0u8; 64];
    file.read_exact_at(&mut head, 0).expect("read the new core's header");
    let phoff = u64::from_le_bytes(head[32..40].try_into().expect("8 bytes"));
    let phnum = u16::from_le_bytes([head[56], head[57]]);
    assert!(phnum > 0 && phnum < 0xffff, "an ordinary number of program headers, not {phnum}");
    let mut table = vec![0u8; usize::from(phnum) * 56];
    file.read_exact_at(&mut table, phoff).expect("read the program headers");
    head[32..40].copy_from_slice(&64u64.to_le_bytes());
    head[40..48].fill(0);
    head[60..64].fill(0);
    file.write_all_at(&head, 0).expect("write the header");
    file.write_all_at(&table, 64).expect("write the program headers");
}
