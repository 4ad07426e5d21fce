//! `crashkernel=` as the Linux kernel reads it (`kernel/crash_reserve.c`, `lib/cmdline.c: memparse`).
//!
//! The kernel's rules, oddities included: the last word of a kind wins, any text that contains `crashkernel=` counts,
//! a plain value (even a broken one) hides `,high`, ranges are matched against memory rounded up to 128 MiB, and the
//! list is read only up to the first range that matches. Where the area is put is not decided here.

use std::fmt;

const NAME: &str = "crashkernel=";
const SUFFIXES: [&str; 3] = [",high", ",low", ",cma"];
const MIB: u64 = 1 << 20;

/// What the kernel will try to reserve. Sizes in bytes, 0 where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// The main area.
    pub size: u64,
    /// The address asked for with `@`; then it is there or nowhere.
    pub offset: Option<u64>,
    /// Whether the search starts above 4 GiB (`,high`).
    pub high: bool,
    /// The additional area below 4 GiB, used only if the main one lies above.
    pub low: u64,
    /// The additional area in CMA (`,cma`).
    pub cma: u64,
}

/// Why the kernel reserves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Byte of the command line at which the kernel gave up.
    pub position: usize,
    /// The rule that was broken.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {} of the command line)", self.reason, self.position)
    }
}

/// A machine's rules for placement that the parser needs.
#[derive(Clone, Copy, Debug)]
pub struct Arch {
    /// `DEFAULT_CRASH_KERNEL_LOW_SIZE`, bytes: the low area when `,high` is given without `,low`.
    pub default_low: u64,
}

/// x86_64: swiotlb's 64 MiB and 8 MiB more, at least 256 MiB.
pub const X86_64: Arch = Arch { default_low: 256 * MIB };

/// What a kernel with `system_ram` bytes of memory reserves for `cmdline`; `None` if it does not ask for anything.
///
/// # Errors
/// A [`Refusal`] where the kernel prints a warning and reserves nothing.
pub fn linux(cmdline: &str, system_ram: u64, arch: Arch) -> Result<Option<Reservation>, Refusal> {
    let mut found = Reservation::default();
    if let Some(at) = last(cmdline, None) {
        let value = Cursor::new(cmdline, at);
        let word = cmdline.get(at..).unwrap_or_default().split(' ').next().unwrap_or_default();
        (found.size, found.offset) = if word.contains(':') { ranges(value, system_ram)? } else { simple(value)? };
        found.offset = found.offset.filter(|o| *o != 0);
    } else if let Some(at) = last(cmdline, Some(",high")) {
        found.size = suffixed(Cursor::new(cmdline, at), ",high")?;
        if found.size == 0 {
            return Err(Refusal { position: at, reason: "size ',high' is zero".into() });
        }
        found.low = match last(cmdline, Some(",low")) {
            Some(at) => suffixed(Cursor::new(cmdline, at), ",low")?,
            None => arch.default_low,
        };
        found.high = true;
    } else {
        return Ok(None);
    }
    if let Some(at) = last(cmdline, Some(",cma")) {
        found.cma = suffixed(Cursor::new(cmdline, at), ",cma").unwrap_or(0);
    }
    let at = last(cmdline, None).or_else(|| last(cmdline, Some(",high"))).unwrap_or(0);
    if found.size == 0 {
        let reason = format!("the size comes to zero bytes for {system_ram:#x} bytes of memory");
        return Err(Refusal { position: at, reason });
    }
    if found.size >= system_ram {
        let reason = format!("size {:#x} is not below the {system_ram:#x} bytes of memory", found.size);
        return Err(Refusal { position: at, reason });
    }
    Ok(Some(found))
}

/// Byte behind the `crashkernel=` that counts: the last whose word ends in `suffix`, or in no known suffix.
fn last(cmdline: &str, suffix: Option<&str>) -> Option<usize> {
    let mut found = None;
    for (at, _) in cmdline.match_indices(NAME) {
        let word = cmdline.get(at..).unwrap_or_default().split(' ').next().unwrap_or_default();
        let counts = match suffix {
            Some(suffix) => word.ends_with(suffix),
            None => !SUFFIXES.iter().any(|s| word.ends_with(s)),
        };
        if counts {
            found = Some(at.saturating_add(NAME.len()));
        }
    }
    found
}

