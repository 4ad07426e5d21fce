//! `crashkernel=` as Xen reads it (`xen/common/kexec.c: parse_crashkernel`, `xen/lib/parse-size.c`).
//!
//! Unlike Linux, Xen counts plain numbers in KiB, goes on with what it understood before an error, reads every word (a
//! later one changes only what it names), skips ranges that are too large, and does not round memory.

use super::cursor::Cursor;
use super::syntax::{Remark, Reservation, Verdict};

const NAME: &str = "crashkernel";
/// Ranges that Xen has room for.
const RANGES: usize = 16;
/// Bytes of a word that Xen looks at.
const WORD: usize = 127;

#[derive(Default)]
struct State {
    size: u64,
    start: u64,
    limit: Option<u64>,
    /// Start, end, size, and where it is in the text.
    ranges: Vec<(u64, u64, u64, usize)>,
    remarks: Vec<Remark>,
}

/// What a Xen of `ram` bytes of memory reserves for `cmdline`, its own command line.
pub fn xen(cmdline: &str, ram: u64) -> Verdict {
    let mut state = State::default();
    let (mut asked, mut at, mut last) = (false, 0_usize, 0);
    for word in cmdline.split(' ') {
        let end = at.saturating_add(word.len().min(WORD));
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let value_at = at.saturating_add(key.len()).saturating_add(1);
        at = at.saturating_add(word.len()).saturating_add(1);
        let line = cmdline.get(..end).unwrap_or(cmdline);
        match key.strip_prefix("no-").unwrap_or(key) {
            NAME if key == NAME => state.word(Cursor::new(line, value_at), value.contains(':')),
            NAME if value.is_empty() => state.size = 0,
            _ => continue,
        }
        (asked, last) = (true, value_at.min(end));
    }
    let mut size = state.size;
    for (start, end, wanted, at) in &state.ranges {
        if size > 0 {
            break;
        }
        if *wanted >= ram {
            let reason = format!("size {wanted:#x} is not below the {ram:#x} bytes of memory; the range is skipped");
            state.remarks.push(Remark { position: *at, fault: true, reason });
        } else if (*start..*end).contains(&ram) {
            size = *wanted;
        }
    }
    let silent = state.remarks.is_empty();
    let mut note = |fault, reason: &str| state.remarks.push(Remark { position: last, fault, reason: reason.into() });
    let limit = state.limit.filter(|_| state.start == 0);
    let room = limit.unwrap_or(u64::MAX).min(ram.saturating_add(1 << 30));
    if size >= ram || state.start.saturating_add(size) > ram.saturating_add(1 << 40) {
        note(true, "there is not as much memory on this machine");
        size = 0;
    } else if size > room {
        note(true, "the area does not fit below its limit");
        size = 0;
    } else if asked && size == 0 && silent {
        note(false, "it comes to no memory on this machine");
    } else if !state.start.is_multiple_of(64 << 20) {
        note(false, "put the area at a multiple of 64M: not every crash kernel can be moved in smaller steps");
    }
    state.remarks.sort_by_key(|r| !r.fault);
    let offset = Some(state.start).filter(|s| size > 0 && *s != 0);
    let below = limit.filter(|_| size > 0);
    let reservation = Reservation { size, offset, below, xen: true, ..Reservation::default() };
    Verdict { asked, reservation, remarks: state.remarks }
}

impl State {
    fn word(&mut self, mut cur: Cursor<'_>, ranges: bool) {
        let goes_on = if ranges { self.ranges(&mut cur) } else { self.simple(&mut cur) };
        let limit = match cur.peek() {
            _ if !goes_on => return,
            b'@' => false,
            b'<' => true,
            b',' if cur.sees(",below=") => {
                cur.at = cur.at.saturating_add(6);
                true
            }
            0 => return,
            _ => {
                if self.remarks.is_empty() {
                    self.remarks.push(cur.unrecognized());
                }
                return;
            }
        };
        cur.skip();
        let value = self.value(&mut cur).unwrap_or(0);
        if limit {
            self.limit = Some(value);
        } else {
            self.start = value;
        }
    }

    fn simple(&mut self, cur: &mut Cursor<'_>) -> bool {
        let size = self.value(cur);
        self.size = size.unwrap_or(0);
        size.is_some()
    }

    /// A number; what is wrong goes to the remarks.
    fn value(&mut self, cur: &mut Cursor<'_>) -> Option<u64> {
        let value = cur.xen_memory();
        value.map_err(|remark| self.remarks.push(remark)).ok()
    }

    /// Reads ranges; whether what follows is looked at.
    fn ranges(&mut self, cur: &mut Cursor<'_>) -> bool {
        self.ranges.clear();
        loop {
            let full = self.ranges.len() >= RANGES;
            let behind = !self.ranges.is_empty();
            let below = behind && cur.sees(",below=");
            if full {
                self.remarks.push(cur.fault(format!("more than {RANGES} ranges; the rest is ignored")));
                return true;
            }
            if below {
                // Its first letter is taken for the unit of a number without digits.
                self.remarks.push(cur.fault("Xen does not know ',below=' behind ranges and ignores it; use '<'"));
                return false;
            }
            if behind {
                cur.skip();
            }
            let Some(start) = self.value(cur) else { return false };
            let mut end = u64::MAX;
            let mut wrong = cur.expect(b'-').err();
            if wrong.is_none() && cur.peek() != b':' {
                let at = *cur;
                let Some(read) = self.value(cur) else { return false };
                end = read;
                if end <= start {
                    wrong = Some(at.fault(format!("range ends at {end:#x}, not above its start {start:#x}")));
                }
            }
            if let Some(remark) = wrong.or_else(|| cur.expect(b':').err()) {
                self.remarks.push(remark);
                return true;
            }
            let at = cur.at;
            let Some(size) = self.value(cur) else { return false };
            self.ranges.push((start, end, size, at));
            if cur.peek() != b',' {
                return true;
            }
        }
    }
}
