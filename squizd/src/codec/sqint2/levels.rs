//! Layout `nf2`: four levels a weight under scales of 64, the core that the
//! first descriptions of SQINT2 had. 2.4 dB behind the trellis at its own rate,
//! and cheap to decode.

use super::decode::Parts;
use super::encode::{Coded, Encoder, Row, Worker};
use super::form::Scales;
use super::table;
use crate::codec::EncodeStats;
use crate::codec::ldlq::WIDTH;
use crate::codec::stream::energy;
use crate::simd::multiversion;

/// Weights that share a scale.
pub(super) const GROUP: usize = 64;
/// Bytes of a group's codes.
const BYTES: usize = GROUP / 4;

/// The value of code c: Lloyd's four levels of a Gaussian, -54, -16, 16, 54.
#[inline(always)]
fn level(code: u8) -> i32 {
    let odd = 2 * i32::from(code) - 3;
    odd * (16 + (odd * odd - 1) / 4)
}

/// The code of the level nearest to `x`.
#[inline(always)]
fn nearest(x: f32) -> u8 {
    // Halfway between neighbouring levels.
    u8::from(x >= -35.0) + u8::from(x >= 0.0) + u8::from(x >= 35.0)
}

/// Position of weight `i` of a group: byte and lowest bit.
#[inline(always)]
const fn place(i: usize) -> (usize, usize) {
    (i % BYTES, i / BYTES * 2)
}

/// Codes the rotated rows, from the last columns to the first.
pub(super) fn encode(worker: &mut Worker, encoder: &Encoder<'_>, rows: &[Row], cols: usize) -> Coded {
    let stride = cols.next_multiple_of(WIDTH);
    let (groups, size) = (cols.div_ceil(GROUP), encoder.form.scales.bytes());
    worker.codes.clear();
    worker.codes.resize(rows.len() * groups * BYTES, 0);
    let mut steps = vec![0.0; rows.len() * groups];
    let each = worker.rotated.chunks_exact(stride).zip(worker.scales.chunks_exact_mut(groups * size));
    for (i, ((row, scales), steps)) in each.zip(steps.chunks_exact_mut(groups)).enumerate() {
        let weights = row[..cols].chunks(GROUP).zip(scales.chunks_exact_mut(size));
        for ((weights, stored), step) in weights.zip(steps) {
            match scale(encoder.form.scales, weights, rows[i].exponent, stored) {
                Some(scale) => *step = scale,
                None => return Coded::Overflow(i),
            }
        }
    }
    for k in (0..stride / WIDTH).rev() {
        let mut wanted = vec![[0.0; WIDTH]; rows.len()];
        for (wanted, row) in wanted.iter_mut().zip(worker.rotated.chunks_exact(stride)) {
            wanted.copy_from_slice(&row[k * WIDTH..][..WIDTH]);
        }
        if let Some(feedback) = encoder.feedback {
            feedback.add(k, &worker.rotated, &mut wanted);
        }
        let group = k * WIDTH / GROUP;
        let each = wanted.iter().zip(worker.rotated.chunks_exact_mut(stride));
        for (((wanted, row), codes), steps) in
            each.zip(worker.codes.chunks_exact_mut(groups * BYTES)).zip(steps.chunks_exact(groups))
        {
            let codes = &mut codes[group * BYTES..][..BYTES];
            for (j, wanted) in (k * WIDTH..cols.min((k + 1) * WIDTH)).zip(wanted) {
                let step = steps[group];
                let code = if step > 0.0 { nearest(wanted / step) } else { 0 };
                let (byte, bit) = place(j % GROUP);
                codes[byte] |= code << bit;
                row[j] -= step * level(code) as f32;
            }
        }
    }
    let mut stats = EncodeStats::default();
    for (row, errors) in rows.iter().zip(worker.rotated.chunks_exact(stride)) {
        stats.noise += energy(errors) * row.unit();
    }
    Coded::Done(stats)
}

