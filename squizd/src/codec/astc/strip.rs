//! Six rows of the matrix to one row of blocks and their scales.

use super::block::{GREY, Texel};
use super::encode::{Target, UNIT, encode};
use super::norm::{Columns, row_scales};
use super::survey::Workspace;
use super::{SIDE, TEXELS};
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::exp2i;
use crate::codec::{EncodeStats, Guide, Quality};
use crate::simd::multiversion;

/// The value that stands for the weight 0, in endpoint units.
const MIDDLE: f32 = GREY as f32 / UNIT;

/// What is the same for all strips of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    /// Scales are in units of 2 to this.
    pub(super) exponent: i32,
    pub(super) columns: &'a Columns,
    pub(super) quality: Quality,
    /// Whose importance weighs the squared errors of columns.
    pub(super) guide: Guide<'a>,
}

impl Plan<'_> {
    /// What takes weights to units of the exponent.
    pub(super) fn unit(&self) -> f32 {
        exp2i(-self.exponent)
    }

    /// Importance of the columns in the rows of a strip; nothing where it is not
    /// known, or nothing matters.
    fn importance(&self, first_row: u64) -> [&[f32]; SIDE] {
        let mut importance: [&[f32]; SIDE] = Default::default();
        for (row, columns) in (first_row..).zip(&mut importance) {
            let known = self.guide.at(row).map_or(&[][..], |m| &m.importance);
            *columns = if known.iter().any(|i| *i > 0.0) { known } else { &[] };
        }
        importance
    }
}

/// One worker's buffers.
pub(super) struct Buffers {
    /// Weights to encode; scaled to units of the exponent by [`Buffers::encode`].
    pub(super) values: Vec<f32>,
    pub(super) blocks: Vec<u8>,
    pub(super) scales: Vec<u8>,
    targets: Vec<Target>,
    /// Decoded values of a strip, six rows of whole blocks.
    decoded: Vec<f32>,
    workspace: Workspace,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            values: Vec::new(),
            blocks: Vec::new(),
            scales: Vec::new(),
            targets: Vec::new(),
            decoded: Vec::new(),
            workspace: Workspace::default(),
        }
    }

    /// Encodes `values`, whole rows of which every six make a strip, into
    /// `blocks` and `scales`; the first is row `first_row` of the tensor, a
    /// multiple of six. The index of a row too large for the exponent is an
    /// error.
    pub(super) fn encode(&mut self, plan: &Plan<'_>, first_row: u64) -> Result<EncodeStats, usize> {
        let cols = plan.columns.scales.len().max(1);
        self.blocks.clear();
        self.scales.clear();
        let mut stats = EncodeStats::default();
        let mut values = std::mem::take(&mut self.values);
        for v in &mut values {
            *v *= plan.unit();
        }
        for (i, strip) in values.chunks(SIDE * cols).enumerate() {
            let importance = plan.importance(first_row + (i * SIDE) as u64);
            let part = self.strip(plan, strip, cols, &importance).map_err(|row| i * SIDE + row)?;
            stats.signal += part.signal;
            stats.noise += part.noise;
        }
        self.values = values;
        let square = f64::from_bits(((1023 + 2 * plan.exponent) as u64) << 52);
        Ok(EncodeStats::new(stats.signal * square, stats.noise * square))
    }

    /// Encodes up to six rows, in units of the exponent.
    fn strip(
        &mut self,
        plan: &Plan<'_>,
        values: &[f32],
        cols: usize,
        importance: &[&[f32]; SIDE],
    ) -> Result<EncodeStats, usize> {
        let mut scales = row_scales(values, plan.columns, plan.quality);
        if let Some(row) = scales.iter().position(|s| *s >= 0x7c00) {
            return Err(row);
        }
        self.normalise(plan.columns, values, &scales, importance);
        let stride = cols.next_multiple_of(SIDE);
        self.decoded.resize(SIDE * stride, 0.0);
        for (b, target) in self.targets.iter().enumerate() {
            let block = encode(target, plan.quality, &mut self.workspace);
            self.blocks.extend(block.pack());
            let texels = block.texels().map(value);
            for (row, texels) in self.decoded.chunks_exact_mut(stride).zip(texels.as_chunks::<SIDE>().0) {
                if let Some((to, _)) = row.get_mut(b * SIDE..).and_then(|row| row.split_first_chunk_mut()) {
                    *to = *texels;
                }
            }
        }
        let mut stats = EncodeStats::default();
        let rows = values.chunks_exact(cols).zip(self.decoded.chunks_exact(stride));
        for (((weights, decoded), scale), importance) in rows.zip(&mut scales).zip(importance) {
            *scale = refit(weights, decoded, plan.columns, importance, *scale);
            self.scales.extend(scale.to_le_bytes());
            let part = error(weights, decoded, plan.columns, f16_to_f32(*scale));
            stats.signal += part.signal;
            stats.noise += part.noise;
        }
        Ok(stats)
    }

    /// Fills the targets of a strip: `w / (2 r c) + 1/2` as texels, and weights
    /// `(r c)^2` times the column's importance, at most 1 in each block.
    fn normalise(
        &mut self,
        columns: &Columns,
        values: &[f32],
        stored: &[u16; SIDE],
        importance: &[&[f32]; SIDE],
    ) {
        let Columns { scales, inverses, .. } = columns;
        let cols = scales.len().max(1);
        let empty = Target { values: [MIDDLE; TEXELS], weights: [0.0; TEXELS] };
        self.targets.clear();
        self.targets.resize(cols.div_ceil(SIDE), empty);
        // Relative, so that the products stay in range.
        let peak = importance.iter().copied().flatten().fold(0.0f32, |m, i| if *i > m { *i } else { m });
        for (y, (row, bits)) in values.chunks_exact(cols).zip(stored).enumerate() {
            let scale = f16_to_f32(*bits);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let columns = scales.chunks(SIDE).zip(inverses.chunks(SIDE));
            for (target, (row, (scales, inverses))) in
                self.targets.iter_mut().zip(row.chunks(SIDE).zip(columns))
            {
                let texels = target.values.iter_mut().zip(&mut target.weights).skip(y * SIDE);
                for ((value, weight), (w, (c, i))) in texels.zip(row.iter().zip(scales.iter().zip(inverses)))
                {
                    *value = MIDDLE + w * (inverse * i) * MIDDLE;
                    *weight = (scale * c) * (scale * c);
                }
            }
            for (target, importance) in self.targets.iter_mut().zip(importance[y].chunks(SIDE)) {
                for (weight, importance) in target.weights.iter_mut().skip(y * SIDE).zip(importance) {
                    *weight *= importance / peak;
                }
            }
        }
        for target in &mut self.targets {
            let most = target.weights.iter().fold(0.0f32, |m, w| if *w > m { *w } else { m });
            let inverse = if most > 1e-30 { 1.0 / most } else { 0.0 };
            for w in &mut target.weights {
                *w *= inverse;
            }
        }
    }
}

