//! From weights to codes and scales, and ggml's blocks to ours.

use super::e2m1::{NAN_SCALE, nearest};
use super::{EncodeStats, GROUP};
use crate::codec::lanes::{F32x8, LANES, Lanes, exp2i, exponent};
use crate::simd;

/// Bytes of a ggml block: scale, 16 bytes of codes.
pub(super) const BLOCK: usize = 17;
/// Scales tried, as powers of two over that of the floor rule, which gives the
/// largest magnitude the largest exponent and lets up to a quarter of it be
/// cut off. The one above cuts nothing off; those below pay where few weights
/// or unimportant ones are large. The first of equals is taken.
const TRIES: [i32; 4] = [0, 1, -1, -2];
/// Exponents of scales: below, scales have no byte; above, 6 is infinite.
const SCALES: std::ops::RangeInclusive<i32> = -127..=125;

/// Encodes whole rows of `cols` columns, errors weighted by `importance` per
/// column unless it is empty.
#[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
pub(super) fn encode_rows(
    values: &[f32],
    cols: usize,
    importance: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) -> EncodeStats {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(w: &[f32], cols: usize, i: &[f32], codes: &mut [u8], scales: &mut [u8]) -> EncodeStats {
        encode_lanes::<crate::codec::lanes::Avx>(w, cols, i, codes, scales)
    }
    match simd::level() {
        // SAFETY: the level is only ever one this CPU supports; AVX-512 includes AVX2.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 | simd::Level::Avx512 => unsafe { avx2(values, cols, importance, codes, scales) },
        _ => encode_lanes::<F32x8>(values, cols, importance, codes, scales),
    }
}

#[inline(always)]
fn encode_lanes<V: Lanes>(
    values: &[f32],
    cols: usize,
    importance: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) -> EncodeStats {
    let mut stats = EncodeStats::default();
    let groups = cols.div_ceil(GROUP);
    let rows = values.chunks_exact(cols).zip(codes.chunks_exact_mut(groups * GROUP / 2));
    for ((w, codes), scales) in rows.zip(scales.chunks_exact_mut(groups)) {
        let codes = codes.as_chunks_mut::<{ GROUP / 2 }>().0;
        for (i, ((w, codes), scale)) in w.chunks(GROUP).zip(codes).zip(scales).enumerate() {
            let weights = importance.get(i * GROUP..).unwrap_or_default();
            let part = encode_group::<V>(&padded(w), &relative(weights), scale, codes);
            stats.signal += part.signal;
            stats.noise += part.noise;
        }
    }
    stats
}

/// The numbers of a group.
type Group = [F32x8; GROUP / LANES];

/// Up to [`GROUP`] values, zeros behind them.
#[inline(always)]
fn padded(values: &[f32]) -> Group {
    let mut group = [F32x8::ZERO; GROUP / LANES];
    for (lanes, values) in group.iter_mut().zip(values.chunks(LANES)) {
        if let Some(full) = values.first_chunk() {
            lanes.0 = *full;
        } else {
            for (lane, v) in lanes.0.iter_mut().zip(values) {
                *lane = *v;
            }
        }
    }
    group
}

/// Importance over the largest of the group, so that weighted errors stay in
/// range; ones where nothing is known or nothing matters.
#[inline(always)]
fn relative(importance: &[f32]) -> Group {
    let group = padded(importance);
    let peak = group.iter().fold(0.0f32, |m, lanes| m.max(lanes.max_lane()));
    if peak > 0.0 { group.map(|lanes| F32x8(lanes.0.map(|v| v / peak))) } else { [F32x8([1.0; LANES]); _] }
}

/// The largest magnitude.
#[inline(always)]
fn peak(w: &Group) -> f32 {
    let bits = w.iter().flat_map(|lanes| lanes.0).fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    f32::from_bits(bits)
}

/// Encodes one group: the scale of [`TRIES`] with the least weighted error.
#[inline(always)]
fn encode_group<V: Lanes>(
    w: &Group,
    importance: &Group,
    scale: &mut u8,
    codes: &mut [u8; GROUP / 2],
) -> EncodeStats {
    // A group of zeros gets the scale byte 0.
    let floor = (exponent(peak(w)) - 2).clamp(*SCALES.start(), *SCALES.end());
    let unit = V::splat(exp2i(-floor));
    let u = w.each_ref().map(|w| V::load(w).abs() * unit);
    let (mut best, mut least) = (0, f64::INFINITY);
    for shift in TRIES {
        if !SCALES.contains(&(floor + shift)) {
            continue;
        }
        let mut sum = V::zero();
        for (u, importance) in u.iter().zip(importance) {
            let error = error(*u, shift);
            sum = sum + V::load(importance) * (error * error);
        }
        let sum = sum.store().sum_f64();
        if sum < least {
            (best, least) = (shift, sum);
        }
    }
    let (mut signal, mut noise) = (V::zero(), V::zero());
    for u in u {
        let error = error(u, best);
        signal = signal + u * u;
        noise = noise + error * error;
    }
    let down = V::splat(exp2i(-best));
    let mut quarters = [[0u8; LANES]; GROUP / LANES];
    for ((quarter, u), w) in quarters.iter_mut().zip(u).zip(w) {
        // Up to 7, so the low bits of the sum with 2^23.
        let code = (nearest(u * down).codes() + V::splat(8_388_608.0)).store();
        for l in 0..LANES {
            quarter[l] = (code.0[l].to_bits() & 7 | w.0[l].to_bits() >> 28 & 8) as u8;
        }
    }
    let (low, high) = quarters.as_flattened().split_at(GROUP / 2);
    for ((byte, low), high) in codes.iter_mut().zip(low).zip(high) {
        *byte = low | high << 4;
    }
    *scale = (floor + best + 127) as u8;
    let square = f64::from_bits(((1023 + 2 * floor) as u64) << 52);
    EncodeStats::new(signal.store().sum_f64() * square, noise.store().sum_f64() * square)
}

/// What is left of `u` after rounding under the scale `2^shift`.
#[inline(always)]
fn error<V: Lanes>(u: V, shift: i32) -> V {
    u - nearest(u * V::splat(exp2i(-shift))).values() * V::splat(exp2i(shift))
}

/// Whether a byte of codes has one of at least 2, which overflows under the
/// scale 2^127.
pub(super) fn reaches_two(byte: u8) -> bool {
    byte & 0x44 != 0
}

/// Splits ggml's blocks into codes and scales. Its code 8 is +0, as our 0 is.
/// The index of the first block with a weight that is not finite is an error.
pub(super) fn repack(blocks: &[u8], codes: &mut [u8], scales: &mut [u8]) -> Result<(), usize> {
    let out = codes.as_chunks_mut::<{ GROUP / 2 }>().0.iter_mut().zip(scales);
    for (i, ([e, body @ ..], (codes, scale))) in blocks.as_chunks::<BLOCK>().0.iter().zip(out).enumerate() {
        if *e == NAN_SCALE || *e == NAN_SCALE - 1 && body.iter().any(|b| reaches_two(*b)) {
            return Err(i);
        }
        *scale = *e;
        for (code, b) in codes.iter_mut().zip(body) {
            let low = if b & 0x0f == 0x08 { b & 0xf0 } else { *b };
            *code = if low & 0xf0 == 0x80 { low & 0x0f } else { low };
        }
    }
    Ok(())
}
