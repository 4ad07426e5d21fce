//! The file a vmcore is read from: positioned reads, and windows of it mapped where that is faster.
//!
//! `/proc/vmcore` remaps old memory for every page that is read but maps a window at once (reads run at some
//! 100 MB/s, windows at memory speed); ordinary files are read, because an I/O error then is an errno and not a signal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::Mapping;

/// Where a vmcore's bytes come from; tests put faults here.
pub trait Input: Send + Sync {
    /// Bytes in the file.
    fn size(&self) -> u64;

    /// Reads some bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// ENODATA for a page that a saved dump does not hold, else why reading failed.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The first offset at or behind `offset` where other bytes than zeros may be: so that holes of sparse files cost
    /// nothing. `offset` itself where that is not known.
    fn data_at(&self, offset: u64) -> u64 {
        offset
    }

    /// A window of the file; `None` where it can't be mapped or should not be.
    fn map(&self, _offset: u64, _len: usize) -> Option<Mapping> {
        None
    }
}

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// A file of this machine.
pub struct FileInput {
    file: File,
    size: u64,
    maps: bool,
    /// Readers of the running kernel's memory take turns: until 6.3 `read_kcore` of fs/proc/kcore.c copied all that was
    /// read by one open file through one page, so that two at once got each other's bytes.
    turn: Option<Mutex<()>>,
}

impl FileInput {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Kind::Open`] when there is no such file or it may not be read, [`Kind::Invalid`] for what has no offsets.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).context(|| format!("open vmcore {name}")).map_err(|e| e.with_kind(Kind::Open))?;
        let meta = file.metadata().context(|| format!("look at vmcore {name}"))?;
        if meta.is_dir() {
            return Err(Error::new(Kind::Open, format!("vmcore {name} is a directory; give the file inside it")));
        }
        // A block device has no size in its metadata, a pipe no end to seek to.
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|_| {
            Error::new(Kind::Invalid, format!("vmcore {name} can't be read at offsets; save it to a file first"))
        })?;
        let maps = rustix::fs::fstatfs(&file).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC);
        let turn = (maps && path.ends_with("kcore")).then(Mutex::default);
        Ok(Self { file, size: size.max(meta.len()), maps, turn })
    }

    /// Maps windows whatever the file system.
    pub fn with_windows(mut self) -> Self {
        self.maps = true;
        self
    }
}

impl Input for FileInput {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _turn = self.turn.as_ref().map(Mutex::lock);
        self.file.read_at(buf, offset)
    }

    fn data_at(&self, offset: u64) -> u64 {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data.max(offset),
            // Nothing but a hole to the end.
            Err(rustix::io::Errno::NXIO) => self.size.max(offset),
            Err(_) => offset,
        }
    }

    fn map(&self, offset: u64, len: usize) -> Option<Mapping> {
        if !self.maps {
            return None;
        }
        // A window the kernel refuses (EAGAIN or EINVAL on areas that can't be remapped) is read instead.
        Mapping::new(self.file.as_fd(), offset, len).ok()
    }
}

/// A vmcore in memory.
impl Input for Vec<u8> {
    fn size(&self) -> u64 {
        super::le::wide(self.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.get(super::le::index(offset)..).unwrap_or_default();
        io::Read::read(&mut rest, buf)
    }
}
