//! A place in a command line, and numbers as the kernels read them there.

use super::syntax::Remark;

/// A place in the command line; reading past its end gives NUL, as in C.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Self { text: text.as_bytes(), at }
    }

    pub(super) fn peek(self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    pub(super) fn ends(self) -> bool {
        matches!(self.peek(), 0 | b' ')
    }

    pub(super) fn skip(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    pub(super) fn fault(self, reason: impl Into<String>) -> Remark {
        Remark { position: self.at, fault: true, reason: reason.into() }
    }

    pub(super) fn refuse<T>(self, reason: impl Into<String>) -> Result<T, Remark> {
        Err(self.fault(reason))
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Remark> {
        if self.peek() != byte {
            return self.refuse(format!("'{}' expected, not {}", char::from(byte), self.shown()));
        }
        self.skip();
        Ok(())
    }

    pub(super) fn unrecognized(self) -> Remark {
        self.fault(format!("unrecognized character {}", self.shown()))
    }

    pub(super) fn shown(self) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        match String::from_utf8_lossy(rest).chars().next() {
            None => "the end".into(),
            Some(c) => format!("'{c}'"),
        }
    }

    /// Whether `word` stands here.
    pub(super) fn sees(self, word: &str) -> bool {
        self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes()))
    }

    /// `simple_strtoull(…, 0)`: `0x10`, `020`, `16`. It wraps in 64 bits.
    fn number(&mut self) -> u64 {
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
        while let Some(digit) = char::from(self.peek()).to_digit(radix) {
            value = value.wrapping_mul(u64::from(radix)).wrapping_add(u64::from(digit));
            self.skip();
        }
        value
    }

    /// A number, and the letter behind it if it is one of `units`, each 1024 times the one before; `plain` is the shift
    /// of a number without. A bare letter is zero, as in the kernels.
    fn scaled(&mut self, units: &[u8], plain: u32) -> Result<u64, Remark> {
        let start = self.at;
        let value = self.number();
        let unit = units.iter().position(|u| *u == self.peek().to_ascii_uppercase());
        let shift = unit.and_then(|u| u32::try_from(u).ok()).map(|u| u.saturating_mul(10));
        if shift.is_some() {
            self.skip();
        }
        if self.at == start {
            return self.refuse(format!("memory size expected, not {}", self.shown()));
        }
        Ok(value.wrapping_shl(shift.unwrap_or(plain)))
    }

    /// Linux's `memparse()`: bytes, or with K M G T P E.
    pub(super) fn memory(&mut self) -> Result<u64, Remark> {
        // No byte of a text is this one: bytes have no letter.
        self.scaled(&[0xff, b'K', b'M', b'G', b'T', b'P', b'E'], 0)
    }

    /// Xen's `parse_size_and_unit()`: KiB, or with B K M G T.
    pub(super) fn xen_memory(&mut self) -> Result<u64, Remark> {
        self.scaled(b"BKMGT", 10)
    }
}

/// Bytes of `64G`, `64GiB`, `2048M`, `0x1000`; `None` if it is nothing of the kind.
pub fn memory_size(text: &str) -> Option<u64> {
    let mut cur = Cursor::new(text.trim(), 0);
    let size = cur.memory().ok()?;
    (cur.ends() || ["iB", "B"].iter().any(|end| cur.sees(end) && text.trim().len() == cur.at.saturating_add(end.len())))
        .then_some(size)
}
