//! The integer codecs, whose kernels share `affine.wgsl`.

use super::super::math::Math;
use super::{GpuCodec, Recipe, Tensor};
use squizd_shaders::Options;
use squizd_spec::{CodecId, int_layout};

const FORMS: &[Math] = &[Math::F16, Math::I8, Math::I24];

pub(super) const INT4: GpuCodec = GpuCodec {
    id: CodecId::INT4,
    gemv: "fused_int4_gemv",
    gemm: "fused_int4_gemm",
    rows: "int4_rows",
    forms: FORMS,
    describe: |tensor| Ok(describe(tensor, 4)),
};

pub(super) const INT3: GpuCodec = GpuCodec {
    id: CodecId::INT3,
    gemv: "int3_gemv",
    gemm: "int3_gemm",
    rows: "int3_rows",
    forms: FORMS,
    describe: |tensor| Ok(describe(tensor, 3)),
};

pub(super) const INT2: GpuCodec = GpuCodec {
    id: CodecId::INT2,
    gemv: "lut_int2_gemv",
    gemm: "int2_gemm",
    rows: "int2_rows",
    forms: FORMS,
    describe: |tensor| Ok(describe(tensor, 2)),
};

/// What is taken off the mins of the fine layout.
const FINE_MIN_BIAS: f32 = 3.5;

/// Planes and scales of a codec of `bits`.
fn describe(tensor: &Tensor<'_>, bits: u32) -> Recipe {
    let [layout, group, format, bias, exponent, ..] = *tensor.params;
    // Codes with scales, of which halves can be made directly.
    let mut options = Options::default().flag("SCALED");
    let mut extra = [0; 4];
    let codes = f32::from(1u16 << bits);
    match layout {
        int_layout::PLAIN => {
            options = options.flag("PLAIN").with("GROUP", u32::from(group).max(32));
            if format != 0 {
                options = options.flag("WIDE");
            }
            if group == 16 {
                options = options.flag("HALVES");
            }
        }
        layout => {
            let fine = layout == int_layout::FINE;
            let centred = fine || bias != 0;
            let code_bias = match (centred, fine) {
                (_, true) => (codes - 1.0) / 2.0,
                (true, false) => codes / 2.0,
                (false, false) => 0.0,
            };
            let min_bias = if fine { FINE_MIN_BIAS } else { f32::from(bias) };
            let scale_bias = if fine { f32::from(bias) } else { 0.0 };
            let unit = libm::exp2f(f32::from(exponent.cast_signed()));
            extra = [unit, min_bias, code_bias, scale_bias].map(f32::to_bits);
            if fine {
                options = options.flag("FINE").flag("HALVES");
            }
            if tensor.matrix.cols.is_multiple_of(256) {
                options = options.flag("ALIGNED").flag("HEADS");
            }
        }
    }
    Recipe { options, unit: 32, slots: vec![tensor.plane(0), tensor.plane(1)], extra }
}
