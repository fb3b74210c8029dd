//! A model and its calibration, seen through scales.

use super::{Factors, Scales, Sets};
use crate::{
    Result,
    calibration::{Calibration, input_of},
    codec::InputMoments,
    model::ModelConfig,
    source::{SourceProvenance, TensorInfo, TensorSource},
};
use squizd_spec::DType;
use std::{borrow::Cow, collections::BTreeMap, ops::Range};

/// A source whose values are scaled while they are read, row range by row
/// range: each tensor by its own factors, whichever others are read.
pub struct ScaledSource<'a> {
    inner: &'a dyn TensorSource,
    scales: &'a Scales,
    infos: Vec<TensorInfo>,
}

impl<'a> ScaledSource<'a> {
    /// Scaled tensors become F32: their products are no numbers of the source's
    /// type any more.
    pub fn new(inner: &'a dyn TensorSource, scales: &'a Scales) -> Self {
        let mut infos = inner.tensors().to_vec();
        for index in scales.tensors.keys() {
            if let Some(info) = infos.get_mut(*index) {
                info.dtype = DType::F32;
            }
        }
        Self { inner, scales, infos }
    }
}

impl Factors {
    /// Scales `rows` of a tensor of `total` rows, in place.
    fn apply(&self, rows: Range<u64>, total: u64, values: &mut [f32]) {
        let count = (rows.end - rows.start).max(1) as usize;
        let cols = values.len() / count;
        if cols == 0 {
            return;
        }
        let set = |sets: &'_ Sets, row: u64| -> usize {
            (row / (total / sets.len().max(1) as u64).max(1)) as usize
        };
        for (row, values) in rows.zip(values.chunks_exact_mut(cols)) {
            if let Some(sets) = &self.columns {
                let factors = sets.get(set(sets, row)).map_or(&[][..], Vec::as_slice);
                values.iter_mut().zip(factors).for_each(|(v, s)| *v *= *s);
            }
            if let Some(sets) = &self.gain {
                let factors = sets.get(set(sets, row)).map_or(&[][..], Vec::as_slice);
                values.iter_mut().zip(factors).for_each(|(v, s)| *v /= *s);
            }
            if let Some(divisor) = self.rows.as_ref().and_then(|r| r.get(row as usize)) {
                for v in values.iter_mut() {
                    *v /= *divisor;
                }
            }
        }
    }
}

impl TensorSource for ScaledSource<'_> {
    fn model(&self) -> &ModelConfig {
        self.inner.model()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.inner.read_f32(index, rows.clone(), out)?;
        if let Some((factors, info)) = self.scales.tensors.get(&index).zip(self.infos.get(index)) {
            factors.apply(rows, info.rows(), out);
        }
        Ok(())
    }

    fn read_native(&self, index: usize, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        if self.scales.changes(index) { Ok(None) } else { self.inner.read_native(index, rows) }
    }

    fn release(&self, index: usize, rows: Range<u64>) {
        self.inner.release(index, rows);
    }

    fn tokenizer_files(&self) -> &BTreeMap<String, Vec<u8>> {
        self.inner.tokenizer_files()
    }

    fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template()
    }

    fn source_files(&self) -> &BTreeMap<String, String> {
        self.inner.source_files()
    }

    fn provenance(&self) -> &SourceProvenance {
        self.inner.provenance()
    }

    fn stamp(&self) -> Result<Vec<u8>> {
        self.inner.stamp()
    }

    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        self.inner.hash_files(stop)
    }
}

/// A calibration of the scaled model: inputs are `x / s`, so `H_ij` becomes
/// `H_ij / (s_i s_j)`.
pub struct ScaledCalibration<'a> {
    inner: &'a dyn Calibration,
    scales: &'a Scales,
}

impl<'a> ScaledCalibration<'a> {
    /// `inner` is of the model before scaling.
    pub fn new(inner: &'a dyn Calibration, scales: &'a Scales) -> Self {
        Self { inner, scales }
    }
}

/// `H` of the inputs divided by `s`.
pub(super) fn divide(moments: &mut InputMoments, s: &[f32]) {
    for (h, s) in moments.importance.iter_mut().zip(s) {
        *h /= *s * *s;
    }
    let side = moments.importance.len();
    if side == 0 {
        return;
    }
    for (row, a) in moments.hessian.chunks_exact_mut(side).zip(s) {
        for (h, b) in row.iter_mut().zip(s) {
            *h /= *a * *b;
        }
    }
}

impl Calibration for ScaledCalibration<'_> {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        let mut moments = self.inner.moments(tensor)?;
        let sets = input_of(tensor).and_then(|input| self.scales.inputs.get(&input));
        if let (Some(moments), Some(sets)) = (&mut moments, sets) {
            for (i, moments) in moments.iter_mut().enumerate() {
                // A norm's one set holds for every expert that reads it.
                if let Some(s) = sets.get(i).or(sets.first()) {
                    divide(moments, s);
                }
            }
        }
        Ok(moments)
    }

    fn sha256(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        self.inner.sha256(stop)
    }
}
