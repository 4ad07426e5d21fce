//! `estimate --measure`: boots kernel and initramfs in QEMU, crashes it, and finds the smallest reservation that captured.
//!
//! The first kernel's initramfs is our own binary, kernel and initramfs; it loads them as `kexec -p` does and writes
//! `c` to `/proc/sysrq-trigger` ([`crash_here`]).

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::capture::actions::{self, Action};
use crate::error::{Context, Error, Kind, Result};
use crate::initramfs::cpio::{self, Entry, Node};
use crate::mem::MIB;

const QEMU: &str = "qemu-system-x86_64";
/// Reservations that are tried are multiples of this.
const STEP: u64 = 4 * MIB;
/// How long a machine may take, software emulation on a busy host included.
const PATIENCE: Duration = Duration::from_secs(300);
/// Memory of the machine that crashes, MiB.
const MEMORY_MIB: u64 = 1024;
/// The crash kernel's command line, as the README has it.
const APPEND: &str = "console=ttyS0 reset_devices nr_cpus=1 irqpoll panic=-1 rootfstype=ramfs";
/// Where our own capture puts the dump in the machine.
const TARGET: &str = "kdump.target=ext4:/dev/vda kdump.path=/";
/// What the console has where a crash kernel ran out of memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["Out of memory", "deadlocked on memory", "Initramfs unpacking failed", "page allocation failure"];

/// A pair to be measured.
pub struct Pair<'a> {
    /// The kernel, of the first and of the crash kernel.
    pub kernel: &'a Path,
    /// The crash initramfs.
    pub initramfs: &'a Path,
    /// Whether it is ours, so that what its console must say is known.
    pub ours: bool,
    /// More words for the crash kernel.
    pub append: &'a str,
}

/// The smallest reservation that captured, bytes, in steps of 4 MiB, looked for around `expected`.
///
/// # Errors
/// [`Kind::Missing`] without QEMU or `mkfs.ext4`; [`Kind::Invalid`] where no reservation captures.
pub fn smallest(pair: &Pair<'_>, expected: u64, tell: &mut dyn FnMut(u64, bool)) -> Result<u64> {
    let dir = std::env::temp_dir().join(format!("crashkernel-check-{}", std::process::id()));
    fs::create_dir(&dir).context(|| format!("make {}", dir.display()))?;
    let found = prepare(pair, &dir).and_then(|()| bisect(pair, &dir, expected, tell));
    let _ = fs::remove_dir_all(&dir);
    found
}

/// The first kernel's initramfs.
fn prepare(pair: &Pair<'_>, dir: &Path) -> Result<()> {
    let file = |path: &str, from: &Path| {
        let data = fs::read(from).context(|| format!("read {}", from.display()))?;
        Ok(Entry { path: path.into(), node: Node::File(data), mode: 0o755 })
    };
    let node = |path: &str, node| Entry { path: path.into(), node, mode: 0o755 };
    let entries = [
        node("dev", Node::Dir),
        node("dev/console", Node::Char(5, 1)),
        node("proc", Node::Dir),
        node("sys", Node::Dir),
        file("kdumpbox", &PathBuf::from("/proc/self/exe"))?,
        file("kernel", pair.kernel)?,
        file("initrd", pair.initramfs)?,
    ];
    let path = dir.join("first");
    fs::write(&path, cpio::archive(&entries)?).context(|| format!("write {}", path.display()))
}

fn bisect(pair: &Pair<'_>, dir: &Path, expected: u64, tell: &mut dyn FnMut(u64, bool)) -> Result<u64> {
    let mut captures = |bytes: u64| -> Result<bool> {
        let captured = boot(pair, dir, bytes)?;
        tell(bytes, captured);
        Ok(captured)
    };
    let mut good = expected.saturating_add(expected / 4).next_multiple_of(STEP);
    while !captures(good)? {
        good = good.saturating_mul(2);
        if good > MEMORY_MIB.saturating_mul(MIB) / 2 {
            let text = "no reservation up to half of a machine of 1 GiB captures: does the initramfs have the driver \
                        virtio_blk and what ext4 needs?";
            return Err(Error::new(Kind::Invalid, text));
        }
    }
    let mut bad = (expected.saturating_sub(expected / 4) / STEP).saturating_mul(STEP);
    while good.saturating_sub(bad) > STEP {
        let middle = (good.saturating_add(bad) / 2 / STEP).saturating_mul(STEP);
        if captures(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

/// Whether a crash is captured in a machine with this reservation.
fn boot(pair: &Pair<'_>, dir: &Path, bytes: u64) -> Result<bool> {
    let (console, disk) = (dir.join("console"), dir.join("disk"));
    drop(fs::remove_file(&disk));
    let file = File::create(&disk).context(|| format!("make {}", disk.display()))?;
    file.set_len(MEMORY_MIB.saturating_mul(MIB)).context(|| format!("size {}", disk.display()))?;
    let mut mkfs = Command::new("mkfs.ext4");
    run(mkfs.arg("-q").arg("-F").arg(&disk), "mkfs.ext4", "e2fsprogs")?;
    let target = if pair.ours { TARGET } else { "" };
    let line = format!(
        "console=ttyS0 panic=-1 rdinit=/kdumpbox crashkernel={}M -- crashkernel-check crash-here {APPEND} {target} {}",
        bytes / MIB,
        pair.append
    );
    let mut qemu = Command::new(QEMU);
    // A KVM that is there need not work, below another hypervisor above all.
    qemu.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-m"]);
    qemu.arg(MEMORY_MIB.to_string()).arg("-serial").arg(format!("file:{}", console.display()));
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache.no-flush=on", disk.display()));
    qemu.arg("-kernel").arg(pair.kernel).arg("-initrd").arg(dir.join("first")).arg("-append").arg(line);
    run(&mut qemu, QEMU, "qemu-system-x86")?;
    let said = fs::read(&console).context(|| format!("read {}", console.display()))?;
    let said = String::from_utf8_lossy(&said);
    let crashed = said.matches("Linux version ").count() > 1;
    let saved =
        if pair.ours { said.contains("kdump: saved ") } else { !OUT_OF_MEMORY.iter().any(|s| said.contains(s)) };
    Ok(crashed && saved)
}

/// Runs it to its end, or to that of our patience.
fn run(command: &mut Command, name: &str, package: &str) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .context(|| format!("start {name}"))
        .map_err(|e| if e.kind() == Kind::Missing { e.with_hint(format!("install {package}")) } else { e })?;
    let start = Instant::now();
    loop {
        if child.try_wait().context(|| format!("wait for {name}"))?.is_some() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// PID 1 of the machine that is to crash: loads the crash kernel with `words` as its command line, and panics.
///
/// # Errors
/// [`Kind::Usage`] in any other process, which it leaves alone.
pub fn crash_here(words: &[OsString]) -> Result<u8> {
    if !rustix::process::getpid().is_init() {
        return Err(Error::new(Kind::Usage, "crash-here is for PID 1 of the machine that 'estimate --measure' boots"));
    }
    for (fs, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = rustix::mount::mount(fs, at, fs, rustix::mount::MountFlags::empty(), None);
    }
    let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    let append = format!("--append={}", words.join(" "));
    let args = ["-p", "/kernel", "--initrd=/initrd", &append].map(OsString::from);
    let _ = crate::cli::kexec::run(&args);
    let _ = fs::write("/proc/sysrq-trigger", "c");
    // Only where nothing was loaded.
    actions::perform(Action::Reboot);
    Ok(1)
}
