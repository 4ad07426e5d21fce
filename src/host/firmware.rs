//! The memory map firmware gave: `/sys/firmware/memmap` (`drivers/firmware/memmap.c`).

use super::Host;
use crate::error::{Error, Kind, Result};
use crate::mem::{MemoryMap, MemoryType, Range};

const DIR: &str = "sys/firmware/memmap";

/// The firmware's map; `None` on a kernel without `CONFIG_FIRMWARE_MEMMAP`.
///
/// # Errors
/// [`Kind::Invalid`] for an entry that lacks a file or ends before it starts.
pub fn memory_map(host: &Host) -> Result<Option<MemoryMap>> {
    let mut entries = Vec::new();
    for (_, dir) in host.numbered(DIR, "")? {
        let missing = |file: &str| Error::new(Kind::Invalid, format!("/{dir} has no '{file}'"));
        let start = host.number(&format!("{dir}/start"))?.ok_or_else(|| missing("start"))?;
        let end = host.number(&format!("{dir}/end"))?.ok_or_else(|| missing("end"))?;
        let name = host.text(&format!("{dir}/type"))?.ok_or_else(|| missing("type"))?;
        let Some(range) = Range::from_inclusive(start, end) else {
            return Err(Error::new(Kind::Invalid, format!("/{dir} ends at {end:#x}, before its start {start:#x}")));
        };
        entries.push((range, MemoryType::from_name(&name).unwrap_or(MemoryType::Reserved)));
    }
    Ok(if entries.is_empty() { None } else { Some(entries.into_iter().collect()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_order_and_unknown_types_are_reserved() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        assert_eq!(memory_map(&host).expect("absent"), None);
        for (i, (start, end, kind)) in
            [("0x0", "0x9fbff", "System RAM"), ("0x100000", "0x3ffdffff", "System RAM"), ("0x9fc00", "0x9ffff", "Odd")]
                .iter()
                .enumerate()
        {
            let entry = dir.path().join(DIR).join(i.to_string());
            std::fs::create_dir_all(&entry).expect("made");
            for (file, text) in [("start", start), ("end", end), ("type", kind)] {
                std::fs::write(entry.join(file), format!("{text}\n")).expect("written");
            }
        }
        let map = memory_map(&host).expect("reads").expect("present");
        let text: Vec<String> = map.iter().map(|(r, t)| format!("{r} {t}")).collect();
        assert_eq!(text, ["0x0-0x9fc00 RAM", "0x9fc00-0xa0000 reserved", "0x100000-0x3ffe0000 RAM"]);
    }
}
