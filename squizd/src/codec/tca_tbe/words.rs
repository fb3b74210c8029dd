//! Bit planes and level codes as 64-bit words, for lanes that take a word as a
//! mask.

use super::decode::{Escapes, LevelBits, WORDS, bits};
use super::payload::PLANE;

/// The words of a plane of at most [`PLANE`] bytes, zeros behind them.
#[inline(always)]
pub(super) fn plane_words(plane: &[u8]) -> [u64; WORDS] {
    let mut bytes = [0; PLANE];
    if let Ok(full) = <&[u8; PLANE]>::try_from(plane) {
        bytes = *full;
    } else {
        bytes.iter_mut().zip(plane).for_each(|(to, from)| *to = *from);
    }
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Which of a plane's bits have a zero in each of `planes`, all `width` bytes
/// long; and how many.
#[inline(always)]
pub(super) fn unset<const P: usize>(planes: &[[u64; WORDS]; P], width: usize) -> ([u64; WORDS], usize) {
    let mut open = [u64::MAX; WORDS];
    for plane in planes {
        for (open, word) in open.iter_mut().zip(plane) {
            *open &= !word;
        }
    }
    if width != PLANE {
        for (q, open) in open.iter_mut().enumerate() {
            *open &= low_ones(8 * width.saturating_sub(8 * q));
        }
    }
    (open, open.iter().map(|w| w.count_ones() as usize).sum())
}

/// `count` ones, at most 64.
#[inline(always)]
fn low_ones(count: usize) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

/// The first `count` bytes of `stream` with a vector's bytes behind them, in
/// place or in `room`.
#[inline(always)]
pub(super) fn with_slack<'a>(stream: &'a [u8], count: usize, room: &'a mut Escapes) -> &'a [u8] {
    if let Some(inside) = stream.get(..count + 64) {
        return inside;
    }
    room.iter_mut().zip(stream).take(count).for_each(|(to, from)| *to = *from);
    room
}

/// Codes of a level of TBE2, 64 weights at a time.
pub(super) struct Level {
    pub(super) low: [u64; WORDS],
    pub(super) high: [u64; WORDS],
    /// The weights that the level leaves without an exponent.
    pub(super) open: [u64; WORDS],
}

impl Level {
    /// The level of `count` weights whose bits begin at bit `at`; and how many
    /// it leaves open.
    #[inline(always)]
    pub(super) fn read(levels: &LevelBits, at: usize, count: usize) -> (Self, usize) {
        let mut level = Self { low: [0; WORDS], high: [0; WORDS], open: [0; WORDS] };
        let mut left = 0;
        for i in 0..count.div_ceil(64).min(WORDS) {
            let (low, high) = (bits(levels, at + 64 * i, 64), bits(levels, at + count + 64 * i, 64));
            let open = !(low | high) & low_ones(count - 64 * i);
            (level.low[i], level.high[i], level.open[i]) = (low, high, open);
            left += open.count_ones() as usize;
        }
        (level, left)
    }
}
