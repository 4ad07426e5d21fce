//! One error type for the whole house: a chain of sentences, outermost first, the errno of the
//! system call that started it, and what kind of failure it is. The kind alone decides the exit code.

use std::fmt;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it. Exit codes and fallbacks look at nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// A file named by the user can't be opened.
    Open,
    /// A file or an interface holds something that breaks its format's rules.
    Invalid,
    /// The output exists and overwriting was not asked for.
    Exists,
    /// The target has no room left.
    NoSpace,
    /// A device, a file system or a symbol that must be there is not.
    Missing,
    /// The caller lacks the privilege, or the system forbids the operation.
    Denied,
    /// The kernel has no memory reserved for a crash kernel.
    NoReservation,
    /// The kernel lacks the system call.
    NoSyscall,
    /// Nothing is loaded that could be executed.
    NotLoaded,
    /// A deadline passed.
    Timeout,
    /// A process died of a signal.
    Killed,
    /// Two files are of different kernels.
    WrongRelease,
    /// A system call failed for another reason.
    System,
}

/// Exit code of a save that kept more pages than asked for: struct pages could not be (all) read.
pub const SAVED_DEGRADED: u8 = 8;
/// Exit code of a save whose dump stays marked incomplete: the vmcore itself is cut.
pub const SAVED_INCOMPLETE: u8 = 9;
/// Exit code of a save whose vmcore was copied as it is: no dump could be made of it.
pub const SAVED_RAW: u8 = 10;

impl Kind {
    /// Exit code of `kexec` (kexec-tools' table: 1 usage or open, 253 no system call, 254 no reservation, 255 the rest).
    pub const fn kexec_code(self) -> u8 {
        match self {
            Kind::Usage | Kind::Open => 1,
            Kind::NoSyscall => 253,
            Kind::NoReservation => 254,
            _ => 255,
        }
    }

    /// Exit code of `kdump-save` and of `init`'s capture; beside these 0, [`SAVED_DEGRADED`], [`SAVED_INCOMPLETE`]
    /// and [`SAVED_RAW`].
    pub const fn save_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Open | Kind::Missing => 3,
            Kind::Invalid => 4,
            Kind::Exists => 5,
            Kind::NoSpace => 6,
            Kind::Timeout => 7,
            _ => 1,
        }
    }
}

/// A failure: what was being done, what was wrong with which value, and what to do about it.
#[derive(Clone)]
pub struct Error {
    chain: Vec<String>,
    kind: Kind,
    errno: Option<i32>,
}

impl Error {
    /// A failure of `kind`, told in one sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { chain: vec![message.into()], kind, errno: None }
    }

    /// A failed system call; the kind follows from the errno.
    pub fn errno(errno: rustix::io::Errno, message: impl Into<String>) -> Self {
        use rustix::io::Errno;
        let kind = match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Kind::NoSpace,
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO => Kind::Missing,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Kind::Denied,
            Errno::EXIST => Kind::Exists,
            Errno::NOSYS => Kind::NoSyscall,
            Errno::TIMEDOUT => Kind::Timeout,
            _ => Kind::System,
        };
        let raw = errno.raw_os_error();
        let text = std::io::Error::from_raw_os_error(raw).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
        Self { chain: vec![message.into(), text], kind, errno: Some(raw) }
    }

    /// A failed operation of the standard library.
    pub fn io(error: &std::io::Error, message: impl Into<String>) -> Self {
        match rustix::io::Errno::from_io_error(error) {
            Some(errno) => Self::errno(errno, message),
            None => Self { chain: vec![message.into(), error.to_string()], kind: Kind::System, errno: None },
        }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same failure seen as another kind (an absent *input* is [`Kind::Open`], not [`Kind::Missing`]).
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The errno behind the failure, if a system call reported one.
    pub fn raw_errno(&self) -> Option<i32> {
        self.errno
    }

    /// Adds the cause or the remedy behind the rest.
    pub fn with_hint(mut self, hint: impl AsRef<str>) -> Self {
        if let Some(last) = self.chain.last_mut() {
            last.push_str("; ");
            last.push_str(hint.as_ref());
        }
        self
    }

    /// Puts the sentence that says what was being done in front.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        self.chain.insert(0, message.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.kind)
    }
}

impl std::error::Error for Error {}

/// Adds to an error what was being done when it happened.
pub trait Context<T> {
    /// The sentence is made only on failure.
    fn context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(message()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(&e, message()))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::errno(e, message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_outermost_first_and_never_repeats_the_cause() {
        let e = Error::errno(rustix::io::Errno::NOENT, "open /boot/vmlinuz").context("load kernel");
        assert_eq!(e.to_string(), "load kernel: open /boot/vmlinuz: No such file or directory");
        assert_eq!((e.kind(), e.raw_errno()), (Kind::Missing, Some(2)));
    }

    #[test]
    fn kexec_codes_are_those_of_kexec_tools() {
        let codes = [Kind::Usage, Kind::Open, Kind::NoSyscall, Kind::NoReservation, Kind::NotLoaded, Kind::Invalid];
        assert_eq!(codes.map(Kind::kexec_code), [1, 1, 253, 254, 255, 255]);
    }
}
