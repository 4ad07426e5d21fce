//! VMCOREINFO: lines of `KEY=VALUE` the crashed kernel left about itself (Documentation/admin-guide/kdump/vmcoreinfo.rst).
//!
//! Values are looked up by presence; nothing here looks at a kernel's version.

use std::collections::BTreeMap;

/// The parsed text.
#[derive(Clone, Debug, Default)]
pub struct VmcoreInfo {
    text: Vec<u8>,
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Parses the descriptor of a VMCOREINFO note. Lines that are not `KEY=VALUE` are passed over; of a key given
    /// twice the first counts.
    pub fn parse(desc: &[u8]) -> Self {
        // Xen pads its text with zeros to a page.
        let text = desc.split(|b| *b == 0).next().unwrap_or_default();
        let mut values = BTreeMap::new();
        for line in text.split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Ok(line) = std::str::from_utf8(line) else { continue };
            if let Some((key, value)) = line.split_once('=') {
                values.entry(key.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        Self { text: text.to_vec(), values }
    }

    /// The text as it was found.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The value of `key` as written: `get("OSRELEASE")`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// `SYMBOL(name)`: an address, hexadecimal without prefix.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hex(self.get(&format!("SYMBOL({name})"))?)
    }

    /// `SIZE(name)` in bytes; nonsense beyond 1 MiB counts as absent.
    pub fn size(&self, name: &str) -> Option<usize> {
        small(self.get(&format!("SIZE({name})"))?)
    }

    /// `OFFSET(type.member)` in bytes; nonsense beyond 1 MiB counts as absent.
    pub fn offset(&self, name: &str) -> Option<usize> {
        small(self.get(&format!("OFFSET({name})"))?)
    }

    /// `LENGTH(name)`: elements of an array.
    pub fn length(&self, name: &str) -> Option<u64> {
        self.get(&format!("LENGTH({name})"))?.parse().ok()
    }

    /// `NUMBER(name)`: decimal, perhaps negative, or hexadecimal with `0x`; the value's 64 bits.
    pub fn number(&self, name: &str) -> Option<u64> {
        let value = self.get(&format!("NUMBER({name})"))?;
        match value.strip_prefix("0x") {
            Some(digits) => hex(digits),
            None => value.parse::<i64>().map(i64::cast_unsigned).or_else(|_| value.parse::<u64>()).ok(),
        }
    }
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
}

fn small(digits: &str) -> Option<usize> {
    digits.parse::<usize>().ok().filter(|n| *n <= 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        let info = VmcoreInfo::parse(
            b"OSRELEASE=6.1.0\nSYMBOL(prb)=ffffffff82a5f4a0\nSIZE(page)=64\nOFFSET(page.flags)=0\nLENGTH(mem_section)=2048\n\
              NUMBER(phys_base)=-16777216\nNUMBER(VMALLOC_START)=0xffa0000000000000\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=4026531840\n",
        );
        assert_eq!(info.get("OSRELEASE"), Some("6.1.0"));
        assert_eq!(info.symbol("prb"), Some(0xffff_ffff_82a5_f4a0));
        assert_eq!((info.size("page"), info.offset("page.flags")), (Some(64), Some(0)));
        assert_eq!(info.length("mem_section"), Some(2048));
        assert_eq!(info.number("phys_base"), Some((-16_777_216i64).cast_unsigned()));
        assert_eq!(info.number("VMALLOC_START"), Some(0xffa0_0000_0000_0000));
        assert_eq!(info.number("PAGE_BUDDY_MAPCOUNT_VALUE"), Some(0xf000_0000));
    }

    #[test]
    fn odd_texts_lose_their_odd_lines_only() {
        let info = VmcoreInfo::parse(b"A=1\r\nnothing here\nB=\xff\nA=2\nSIZE(page)=999999999\nCRASHTIME=5\0\0\0C=1");
        assert_eq!(info.get("A"), Some("1"), "carriage return dropped, first of two wins");
        assert_eq!((info.get("B"), info.get("C"), info.size("page")), (None, None, None));
        assert_eq!(info.get("CRASHTIME"), Some("5"), "the last line needs no newline");
    }
}
