//! Segments and the rules `kexec_load(2)` holds them to (`kernel/kexec_core.c: sanity_check_segment_list`).

use std::rc::Rc;

use super::{PAGE_SIZE, Range, Ranges};
use crate::error::{Error, Kind, Result};

/// `KEXEC_SEGMENT_MAX`
pub const MAX_SEGMENTS: usize = 16;

/// Bytes shared between a file as read and the segments cut out of it: nothing is copied.
#[derive(Clone, Default)]
pub struct Bytes {
    all: Rc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Bytes {
    /// The part `start..end`, clamped to what there is.
    pub fn slice(&self, start: usize, end: usize) -> Bytes {
        let end = self.start.saturating_add(end).min(self.end);
        Bytes { all: Rc::clone(&self.all), start: self.start.saturating_add(start).min(end), end }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { all: Rc::new(bytes), start: 0, end }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.all.get(self.start..self.end).unwrap_or_default()
    }
}

/// Bytes and the whole pages they go to; the rest of the pages is zero-filled by the kernel.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What it is, for people.
    pub name: &'static str,
    /// Its content.
    pub data: Bytes,
    /// Physical memory it takes.
    pub range: Range,
}

/// What is handed to the kernel.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Physical address of the first instruction.
    pub entry: u64,
    /// In ascending order of address.
    pub segments: Vec<Segment>,
    /// The kernel keeps the segment with the ELF core header up to date when CPUs or memory come and go
    /// (`KEXEC_UPDATE_ELFCOREHDR`).
    pub updates_elfcorehdr: bool,
    /// The running kernel is to be returned to (`KEXEC_PRESERVE_CONTEXT`).
    pub preserves_context: bool,
}

/// What the destination allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Memory segments may lie in.
    pub memory: Ranges,
    /// How that memory is called in messages.
    pub memory_name: &'static str,
    /// Pages the whole image may take, if that is bounded.
    pub max_pages: Option<u64>,
}

impl Image {
    /// Checks every rule of the kernel before the kernel does.
    ///
    /// # Errors
    /// [`Kind::Invalid`], naming the segment, its range and the rule.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        let refuse = |text: String| Err(Error::new(Kind::Invalid, text));
        if self.segments.len() > MAX_SEGMENTS {
            return refuse(format!("{} segments; kexec_load takes {MAX_SEGMENTS}", self.segments.len()));
        }
        let mut pages: u64 = 0;
        for (i, s) in self.segments.iter().enumerate() {
            let what = format!("segment '{}' at {}", s.name, s.range);
            if s.range.start() % PAGE_SIZE != 0 || s.range.end() % PAGE_SIZE != 0 {
                return refuse(format!("{what} is not page aligned"));
            }
            if u64::try_from(s.data.len()).unwrap_or(u64::MAX) > s.range.len() {
                return refuse(format!("{what} is smaller than its {} bytes", s.data.len()));
            }
            if let Some(o) = self.segments.iter().skip(i.saturating_add(1)).find(|o| o.range.overlaps(s.range)) {
                return refuse(format!("{what} overlaps segment '{}' at {}", o.name, o.range));
            }
            if !limits.memory.contains_range(s.range) {
                return refuse(format!("{what} is not inside {}", limits.memory_name));
            }
            pages = pages.saturating_add(s.range.len() / PAGE_SIZE);
        }
        if let Some(max) = limits.max_pages.filter(|m| pages > *m) {
            return refuse(format!("the image takes {pages} pages; the kernel accepts {max}, half of memory"));
        }
        if !self.segments.iter().any(|s| s.range.contains(self.entry)) {
            return refuse(format!("the entry point {:#x} is in no segment", self.entry));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(name: &'static str, start: u64, end: u64, len: usize) -> Segment {
        Segment { name, data: vec![0; len].into(), range: Range::new(start, end).expect("ordered") }
    }

    fn verdict(segments: Vec<Segment>, entry: u64) -> String {
        let memory = [Range::new(0x1000, 0x20_0000).expect("ordered")].into_iter().collect();
        let limits = Limits { memory, memory_name: "RAM", max_pages: Some(0x100) };
        match (Image { entry, segments, ..Image::default() }).check(&limits) {
            Ok(()) => "fine".into(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn each_rule_names_the_segment() {
        let ok = || segment("a", 0x1000, 0x2000, 0x1000);
        assert_eq!(verdict(vec![ok()], 0x1fff), "fine");
        for (segments, entry, text) in [
            (vec![segment("k", 0x1001, 0x3000, 1)], 0x1001, "segment 'k' at 0x1001-0x3000 is not page aligned"),
            (vec![segment("k", 0x1000, 0x2000, 0x1001)], 0x1000, "is smaller than its 4097 bytes"),
            (vec![ok(), segment("b", 0x1000, 0x3000, 1)], 0x1000, "overlaps segment 'b' at 0x1000-0x3000"),
            (vec![segment("k", 0, 0x2000, 1)], 0x1000, "is not inside RAM"),
            (vec![segment("k", 0x1000, 0x10_2000, 1)], 0x1000, "takes 257 pages; the kernel accepts 256"),
            (vec![ok()], 0x2000, "the entry point 0x2000 is in no segment"),
            ((0..17).map(|i| segment("n", (i + 1) << 12, (i + 2) << 12, 1)).collect(), 0x1000, "17 segments"),
        ] {
            let got = verdict(segments, entry);
            assert!(got.contains(text), "{got} lacks {text}");
        }
    }

    #[test]
    fn slices_of_bytes_clamp() {
        let bytes = Bytes::from(vec![1, 2, 3, 4]);
        assert_eq!(&*bytes.slice(1, 3), [2, 3]);
        assert_eq!(&*bytes.slice(1, 3).slice(1, 9), [3]);
        assert_eq!(&*bytes.slice(9, 12), []);
    }
}
