//! A machine's memory map in the E820 types of firmware and boot protocol (`arch/x86/include/uapi/asm/setup_data.h`).

use std::fmt;

use super::{Range, Ranges};

/// What a range of physical memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryType {
    /// Usable memory.
    Ram,
    /// Not to be touched.
    Reserved,
    /// ACPI tables.
    Acpi,
    /// ACPI non-volatile storage.
    Nvs,
    /// Memory that failed its test.
    Unusable,
    /// Persistent memory.
    Pmem,
    /// Persistent memory as firmware marked it before ACPI 6.
    Pram,
    /// Any other type, kept as it is.
    Other(u32),
}

impl MemoryType {
    /// The type of an E820 entry.
    pub const fn from_wire(wire: u32) -> Self {
        match wire {
            1 => Self::Ram,
            2 => Self::Reserved,
            3 => Self::Acpi,
            4 => Self::Nvs,
            5 => Self::Unusable,
            7 => Self::Pmem,
            12 => Self::Pram,
            other => Self::Other(other),
        }
    }

    /// The number an E820 entry holds.
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::Acpi => 3,
            Self::Nvs => 4,
            Self::Unusable => 5,
            Self::Pmem => 7,
            Self::Pram => 12,
            Self::Other(wire) => wire,
        }
    }

    /// The type behind a name in `/proc/iomem` or `/sys/firmware/memmap/*/type`; `None` for what is no memory.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "System RAM" => Self::Ram,
            "reserved" | "Reserved" | "Soft Reserved" => Self::Reserved,
            "ACPI Tables" => Self::Acpi,
            "ACPI Non-volatile Storage" => Self::Nvs,
            "Unusable memory" => Self::Unusable,
            "Persistent Memory" => Self::Pmem,
            "Persistent Memory (legacy)" => Self::Pram,
            _ => return None,
        })
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram => f.write_str("RAM"),
            Self::Reserved => f.write_str("reserved"),
            Self::Acpi => f.write_str("ACPI"),
            Self::Nvs => f.write_str("NVS"),
            Self::Unusable => f.write_str("unusable"),
            Self::Pmem => f.write_str("PMEM"),
            Self::Pram => f.write_str("PRAM"),
            Self::Other(wire) => write!(f, "type {wire}"),
        }
    }
}

/// Ranges with their types, ascending by start. Firmware may overlap them; nothing here hides that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap(Vec<(Range, MemoryType)>);

impl MemoryMap {
    /// The entries, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Range, MemoryType)> + '_ {
        self.0.iter().copied()
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Usable memory: RAM that no entry of another type covers.
    pub fn ram(&self) -> Ranges {
        let mut ram: Ranges = self.iter().filter(|(_, t)| *t == MemoryType::Ram).map(|(r, _)| r).collect();
        for (range, kind) in self.iter() {
            if kind != MemoryType::Ram {
                ram.remove(range);
            }
        }
        ram
    }
}

impl FromIterator<(Range, MemoryType)> for MemoryMap {
    fn from_iter<I: IntoIterator<Item = (Range, MemoryType)>>(iter: I) -> Self {
        let mut entries: Vec<_> = iter.into_iter().filter(|(r, _)| !r.is_empty()).collect();
        entries.sort_unstable();
        Self(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_survive_the_wire() {
        for wire in 0..20 {
            assert_eq!(MemoryType::from_wire(wire).to_wire(), wire);
        }
    }

    #[test]
    fn reserved_wins_over_ram() {
        let range = |a, b| Range::new(a, b).expect("ordered");
        let map: MemoryMap =
            [(range(0x2000, 0x3000), MemoryType::Reserved), (range(0, 0x4000), MemoryType::Ram)].into_iter().collect();
        assert_eq!(map.ram().iter().collect::<Vec<_>>(), [range(0, 0x2000), range(0x3000, 0x4000)]);
    }
}
