//! MXFP4.

use super::super::math::Math;
use super::{GpuCodec, Recipe};
use squizd_shaders::Options;
use squizd_spec::CodecId;

pub(super) const MXFP4: GpuCodec = GpuCodec {
    id: CodecId::MXFP4,
    gemv: "mxfp4_gemv",
    gemm: "mxfp4_gemm",
    rows: "mxfp4_rows",
    forms: &[Math::F16, Math::I8, Math::I24],
    describe: |tensor| {
        let slots = vec![tensor.plane(0), tensor.plane(1)];
        Ok(Recipe { options: Options::default(), unit: 32, slots, extra: [0; 4] })
    },
};
