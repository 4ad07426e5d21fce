//! `crashkernel=` as the Linux kernel reads it (`kernel/crash_reserve.c`, `lib/cmdline.c: memparse`).
//!
//! The kernel's rules, oddities included: the last word of a kind wins, any text that contains `crashkernel=` counts,
//! a plain value (even a broken one) hides `,high`, ranges are matched against memory rounded up to 128 MiB, and the
//! list is read only up to the first range that matches. Where the area lands is known only to the kernel: it is told
//! here as far as the amount of memory decides it.

use std::fmt;

use super::cursor::Cursor;

const NAME: &str = "crashkernel=";
const SUFFIXES: [&str; 3] = [",high", ",low", ",cma"];
const MIB: u64 = 1 << 20;
/// Below 4 GiB, at the top, devices have their addresses: this much is usually theirs.
const HOLE: u64 = 1 << 30;

/// What is reserved. Sizes in bytes, 0 where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// The main area.
    pub size: u64,
    /// The address asked for with `@`; then it is there or nowhere.
    pub offset: Option<u64>,
    /// Whether the search starts above 4 GiB (`,high`).
    pub high: bool,
    /// Whether the main area comes to lie above 4 GiB.
    pub above: bool,
    /// The additional area below 4 GiB, used only if the main one lies above.
    pub low: u64,
    /// The additional area in CMA (`,cma`).
    pub cma: u64,
    /// Xen only: the area ends below this address.
    pub below: Option<u64>,
    /// Whether it is Xen's.
    pub xen: bool,
}

/// Prints what asks for just this.
impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |bytes: u64| {
            let shift = [40, 30, 20, 10].into_iter().find(|s| bytes != 0 && bytes.trailing_zeros() >= *s);
            let unit = match shift {
                Some(40) => "T",
                Some(30) => "G",
                Some(20) => "M",
                Some(_) => "K",
                None if self.xen => "B",
                None => "",
            };
            format!("{}{unit}", bytes >> shift.unwrap_or(0))
        };
        write!(f, "{NAME}{}", number(self.size))?;
        for (sign, address) in [('@', self.offset), ('<', self.below)] {
            if let Some(address) = address {
                write!(f, "{sign}{}", number(address))?;
            }
        }
        if self.high {
            f.write_str(",high")?;
        }
        if self.above {
            write!(f, " {NAME}{},low", number(self.low))?;
        }
        if self.cma > 0 {
            write!(f, " {NAME}{},cma", number(self.cma))?;
        }
        Ok(())
    }
}

/// Something to say about the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Byte of the command line it is about.
    pub position: usize,
    /// Whether the kernel complains of it, too.
    pub fault: bool,
    /// The rule that was broken, or what to know.
    pub reason: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {} of the command line)", self.reason, self.position)
    }
}

/// What a kernel makes of its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it asks for anything.
    pub asked: bool,
    /// What is reserved; its size is 0 if nothing is.
    pub reservation: Reservation,
    /// What is wrong, faults first.
    pub remarks: Vec<Remark>,
}

impl Verdict {
    /// Whether the kernel has nothing to complain of.
    pub fn valid(&self) -> bool {
        !self.remarks.iter().any(|r| r.fault)
    }
}

/// An architecture's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// The kernel's name for it.
    pub name: &'static str,
    /// `CRASH_ALIGN`: an address given with `@` must be a multiple, bytes.
    pub align: u64,
    /// `DEFAULT_CRASH_KERNEL_LOW_SIZE`: the low area when `,low` is not given, bytes. 0 where `,high` is not known.
    pub default_low: u64,
}

/// Those with rules of their own; x86_64 (swiotlb's 64 MiB and 8 MiB more, at least 256 MiB) comes first.
pub const ARCHES: [Arch; 7] = [
    Arch { name: "x86_64", align: 16 * MIB, default_low: 256 * MIB },
    Arch { name: "aarch64", align: 2 * MIB, default_low: 128 * MIB },
    Arch { name: "riscv64", align: 2 * MIB, default_low: 128 * MIB },
    Arch { name: "loongarch64", align: 2 * MIB, default_low: 128 * MIB },
    Arch { name: "ppc64le", align: 0, default_low: 0 },
    Arch { name: "s390x", align: MIB, default_low: 0 },
    Arch { name: "ia64", align: 0, default_low: 0 },
];

