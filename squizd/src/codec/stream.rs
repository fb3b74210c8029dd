//! Rows through an encoder: bounded chunks in parallel, results in row order.

use super::{EncodeStats, Encoded, Rows};
use crate::{Error, Result, simd::multiversion};
use rayon::prelude::*;
use squizd_spec::{CodecId, Geometry, Matrix, Params, Plane};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Weights of one task: 1 MiB as `f32`, which stays in a core's share of cache.
const CHUNK_WEIGHTS: u64 = 1 << 18;

/// Calls `encode` for consecutive ranges of rows covering the matrix, in
/// parallel with one `buffer` per worker, releases each range, and adds the
/// results in row order. The ranges depend on the shape alone, so the sums do
/// not depend on the thread count; of several errors the one of the lowest
/// rows is returned.
pub(super) fn for_row_chunks<B: Send>(
    rows: &dyn Rows,
    buffer: impl Fn() -> B + Sync + Send,
    encode: impl Fn(&mut B, Range<u64>) -> Result<EncodeStats> + Sync + Send,
) -> Result<EncodeStats> {
    for_row_chunks_of(rows, 0..rows.matrix().rows, 1, buffer, encode)
}

/// The same for the rows of `all`, in ranges of a multiple of `unit` rows but
/// for the last.
pub(super) fn for_row_chunks_of<B: Send>(
    rows: &dyn Rows,
    all: Range<u64>,
    unit: u64,
    buffer: impl Fn() -> B + Sync + Send,
    encode: impl Fn(&mut B, Range<u64>) -> Result<EncodeStats> + Sync + Send,
) -> Result<EncodeStats> {
    let step = (CHUNK_WEIGHTS / rows.matrix().cols.max(1) / unit).max(1) * unit;
    for_row_steps(rows, all, step, buffer, encode)
}

/// The same in ranges of `step` rows but for the last.
pub(super) fn for_row_steps<B: Send>(
    rows: &dyn Rows,
    all: Range<u64>,
    step: u64,
    buffer: impl Fn() -> B + Sync + Send,
    encode: impl Fn(&mut B, Range<u64>) -> Result<EncodeStats> + Sync + Send,
) -> Result<EncodeStats> {
    let first_failure = AtomicU64::new(u64::MAX);
    let chunks: Vec<Result<EncodeStats>> = (0..all.end.saturating_sub(all.start).div_ceil(step))
        .into_par_iter()
        .map_init(buffer, |buffer, chunk| {
            if chunk > first_failure.load(Ordering::Relaxed) {
                return Ok(EncodeStats::default());
            }
            let start = all.start + chunk * step;
            let range = start..(start + step).min(all.end);
            let result = encode(buffer, range.clone());
            rows.release(range);
            if result.is_err() {
                first_failure.fetch_min(chunk, Ordering::Relaxed);
            }
            result
        })
        .collect();
    chunks.into_iter().try_fold(EncodeStats::default(), |sum, chunk| chunk.map(|c| sum + c))
}

/// Reads `range` as `f32` into `buffer` (resized to fit) and refuses NaN and
/// infinity, naming the first.
pub(super) fn read_finite(
    rows: &dyn Rows,
    range: Range<u64>,
    codec: CodecId,
    buffer: &mut Vec<f32>,
) -> Result<()> {
    buffer.resize(chunk_elements(rows, &range)?, 0.0);
    rows.read_f32(range.clone(), buffer)?;
    if all_finite(buffer) { Ok(()) } else { Err(not_finite(rows, range.start, codec, buffer)) }
}

/// Elements of `range`, if they fit the address space.
pub(super) fn chunk_elements(rows: &dyn Rows, range: &Range<u64>) -> Result<usize> {
    let cols = rows.matrix().cols;
    range
        .end
        .saturating_sub(range.start)
        .checked_mul(cols)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| Error::unsupported(format!("tensor {}: a row of {cols} weights", rows.name())))
}

