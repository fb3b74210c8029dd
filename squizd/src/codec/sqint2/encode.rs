//! Rows to tiles.
//!
//! A row is brought to magnitudes near 1 by a power of two (exact, so that any
//! binary32 works), rotated, divided by its scale and coded tile by tile, from
//! the last column of tiles to the first: with calibration each tile's target
//! takes back the errors of those before it ([`crate::codec::ldlq`]).

use super::form::{Coding, Form, Scales};
use super::levels;
use super::rotation::Rotation;
use super::table;
use super::tile::{SIDE, TILE, Trellis, pack, place, values};
use super::viterbi::{Search, Targets};
use crate::codec::EncodeStats;
use crate::codec::lanes::{exp2i, exponent};
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
    /// For a trellis.
    search: Option<Search>,
    /// Rotated rows, padded to whole tiles; what is coded becomes its error.
    pub(super) rotated: Vec<f32>,
    row: Vec<f32>,
    pub(super) scales: Vec<u8>,
    pub(super) codes: Vec<u8>,
}

/// What encoding some rows came to.
pub(super) enum Coded {
    Done(EncodeStats),
    /// The first row with a scale too large to be stored.
    Overflow(usize),
}

/// A row on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    /// Power of two that it was divided by.
    pub(super) exponent: i32,
    /// Root mean square after that.
    rms: f32,
}

impl Row {
    /// What squares must be multiplied with for that division.
    pub(super) fn unit(self) -> f64 {
        libm::exp2(2.0 * f64::from(self.exponent))
    }
}

impl Worker {
    pub(super) fn new(form: Form) -> Self {
        let search = match form.coding {
            Coding::Trellis { trellis, .. } => Some(Search::new(trellis, form.table())),
            Coding::Levels => None,
        };
        Self { search, rotated: Vec::new(), row: Vec::new(), scales: Vec::new(), codes: Vec::new() }
    }

    /// Encodes the rows of `cols` columns in `weights` (finite; whole strips but
    /// for the tensor's last) into `scales` and `codes`.
    pub(super) fn encode(&mut self, encoder: &Encoder<'_>, weights: &[f32], cols: usize) -> Coded {
        let stride = cols.next_multiple_of(SIDE);
        let count = weights.len() / cols;
        let form = encoder.form;
        self.scales.clear();
        self.scales.resize(count * form.scales_per_row(cols) * form.scales.bytes(), 0);
        self.rotated.clear();
        self.rotated.resize(count.next_multiple_of(SIDE) * stride, 0.0);
        let mut rows = Vec::with_capacity(count);
        let mut signal = 0.0;
        for (weights, rotated) in weights.chunks_exact(cols).zip(self.rotated.chunks_exact_mut(stride)) {
            signal += energy(weights);
            rows.push(rotate(encoder.rotation, weights, &mut self.row, rotated));
        }
        let coded = match form.coding {
            Coding::Levels => levels::encode(self, encoder, &rows, cols),
            Coding::Trellis { trellis, .. } => self.encode_tiles(encoder, trellis, &rows, cols),
        };
        match coded {
            Coded::Done(stats) => Coded::Done(EncodeStats { signal, ..stats }),
            overflow @ Coded::Overflow(_) => overflow,
        }
    }

    /// Codes the rotated rows strip by strip.
    fn encode_tiles(&mut self, encoder: &Encoder<'_>, trellis: Trellis, rows: &[Row], cols: usize) -> Coded {
        let Some(search) = &mut self.search else { return Coded::Done(EncodeStats::default()) };
        let stride = cols.next_multiple_of(SIDE);
        let scales = encoder.form.scales;
        let mut steps = vec![Step::default(); rows.len().next_multiple_of(SIDE)];
        for (i, (row, stored)) in rows.iter().zip(self.scales.chunks_exact_mut(scales.bytes())).enumerate() {
            if scales.write(row.rms / table::UNIT, row.exponent, stored).is_none() {
                return Coded::Overflow(i);
            }
            steps[i] =
                Step::new((f64::from(scales.read(stored)) * libm::exp2(-f64::from(row.exponent))) as f32);
        }
        self.codes.clear();
        self.codes.resize(steps.len() / SIDE * (stride / SIDE) * trellis.bytes(), 0);
        let strips = steps.chunks_exact(SIDE).zip(self.rotated.chunks_exact_mut(SIDE * stride));
        for ((steps, rotated), tiles) in
            strips.zip(self.codes.chunks_exact_mut(stride / SIDE * trellis.bytes()))
        {
            strip(encoder, trellis, search, steps, rotated, cols, tiles);
        }
        let mut stats = EncodeStats::default();
        for (row, errors) in rows.iter().zip(self.rotated.chunks_exact(stride)) {
            stats.noise += energy(errors) * row.unit();
        }
        Coded::Done(stats)
    }
}

/// A row's scale, divided by the same power of two as its weights.
#[derive(Clone, Copy, Default)]
struct Step {
    scale: f32,
    /// 256 over that; 0 for a row of zeros.
    inverse: f32,
}

impl Step {
    fn new(scale: f32) -> Self {
        let inverse = 256.0 / scale;
        Self { scale, inverse: if inverse.is_finite() { inverse } else { 0.0 } }
    }
}

/// Rotates a row into `out`.
fn rotate(rotation: &Rotation, weights: &[f32], buffer: &mut Vec<f32>, out: &mut [f32]) -> Row {
    let peak = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    let exponent = if peak > 0.0 { exponent(peak) } else { 0 };
    // In two steps: 2^127 is not the largest factor needed.
    let halves = [-exponent / 2, -exponent + exponent / 2].map(exp2i);
    buffer.clear();
    buffer.extend(weights.iter().map(|w| w * halves[0] * halves[1]));
    rotation.forward(buffer);
    for (out, w) in out.iter_mut().zip(&*buffer) {
        *out = *w;
    }
    Row { exponent, rms: rms(buffer) }
}

/// Codes one strip: `rotated` holds its rows and receives their errors.
fn strip(
    encoder: &Encoder<'_>,
    trellis: Trellis,
    search: &mut Search,
    steps: &[Step],
    rotated: &mut [f32],
    cols: usize,
    tiles: &mut [u8],
) {
    let stride = rotated.len() / SIDE;
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
            targets.exists[t] = steps[r].inverse > 0.0 && k * SIDE + c < cols;
            targets.x[t] = fixed(wanted[r][c] * steps[r].inverse);
        }
        search.path(&targets, &mut states);
        pack(trellis, &states, tile);
        values(tile, trellis, encoder.form.table(), &mut coded);
        for t in 0..TILE {
            let (r, c) = place(t);
            if k * SIDE + c < cols {
                rotated[r * stride + k * SIDE + c] -= steps[r].scale * f32::from(coded[t]);
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

/// Root mean square (0 of nothing), without overflow.
fn rms(weights: &[f32]) -> f32 {
    (energy(weights) / weights.len().max(1) as f64).sqrt() as f32
}

/// The scale format that suits sampled rows of `cols` weights; without any
/// weight but zeros nothing is known of the others.
pub(super) fn plan_scales(sampled: &[f32], cols: usize) -> Scales {
    Scales::plan(sampled.chunks_exact(cols.max(1)).map(rms))
}
