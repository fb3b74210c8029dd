//! Kernels against the CPU's decoders, in f64.

use super::codec::{GPU_CODECS, gpu_codec, readable};
use super::device::Gpu;
use super::input::Input;
use super::math::Math;
use super::matrix::{GpuMatrix, Output, Stack};
use super::pipeline::Span;
use super::sample::{Sample, gaussian};
use super::shares;
use super::tuning::Tuning;
use super::weights::{Mapping, Payloads};
use crate::codec::tca_tbe::Profile;
use crate::codec::{CODECS, Codec, EncodeOptions, IntegerLayout, Quality, codec};
use squizd_spec::CodecId;
use std::sync::{Arc, OnceLock};

/// The device of all tests. Without an adapter they skip with a message, unless
/// `SQUIZD_REQUIRE` names vulkan.
pub(super) fn gpu() -> Option<&'static Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    GPU.get_or_init(|| match Gpu::from_env() {
        Ok(gpu) => Some(Arc::new(gpu)),
        Err(e)
            if std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "vulkan")) =>
        {
            panic!("SQUIZD_REQUIRE names vulkan, but: {e}")
        }
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    })
    .as_ref()
}

/// A sample with its weights as the CPU decodes them.
pub(super) struct Case {
    pub(super) sample: Sample,
    pub(super) decoded: Vec<f32>,
}

impl Case {
    pub(super) fn new(
        codec: &dyn Codec,
        rows: usize,
        cols: usize,
        factor: f32,
        options: EncodeOptions,
    ) -> Self {
        let mut values = gaussian(rows * cols, (rows * 1000 + cols) as u64);
        for v in &mut values {
            *v *= factor;
        }
        let sample = Sample::encode(codec, cols as u64, values, options).unwrap();
        let mut decoded = vec![f32::NAN; rows * cols];
        codec.decode(&sample.view(), 0..rows as u64, &mut decoded).unwrap();
        Self { sample, decoded }
    }

    /// The matrix on the device.
    pub(super) fn load(&self, gpu: &Gpu) -> GpuMatrix {
        let stored = self.sample.view();
        let readable = readable(self.sample.id, &stored).unwrap();
        let buffer = gpu.upload(&readable.data, &mut |_| {}).unwrap();
        GpuMatrix::new(gpu, readable.id, &readable.tensor(&stored), &Span::from(&buffer)).unwrap()
    }

    /// `W x` in f64.
    fn product(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.decoded.chunks(self.sample.matrix.cols as usize);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }
}

/// `|y - W x|` over the larger of `|W x|` and what that is on average over the
/// signs of `x`, `|W| |x| / sqrt(cols)` (a single product may cancel by chance);
/// infinite if a number is not finite.
fn relative_error(y: &[f32], case: &Case, x: &[f64]) -> f64 {
    let want = case.product(x);
    assert_eq!(y.len(), want.len());
    let difference: f64 = y.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let energy = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let weights: f64 = case.decoded.iter().map(|w| f64::from(*w).powi(2)).sum();
    let norm = energy(&want).max(weights * energy(x) / case.sample.matrix.cols as f64);
    if difference.is_finite() { (difference / norm).sqrt() } else { f64::INFINITY }
}

/// The inputs on the device, prepared, and as the kernels of their form see
/// them.
fn inputs(gpu: &Gpu, math: Math, width: usize, x: &[f32]) -> (Input, Vec<Vec<f64>>) {
    let count = x.len() / width;
    let input = Input::new(gpu, math, width as u32, count as u32).unwrap();
    let stride = input.stride as usize;
    let mut padded = vec![0.0f32; stride * count];
    for (to, from) in padded.chunks_mut(stride).zip(x.chunks(width)) {
        to[..width].copy_from_slice(from);
    }
    let bytes: Vec<u8> = padded.iter().flat_map(|v| v.to_le_bytes()).collect();
    gpu.write(&input.values, &bytes);
    gpu.submit(&[input.prepare(gpu).unwrap()]);
    let seen = match math {
        Math::F32 | Math::F16 => padded.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(),
        Math::I8 => {
            let codes = gpu.read(&input.coded, 0..padded.len() as u64).unwrap();
            let sums = gpu.read_f32(&input.sums, padded.len() / 8).unwrap();
            let codes = codes.chunks(32).zip(sums.chunks(4));
            codes.flat_map(|(c, s)| c.iter().map(|c| f64::from(c.cast_signed()) * f64::from(s[0]))).collect()
        }
    };
    (input, seen.chunks(stride).map(<[f64]>::to_vec).collect())
}

