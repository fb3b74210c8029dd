//! Encoding a few rows to see what a codec makes of a tensor.

use super::{Codec, EncodeOptions, Encoded, Guide, InputMoments, PayloadSink, Request, Rows};
use crate::source::{TensorInfo, TensorSource};
use crate::{Error, Result};
use rayon::prelude::*;
use squizd_spec::{DType, Matrix, Params};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Neighbouring rows taken together, so that codecs whose blocks span rows see
/// rows that belong together.
const RUN: u64 = 16;

/// Rows of a tensor in memory, from one part of an expert stack.
pub(crate) struct Sample {
    name: String,
    matrix: Matrix,
    dtype: DType,
    pub(crate) values: Vec<f32>,
}

impl Sample {
    /// About `count` of the rows `rows` of tensor `index`, in runs evenly spread.
    ///
    /// # Errors
    /// If reading fails.
    pub(crate) fn read(
        source: &dyn TensorSource,
        index: usize,
        info: &TensorInfo,
        rows: Range<u64>,
        count: u64,
    ) -> Result<Self> {
        let total = rows.end.saturating_sub(rows.start);
        let runs = count.min(total).div_ceil(RUN).max(1);
        let cols = info.cols();
        let mut values = Vec::new();
        let mut taken = 0;
        for i in 0..runs {
            // Runs begin at multiples of their length where there is room.
            let start = rows.start
                + u64::try_from(u128::from(total) * u128::from(i) / u128::from(runs)).unwrap_or(0) / RUN
                    * RUN;
            let range = start.max(rows.start + taken)..(start + RUN).min(rows.end);
            if range.is_empty() {
                continue;
            }
            let at = values.len();
            values.resize(at + ((range.end - range.start) * cols) as usize, 0.0);
            source.read_f32(index, range.clone(), &mut values[at..])?;
            taken = range.end - rows.start;
        }
        let sampled = (values.len() as u64).checked_div(cols).unwrap_or(0);
        // Quantized source blocks are not part of the sample: it is plain numbers.
        let dtype = if info.dtype.is_quantized() { DType::F32 } else { info.dtype };
        Ok(Self { name: info.name.clone(), matrix: Matrix { rows: sampled, cols }, dtype, values })
    }

    /// `rows` rows of independent weights, normal but for the far tails, always
    /// the same.
    pub(crate) fn gaussian(rows: u64, cols: u64) -> Self {
        let mut state = 0u64;
        // Three words hold twelve uniform numbers of 16 bits; their sum has the
        // variance 1 in units of 2^16. Exact, so the same on every machine.
        let mut normal = || {
            let sum: u64 = (0..3)
                .map(|_| {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                    z ^= z >> 31;
                    (0..4).map(|i| z >> (16 * i) & 0xffff).sum::<u64>()
                })
                .sum();
            (sum as f32 - 6.0 * 65_535.0) / 65_536.0
        };
        let values = (0..rows * cols).map(|_| normal()).collect();
        Self { name: "gaussian".to_owned(), matrix: Matrix { rows, cols }, dtype: DType::F32, values }
    }

    /// Columns of the sample.
    pub(crate) fn cols(&self) -> usize {
        self.matrix.cols as usize
    }

    /// The same rows with their columns times `factors`.
    pub(crate) fn scaled(&self, factors: &[f32]) -> Self {
        let mut values = self.values.clone();
        for row in values.chunks_exact_mut(self.cols().max(1)) {
            row.iter_mut().zip(factors).for_each(|(w, s)| *w *= *s);
        }
        Self { name: self.name.clone(), matrix: self.matrix, dtype: DType::F32, values }
    }

    /// What the rows become when stored with `codec`.
    ///
    /// # Errors
    /// If the codec does not take them, or a value is not finite.
    pub(crate) fn round_trip(
        &self,
        codec: &dyn Codec,
        options: EncodeOptions,
        moments: Option<&InputMoments>,
    ) -> Result<Vec<f32>> {
        self.stored(codec, options, moments).map(|(_, values)| values)
    }

    /// The same, and the parameters that the codec chose for these rows.
    ///
    /// # Errors
    /// As [`Self::round_trip`].
    pub(crate) fn stored(
        &self,
        codec: &dyn Codec,
        options: EncodeOptions,
        moments: Option<&InputMoments>,
    ) -> Result<(Params, Vec<f32>)> {
        let parts: Vec<&InputMoments> = moments.into_iter().collect();
        let guide = Guide::new(&parts, self.matrix.rows, self.matrix.cols).unwrap_or_default();
        let request = Request { options, guide };
        let params = codec.plan(self, &request)?;
        let payload = Payload(Mutex::default());
        let (length, _) = codec.encode(self, &params, &request, &payload)?;
        let mut data = payload.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let length = usize::try_from(length).map_err(|_| Error::invalid("payload beyond this platform"))?;
        data.resize(length, 0);
        let encoded = Encoded { name: &self.name, matrix: self.matrix, params: &params, data: &data };
        let mut out = vec![0.0; self.values.len()];
        codec.decode(&encoded, 0..self.matrix.rows, &mut out)?;
        Ok((params, out))
    }
}

impl Rows for Sample {
    fn name(&self) -> &str {
        &self.name
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let at = |row: u64| (row * self.matrix.cols) as usize;
        let values = self.values.get(at(rows.start)..at(rows.end)).filter(|v| v.len() == out.len());
        out.copy_from_slice(values.ok_or_else(|| Error::invalid(format!("{}: rows {rows:?}", self.name)))?);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

/// A growing payload.
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|s| Some(s..s.checked_add(bytes.len())?));
        let range = range.ok_or_else(|| Error::invalid("payload beyond this platform"))?;
        if data.len() < range.end {
            data.resize(range.end, 0);
        }
        data[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// Weight errors `e` of rows of `cols` as they reach the outputs: the sum of
/// `e H e^T` over the rows, with as much of `H` as is known, or plain squares.
///
/// The sums have one order whatever the instruction set, so that choices made
/// by them are the same on every machine.
pub(crate) fn output_error(errors: &[f32], cols: usize, moments: Option<&InputMoments>) -> f64 {
    let row_error = |e: &[f32]| -> f64 {
        match moments {
            None => e.iter().map(|e| f64::from(*e) * f64::from(*e)).sum(),
            Some(m) => match m.hessian() {
                None => {
                    let terms = e.iter().zip(&m.importance);
                    terms.map(|(e, h)| f64::from(*e) * f64::from(*e) * f64::from(*h)).sum()
                }
                Some(h) => {
                    let mut product = vec![0.0f32; cols];
                    for (e, row) in e.iter().zip(h.chunks_exact(cols)).filter(|(e, _)| **e != 0.0) {
                        for (p, h) in product.iter_mut().zip(row) {
                            *p += *e * *h;
                        }
                    }
                    e.iter().zip(&product).map(|(e, p)| f64::from(*e) * f64::from(*p)).sum()
                }
            },
        }
    };
    let rows: Vec<f64> = errors.par_chunks(cols.max(1)).map(row_error).collect();
    rows.iter().sum()
}
