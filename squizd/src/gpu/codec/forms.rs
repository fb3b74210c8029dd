//! Payloads that kernels do not read as they lie, and what becomes of them.
//!
//! A profile that stores plain numbers is read by the kernels of the raw codec.
//! TBE2, made for disks, is coded anew as TBE3 while a model is loaded. Codecs
//! for keeping have been unpacked before, by [`crate::runtime::Model`].

use super::{GpuCodec, kernels};
use crate::codec::tca_tbe::decode_bf16;
use crate::codec::{Encoded, PayloadSink, Request, Rows, codec};
use crate::dispatch::Subject;
use crate::{Error, Result};
use squizd_spec::{CodecId, DType, Matrix, Params, PayloadLength, tbe};
use std::{borrow::Cow, ops::Range, sync::Mutex, sync::PoisonError};

/// A payload in a form that kernels read.
pub(in crate::gpu) struct Readable<'a> {
    pub(in crate::gpu) id: CodecId,
    pub(in crate::gpu) params: Params,
    pub(in crate::gpu) data: Cow<'a, [u8]>,
}

impl Readable<'_> {
    /// The tensor of this name and shape.
    pub(in crate::gpu) fn tensor<'s>(&'s self, of: &Encoded<'s>) -> Encoded<'s> {
        Encoded { params: &self.params, data: &self.data, ..*of }
    }
}

/// Codec and parameters of the form that a stored tensor reaches kernels in.
fn form(id: CodecId, params: &Params) -> (CodecId, Params) {
    let mut other = Params::default();
    match (id, params[0]) {
        (CodecId::TCA_TBE, tbe::PLAIN) => (CodecId::RAW_BF16, other),
        (CodecId::TCA_TBE, _) => {
            other[0] = tbe::TBE3;
            (id, other)
        }
        _ => (id, *params),
    }
}

/// The kernels that a stored tensor is served by.
pub(in crate::gpu) fn serving(tensor: &Subject<'_>) -> Option<(&'static GpuCodec, CodecId, Params)> {
    let unpacked = codec(tensor.codec).and_then(|c| c.unpacked(tensor.matrix, tensor.params));
    let (id, params) = match unpacked {
        Some(unpacked) => (unpacked.codec, Params::default()),
        None => form(tensor.codec, tensor.params),
    };
    kernels(id, &params).map(|k| (k, id, params))
}

/// `tensor` in a form that kernels read.
///
/// # Errors
/// If the payload contradicts itself.
pub(in crate::gpu) fn readable<'a>(id: CodecId, tensor: &Encoded<'a>) -> Result<Readable<'a>> {
    let (form, params) = form(id, tensor.params);
    if id == CodecId::TCA_TBE {
        // The head is what encoders write, and the side stream has its length.
        decode_bf16(tensor, 0..0, &mut [])?;
        if params[0] == tbe::TBE3 && tensor.params[0] != tbe::TBE3 {
            return Ok(Readable { id, params, data: Cow::Owned(transcode(tensor, &params)?) });
        }
    }
    Ok(Readable { id: form, params, data: Cow::Borrowed(tensor.data) })
}

/// The payload of TCA-TBE with other parameters.
fn transcode(tensor: &Encoded<'_>, params: &Params) -> Result<Vec<u8>> {
    let unsupported =
        || Error::unsupported(format!("tensor {}: its codec is not in this build", tensor.name));
    let tca_tbe = codec(CodecId::TCA_TBE).ok_or_else(unsupported)?;
    let geometry = CodecId::TCA_TBE.geometry(tensor.matrix, params).map_err(|e| {
        Error::invalid(format!(
            "tensor {}: {}x{}: {e:?}",
            tensor.name, tensor.matrix.rows, tensor.matrix.cols
        ))
    })?;
    // The side stream makes it longer: the sink grows.
    let (PayloadLength::Exact(least) | PayloadLength::Within { min: least, .. }) = geometry.length;
    let sink = Growing(Mutex::new(vec![0; least as usize]));
    let (length, _) = tca_tbe.encode(&Stored(*tensor), params, &Request::default(), &sink)?;
    let mut data = sink.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    data.resize(length as usize, 0);
    Ok(data)
}

/// The weights of a stored tensor.
struct Stored<'a>(Encoded<'a>);

impl Rows for Stored<'_> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn matrix(&self) -> Matrix {
        self.0.matrix
    }

    fn dtype(&self) -> DType {
        DType::BF16
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let mut words = vec![0; out.len()];
        decode_bf16(&self.0, rows, &mut words)?;
        for (out, word) in out.iter_mut().zip(words) {
            *out = f32::from_bits(u32::from(word) << 16);
        }
        Ok(())
    }

    fn read_native(&self, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        let count = rows.end.saturating_sub(rows.start).saturating_mul(self.0.matrix.cols);
        let mut words = vec![0u16; count as usize];
        decode_bf16(&self.0, rows, &mut words)?;
        Ok(Some(Cow::Owned(words.iter().flat_map(|w| w.to_le_bytes()).collect())))
    }

    fn release(&self, _: Range<u64>) {}
}

/// Bytes at any offset.
struct Growing(Mutex<Vec<u8>>);

impl PayloadSink for Growing {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        if data.len() < start + bytes.len() {
            data.resize(start + bytes.len(), 0);
        }
        if let Some(to) = data.get_mut(start..start + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        Ok(())
    }
}
