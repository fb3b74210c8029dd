//! Q8.

use super::super::math::Math;
use super::{GpuCodec, Recipe};
use squizd_shaders::Options;
use squizd_spec::CodecId;

pub(super) const Q8: GpuCodec = GpuCodec {
    id: CodecId::Q8,
    gemv: "q8_gemv",
    gemm: "q8_gemm",
    rows: "q8_rows",
    forms: &[Math::F16, Math::I8, Math::I24],
    describe: |tensor| {
        let mut options = Options::default();
        if tensor.params[1] != 0 {
            options = options.flag("WIDE");
        }
        Ok(Recipe { options, unit: 32, slots: vec![tensor.plane(0), tensor.plane(1)], extra: [0; 4] })
    },
};
