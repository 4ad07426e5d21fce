//! Huffman codes of literals: RFC 8878, 4.2.

use super::Log2;
use super::bits::{Bits, Buffer};
use super::fse::{Shares, Table};

/// The longest code.
const MAX_BITS: usize = 11;

/// The codes of one page's literals.
pub struct Codes {
    /// The code at the top, its length in the low byte.
    codes: [u64; 256],
    /// A symbol's weight says how much shorter its code is than the longest: 1 for that one, 0 for no code at all.
    weights: [u8; 256],
    /// How often each weight comes before the last symbol, whose own is not written.
    per_weight: [u16; MAX_BITS + 1],
    last: usize,
    table: Table,
    /// Bits all literals take.
    pub bits: u32,
}

impl Codes {
    pub fn new() -> Self {
        Self {
            codes: [0; 256],
            weights: [0; 256],
            per_weight: [0; MAX_BITS + 1],
            last: 0,
            table: Table::empty(),
            bits: 0,
        }
    }

    /// Makes the codes for symbols that come as often as `counts` says, `total` in all; at least two of them come.
    pub fn fill(&mut self, counts: &[u16; 256], total: usize, log2: &Log2) {
        let mut used = Used { symbols: [0; 256], counts: [0; 256], lengths: [0; 256], len: 0 };
        for (symbol, count) in counts.iter().enumerate() {
            used.symbols[used.len % 256] = symbol as u8;
            used.counts[used.len % 256] = *count as i16;
            used.len += usize::from(*count > 0);
        }
        used.counts[used.len..].fill(0);
        // Shorter codes where there is less to write: they are described in less.
        let max_bits = (total.ilog2() as usize).clamp(8, MAX_BITS);
        used.give_lengths(log2.of(total), log2, max_bits);
        self.assign(&used);
    }

    fn assign(&mut self, used: &Used) {
        let (mut next, mut steps) = ([0u64; 16], [0u64; 16]);
        let (mut value, mut deepest, mut bits) = (0, 0, 0);
        let mut per_length = [0u16; 16];
        for length in (1..=MAX_BITS).rev() {
            let count =
                used.lengths[..used.padded()].iter().map(|l| u8::from(*l == length as i16)).fold(0, u8::wrapping_add);
            // All 256 of one length are counted as none.
            let count = if count == 0 && used.lengths[255] == length as i16 { 256 } else { u64::from(count) };
            if count > 0 && deepest == 0 {
                deepest = length;
            }
            per_length[length] = count as u16;
            next[length] = value << (64 - length) | length as u64;
            steps[length] = 1 << (64 - length);
            value = (value + count) >> 1;
        }
        self.last = usize::from(used.symbols[used.len - 1]);
        self.weights.fill(0);
        for at in 0..used.len {
            let (symbol, length) = (usize::from(used.symbols[at]), used.lengths[at] as usize % 16);
            bits += used.counts[at] as u32 * length as u32;
            self.weights[symbol] = (deepest + 1 - length) as u8;
            self.codes[symbol] = next[length];
            next[length] = next[length].wrapping_add(steps[length]);
        }
        self.bits = bits;
        self.per_weight = [0; MAX_BITS + 1];
        for weight in 1..=deepest {
            self.per_weight[weight] = per_length[deepest + 1 - weight];
        }
        self.per_weight[usize::from(self.weights[self.last])] -= 1;
        self.per_weight[0] = (self.last + 1 - used.len) as u16;
    }

    /// Writes the weights at `bytes[at]`; where they end, `None` if they can't be written.
    pub fn describe(&mut self, bytes: &mut Buffer, at: usize) -> Option<usize> {
        let end = self.described(bytes, at + 1);
        let weights = &self.weights[..self.last];
        let plain = weights.len().div_ceil(2);
        if let Some(end) = end
            && end - at - 1 < 128
            && (end - at - 1 < plain || weights.len() > 128)
        {
            bytes[at] = (end - at - 1) as u8;
            return Some(end);
        }
        if weights.len() > 128 {
            return None;
        }
        bytes[at] = 127 + weights.len() as u8;
        for (byte, pair) in bytes[at + 1..].iter_mut().zip(weights.chunks(2)) {
            *byte = pair[0] << 4 | pair.get(1).unwrap_or(&0);
        }
        Some(at + 1 + plain)
    }