/// Largest relative error: of halves against the exact product, else against
/// the product of the inputs as rounded.
fn bound(math: Math) -> f64 {
    match math {
        Math::F32 | Math::I8 => 1e-6,
        Math::F16 => 2e-3,
    }
}

fn check_gemv(gpu: &Gpu, case: &Case, math: Math, tuning: Option<Tuning>) {
    let matrix = case.load(gpu);
    let x = gaussian(case.sample.matrix.cols as usize, 5);
    let (input, seen) = inputs(gpu, math, x.len(), &x);
    let y = gpu.storage(4 * u64::from(matrix.rows())).unwrap();
    gpu.submit(&input.rotate(gpu, [&matrix], 1).unwrap());
    let steps = match tuning {
        Some(tuning) => matrix.gemv_tuned(gpu, &input, Output::to(&y, 0), tuning),
        None => matrix.gemv(gpu, &input, Output::to(&y, 0)),
    };
    gpu.submit(&steps.unwrap());
    let y = gpu.read_f32(&y, matrix.rows() as usize).unwrap();
    let error = relative_error(&y, case, &seen[0]);
    let Sample { id, matrix, params, .. } = &case.sample;
    let about = format!("{id} {}x{} {:?} {math} {tuning:?}", matrix.rows, matrix.cols, &params[..5]);
    assert!(error <= bound(math), "{about}: {error:e}");
}

/// Odd sizes, one row, partial blocks and superblocks, wide rows.
const SHAPES: [(usize, usize); 9] =
    [(1, 64), (3, 100), (5, 576), (7, 1536), (2, 28_672), (33, 288), (70, 256), (3, 1), (2, 1057)];

/// Layouts of each codec that its kernels tell apart, with a factor for the
/// weights that brings forth wide scales.
fn layouts(id: CodecId) -> Vec<(EncodeOptions, f32)> {
    let none = EncodeOptions::NONE;
    match id {
        CodecId::Q8 => vec![(none, 1.0), (none, 1e9)],
        CodecId::INT4 | CodecId::INT3 | CodecId::INT2 => {
            let layout = |l| (EncodeOptions { layout: Some(l), ..none }, 1.0);
            let group = |g| EncodeOptions { group_size: Some(g), ..none };
            vec![
                layout(IntegerLayout::Compact),
                layout(IntegerLayout::Fine),
                (group(16), 1.0),
                (group(32), 1.0),
                (group(64), 1.0),
                (group(128), 1e9),
            ]
        }
        CodecId::ASTC => {
            let quality = |q| EncodeOptions { quality: Some(q), ..none };
            vec![(quality(Quality::Fast), 1.0), (quality(Quality::Default), 1e-6)]
        }
        // Rates with windows at any bit and at whole bytes, all window lengths.
        CodecId::SQINT2 => {
            let rate = |r, q| EncodeOptions { rate: Some(r), quality: Some(q), ..none };
            vec![
                (none, 1.0),
                (rate(2000, Quality::Fast), 1.0),
                (rate(2125, Quality::Fast), 1.0),
                (rate(2875, Quality::Default), 1.0),
                (rate(3000, Quality::Max), 1.0),
                (rate(4000, Quality::Fast), 1.0),
                (EncodeOptions { nf2: true, ..none }, 1.0),
            ]
        }
        CodecId::TCA_TBE => {
            let profile = |p| (EncodeOptions { profile: Some(p), ..none }, 1.0);
            vec![profile(Profile::Tbe3), profile(Profile::Tbe2)]
        }
        _ => vec![(none, 1.0)],
    }
}

fn maths(id: CodecId) -> Vec<Math> {
    let gpu_codec = gpu_codec(id).unwrap();
    std::iter::once(Math::F32).chain(gpu_codec.forms.iter().copied()).collect()
}

#[test]
fn every_gemv_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let codec = codec(gpu_codec.id).unwrap();
        for (options, factor) in layouts(gpu_codec.id) {
            for (rows, cols) in SHAPES {
                let case = Case::new(codec, rows, cols, factor, options);
                for math in maths(gpu_codec.id) {
                    if math != Math::F16 || gpu.abilities().f16 {
                        check_gemv(gpu, &case, math, None);
                    }
                }
            }
        }
    }
}