/// A place in the command line; reading past its end gives NUL, as in C.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, at: usize) -> Self {
        Self { text: text.as_bytes(), at }
    }

    fn peek(self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn ends(self) -> bool {
        matches!(self.peek(), 0 | b' ')
    }

    fn skip(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn refuse<T>(self, reason: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal { position: self.at, reason: reason.into() })
    }

    fn expect(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.peek() != byte {
            return self.refuse(format!("'{}' expected, not {}", char::from(byte), self.shown()));
        }
        self.skip();
        Ok(())
    }

    fn shown(self) -> String {
        match self.peek() {
            0 => "the end".into(),
            byte => format!("'{}'", char::from(byte)),
        }
    }

    /// `memparse()`: C number syntax, then K M G T P E. It wraps in 64 bits, and a bare letter is zero, as in the kernel.
    fn memory(&mut self) -> Result<u64, Refusal> {
        let start = self.at;
        let digit = |c: Cursor<'_>, radix| char::from(c.peek()).to_digit(radix).map(u64::from);
        let mut radix = 10;
        if self.peek() == b'0' {
            radix = 8;
            let mut ahead = *self;
            ahead.skip();
            if ahead.peek().eq_ignore_ascii_case(&b'x') {
                ahead.skip();
                if ahead.peek().is_ascii_hexdigit() {
                    radix = 16;
                    *self = ahead;
                }
            }
        }
        let mut value: u64 = 0;
        while let Some(d) = digit(*self, radix) {
            value = value.wrapping_mul(u64::from(radix)).wrapping_add(d);
            self.skip();
        }
        let shift = match self.peek().to_ascii_uppercase() {
            b'K' => 10,
            b'M' => 20,
            b'G' => 30,
            b'T' => 40,
            b'P' => 50,
            b'E' => 60,
            _ => 0,
        };
        if shift > 0 {
            self.skip();
        }
        if self.at == start {
            return self.refuse(format!("memory size expected, not {}", self.shown()));
        }
        Ok(value.wrapping_shl(shift))
    }
}

/// `SIZE[@OFFSET]`
fn simple(mut cur: Cursor<'_>) -> Result<(u64, Option<u64>), Refusal> {
    let size = cur.memory()?;
    if cur.peek() == b'@' {
        cur.skip();
        // The kernel does not look at what follows an offset, nor whether one follows the '@'.
        return Ok((size, cur.memory().ok()));
    }
    if !cur.ends() {
        return cur.refuse(format!("unrecognized character {}", cur.shown()));
    }
    Ok((size, None))
}

/// `SIZE,high` and its kin.
fn suffixed(mut cur: Cursor<'_>, suffix: &str) -> Result<u64, Refusal> {
    let size = cur.memory()?;
    for byte in suffix.bytes() {
        cur.expect(byte)?;
    }
    if !cur.ends() {
        return cur.refuse(format!("unrecognized character {}", cur.shown()));
    }
    Ok(size)
}