/// The value of a texel, in `[-1, 1]`.
pub(super) fn value(texel: Texel) -> f32 {
    // Exact: 17 significant bits at most.
    (texel as i32 - GREY as i32) as f32 / GREY as f32
}

multiversion! {
    /// The f16 scale that fits a row's weights to its decoded values best, by
    /// the columns' importance where it is known, or `bits` where none does.
    fn refit(weights: &[f32], decoded: &[f32], columns: &Columns, importance: &[f32], bits: u16) -> u16 = refit_lanes;
}

#[inline(always)]
fn refit_lanes(weights: &[f32], decoded: &[f32], columns: &Columns, importance: &[f32], bits: u16) -> u16 {
    let (mut products, mut squares) = ([0.0f64; 8], [0.0f64; 8]);
    let chunks = weights.chunks(8).zip(decoded.chunks(8)).zip(columns.scales.chunks(8));
    for (i, ((w, v), c)) in chunks.enumerate() {
        let mut k = [1.0f32; 8];
        for (k, importance) in k.iter_mut().zip(importance.get(8 * i..).unwrap_or_default()) {
            *k = *importance;
        }
        let sums = products.iter_mut().zip(&mut squares);
        for ((product, square), ((w, v), (c, k))) in sums.zip(w.iter().zip(v).zip(c.iter().zip(k))) {
            let v = f64::from(c * v);
            *product += f64::from(k) * f64::from(*w) * v;
            *square += f64::from(k) * v * v;
        }
    }
    let ratio = products.iter().sum::<f64>() / squares.iter().sum::<f64>();
    if bits == 0 || ratio.is_nan() {
        return bits;
    }
    let fitted = f32_to_f16(ratio.max(0.0) as f32);
    if fitted < 0x7c00 { fitted } else { bits }
}

multiversion! {
    /// Energy of a row and of its error.
    fn error(weights: &[f32], decoded: &[f32], columns: &Columns, scale: f32) -> EncodeStats = error_lanes;
}

#[inline(always)]
fn error_lanes(weights: &[f32], decoded: &[f32], columns: &Columns, scale: f32) -> EncodeStats {
    let (mut signal, mut noise) = ([0.0f64; 8], [0.0f64; 8]);
    let chunks = weights.chunks(8).zip(decoded.chunks(8));
    for ((w, v), c) in chunks.zip(columns.scales.chunks(8)) {
        let sums = signal.iter_mut().zip(&mut noise);
        for ((signal, noise), ((w, v), c)) in sums.zip(w.iter().zip(v).zip(c)) {
            let error = f64::from(w - scale * c * v);
            *signal += f64::from(*w) * f64::from(*w);
            *noise += error * error;
        }
    }
    EncodeStats::new(signal.iter().sum(), noise.iter().sum())
}
