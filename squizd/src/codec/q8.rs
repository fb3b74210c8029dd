//! Q8: signed bytes with one scale per group of 32, `w = d q`.
//!
//! The same numbers as ggml's Q8_0, whose blocks are taken over without loss:
//! `d = max|w| / 127`, `q` the nearest integer.

use super::check::{finite_scales, padding, payload, slice};
use super::half_float::{f16_to_f32, f32_to_f16};
use super::lanes::{exp2i, exponent};
use super::panel::{BlockScales, Panel};
use super::sample::Sample;
use super::stream::{
    checked_geometry, energy, for_row_chunks, geometry, out_of_range, plane_rows, read_finite,
};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, PayloadSink, Request, Rows,
    Violation,
};
use crate::{
    Error, Result,
    simd::{Level, multiversion},
};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params};
use std::ops::Range;

/// The codec.
pub(super) const CODEC: &dyn Codec = &Q8;

/// Weights of a group.
pub(super) const GROUP: usize = 32;
/// Bytes of a Q8_0 block: f16 scale, 32 codes.
const BLOCK: usize = 34;
/// Largest sampled magnitude that f16 scales are used for: leaves rows outside
/// the sample a factor of eight before f16 overflows.
const F16_PEAK: f32 = 127.0 * 8192.0;
/// The f16 format must not add more than this to the noise of f32 scales.
const F16_NOISE: f64 = 1.01;

struct Q8;

fn params(format: u8) -> Params {
    let mut params = Params::default();
    params[..2].copy_from_slice(&[GROUP as u8, format]);
    params
}

/// Bytes of a stored scale.
pub(super) fn scale_bytes(params: &Params) -> usize {
    if params[1] == 0 { 2 } else { 4 }
}

/// Whether blocks of `dtype` are taken over without loss.
pub(super) fn imports_exactly(dtype: DType, matrix: Matrix) -> bool {
    dtype == DType::Q8_0 && matrix.cols.is_multiple_of(GROUP as u64)
}

/// A stored scale of 2 or 4 bytes.
#[inline(always)]
pub(super) fn scale(bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b] => f16_to_f32(u16::from_le_bytes([a, b])),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => 0.0,
    }
}

multiversion! {
    /// Encodes whole rows of `cols` columns with scales of `size` bytes;
    /// returns also the first row whose scale overflowed.
    fn encode_rows(values: &[f32], cols: usize, size: usize, codes: &mut [u8], scales: &mut [u8]) -> (EncodeStats, Option<usize>) = encode_lanes;
}

#[inline(always)]
fn encode_lanes(
    values: &[f32],
    cols: usize,
    size: usize,
    codes: &mut [u8],
    scales: &mut [u8],
) -> (EncodeStats, Option<usize>) {
    let (mut stats, mut overflow) = (EncodeStats::default(), None);
    let groups = cols.div_ceil(GROUP);
    let rows = values.chunks_exact(cols).zip(codes.chunks_exact_mut(groups * GROUP));
    for (row, ((w, codes), scales)) in rows.zip(scales.chunks_exact_mut(groups * size)).enumerate() {
        let codes = codes.as_chunks_mut::<GROUP>().0;
        for ((w, codes), stored) in w.chunks(GROUP).zip(codes).zip(scales.chunks_exact_mut(size)) {
            let mut group = [0.0; GROUP];
            if let Ok(full) = <&[f32; GROUP]>::try_from(w) {
                group = *full;
            } else {
                for (g, w) in group.iter_mut().zip(w) {
                    *g = *w;
                }
            }
            let (d, part) = encode_group(&group, stored, codes);
            stats.signal += part.signal;
            stats.noise += part.noise;
            if !d.is_finite() {
                overflow.get_or_insert(row);
            }
        }
    }
    (stats, overflow)
}

