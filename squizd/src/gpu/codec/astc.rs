//! ASTC blocks, decoded by kernels.

use super::{GpuCodec, Recipe, Slot, Tensor};
use squizd_shaders::Options;
use squizd_spec::{CodecId, astc};

pub(super) const ASTC: GpuCodec = GpuCodec {
    id: CodecId::ASTC,
    gemv: "astc_gemv",
    gemm: "astc_gemm",
    rows: "astc_rows",
    forms: &[],
    describe: |tensor| Ok(describe(tensor)),
};

/// Invocations of a workgroup at most: each has 52 bytes of palettes.
const WIDEST: u32 = 64;

fn describe(tensor: &Tensor<'_>) -> Recipe {
    let [blocks, _, columns, _] = tensor.geometry.planes;
    let side = astc::SIDE as u32;
    let mut options = Options::default().with("SHARE", side).with("HEIGHT", side).with("WIDEST", WIDEST);
    options = options.flag("OFTEN");
    let blocks = Slot { offset: blocks.offset, row_stride: blocks.row_stride, rows_per_run: astc::SIDE };
    let mut slots = vec![blocks, tensor.plane(1)];
    if tensor.geometry.plane_count == 3 {
        options = options.flag("COLUMNS");
        slots.push(Slot { offset: columns.offset, row_stride: 0, rows_per_run: 1 });
    }
    let unit = libm::exp2f(f32::from(tensor.params[2].cast_signed()));
    Recipe { options, unit: 8, slots, extra: [unit.to_bits(), 0, 0, 0] }
}
