//! Tensors encoded in memory, for measuring and testing kernels.

use crate::codec::{Codec, EncodeOptions, EncodeStats, Encoded, PayloadSink, Request, Rows};
use crate::{Error, Result};
use squizd_spec::{CodecId, DType, Matrix, Params};
use std::{borrow::Cow, ops::Range, sync::Mutex, sync::PoisonError};

/// An encoded matrix that owns its bytes.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) id: CodecId,
    pub(super) matrix: Matrix,
    pub(super) params: Params,
    pub(super) data: Vec<u8>,
}

impl Sample {
    /// `values` (whole rows of `cols`) as `codec` stores them; rounded to BF16
    /// first where it takes nothing else.
    pub(super) fn encode(
        codec: &dyn Codec,
        cols: u64,
        mut values: Vec<f32>,
        options: EncodeOptions,
    ) -> Result<Self> {
        let matrix = Matrix { rows: values.len() as u64 / cols.max(1), cols };
        let mut dtype = DType::F32;
        if codec.accepts_dtype(dtype).is_err() {
            dtype = DType::BF16;
            for v in &mut values {
                *v = f32::from_bits(v.to_bits() & 0xffff_0000);
            }
        }
        let rows = Memory { matrix, dtype, values };
        let params = codec.plan(&rows, &Request::from(options))?;
        Self::coded(codec, &rows, params, options)
    }

    /// BF16 words (whole rows of `cols`) as `codec` stores them with `params`.
    #[cfg(test)]
    pub(super) fn of_words(codec: &dyn Codec, cols: u64, words: &[u16], params: Params) -> Result<Self> {
        let matrix = Matrix { rows: words.len() as u64 / cols.max(1), cols };
        let values = words.iter().map(|w| f32::from_bits(u32::from(*w) << 16)).collect();
        let rows = Memory { matrix, dtype: DType::BF16, values };
        Self::coded(codec, &rows, params, EncodeOptions::NONE)
    }

    fn coded(codec: &dyn Codec, rows: &Memory, params: Params, options: EncodeOptions) -> Result<Self> {
        let (matrix, request) = (rows.matrix, Request::from(options));
        let geometry = codec
            .id()
            .geometry(matrix, &params)
            .map_err(|e| Error::invalid(format!("codec {}: {e:?}", codec.id())))?;
        let sink = Payload(Mutex::new(vec![0; geometry.length.max() as usize]));
        let (length, _): (u64, EncodeStats) = codec.encode(rows, &params, &request, &sink)?;
        let mut data = sink.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        data.truncate(length as usize);
        Ok(Self { id: codec.id(), matrix, params, data })
    }

    /// The tensor as codecs see it.
    pub(super) fn view(&self) -> Encoded<'_> {
        Encoded { name: "sample", matrix: self.matrix, params: &self.params, data: &self.data }
    }
}

struct Memory {
    matrix: Matrix,
    dtype: DType,
    values: Vec<f32>,
}

impl Rows for Memory {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let at = |row: u64| (row * self.matrix.cols) as usize;
        let source = self.values.get(at(rows.start)..at(rows.end));
        match source.filter(|s| s.len() == out.len()) {
            Some(source) => out.copy_from_slice(source),
            None => return Err(Error::invalid(format!("rows {rows:?} of a sample"))),
        }
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        match data.get_mut(start..start + bytes.len()) {
            Some(to) => to.copy_from_slice(bytes),
            None => return Err(Error::invalid(format!("{} bytes at {offset} of a sample", bytes.len()))),
        }
        Ok(())
    }
}

/// Standard normal values from a fixed generator (xorshift64* and Box-Muller).
pub(super) fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    (0..count)
        .map(|_| (-2.0 * libm::logf(uniform())).sqrt() * libm::cosf(std::f32::consts::TAU * uniform()))
        .collect()
}
