//! Bounded integer sequence encoding (Khronos Data Format 1.3, ASTC §23.11 and
//! §23.12): numbers of a range packed as bits, with trits shared by five or
//! quints shared by three.

/// A range of integers `0..(1 | 3 | 5) << bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// `0..1 << bits`.
    Bits(u8),
    /// `0..3 << bits`.
    Trits(u8),
    /// `0..5 << bits`.
    Quints(u8),
}

impl Range {
    /// Plain low bits of each number.
    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::Bits(b) | Self::Trits(b) | Self::Quints(b) => b as u32,
        }
    }

    /// Numbers in the range.
    pub(super) const fn len(self) -> usize {
        (match self {
            Self::Bits(_) => 1,
            Self::Trits(_) => 3,
            Self::Quints(_) => 5,
        }) << self.bits()
    }

    /// Bits that `count` numbers take.
    pub(super) const fn size(self, count: u32) -> u32 {
        count * self.bits()
            + match self {
                Self::Bits(_) => 0,
                Self::Trits(_) => (8 * count).div_ceil(5),
                Self::Quints(_) => (7 * count).div_ceil(3),
            }
    }

    /// Unpacks `out.len()` numbers from the low bits of `word`; bits past
    /// [`Range::size`] count as zero.
    #[inline]
    pub(super) fn unpack(self, word: u128, out: &mut [u8]) {
        let word = word & !(u128::MAX << self.size(out.len() as u32).min(127));
        let bits = self.bits();
        let mask = (1u128 << bits) - 1;
        let (group, table): (&[u32], &[[u8; 5]]) = match self {
            Self::Bits(_) => {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = (word >> (i as u32 * bits) & mask) as u8;
                }
                return;
            }
            Self::Trits(_) => (&TRIT_PARTS, &TRITS),
            Self::Quints(_) => (&QUINT_PARTS, &QUINTS),
        };
        let mut at = 0;
        for out in out.chunks_mut(group.len()) {
            let (mut low, mut packed, mut shift) = ([0u8; 5], 0usize, 0);
            for (low, part) in low.iter_mut().zip(group) {
                // Past the last number of a short group all bits are zero.
                *low = (word.checked_shr(at).unwrap_or(0) & mask) as u8;
                at += bits;
                packed |= ((word.checked_shr(at).unwrap_or(0) & ((1 << part) - 1)) as usize) << shift;
                at += part;
                shift += part;
            }
            for ((out, low), high) in out.iter_mut().zip(low).zip(table[packed]) {
                *out = high << bits | low;
            }
        }
    }

    /// Packs `numbers` into the low bits of a word.
    #[inline]
    pub(super) fn pack(self, numbers: &[u8]) -> u128 {
        let bits = self.bits();
        let mask = (1u32 << bits) - 1;
        let (mut word, mut at) = (0u128, 0);
        let (group, table, base): (&[u32], &[u8], usize) = match self {
            Self::Bits(_) => (&[0], &[0], 1),
            Self::Trits(_) => (&TRIT_PARTS, &TRITS_PACKED, 3),
            Self::Quints(_) => (&QUINT_PARTS, &QUINTS_PACKED, 5),
        };
        for numbers in numbers.chunks(group.len()) {
            let index = numbers.iter().rev().fold(0, |i, n| i * base + (usize::from(*n) >> bits));
            let mut packed = u32::from(table[if base == 1 { 0 } else { index }]);
            for (number, part) in numbers.iter().zip(group) {
                word |= u128::from(u32::from(*number) & mask) << at;
                at += bits;
                word |= u128::from(packed & ((1 << part) - 1)) << at;
                at += part;
                packed >>= part;
            }
        }
        word
    }
}

/// Bits of a packed group that follow each of its numbers' low bits.
pub(super) const TRIT_PARTS: [u32; 5] = [2, 2, 1, 2, 1];
pub(super) const QUINT_PARTS: [u32; 3] = [3, 2, 2];

/// Five trits of each byte.
pub(super) const TRITS: [[u8; 5]; 256] = trits();
/// Three quints of each 7-bit number (the last two of a row are 0).
pub(super) const QUINTS: [[u8; 5]; 128] = quints();
/// The smallest byte of each five trits, the first trit least significant.
const TRITS_PACKED: [u8; 243] = inverse(&TRITS, 3);
/// The smallest 7-bit number of each three quints.
const QUINTS_PACKED: [u8; 125] = inverse(&QUINTS, 5);

