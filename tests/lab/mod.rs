//! The laboratory: real kernels in throw-away QEMU machines, and other people's tools to judge by.
//!
//! A test target takes it in with `#[path = "../lab/mod.rs"] mod lab;` (or `"lab/mod.rs"`). What is in it:
//!
//! * [`Kernel`]: a distribution's kernel with its modules, unpacked from its package;
//! * [`Xen`]: a distribution's hypervisor; [`uki`]: unified kernel images;
//! * [`Guest`]: a root file system for a first kernel: busybox, programs with their libraries, modules,
//!   a script; written as a newc archive by [`cpio::Archive`];
//! * [`Machine`]: one boot: kernel, initrd parts, command line, memory, disks, blobs placed in memory,
//!   monitor commands sent when a line appears on the serial console; [`Outcome`] holds what came of it;
//! * [`disk`]: ext4 images made and read back without mounting anything;
//! * [`core::vmcore`]: real vmcores, made once by QEMU and cached; [`ram::vmcore`]: of machines larger than this one;
//! * [`product`]: our own release binary; [`tool`]: upstream's programs, run under their own libraries.
//!
//! Everything fetched lives below `KDUMPBOX_CACHE` (`target/cache` by default); `tests/lab/fetch` says how.
//! One QEMU runs at a time: a lock in the cache, or the file that `KDUMPBOX_LOCK` names. Every wait is bounded.

pub mod core;
pub mod cpio;
pub mod disk;
pub mod dracut;
mod guest;
mod kernel;
mod machine;
pub mod ram;
pub mod uki;
pub mod xen;
pub mod xen_core;

pub use guest::Guest;
pub use kernel::Kernel;
pub use machine::{End, Machine, Outcome};
pub use xen::Xen;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The suite whose kernel and tools are used unless a test names another.
pub const SUITE: &str = "bookworm";

/// One line of progress, past the test harness's capture.
pub fn say(line: &str) {
    drop(writeln!(io::stderr(), "lab: {line}"));
}

/// The checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where fetched and made things are kept between runs.
pub fn cache() -> PathBuf {
    let dir = std::env::var_os("KDUMPBOX_CACHE").map_or_else(|| checkout().join("target/cache"), PathBuf::from);
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
    fs::canonicalize(&dir).unwrap_or_else(|e| panic!("resolve {}: {e}", dir.display()))
}

/// An empty directory for one case; it stays after the run, to be looked at.
pub fn workdir(case: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(case);
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
    dir
}

/// Runs `tests/lab/fetch ARGS...` and returns the directory it names.
pub fn fetch(args: &[&str]) -> PathBuf {
    let mut command = Command::new(checkout().join("tests/lab/fetch"));
    command.args(args).env("KDUMPBOX_CACHE", cache()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().unwrap_or_else(|e| panic!("start tests/lab/fetch: {e}"));
    assert!(output.status.success(), "tests/lab/fetch {} failed: {}", args.join(" "), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    PathBuf::from(text.trim().lines().last().unwrap_or_default())
}

/// A command that runs one of upstream's programs (`kexec`, `makedumpfile`, `vmcore-dmesg`, `strace`).
pub fn tool(name: &str) -> Command {
    tool_of(SUITE, name)
}

/// The same from another suite: each knows the kernels of its time.
pub fn tool_of(suite: &str, name: &str) -> Command {
    let mut command = Command::new(fetch(&["tools", suite]).join("bin").join(name));
    command.stdin(Stdio::null());
    command
}

/// A command that runs drgn's Python.
pub fn drgn() -> Command {
    let mut command = Command::new(fetch(&["drgn"]).join("bin/python"));
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; a failure shows what it said.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

/// Our own program as users get it: the release binary, built on first use.
pub fn product() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            run(Command::new(env!("CARGO"))
                .current_dir(checkout())
                .args(["build", "--release", "--quiet"])
                .stdin(Stdio::null()));
            // Beside the directory of the test's own profile, wherever CARGO_TARGET_DIR puts both.
            let debug = Path::new(env!("CARGO_BIN_EXE_kdumpbox"));
            let built = debug.parent().and_then(Path::parent).map(|d| d.join("release/kdumpbox"));
            built.filter(|p| p.is_file()).expect("cargo build --release left no binary beside the debug one")
        })
        .clone()
}

/// Waits for this file's lock; it is let go with the returned file. Bounded: half an hour.
pub fn lock(path: &Path) -> File {
    let file = File::create(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return file,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => panic!("lock {}: {e}", path.display()),
        }
        assert!(start.elapsed() < Duration::from_secs(1800), "{} has been locked for half an hour", path.display());
        thread::sleep(Duration::from_millis(200));
    }
}

/// A command that runs `program` while it holds the lock of QEMU, which it starts by itself.
pub fn in_turn(program: &Path) -> Command {
    let path = std::env::var_os("KDUMPBOX_LOCK").map_or_else(|| cache().join("qemu.lock"), PathBuf::from);
    let mut command = Command::new("flock");
    command.arg(path).arg(program).stdin(Stdio::null());
    command
}

/// The lock whose holder may run QEMU.
fn machine_lock() -> File {
    let path = std::env::var_os("KDUMPBOX_LOCK").map_or_else(|| cache().join("qemu.lock"), PathBuf::from);
    lock(&path)
}
