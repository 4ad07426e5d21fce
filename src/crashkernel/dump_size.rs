//! How large a dump would be if the machine crashed now: its memory by class of page.

use std::io::Read;

use super::report::mib;
use crate::host::Host;
use crate::mem::PAGE_SIZE;

/// Bits of `/proc/kpageflags` (`include/uapi/linux/kernel-page-flags.h`).
const KPF_LRU: u32 = 5;
const KPF_BUDDY: u32 = 10;
const KPF_ANON: u32 = 12;
const KPF_HUGE: u32 = 17;
const KPF_NOPAGE: u32 = 20;
const KPF_OFFLINE: u32 = 23;
/// More pages than this are not looked at one by one, which would take seconds: 16 GiB.
const MOST: u64 = (16 << 30) / PAGE_SIZE;

/// Bytes of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Nobody's.
    pub free: u64,
    /// Page cache.
    pub cache: u64,
    /// Anonymous memory of programs.
    pub user: u64,
    /// The kernel's own, `struct page` included: what level 31 leaves.
    pub kernel: u64,
}

/// Of a running machine by page, else by `/proc/meminfo`; none if neither is to be had.
pub fn classes(host: &Host) -> Option<Classes> {
    let rough = of_meminfo(&host.text("proc/meminfo").ok().flatten()?)?;
    let fine = std::fs::File::open(host.path("proc/kpageflags")).ok().and_then(|file| of_flags(file, &rough));
    Some(fine.unwrap_or(rough))
}

/// Only where it is plausible: a file without privilege is empty or all zeros.
fn of_flags(mut file: impl Read, rough: &Classes) -> Option<Classes> {
    let mut found = Classes::default();
    let mut buffer = vec![0; 1 << 16];
    let mut pages = 0_u64;
    loop {
        let n = file.read(&mut buffer).ok()?;
        if n == 0 {
            break;
        }
        for flags in buffer.get(..n)?.chunks_exact(8) {
            let flags = u64::from_le_bytes(flags.try_into().ok()?);
            let is = |bit: u32| flags & (1 << bit) != 0;
            pages = pages.saturating_add(1);
            if is(KPF_NOPAGE) || is(KPF_OFFLINE) {
                continue;
            }
            let class = match () {
                () if is(KPF_BUDDY) => &mut found.free,
                () if is(KPF_ANON) || is(KPF_HUGE) => &mut found.user,
                () if is(KPF_LRU) => &mut found.cache,
                () => &mut found.kernel,
            };
            *class = class.saturating_add(PAGE_SIZE);
        }
        if pages > MOST {
            return None;
        }
    }
    (found.free > 0 && found.kernel > rough.kernel / 4).then_some(found)
}

fn of_meminfo(text: &str) -> Option<Classes> {
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    let total = Some(kib("MemTotal")).filter(|t| *t > 0)?;
    let huge = kib("HugePages_Total").checked_div(1024)?.saturating_mul(kib("Hugepagesize"));
    let cache = kib("Cached").saturating_add(kib("Buffers"));
    let user = kib("AnonPages").saturating_add(huge);
    // A recording of the total alone tells nothing.
    let free = Some(kib("MemFree")).filter(|f| *f > 0)?;
    let rest = total.saturating_sub(free).saturating_sub(cache).saturating_sub(user);
    // The kernel's image and struct pages are not in the total.
    let kernel = rest.saturating_add(total / 64).saturating_add(48 << 20);
    Some(Classes { free, cache, user, kernel })
}

impl Classes {
    /// Bytes of a dump at level 31 once compressed: kernel memory shrinks to a quarter, and seldom to less than a tenth.
    pub fn compressed(&self) -> (u64, u64) {
        (self.kernel / 4, self.kernel / 10)
    }

    /// In one sentence.
    pub fn describe(&self) -> String {
        format!(
            "about {} at level 31: {} of kernel memory, compressed ({} of programs, {} of cache and {} free are left out)",
            mib(self.compressed().0),
            mib(self.kernel),
            mib(self.user),
            mib(self.cache),
            mib(self.free)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_by_their_flags() {
        let flags = [1_u64 << KPF_BUDDY, 1 << KPF_LRU, 1 << KPF_LRU | 1 << KPF_ANON, 1 << 7, 0, 1 << KPF_NOPAGE];
        let bytes: Vec<u8> = flags.iter().flat_map(|f| f.to_le_bytes()).collect();
        let found = of_flags(&bytes[..], &Classes::default());
        assert_eq!(found, Some(Classes { free: 4096, cache: 4096, user: 4096, kernel: 8192 }));
        assert_eq!(of_flags(&[0; 80][..], &Classes::default()), None, "zeros, as without privilege");
    }

    #[test]
    fn meminfo_gives_the_same_classes() {
        let text = "MemTotal: 1048576 kB\nMemFree: 524288 kB\nBuffers: 1024 kB\nCached: 65536 kB\nAnonPages: 131072 kB\n\
                    HugePages_Total: 2\nHugepagesize: 2048 kB\n";
        let found = of_meminfo(text).expect("reads");
        assert_eq!((found.free, found.cache, found.user), (512 << 20, 65 << 20, 132 << 20));
        assert_eq!(found.kernel, (1024 - 512 - 65 - 132 + 16 + 48) << 20);
        assert_eq!(of_meminfo(""), None);
    }
}