/// Every way to sum over lanes, and every shape of a workgroup.
#[test]
fn every_tuning_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    let case = Case::new(codec(CodecId::INT4).unwrap(), 37, 1056, 1.0, EncodeOptions::NONE);
    for (workgroup, lanes) in [(64, 1), (64, 2), (64, 4), (64, 8), (64, 32), (64, 64), (256, 128), (256, 256)]
    {
        for (rows, unroll) in [(1, 1), (4, 2), (3, 1)] {
            check_gemv(gpu, &case, Math::F32, Some(Tuning { workgroup, lanes, rows, unroll }));
        }
    }
}

#[test]
fn every_gemm_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let codec = codec(gpu_codec.id).unwrap();
        for (rows, cols, count) in [(1, 64, 1), (70, 100, 5), (9, 288, 67)] {
            let case = Case::new(codec, rows, cols, 1.0, EncodeOptions::NONE);
            let matrix = case.load(gpu);
            let x = gaussian(count * cols, 6);
            let (input, seen) = inputs(gpu, Math::F32, cols, &x);
            let y_stride = rows + 3;
            let y = gpu.storage(4 * (count * y_stride) as u64).unwrap();
            gpu.submit(&input.rotate(gpu, [&matrix], count as u32).unwrap());
            gpu.submit(&matrix.gemm(gpu, &input, count as u32, Output::to(&y, y_stride as u32)).unwrap());
            let y = gpu.read_f32(&y, count * y_stride).unwrap();
            for (y, x) in y.chunks(y_stride).zip(&seen) {
                let error = relative_error(&y[..rows], &case, x);
                assert!(error <= 1e-6, "{} {rows}x{cols} {count}: {error:e}", gpu_codec.id);
            }
        }
    }
}

#[test]
fn every_lookup_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let codec = codec(gpu_codec.id).unwrap();
        for (options, factor) in layouts(gpu_codec.id) {
            let (rows, cols) = (9, 100);
            let case = Case::new(codec, rows, cols, factor, options);
            let ids = [3u32, 8, 0, 3];
            let bytes: Vec<u8> = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
            let ids_buffer = gpu.upload(&bytes, &mut |_| {}).unwrap();
            let y = gpu.storage(4 * 4 * 128).unwrap();
            gpu.submit(&case.load(gpu).lookup(gpu, &ids_buffer, 4, 2.0, &y, 128).unwrap());
            let y = gpu.read_f32(&y, 4 * 128).unwrap();
            for (y, id) in y.chunks(128).zip(ids) {
                let want = &case.decoded[id as usize * cols..][..cols];
                let peak = want.iter().fold(0f32, |m, w| m.max(w.abs()));
                for (y, w) in y.iter().zip(want) {
                    assert!((y - 2.0 * w).abs() <= 1e-6 * peak, "{} {options:?}: {y} {w}", gpu_codec.id);
                }
                assert!(y[cols..].iter().all(|v| *v == 0.0));
            }
        }
    }
}

/// Every lane count for codecs whose lanes work together or share strips, with
/// and without subgroups' help.
#[test]
fn every_tuning_of_shares_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let case = Case::new(codec(gpu_codec.id).unwrap(), 37, 2304, 1.0, EncodeOptions::NONE);
        let matrix = case.load(gpu);
        for tuning in shares::candidates(matrix.recipe()) {
            check_gemv(gpu, &case, Math::F32, Some(tuning));
        }
    }
}

/// Experts begin and end anywhere in a stack, within strips, too.
#[test]
fn experts_are_the_rows_of_a_stack() {
    let Some(gpu) = gpu() else { return };
    let (expert_rows, experts, cols) = (21, [2u32, 0, 2, 1], 100);
    for gpu_codec in GPU_CODECS {
        let case = Case::new(codec(gpu_codec.id).unwrap(), 3 * expert_rows, cols, 1.0, EncodeOptions::NONE);
        let matrix = case.load(gpu);
        let (input, seen) = inputs(gpu, Math::F32, cols, &gaussian(2 * cols, 9));
        let stride = expert_rows + 2;
        let y = gpu.storage(4 * (experts.len() * stride) as u64).unwrap();
        let list = gpu.upload(zerocopy::IntoBytes::as_bytes(&experts[..]), &mut |_| {}).unwrap();
        let stack = Stack { expert_rows: expert_rows as u32, experts: &list, count: 4, share: 2 };
        gpu.submit(&input.rotate(gpu, [&matrix], 2).unwrap());
        gpu.submit(&matrix.expert_gemv(gpu, &input, Output::to(&y, stride as u32), stack).unwrap());
        let y = gpu.read_f32(&y, experts.len() * stride).unwrap();
        for ((y, expert), i) in y.chunks(stride).zip(experts).zip(0..) {
            let rows = expert as usize * expert_rows..(expert as usize + 1) * expert_rows;
            let one = Case {
                sample: case.sample.clone(),
                decoded: case.decoded[rows.start * cols..rows.end * cols].to_vec(),
            };
            let error = relative_error(&y[..expert_rows], &one, &seen[i / 2]);
            assert!(error <= 1e-6, "{} expert {expert}: {error:e}", gpu_codec.id);
            assert!(y[expert_rows..].iter().all(|v| *v == 0.0), "{}", gpu_codec.id);
        }
    }
}

