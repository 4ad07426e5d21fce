//! One boot of one QEMU machine: how it is set up, what it said, how it ended.
//!
//! Software emulation throughout (`-accel tcg`): the same on every host. The guest's reboot ends QEMU
//! (`-no-reboot`), so a run that works always ends by itself.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{SUITE, fetch, machine_lock, say};

/// A machine to be booted once.
pub struct Machine {
    name: String,
    dir: PathBuf,
    kernel: PathBuf,
    initrd: Vec<PathBuf>,
    append: String,
    memory_mib: u32,
    cpus: u32,
    cpu: String,
    timeout: Duration,
    arguments: Vec<OsString>,
    disks: u32,
    monitor: Vec<(String, String)>,
    typed: Vec<(String, Vec<u8>)>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended by itself (the guest rebooted or powered off, or the monitor said quit) with this status.
    Exited(i32),
    /// Its time was up.
    TimedOut,
}

/// What came of a run.
pub struct Outcome {
    name: String,
    /// How it ended.
    pub end: End,
    /// The serial console from first to last byte, carriage returns removed.
    pub console: String,
    /// The file the console was captured to.
    pub log: PathBuf,
    /// From power on to the end.
    pub seconds: f64,
}

impl Machine {
    /// A machine of 1 GiB and 2 CPUs, whose files (console, concatenated initrd) go to `dir`.
    pub fn new(name: &str, dir: &Path, kernel: &Path) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            kernel: kernel.to_owned(),
            initrd: Vec::new(),
            append: "console=ttyS0 panic=-1".to_owned(),
            memory_mib: 1024,
            cpus: 2,
            cpu: "qemu64".to_owned(),
            timeout: Duration::from_secs(180),
            arguments: Vec::new(),
            disks: 0,
            monitor: Vec::new(),
            typed: Vec::new(),
        }
    }

    /// One more part of the initrd: parts are concatenated, as boot loaders do.
    pub fn initrd(mut self, path: &Path) -> Self {
        self.initrd.push(path.to_owned());
        self
    }

    /// More words for the command line, after `console=ttyS0 panic=-1`.
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append);
        self
    }

    /// The whole command line, instead of the usual one.
    pub fn command_line(mut self, line: &str) -> Self {
        self.append = line.to_owned();
        self
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Number of CPUs.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// The CPU model: `qemu64` (4-level paging, the default) or `max` (5-level).
    pub fn cpu(mut self, model: &str) -> Self {
        self.cpu = model.to_owned();
        self
    }

    /// A raw image as a virtio disk: the first is /dev/vda.
    pub fn disk(self, image: &Path) -> Self {
        self.drive(image, "virtio")
    }

    /// A raw image as a disk on another bus (`ide`, or `none` for a device given by [`Machine::argument`]).
    pub fn drive(mut self, image: &Path, bus: &str) -> Self {
        let number = self.disks;
        self.disks += 1;
        let text = format!("file={},if={bus},format=raw,cache=unsafe,id=lab{number}", image.display());
        self.argument("-drive").argument(&text)
    }

    /// The bytes of a file in memory at a physical address, from power on.
    pub fn blob(self, file: &Path, address: u64) -> Self {
        let text = format!("loader,file={},addr={address:#x},force-raw=on", file.display());
        self.argument("-device").argument(&text)
    }

    /// One more word for QEMU itself.
    pub fn argument(mut self, word: &str) -> Self {
        self.arguments.push(word.into());
        self
    }

    /// OVMF as the firmware, with variables of its own.
    pub fn ovmf(mut self) -> Self {
        let firmware = fetch(&["tree", SUITE, "ovmf"]).join("usr/share/OVMF");
        for (file, more) in [("OVMF_CODE.fd", ",readonly=on"), ("OVMF_VARS.fd", "")] {
            let copy = self.dir.join(file);
            fs::copy(firmware.join(file), &copy).unwrap_or_else(|e| panic!("copy {file}: {e}"));
            let drive = format!("if=pflash,format=raw{more},file={}", copy.display());
            self = self.argument("-drive").argument(&drive);
        }
        self
    }

    /// How long it may run.
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// When a console line contains `pattern`, `command` goes to the monitor (once).
    pub fn monitor(mut self, pattern: &str, command: &str) -> Self {
        self.monitor.push((pattern.to_owned(), command.to_owned()));
        self
    }

    /// When a console line contains `pattern`, `keys` are typed on the console (once), slowly enough for a hypervisor.
    pub fn typed(mut self, pattern: &str, keys: &[u8]) -> Self {
        self.typed.push((pattern.to_owned(), keys.to_owned()));
        self
    }

    /// A console that can be typed on is this socket; it lies where paths are short enough for one.
    fn keyboard(&self) -> PathBuf {
        std::env::temp_dir().join(format!("lab-{}-{}", std::process::id(), self.name))
    }

    fn command(&self, log: &Path) -> Command {
        // Should this process die, so must the machine: nothing else would end it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi"]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot", "-monitor", "stdio"]);
        command.args(["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string(), "-cpu", &self.cpu]);
        if self.typed.is_empty() {
            command.arg("-serial").arg(format!("file:{}", log.display()));
        } else {
            let (socket, log) = (self.keyboard(), log.display());
            let text = format!("socket,id=console,path={},server=on,wait=off,logfile={log}", socket.display());
            command.arg("-chardev").arg(text).arg("-serial").arg("chardev:console");
        }
        command.arg("-kernel").arg(&self.kernel).arg("-append").arg(&self.append);
        if !self.initrd.is_empty() {
            let whole = self.dir.join(format!("{}.initrd", self.name));
            let mut bytes = Vec::new();
            for part in &self.initrd {
                bytes.extend(fs::read(part).unwrap_or_else(|e| panic!("read {}: {e}", part.display())));
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            fs::write(&whole, bytes).unwrap_or_else(|e| panic!("write {}: {e}", whole.display()));
            command.arg("-initrd").arg(whole);
        }
        command.args(&self.arguments);
        command
    }

    /// Boots it and waits for its end.
    pub fn run(self) -> Outcome {
        self.run_watched(|_| {})
    }

    /// Boots it, hands each console line to `watch` as it comes, and waits for the end. A kernel that dies under the
    /// emulator before it runs init is booted once more: nothing of the project's has run by then.
    pub fn run_watched(self, mut watch: impl FnMut(&str)) -> Outcome {
        let first = self.boot(&mut watch);
        let has = |text: &str| first.console.contains(text);
        let died =
            first.console.lines().any(|l| l.split_once("] ").is_some_and(|(_, l)| l.starts_with("Kernel panic")));
        if died && !has("as init process") && !has("LAB-") && !has("kdump: ") {
            say(&format!("{:<40} died before init ran: once more\n{}", self.name, first.tail()));
            return self.boot(&mut watch);
        }
        first
    }

    fn boot(&self, watch: &mut impl FnMut(&str)) -> Outcome {
        let log = self.dir.join(format!("{}.log", self.name));
        fs::write(&log, b"").unwrap_or_else(|e| panic!("make {}: {e}", log.display()));
        let said = File::create(self.dir.join(format!("{}.qemu", self.name))).expect("a file for QEMU's own words");
        let mut command = self.command(&log);
        let _one_at_a_time = machine_lock();
        let start = Instant::now();
        let errors = said.try_clone().expect("a second handle");
        let spawned = command.stdin(Stdio::piped()).stdout(said).stderr(errors).spawn();
        let mut child = Running(spawned.unwrap_or_else(|e| panic!("start {command:?}: {e}")));
        let mut console = Console::open(&log);
        let mut monitor = self.monitor.clone();
        let mut typed = self.typed.clone();
        let end = loop {
            let ended = child.0.try_wait().expect("wait for QEMU");
            for line in console.lines() {
                watch(&line);
                monitor.retain(|(pattern, order)| {
                    let now = line.contains(pattern.as_str());
                    if now && let Some(stdin) = child.0.stdin.as_mut() {
                        // A machine that has just ended takes no orders; its console will tell.
                        drop(stdin.write_all(format!("{order}\n").as_bytes()));
                    }
                    !now
                });
                if let Some(at) = typed.iter().position(|(pattern, _)| line.contains(pattern.as_str())) {
                    type_on(&self.keyboard(), &typed.remove(at).1);
                }
            }
            if let Some(status) = ended {
                break End::Exited(status.code().unwrap_or(-1));
            }
            if start.elapsed() > self.timeout {
                break End::TimedOut;
            }
            thread::sleep(Duration::from_millis(100));
        };
        drop(child);
        drop(fs::remove_file(self.keyboard()));
        let seconds = start.elapsed().as_secs_f64();
        let how = if end == End::TimedOut { "TIMED OUT" } else { "ended" };
        say(&format!("{:<40} {how} after {seconds:.1} s", self.name));
        let text = fs::read(&log).unwrap_or_default();
        let console = String::from_utf8_lossy(&text).replace('\r', "");
        Outcome { name: self.name.clone(), end, console, log, seconds }
    }
}

/// Types on a console. What it says meanwhile is in the log: nobody need read it here.
fn type_on(socket: &Path, keys: &[u8]) {
    let mut console = UnixStream::connect(socket).expect("QEMU listens for keys");
    for key in keys {
        console.write_all(&[*key]).expect("type a key");
        thread::sleep(Duration::from_millis(300));
    }
}

/// A QEMU that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The growing log, read line by line.
struct Console {
    file: File,
    rest: Vec<u8>,
}

impl Console {
    fn open(path: &Path) -> Self {
        Self { file: File::open(path).expect("the log was just made"), rest: Vec::new() }
    }

    /// Whole lines that have come since the last call.
    fn lines(&mut self) -> Vec<String> {
        // QEMU truncates the file when it starts; a position past the end would stay there.
        if self.file.metadata().is_ok_and(|m| m.len() < self.file.stream_position().unwrap_or(0)) {
            drop(self.file.seek(SeekFrom::Start(0)));
        }
        drop(self.file.read_to_end(&mut self.rest));
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        String::from_utf8_lossy(&lines).replace('\r', "").lines().map(str::to_owned).collect()
    }
}

impl Outcome {
    /// The first console line that contains `text`.
    pub fn line(&self, text: &str) -> Option<&str> {
        self.console.lines().find(|l| l.contains(text))
    }

    /// What follows `key` on the first line that contains it, trimmed.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.line(key).and_then(|l| l.split_once(key)).map(|(_, v)| v.trim())
    }

    /// The last lines of the console and where the rest is: for failure messages.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.console.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        let qemu = fs::read_to_string(self.log.with_extension("qemu")).unwrap_or_default();
        let qemu: Vec<&str> = qemu.lines().filter(|l| l.contains("qemu-system")).collect();
        format!(
            "--- {}\n{}\n{last}\n--- {:?} after {:.1} s",
            self.log.display(),
            qemu.join("\n"),
            self.end,
            self.seconds
        )
    }

    /// Fails the test unless a console line contains `text`.
    pub fn expect(&self, text: &str) -> &Self {
        assert!(self.line(text).is_some(), "{}: no line '{text}' on the console\n{}", self.name, self.tail());
        self
    }

    /// Fails the test if a console line contains `text`.
    pub fn refuse(&self, text: &str) -> &Self {
        let found = self.line(text).unwrap_or_default();
        assert!(found.is_empty(), "{}: the console has '{found}'\n{}", self.name, self.tail());
        self
    }

    /// Fails the test unless the machine ended by itself, by a reboot, power off or quit.
    pub fn ended(&self) -> &Self {
        assert_eq!(self.end, End::Exited(0), "{}: it did not end by itself\n{}", self.name, self.tail());
        self
    }
}