/// The machine and the kernel whose rules count.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The architecture.
    pub arch: Arch,
    /// Version of Linux: what is read how has changed, and nothing but the version tells.
    pub version: (u32, u32),
    /// Memory, bytes.
    pub ram: u64,
    /// As much of it as lies below 4 GiB.
    pub ram_low: u64,
}

impl Rules {
    /// The newest kernel on x86_64 with `ram` bytes of memory, the usual hole left out below 4 GiB.
    pub fn new(ram: u64) -> Self {
        let [arch, ..] = ARCHES;
        Self { arch, version: (u32::MAX, 0), ram, ram_low: ram.min((4 << 30) - HOLE) }
    }

    /// The rules of the kernel of this release (`6.1.0-56-amd64`); the newest ones if it isn't one.
    pub fn of_release(mut self, release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) {
            self.version = (major, minor);
        }
        self
    }

    /// x86 before Linux 6.7 (`reserve_crashkernel_generic()`): whatever is wrong with a plain value, `,high` is tried, and
    /// a broken `,low` is the default.
    fn lenient(&self) -> bool {
        self.version < (6, 7) && self.arch.name == "x86_64"
    }

    /// `,cma` is of Linux 6.17; before it is a broken plain value.
    fn suffixes(&self) -> &'static [&'static str] {
        if self.version < (6, 17) { &[",high", ",low"] } else { &SUFFIXES }
    }
}

/// What a Linux kernel reserves for `cmdline`.
pub fn linux(cmdline: &str, rules: &Rules) -> Verdict {
    let mut verdict = Verdict { asked: cmdline.contains(NAME), ..Verdict::default() };
    match reservation(cmdline, rules, &mut verdict.remarks) {
        Ok(reservation) => verdict.reservation = reservation,
        Err(remark) => verdict.remarks.insert(0, remark),
    }
    verdict
}

fn reservation(cmdline: &str, rules: &Rules, remarks: &mut Vec<Remark>) -> Result<Reservation, Remark> {
    let mut found = Reservation::default();
    let known = rules.suffixes();
    let last = |suffix| last(cmdline, suffix, known);
    let (plain, high, low) = (last(None), last(Some(",high")), last(Some(",low")));
    let mut note = |at: usize, reason: &str| remarks.push(Remark { position: at, fault: false, reason: reason.into() });
    let read = plain.map(|at| self::plain(cmdline, at, rules));
    let mut at = plain.unwrap_or(0);
    found.low = rules.arch.default_low;
    match (read, high) {
        (Some(Ok((size, offset))), _) if size > 0 || high.is_none() || !rules.lenient() => {
            (found.size, found.offset) = (size, offset.filter(|o| *o != 0));
            if let Some(at) = high {
                note(at, "a plain crashkernel= on the same line hides this one");
            } else if let Some(at) = low.filter(|_| !rules.lenient()) {
                note(at, "',low' counts only beside ',high'");
            }
        }
        (Some(Err(remark)), None) => return Err(remark),
        (Some(Err(remark)), _) if !rules.lenient() => return Err(remark),
        (broken, Some(high)) if rules.arch.default_low > 0 => {
            remarks.extend(broken.and_then(Result::err));
            at = high;
            found.size = suffixed(Cursor::new(cmdline, high), ",high")?;
            found.high = true;
        }
        (None, Some(at)) => return Cursor::new(cmdline, at).refuse(format!("{} knows no ',high'", rules.arch.name)),
        _ => {
            if let Some(at) = low.or_else(|| last(Some(",cma"))) {
                note(at, "it counts only beside a main area: crashkernel=SIZE or crashkernel=SIZE,high");
            }
            return Ok(found_nothing());
        }
    }
    if let Some(low) = low.filter(|_| found.high || rules.lenient()) {
        match suffixed(Cursor::new(cmdline, low), ",low") {
            Ok(size) => found.low = size,
            Err(remark) if !rules.lenient() => return Err(remark),
            Err(remark) => remarks.push(remark),
        }
    }
    if known.len() == SUFFIXES.len()
        && let Some(cma) = last(Some(",cma"))
    {
        match suffixed(Cursor::new(cmdline, cma), ",cma") {
            Ok(size) => found.cma = size,
            Err(remark) => remarks.push(remark),
        }
    }
    let mut here = Cursor::new(cmdline, at);
    if found.size == 0 {
        let reason = format!("it comes to no memory on a machine of {:#x} bytes", rules.ram);
        remarks.push(Remark { position: at, fault: false, reason });
        return Ok(found_nothing());
    }
    if found.size >= rules.ram {
        return here.refuse(format!("size {:#x} is not below the {:#x} bytes of memory", found.size, rules.ram));
    }
    place(&mut found, rules).map_err(|reason| {
        here.at = cmdline.get(at..).and_then(|rest| rest.find('@')).map_or(at, |more| at.saturating_add(more));
        here.fault(reason)
    })?;
    Ok(found)
}

