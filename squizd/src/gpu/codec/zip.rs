//! TCA-TBE, profile TBE3. The others reach kernels in other forms: see
//! [`super::forms`].

use super::{GpuCodec, Recipe, Slot, Tensor};
use squizd_shaders::Options;
use squizd_spec::{CodecId, tbe};

pub(super) const ZIP: GpuCodec = GpuCodec {
    id: CodecId::TCA_TBE,
    gemv: "zip_gemv",
    gemm: "zip_gemm",
    rows: "zip_rows",
    forms: &[],
    describe: |tensor| Ok(describe(tensor)),
};

/// Columns that a lane of `gemv` takes at a time.
const SHARE: u32 = 64;

fn describe(tensor: &Tensor<'_>) -> Recipe {
    let matrix = tensor.matrix;
    let [_, bases, fixed, _] = tensor.geometry.planes;
    // A lane takes two words of each plane. They are fetched together, and four where
    // weights are looked up, if no superblock ends within them.
    let mut options = Options::default().with("SHARE", SHARE);
    options = options.with("CLUSTER", tbe::SUPERBLOCK as u32 / SHARE);
    if matrix.cols.is_multiple_of(128) {
        options = options.flag("ALIGNED");
    }
    let anchors = (fixed.offset + fixed.row_stride * matrix.rows).next_multiple_of(tbe::STREAM_ALIGN);
    let anchor_bytes = 4 * (bases.row_stride * matrix.rows).div_ceil(tbe::ANCHORED);
    // In bindings of at most 2 GiB.
    let stream = anchor_bytes.next_multiple_of(tbe::STREAM_ALIGN) as u32;
    let tail = Slot { offset: anchors, row_stride: 0, rows_per_run: 1 };
    Recipe {
        options,
        unit: 8,
        slots: vec![tensor.plane(0), tensor.plane(1), tensor.plane(2), tail],
        extra: [stream, 0, 0, 0],
    }
}
