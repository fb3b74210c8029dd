//! Rows to tiles.
//!
//! A row is brought to magnitudes near 1 by a power of two (exact, so that any
//! binary32 works), rotated, divided by its scale and coded tile by tile, from
//! the last column of tiles to the first: with calibration each tile's target
//! takes back the errors of those before it ([`crate::codec::ldlq`]).

use super::form::{Form, Scales};
use super::rotation::Rotation;
use super::table;
use super::tile::{SIDE, TILE, pack, place, values};
use super::viterbi::{Search, Targets};
use crate::codec::EncodeStats;
use crate::codec::lanes::exponent;
use crate::codec::ldlq::{Feedback, WIDTH};
use crate::codec::stream::energy;

/// What stays the same for all rows of a tensor (or of one expert).
pub(super) struct Encoder<'a> {
    pub(super) form: Form,
    pub(super) rotation: &'a Rotation,
    /// With calibration.
    pub(super) feedback: Option<&'a Feedback>,
}

/// One worker's memory.
pub(super) struct Worker {
    search: Search,
    /// Rotated rows, padded to whole tiles; what is coded becomes its error.
    rotated: Vec<f32>,
    row: Vec<f32>,
    pub(super) scales: Vec<u8>,
    pub(super) tiles: Vec<u8>,
}

/// What encoding some rows came to.
pub(super) enum Coded {
    Done(EncodeStats),
    /// The first row whose scale is too large to be stored.
    Overflow(usize),
}

/// A row on its way.
#[derive(Clone, Copy, Default)]
struct Row {
    /// Power of two that it was divided by.
    exponent: i32,
    /// 256 over its scale; 0 for a row of zeros.
    inverse: f32,
    /// Its scale, divided like its weights.
    scale: f32,
}

impl Worker {
    pub(super) fn new(form: Form) -> Self {
        Self {
            search: Search::new(form.trellis, form.table()),
            rotated: Vec::new(),
            row: Vec::new(),
            scales: Vec::new(),
            tiles: Vec::new(),
        }
    }

    /// Encodes the rows of `cols` columns in `values` (finite; whole strips but
    /// for the tensor's last) into `scales` and `tiles`.
    pub(super) fn encode(&mut self, encoder: &Encoder<'_>, weights: &[f32], cols: usize) -> Coded {
        let stride = cols.next_multiple_of(SIDE);
        let count = weights.len() / cols;
        let size = encoder.form.scales.bytes();
        self.scales.clear();
        self.scales.resize(count * size, 0);
        self.rotated.clear();
        self.rotated.resize(count.next_multiple_of(SIDE) * stride, 0.0);
        let mut rows = vec![Row::default(); count.next_multiple_of(SIDE)];
        let mut stats = EncodeStats::default();
        let each = weights.chunks_exact(cols).zip(self.rotated.chunks_exact_mut(stride));
        for (i, ((weights, rotated), scale)) in each.zip(self.scales.chunks_exact_mut(size)).enumerate() {
            stats.signal += energy(weights);
            match rotate(encoder, weights, &mut self.row, rotated, scale) {
                Some(row) => rows[i] = row,
                None => return Coded::Overflow(i),
            }
        }
        let bytes = encoder.form.trellis.bytes();
        self.tiles.clear();
        self.tiles.resize(rows.len() / SIDE * (stride / SIDE) * bytes, 0);
        let strips = rows.chunks_exact(SIDE).zip(self.rotated.chunks_exact_mut(SIDE * stride));
        for ((rows, rotated), tiles) in strips.zip(self.tiles.chunks_exact_mut(stride / SIDE * bytes)) {
            strip(encoder, &mut self.search, rows, rotated, cols, tiles);
        }
        for (row, errors) in rows.iter().zip(self.rotated.chunks_exact(stride)) {
            stats.noise += energy(errors) * libm::exp2(2.0 * f64::from(row.exponent));
        }
        Coded::Done(stats)
    }
}

/// Rotates a row into `out` and stores its scale; `None` if that is too large.
fn rotate(
    encoder: &Encoder<'_>,
    weights: &[f32],
    buffer: &mut Vec<f32>,
    out: &mut [f32],
    stored: &mut [u8],
) -> Option<Row> {
    let peak = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let exponent = if peak > 0.0 { exponent(peak) } else { 0 };
    // In two steps: 2^149 is beyond binary32.
    let halves = [-exponent / 2, -exponent + exponent / 2].map(crate::codec::lanes::exp2i);
    buffer.clear();
    buffer.extend(weights.iter().map(|w| w * halves[0] * halves[1]));
    encoder.rotation.forward(buffer);
    out[..buffer.len()].copy_from_slice(buffer);
    let rms = (energy(buffer) / buffer.len() as f64).sqrt() as f32;
    encoder.form.scales.write(rms / table::UNIT, exponent, stored)?;
    let scale = (f64::from(encoder.form.scales.read(stored)) * libm::exp2(-f64::from(exponent))) as f32;
    let inverse = 256.0 / scale;
    Some(Row { exponent, scale, inverse: if inverse.is_finite() { inverse } else { 0.0 } })
}

/// Codes one strip: `rotated` holds its rows and receives their errors.
fn strip(
    encoder: &Encoder<'_>,
    search: &mut Search,
    rows: &[Row],
    rotated: &mut [f32],
    cols: usize,
    tiles: &mut [u8],
) {
    let stride = rotated.len() / SIDE;
    let Form { trellis, .. } = encoder.form;
    let mut targets = Targets { x: [0; TILE], exists: [false; TILE] };
    let mut states = [0; TILE];
    let mut coded = [0; TILE];
    for (k, tile) in tiles.chunks_exact_mut(trellis.bytes()).enumerate().rev() {
        let mut wanted = [[0.0; WIDTH]; SIDE];
        for (wanted, row) in wanted.iter_mut().zip(rotated.chunks_exact(stride)) {
            wanted.copy_from_slice(&row[k * SIDE..][..SIDE]);
        }
        if let Some(feedback) = encoder.feedback {
            feedback.add(k, rotated, &mut wanted);
        }
        for t in 0..TILE {
            let (r, c) = place(t);
            targets.exists[t] = rows[r].inverse > 0.0 && k * SIDE + c < cols;
            targets.x[t] = fixed(wanted[r][c] * rows[r].inverse);
        }
        search.path(&targets, &mut states);
        pack(trellis, &states, tile);
        values(tile, trellis, encoder.form.table(), &mut coded);
        for t in 0..TILE {
            let (r, c) = place(t);
            if k * SIDE + c < cols {
                rotated[r * stride + k * SIDE + c] -= rows[r].scale * f32::from(coded[t]);
            }
        }
    }
}

/// The nearest 16-bit integer, ties to even.
#[inline(always)]
fn fixed(x: f32) -> i16 {
    // 1.5 * 2^23 leaves the integer in the low bits.
    (x.clamp(-32768.0, 32767.0) + 12_582_912.0).to_bits() as i16
}

/// Root mean square of a row (0 for an empty one), without overflow.
pub(super) fn rms(weights: &[f32]) -> f32 {
    (energy(weights) / weights.len().max(1) as f64).sqrt() as f32
}

/// The scale format that suits sampled rows of `cols` weights; without any
/// weight but zeros nothing is known of the others.
pub(super) fn plan_scales(sampled: &[f32], cols: usize) -> Scales {
    Scales::plan(sampled.chunks_exact(cols.max(1)).map(rms))
}
