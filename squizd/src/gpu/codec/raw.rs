//! Plain numbers.

use super::{GpuCodec, Recipe, Tensor};
use crate::Result;
use squizd_shaders::Options;
use squizd_spec::CodecId;

const fn raw(id: CodecId, describe: fn(&Tensor<'_>) -> Result<Recipe>) -> GpuCodec {
    GpuCodec { id, gemv: "raw_gemv", gemm: "raw_gemm", rows: "raw_rows", forms: &[], describe }
}

pub(super) const F32: GpuCodec = raw(CodecId::RAW_F32, |t| Ok(plain(t, 4, None)));
pub(super) const F16: GpuCodec = raw(CodecId::RAW_F16, |t| Ok(plain(t, 2, Some("HALF"))));
pub(super) const BF16: GpuCodec = raw(CodecId::RAW_BF16, |t| Ok(plain(t, 2, Some("BRAIN"))));
pub(super) const I8: GpuCodec = raw(CodecId::RAW_I8, |t| Ok(plain(t, 1, Some("BYTE"))));

/// Columns of a unit.
const UNIT: u32 = 8;

fn plain(tensor: &Tensor<'_>, bytes: u32, kind: Option<&'static str>) -> Recipe {
    let mut options = Options::default();
    // Whole units, so that rows begin at vectors and none is read past its end.
    if tensor.matrix.cols.is_multiple_of(u64::from(UNIT)) {
        options = options.flag("ALIGNED");
    } else {
        options = options.with("BYTES", bytes);
    }
    if let Some(kind) = kind {
        options = options.flag(kind);
    }
    Recipe { options, unit: UNIT, slots: vec![tensor.plane(0)], extra: [0; 4] }
}
