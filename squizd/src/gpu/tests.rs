//! Kernels against the CPU's decoders, in f64.

use super::codec::{GPU_CODECS, gpu_codec, readable};
use super::device::Gpu;
use super::math::Math;
use super::matrix::{GpuMatrix, Output, Stack};
use super::pipeline::Span;
use super::sample::{Sample, gaussian};
use super::seen::{inputs, rotate};
use super::shares;
use super::tuning::Tuning;
use super::weights::{Mapping, Payloads};
use crate::codec::tca_tbe::Profile;
use crate::codec::{CODECS, Codec, EncodeOptions, IntegerLayout, Quality, codec};
use squizd_spec::{CodecId, hybrid_layout};
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
        Self::shifted(codec, rows, cols, factor, 0.0, options)
    }

    /// Normal values times `factor`, plus `shift`.
    fn shifted(
        codec: &dyn Codec,
        rows: usize,
        cols: usize,
        factor: f32,
        shift: f32,
        options: EncodeOptions,
    ) -> Self {
        let mut values = gaussian(rows * cols, (rows * 1000 + cols) as u64);
        for v in &mut values {
            *v = *v * factor + shift;
        }
        if codec.id() == CodecId::HYBRID {
            uneven(&mut values, cols);
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
    pub(super) fn product(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.decoded.chunks(self.sample.matrix.cols as usize);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }
}

/// Blocks of HYBRID at four sizes of weights, so that it takes several rates.
fn uneven(values: &mut [f32], cols: usize) {
    for (r, row) in values.chunks_mut(cols).enumerate() {
        for (b, block) in row.chunks_mut(64).enumerate() {
            for v in block {
                *v *= [1.0, 4.0, 16.0, 64.0][(r / 16 + b) % 4];
            }
        }
    }
}

/// `|y - W x|` over the larger of `|W x|` and what that is on average over the
/// signs of `x`, `|W| |x| / sqrt(cols)` (a single product may cancel by chance);
/// infinite if a number is not finite.
pub(super) fn relative_error(y: &[f32], case: &Case, x: &[f64]) -> f64 {
    let want = case.product(x);
    assert_eq!(y.len(), want.len());
    let difference: f64 = y.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let energy = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let weights: f64 = case.decoded.iter().map(|w| f64::from(*w).powi(2)).sum();
    let norm = energy(&want).max(weights * energy(x) / case.sample.matrix.cols as f64);
    if difference.is_finite() { (difference / norm).sqrt() } else { f64::INFINITY }
}

/// Largest relative error: of halves against the exact product, else against
/// the product of the inputs as rounded.
pub(super) fn bound(math: Math) -> f64 {
    match math {
        Math::F32 | Math::I8 | Math::I24 => 1e-6,
        Math::F16 => 2e-3,
    }
}

pub(super) fn check_gemv(gpu: &Gpu, case: &Case, math: Math, tuning: Option<Tuning>) {
    let matrix = case.load(gpu);
    if matrix.math(gpu, math) != math {
        return;
    }
    let x = gaussian(case.sample.matrix.cols as usize, 5);
    let (input, mut seen) = inputs(gpu, math, x.len(), &x);
    let y = gpu.storage(4 * u64::from(matrix.rows())).unwrap();
    rotate(gpu, &input, &case.sample, &matrix, &mut seen);
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
pub(super) fn layouts(id: CodecId) -> Vec<(EncodeOptions, f32)> {
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
                (group(16), 1e9),
                (group(32), 1.0),
                (group(64), 1.0),
                (group(128), 1.0),
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
        CodecId::HYBRID => {
            let rate = |r| EncodeOptions { rate: Some(r), ..none };
            vec![(rate(3300), 1.0), (rate(6000), 1e-3)]
        }
        _ => vec![(none, 1.0)],
    }
}

pub(super) fn maths(id: CodecId) -> Vec<Math> {
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

/// Products of stacked matrices with one input for two of them. Experts begin
/// and end anywhere, within strips, too.
#[test]
fn every_stack_of_experts_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    let (expert_rows, experts, cols) = (21, 4, 352);
    let chosen = [2u32, 0, 3, 3];
    for gpu_codec in GPU_CODECS {
        let stacked =
            Case::new(codec(gpu_codec.id).unwrap(), experts * expert_rows, cols, 1.0, EncodeOptions::NONE);
        let matrix = stacked.load(gpu);
        for math in maths(gpu_codec.id).into_iter().filter(|m| *m != Math::F16 || gpu.abilities().f16) {
            let (input, mut seen) = inputs(gpu, math, cols, &gaussian(2 * cols, 9));
            let list = gpu.upload(&chosen.map(u32::to_le_bytes).concat(), &mut |_| {}).unwrap();
            let stack = Stack { expert_rows: expert_rows as u32, experts: &list, count: 4, share: 2 };
            let stride = expert_rows + 3;
            let y = gpu.storage(4 * 4 * stride as u64).unwrap();
            let out = Output::to(&y, stride as u32);
            rotate(gpu, &input, &stacked.sample, &matrix, &mut seen);
            gpu.submit(&matrix.expert_gemv(gpu, &input, out, stack).unwrap());
            let y = gpu.read_f32(&y, 4 * stride).unwrap();
            for (i, (y, expert)) in y.chunks(stride).zip(chosen).enumerate() {
                let first = expert as usize * expert_rows;
                let decoded = stacked.decoded[first * cols..][..expert_rows * cols].to_vec();
                let case = Case { sample: stacked.sample.clone(), decoded };
                let error = relative_error(&y[..expert_rows], &case, &seen[i / 2]);
                assert!(error <= bound(math), "{} {math}, output {i}: {error:e}", gpu_codec.id);
                assert!(y[expert_rows..].iter().all(|v| *v == 0.0), "{}", gpu_codec.id);
            }
        }
    }
}

/// Every way to sum over lanes, and every shape of a workgroup.
#[test]
fn every_tuning_gives_the_same() {
    let Some(gpu) = gpu() else { return };
    let case = Case::new(codec(CodecId::INT4).unwrap(), 37, 1056, 1.0, EncodeOptions::NONE);
    let whole = Case::new(codec(CodecId::INT3).unwrap(), 21, 1280, 1.0, EncodeOptions::NONE);
    let shapes = [(1, 2), (2, 4), (1, 8), (3, 2)];
    for case in [&case, &whole] {
        for (lanes, (rows, unroll)) in [8, 4, 2, 64].into_iter().zip(shapes) {
            let tuning = Tuning { workgroup: 64, lanes, rows, unroll, neighbours: true };
            check_gemv(gpu, case, Math::F32, Some(tuning));
            check_gemv(gpu, case, Math::I8, Some(tuning));
        }
    }
    for (workgroup, lanes) in [(64, 1), (64, 2), (64, 4), (64, 8), (64, 32), (64, 64), (256, 128), (256, 256)]
    {
        for (rows, unroll) in [(1, 1), (4, 2), (3, 1)] {
            check_gemv(
                gpu,
                &case,
                Math::F32,
                Some(Tuning { workgroup, lanes, rows, unroll, neighbours: false }),
            );
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
            for math in [Math::F32, Math::I8] {
                check_gemv(gpu, &case, math, Some(tuning));
            }
        }
    }
}

/// Compact scales with unsigned and with signed mins, the latter where the
/// weights are not all above zero.
#[test]
fn both_biases_of_compact_mins_agree_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    let options = EncodeOptions { layout: Some(IntegerLayout::Compact), ..EncodeOptions::NONE };
    for id in [CodecId::INT4, CodecId::INT3, CodecId::INT2] {
        let mut biases = Vec::new();
        for shift in [-4.0, 0.0, 4.0] {
            let case = Case::shifted(codec(id).unwrap(), 6, 608, 1.0, shift, options);
            biases.push(case.sample.params[3]);
            for math in maths(id) {
                if math != Math::F16 || gpu.abilities().f16 {
                    check_gemv(gpu, &case, math, None);
                }
            }
        }
        assert!(biases.contains(&0) && biases.contains(&32), "{id}: {biases:?}");
    }
}

/// The samples of HYBRID have blocks of every rate, and a low last strip.
#[test]
fn hybrid_samples_have_every_rate() {
    let mut seen = [false; 5];
    for (options, factor) in layouts(CodecId::HYBRID) {
        let case = Case::new(codec(CodecId::HYBRID).unwrap(), 33, 576, factor, options);
        let parts = hybrid_layout::parts(case.sample.matrix).unwrap();
        for strip in 0..parts.strips {
            for block in 0..parts.blocks {
                let record = parts.map + strip * parts.map_stride + block / 8 * 8;
                let byte = case.sample.data[(record + block % 8 / 2) as usize];
                seen[usize::from(byte >> (block % 2 * 4) & 15)] = true;
            }
        }
    }
    assert_eq!(seen, [true; 5]);
}

/// A tensor beyond the binding limit is bound in pieces. HYBRID's codes, whose
/// rows are of different lengths, are not.
#[test]
fn pieces_give_the_same_as_the_whole() {
    let Some(gpu) = gpu() else { return };
    let planes = CODECS.iter().filter(|c| gpu_codec(c.id()).is_some() && c.id() != CodecId::HYBRID);
    for codec in planes {
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
