//! Rows as small integers times the 8-bit forms of many inputs.
//!
//! A panel holds 32 rows, unpacked once for a whole batch. A weight with code
//! `q` in half `h` of a block of 32 is `w = s f_h q - m_h` with a small integer
//! `f_h`, so that with the codes `x` of an input and their scale `dx` a block
//! adds
//!
//! ```text
//! dx s sum_h f_h sum(q x) - sum_h m_h dx sum(x)
//! ```
//!
//! to a row's output. The sums of products are integers, and each output is one
//! chain of float operations over the blocks in order, whatever is computed
//! beside it: an input's results do not depend on the batch it is in.
#![allow(unsafe_code)] // calls to functions compiled for detected CPU features

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

use super::activation::quantize_lanes;
use super::integer::codes::BLOCK;
use crate::simd::{Level, multiversion};
use rayon::prelude::*;

/// Rows of a panel.
pub(crate) const ROWS: usize = 32;
/// Blocks that are multiplied with all inputs before the next ones: 20 KiB,
/// which stay in a first cache.
const DEPTH: usize = 12;
/// Inputs that one task rounds.
const TASK: usize = 8;

/// A block of 32 columns of all rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// Codes in groups of four columns, rows side by side.
    codes: [[[u8; 4]; ROWS]; 8],
    /// `f_h`, in both halves of a word ([`factor`]).
    pub(super) factors: [[u32; ROWS]; 2],
    pub(super) scales: [f32; ROWS],
    pub(super) minus: [[f32; ROWS]; 2],
}

/// A factor as a panel holds it.
#[inline(always)]
pub(super) const fn factor(factor: u32) -> u32 {
    factor * 0x1_0001
}

const EMPTY: Block = Block {
    codes: [[[0; 4]; ROWS]; 8],
    factors: [[0; ROWS]; 2],
    scales: [0.0; ROWS],
    minus: [[0.0; ROWS]; 2],
};

/// Of a block of a row: `w = scale * factor * code - minus`, by halves.
#[derive(Clone, Copy, Default)]
pub(super) struct BlockScales {
    pub(super) factors: [u8; 2],
    pub(super) scale: f32,
    pub(super) minus: [f32; 2],
}

/// Up to 32 rows of a matrix, unpacked to small integers; those that are missing
/// are zeros.
#[derive(Clone, Debug)]
pub struct Panel {
    blocks: Vec<Block>,
    level: Level,
}

impl Panel {
    /// For rows of `cols` columns, multiplied at `level`.
    pub(crate) fn new(cols: usize, level: Level) -> Self {
        Self { blocks: vec![EMPTY; cols.div_ceil(BLOCK)], level }
    }

    /// Bytes of one.
    pub(crate) const fn bytes(cols: usize) -> usize {
        cols.div_ceil(BLOCK) * size_of::<Block>()
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.blocks.fill(EMPTY);
    }

    /// Whether products take codes as signed bytes; else they are unsigned.
    pub(super) const fn signed(&self) -> bool {
        !matches!(self.level, Level::Avx2 | Level::Avx512)
    }

    /// Whether factors are multiplied into the codes.
    const fn folded(&self) -> bool {
        matches!(self.level, Level::Avx512)
    }

    /// Puts the codes of block `at` of row `row`, eight to a word, behind their
    /// scales: up to 31 with products of AVX2, and below 256 with their factors.
    #[inline(always)]
    pub(super) fn put_codes(&mut self, row: usize, at: usize, codes: [u64; 4]) {
        let folded = self.folded();
        let (Some(block), row) = (self.blocks.get_mut(at), row % ROWS) else { return };
        for (i, word) in codes.into_iter().enumerate() {
            let factor = u64::from(block.factors[i / 2][row] & 0xff);
            // Products stay in their bytes.
            let word = if folded { word.wrapping_mul(factor) } else { word };
            let [first, second] = [word as u32, (word >> 32) as u32].map(u32::to_le_bytes);
            block.codes[2 * i][row] = first;
            block.codes[2 * i + 1][row] = second;
        }
    }

    /// Puts the scales of block `at` of row `row`.
    #[inline(always)]
    pub(super) fn put_scales(&mut self, row: usize, at: usize, from: BlockScales) {
        let (Some(block), row) = (self.blocks.get_mut(at), row % ROWS) else { return };
        for h in 0..2 {
            block.factors[h][row] = factor(from.factors[h].into());
            block.minus[h][row] = from.minus[h];
        }
        block.scales[row] = from.scale;
    }

    /// Blocks from `at` on.
    #[inline(always)]
    pub(super) fn blocks_from(&mut self, at: usize) -> &mut [Block] {
        self.blocks.get_mut(at..).unwrap_or_default()
    }

    /// Puts the codes of block `at` of all rows, behind their scales: the low four
    /// bits of 16 bytes, then the high ones.
    #[inline(always)]
    pub(super) fn put_nibbles(&mut self, at: usize, rows: &[[u8; 16]; ROWS]) {
        const LOW: u32 = 0x0f0f_0f0f;
        let folded = self.folded();
        let Some(block) = self.blocks.get_mut(at) else { return };
        let [firsts, seconds] = &block.factors;
        let (low, high) = block.codes.split_at_mut(4);
        for w in 0..4 {
            for r in 0..ROWS {
                let word = u32::from_le_bytes(rows[r].as_chunks::<4>().0[w]);
                let (mut first, mut second) = (word & LOW, word >> 4 & LOW);
                if folded {
                    first = first.wrapping_mul(firsts[r] & 0xff);
                    second = second.wrapping_mul(seconds[r] & 0xff);
                }
                low[w][r] = first.to_le_bytes();
                high[w][r] = second.to_le_bytes();
            }
        }
    }
}

