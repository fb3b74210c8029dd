//! Tiles to rows.

use super::form::Form;
use super::tile::{SIDE, Stream, TILE, place};
use crate::codec::Encoded;
use crate::codec::stream::checked_geometry;
use crate::{Result, simd::multiversion};
use squizd_spec::CodecId;
use std::ops::Range;

/// The parts of a stored tensor of checked geometry.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) form: Form,
    scales: &'a [u8],
    strips: &'a [u8],
    strip_bytes: usize,
}

impl<'a> Parts<'a> {
    /// The parts of `tensor`, if its sizes and those of the request (see
    /// [`checked_geometry`]) go together.
    pub(super) fn of(tensor: &Encoded<'a>, rows: &Range<u64>, out: usize, per_row: u64) -> Result<Self> {
        let geometry = checked_geometry(CodecId::SQINT2, tensor, rows, out, per_row)?;
        let [scales, strips, ..] = geometry.planes;
        let form = Form::of(tensor.params);
        let end = tensor.matrix.rows * scales.row_stride;
        Ok(Self {
            form,
            scales: tensor.data.get(..end as usize).unwrap_or_default(),
            strips: tensor.data.get(strips.offset as usize..).unwrap_or_default(),
            strip_bytes: tensor.matrix.cols.div_ceil(SIDE as u64) as usize * form.trellis.bytes(),
        })
    }

    /// The scale of a row.
    pub(super) fn scale(&self, row: u64) -> f32 {
        let size = self.form.scales.bytes();
        self.form
            .scales
            .read(self.scales.get(row as usize * size..).and_then(|s| s.get(..size)).unwrap_or_default())
    }

    /// The strips that hold `rows`: the rows of each that are wanted, and its
    /// tiles.
    pub(super) fn strips(self, rows: Range<u64>) -> impl Iterator<Item = (Range<u64>, &'a [u8])> {
        let side = SIDE as u64;
        (rows.start / side..rows.end.div_ceil(side)).map(move |strip| {
            let wanted = rows.start.max(strip * side)..rows.end.min((strip + 1) * side);
            let start = strip as usize * self.strip_bytes;
            (wanted, self.strips.get(start..start + self.strip_bytes).unwrap_or_default())
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
    let stride = cols.next_multiple_of(SIDE);
    let rotation = parts.form.rotation(cols);
    let mut strip = vec![0.0; SIDE * stride];
    let mut out = out.chunks_exact_mut(cols);
    for (wanted, tiles) in parts.strips(rows) {
        table_values(parts.form, tiles, &mut strip);
        for (row, out) in wanted.zip(out.by_ref()) {
            let from = (row % SIDE as u64) as usize * stride;
            out.copy_from_slice(&strip[from..from + cols]);
            rotation.inverse(out, parts.scale(row));
        }
    }
    Ok(())
}

multiversion! {
    /// The table values of a strip's tiles, row by row.
    fn table_values(form: Form, tiles: &[u8], out: &mut [f32]) = table_values_lanes;
}

#[inline(always)]
fn table_values_lanes(form: Form, tiles: &[u8], out: &mut [f32]) {
    let Form { trellis, .. } = form;
    let table = form.table();
    let stride = out.len() / SIDE;
    for (k, tile) in tiles.chunks_exact(trellis.bytes()).enumerate() {
        let stream = Stream::new(tile);
        for t in 0..TILE {
            let (r, c) = place(t);
            let state = stream.window(trellis.offset(t), trellis.window);
            out[r * stride + k * SIDE + c] = f32::from(table.get(state).copied().unwrap_or(0));
        }
    }
}
