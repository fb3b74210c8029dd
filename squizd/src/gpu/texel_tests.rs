//! Kernels that read texels: the same shader, layout and results as with ASTC
//! blocks, whose decoding by hardware the CPU's texels stand in for.

use super::codec::Tensor;
use super::device::Gpu;
use super::input::Input;
use super::math::Math;
use super::matrix::{GpuMatrix, Output};
use super::sample::gaussian;
use super::seen::inputs;
use super::shares;
use super::tests::{Case, gpu, layouts, relative_error};
use super::texels::Store;
use crate::codec::codec;
use squizd_spec::{CodecId, astc};

/// The matrix of `case`, its texels in layers of at most `most` blocks a side.
fn sampled(gpu: &Gpu, case: &Case, most: u64) -> GpuMatrix {
    let mut matrix = case.load(gpu);
    let tensor = Tensor::new(CodecId::ASTC, &case.sample.view()).unwrap();
    matrix.sample(gpu, Store::Halves, &tensor, &case.sample.data, most).unwrap();
    matrix
}

fn gemm(gpu: &Gpu, matrix: &GpuMatrix, input: &Input, count: usize) -> Vec<f32> {
    let y = gpu.storage(4 * (count as u64) * u64::from(matrix.rows())).unwrap();
    let out = Output::to(&y, matrix.rows());
    gpu.submit(&matrix.gemm(gpu, input, count as u32, out).unwrap());
    gpu.read_f32(&y, count * matrix.rows() as usize).unwrap()
}

#[test]
fn products_with_texels_agree_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    for (options, factor) in layouts(CodecId::ASTC) {
        for (rows, cols) in [(1, 64), (3, 100), (7, 1536), (33, 288), (70, 256), (3, 1)] {
            let case = Case::new(codec(CodecId::ASTC).unwrap(), rows, cols, factor, options);
            // One layer, and several of which the last ones are short.
            for most in [astc::TEXTURE_BLOCKS, 5] {
                let matrix = sampled(gpu, &case, most);
                let (input, seen) = inputs(gpu, Math::F32, cols, &gaussian(3 * cols, 5));
                for tuning in shares::candidates(matrix.recipe()) {
                    let y = gpu.storage(4 * rows as u64).unwrap();
                    gpu.submit(&matrix.gemv_tuned(gpu, &input, Output::to(&y, 0), tuning).unwrap());
                    let y = gpu.read_f32(&y, rows).unwrap();
                    let error = relative_error(&y, &case, &seen[0]);
                    assert!(error <= 1e-6, "{rows}x{cols} {most} {tuning}: {error:e}");
                }
                for (y, x) in gemm(gpu, &matrix, &input, 3).chunks(rows).zip(&seen) {
                    let error = relative_error(y, &case, x);
                    assert!(error <= 1e-6, "{rows}x{cols} {most}: {error:e}");
                }
            }
        }
    }
}

/// A device that has no textures of so many layers reads blocks.
#[test]
fn too_many_layers_are_not_sampled() {
    let Some(gpu) = gpu() else { return };
    let layers = u64::from(gpu.device.limits().max_texture_array_layers);
    let cols = 6 * (layers as usize + 1);
    let case = Case::new(codec(CodecId::ASTC).unwrap(), 6, cols, 1.0, layouts(CodecId::ASTC)[0].0);
    assert!(sampled(gpu, &case, 1).recipe().options.flags.contains(&"OFTEN"));
    assert!(sampled(gpu, &case, 2).recipe().options.flags.contains(&"TEXTURE"));
}

/// Only textures of the HDR profile are taken for blocks, and only ASTC's.
#[test]
fn blocks_are_sampled_where_the_adapter_decodes_them() {
    let Some(gpu) = gpu() else { return };
    for astc_hdr in [false, true] {
        let abilities = super::device::Abilities { astc_hdr, ..gpu.abilities() };
        assert_eq!(Store::of(abilities, CodecId::ASTC), astc_hdr.then_some(Store::Blocks));
        assert_eq!(Store::of(abilities, CodecId::MXFP4), None);
    }
}
