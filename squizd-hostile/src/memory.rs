//! Tensors in memory, for encoders.

use squizd::codec::{Codec, EncodeOptions, PayloadSink, Request, Rows};
use squizd_spec::{DType, Matrix, Params};
use std::{borrow::Cow, ops::Range, sync::Mutex};

/// A matrix whose source has no bytes to take over.
#[derive(Clone, Debug)]
pub struct Memory<'a> {
    /// Tensor name.
    pub name: String,
    /// Shape.
    pub matrix: Matrix,
    /// Type that the source is said to have.
    pub dtype: DType,
    /// Values, row after row.
    pub values: &'a [f32],
}

impl Rows for Memory<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = self.matrix.cols;
        out.copy_from_slice(&self.values[(rows.start * cols) as usize..(rows.end * cols) as usize]);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

/// A payload that grows as it is written.
struct Growing(Mutex<Vec<u8>>);

impl PayloadSink for Growing {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().expect("no writer panics");
        let end = offset as usize + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
}

/// Parameters and payload of a matrix of bfloat16 values, if the codec takes it.
pub fn encoded(codec: &dyn Codec, matrix: Matrix, values: &[f32]) -> Option<(Params, Vec<u8>)> {
    let takes = codec.accepts(matrix).is_ok() && codec.accepts_dtype(DType::BF16).is_ok();
    let rows = Memory { name: "t".into(), matrix, dtype: DType::BF16, values };
    let request = Request::from(EncodeOptions::default());
    let params = takes.then(|| codec.plan(&rows, &request).ok()).flatten()?;
    let sink = Growing(Mutex::default());
    let (length, _) = codec.encode(&rows, &params, &request, &sink).ok()?;
    let mut payload = sink.0.into_inner().expect("no writer panics");
    payload.resize(length as usize, 0);
    Some((params, payload))
}
