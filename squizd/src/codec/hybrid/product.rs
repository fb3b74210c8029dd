//! Rows times the 8-bit form of an input, a strip's block at a time.
//!
//! All rows of a strip have the same rate in a block, so its inputs are prepared
//! once for all of them and one loop serves a rate. Per group of 16 weights, with
//! step `d`, scale `s`, min `m` and the input `dx u`,
//!
//! ```text
//! sum(w x) = d (s (dx sum(q u) - h dx sum(u)) - (m - 3.5) mu dx sum(u))
//! ```

use super::block::{self, BLOCK};
use super::payload::Payload;
use crate::codec::half_float::bf16_to_f32;
use crate::codec::integer::codes::fields;
use crate::codec::integer::fit::top;
use crate::codec::lanes::exp2i;
use crate::codec::{Activation, Kernel};
use crate::simd::{Level, level};
use squizd_spec::hybrid_layout::{STRIP, UNIT, UNITS};
use std::ops::Range;

/// Steps are in units of 2^`BASE` times the tensor's, so that all are normal.
pub(super) const BASE: i32 = -32;

/// Inputs of a block.
pub(super) struct Inputs<'a> {
    pub(super) codes: &'a [i8; BLOCK],
    /// Scales of its halves.
    pub(super) scales: &'a [f32; 2],
    /// Sums of 16 values.
    pub(super) sums: &'a [f32; 4],
    /// The values before rounding, which bfloat16 meets.
    pub(super) floats: &'a [f32; BLOCK],
}

/// A block of all rows wanted of a strip.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    codes: &'a [u8],
    stride: usize,
    words: &'a [u8],
    word_stride: usize,
}

impl<'a> Column<'a> {
    /// `N` bytes of codes, and the scale word, of each row.
    #[inline(always)]
    pub(super) fn rows<const N: usize>(self) -> impl Iterator<Item = (&'a [u8; N], u32)> {
        let codes = self.codes.chunks(self.stride).filter_map(|c| c.first_chunk());
        let words = self.words.chunks(self.word_stride).filter_map(|w| w.first_chunk());
        codes.zip(words.map(|w| u32::from_le_bytes(*w)))
    }
}

/// A row's sums, to be added up: those of codes in units of 2^[`BASE`] times
/// the tensor's, those of bfloat16 as they are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums {
    pub(super) coded: [f32; 16],
    pub(super) plain: [f32; 16],
}

/// The loops over the rows of a strip's block.
pub(super) trait Loops {
    /// Adds the products of codes of 2 to 5 bits, `N` bytes each.
    fn coded<const B: u32, const N: usize>(
        column: Column<'_>,
        x: &Inputs<'_>,
        steps: &[f32; 256],
        sums: &mut [Sums],
    );

    /// Adds the products of bfloat16.
    #[inline(always)]
    fn plain(column: Column<'_>, x: &Inputs<'_>, sums: &mut [Sums]) {
        for ((codes, _), sums) in column.rows::<{ 2 * BLOCK }>().zip(sums) {
            for (codes, x) in codes.as_chunks::<32>().0.iter().zip(x.floats.as_chunks::<16>().0) {
                for ((sum, word), x) in sums.plain.iter_mut().zip(codes.as_chunks().0).zip(x) {
                    *sum += bf16_to_f32(u16::from_le_bytes(*word)) * x;
                }
            }
        }
    }
}

/// Plain loops; the reference.
struct Plain;

impl Loops for Plain {
    #[inline(always)]
    fn coded<const B: u32, const N: usize>(
        column: Column<'_>,
        x: &Inputs<'_>,
        _: &[f32; 256],
        sums: &mut [Sums],
    ) {
        let half = top(B) / 2.0;
        for ((codes, word), sums) in column.rows::<N>().zip(sums) {
            let groups = block::unpack::<B>(word, BASE);
            for k in 0..2 {
                let fields = fields::<B>(codes, 2, k);
                for h in 0..2 {
                    let group = 2 * k + h;
                    let (scale, minus) = groups[group];
                    let q = fields[2 * h..].iter().flat_map(|f| f.to_le_bytes());
                    let x_codes = &x.codes[16 * group..16 * (group + 1)];
                    let dot: i32 = q.zip(x_codes).map(|(q, x)| i32::from(q) * i32::from(*x)).sum();
                    let sum = x.sums[group];
                    sums.coded[group] += scale * (x.scales[k] * dot as f32 - half * sum) - minus * sum;
                }
            }
        }
    }
}

/// The code that multiplies rows by inputs of the 8-bit precision.
pub(super) const fn kernel(asked: Level) -> Kernel {
    match asked {
        Level::Scalar => Kernel::compiled(asked),
        Level::Avx2 => Kernel::with(asked, "maddubs"),
        Level::Avx512 => Kernel::with(asked, "vnni"),
        Level::Neon => Kernel::with(asked, "dotprod"),
    }
}

/// `y[i] = dot(row rows.start + i, x)` for `x` of the 8-bit precision; NaN for
/// rows that the payload does not hold.
pub(super) fn rows(payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
    at(level(), payload, rows, x, y);
}

