//! Tensors in memory for the codec tests.

use super::{Codec, EncodeOptions, EncodeStats, Encoded, InputMoments, PayloadSink, Request, Rows};
use crate::{Error, Result};
use squizd_spec::{DType, Matrix, Params};
use std::{borrow::Cow, ops::Range, sync::Mutex};

/// A matrix in memory.
pub(crate) struct MemoryRows {
    pub(crate) matrix: Matrix,
    pub(crate) dtype: DType,
    pub(crate) values: Vec<f32>,
    /// Source bytes, where the source gives them.
    pub(crate) native: Option<Vec<u8>>,
}

impl MemoryRows {
    /// `f32` values without native bytes.
    pub(crate) fn f32(rows: u64, cols: u64, values: Vec<f32>) -> Self {
        assert_eq!(values.len() as u64, rows * cols);
        Self { matrix: Matrix { rows, cols }, dtype: DType::F32, values, native: None }
    }

    /// The same, rounded to BF16 where the codec takes nothing else.
    pub(crate) fn for_codec(codec: &dyn Codec, rows: u64, cols: u64, mut values: Vec<f32>) -> Self {
        if codec.accepts_dtype(DType::F32).is_ok() {
            return Self::f32(rows, cols, values);
        }
        for v in &mut values {
            *v = f32::from_bits(v.to_bits() & 0xffff_0000);
        }
        Self { dtype: DType::BF16, ..Self::f32(rows, cols, values) }
    }

    /// A source whose native bytes are `native`, decoding to `values`.
    pub(crate) fn native(rows: u64, cols: u64, dtype: DType, native: Vec<u8>, values: Vec<f32>) -> Self {
        Self { dtype, native: Some(native), ..Self::f32(rows, cols, values) }
    }
}

impl Rows for MemoryRows {
    fn name(&self) -> &'static str {
        "blk.0.test.weight"
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let cols = self.matrix.cols;
        out.copy_from_slice(&self.values[(rows.start * cols) as usize..(rows.end * cols) as usize]);
        Ok(())
    }

    fn read_native(&self, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        let Some(native) = &self.native else { return Ok(None) };
        let stride = native.len() / self.matrix.rows as usize;
        Ok(Some(native[rows.start as usize * stride..rows.end as usize * stride].into()))
    }

    fn release(&self, _: Range<u64>) {}
}

/// A payload in memory that refuses writing a byte twice or out of range.
pub(crate) struct MemoryPayload(Mutex<(Vec<u8>, Vec<bool>)>);

impl PayloadSink for MemoryPayload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut guard = self.0.lock().unwrap();
        let (data, written) = &mut *guard;
        let start = offset as usize;
        let end = start + bytes.len();
        if end > data.len() || written[start..end].contains(&true) {
            return Err(Error::invalid(format!("bytes {start}..{end} written twice or out of range")));
        }
        data[start..end].copy_from_slice(bytes);
        written[start..end].fill(true);
        Ok(())
    }
}

/// An encoded tensor that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) matrix: Matrix,
    pub(crate) params: Params,
    pub(crate) data: Vec<u8>,
    pub(crate) stats: EncodeStats,
}

impl Stored {
    pub(crate) fn view(&self) -> Encoded<'_> {
        Encoded { name: "blk.0.test.weight", matrix: self.matrix, params: &self.params, data: &self.data }
    }

    /// All rows decoded.
    pub(crate) fn decode(&self, codec: &dyn Codec) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.matrix.elements() as usize];
        codec.decode(&self.view(), 0..self.matrix.rows, &mut out).unwrap();
        out
    }
}

/// Plans and encodes.
pub(crate) fn encode(codec: &dyn Codec, rows: &dyn Rows, group_size: Option<u16>) -> Result<Stored> {
    encode_with(codec, rows, &EncodeOptions { group_size, ..EncodeOptions::NONE }.into())
}

/// Plans and encodes what is asked for.
pub(crate) fn encode_with(codec: &dyn Codec, rows: &dyn Rows, request: &Request<'_>) -> Result<Stored> {
    let params = codec.plan(rows, request)?;
    encode_guided(codec, rows, &params, request)
}