const fn trits() -> [[u8; 5]; 256] {
    let mut table = [[0; 5]; 256];
    let mut t = 0;
    while t < 256 {
        let (c, t4, t3) = if t >> 2 & 7 == 7 {
            (t >> 5 << 2 | t & 3, 2, 2)
        } else if t >> 5 & 3 == 3 {
            (t & 31, 2, t >> 7)
        } else {
            (t & 31, t >> 7, t >> 5 & 3)
        };
        let (t2, t1, t0) = if c & 3 == 3 {
            (2, c >> 4, (c >> 3 & 1) << 1 | (c >> 2 & 1 & !(c >> 3)))
        } else if c >> 2 & 3 == 3 {
            (2, 2, c & 3)
        } else {
            (c >> 4, c >> 2 & 3, (c >> 1 & 1) << 1 | (c & 1 & !(c >> 1)))
        };
        table[t] = [t0 as u8, t1 as u8, t2 as u8, t3 as u8, t4 as u8];
        t += 1;
    }
    table
}

const fn quints() -> [[u8; 5]; 128] {
    let mut table = [[0; 5]; 128];
    let mut q = 0;
    while q < 128 {
        let (q2, q1, q0) = if q >> 1 & 3 == 3 && q >> 5 == 0 {
            let low = q & 1;
            (low << 2 | (q >> 4 & 1 & !low) << 1 | (q >> 3 & 1 & !low), 4, 4)
        } else {
            let (q2, c) = if q >> 1 & 3 == 3 {
                (4, (q >> 3 & 3) << 3 | (!(q >> 5) & 3) << 1 | q & 1)
            } else {
                (q >> 5 & 3, q & 31)
            };
            if c & 7 == 5 { (q2, 4, c >> 3 & 3) } else { (q2, c >> 3 & 3, c & 7) }
        };
        table[q] = [q0 as u8, q1 as u8, q2 as u8, 0, 0];
        q += 1;
    }
    table
}

const fn inverse<const N: usize>(table: &[[u8; 5]], base: usize) -> [u8; N] {
    let mut packed = [0; N];
    let mut at = table.len();
    while at > 0 {
        at -= 1;
        let d = table[at];
        let digits = [d[4] as usize, d[3] as usize, d[2] as usize, d[1] as usize, d[0] as usize];
        let (mut index, mut i) = (0, 0);
        while i < 5 {
            index = index * base + digits[i];
            i += 1;
        }
        packed[index] = at as u8;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_group_of_trits_and_quints_packs_and_unpacks() {
        for n in 0..243u32 {
            let trits: Vec<u8> = (0..5).map(|i| (n / 3u32.pow(i) % 3) as u8).collect();
            let mut out = [9; 5];
            Range::Trits(0).unpack(Range::Trits(0).pack(&trits), &mut out);
            assert_eq!(out[..], trits);
        }
        for n in 0..125u32 {
            let quints: Vec<u8> = (0..3).map(|i| (n / 5u32.pow(i) % 5) as u8).collect();
            let mut out = [9; 3];
            Range::Quints(0).unpack(Range::Quints(0).pack(&quints), &mut out);
            assert_eq!(out[..], quints);
        }
    }

    #[test]
    fn sizes_are_the_specifications() {
        assert_eq!(
            [Range::Trits(1).size(36), Range::Quints(0).size(36), Range::Bits(2).size(36)],
            [94, 84, 72]
        );
        assert_eq!([Range::Trits(0).size(36), Range::Bits(1).size(36)], [58, 36]);
        assert_eq!(
            [Range::Trits(2).size(4), Range::Quints(1).size(8), Range::Trits(6).size(8)],
            [15, 27, 61]
        );
        assert_eq!([Range::Trits(2).len(), Range::Quints(2).len(), Range::Bits(5).len()], [12, 20, 32]);
    }

    proptest! {
        #[test]
        fn sequences_round_trip_within_their_size(kind in 0..3, bits in 0u8..6, numbers in prop::collection::vec(any::<u8>(), 1..9)) {
            let range = [Range::Bits(bits.max(1)), Range::Trits(bits), Range::Quints(bits)][kind as usize];
            let numbers: Vec<u8> = numbers.iter().map(|n| n % range.len() as u8).collect();
            let word = range.pack(&numbers);
            let size = range.size(numbers.len() as u32);
            prop_assert!(word >> size == 0);
            let mut out = vec![0; numbers.len()];
            // Foreign bits behind the sequence do not matter.
            range.unpack(word | 0x5555_u128 << size, &mut out);
            prop_assert_eq!(out, numbers);
        }
    }
}
