//! Rows whose rounding errors are compensated ([`crate::codec::ldlq`], blocks of
//! one column, which is GPTQ).
//!
//! Blocks go from a row's last to its first: each block's scales are fitted to
//! its weights with the feedback of all errors behind it, then its columns are
//! rounded one by one. A column's rounding error costs what its pivot in D says
//! and no more, since later columns take the rest back; so rates and scales are
//! chosen by D, not by the inputs' importance.

use super::block::{BLOCK, Blocks, unpack};
use super::encode::part;
use crate::codec::integer::codes::pack_row;
use crate::codec::integer::fit::top;
use crate::codec::ldlq::{Compensated, Feedback, Grid, Line, WIDTH};
use crate::codec::stream::energy;
use crate::codec::{EncodeStats, OutputError};

/// Bytes of a row's codes of one block before they are packed: those of
/// bfloat16 are not.
const BYTES: usize = 2 * BLOCK;
/// Groups of a block, each a width of [`crate::codec::ldlq`].
const GROUPS: usize = BLOCK / WIDTH;

/// Rows of one strip.
pub(super) struct Strip<'a> {
    pub(super) values: &'a [f32],
    pub(super) cols: usize,
    pub(super) exponent: i32,
    /// Rates of its blocks, and where each block's codes begin in a row.
    pub(super) rates: &'a [u8],
    pub(super) places: &'a [usize],
    /// What an error in each column costs.
    pub(super) costs: &'a [f32],
    pub(super) feedback: &'a Feedback,
}

/// One worker's memory.
#[derive(Default)]
pub(super) struct Worker {
    rows: Compensated,
    targets: Vec<f32>,
    /// Codes of a block of every row.
    codes: Vec<u8>,
    /// Scale and subtrahend of its groups.
    lines: Vec<[(f32, f32); GROUPS]>,
}

impl Worker {
    /// Encodes a strip's rows into their `words` and `codes`; returns the first
    /// row with a number that overflows, too.
    pub(super) fn encode(
        &mut self,
        blocks: &mut Blocks,
        strip: &Strip<'_>,
        words: &mut [u8],
        codes: &mut [u8],
    ) -> (EncodeStats, Option<usize>) {
        let &Strip { values, cols, feedback, .. } = strip;
        let count = values.len() / cols;
        let (word_stride, code_stride) = (words.len() / count.max(1), codes.len() / count.max(1));
        let mut output = OutputError { signal: self.rows.begin(values, cols, feedback), noise: 0.0 };
        let mut overflow: Option<usize> = None;
        for (b, (rate, place)) in strip.rates.iter().zip(strip.places).enumerate().rev() {
            let range = b * BLOCK..(b * BLOCK + BLOCK).min(cols);
            let width = range.len();
            self.rows.aim(values, range.clone(), feedback, &mut self.targets);
            let bits = u32::from(*rate) + 2;
            let fitted = (2..=5).contains(&bits);
            if fitted {
                let bad = self.fit(blocks, strip, b, bits, words, word_stride);
                overflow = [overflow, bad].into_iter().flatten().min();
            }
            let grid = |row: usize, at: usize| match self.lines.get(row) {
                Some(groups) if fitted => {
                    let (scale, minus) = groups[at / WIDTH];
                    Grid::Line(Line { scale, minus, bias: top(bits) / 2.0, top: top(bits) })
                }
                _ => Grid::Bf16,
            };
            self.codes.clear();
            self.codes.resize(count * BYTES, 0);
            output.noise +=
                self.rows.round(values, range, feedback, &self.targets, grid, &mut self.codes, BYTES, 0);
            let rows = self.codes.chunks_exact_mut(BYTES).zip(codes.chunks_exact_mut(code_stride));
            for (row, (own, stored)) in rows.enumerate() {
                let stored = stored.get_mut(*place..).unwrap_or_default();
                if !fitted {
                    let words = own[..2 * width].as_chunks::<2>().0;
                    if words.iter().any(|w| u16::from_le_bytes(*w) & 0x7f80 == 0x7f80) {
                        overflow = [overflow, Some(row)].into_iter().flatten().min();
                    }
                    if let Some(stored) = stored.get_mut(..BYTES) {
                        stored.copy_from_slice(own);
                    }
                    continue;
                }
                // Nothing is stored of a block of zeros.
                let at = row * word_stride + 4 * b;
                if words.get(at..at + 4).is_none_or(|w| w == [0; 4]) {
                    own.fill(0);
                }
                let Some(stored) = stored.get_mut(..8 * bits as usize) else { continue };
                match bits {
                    2 => pack_row::<2>(&own[..BLOCK], stored),
                    3 => pack_row::<3>(&own[..BLOCK], stored),
                    4 => pack_row::<4>(&own[..BLOCK], stored),
                    _ => pack_row::<5>(&own[..BLOCK], stored),
                }
            }
        }
        let noise = self.rows.noise(feedback);
        output.noise = (output.noise - feedback.damping() * noise).max(0.0);
        (EncodeStats { output: Some(output), ..EncodeStats::new(energy(values), noise) }, overflow)
    }

    /// Scales for the targets of block `b` of all rows, two at a time.
    fn fit(
        &mut self,
        blocks: &mut Blocks,
        strip: &Strip<'_>,
        b: usize,
        bits: u32,
        words: &mut [u8],
        word_stride: usize,
    ) -> Option<usize> {
        let costs = part(strip.costs, b);
        let width = costs.len().max(1);
        self.lines.clear();
        let mut overflow = None;
        for (pair, targets) in self.targets.chunks(2 * width).enumerate() {
            let (first, second) = targets.split_at(width.min(targets.len()));
            let second_costs = if second.is_empty() { &[][..] } else { costs };
            blocks.load([first, second], Some([costs, second_costs]));
            let chosen = blocks.choose(bits, strip.exponent);
            let rows = chosen.words.into_iter().zip(chosen.overflow).take(targets.len() / width);
            for (i, (word, too_large)) in rows.enumerate() {
                let row = 2 * pair + i;
                if too_large && overflow.is_none() {
                    overflow = Some(row);
                }
                let at = row * word_stride + 4 * b;
                if let Some(stored) = words.get_mut(at..at + 4) {
                    stored.copy_from_slice(&word.to_le_bytes());
                }
                self.lines.push(match bits {
                    2 => unpack::<2>(word, strip.exponent),
                    3 => unpack::<3>(word, strip.exponent),
                    4 => unpack::<4>(word, strip.exponent),
                    _ => unpack::<5>(word, strip.exponent),
                });
            }
        }
        overflow
    }
}