    /// The weights by finite state entropy, with two states.
    fn described(&mut self, bytes: &mut Buffer, at: usize) -> Option<usize> {
        let weights = &self.weights[..self.last];
        let counts = &self.per_weight;
        let total = weights.len() as u32;
        let symbols = counts.iter().rposition(|c| *c > 0)? + 1;
        let most = u32::from(*counts.iter().max()?);
        if total < 3 || most == total || most == 1 {
            return None;
        }
        let shares = Shares::of(&counts[..symbols], total);
        let at = shares.describe(bytes, at);
        self.table.fill(&shares);
        let table = &self.table;
        let mut out = Bits::new(bytes, at);
        // Symbols of even places belong to the first state, which the reader begins with.
        let mut rest = weights.len();
        let mut take = || {
            rest -= 1;
            weights[rest]
        };
        let odd = weights.len() % 2 == 1;
        let (mut first, mut second);
        if odd {
            first = table.begin(take());
            second = table.begin(take());
            table.put(&mut first, take(), &mut out);
        } else {
            second = table.begin(take());
            first = table.begin(take());
        }
        let mut left = weights.len() - if odd { 3 } else { 2 };
        while left > 0 {
            table.put(&mut second, take(), &mut out);
            table.put(&mut first, take(), &mut out);
            out.flush();
            left -= 2;
        }
        table.end(second, &mut out);
        table.end(first, &mut out);
        Some(out.finish())
    }

    /// Writes `literals` as one stream at `bytes[at]`; where it ends.
    pub fn encode(&self, literals: &[u8], bytes: &mut Buffer, at: usize) -> usize {
        let mut out = Bits::new(bytes, at);
        let put = |literal: u8, out: &mut Bits<'_>| out.put_code(self.codes[usize::from(literal)]);
        let (rest, fours) = literals.as_rchunks::<4>();
        for four in fours.iter().rev() {
            // In pairs and fours first: one after the other they would wait for each other.
            let [d, c, b, a] = four.map(|literal| self.codes[usize::from(literal)]);
            let (ab, cd) = (a >> (b & 63) | b, c >> (d & 63) | d);
            let two = c.wrapping_add(d);
            out.put_codes(ab >> (two & 63) | cd, a.wrapping_add(b).wrapping_add(two));
            out.flush();
        }
        for literal in rest.iter().rev() {
            put(*literal, &mut out);
        }
        out.finish()
    }
}

/// Symbols that come, in their order.
struct Used {
    symbols: [u8; 256],
    /// How often, 0 behind the last.
    counts: [i16; 256],
    /// Of their codes, 0 behind the last.
    lengths: [i16; 256],
    len: usize,
}

impl Used {
    /// Code lengths near -log2 of each symbol's share, rounded so that they make a code: those with the largest fractions
    /// are rounded up. `log2` and `total` (its logarithm) are in 256ths. A tree is hardly better, and takes longer to grow.
    fn give_lengths(&mut self, total: u16, log2: &Log2, max_bits: usize) {
        /// Of fractions.
        const STEPS: usize = 64;
        let full = 1u32 << max_bits;
        let longest = ((max_bits as u16) << 8) - 1;
        let (mut sum, mut fractions) = (0, [0u32; STEPS]);
        let used = self.len;
        for (length, count) in self.lengths[..used].iter_mut().zip(&self.counts) {
            let bits = (total - log2.of(*count as usize)).clamp(256, longest);
            *length = bits as i16;
            let share = full >> (bits >> 8);
            sum += share;
            fractions[usize::from(bits >> 2) % STEPS] += share / 2;
        }
        let mut least = STEPS;
        while sum > full && least > 0 {
            least -= 1;
            sum -= fractions[least];
        }
        let up = ((STEPS - least) << 2) as i16;
        for length in &mut self.lengths[..used] {
            *length = (*length + up) >> 8;
        }
        // Still too much: the seldom ones get longer.
        while sum > full {
            let longer = (1..max_bits as i16).rev().find_map(|length| {
                let of = (0..used).filter(|s| self.lengths[*s] == length);
                of.min_by_key(|s| self.counts[*s]).map(|at| (at, length))
            });
            let Some((at, length)) = longer else { break };
            self.lengths[at] += 1;
            sum -= full >> (length + 1);
        }
        // What is left over goes to those that come most often.
        while sum < full {
            for length in 2..=max_bits {
                let share = full >> length;
                while full - sum >= share
                    && let Some(at) = self.most_often(length as i16)
                {
                    self.lengths[at] -= 1;
                    sum += share;
                }
            }
        }
    }

    /// Of the symbols with codes of this length the one that comes most often. Twice over all of them, without a branch: that
    /// is faster than to stop at the one.
    fn most_often(&self, length: i16) -> Option<usize> {
        let (counts, lengths) = (&self.counts[..self.padded()], &self.lengths[..self.padded()]);
        let most = counts.iter().zip(lengths).fold(0, |most: i16, (c, l)| most.max(if *l == length { *c } else { 0 }));
        let at = counts
            .iter()
            .zip(lengths)
            .zip(0i16..)
            .fold(0, |at: i16, ((c, l), i)| at.max(if (*l == length) & (*c == most) { i } else { 0 }));
        (most > 0).then_some(at as usize)
    }

    /// Their number, and a few that do not come, so that vectors are whole.
    fn padded(&self) -> usize {
        self.len.next_multiple_of(16)
    }
}
