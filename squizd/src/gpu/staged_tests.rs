//! Products that make their input themselves, against the CPU's decoders.

use super::codec::GPU_CODECS;
use super::math::Math;
use super::matrix::{Fetch, GpuMatrix, Joined, Made, Output, Staged};
use super::pipeline::Span;
use super::sample::gaussian;
use super::seen::inputs;
use super::tests::{Case, bound, gpu, layouts, maths, relative_error};
use crate::codec::codec;
use zerocopy::IntoBytes;

/// Odd sizes, one turn of the lanes and several.
const SHAPES: [(usize, usize); 3] = [(5, 100), (33, 2080), (18, 2304)];
const EPS: f32 = 1e-5;

/// A norm scales everything alike, so that inputs are rounded as without it; gates of
/// these sizes come through the activation unchanged, or as zero.
#[test]
fn every_product_makes_its_input() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let codec = codec(gpu_codec.id).unwrap();
        for (options, factor) in layouts(gpu_codec.id) {
            for (rows, cols) in SHAPES {
                let case = Case::new(codec, rows, cols, factor, options);
                let matrix = case.load(gpu);
                for math in maths(gpu_codec.id) {
                    if matrix.math(gpu, math) != math || !GpuMatrix::stage(math, &[&matrix]) {
                        continue;
                    }
                    let padded = |mut values: Vec<f32>| {
                        values.resize(cols.next_multiple_of(32), 0.0);
                        gpu.upload(values.as_bytes(), &mut |_| {}).unwrap()
                    };
                    let gates = [70.0, 0.0, 128.0, -2000.0];
                    let x = gaussian(cols, 7);
                    let (companions, gate) =
                        (gaussian(cols, 8), (0..cols).map(|i| gates[i % 4]).collect::<Vec<f32>>());
                    for flags in [vec!["NORMED"], vec!["GATED", "SILU"]] {
                        let normed = flags == ["NORMED"];
                        let sources = if normed { x.clone() } else { gate.clone() };
                        let passed = |v: f32| if normed { v } else { v.max(0.0) };
                        let made: Vec<f32> =
                            sources.iter().zip(&companions).map(|(a, b)| passed(*a) * b).collect();
                        let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
                        let norm = 1.0 / (squares / cols as f64 + f64::from(EPS)).sqrt();
                        let (_, mut seen) = inputs(gpu, math, cols, &made);
                        for v in &mut seen[0] {
                            *v *= if normed { norm } else { 1.0 };
                        }
                        let spans = [Span::from(&padded(sources)), Span::from(&padded(companions.clone()))];
                        let staged = Staged { made: Made { flags: flags.clone(), spans, eps: EPS }, math };
                        let y = gpu.storage(4 * rows as u64).unwrap();
                        gpu.submit(&matrix.staged_gemv(gpu, &staged, Output::to(&y, 0)).unwrap());
                        let error = relative_error(&gpu.read_f32(&y, rows).unwrap(), &case, &seen[0]);
                        let about = format!("{} {rows}x{cols} {options:?} {math} {flags:?}", gpu_codec.id);
                        assert!(error <= bound(math), "{about}: {error:e}");
                        let joined = Joined::new(gpu, Fetch::Staged(&staged), &[(&matrix, 0)]);
                        let Some(joined) = joined.filter(|_| normed) else { continue };
                        gpu.write(&y, &vec![0; 4 * rows]);
                        gpu.submit([&joined.gemv(gpu, Fetch::Staged(&staged), &y, None).unwrap()]);
                        let error = relative_error(&gpu.read_f32(&y, rows).unwrap(), &case, &seen[0]);
                        assert!(error <= bound(math), "{about}, joined: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn large_products_are_told_their_input() {
    let Some(gpu) = gpu() else { return };
    let q8 = codec(squizd_spec::CodecId::Q8).unwrap();
    let of = |rows, cols| Case::new(q8, rows, cols, 1.0, crate::codec::EncodeOptions::NONE).load(gpu);
    assert!(GpuMatrix::stage(Math::I8, &[&of(96, 512), &of(32, 512)]));
    // Each workgroup would take more than two turns in making it.
    assert!(GpuMatrix::stage(Math::F32, &[&of(2, 2048)]));
    assert!(!GpuMatrix::stage(Math::I8, &[&of(2, 2080)]));
    // Too many workgroups would make it.
    assert!(!GpuMatrix::stage(Math::I8, &[&of(600, 1056); 40]));
}
