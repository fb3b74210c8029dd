//! Tiles to rows.

use super::form::{Coding, Form};
use super::levels;
use super::tile::{SIDE, Stream, TILE, Trellis, place};
use crate::Result;
use crate::codec::Encoded;
use crate::codec::stream::checked_geometry;
use squizd_spec::CodecId;
use std::ops::Range;

/// Tiles whose values are held at a time.
const TILES: usize = 8;

/// The parts of a stored tensor of checked geometry.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) form: Form,
    cols: usize,
    scales: &'a [u8],
    codes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The parts of `tensor`, if its sizes and those of the request (see
    /// [`checked_geometry`]) go together.
    pub(super) fn of(tensor: &Encoded<'a>, rows: &Range<u64>, out: usize, per_row: u64) -> Result<Self> {
        let geometry = checked_geometry(CodecId::SQINT2, tensor, rows, out, per_row)?;
        let [scales, codes, ..] = geometry.planes;
        let end = tensor.matrix.rows * scales.row_stride;
        Ok(Self {
            form: Form::of(tensor.params),
            cols: tensor.matrix.cols as usize,
            scales: tensor.data.get(..end as usize).unwrap_or_default(),
            codes: tensor.data.get(codes.offset as usize..).unwrap_or_default(),
        })
    }

    /// A scale of a row.
    pub(super) fn scale(&self, row: u64, index: usize) -> f32 {
        let size = self.form.scales.bytes();
        let at = (row as usize * self.form.scales_per_row(self.cols) + index) * size;
        self.form.scales.read(self.scales.get(at..at + size).unwrap_or_default())
    }

    /// The codes of a row in layout LEVELS, `bytes` for each group.
    pub(super) fn codes(&self, row: u64, bytes: usize) -> &'a [u8] {
        let length = self.form.scales_per_row(self.cols) * bytes;
        self.codes.get(row as usize * length..).and_then(|c| c.get(..length)).unwrap_or_default()
    }

    /// The strips that hold `rows`: the rows of each that are wanted, and its
    /// tiles.
    pub(super) fn strips(
        self,
        trellis: Trellis,
        rows: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, &'a [u8])> {
        let side = SIDE as u64;
        let bytes = self.cols.div_ceil(SIDE) * trellis.bytes();
        (rows.start / side..rows.end.div_ceil(side)).map(move |strip| {
            let wanted = rows.start.max(strip * side)..rows.end.min((strip + 1) * side);
            let start = strip as usize * bytes;
            (wanted, self.codes.get(start..start + bytes).unwrap_or_default())
        })
    }
}

/// Decodes `rows` of a stored tensor.
pub(super) fn rows(tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
    let parts = Parts::of(tensor, &rows, out.len(), tensor.matrix.cols)?;
    if out.is_empty() {
        return Ok(());
    }
    let cols = tensor.matrix.cols as usize;
    let rotation = parts.form.rotation(cols);
    match parts.form.coding {
        Coding::Levels => {
            for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
                levels::values(&parts, row, out);
                rotation.inverse(out, 1.0);
            }
        }
        Coding::Trellis { trellis, .. } => {
            let (mut rest, mut values) = (out, [0.0; TILES * TILE]);
            for (wanted, tiles) in parts.strips(trellis, rows) {
                let first = (wanted.start % SIDE as u64) as usize;
                let (lines, after) =
                    rest.split_at_mut(((wanted.end - wanted.start) as usize * cols).min(rest.len()));
                rest = after;
                for (k, stored) in tiles.chunks(TILES * trellis.bytes()).enumerate() {
                    let width = stored.len() / trellis.bytes() * SIDE;
                    let values = &mut values[..SIDE * width];
                    table_values(trellis, parts.form.floats(), stored, values);
                    let values = values.chunks_exact(width).skip(first);
                    for (line, values) in lines.chunks_exact_mut(cols).zip(values) {
                        // The last tile reaches past the row.
                        for (out, value) in line[k * TILES * SIDE..].iter_mut().zip(values) {
                            *out = *value;
                        }
                    }
                }
                for (row, line) in wanted.zip(lines.chunks_exact_mut(cols)) {
                    rotation.inverse(line, parts.scale(row, 0));
                }
            }
        }
    }
    Ok(())
}

/// The table values of tiles of one strip, row by row.
#[allow(unsafe_code, reason = "calls a kernel for the level in use")]
fn table_values(trellis: Trellis, table: &[f32], tiles: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if super::trellis_kernel(crate::simd::level()).level == crate::simd::Level::Avx2 {
        // SAFETY: the level is only ever one this CPU supports; both have AVX2.
        unsafe { super::gather::values(trellis, table, tiles, out) };
        return;
    }
    generic(trellis, table, tiles, out);
}

fn generic(trellis: Trellis, table: &[f32], tiles: &[u8], out: &mut [f32]) {
    let stride = out.len() / SIDE;
    for (k, tile) in tiles.chunks_exact(trellis.bytes()).enumerate() {
        let stream = Stream::new(tile);
        for t in 0..TILE {
            let (r, c) = place(t);
            let state = stream.window(trellis.offset(t), trellis.window);
            out[r * stride + k * SIDE + c] = table.get(state).copied().unwrap_or(0.0);
        }
    }
}
