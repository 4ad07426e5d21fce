//! The modes of `kexec`: the order of options decides, as in kexec-tools, save where that loses work silently.

use crate::load::Slot;
use crate::load::linux::Syscall;

/// What one invocation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell by the exit code whether something is loaded.
    Status,
    /// Drop what is loaded.
    Unload,
    /// Start what is loaded.
    Exec,
    /// Load a kernel.
    Load(After),
}

/// What follows a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Rest,
    /// The kernel is started at once.
    Exec,
    /// The machine is shut down into it.
    Shutdown,
}

/// What the options come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What to do.
    pub action: Action,
    /// To which image.
    pub slot: Slot,
    /// By which system call.
    pub syscall: Syscall,
}

impl Mode {
    /// From the options as given, left to right, and whether there is a kernel to load.
    pub fn from_given<'a>(given: impl Iterator<Item = &'a str>, kernel: bool) -> Self {
        let mut action = Action::Load(After::Shutdown);
        let mut syscall = Syscall::Auto;
        let (mut crash, mut load, mut status, mut unload) = (false, false, false, false);
        for option in given {
            match option {
                "load" => (action, load) = (Action::Load(After::Rest), true),
                "load-panic" => (action, crash) = (Action::Load(After::Rest), true),
                "force" => action = Action::Load(After::Exec),
                "exec" => action = Action::Exec,
                "unload" => (action, unload) = (Action::Unload, true),
                "status" => status = true,
                "kexec-file-syscall" => syscall = Syscall::File,
                "kexec-syscall" => syscall = Syscall::Segments,
                "kexec-syscall-auto" => syscall = Syscall::Auto,
                _ => {}
            }
        }
        // kexec-tools takes '-u -p' for a load without a kernel and fails.
        if unload && !kernel && matches!(action, Action::Load(_)) {
            action = Action::Unload;
        }
        if status {
            // Status asks for the crash kernel unless --load is given.
            return Self { action: Action::Status, slot: if load { Slot::Next } else { Slot::Crash }, syscall };
        }
        Self { action, slot: if crash { Slot::Crash } else { Slot::Next }, syscall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(given: &str, kernel: bool) -> (Action, Slot) {
        let mode = Mode::from_given(given.split_whitespace(), kernel);
        (mode.action, mode.slot)
    }

    #[test]
    fn the_last_mode_wins() {
        use Action::*;
        use Slot::*;
        for (given, kernel, expected) in [
            ("", true, (Load(After::Shutdown), Next)),
            ("load", true, (Load(After::Rest), Next)),
            ("force", true, (Load(After::Exec), Next)),
            ("exec", false, (Exec, Next)),
            ("load exec", true, (Exec, Next)),
            ("exec load", true, (Load(After::Rest), Next)),
            ("load-panic", true, (Load(After::Rest), Crash)),
            ("load-panic unload", false, (Unload, Crash)),
            ("unload load-panic", false, (Unload, Crash)),
            ("unload", false, (Unload, Next)),
            ("status", false, (Status, Crash)),
            ("status load", false, (Status, Next)),
            ("exec status", true, (Status, Crash)),
        ] {
            assert_eq!(mode(given, kernel), expected, "{given}");
        }
    }

    #[test]
    fn the_last_system_call_wins() {
        let syscall = |given: &str| Mode::from_given(given.split_whitespace(), true).syscall;
        assert_eq!(syscall(""), Syscall::Auto);
        assert_eq!(syscall("kexec-file-syscall kexec-syscall"), Syscall::Segments);
        assert_eq!(syscall("kexec-syscall kexec-file-syscall"), Syscall::File);
    }
}
