//! Bits from the low end of each byte up, as zstd's streams are written: they are read from their end.

/// Bytes a stream may have, with those before it.
pub const ROOM: usize = 1 << 16;

/// What streams are written to: eight bytes at once, also at the last place.
pub type Buffer = [u8; ROOM + 8];

/// A stream that grows in a buffer, from a byte on.
pub struct Bits<'a> {
    bytes: &'a mut Buffer,
    at: usize,
    /// The last bits at the top, the older ones below them; at the bottom there may be anything.
    held: u64,
    /// How many, in the low eight bits.
    count: u64,
}

impl<'a> Bits<'a> {
    /// A stream whose first byte is `bytes[at]`.
    pub fn new(bytes: &'a mut Buffer, at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    /// Adds the low `count` bits of `value`, which is below `1 << 12` or has no others; at most 48 between two calls of
    /// [`Self::flush`].
    #[inline(always)]
    pub fn put(&mut self, value: u64, count: u32) {
        self.held = self.held >> (count & 63) | value.rotate_right(count);
        self.count += u64::from(count);
    }

    /// Adds the bits at the top of `code`, as many as its low byte says.
    #[inline(always)]
    pub fn put_code(&mut self, code: u64) {
        self.held = self.held >> (code & 63) | code;
        self.count = self.count.wrapping_add(code);
    }

    /// Adds the bits at the top of `codes`, as many as the low six bits of `count` say.
    #[inline(always)]
    pub fn put_codes(&mut self, codes: u64, count: u64) {
        self.held = self.held >> (count & 63) | codes;
        self.count += count & 63;
    }

    /// Writes what is held in whole bytes.
    #[inline(always)]
    pub fn flush(&mut self) {
        let count = self.count & 63;
        let at = self.at % ROOM;
        self.bytes[at..at + 8].copy_from_slice(&(self.held >> 1 >> (63 - count)).to_le_bytes());
        self.at += (count >> 3) as usize;
        self.count = count & 7;
    }

    /// Ends the stream with the bit its reader looks for; where it ends.
    pub fn finish(mut self) -> usize {
        self.flush();
        self.put(1, 1);
        self.pad()
    }

    /// Ends without a mark, the last byte filled up with zeros.
    pub fn pad(mut self) -> usize {
        self.flush();
        self.at + usize::from(self.count > 0)
    }
}
