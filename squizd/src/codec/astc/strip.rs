//! Six rows of the matrix to one row of blocks and their scales.

use super::block::GREY;
use super::encode::{Target, UNIT, encode};
use super::norm::{Columns, row_scales};
use super::survey::Workspace;
use super::{Quality, SIDE, TEXELS};
use crate::codec::EncodeStats;
use crate::codec::half_float::f16_to_f32;
use crate::codec::lanes::exp2i;

/// The value that stands for the weight 0, in endpoint units.
const MIDDLE: f32 = GREY as f32 / UNIT;

/// What is the same for all strips of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    /// Scales are in units of 2 to this.
    pub(super) exponent: i32,
    pub(super) columns: &'a Columns,
    pub(super) quality: Quality,
    /// Weight of each column's squared error; all 1 where there is none.
    pub(super) importance: Option<&'a [f32]>,
}

impl Plan<'_> {
    /// What takes weights to units of the exponent.
    pub(super) fn unit(&self) -> f32 {
        exp2i(-self.exponent)
    }
}

/// One worker's buffers.
pub(super) struct Buffers {
    pub(super) values: Vec<f32>,
    pub(super) blocks: Vec<u8>,
    pub(super) scales: Vec<u8>,
    targets: Vec<Target>,
    workspace: Workspace,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            values: Vec::new(),
            blocks: Vec::new(),
            scales: Vec::new(),
            targets: Vec::new(),
            workspace: Workspace::new(),
        }
    }

    /// Encodes `values`, whole rows of which every six make a strip, into
    /// `blocks` and `scales`. The index of a row too large for the exponent is
    /// an error.
    pub(super) fn encode(&mut self, plan: &Plan<'_>) -> Result<EncodeStats, usize> {
        let cols = plan.columns.scales.len().max(1);
        self.blocks.clear();
        self.scales.clear();
        let mut stats = EncodeStats::default();
        let values = std::mem::take(&mut self.values);
        for (i, strip) in values.chunks(SIDE * cols).enumerate() {
            let part = self.strip(plan, strip, cols).map_err(|row| i * SIDE + row)?;
            stats.signal += part.signal;
            stats.noise += part.noise;
        }
        self.values = values;
        Ok(stats)
    }

    fn strip(&mut self, plan: &Plan<'_>, values: &[f32], cols: usize) -> Result<EncodeStats, usize> {
        let empty = Target { values: [MIDDLE; TEXELS], weights: [0.0; TEXELS] };
        self.targets.clear();
        self.targets.resize(cols.div_ceil(SIDE), empty);
        let mut scales = [0.0f32; SIDE];
        let stored = row_scales(values, plan.unit(), plan.columns, plan.quality);
        for (y, ((row, bits), scale)) in values.chunks_exact(cols).zip(stored).zip(&mut scales).enumerate() {
            if bits >= 0x7c00 {
                return Err(y);
            }
            self.scales.extend(bits.to_le_bytes());
            *scale = f16_to_f32(bits);
            self.normalise(plan, y, row, *scale);
        }
        let mut stats = EncodeStats::default();
        for (b, target) in self.targets.iter_mut().enumerate() {
            let most = target.weights.iter().fold(0.0f32, |m, w| if *w > m { *w } else { m });
            let inverse = if most > 0.0 { 1.0 / most } else { 0.0 };
            for w in &mut target.weights {
                *w *= inverse;
            }
            let block = encode(target, plan.quality, &mut self.workspace);
            self.blocks.extend(block.pack());
            let texels = block.texels();
            let (mut signal, mut noise) = (0.0f32, 0.0f32);
            for (y, (row, scale)) in values.chunks_exact(cols).zip(scales).enumerate() {
                let texels = texels.get(y * SIDE..).unwrap_or_default();
                let row = row.iter().zip(&plan.columns.scales).skip(b * SIDE);
                for ((v, c), t) in row.take(SIDE).zip(texels) {
                    let v = v * plan.unit();
                    let error = v - scale * c * ((*t as i32 - GREY as i32) as f32 / GREY as f32);
                    signal += v * v;
                    noise += error * error;
                }
            }
            stats.signal += f64::from(signal);
            stats.noise += f64::from(noise);
        }
        let square = f64::from_bits(((1023 + 2 * plan.exponent) as u64) << 52);
        Ok(EncodeStats { signal: stats.signal * square, noise: stats.noise * square })
    }

    /// Puts row `y` of the strip into the targets.
    fn normalise(&mut self, plan: &Plan<'_>, y: usize, row: &[f32], scale: f32) {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let Columns { scales, inverses, .. } = plan.columns;
        let columns = scales.chunks(SIDE).zip(inverses.chunks(SIDE));
        for ((b, target), (row, (scales, inverses))) in
            self.targets.iter_mut().enumerate().zip(row.chunks(SIDE).zip(columns))
        {
            for (x, ((v, c), i)) in row.iter().zip(scales).zip(inverses).enumerate() {
                let weight = (scale * c) * (scale * c);
                let at = y * SIDE + x;
                let importance = plan.importance.and_then(|w| w.get(b * SIDE + x)).copied().unwrap_or(1.0);
                target.weights[at] = weight * importance;
                target.values[at] = MIDDLE + v * plan.unit() * (inverse * i) * MIDDLE;
            }
        }
    }
}
