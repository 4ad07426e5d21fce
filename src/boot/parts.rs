//! A program's parts as segments of whole pages.

use super::place::{Space, Wish};
use crate::error::{Error, Kind, Result};
use crate::image::elf::Load;
use crate::mem::{Bytes, PAGE_SIZE, Range, Segment};

/// Largest copy made for parts that share pages.
const MAX_JOINED: u64 = 1 << 30;

/// The pages of `loads` (ascending, disjoint) as segments called `name`, each moved up by `delta` (modulo 2^64). Parts
/// that share a page become one segment; only those, and parts that start within a page, are copied.
///
/// # Errors
/// [`Kind::Invalid`] for parts whose pages do not fit 64 bits.
pub fn segments(loads: &[Load], delta: u64, name: &'static str) -> Result<Vec<Segment>> {
    let mut groups: Vec<(Range, Vec<&Load>)> = Vec::new();
    for load in loads {
        let range = Range::with_len(load.phys, load.len).and_then(|r| r.align_outward(PAGE_SIZE));
        let range = range.ok_or_else(|| out_of_range(load))?;
        match groups.last_mut() {
            Some((last, members)) if range.start() < last.end() => {
                *last = Range::new(last.start(), last.end().max(range.end())).unwrap_or(*last);
                members.push(load);
            }
            _ => groups.push((range, vec![load])),
        }
    }
    groups
        .into_iter()
        .map(|(range, members)| {
            let data = match members.as_slice() {
                [one] if one.phys == range.start() => one.data.clone(),
                several => joined(range, several)?,
            };
            let moved = Range::with_len(range.start().wrapping_add(delta), range.len());
            Ok(Segment { name, data, range: moved.ok_or_else(|| out_of_range_at(range))? })
        })
        .collect()
}

/// Takes the memory that segments with fixed addresses need.
///
/// # Errors
/// [`Kind::Invalid`] naming the segment whose memory is not free.
pub fn take_fixed(space: &mut Space, segments: &[Segment]) -> Result<()> {
    for s in segments {
        let wish = Wish::pages(s.range.len(), s.range);
        space.take(&format!("the part of the {} that must lie at {}", s.name, s.range), wish)?;
    }
    Ok(())
}

fn joined(range: Range, loads: &[&Load]) -> Result<Bytes> {
    let end = loads.iter().map(|l| l.phys.saturating_add(u64::try_from(l.data.len()).unwrap_or(u64::MAX))).max();
    let len = end.unwrap_or(0).saturating_sub(range.start());
    let len = usize::try_from(len).ok().filter(|_| len <= MAX_JOINED).ok_or_else(|| out_of_range_at(range))?;
    let mut bytes = vec![0; len];
    for load in loads {
        let at = usize::try_from(load.phys.saturating_sub(range.start())).unwrap_or(usize::MAX);
        if let Some(place) = at.checked_add(load.data.len()).and_then(|end| bytes.get_mut(at..end)) {
            place.copy_from_slice(&load.data);
        }
    }
    Ok(bytes.into())
}

fn out_of_range(load: &Load) -> Error {
    Error::new(Kind::Invalid, format!("a part of {:#x} bytes at {:#x} ends beyond 64 bits", load.len, load.phys))
}

fn out_of_range_at(range: Range) -> Error {
    Error::new(Kind::Invalid, format!("the kernel's parts at {range} are too large or end beyond 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(phys: u64, len: u64, data: &[u8]) -> Load {
        Load { phys, virt: 0, len, data: data.to_vec().into() }
    }

    #[test]
    fn whole_pages_stay_as_they_are_and_shared_pages_are_joined() {
        let loads = [load(0x1000, 0x1800, &[1; 0x1000]), load(0x2c00, 0x200, &[2; 8]), load(0x5010, 0x10, &[3; 4])];
        let made = segments(&loads, 0x10_0000, "kernel").expect("made");
        let ranges: Vec<String> = made.iter().map(|s| s.range.to_string()).collect();
        assert_eq!(ranges, ["0x101000-0x103000", "0x105000-0x106000"]);
        assert_eq!(made[0].data.len(), 0x1c08);
        assert_eq!((made[0].data[0], made[0].data[0x1000], made[0].data[0x1c00]), (1, 0, 2));
        assert_eq!(&made[1].data[0x0e..], [0, 0, 3, 3, 3, 3]);
        let alone = segments(&loads[..1], 0u64.wrapping_sub(0x1000), "kernel").expect("made");
        assert_eq!((alone[0].range.start(), alone[0].data.len()), (0, 0x1000));
    }

    #[test]
    fn ends_beyond_64_bits_are_refused() {
        assert!(segments(&[load(u64::MAX - 10, 5, b"")], 0, "kernel").is_err());
        assert!(segments(&[load(0x1000, 5, b"")], u64::MAX - 0x1800, "kernel").is_err());
    }
}
