//! ACPI's root pointer (RSDP; ACPI specification, section 5.2.5.3) as it lies in memory.

use std::os::fd::AsFd;

use super::Host;
use crate::error::{Context, Error, Kind, Result};
use crate::mem::PAGE_SIZE;
use crate::sys::Mapping;

const LEN_1: usize = 20;
const LEN_2: usize = 36;

/// The RSDP at `address`, checked, read through `/dev/mem`: it lies in memory that is no RAM to the kernel, so even
/// `CONFIG_STRICT_DEVMEM` lets it be read.
///
/// # Errors
/// `/dev/mem` is missing or forbidden; [`Kind::Invalid`] if what is there is no RSDP.
pub fn rsdp(host: &Host, address: u64) -> Result<Vec<u8>> {
    let path = host.path("dev/mem");
    let file = std::fs::File::open(&path).context(|| format!("open {}", path.display()))?;
    let page = address & !PAGE_SIZE.saturating_sub(1);
    let offset = usize::try_from(address.saturating_sub(page)).unwrap_or(0);
    let pages = offset.saturating_add(LEN_2).next_multiple_of(4096);
    let mapping =
        Mapping::new(file.as_fd(), page, pages).context(|| format!("map {address:#x} of {}", path.display()))?;
    let mut bytes = vec![0; LEN_2];
    mapping.copy_to(offset, &mut bytes);
    let revision = bytes.get(15).copied().unwrap_or(0);
    let len = if revision < 2 { LEN_1 } else { LEN_2 };
    bytes.truncate(len);
    let summed = [LEN_1, len].iter().all(|len| bytes.get(..*len).is_some_and(|b| sum(b) == 0));
    let good = bytes.starts_with(b"RSD PTR ") && summed;
    if good { Ok(bytes) } else { Err(Error::new(Kind::Invalid, format!("there is no ACPI RSDP at {address:#x}"))) }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, b| sum.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_checked_copy_is_read_from_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("dev")).expect("made");
        let host = Host::new(dir.path());
        assert_eq!(rsdp(&host, 0x1000).expect_err("no file").kind(), Kind::Missing);
        let memory = std::fs::File::create(dir.path().join("dev/mem")).expect("made");
        memory.set_len(0x4000).expect("sparse");
        assert!(rsdp(&host, 0x1ff0).expect_err("zeros").to_string().contains("no ACPI RSDP at 0x1ff0"));
        let mut table = b"RSD PTR \0OEMID \x02".to_vec();
        table.extend([0x10, 0x20, 0, 0, 36, 0, 0, 0, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        table[8] = 0u8.wrapping_sub(sum(&table[..20]));
        table[32] = 0u8.wrapping_sub(sum(&table));
        memory.write_all_at(&table, 0x1ff0).expect("written");
        assert_eq!(rsdp(&host, 0x1ff0).expect("read"), table);
    }
}
