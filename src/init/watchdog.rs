//! Keeps a hardware watchdog content that the crashed kernel had started; without that it would reset the machine in
//! the middle of the dump. It is left running: should the reboot hang, it resets the machine after all.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// An open watchdog, or none.
pub struct Watchdog {
    device: Option<File>,
    pinged: Instant,
}

/// Shorter than any timeout in use; the shortest default of a driver is 15 s.
const PERIOD: Duration = Duration::from_secs(5);

impl Watchdog {
    /// Opens the first watchdog if it is running already: opening one that is not would start it.
    pub fn open() -> Self {
        let state = std::fs::read_to_string("/sys/class/watchdog/watchdog0/state").unwrap_or_default();
        let open = || File::options().write(true).open("/dev/watchdog0").ok();
        let device = if state.trim() == "active" { open() } else { None };
        let mut watchdog = Self { device, pinged: Instant::now() };
        watchdog.write();
        watchdog
    }

    /// Tells it that we are alive, if that is due.
    pub fn ping(&mut self) {
        if self.pinged.elapsed() >= PERIOD {
            self.pinged = Instant::now();
            self.write();
        }
    }

    fn write(&mut self) {
        if let Some(device) = &mut self.device
            && let Err(e) = device.write_all(b"\0")
        {
            log::warn!("ping the watchdog: {e}");
            self.device = None;
        }
    }
}
