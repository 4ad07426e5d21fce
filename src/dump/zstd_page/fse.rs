//! Finite state entropy: RFC 8878, 4.1.

use super::Log2;
use super::bits::{Bits, Buffer};

/// The largest table's states, as a power of two. More of them save less than their making takes.
const MAX_LOG: u32 = 6;
const MAX_STATES: usize = 1 << MAX_LOG;

/// How many of `1 << log` states each symbol has; -1 for one that comes less than once.
pub struct Shares {
    log: u32,
    of: [i16; 64],
    symbols: usize,
}

/// An encoding table.
pub struct Table {
    log: u32,
    next: [u16; MAX_STATES],
    /// For each symbol what tells its count of bits, and where its states begin.
    symbols: [(u32, i32); 64],
}

impl Shares {
    /// Shares that are given, of `1 << log`.
    pub fn given(shares: &[i8], log: u32) -> Self {
        let mut of = [0; 64];
        for (of, share) in of.iter_mut().zip(shares) {
            *of = i16::from(*share);
        }
        Self { log, of, symbols: shares.len() }
    }

    /// Those of `counts`, at least two of which are not 0 and which make `total`.
    pub fn of(counts: &[u16], total: u32) -> Self {
        let least = (total.ilog2() + 1).min((counts.len() as u32 - 1).max(1).ilog2() + 2);
        let log = (total - 1).max(1).ilog2().saturating_sub(2).max(least).clamp(5, MAX_LOG);
        let mut of = [0; 64];
        let (mut left, mut largest, mut most) = (1 << log, 0, 0);
        let scale = (1u64 << (32 + log)) / u64::from(total);
        for (symbol, count) in counts.iter().enumerate() {
            if *count == 0 {
                continue;
            }
            let share = ((u64::from(*count) * scale + (1 << 31)) >> 32).max(1) as i16;
            of[symbol] = share;
            left -= share;
            if *count > most {
                (most, largest) = (*count, symbol);
            }
        }
        if left > 0 || -left < of[largest] / 2 {
            of[largest] += left;
        } else {
            // Rounding took too much: from the largest, one by one.
            for _ in left..0 {
                let at = (0..counts.len()).max_by_key(|symbol| of[*symbol]).unwrap_or(0);
                of[at] -= 1;
            }
        }
        Self { log, of, symbols: counts.len() }
    }

    /// What each symbol takes, in 256ths of a bit.
    pub fn cost(&self, log2: &Log2) -> [u32; 64] {
        self.of.map(|share| match share {
            0 => 1 << 20,
            share => (self.log << 8) - u32::from(log2.of(share.unsigned_abs().into())),
        })
    }

    /// Writes the description at `bytes[at]`; where it ends.
    pub fn describe(&self, bytes: &mut Buffer, at: usize) -> usize {
        let mut out = Bits::new(bytes, at);
        out.put(u64::from(self.log - 5), 4);
        let mut remaining = (1i32 << self.log) + 1;
        let mut threshold = 1i32 << self.log;
        let mut width = self.log + 1;
        let mut symbol = 0;
        while remaining > 1 {
            let share = i32::from(self.of[symbol]);
            let max = 2 * threshold - 1 - remaining;
            remaining -= share.abs();
            let mut value = share + 1;
            if value >= threshold {
                value += max;
            }
            out.put(value as u64, width - u32::from(value < max));
            out.flush();
            symbol += 1;
            if share == 0 {
                let mut zeros = self.of[symbol..].iter().take_while(|s| **s == 0).count();
                symbol += zeros;
                loop {
                    out.put(zeros.min(3) as u64, 2);
                    out.flush();
                    if zeros < 3 {
                        break;
                    }
                    zeros -= 3;
                }
            }
            while remaining < threshold {
                width -= 1;
                threshold >>= 1;
            }
        }
        out.pad()
    }
}

impl Table {
    pub fn empty() -> Self {
        Self { log: 0, next: [0; MAX_STATES], symbols: [(0, 0); 64] }
    }

    /// Makes it the table of `shares`.
    pub fn fill(&mut self, shares: &Shares) {
        let log = shares.log;
        let size = 1usize << log;
        self.log = log;
        let mut spread = [0u8; MAX_STATES];
        let mut order = [0u8; MAX_STATES + 8];
        let mut starts = [0u16; 64];
        let (mut total, mut listed, mut high) = (0, 0, size - 1);
        for (symbol, share) in shares.of[..shares.symbols].iter().copied().enumerate() {
            starts[symbol] = total as u16;
            if share == -1 {
                spread[high % MAX_STATES] = symbol as u8;
                high = high.wrapping_sub(1);
            } else {
                // Eight at once: what is too much is written over by the next.
                for at in (0..share.max(1) as usize).step_by(8) {
                    let at = (listed + at) % MAX_STATES;
                    order[at..at + 8].fill(symbol as u8);
                }
                listed += share as usize;
            }
            let share = u32::from(share.unsigned_abs());
            let most = log - share.saturating_sub(1).max(1).ilog2();
            self.symbols[symbol] = ((most << 16).wrapping_sub(share << most), total as i32 - share as i32);
            total += share as usize;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut place = 0;
        for symbol in &order[..listed.min(MAX_STATES)] {
            spread[place % MAX_STATES] = *symbol;
            place = (place + step) & (size - 1);
            while place > high {
                place = (place + step) & (size - 1);
            }
        }
        for (state, symbol) in spread[..size].iter().enumerate() {
            let start = &mut starts[usize::from(*symbol % 64)];
            self.next[usize::from(*start) % MAX_STATES] = (size + state) as u16;
            *start += 1;
        }
    }

    /// Makes it a table of one state, for one symbol that takes no bits.
    pub fn single(&mut self, symbol: usize) {
        self.log = 0;
        self.next[0] = 1;
        self.symbols[symbol & 63] = (0u32.wrapping_sub(1), -1);
    }

    /// The state from which a reader's first symbol is `symbol`.
    #[inline(always)]
    pub fn begin(&self, symbol: u8) -> u32 {
        let (delta, from) = self.symbols[usize::from(symbol & 63)];
        let bits = delta.wrapping_add(1 << 15) >> 16;
        let value = (bits << 16).wrapping_sub(delta);
        self.step(value >> bits, from)
    }

    #[inline(always)]
    fn step(&self, value: u32, from: i32) -> u32 {
        u32::from(self.next[(value as i32 + from) as usize & (MAX_STATES - 1)])
    }

    /// What leads to `state` from the state before it, which it becomes: a value whose low bits are meant, and how many.
    #[inline(always)]
    pub fn next(&self, state: &mut u32, symbol: u8) -> (u64, u32) {
        let (delta, from) = self.symbols[usize::from(symbol & 63)];
        let (value, bits) = (*state, state.wrapping_add(delta) >> 16);
        *state = self.step(value >> (bits & 31), from);
        (value.into(), bits)
    }

    /// Writes what leads to `state` from the state before it, which it becomes.
    #[inline(always)]
    pub fn put(&self, state: &mut u32, symbol: u8, out: &mut Bits<'_>) {
        let (value, bits) = self.next(state, symbol);
        out.put(value, bits);
    }

    /// Writes the state itself.
    #[inline(always)]
    pub fn end(&self, state: u32, out: &mut Bits<'_>) {
        out.put(u64::from(state), self.log);
    }
}