/// `START-[END]:SIZE[,…][@OFFSET]`
fn ranges(mut cur: Cursor<'_>, system_ram: u64) -> Result<(u64, Option<u64>), Refusal> {
    let total = system_ram.checked_next_multiple_of(128 * MIB).unwrap_or(system_ram);
    let mut chosen = 0;
    loop {
        let start = cur.memory()?;
        cur.expect(b'-')?;
        let mut end = u64::MAX;
        if cur.peek() != b':' {
            end = cur.memory()?;
            if end <= start {
                return cur.refuse(format!("range ends at {end:#x}, not above its start {start:#x}"));
            }
        }
        cur.expect(b':')?;
        let size = cur.memory()?;
        if size >= total {
            return cur.refuse(format!("size {size:#x} is not below the {total:#x} bytes of memory"));
        }
        if (start..end).contains(&total) {
            chosen = size;
            break;
        }
        if cur.peek() != b',' {
            break;
        }
        cur.skip();
    }
    if chosen == 0 {
        return Ok((0, None));
    }
    while !cur.ends() && cur.peek() != b'@' {
        cur.skip();
    }
    if cur.peek() != b'@' {
        return Ok((chosen, None));
    }
    cur.skip();
    Ok((chosen, Some(cur.memory()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn read(cmdline: &str, ram: u64) -> Result<Option<Reservation>, Refusal> {
        linux(cmdline, ram, X86_64)
    }

    /// `(size, offset, high, low, cma)` in MiB.
    fn mib(cmdline: &str, ram: u64) -> (u64, Option<u64>, bool, u64, u64) {
        let r = read(cmdline, ram).expect("accepted").expect("asked for");
        (r.size / MIB, r.offset.map(|o| o / MIB), r.high, r.low / MIB, r.cma / MIB)
    }

    #[test]
    fn what_the_kernel_accepts() {
        for (cmdline, ram, expected) in [
            ("crashkernel=256M", GIB, (256, None, false, 0, 0)),
            ("crashkernel=256M@64M", GIB, (256, Some(64), false, 0, 0)),
            ("crashkernel=256M@", GIB, (256, None, false, 0, 0)),
            ("crashkernel=256M@0", GIB, (256, None, false, 0, 0)),
            ("crashkernel=0x10000000", GIB, (256, None, false, 0, 0)),
            ("crashkernel=01g quiet", 2 * GIB, (1024, None, false, 0, 0)),
            ("crashkernel=64M crashkernel=128M", GIB, (128, None, false, 0, 0)),
            ("xcrashkernel=64M", GIB, (64, None, false, 0, 0)),
            ("crashkernel=384M-:128M", GIB, (128, None, false, 0, 0)),
            ("crashkernel=512M-2G:64M,2G-:128M@16M", 2 * GIB, (128, Some(16), false, 0, 0)),
            // 1 GiB less what firmware keeps still counts as 1 GiB.
            ("crashkernel=1G-:64M", GIB - 5 * MIB, (64, None, false, 0, 0)),
            // What stands behind the range that matched is not read.
            ("crashkernel=0-:64M,rubbish", GIB, (64, None, false, 0, 0)),
            ("crashkernel=512M,high", 8 * GIB, (512, None, true, 256, 0)),
            ("crashkernel=512M,high crashkernel=0,low", 8 * GIB, (512, None, true, 0, 0)),
            ("crashkernel=72M,low crashkernel=1G,high", 8 * GIB, (1024, None, true, 72, 0)),
            // A plain value hides the others.
            ("crashkernel=128M crashkernel=512M,high crashkernel=72M,low", 8 * GIB, (128, None, false, 0, 0)),
            ("crashkernel=128M crashkernel=1G,cma", 8 * GIB, (128, None, false, 0, 1024)),
            ("crashkernel=128M crashkernel=bad,cma", 8 * GIB, (128, None, false, 0, 0)),
        ] {
            assert_eq!(mib(cmdline, ram), expected, "{cmdline}");
        }
        for silent in ["", "quiet", "crashkernel", "crashkernel=64M,low", "crashkernel=64M,cma"] {
            assert_eq!(read(silent, GIB), Ok(None), "{silent}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_and_where() {
        for (cmdline, position, word) in [
            ("crashkernel=", 12, "memory size expected, not the end"),
            ("crashkernel=256MB", 16, "unrecognized character 'B'"),
            ("ro crashkernel=auto", 15, "memory size expected, not 'a'"),
            ("crashkernel=1G", 12, "not below"),
            ("crashkernel=0", 12, "zero"),
            ("crashkernel=M", 12, "zero"),
            ("crashkernel=2G-:64M", 12, "zero"),
            ("crashkernel=256M,high@1G", 16, "unrecognized character ','"),
            ("crashkernel=2G-1G:64M", 17, "not above its start"),
            ("crashkernel=1G:64M", 14, "'-' expected, not ':'"),
            ("crashkernel=1G-2G", 14, "unrecognized"),
            ("crashkernel=1G-2G,4G-:64M", 17, "':' expected, not ','"),
            // The size of a range before the one that matches is checked too.
            ("crashkernel=0-512M:2G,512M-:64M", 21, "not below"),
            ("crashkernel=0-:64M@x", 19, "memory size expected, not 'x'"),
            ("crashkernel=0,high", 12, "zero"),
            ("crashkernel=64M,high crashkernel=x,low", 33, "memory size expected"),
            // A broken plain value does not fall back to ',high'.
            ("crashkernel=64MB crashkernel=64M,high", 15, "unrecognized"),
        ] {
            let refusal = read(cmdline, GIB).expect_err(cmdline);
            assert!(refusal.reason.contains(word), "{cmdline}: {refusal}");
            assert_eq!(refusal.position, position, "{cmdline}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(crashkernel=|[0-9xKMGT@:,. -]|high|low|cma|é){0,12}", ram: u64) {
            let outcome = read(&text, ram);
            prop_assert_eq!(outcome == Ok(None), last(&text, None).is_none() && last(&text, Some(",high")).is_none());
        }
    }
}
