//! How the machine ends: reboot, power off or halt, each with what is tried when it does not work.
//!
//! Runs in PID 1 when nothing else is left to do. It allocates little and waits for nothing without a bound.

use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the firmware again.
    Reboot,
    /// Turn the power off.
    Poweroff,
    /// Stop the processor and leave the console as it is.
    Halt,
}

impl Action {
    /// The word of `kdump.conf`.
    pub fn parse(word: &str) -> Option<Self> {
        [Action::Reboot, Action::Poweroff, Action::Halt].into_iter().find(|a| a.name() == word)
    }

    /// The word of `kdump.conf`.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Reboot => "reboot",
            Action::Poweroff => "poweroff",
            Action::Halt => "halt",
        }
    }

    const fn command(self) -> RebootCommand {
        match self {
            Action::Reboot => RebootCommand::Restart,
            Action::Poweroff => RebootCommand::PowerOff,
            Action::Halt => RebootCommand::Halt,
        }
    }

    /// The key of `/proc/sysrq-trigger` that does the same without going through device drivers.
    const fn sysrq(self) -> Option<&'static str> {
        match self {
            Action::Reboot => Some("b"),
            Action::Poweroff => Some("o"),
            Action::Halt => None,
        }
    }
}

/// Performs `action` on this machine; only PID 1 may call it, after file systems were synced.
///
/// The ladder: `reboot(2)`; the emergency path of sysrq; a reboot instead; then it returns, and the caller's exit makes
/// the kernel panic, which `panic=` on the command line turns into a reboot.
pub fn perform(action: Action) {
    if let Err(e) = reboot(action.command()) {
        log::error!("{}: {e}; sysrq is tried", action.name());
    }
    // reboot(2) with Halt comes back only if it failed; the others may return while the power supply makes up its mind.
    std::thread::sleep(Duration::from_secs(5));
    for key in [action.sysrq(), Some("b")].into_iter().flatten() {
        if let Err(e) = std::fs::write("/proc/sysrq-trigger", key) {
            log::error!("sysrq-{key}: {e}");
        }
        std::thread::sleep(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_kdump_conf_and_every_action_can_fall_back() {
        for (word, action) in [("reboot", Action::Reboot), ("poweroff", Action::Poweroff), ("halt", Action::Halt)] {
            assert_eq!(Action::parse(word), Some(action));
        }
        assert_eq!(Action::parse("shell"), None);
        assert_eq!([Action::Reboot, Action::Poweroff, Action::Halt].map(Action::sysrq), [Some("b"), Some("o"), None]);
    }
}
