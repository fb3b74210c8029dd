//! How stored blocks reach kernels: one [`GpuCodec`] for each codec that has
//! kernels, all in [`GPU_CODECS`].
//!
//! Adding one touches: its WGSL file (`shaders/NAME.wgsl`, listed in
//! `shaders/src/lib.rs` with its kernels), a file here that describes how a
//! tensor is bound, and its line in [`GPU_CODECS`]. `docs/gpu.md` says what the
//! WGSL file must define.

mod astc;
mod forms;
mod hybrid;
mod integer;
mod mxfp4;
mod q8;
mod raw;
mod sqint2;
mod zip;

use super::math::Math;
use crate::codec::{DeviceRotation, Encoded, device_rotation, device_tables, tca_tbe};
use crate::dispatch::Subject;
use crate::{Error, Result};
use squizd_shaders::Options;
use squizd_spec::{CodecId, Geometry, Matrix, Params, PayloadLength, sqint, tbe};

pub(super) use forms::{readable, serving};

/// Kernels of one codec.
#[derive(Debug)]
pub(super) struct GpuCodec {
    /// Wire id.
    pub(super) id: CodecId,
    /// Product with one vector; its frame is `gemv`.
    pub(super) gemv: &'static str,
    /// Product with many; its frame is `gemm`.
    pub(super) gemm: &'static str,
    /// Rows by number; its frame is `rows`.
    pub(super) rows: &'static str,
    /// Forms of the input that the kernels read, besides f32.
    pub(super) forms: &'static [Math],
    /// How a tensor is bound.
    pub(super) describe: fn(&Tensor<'_>) -> Result<Recipe>,
}

/// Every codec with kernels, in wire order.
pub(super) const GPU_CODECS: &[GpuCodec] = &[
    raw::F32,
    raw::F16,
    raw::BF16,
    raw::I8,
    q8::Q8,
    integer::INT4,
    integer::INT3,
    integer::INT2,
    astc::ASTC,
    zip::ZIP,
    mxfp4::MXFP4,
    hybrid::HYBRID,
    sqint2::TRELLIS,
];

/// The kernels of a codec.
pub(super) fn gpu_codec(id: CodecId) -> Option<&'static GpuCodec> {
    GPU_CODECS.iter().find(|c| c.id == id)
}

/// The kernels that read payloads of `id` with these parameters as they lie.
pub(super) fn kernels(id: CodecId, params: &Params) -> Option<&'static GpuCodec> {
    match (id, params[0]) {
        (CodecId::TCA_TBE, tbe::PLAIN | tbe::TBE2) => None,
        (CodecId::SQINT2, sqint::LEVELS) => Some(&sqint2::LEVELS),
        _ => gpu_codec(id),
    }
}

/// The rotation that inputs of a matrix take before its products, and looked-up
/// rows after.
pub(super) fn rotation(id: CodecId, tensor: &Tensor<'_>) -> Option<DeviceRotation> {
    (id == CodecId::SQINT2).then(|| device_rotation(tensor.params, tensor.matrix.cols as usize))
}

/// Tells apart the rotations that matrices of one width have.
pub(super) fn rotation_key(id: CodecId, params: &Params, cols: u64) -> Option<(u64, u8)> {
    (id == CodecId::SQINT2).then(|| device_rotation(params, cols as usize)).map(|r| (r.seed, r.log_block))
}

/// What makes a table's bytes.
type MakeTable = fn(&Params) -> Vec<u8>;

/// Tables that kernels of a codec read at binding [`TABLES`], by a name that
/// tells them apart.
pub(super) fn tables(id: CodecId, params: &Params) -> Option<(String, MakeTable)> {
    match (id, params[0]) {
        (CodecId::SQINT2, sqint::TRELLIS) => Some((sqint2::table_name(params), sqint2::table)),
        (CodecId::ASTC, _) => {
            Some(("astc".to_owned(), |_| device_tables().iter().flat_map(|w| w.to_le_bytes()).collect()))
        }
        _ => None,
    }
}

/// What `gemv` reads instead of the last slot, for codecs that list their escapes.
pub(super) fn escapes(id: CodecId, tensor: &Encoded<'_>) -> Result<Option<Vec<u32>>> {
    (id == CodecId::TCA_TBE).then(|| tca_tbe::escapes(tensor)).transpose()
}

