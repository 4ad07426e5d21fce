//! One stage in a process of its own: started, listened to, ended when its time is up, its children reaped.
//!
//! A stage that hangs in the kernel (a dead disk) can't be killed at all; it is left behind, and init goes on.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use super::watchdog::Watchdog;
use crate::capture::progress::{Message, Patience, Watch};
use crate::error::{Context, Error, Kind, Result, SAVED_DEGRADED, SAVED_RAW};

/// What to start and how long it may take.
pub struct Stage<'a> {
    /// Its name, the value of `--stage`.
    pub name: &'a str,
    /// Its time.
    pub patience: Patience,
    /// Options for it.
    pub arguments: &'a [&'a str],
}

/// How long a killed process may take to go: one that sleeps in the kernel never does.
const DEATH_TIME: Duration = Duration::from_secs(2);
/// How often time and children are looked at while no message comes.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Runs `stage` to its end, whatever end that is; `listen` gets every message.
///
/// # Errors
/// The stage's own reason; or that it was killed ([`Kind::Killed`]), by whom it may have been, or that its time was up.
pub fn supervise(stage: &Stage<'_>, listen: &mut dyn FnMut(&Message)) -> Result<()> {
    log::debug!("stage {}", stage.name);
    let mut child = Command::new("/proc/self/exe")
        .arg0("init")
        .args(["--stage", stage.name])
        .args(stage.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| format!("start the stage '{}'", stage.name))?;
    let pid = Pid::from_child(&child);
    let mut lines = Lines::new(child.stdout.take());
    let mut watch = Watch::new(stage.patience, Instant::now());
    let mut watchdog = Watchdog::open();
    let mut failure = None;
    loop {
        for message in lines.wait() {
            watch.note(&message, Instant::now());
            listen(&message);
            if let Message::Failed(reason) = message {
                failure = Some(reason);
            }
        }
        if let Some(status) = reap(pid) {
            // What it said last may still be in the pipe.
            for message in lines.rest() {
                listen(&message);
                if let Message::Failed(reason) = message {
                    failure = Some(reason);
                }
            }
            return outcome(stage.name, status, failure);
        }
        if let Some(verdict) = watch.verdict(Instant::now()) {
            kill(pid);
            return Err(Error::new(Kind::Timeout, format!("stage '{}' was ended: {verdict}", stage.name)));
        }
        watchdog.ping();
    }
}

/// Reaps everything that has ended; the status of `pid` if it is among them.
fn reap(pid: Pid) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
        if ended == pid {
            found = Some(status);
        }
    }
    found
}

fn kill(pid: Pid) {
    if let Err(e) = kill_process(pid, Signal::KILL) {
        log::error!("end process {pid}: {e}");
    }
    let start = Instant::now();
    while reap(pid).is_none() {
        if start.elapsed() > DEATH_TIME {
            log::error!("process {pid} hangs in the kernel and is left behind");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn outcome(name: &str, status: WaitStatus, failure: Option<String>) -> Result<()> {
    match (status.exit_status(), status.terminating_signal(), failure) {
        (Some(0), _, _) => Ok(()),
        (Some(code), _, None) if (SAVED_DEGRADED.into()..=SAVED_RAW.into()).contains(&code) => {
            log::warn!("stage '{name}' ended with status {code}: what was saved is not what was asked for");
            Ok(())
        }
        (_, _, Some(reason)) => Err(Error::new(Kind::System, reason)),
        (_, Some(9), _) => {
            let cause = "it used more memory than the crash kernel has, or somebody ended it";
            Err(Error::new(Kind::Killed, format!("stage '{name}' was killed (signal 9): {cause}")))
        }
        (_, Some(signal), _) => Err(Error::new(Kind::Killed, format!("stage '{name}' died of signal {signal}"))),
        (code, ..) => Err(Error::new(Kind::System, format!("stage '{name}' ended with status {}", code.unwrap_or(-1)))),
    }
}

/// Messages from the stage's standard output, without ever waiting longer than a tick.
struct Lines {
    pipe: Option<ChildStdout>,
    partial: Vec<u8>,
}

/// Longest line that is kept: reasons are sentences.
const PARTIAL_MAX: usize = 64 << 10;

impl Lines {
    fn new(pipe: Option<ChildStdout>) -> Self {
        Self { pipe, partial: Vec::new() }
    }

    fn wait(&mut self) -> Vec<Message> {
        let Some(pipe) = &self.pipe else {
            std::thread::sleep(Duration::from_millis(20));
            return Vec::new();
        };
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&TICK)) {
            Ok(1) => self.read(),
            _ => Vec::new(),
        }
    }

    /// One read, which does not block after poll said so.
    fn read(&mut self) -> Vec<Message> {
        let mut buffer = [0; 4096];
        let count = self.pipe.as_mut().map_or(0, |p| p.read(&mut buffer).unwrap_or(0));
        if count == 0 {
            self.pipe = None;
        }
        self.partial.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let mut messages = Vec::new();
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            messages.extend(Message::parse(String::from_utf8_lossy(&line).trim_end()));
        }
        if self.partial.len() > PARTIAL_MAX {
            self.partial.clear();
        }
        messages
    }

    /// What is left in the pipe of a process that has ended.
    fn rest(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        while let Some(pipe) = &self.pipe
            && matches!(poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&none)), Ok(1))
        {
            messages.extend(self.read());
        }
        messages
    }
}
