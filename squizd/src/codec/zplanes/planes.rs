//! Elements and their byte planes.
//!
//! A float's bits are rotated left by one, so that its sign comes last and the
//! first byte begins with the exponent: for bfloat16 and binary32 it is the
//! exponent, for binary16 exponent and three bits of mantissa.

use crate::codec::Rows;
use crate::codec::half_float::{f32_to_bf16, f32_to_f16};
use crate::codec::stream::chunk_elements;
use crate::{Error, Result};
use squizd_spec::{CodecId, DType};
use std::ops::Range;

/// An element type, as the raw codec stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The raw codec.
    pub(super) raw: CodecId,
    /// Bytes.
    pub(super) size: usize,
}

impl Element {
    /// The type of a source's plain numbers.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Self::stored(1),
            DType::F16 => Self::stored(2),
            DType::BF16 => Self::stored(3),
            DType::I8 => Self::stored(4),
            _ => None,
        }
    }

    /// The type of a raw codec's id.
    pub(super) fn stored(id: u8) -> Option<Self> {
        let size = match id {
            1 => 4,
            2 | 3 => 2,
            4 => 1,
            _ => return None,
        };
        Some(Self { raw: CodecId(u16::from(id)), size })
    }

    /// Values that are of this type exactly, as bytes.
    pub(super) fn store(self, values: &[f32], bytes: &mut Vec<u8>) {
        bytes.clear();
        match self.raw {
            CodecId::RAW_F32 => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            CodecId::RAW_F16 => bytes.extend(values.iter().flat_map(|v| f32_to_f16(*v).to_le_bytes())),
            CodecId::RAW_BF16 => bytes.extend(values.iter().flat_map(|v| f32_to_bf16(*v).to_le_bytes())),
            _ => bytes.extend(values.iter().map(|v| (*v as i8).cast_unsigned())),
        }
    }

    /// The source's numbers of `range` as bytes.
    pub(super) fn read(
        self,
        rows: &dyn Rows,
        range: Range<u64>,
        values: &mut Vec<f32>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let count = chunk_elements(rows, &range)?;
        if let Some(native) = rows.read_native(range.clone())? {
            if native.len() != count.saturating_mul(self.size) {
                return Err(Error::invalid(format!(
                    "tensor {}: source gave {} bytes for {count} {} values",
                    rows.name(),
                    native.len(),
                    rows.dtype()
                )));
            }
            bytes.clear();
            bytes.extend_from_slice(&native);
            return Ok(());
        }
        values.resize(count, 0.0);
        rows.read_f32(range, values)?;
        self.store(values, bytes);
        Ok(())
    }

    /// Splits elements into their planes, most significant first, one after
    /// the other in `planes`.
    pub(super) fn split(self, bytes: &[u8], planes: &mut Vec<u8>) {
        let count = bytes.len() / self.size;
        planes.clear();
        planes.resize(count * self.size, 0);
        let mut split = planes.chunks_exact_mut(count.max(1));
        match (self.size, split.next(), split.next(), split.next(), split.next()) {
            (2, Some(first), Some(second), ..) => {
                let words = bytes.as_chunks::<2>().0.iter().zip(first).zip(second);
                for ((word, first), second) in words {
                    [*first, *second] = u16::from_le_bytes(*word).rotate_left(1).to_be_bytes();
                }
            }
            (4, Some(a), Some(b), Some(c), Some(d)) => {
                let words = bytes.as_chunks::<4>().0.iter().zip(a).zip(b).zip(c).zip(d);
                for ((((word, a), b), c), d) in words {
                    [*a, *b, *c, *d] = u32::from_le_bytes(*word).rotate_left(1).to_be_bytes();
                }
            }
            (_, Some(only), ..) => only.copy_from_slice(bytes),
            _ => {}
        }
    }

    /// Puts the elements `range` of `count` together again from their planes.
    pub(super) fn merge(self, planes: &[u8], count: usize, range: Range<usize>, bytes: &mut [u8]) {
        let plane = |p: usize| planes.get(p * count + range.start..p * count + range.end).unwrap_or_default();
        match self.size {
            2 => {
                let pairs = plane(0).iter().zip(plane(1));
                for (word, (a, b)) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                    *word = u16::from_be_bytes([*a, *b]).rotate_right(1).to_le_bytes();
                }
            }
            4 => {
                let quads = plane(0).iter().zip(plane(1)).zip(plane(2)).zip(plane(3));
                for (word, (((a, b), c), d)) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(quads) {
                    *word = u32::from_be_bytes([*a, *b, *c, *d]).rotate_right(1).to_le_bytes();
                }
            }
            _ => bytes.iter_mut().zip(plane(0)).for_each(|(to, from)| *to = *from),
        }
    }
}
