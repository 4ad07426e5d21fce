//! `/proc/iomem`: what the running kernel knows of physical memory (`kernel/resource.c`).

use crate::error::{Error, Kind, Result};
use crate::mem::{MemoryMap, MemoryType, Range, Ranges};

/// One line: two spaces of indent a level, `start-end : name`, both ends inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Levels of nesting.
    pub depth: usize,
    /// The range.
    pub range: Range,
    /// The name behind the colon.
    pub name: String,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iomem(Vec<Entry>);

impl Iomem {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a line that is not of the form; [`Kind::Denied`] if every address is zero, which is what
    /// the kernel shows to those without `CAP_SYS_ADMIN`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let broken = || {
                let number = i.saturating_add(1);
                Error::new(Kind::Invalid, format!("/proc/iomem line {number}: '{line}' is not 'start-end : name'"))
            };
            let indent = line.len().saturating_sub(line.trim_start().len());
            let (ends, name) = line.trim().split_once(" : ").ok_or_else(broken)?;
            let (first, last) = ends.split_once('-').ok_or_else(broken)?;
            let hex = |s: &str| u64::from_str_radix(s.trim(), 16).map_err(|_| broken());
            let range = Range::from_inclusive(hex(first)?, hex(last)?).ok_or_else(broken)?;
            entries.push(Entry { depth: indent / 2, range, name: name.to_owned() });
        }
        if entries.len() > 1 && entries.iter().all(|e| e.range.end() <= 1) {
            return Err(Error::new(Kind::Denied, "/proc/iomem shows only zeros: reading addresses needs root"));
        }
        Ok(Self(entries))
    }

    /// Memory by type, as firmware and `memmap=` left it.
    pub fn map(&self) -> MemoryMap {
        let top = self.0.iter().filter(|e| e.depth == 0);
        top.filter_map(|e| Some((e.range, MemoryType::from_name(&e.name)?))).collect()
    }

    /// Usable memory.
    pub fn system_ram(&self) -> Ranges {
        self.named("System RAM").collect()
    }

    /// Memory reserved for a crash kernel, ascending: low (if any), then the area segments go to.
    pub fn crash(&self) -> Ranges {
        self.named("Crash kernel").collect()
    }

    /// The running kernel's code.
    pub fn kernel_code(&self) -> Option<Range> {
        self.named("Kernel code").next()
    }

    /// The range from the running kernel's first byte of code to its last of data.
    pub fn kernel_image(&self) -> Option<Range> {
        let parts: Vec<Range> = self.0.iter().filter(|e| e.name.starts_with("Kernel ")).map(|e| e.range).collect();
        Range::new(parts.iter().map(|r| r.start()).min()?, parts.iter().map(|r| r.end()).max()?)
    }

    /// The graphics aperture, which must not be read.
    pub fn gart(&self) -> Option<Range> {
        self.named("GART").next()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = Range> + '_ {
        let name = name.to_owned();
        self.0.iter().filter(move |e| e.name == name).map(|e| e.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000a0000-000bffff : PCI Bus 0000:00
00100000-3ffdffff : System RAM
  03000000-03e00fff : Kernel code
  04000000-042fffff : Kernel rodata
  33000000-3effffff : Crash kernel
3ffe0000-3fffffff : Reserved
100000000-13fffffff : System RAM
  130000000-13effffff : Crash kernel
";

    #[test]
    fn a_machine_with_two_crash_areas() {
        let iomem = Iomem::parse(TEXT).expect("parses");
        let crash: Vec<String> = iomem.crash().iter().map(|r| r.to_string()).collect();
        assert_eq!(crash, ["0x33000000-0x3f000000", "0x130000000-0x13f000000"]);
        assert_eq!(iomem.system_ram().count(), 3);
        assert_eq!(iomem.map().count(), 5);
        assert_eq!(iomem.kernel_code().map(|r| r.start()), Some(0x300_0000));
        assert_eq!(iomem.kernel_image().map(|r| r.to_string()).as_deref(), Some("0x3000000-0x4300000"));
    }

    #[test]
    fn zeros_mean_no_privilege() {
        let zeros = "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n";
        let e = Iomem::parse(zeros).expect_err("refused");
        assert_eq!((e.kind(), e.to_string().contains("needs root")), (Kind::Denied, true));
    }

    #[test]
    fn a_broken_line_is_named() {
        let e = Iomem::parse("00000000-00000fff : Reserved\nnonsense\n").expect_err("refused");
        assert!(e.to_string().contains("line 2: 'nonsense'"), "{e}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([0-9a-f]{1,17}|-| : |\\n|  |é|System RAM){0,30}") {
            if let Ok(iomem) = Iomem::parse(&text) {
                prop_assert!(iomem.system_ram().count() <= text.lines().count());
            }
        }
    }
}