#[allow(unsafe_code, reason = "calls functions compiled for a level that this CPU supports")]
fn at(level: Level, payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
        each_strip::<super::x86::Avx2>(payload, rows, x, y);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn avx512(payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
        each_strip::<super::x86::Avx512>(payload, rows, x, y);
    }
    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon,dotprod")]
    fn neon(payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
        each_strip::<super::neon::Neon>(payload, rows, x, y);
    }
    match level {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(payload, rows, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(payload, rows, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { neon(payload, rows, x, y) },
        _ => each_strip::<Plain>(payload, rows, x, y),
    }
}

#[inline(always)]
fn each_strip<K: Loops>(payload: &Payload<'_>, rows: Range<usize>, x: &Activation<'_>, y: &mut [f32]) {
    const SIDE: usize = STRIP as usize;
    let steps: [f32; 256] = std::array::from_fn(|b| block::step(b as i32, BASE, 0));
    let (_, rest) = x.x().as_chunks::<BLOCK>();
    let mut tail = [0.0; BLOCK];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    let unit = exp2i(payload.exponent - BASE);
    let (mut row, mut y) = (rows.start, y);
    while row < rows.end {
        let end = rows.end.min((row / SIDE + 1) * SIDE);
        let (own, others) = y.split_at_mut((end - row).min(y.len()));
        let mut sums = [Sums { coded: [0.0; 16], plain: [0.0; 16] }; SIDE];
        let sums = &mut sums[..own.len().min(SIDE)];
        let there = strip::<K>(payload, row..end, x, &tail, &steps, sums);
        for (y, sums) in own.iter_mut().zip(sums) {
            let [coded, plain] = [sums.coded, sums.plain].map(|s| s.iter().sum::<f32>());
            *y = if there { unit * coded + plain } else { f32::NAN };
        }
        (row, y) = (end, others);
    }
}

/// Adds the products of `rows`, which lie in one strip; false if they do not lie
/// in the payload.
#[inline(always)]
fn strip<K: Loops>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    x: &Activation<'_>,
    tail: &[f32; BLOCK],
    steps: &[f32; 256],
    sums: &mut [Sums],
) -> bool {
    let index = rows.start / STRIP as usize;
    let bytes = |rate: u8| UNITS.get(usize::from(rate)).map(|units| (units * UNIT) as usize);
    let Some(stride) = payload.rates(index).map(bytes).sum::<Option<usize>>() else { return false };
    let word_stride = 4 * payload.blocks;
    let codes = payload.start(index).and_then(|start| {
        let start = start as usize * UNIT as usize + rows.start % STRIP as usize * stride;
        payload.codes.get(start..start + rows.len() * stride)
    });
    let words = payload.scales.get(rows.start * word_stride..rows.end * word_stride);
    let (Some(codes), Some(words)) = (codes, words) else { return false };
    let q = x.quantized();
    let (floats, _) = x.x().as_chunks::<BLOCK>();
    let inputs =
        q.codes.as_chunks::<BLOCK>().0.iter().zip(q.scales.as_chunks().0).zip(x.sums().as_chunks().0);
    let mut at = 0;
    for (b, (rate, ((x_codes, scales), x_sums))) in payload.rates(index).zip(inputs).enumerate() {
        let column = Column {
            codes: codes.get(at..).unwrap_or_default(),
            stride,
            words: words.get(4 * b..).unwrap_or_default(),
            word_stride,
        };
        let x = Inputs { codes: x_codes, scales, sums: x_sums, floats: floats.get(b).unwrap_or(tail) };
        match rate {
            0 => K::coded::<2, 16>(column, &x, steps, sums),
            1 => K::coded::<3, 24>(column, &x, steps, sums),
            2 => K::coded::<4, 32>(column, &x, steps, sums),
            3 => K::coded::<5, 40>(column, &x, steps, sums),
            _ => K::plain(column, &x, sums),
        }
        at += bytes(rate).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{MemoryRows, encode_with, gaussian};
    use crate::codec::{EncodeOptions, Precision, hybrid::CODEC};

    #[test]
    fn levels_agree_at_every_rate_and_shape() {
        for (rows, cols) in [(1, 1), (3, 64), (17, 65), (16, 130), (40, 300), (33, 576)] {
            // Columns of very different size, so that rates differ.
            let mut w = gaussian((rows * cols) as usize, 20);
            for w in w.chunks_mut(cols as usize) {
                w.iter_mut().enumerate().for_each(|(i, w)| *w *= 2f32.powi(-(i as i32 / 64)));
            }
            for rate in [2500, 3300, 4700, 9000] {
                let options = EncodeOptions { rate: Some(rate), ..EncodeOptions::NONE };
                let stored =
                    encode_with(CODEC, &MemoryRows::f32(rows, cols, w.clone()), &options.into()).unwrap();
                let decoded = stored.decode(CODEC);
                let x = gaussian(cols as usize, 5);
                let magnitude: Vec<f32> = decoded
                    .chunks(cols as usize)
                    .map(|r| r.iter().zip(&x).map(|(w, x)| (w * x).abs()).sum())
                    .collect();
                let x = Activation::new(&x, Precision::Q8);
                let view = stored.view();
                let payload = Payload::of(&view).unwrap();
                let run = |level, range: Range<usize>| {
                    let mut y = vec![f32::NAN; range.len()];
                    at(level, &payload, range, &x, &mut y);
                    y
                };
                let rows = rows as usize;
                let reference = run(Level::Scalar, 0..rows);
                for (row, y) in reference.iter().enumerate() {
                    let exact: f32 = decoded[row * cols as usize..][..cols as usize]
                        .iter()
                        .zip(x.x())
                        .map(|(w, x)| w * x)
                        .sum();
                    assert!((y - exact).abs() <= 0.03 * magnitude[row], "{rate} row {row}: {y} {exact}");
                }
                for level in Level::supported() {
                    let y = run(level, 0..rows);
                    for (row, (y, r)) in y.iter().zip(&reference).enumerate() {
                        assert!((y - r).abs() <= 1e-5 * magnitude[row], "{level} {rate} row {row}: {y} {r}");
                    }
                    assert_eq!(run(level, rows / 2..rows), y[rows / 2..]);
                }
            }
        }
    }
}