/// A tensor beyond the binding limit is bound in pieces.
#[test]
fn pieces_give_the_same_as_the_whole() {
    let Some(gpu) = gpu() else { return };
    for codec in CODECS.iter().filter(|c| gpu_codec(c.id()).is_some()) {
        let case = Case::new(*codec, 61, 200, 1.0, EncodeOptions::NONE);
        let buffer = gpu.upload(&case.sample.data, &mut |_| {}).unwrap();
        let (id, view, span) = (case.sample.id, case.sample.view(), Span::from(&buffer));
        let matrix = GpuMatrix::in_bindings_of(gpu, id, &view, &span, 3072).unwrap();
        assert!(matrix.pieces() > 1, "{id}");
        let (input, seen) = inputs(gpu, Math::F32, 200, &gaussian(200, 5));
        let y = gpu.storage(4 * 61).unwrap();
        gpu.submit(&input.rotate(gpu, [&matrix], 1).unwrap());
        gpu.submit(&matrix.gemv(gpu, &input, Output::to(&y, 0)).unwrap());
        let error = relative_error(&gpu.read_f32(&y, 61).unwrap(), &case, &seen[0]);
        assert!(error <= 1e-6, "{id}: {error:e}");
        let too_small = GpuMatrix::in_bindings_of(gpu, id, &view, &span, 512);
        assert!(too_small.unwrap_err().to_string().contains("does not fit"));
    }
}

#[test]
fn failures_are_errors() {
    let Some(gpu) = gpu() else { return };
    assert!(gpu.storage(u64::MAX / 2).is_err());
    assert!(Gpu::open(Some("no such adapter")).unwrap_err().to_string().contains("no such adapter"));
    let case = Case::new(codec(CodecId::Q8).unwrap(), 2, 64, 1.0, EncodeOptions::NONE);
    let buffer = gpu.upload(&case.sample.data, &mut |_| {}).unwrap();
    let mut cut = case.sample.clone();
    cut.data.pop();
    let error = GpuMatrix::new(gpu, CodecId::Q8, &cut.view(), &Span::from(&buffer)).unwrap_err();
    assert!(error.to_string().contains("payload bytes are not q8"), "{error}");
}

/// Kernels read a mapped file without a copy, where the driver can (lavapipe
/// does), and say why where it cannot.
#[test]
fn mapped_payloads_are_read_in_place() {
    let Some(gpu) = gpu() else { return };
    let case = Case::new(codec(CodecId::Q8).unwrap(), 50, 320, 1.0, EncodeOptions::NONE);
    let mut bytes = vec![0xab; 16 << 10];
    bytes.extend_from_slice(&case.sample.data);
    bytes.resize(bytes.len().next_multiple_of(16 << 10), 0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mapped");
    std::fs::write(&path, &bytes).unwrap();
    let file = squizd_spec::FileBytes::map(&path).unwrap();
    let payload = &file[16 << 10..][..case.sample.data.len()];
    match Mapping::new(gpu, &file, std::iter::once(payload)) {
        Ok(mapping) => {
            let span = Payloads::new(gpu, Some(&mapping), &mut |_| {}).place(payload).unwrap();
            let matrix = GpuMatrix::new(gpu, CodecId::Q8, &case.sample.view(), &span).unwrap();
            let (input, seen) = inputs(gpu, Math::F32, 320, &gaussian(320, 5));
            let y = gpu.storage(4 * 50).unwrap();
            gpu.submit(&matrix.gemv(gpu, &input, Output::to(&y, 0)).unwrap());
            let error = relative_error(&gpu.read_f32(&y, 50).unwrap(), &case, &seen[0]);
            assert!(error <= 1e-6, "{error:e}");
        }
        Err(why) => {
            assert!(!gpu.adapter().name.contains("llvmpipe"), "{why}");
            eprintln!("skipped: {why}");
        }
    }
    // A payload elsewhere is none of the file's.
    assert!(Mapping::new(gpu, &file, std::iter::once(&case.sample.data[..])).is_err());
}
