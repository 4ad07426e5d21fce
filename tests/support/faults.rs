//! Ends of the engine that are in memory: a dump that is kept, and a vmcore of which parts can't or must not be read.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use kdumpbox::error::Result;
use kdumpbox::target::Sink;
use kdumpbox::vmcore::Input;

use super::kdump::Kdump;
use super::machine::Core;

/// A dump in memory.
#[derive(Default)]
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("lock")
    }

    pub fn into_dump(self) -> Kdump {
        Kdump::parse(self.into_bytes())
    }
}

impl Sink for Memory {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut all = self.0.lock().expect("lock");
        let end = offset as usize + data.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A core file's bytes.
pub fn bytes(core: &Core) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    core.save(&dir.path().join("core"));
    std::fs::read(dir.path().join("core")).expect("read")
}

/// An input with ranges that can't be read, and one that nobody may ask for.
pub struct Broken {
    pub data: Vec<u8>,
    pub unreadable: Vec<Range<u64>>,
    pub forbidden: Range<u64>,
}

impl Input for Broken {
    fn size(&self) -> u64 {
        self.data.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let asked = offset..offset + buf.len() as u64;
        let touches = |range: &Range<u64>| asked.start < range.end && range.start < asked.end;
        assert!(!touches(&self.forbidden), "{asked:x?} reads broken memory");
        if self.unreadable.iter().any(touches) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.data.read_at(offset, buf)
    }
}
