//! Where the running kernel will save registers and vmcoreinfo when it crashes.

use super::Host;
use crate::error::{Error, Kind, Result};
use crate::mem::Range;

/// One CPU's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuNotes {
    /// CPU number; numbers may have gaps.
    pub cpu: u64,
    /// Physical memory of its notes.
    pub range: Range,
}

/// The buffer of every possible CPU, whatever the gaps in their numbers.
///
/// # Errors
/// Files that hold no numbers, or addresses beyond 64 bits.
pub fn cpus(host: &Host) -> Result<Vec<CpuNotes>> {
    let mut found = Vec::new();
    for (cpu, dir) in host.numbered("sys/devices/system/cpu", "cpu")? {
        let Some(address) = hex(host, &format!("{dir}/crash_notes"))? else { continue };
        let size = host.number(&format!("{dir}/crash_notes_size"))?.unwrap_or(0x400);
        let range = Range::with_len(address, size).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("/{dir}/crash_notes: {address:#x} + {size:#x} overflows"))
        })?;
        found.push(CpuNotes { cpu, range });
    }
    Ok(found)
}

/// The vmcoreinfo note: `/sys/kernel/vmcoreinfo` holds "address size", both hexadecimal.
///
/// # Errors
/// [`Kind::Invalid`] if it holds something else.
pub fn vmcoreinfo(host: &Host) -> Result<Option<Range>> {
    let Some(text) = host.text("sys/kernel/vmcoreinfo")? else { return Ok(None) };
    let number = |s: &str| u64::from_str_radix(s.trim().trim_start_matches("0x"), 16).ok();
    let range = text.split_once(' ').and_then(|(a, s)| Range::with_len(number(a)?, number(s)?));
    match range {
        Some(range) => Ok(Some(range)),
        None => Err(Error::new(Kind::Invalid, format!("/sys/kernel/vmcoreinfo holds '{text}', not 'address size'"))),
    }
}

fn hex(host: &Host, name: &str) -> Result<Option<u64>> {
    let Some(text) = host.text(name)? else { return Ok(None) };
    match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
        Ok(n) => Ok(Some(n)),
        Err(_) => Err(Error::new(Kind::Invalid, format!("/{name} holds '{text}', not a hexadecimal number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_in_cpu_numbers_lose_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        for (cpu, address) in [("cpu0", "1000"), ("cpu2", "3000"), ("cpu11", "0x4000")] {
            let cpu = dir.path().join("sys/devices/system/cpu").join(cpu);
            std::fs::create_dir_all(&cpu).expect("made");
            std::fs::write(cpu.join("crash_notes"), format!("{address}\n")).expect("written");
            std::fs::write(cpu.join("crash_notes_size"), "1024\n").expect("written");
        }
        std::fs::create_dir_all(dir.path().join("sys/kernel")).expect("made");
        std::fs::write(dir.path().join("sys/kernel/vmcoreinfo"), "24df4000 1024\n").expect("written");
        let host = Host::new(dir.path());
        let found: Vec<_> = cpus(&host).expect("reads").iter().map(|n| (n.cpu, n.range.start())).collect();
        assert_eq!(found, [(0, 0x1000), (2, 0x3000), (11, 0x4000)]);
        assert_eq!(vmcoreinfo(&host).expect("reads").map(|r| r.len()), Some(0x1024));
    }
}