/// Encodes one group; returns the stored scale and the error.
#[inline(always)]
fn encode_group(w: &[f32; GROUP], stored: &mut [u8], codes: &mut [u8; GROUP]) -> (f32, EncodeStats) {
    let peak = f32::from_bits(w.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
    let wanted = peak / 127.0;
    if stored.len() == 2 {
        stored.copy_from_slice(&f32_to_f16(wanted).to_le_bytes());
    } else {
        stored.copy_from_slice(&wanted.to_le_bytes());
    }
    let d = scale(stored);
    // In units of a power of two near the peak, so that neither the quotient
    // nor the squares leave the range of f32.
    let shift = exponent(peak).min(126);
    let (unit, d_unit) = (exp2i(-shift), d * exp2i(-shift));
    let inverse = if d_unit > 1e-30 { 1.0 / d_unit } else { 0.0 };
    let (mut signal, mut noise) = ([0.0f32; 8], [0.0f32; 8]);
    for i in 0..GROUP {
        let v = w[i] * unit;
        let t = v * inverse;
        let t = if t < 127.0 { t } else { 127.0 };
        let t = if t > -127.0 { t } else { -127.0 };
        // Ties to even: adding 1.5 * 2^23 leaves the integer in the low byte.
        let biased = t + 12_582_912.0;
        codes[i] = biased.to_bits() as u8;
        let error = v - (biased - 12_582_912.0) * d_unit;
        signal[i % 8] += v * v;
        noise[i % 8] += error * error;
    }
    let total = |lanes: [f32; 8]| lanes.into_iter().map(f64::from).sum::<f64>();
    let square = f64::from_bits(((1023 + 2 * shift) as u64) << 52);
    (d, EncodeStats::new(total(signal) * square, total(noise) * square))
}

multiversion! {
    /// Decodes whole rows of `cols` columns with scales of `size` bytes.
    fn decode_rows(codes: &[u8], scales: &[u8], cols: usize, size: usize, out: &mut [f32]) = decode_lanes;
}

#[inline(always)]
fn decode_lanes(codes: &[u8], scales: &[u8], cols: usize, size: usize, out: &mut [f32]) {
    let groups = cols.div_ceil(GROUP);
    let rows = out.chunks_exact_mut(cols).zip(codes.chunks_exact(groups * GROUP));
    for ((out, codes), scales) in rows.zip(scales.chunks_exact(groups * size)) {
        let groups = out.chunks_mut(GROUP).zip(codes.as_chunks::<GROUP>().0);
        for ((out, codes), stored) in groups.zip(scales.chunks_exact(size)) {
            let d = scale(stored);
            for (o, q) in out.iter_mut().zip(codes) {
                *o = d * f32::from(q.cast_signed());
            }
        }
    }
}

multiversion! {
    /// Puts whole rows of `cols` columns with scales of `size` bytes into a panel.
    fn unpack(codes: &[u8], scales: &[u8], cols: usize, size: usize, out: &mut Panel) = unpack_lanes;
}

#[inline(always)]
fn unpack_lanes(codes: &[u8], scales: &[u8], cols: usize, size: usize, out: &mut Panel) {
    // Unsigned codes are 128 more.
    let (flip, bias) = if out.signed() { (0, 0.0) } else { (0x8080_8080_8080_8080, 128.0) };
    let groups = cols.div_ceil(GROUP).max(1);
    let rows = codes.chunks_exact(groups * GROUP).zip(scales.chunks_exact(groups * size));
    for (row, (codes, scales)) in rows.enumerate() {
        let groups = codes.as_chunks::<GROUP>().0.iter().zip(scales.chunks_exact(size));
        for (at, (codes, stored)) in groups.enumerate() {
            let scale = scale(stored);
            let words = codes.as_chunks::<8>().0;
            let codes = std::array::from_fn(|i| u64::from_le_bytes(words[i]) ^ flip);
            let scales = BlockScales { factors: [1; 2], scale, minus: [bias * scale; 2] };
            out.put_scales(row, at, scales);
            out.put_codes(row, at, codes);
        }
    }
}

/// Noise of encoding the trial rows with scales of `size` bytes.
fn trial(sample: &Sample, size: usize) -> f64 {
    let groups = sample.trial.len() / sample.trial_cols.max(1) * sample.trial_cols.div_ceil(GROUP);
    let (mut codes, mut scales) = (vec![0; groups * GROUP], vec![0; groups * size]);
    encode_rows(&sample.trial, sample.trial_cols.max(1), size, &mut codes, &mut scales).0.noise
}

/// Splits Q8_0 blocks into codes and scales; the index of the first block
/// whose scale is not finite is an error.
fn repack(blocks: &[u8], codes: &mut [u8], scales: &mut [u8]) -> std::result::Result<(), usize> {
    let out = codes.as_chunks_mut::<GROUP>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
    for (i, (block, (codes, d))) in blocks.as_chunks::<BLOCK>().0.iter().zip(out).enumerate() {
        let (head, body) = block.split_at(2);
        d.copy_from_slice(head);
        codes.copy_from_slice(body);
        if !scale(d).is_finite() {
            return Err(i);
        }
    }
    Ok(())
}

/// Takes the source blocks of `range` over.
fn import(
    rows: &dyn Rows,
    range: &Range<u64>,
    blocks: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    if blocks.len() / BLOCK != codes.len() / GROUP || !blocks.len().is_multiple_of(BLOCK) {
        return Err(Error::invalid(format!(
            "tensor {}: source gave {} bytes for rows {}..{} of {}",
            rows.name(),
            blocks.len(),
            range.start,
            range.end,
            rows.dtype()
        )));
    }
    let per_row = (rows.matrix().cols / GROUP as u64).max(1);
    repack(blocks, codes, scales).map_err(|at| {
        Error::invalid(format!(
            "tensor {0}: the Q8_0 block at row {1}, column {2} has a scale that is not finite: repair the source",
            rows.name(),
            range.start + at as u64 / per_row,
            at as u64 % per_row * GROUP as u64
        ))
    })
}

impl Codec for Q8 {
    fn id(&self) -> CodecId {
        CodecId::Q8
    }

    fn takes_guide(&self) -> bool {
        false
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, dtype: DType, matrix: Matrix, _: &EncodeOptions) -> bool {
        imports_exactly(dtype, matrix)
    }

    fn nominal(&self, _: Matrix, _: DType, _: &EncodeOptions) -> Result<Params> {
        Ok(params(0))
    }

    /// f16 scales, unless the largest sampled weight exceeds [`F16_PEAK`] or
    /// they make more than [`F16_NOISE`] times the noise of f32 scales.
    fn plan(&self, rows: &dyn Rows, _: &Request<'_>) -> Result<Params> {
        let matrix = rows.matrix();
        if matrix.rows > 0 && imports_exactly(rows.dtype(), matrix) && rows.read_native(0..1)?.is_some() {
            return Ok(params(0));
        }
        let sample = Sample::read(rows)?;
        let half = sample.peak <= F16_PEAK && trial(&sample, 2) <= F16_NOISE * trial(&sample, 4);
        Ok(params(u8::from(!half)))
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        _: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { planes: [code_plane, scale_plane, ..], length, .. } =
            geometry(self.id(), rows.name(), matrix, params)?;
        if matrix.elements() == 0 {
            return Ok((length.max(), EncodeStats::default()));
        }
        let (cols, size) = (matrix.cols as usize, scale_bytes(params));
        let importable = size == 2 && imports_exactly(rows.dtype(), matrix);
        let buffers = <(Vec<f32>, Vec<u8>, Vec<u8>)>::default;
        let stats = for_row_chunks(rows, buffers, |(values, codes, scales), range| {
            let count = range.end - range.start;
            codes.resize((count * code_plane.row_stride) as usize, 0);
            scales.resize((count * scale_plane.row_stride) as usize, 0);
            let native = if importable { rows.read_native(range.clone())? } else { None };
            let stats = if let Some(blocks) = native {
                import(rows, &range, &blocks, codes, scales)?;
                values.resize(count as usize * cols, 0.0);
                decode_rows(codes, scales, cols, size, values);
                EncodeStats::new(energy(values), 0.0)
            } else {
                read_finite(rows, range.clone(), self.id(), values)?;
                let (stats, overflow) = encode_rows(values, cols, size, codes, scales);
                if let Some(row) = overflow {
                    return Err(out_of_range(rows, range.start + row as u64, self.id()));
                }
                stats
            };
            sink.write_at(code_plane.offset + range.start * code_plane.row_stride, codes)?;
            sink.write_at(scale_plane.offset + range.start * scale_plane.row_stride, scales)?;
            Ok(stats)
        })?;
        Ok((length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let cols = tensor.matrix.cols;
        let [codes, scales, ..] = checked_geometry(self.id(), tensor, &rows, out.len(), cols)?.planes;
        if !out.is_empty() {
            decode_rows(
                plane_rows(tensor.data, codes, &rows),
                plane_rows(tensor.data, scales, &rows),
                cols as usize,
                scale_bytes(tensor.params),
                out,
            );
        }
        Ok(())
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        let geometry = payload(self.id(), tensor)?;
        let [codes, scales, ..] = geometry.planes;
        for row in 0..tensor.matrix.rows {
            let (start, end) = (
                codes.offset + row * codes.row_stride + tensor.matrix.cols,
                codes.offset + (row + 1) * codes.row_stride,
            );
            if let Some((i, q)) = slice(tensor.data, start, end).iter().enumerate().find(|(_, q)| **q != 0) {
                return Err(Violation {
                    offset: start + i as u64,
                    code: "q8-tail-code",
                    message: format!(
                        "byte {q:#04x} lies past the row's {} weights, must be 0",
                        tensor.matrix.cols
                    ),
                });
            }
        }
        padding(tensor, &geometry)?;
        let bytes = tensor.data.get(scales.offset as usize..).unwrap_or_default();
        finite_scales("q8-scale-not-finite", bytes, scale_bytes(tensor.params), scales.offset)
    }

    fn layout(&self, params: &Params) -> String {
        if scale_bytes(params) == 2 { String::new() } else { "f32".to_owned() }
    }

    fn kernel(&self, _: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(precision) => super::kernels::q8_kernel(precision, level),
            Operation::Decode => Kernel::compiled(level),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        super::kernels::q8(tensor, x, rows, y);
    }

    /// Products of AVX2 take codes of fewer bits.
    fn has_panels(&self, _: &Params, level: Level) -> bool {
        level != Level::Avx2
    }

    fn panel(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut Panel) -> Result<()> {
        let count = rows.end.saturating_sub(rows.start) as usize;
        let [codes, scales, ..] = checked_geometry(self.id(), tensor, &rows, count, 1)?.planes;
        let (codes, scales) = (plane_rows(tensor.data, codes, &rows), plane_rows(tensor.data, scales, &rows));
        unpack(codes, scales, tensor.matrix.cols as usize, scale_bytes(tensor.params), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryRows, Stored, encode, gaussian, snr_db};
    use super::*;
    use crate::simd;
    use proptest::prelude::*;

    fn stored(rows: u64, cols: u64, values: &[f32]) -> Stored {
        encode(CODEC, &MemoryRows::f32(rows, cols, values.to_vec()), None).unwrap()
    }

    #[test]
    fn gaussian_quality_at_any_magnitude() {
        let base = gaussian(64 * 256, 1);
        for (exponent, format) in [(-120, 1), (-60, 1), (-14, 1), (-3, 0), (0, 0), (15, 0), (20, 1), (120, 1)]
        {
            let w: Vec<f32> = base.iter().map(|v| v * 2f32.powi(exponent)).collect();
            let s = stored(64, 256, &w);
            let measured = snr_db(&w, &s.decode(CODEC));
            assert!(measured > 45.0, "2^{exponent}: {measured}");
            assert!((s.stats.snr_db() - measured).abs() < 0.01);
            assert_eq!(s.params[1], format, "2^{exponent}");
        }
        assert_eq!(stored(64, 256, &base).data.len(), 64 * 272);
    }

    #[test]
    fn zeros_are_exact_and_extremes_reach_127() {
        let mut w = vec![0.0; 70];
        (w[40], w[69]) = (-2.54, 1.0);
        let s = stored(1, 70, &w);
        assert_eq!(s.data[40].cast_signed(), -127);
        let out = s.decode(CODEC);
        assert!(out[..32].iter().all(|v| v.to_bits() == 0));
        assert!((out[40] + 2.54).abs() < 2e-3 && (out[69] - 1.0).abs() < 1e-3);
    }

    #[test]
    fn q8_0_is_taken_over_bit_for_bit() {
        let mut native = Vec::new();
        let mut values = Vec::new();
        for (i, noise) in gaussian(6 * 33, 2).chunks(33).enumerate() {
            let d = f32_to_f16(noise[0] * 2f32.powi(-2 * i as i32));
            native.extend(d.to_le_bytes());
            for v in &noise[1..] {
                let q = v.to_bits() as i8;
                native.push(q.cast_unsigned());
                values.push(f16_to_f32(d) * f32::from(q));
            }
        }
        let rows = MemoryRows::native(3, 64, DType::Q8_0, native.clone(), values.clone());
        let s = encode(CODEC, &rows, None).unwrap();
        assert_eq!(s.stats.noise.to_bits(), 0);
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(s.decode(CODEC)), bits(values.clone()));
        native[3 * BLOCK + 1] = 0x7c;
        let rows = MemoryRows::native(3, 64, DType::Q8_0, native, values);
        let message = encode(CODEC, &rows, None).unwrap_err().to_string();
        assert!(message.contains("row 1, column 32"), "{message}");
    }

    #[test]
    fn not_finite_is_named() {
        let mut w = gaussian(100, 3);
        w[57] = f32::INFINITY;
        let error = encode(CODEC, &MemoryRows::f32(10, 10, w), None).unwrap_err();
        assert!(matches!(error, Error::NotFinite { index: 57, row: 5, col: 7, .. }), "{error}");
    }

    #[test]
    fn checks_name_code_and_offset() {
        // 3 rows of 40: 64 code bytes each, 2 scales each from 256.
        let base = stored(3, 40, &gaussian(120, 4));
        let violation = |at: usize, value: u8| {
            let mut s = base.clone();
            s.data[at] = value;
            CODEC.check(&s.view()).map_err(|v| (v.offset, v.code))
        };
        assert_eq!(violation(64 + 41, 1), Err((105, "q8-tail-code")));
        assert_eq!(violation(192, 1), Err((192, "payload-padding")));
        assert_eq!(violation(256 + 7, 0x7c), Err((262, "q8-scale-not-finite")));
        let mut s = base.clone();
        s.data.push(0);
        assert_eq!(CODEC.check(&s.view()).unwrap_err().code, "payload-length");
    }

    #[test]
    fn bytes_do_not_depend_on_instructions() {
        let rows = MemoryRows::f32(500, 777, gaussian(500 * 777, 5));
        let expected = encode(CODEC, &rows, None).unwrap();
        for level in simd::Level::supported() {
            simd::force(level).unwrap();
            assert!(encode(CODEC, &rows, None).unwrap() == expected, "{level}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_shape_round_trips(rows in 1u64..5, cols in 1u64..200, seed: u64) {
            let w = gaussian((rows * cols) as usize, seed);
            let s = stored(rows, cols, &w);
            prop_assert!(snr_db(&w, &s.decode(CODEC)) > 40.0);
        }
    }
}