/// Stores the scale of a group and returns it, divided by `2^exponent` like the
/// weights: from their root mean square, refined by least squares; `None` if it
/// is too large.
fn scale(scales: Scales, weights: &[f32], exponent: i32, stored: &mut [u8]) -> Option<f32> {
    let rms = (energy(weights) / weights.len() as f64).sqrt() as f32;
    let first = rms / table::UNIT;
    let (mut product, mut square) = (0.0, 0.0);
    for w in weights {
        let level = level(nearest(if first > 0.0 { w / first } else { 0.0 })) as f32;
        product += w * level;
        square += level * level;
    }
    let refined = if product > 0.0 { product / square } else { first };
    scales.write(refined, exponent, stored)?;
    Some((f64::from(scales.read(stored)) * libm::exp2(-f64::from(exponent))) as f32)
}

/// The values of a row before its rotation is undone.
pub(super) fn values(parts: &Parts<'_>, row: u64, out: &mut [f32]) {
    let groups = out.chunks_mut(GROUP).zip(parts.codes(row, BYTES).as_chunks::<BYTES>().0);
    for (group, (out, codes)) in groups.enumerate() {
        let scale = parts.scale(row, group);
        for (i, out) in out.iter_mut().enumerate() {
            let (byte, bit) = place(i);
            *out = scale * level(codes[byte] >> bit & 3) as f32;
        }
    }
}

/// The product of a row with the rotated input `x`, padded to whole groups.
pub(super) fn dot(parts: &Parts<'_>, row: u64, x: &[f32]) -> f32 {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(parts.codes(row, BYTES).as_chunks::<BYTES>().0);
    groups.enumerate().map(|(group, (x, codes))| parts.scale(row, group) * group_dot(codes, x)).sum()
}

multiversion! {
    /// Levels of a group times the input.
    fn group_dot(codes: &[u8; BYTES], x: &[f32; GROUP]) -> f32 = group_dot_lanes;
}

#[inline(always)]
fn group_dot_lanes(codes: &[u8; BYTES], x: &[f32; GROUP]) -> f32 {
    let mut sums = [0.0; BYTES];
    for (quarter, x) in x.as_chunks::<BYTES>().0.iter().enumerate() {
        for ((sum, code), x) in sums.iter_mut().zip(codes).zip(x) {
            *sum += level(code >> (2 * quarter) & 3) as f32 * x;
        }
    }
    sums.iter().sum()
}

/// The first byte of a row's codes with a code past `cols` columns that is not
/// zero, and its index.
pub(super) fn past_the_end(codes: &[u8], cols: usize) -> Option<(usize, u8)> {
    let used = cols % GROUP;
    if used == 0 {
        return None;
    }
    let last = codes.len().saturating_sub(BYTES);
    codes.iter().enumerate().skip(last).find_map(|(at, byte)| {
        let kept = (0..4).filter(|quarter| quarter * BYTES + (at - last) < used).count();
        (u16::from(*byte) >> (2 * kept) != 0).then_some((at, *byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_their_own_nearest() {
        assert_eq!([0, 1, 2, 3].map(level), [-54, -16, 16, 54]);
        for code in 0..4 {
            assert_eq!(nearest(level(code) as f32), code);
        }
        assert_eq!([-35.1, -34.9, -0.1, 0.1, 34.9, 35.1].map(nearest), [0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn every_code_past_the_end_is_found() {
        for used in 1..GROUP {
            for i in 0..GROUP {
                let (byte, bit) = place(i);
                let mut codes = vec![0xff; 2 * BYTES];
                codes[BYTES..].fill(0);
                codes[BYTES + byte] = 1 << bit;
                let found = past_the_end(&codes, GROUP + used);
                assert_eq!(found, (i >= used).then_some((BYTES + byte, 1 << bit)), "{used} {i}");
            }
        }
    }
}
