//! A directory with a core in it.

use std::path::PathBuf;

use super::kernel::Kernel;
use super::machine::Core;

/// Any core in a directory of its own, which goes with it.
pub struct Case {
    pub dir: tempfile::TempDir,
}

impl Case {
    pub fn new(core: &Core) -> Self {
        let case = Self { dir: tempfile::tempdir().expect("a directory") };
        core.save(&case.path("core"));
        case
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The same with the kernel it is of.
pub struct Room {
    pub dir: tempfile::TempDir,
    pub kernel: Kernel,
}

impl Room {
    pub fn new(kernel: Kernel) -> Self {
        Self { dir: Case::new(&kernel.core()).dir, kernel }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
