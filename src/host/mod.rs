//! What this machine is, read from `/proc` and `/sys` below a root directory that tests and `--root` replace.
//!
//! Absent, present and broken are three outcomes: `Result<Option<T>>` throughout.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod efi;
pub mod firmware;
pub mod iomem;
pub mod kcore;
pub mod machine;
pub mod notes;
pub mod state;
pub mod xen;

pub use machine::Machine;

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// Files of a machine, live (`/`) or recorded.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine whose `/proc` and `/sys` are below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether this is the running machine, not a recording.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `name` (`proc/iomem`) is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// Whatever reading it fails with, apart from absence.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(Error::io(&e, format!("read {}", path.display()))),
        }
    }

    /// The file's text, without white space at its ends.
    ///
    /// # Errors
    /// As [`Host::read`], or [`Kind::Invalid`] if it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(_) => Err(Error::new(Kind::Invalid, format!("{} is not text", self.path(name).display()))),
        }
    }

    /// The number in a file, as C's `strtoull(…, 0)` reads it.
    ///
    /// # Errors
    /// As [`Host::text`], or [`Kind::Invalid`] if it is no number.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match parse_number(&text) {
            Some(n) => Ok(Some(n)),
            None => {
                let path = self.path(name);
                Err(Error::new(Kind::Invalid, format!("{} holds '{text}', not a number", path.display())))
            }
        }
    }

    /// Names in a directory that end in a number behind `prefix`, with that number, ascending (`cpu0`, `cpu2`, `cpu10`).
    ///
    /// # Errors
    /// Whatever reading the directory fails with, apart from absence.
    pub fn numbered(&self, dir: &str, prefix: &str) -> Result<Vec<(u64, String)>> {
        let path = self.path(dir);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&e, format!("read {}", path.display()))),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&e, format!("read {}", path.display())))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(prefix).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
            if let Some(number) = number.and_then(|n| n.parse().ok()) {
                found.push((number, format!("{dir}/{name}")));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn absent(e: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO | Errno::OPNOTSUPP)
    )
}

/// A number in C syntax: `0x10`, `16`, `020`.
pub fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_valid_and_broken_are_three_outcomes() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        std::fs::write(dir.path().join("good"), "0x20\n").expect("written");
        std::fs::write(dir.path().join("bad"), "zz\n").expect("written");
        assert_eq!(host.number("good").expect("reads"), Some(32));
        assert_eq!(host.number("none").expect("absent"), None);
        assert_eq!(host.number("good/deeper").expect("absent"), None);
        assert!(host.number("bad").expect_err("broken").to_string().ends_with("bad holds 'zz', not a number"));
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["cpu10", "cpu2", "cpuidle", "cpu0", "cpu"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
        }
        let found = Host::new(dir.path()).numbered("", "cpu").expect("reads");
        assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 2, 10]);
    }
}
