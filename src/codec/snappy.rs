//! Snappy's block format (google/snappy, `format_description.txt`), without the framing.
//!
//! Output grows as it is decoded: no announced size is believed before its bytes are there.

const SHORT: &str = "it ends early";

/// Decodes a block behind `out`, which must then be `end` bytes long.
///
/// # Errors
/// What is wrong with the block, as the end of a sentence; `out` then holds a part of it.
pub fn decode(packed: &[u8], out: &mut Vec<u8>, end: usize) -> Result<(), &'static str> {
    let start = out.len();
    let (announced, mut rest) = length(packed).ok_or(SHORT)?;
    if start.checked_add(announced) != Some(end) {
        return Err("it announces another size");
    }
    while let Some((tag, behind)) = rest.split_first() {
        let (tag, upper) = (tag & 3, usize::from(tag >> 2));
        // A literal's length has up to 4 bytes of its own, a copy's distance 1, 2 or 4.
        let bytes = match (tag, upper) {
            (0, 60..) => upper.saturating_sub(59),
            (0, _) => 0,
            (1, _) => 1,
            (2, _) => 2,
            _ => 4,
        };
        let (number, behind) = behind.split_at_checked(bytes).ok_or(SHORT)?;
        let number = number.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
        if tag == 0 {
            let len = if bytes == 0 { upper } else { number }.saturating_add(1);
            let (literal, behind) = behind.split_at_checked(len).ok_or(SHORT)?;
            room(out, end, len)?;
            out.extend_from_slice(literal);
            rest = behind;
            continue;
        }
        let (len, distance) = match tag {
            1 => ((upper & 7).saturating_add(4), (upper >> 3) << 8 | number),
            _ => (upper.saturating_add(1), number),
        };
        room(out, end, len)?;
        let from = out.len().checked_sub(distance).filter(|from| *from >= start && distance != 0);
        let from = from.ok_or("a copy begins before its block")?;
        let mut left = len;
        while left > 0 {
            let now = left.min(out.len().saturating_sub(from));
            out.extend_from_within(from..from.saturating_add(now));
            left = left.saturating_sub(now);
        }
        rest = behind;
    }
    if out.len() == end { Ok(()) } else { Err(SHORT) }
}

/// The size in front: 7 bits a byte, the lowest first, 32 in all.
fn length(packed: &[u8]) -> Option<(usize, &[u8])> {
    let mut size = 0usize;
    for shift in [0u32, 7, 14, 21, 28] {
        let at = usize::try_from(shift.checked_div(7)?).ok()?;
        let byte = *packed.get(at)?;
        size |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((size, packed.get(at.checked_add(1)?..)?));
        }
    }
    None
}

fn room(out: &[u8], end: usize, len: usize) -> Result<(), &'static str> {
    if end.saturating_sub(out.len()) < len { Err("it unpacks to more than it announces") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(packed: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
        let mut out = b"before".to_vec();
        decode(packed, &mut out, 6usize.saturating_add(size))?;
        Ok(out.split_off(6))
    }

    #[test]
    fn each_kind_of_element() {
        let long = [&[0xac, 0x02, 60 << 2, 255][..], &[7; 256], &[43 << 2], &[8; 44]].concat();
        assert_eq!(decoded(&long, 300).as_deref(), Ok(&[&[7; 256][..], &[8; 44]].concat()[..]), "literals");
        let copies = [15, 2 << 2, b'a', b'b', b'c', 1 | 2 << 2, 3, 5 << 2 | 2, 1, 0];
        assert_eq!(decoded(&copies, 15).as_deref(), Ok(&b"abcabcabccccccc"[..]), "overlapping copies");
        assert_eq!(decoded(&[5, 0, b'x', 3 << 2 | 3, 1, 0, 0, 0], 5).as_deref(), Ok(&b"xxxxx"[..]), "32-bit distance");
        assert_eq!(decoded(&[0], 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn broken_blocks_end_in_words() {
        for (packed, size) in [
            (&[][..], 0),
            (&[0xff; 9][..], 5),
            (&[4, 3 << 2, b'a'], 4),
            (&[4, 0, b'a'], 4),
            (&[4, 0, b'a', 1, 2], 4),
            (&[5, 0, b'a', 1, 0], 5),
            (&[4, 0, b'a', 1 | 7 << 2, 1], 4),
            (&[4, 60 << 2], 4),
            (&[1, 63 << 2, 255, 255, 255, 255], 1),
            (&[3, 0, b'a'], 1),
        ] {
            assert!(decoded(packed, size).is_err(), "{packed:?}");
        }
    }
}
