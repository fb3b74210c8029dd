//! HYBRID.

use super::super::math::Math;
use super::{GpuCodec, Recipe, Slot, Tensor};
use crate::{Error, Result};
use squizd_shaders::Options;
use squizd_spec::{CodecId, hybrid_layout};

pub(super) const HYBRID: GpuCodec = GpuCodec {
    id: CodecId::HYBRID,
    gemv: "hybrid_gemv",
    gemm: "hybrid_gemm",
    rows: "hybrid_rows",
    forms: &[Math::F16, Math::I8, Math::I24],
    describe,
};

/// Scale words and map by rows; starts and codes whole, since rows' codes begin
/// where the starts say.
fn describe(tensor: &Tensor<'_>) -> Result<Recipe> {
    let parts = hybrid_layout::parts(tensor.matrix)
        .ok_or_else(|| Error::invalid("a HYBRID tensor's sizes exceed 64 bits"))?;
    let map = Slot { offset: parts.map, row_stride: parts.map_stride, rows_per_run: hybrid_layout::STRIP };
    let whole = |offset| Slot { offset, row_stride: 0, rows_per_run: 1 };
    let unit = libm::exp2f(f32::from(tensor.params[2].cast_signed()));
    Ok(Recipe {
        options: Options::default().with("STRIP", hybrid_layout::STRIP as u32),
        unit: 32,
        slots: vec![tensor.plane(0), map, whole(parts.starts), whole(parts.codes)],
        extra: [unit.to_bits(), 0, 0, 0],
    })
}