fn found_nothing() -> Reservation {
    Reservation::default()
}

/// Where it comes to lie, as far as that is certain.
fn place(found: &mut Reservation, rules: &Rules) -> Result<(), String> {
    const LIMIT: u64 = 4 << 30;
    let room_above = found.size <= rules.ram.saturating_sub(rules.ram_low) && rules.arch.default_low > 0;
    let room_below = found.size < rules.ram_low;
    // Before 6.7, x86 took any multiple of 1 MiB.
    let align = if rules.lenient() { MIB } else { rules.arch.align };
    found.above = match found.offset {
        Some(offset) => {
            if align > 0 && !offset.is_multiple_of(align) {
                return Err(format!("the address {offset:#x} is not a multiple of {} MiB", align >> 20));
            }
            let end = offset.saturating_add(found.size);
            if rules.ram <= LIMIT - HOLE && end > rules.ram {
                return Err(format!("the area ends at {end:#x}, behind the end of memory"));
            }
            if !rules.lenient() {
                found.low = 0;
            }
            offset >= LIMIT
        }
        None if !room_above && !room_below => {
            return Err(format!("{:#x} bytes fit neither below 4 GiB nor above", found.size));
        }
        None => room_above && (found.high || !room_below),
    };
    if !found.above {
        found.low = 0;
    }
    Ok(())
}

/// Byte behind the `crashkernel=` that counts: the last whose word ends in `suffix`, or in no known suffix.
fn last(cmdline: &str, suffix: Option<&str>, known: &[&str]) -> Option<usize> {
    let mut found = None;
    for (at, _) in cmdline.match_indices(NAME) {
        let word = cmdline.get(at..).unwrap_or_default().split(' ').next().unwrap_or_default();
        let counts = match suffix {
            Some(suffix) => word.ends_with(suffix),
            None => !known.iter().any(|s| word.ends_with(s)),
        };
        if counts {
            found = Some(at.saturating_add(NAME.len()));
        }
    }
    found
}

fn plain(cmdline: &str, at: usize, rules: &Rules) -> Result<(u64, Option<u64>), Remark> {
    let value = Cursor::new(cmdline, at);
    let word = cmdline.get(at..).unwrap_or_default().split(' ').next().unwrap_or_default();
    if word.contains(':') {
        return ranges(value, rules.ram);
    }
    simple(value).map_err(|mut remark| {
        if word.ends_with(",cma") {
            remark.reason = "Linux knows ',cma' from 6.17 on; here it is a broken plain value".into();
        }
        remark
    })
}

/// `SIZE[@OFFSET]`
fn simple(mut cur: Cursor<'_>) -> Result<(u64, Option<u64>), Remark> {
    let size = cur.memory()?;
    if cur.peek() == b'@' {
        cur.skip();
        // The kernel does not look at what follows an offset, nor whether one follows the '@'.
        return Ok((size, cur.memory().ok()));
    }
    if !cur.ends() {
        return Err(cur.unrecognized());
    }
    Ok((size, None))
}

/// `SIZE,high` and its kin.
fn suffixed(mut cur: Cursor<'_>, suffix: &str) -> Result<u64, Remark> {
    let size = cur.memory()?;
    for byte in suffix.bytes() {
        cur.expect(byte)?;
    }
    if !cur.ends() {
        return Err(cur.unrecognized());
    }
    Ok(size)
}

/// `START-[END]:SIZE[,…][@OFFSET]`
fn ranges(mut cur: Cursor<'_>, system_ram: u64) -> Result<(u64, Option<u64>), Remark> {
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