/// The error for the first value of `values`, which begin at row `first_row`,
/// that is not finite.
#[cold]
fn not_finite(rows: &dyn Rows, first_row: u64, codec: CodecId, values: &[f32]) -> Error {
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let cols = rows.matrix().cols.max(1);
    let index = first_row * cols + at as u64;
    Error::NotFinite {
        tensor: rows.name().to_owned(),
        index,
        row: index / cols,
        col: index % cols,
        value: values.get(at).copied().unwrap_or(f32::NAN),
        codec: codec.to_string(),
    }
}

multiversion! {
    /// Whether no value is NaN or infinite.
    fn all_finite(values: &[f32]) -> bool = all_finite_lanes;
}

#[inline(always)]
fn all_finite_lanes(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // The largest magnitude as an integer: NaN and infinity reach EXPONENT.
    values.iter().fold(0u32, |m, v| m.max(v.to_bits() & 0x7fff_ffff)) < EXPONENT
}

/// The error for a row whose finite weights are too large for the codec's
/// parameters.
#[cold]
pub(super) fn out_of_range(rows: &dyn Rows, row: u64, codec: CodecId) -> Error {
    let mut values = Vec::new();
    let peak = read_finite(rows, row..row + 1, codec, &mut values)
        .map(|()| values.iter().fold(0.0f32, |m, v| m.max(v.abs())));
    match peak {
        Err(error) => error,
        Ok(peak) => Error::unsupported(format!(
            "tensor {0}: row {row} holds weights up to {peak}, too large for {codec}: keep it with --tensor-type '^{0}$=f32'",
            rows.name()
        )),
    }
}

multiversion! {
    /// Sum of squares of the finite values.
    pub(super) fn energy(values: &[f32]) -> f64 = energy_lanes;
}

#[inline(always)]
fn energy_lanes(values: &[f32]) -> f64 {
    let mut sum = [0.0f64; 8];
    for chunk in values.chunks(8) {
        for (sum, &v) in sum.iter_mut().zip(chunk) {
            let v = f64::from(if v.abs() < f32::INFINITY { v } else { 0.0 });
            *sum += v * v;
        }
    }
    sum.iter().sum()
}

/// Checks a stored tensor's length and the rows and output asked for (`out`
/// values, `per_row` for each row), and returns its geometry.
pub(super) fn checked_geometry(
    id: CodecId,
    tensor: &Encoded<'_>,
    rows: &Range<u64>,
    out: usize,
    per_row: u64,
) -> Result<Geometry> {
    let Encoded { name, matrix, params, data } = *tensor;
    let geometry = geometry(id, name, matrix, params)?;
    if !geometry.length.allows(data.len() as u64) {
        return Err(Error::invalid(format!(
            "tensor {name}: payload is {} bytes, {id} of {}x{} needs {}",
            data.len(),
            matrix.rows,
            matrix.cols,
            geometry.length.max()
        )));
    }
    let wanted = rows.end.checked_sub(rows.start).and_then(|n| n.checked_mul(per_row));
    if rows.end > matrix.rows || wanted != Some(out as u64) {
        return Err(Error::invalid(format!(
            "tensor {name}: rows {}..{} of {}x{} asked for into {out} values",
            rows.start, rows.end, matrix.rows, matrix.cols
        )));
    }
    Ok(geometry)
}

/// Bytes of `rows` in a plane of a payload of checked length.
pub(super) fn plane_rows<'a>(data: &'a [u8], plane: Plane, rows: &Range<u64>) -> &'a [u8] {
    let at = |row: u64| (plane.offset + row * plane.row_stride) as usize;
    data.get(at(rows.start)..at(rows.end)).unwrap_or_default()
}

/// Geometry of a tensor, its error naming the tensor.
pub(super) fn geometry(id: CodecId, name: &str, matrix: Matrix, params: &Params) -> Result<Geometry> {
    id.geometry(matrix, params).map_err(|e| Error::invalid(format!("tensor {name}: codec {id}: {e:?}")))
}
