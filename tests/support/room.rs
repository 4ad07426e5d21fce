//! A directory with a core in it.

use std::path::PathBuf;

use super::kernel::Kernel;

/// `core` in a directory of its own, which goes with it.
pub struct Room {
    pub dir: tempfile::TempDir,
    pub kernel: Kernel,
}

impl Room {
    pub fn new(kernel: Kernel) -> Self {
        let room = Self { dir: tempfile::tempdir().expect("a directory"), kernel };
        room.kernel.core().save(&room.path("core"));
        room
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
