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
    /// A mode that was asked for and is not done, and the later one that counts.
    pub lost: Option<(&'static str, &'static str)>,
}

/// What each mode's option asks for.
const MODES: [(&str, Action); 7] = [
    ("load", Action::Load(After::Rest)),
    ("load-panic", Action::Load(After::Rest)),
    ("load-preserve-context", Action::Load(After::Rest)),
    ("load-jump-back-helper", Action::Load(After::Rest)),
    ("force", Action::Load(After::Exec)),
    ("exec", Action::Exec),
    ("unload", Action::Unload),
];

impl Mode {
    /// From the options as given, left to right, and whether there is a kernel to load.
    pub fn from_given<'a>(given: impl Iterator<Item = &'a str>, kernel: bool) -> Self {
        let mut action = Action::Load(After::Shutdown);
        let mut syscall = Syscall::Auto;
        let (mut crash, mut load, mut status, mut unload) = (false, false, false, false);
        let mut asked: Vec<(&'static str, Action)> = Vec::new();
        for option in given {
            match option {
                "status" => status = true,
                "kexec-file-syscall" => syscall = Syscall::File,
                "kexec-syscall" => syscall = Syscall::Segments,
                "kexec-syscall-auto" => syscall = Syscall::Auto,
                _ => {}
            }
            let Some((name, next)) = MODES.iter().find(|(name, _)| *name == option) else { continue };
            load |= *name == "load";
            crash |= *name == "load-panic";
            unload |= *name == "unload";
            action = *next;
            asked.push((*name, *next));
        }
        // kexec-tools takes '-u -p' for a load without a kernel and fails.
        if unload && !kernel && matches!(action, Action::Load(_)) {
            action = Action::Unload;
        }
        if status {
            // Status asks for the crash kernel unless --load alone is given.
            let slot = if load && !crash { Slot::Next } else { Slot::Crash };
            return Self { action: Action::Status, slot, syscall, lost: None };
        }
        let done = |wanted: Action| match wanted {
            // Loads say more of what to load, and the kernel left out is told where it is named.
            Action::Load(After::Rest | After::Shutdown) | Action::Status => true,
            Action::Exec | Action::Load(After::Exec) => matches!(action, Action::Exec | Action::Load(After::Exec)),
            Action::Unload => action == Action::Unload,
        };
        let lost = asked.iter().find(|(_, wanted)| !done(*wanted)).map(|(name, _)| *name);
        let winner = asked.last().map(|(name, _)| *name);
        let slot = if crash { Slot::Crash } else { Slot::Next };
        Self { action, slot, syscall, lost: lost.zip(winner) }
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
            ("status load load-panic", false, (Status, Crash)),
            ("exec status", true, (Status, Crash)),
            ("load force", true, (Load(After::Exec), Next)),
            ("load load-panic", true, (Load(After::Rest), Crash)),
            ("unload load", true, (Load(After::Rest), Next)),
        ] {
            assert_eq!(mode(given, kernel), expected, "{given}");
        }
    }

    #[test]
    fn a_mode_that_is_overruled_is_told() {
        let lost = |given: &str, kernel| Mode::from_given(given.split_whitespace(), kernel).lost;
        for quiet in ["load exec", "load-panic unload", "force exec", "load force", "exec status", "load load-panic"] {
            assert_eq!(lost(quiet, true), None, "{quiet}");
        }
        assert_eq!(lost("unload load-panic", false), None);
        assert_eq!(lost("exec load", true), Some(("exec", "load")));
        assert_eq!(lost("force load", true), Some(("force", "load")));
        assert_eq!(lost("unload load-panic", true), Some(("unload", "load-panic")));
        assert_eq!(lost("exec unload", false), Some(("exec", "unload")));
    }

    #[test]
    fn the_last_system_call_wins() {
        let syscall = |given: &str| Mode::from_given(given.split_whitespace(), true).syscall;
        assert_eq!(syscall(""), Syscall::Auto);
        assert_eq!(syscall("kexec-file-syscall kexec-syscall"), Syscall::Segments);
        assert_eq!(syscall("kexec-syscall kexec-file-syscall"), Syscall::File);
    }
}
