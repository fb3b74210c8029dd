//! Keys and values of past positions.

use crate::{Error, Result};
use half::{f16, slice::HalfFloatSliceExt};

/// Element type of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 32-bit floats: exact.
    #[default]
    F32,
    /// 16-bit floats: half the memory and traffic, 11 bits of precision.
    F16,
}

/// One layer's keys or values, `[position, kv_heads * head_dim]`.
#[derive(Debug)]
pub(super) enum KvRows {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl KvRows {
    fn reserve(kind: KvType, values: usize) -> std::result::Result<Self, std::collections::TryReserveError> {
        Ok(match kind {
            KvType::F32 => {
                let mut rows = Vec::new();
                rows.try_reserve_exact(values)?;
                Self::F32(rows)
            }
            KvType::F16 => {
                let mut rows = Vec::new();
                rows.try_reserve_exact(values)?;
                Self::F16(rows)
            }
        })
    }

    fn extend(&mut self, values: &[f32]) {
        match self {
            Self::F32(rows) => rows.extend_from_slice(values),
            Self::F16(rows) => {
                let start = rows.len();
                rows.resize(start + values.len(), f16::ZERO);
                if let Some(tail) = rows.get_mut(start..) {
                    tail.convert_from_f32_slice(values);
                }
            }
        }
    }

    fn truncate(&mut self, values: usize) {
        match self {
            Self::F32(rows) => rows.truncate(values),
            Self::F16(rows) => rows.truncate(values),
        }
    }
}

/// The cache of one sequence.
#[derive(Debug)]
pub(super) struct KvCache {
    layers: Vec<(KvRows, KvRows)>,
    width: usize,
}

impl KvCache {
    /// Reserves address space for `capacity` positions of `layers` layers with
    /// `width` values each; the memory becomes resident as it is filled.
    pub(super) fn new(kind: KvType, layers: usize, width: usize, capacity: usize) -> Result<Self> {
        let values = capacity.checked_mul(width).filter(|v| v.checked_mul(layers * 8).is_some());
        let reserve = || {
            let values = values?;
            (0..layers)
                .map(|_| Some((KvRows::reserve(kind, values).ok()?, KvRows::reserve(kind, values).ok()?)))
                .collect()
        };
        let layers: Option<Vec<_>> = reserve();
        match layers {
            Some(layers) => Ok(Self { layers, width }),
            None => Err(Error::invalid(format!(
                "no memory for a key/value cache of {capacity} positions; use a smaller --ctx-size"
            ))),
        }
    }

    /// Appends the keys and values of new positions.
    pub(super) fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        if let Some((keys, values)) = self.layers.get_mut(layer) {
            keys.extend(k);
            values.extend(v);
        }
    }

    /// Forgets every position from `length` on.
    pub(super) fn truncate(&mut self, length: usize) {
        let values = length.saturating_mul(self.width);
        for (k, v) in &mut self.layers {
            k.truncate(values);
            v.truncate(values);
        }
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> Option<(&KvRows, &KvRows)> {
        self.layers.get(layer).map(|(k, v)| (k, v))
    }
}
