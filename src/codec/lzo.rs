//! LZO1X (`Documentation/staging/lzo.rst`; the format of bitstream version 0, which is what lzop and liblzo2 write).
//!
//! Output grows as it is decoded: no announced size is believed before its bytes are there.

/// What is wrong with a block.
type Fault = &'static str;

const SHORT: Fault = "it ends early";

/// What is left of the input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.first_chunk().copied().ok_or(SHORT)
    }

    pub(crate) fn byte(&mut self) -> Result<usize, Fault> {
        self.array::<1>().map(|[byte]| usize::from(byte))
    }

    /// A number that may not fit its instruction: 0 there says `base` plus what follows, 255 for each zero byte.
    fn length(&mut self, bits: usize, base: usize) -> Result<usize, Fault> {
        if bits != 0 {
            return Ok(bits);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.saturating_add(255),
                last => return Ok(length.saturating_add(last)),
            }
        }
    }

    /// Distance (less one, or its low part) and literals behind the match: 14 and 2 bits.
    fn distance(&mut self) -> Result<(usize, usize), Fault> {
        let word = usize::from(u16::from_le_bytes(self.array()?));
        Ok((word >> 2, word & 3))
    }
}

/// Decodes a block behind `out`, which must then be `end` bytes long.
///
/// # Errors
/// What is wrong with the block, as the end of a sentence; `out` then holds a part of it.
pub fn decode(packed: &[u8], out: &mut Vec<u8>, end: usize) -> Result<(), Fault> {
    let start = out.len();
    let mut input = Input(packed);
    // Literals copied by the last instruction: 0 to 3 with a match, 4 for a run of its own.
    let mut state = 0;
    if let Some(first) = packed.first().copied().map(usize::from).filter(|first| *first > 17) {
        input.byte()?;
        let count = first.saturating_sub(17);
        literals(&mut input, count, out, end)?;
        state = count.min(4);
    }
    loop {
        let op = input.byte()?;
        // Low bits of the distance in an instruction of two bytes.
        let low = op >> 2;
        let (len, distance, after) = match op {
            0..=15 if state == 0 => {
                let count = input.length(op, 15)?.saturating_add(3);
                literals(&mut input, count, out, end)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let distance = (input.byte()? << 2).saturating_add(low);
                if state == 4 {
                    (3, distance.saturating_add(2049), op & 3)
                } else {
                    (2, distance.saturating_add(1), op & 3)
                }
            }
            16..=31 => {
                let len = input.length(op & 7, 7)?;
                let (distance, after) = input.distance()?;
                let distance = distance.saturating_add((op & 8) << 11);
                if distance == 0 {
                    let whole = input.0.is_empty() && out.len() == end;
                    return if whole { Ok(()) } else { Err("a block ends at the wrong place") };
                }
                (len.saturating_add(2), distance.saturating_add(0x4000), after)
            }
            32..=63 => {
                let len = input.length(op & 31, 31)?;
                let (distance, after) = input.distance()?;
                (len.saturating_add(2), distance.saturating_add(1), after)
            }
            _ => {
                let distance = (input.byte()? << 3).saturating_add(low & 7);
                ((op >> 5).saturating_add(1), distance.saturating_add(1), op & 3)
            }
        };
        copy(len, distance, start, out, end)?;
        literals(&mut input, after, out, end)?;
        state = after;
    }
}

fn literals(input: &mut Input, count: usize, out: &mut Vec<u8>, end: usize) -> Result<(), Fault> {
    let bytes = input.take(count)?;
    if end.saturating_sub(out.len()) < count {
        return Err("a block unpacks to more than it announces");
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Repeats `len` bytes from `distance` back; they may overlap what they make.
fn copy(len: usize, distance: usize, start: usize, out: &mut Vec<u8>, end: usize) -> Result<(), Fault> {
    let from = out.len().checked_sub(distance).filter(|from| *from >= start);
    let from = from.ok_or("a match begins before its block")?;
    if end.saturating_sub(out.len()) < len {
        return Err("a block unpacks to more than it announces");
    }
    let mut left = len;
    while left > 0 {
        let now = left.min(out.len().saturating_sub(from));
        out.extend_from_within(from..from.saturating_add(now));
        left = left.saturating_sub(now);
    }
    Ok(())
}