/// Encodes with given parameters.
pub(crate) fn encode_as(codec: &dyn Codec, rows: &dyn Rows, params: &Params) -> Result<Stored> {
    encode_guided(codec, rows, params, &Request::default())
}

/// Encodes as asked for, and checks the length and the stored form.
pub(crate) fn encode_guided(
    codec: &dyn Codec,
    rows: &dyn Rows,
    params: &Params,
    request: &Request<'_>,
) -> Result<Stored> {
    let matrix = rows.matrix();
    let length = codec.id().geometry(matrix, params).unwrap().length.max() as usize;
    let sink = MemoryPayload(Mutex::new((vec![0; length], vec![false; length])));
    let (written, stats) = codec.encode(rows, params, request, &sink)?;
    assert!(codec.id().geometry(matrix, params).unwrap().length.allows(written));
    let (mut data, touched) = sink.0.into_inner().unwrap();
    assert!(!touched[written as usize..].contains(&true), "bytes written behind the payload's end");
    data.truncate(written as usize);
    let stored = Stored { matrix, params: *params, data, stats };
    assert_eq!(codec.check(&stored.view()), Ok(()));
    Ok(stored)
}

/// Standard normal values from a fixed generator (xorshift64* and Box-Muller).
pub(crate) fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
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

/// `10 log10` of the energy of `w` over that of `w - v`, in f64.
pub(crate) fn snr_db(w: &[f32], v: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (&w, &v) in w.iter().zip(v) {
        let (w, v) = (f64::from(w), f64::from(v));
        signal += w * w;
        noise += (w - v) * (w - v);
    }
    10.0 * (signal / noise).log10()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|b| u8::from_str_radix(str::from_utf8(b).unwrap(), 16).unwrap()).collect()
}

/// Shape, parameters and plain little-endian weights (rows of hex under `key`)
/// that the description of a golden payload lists.
pub(crate) fn golden(about: &str, key: &str) -> (Matrix, Params, Vec<u8>) {
    let about: serde_json::Value = serde_json::from_str(about).unwrap();
    let matrix = Matrix { rows: about["rows"].as_u64().unwrap(), cols: about["cols"].as_u64().unwrap() };
    let params = bytes_of(about["params"].as_str().unwrap()).try_into().unwrap();
    let rows = about[key].as_array().unwrap().iter();
    (matrix, params, rows.flat_map(|r| bytes_of(r.as_str().unwrap())).collect())
}

/// Moments of inputs that are a running mean of noise, channels of different size.
pub(super) fn correlated(cols: usize, seed: u64) -> InputMoments {
    let samples = 2 * cols;
    let mut x = gaussian(cols * samples, seed);
    for x in x.chunks_mut(cols) {
        for j in 1..cols {
            x[j] = 0.9 * x[j - 1] + 0.45 * x[j];
        }
        for (j, x) in x.iter_mut().enumerate() {
            *x *= 1.0 + (j % 7) as f32 / 3.0;
        }
    }
    let mut hessian = vec![0.0; cols * cols];
    for x in x.chunks(cols) {
        for (h, a) in hessian.chunks_mut(cols).zip(x) {
            for (h, b) in h.iter_mut().zip(x) {
                *h += a * b / samples as f32;
            }
        }
    }
    InputMoments { importance: hessian.iter().step_by(cols + 1).copied().collect(), hessian }
}

/// `tr(E H E^T)` by its definition, `H` diagonal where no more is known.
pub(super) fn output_error(moments: &InputMoments, e: &[f64]) -> f64 {
    let cols = moments.importance.len();
    let product = |e: &[f64], i: usize| -> f64 {
        match moments.hessian() {
            None => e[i] * f64::from(moments.importance[i]),
            Some(h) => h[i * cols..][..cols].iter().zip(e).map(|(h, e)| f64::from(*h) * e).sum(),
        }
    };
    e.chunks(cols).map(|e| (0..cols).map(|i| e[i] * product(e, i)).sum::<f64>()).sum()
}
