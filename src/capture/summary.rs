//! `summary.txt`, beside the dump: one `key: value` a line, rewritten at each stage, so that whoever finds the directory
//! after the reboot knows how far the capture came and why it stopped.
//!
//! `status` is `started`, `dmesg`, `vmcore`, then `complete`, `incomplete` or `failed`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Result};

/// Name of the file.
pub const NAME: &str = "summary.txt";

/// The file's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    lines: Vec<(String, String)>,
}

impl Summary {
    /// Reads what an earlier stage wrote; anything that is no `key: value` line is dropped.
    pub fn parse(text: &str) -> Self {
        let line = |l: &str| l.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned()));
        Self { lines: text.lines().filter_map(line).collect() }
    }

    /// What is in `directory` already, or nothing.
    pub fn read(directory: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(directory.join(NAME)).unwrap_or_default())
    }

    /// Sets `key`, in place if it is there.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        // A value must not forge a line: reasons quote file names and kernel text.
        let value = value.into().replace(['\n', '\r'], " ");
        match self.lines.iter_mut().find(|(k, _)| k == key) {
            Some(line) => line.1 = value,
            None => self.lines.push((key.into(), value)),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|(k, v)| format!("{k}: {v}\n")).collect()
    }

    /// Writes it into `directory` so that there is always one whole summary, the old or the new.
    ///
    /// On a full target there is no room for a new file, but the old one has a block: it is written over in place.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let (new, path) = (directory.join("summary-incomplete.txt"), directory.join(NAME));
        let replace = || {
            let mut file = File::create(&new)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(directory)?.sync_all()
        };
        let over = || {
            // The new file may or may not have come to be.
            let _ = std::fs::remove_file(&new);
            let file = File::options().write(true).open(&path)?;
            file.write_all_at(self.text().as_bytes(), 0)?;
            file.set_len(self.text().len() as u64)?;
            file.sync_all()
        };
        replace().or_else(|_| over()).context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_stage_changes_what_an_earlier_one_wrote() {
        let dir = tempfile::tempdir().expect("dir");
        let mut first = Summary::default();
        first.set("status", "started");
        first.set("kernel", "6.1.0");
        first.write(dir.path()).expect("written");
        let mut second = Summary::read(dir.path());
        second.set("status", "failed");
        second.set("reason", "no room\nstatus: complete");
        second.write(dir.path()).expect("written");
        let text = std::fs::read_to_string(dir.path().join(NAME)).expect("there");
        assert_eq!(text, "status: failed\nkernel: 6.1.0\nreason: no room status: complete\n");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no leftovers");
    }
}