/// A block of 32 values of an input: `x ~ scale * code`, and the sums of both
/// halves' `scale * code`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Input {
    codes: [i8; BLOCK],
    scale: f32,
    sums: [f32; 2],
}

/// A batch of inputs, rounded to 8 bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    blocks: Vec<Input>,
    /// Blocks of an input.
    per_input: usize,
}

impl Inputs {
    /// Takes the inputs of `cols` values each that `x` holds.
    pub(crate) fn fill(&mut self, x: &[f32], cols: usize) {
        let cols = cols.max(1);
        self.per_input = cols.div_ceil(BLOCK);
        self.blocks.resize(x.len() / cols * self.per_input, Input::default());
        let tasks = self.blocks.par_chunks_mut(TASK * self.per_input).zip(x.par_chunks(TASK * cols));
        tasks.for_each(|(blocks, x)| {
            for (blocks, x) in blocks.chunks_exact_mut(self.per_input).zip(x.chunks_exact(cols)) {
                round(x, blocks);
            }
        });
    }

    /// Bytes of one input.
    pub(crate) const fn bytes(cols: usize) -> usize {
        cols.div_ceil(BLOCK) * size_of::<Input>()
    }
}

multiversion! {
    /// Rounds an input.
    fn round(x: &[f32], blocks: &mut [Input]) = round_lanes;
}

#[inline(always)]
fn round_lanes(x: &[f32], blocks: &mut [Input]) {
    for (block, x) in blocks.iter_mut().zip(x.chunks(BLOCK)) {
        let Input { codes, scale, sums } = block;
        quantize_lanes(x, codes, std::slice::from_mut(scale), sums);
    }
}

/// The instructions that [`multiply`] uses at `level`.
pub(crate) const fn method(level: Level) -> &'static str {
    match level {
        Level::Scalar => "scalar",
        Level::Avx2 => "avx2-maddubs",
        Level::Avx512 => "avx512-vnni",
        Level::Neon => "neon-dotprod",
    }
}

/// `out[i][r] = row r . input i`; no numbers where sizes do not go together or
/// the CPU lacks the panel's level.
pub(crate) fn multiply(panel: &Panel, inputs: &Inputs, out: &mut [[f32; ROWS]]) {
    let per_input = inputs.per_input;
    let fits = per_input == panel.blocks.len() && per_input * out.len() == inputs.blocks.len();
    if !fits || !panel.level.is_supported() {
        out.fill([f32::NAN; ROWS]);
        return;
    }
    out.fill([0.0; ROWS]);
    for (i, blocks) in panel.blocks.chunks(DEPTH).enumerate() {
        let x = Columns { blocks: &inputs.blocks, first: i * DEPTH, per_input };
        match panel.level {
            // SAFETY: the CPU supports the level, as was asked above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::multiply(blocks, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::multiply(blocks, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::multiply(blocks, x, out) },
            _ => scalar(blocks, x, out),
        }
    }
}

/// Blocks `first..` of all inputs.
#[derive(Clone, Copy)]
struct Columns<'a> {
    blocks: &'a [Input],
    first: usize,
    per_input: usize,
}

impl<'a> Columns<'a> {
    /// The first `count` of them, of `T` inputs from `input` on; `None` unless all
    /// are there.
    fn tile<const T: usize>(self, input: usize, count: usize) -> Option<[&'a [Input]; T]> {
        let mut tile = [&[][..]; T];
        for (t, blocks) in tile.iter_mut().enumerate() {
            let start = (input + t) * self.per_input + self.first;
            *blocks = self.blocks.get(start..start + count)?;
        }
        Some(tile)
    }
}

/// Calls `$tile::<T>(panel, inputs, out)` for all inputs, in tiles of the sizes
/// given, largest first.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! tiles {
    ($tile:ident, $blocks:ident, $x:ident, $out:ident, $($size:literal)*) => {
        let mut done = 0;
        $(
            while let Some(out) = $out.get_mut(done..).and_then(|o| o.first_chunk_mut::<$size>()) {
                let Some(x) = $x.tile::<$size>(done, $blocks.len()) else { return };
                $tile::<$size>($blocks, x, out);
                done += $size;
            }
        )*
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use tiles;

/// The reference.
fn scalar(panel: &[Block], x: Columns<'_>, out: &mut [[f32; ROWS]]) {
    for (i, out) in out.iter_mut().enumerate() {
        let Some([x]) = x.tile::<1>(i, panel.len()) else { return };
        for (block, x) in panel.iter().zip(x) {
            for (r, out) in out.iter_mut().enumerate() {
                let mut dots = [0i32; 2];
                for (w, x) in x.codes.as_chunks::<4>().0.iter().enumerate() {
                    for (q, x) in block.codes[w][r].iter().zip(x) {
                        dots[w / 4] += i32::from(q.cast_signed()) * i32::from(*x);
                    }
                }
                let factor = |h: usize| (block.factors[h][r] & 0xffff) as i32;
                let dot = (dots[0] * factor(0) + dots[1] * factor(1)) as f32;
                *out += block.scales[r] * x.scale * dot;
                *out -= block.minus[0][r] * x.sums[0];
                *out -= block.minus[1][r] * x.sums[1];
            }
        }
    }
}