/// Bytes that the list of [`escapes`] takes at most, of a tensor whose payload has
/// `bytes`, if its exponents are not those at the ends of bfloat16's range.
pub(super) fn escapes_need(tensor: &Subject<'_>, bytes: u64) -> u64 {
    let matrix = tensor.matrix;
    match (tensor.codec, tensor.params[0]) {
        (CodecId::TCA_TBE, tbe::TBE3) => {
            let least = tensor.codec.geometry(matrix, tensor.params).map_or(bytes, |g| match g.length {
                PayloadLength::Exact(n) | PayloadLength::Within { min: n, .. } => n,
            });
            // At most two escapes a byte of the side stream; less than four more a
            // superblock, or where its run begins.
            let superblocks = matrix.rows.saturating_mul(matrix.cols.div_ceil(tbe::SUPERBLOCK));
            let words = bytes.saturating_sub(least).saturating_mul(2);
            let words = words.saturating_add(superblocks.saturating_mul(4));
            words.saturating_mul(4).next_multiple_of(256).saturating_add(256)
        }
        // Coded anew, it is longer.
        (CodecId::TCA_TBE, tbe::TBE2) => bytes / 8,
        _ => 0,
    }
}

/// Where tables are bound: codecs that have some have at most three slots.
pub(super) const TABLES: u32 = 3;

/// A tensor to be bound: geometry already checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) matrix: Matrix,
    pub(super) params: &'a Params,
    pub(super) geometry: Geometry,
    /// Bytes of the payload.
    pub(super) length: u64,
}

impl<'a> Tensor<'a> {
    /// Checks that payload, shape and parameters go together.
    pub(super) fn new(id: CodecId, tensor: &Encoded<'a>) -> Result<Self> {
        let Encoded { name, matrix, params, data } = *tensor;
        let length = data.len() as u64;
        match id.geometry(matrix, params) {
            Ok(geometry) if geometry.length.allows(length) && matrix.elements() > 0 => {
                Ok(Self { matrix, params, geometry, length })
            }
            _ => Err(Error::invalid(format!(
                "tensor {name}: {length} payload bytes are not {id} of {}x{}",
                matrix.rows, matrix.cols
            ))),
        }
    }

    /// Plane `index` as a slot whose rows can be bound in ranges.
    pub(super) fn plane(&self, index: usize) -> Slot {
        let plane = self.geometry.planes.get(index).copied().unwrap_or_default();
        Slot { offset: plane.offset, row_stride: plane.row_stride, rows_per_run: 1 }
    }
}

/// A part of the payload that is bound at the binding of its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where it begins in the payload, a multiple of 256.
    pub(super) offset: u64,
    /// Bytes of a run of rows; 0: the slot is bound whole, to the payload's end.
    pub(super) row_stride: u64,
    /// Rows of a run: 1, or the height of blocks.
    pub(super) rows_per_run: u64,
}

/// What a tensor's kernels are assembled with, and where its planes are.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Constants and flags of the codec's file.
    pub(super) options: Options,
    /// Columns of a unit: 8, or 32 for codecs whose kernels read the inputs'
    /// scales and sums.
    pub(super) unit: u32,
    /// Bound at 0, 1, ...; at most four.
    pub(super) slots: Vec<Slot>,
    /// Numbers of the codec, `p.extra`.
    pub(super) extra: [u32; 4],
}

impl Recipe {
    /// Columns that a lane of `gemv` takes at a time: a unit, or what the
    /// codec's constant SHARE says.
    pub(super) fn share(&self) -> u32 {
        self.options.constant("SHARE").unwrap_or(self.unit)
    }

    /// Options of `gemv` for inputs of form `math`: only bytes are multiplied by threes.
    pub(super) fn options_for(&self, math: Math) -> Options {
        let mut options = self.options.clone();
        options.flags.retain(|f| *f != "TRIPLES" || math == Math::I8);
        options
    }

    /// Rows of a strip, for codecs whose gemv has the frame `strips`.
    pub(super) fn height(&self) -> Option<u32> {
        self.options.constant("HEIGHT")
    }
}
