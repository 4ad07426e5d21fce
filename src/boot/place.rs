//! Finds memory for segments.

use crate::error::{Error, Kind, Result};
use crate::mem::{PAGE_SIZE, Range, Ranges};

/// Memory not given out yet. It is given out from the top, as kexec-tools and the kernel's own loader do, unless asked
/// otherwise.
#[derive(Clone, Debug)]
pub struct Space {
    free: Ranges,
    name: &'static str,
    upwards: bool,
}

/// What a segment asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Bytes; rounded up to whole pages.
    pub len: u64,
    /// A power of two, at least a page.
    pub align: u64,
    /// Where it may lie.
    pub window: Range,
}

impl Wish {
    /// `len` bytes in whole pages anywhere in `window`.
    pub const fn pages(len: u64, window: Range) -> Self {
        Self { len, align: PAGE_SIZE, window }
    }
}

impl Space {
    /// The memory of `free`, called `name` in messages.
    pub fn new(free: Ranges, name: &'static str) -> Self {
        Self { free, name, upwards: false }
    }

    /// The same, given out from the bottom: for multiboot kernels, which look for memory of their own at the top.
    pub fn upwards(self) -> Self {
        Self { upwards: true, ..self }
    }

    /// Keeps `range` from being given out.
    pub fn keep(&mut self, range: Range) {
        self.free.remove(range);
    }

    /// Takes memory for `what` out of the space.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with the size asked for and the largest piece there is.
    pub fn take(&mut self, what: &str, wish: Wish) -> Result<Range> {
        let fit = |hole: Range| {
            let room = hole.intersect(wish.window)?.align_inward(PAGE_SIZE);
            let len = wish.len.max(1).checked_next_multiple_of(PAGE_SIZE)?;
            let mask = wish.align.max(PAGE_SIZE).checked_sub(1)?;
            let start = match self.upwards {
                true => room.start().checked_add(mask)? & !mask,
                false => room.end().checked_sub(len)? & !mask,
            };
            Range::with_len(start, len).filter(|r| room.contains_range(*r))
        };
        let found = match self.upwards {
            true => self.free.iter().find_map(fit),
            false => self.free.iter().rev().find_map(fit),
        };
        if let Some(found) = found {
            self.free.remove(found);
            return Ok(found);
        }
        let largest = self.free.within(wish.window).iter().max_by_key(|r| r.len()).unwrap_or_default();
        let text = format!(
            "no room for {what} ({:#x} bytes) in {}: the largest free piece is {largest}, {:#x} bytes",
            wish.len,
            self.name,
            largest.len()
        );
        Err(Error::new(Kind::Invalid, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).expect("ordered")
    }

    #[test]
    fn the_highest_fitting_place_is_taken_and_remembered() {
        let free = [range(0x1000, 0x9000), range(0x10_0000, 0x14_0000)].into_iter().collect();
        let mut space = Space::new(free, "RAM");
        let all = range(0, u64::MAX);
        assert_eq!(space.take("a", Wish::pages(1, all)).expect("fits"), range(0x13_f000, 0x14_0000));
        let aligned = Wish { len: 0x1800, align: 0x1_0000, window: all };
        assert_eq!(space.take("b", aligned).expect("fits"), range(0x13_0000, 0x13_2000));
        assert_eq!(space.take("c", Wish::pages(0x8000, range(0, 0x10_0000))).expect("fits"), range(0x1000, 0x9000));
        let e = space.take("the kernel", Wish::pages(0x10_0000, all)).expect_err("too big").to_string();
        let text = "no room for the kernel (0x100000 bytes) in RAM: the largest free piece is 0x100000-0x130000";
        assert!(e.contains(text), "{e}");
    }

    #[test]
    fn upwards_the_lowest_place_is_taken() {
        let mut space = Space::new([range(0x1000, 0x9000), range(0x10_0000, 0x14_0000)].into_iter().collect(), "RAM");
        space.keep(range(0x1000, 0x3000));
        let mut space = space.upwards();
        let all = range(0, u64::MAX);
        assert_eq!(space.take("a", Wish::pages(1, all)).expect("fits"), range(0x3000, 0x4000));
        let aligned = Wish { len: 0x1800, align: 0x2000, window: all };
        assert_eq!(space.take("b", aligned).expect("fits"), range(0x4000, 0x6000));
        assert_eq!(space.take("c", Wish::pages(0x4000, all)).expect("fits"), range(0x10_0000, 0x10_4000));
    }

    proptest! {
        #[test]
        fn what_is_given_out_is_inside_aligned_and_disjoint(
            holes in proptest::collection::vec((0u64..1 << 30, 0u64..1 << 24), 1..8),
            wishes in proptest::collection::vec((0u64..1 << 22, 12u32..22), 1..12),
        ) {
            let free: Ranges = holes.iter().filter_map(|(s, l)| Range::with_len(*s, *l)).collect();
            let mut space = Space::new(free.clone(), "RAM");
            let mut given: Vec<Range> = Vec::new();
            for (len, shift) in wishes {
                if let Ok(r) = space.take("x", Wish { len, align: 1 << shift, window: range(0, 1 << 40) }) {
                    prop_assert!(free.contains_range(r) && r.start() % (1 << shift) == 0 && r.len() >= len);
                    prop_assert!(given.iter().all(|g| !g.overlaps(r)));
                    given.push(r);
                }
            }
        }
    }
}
