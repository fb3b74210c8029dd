//! Products with strips in each of the ways that their tables are looked up.

use super::math::Math;
use super::matrix::{Fetch, GpuMatrix, Joined, Made, Output};
use super::pipeline::Span;
use super::rotation::Source;
use super::sample::gaussian;
use super::seen::{inputs, rotate, see};
use super::shares;
use super::tests::{Case, bound, check_gemv, gpu, layouts, maths, relative_error};
use super::tuning::Tuning;
use crate::codec::{EncodeOptions, Quality, codec};
use squizd_spec::CodecId;
use zerocopy::IntoBytes;

/// SQINT2 by quads where they fit (windows of 8 bits at 16, 17 and 18 eighths,
/// wide matrices), bytes by threes, by pairs and one by one.
#[test]
fn every_look_up_of_a_trellis_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    let rate = |r, q| EncodeOptions { rate: Some(r), quality: Some(q), ..EncodeOptions::NONE };
    let cases = [
        (rate(2000, Quality::Fast), 2048, "QUADS"),
        (rate(2125, Quality::Fast), 2304, "QUADS"),
        (rate(2250, Quality::Fast), 2050, "QUADS"),
        (rate(2125, Quality::Fast), 2047, "PAIRS"),
        (rate(2500, Quality::Fast), 2304, "PAIRS"),
        (rate(2375, Quality::Fast), 300, "SPAN"),
        (rate(2125, Quality::Max), 2304, "ODD"),
        (rate(2000, Quality::Default), 2050, "TRIPLES"),
        (rate(2125, Quality::Default), 2304, "TRIPLES"),
        (rate(3000, Quality::Fast), 2048, "TRIPLES"),
    ];
    for (options, cols, wanted) in cases {
        let case = Case::new(codec(CodecId::SQINT2).unwrap(), 37, cols, 1.0, options);
        let matrix = case.load(gpu);
        let flags = &matrix.recipe().options.flags;
        let by =
            ["ODD", "QUADS", "TRIPLES", "PAIRS"].into_iter().find(|f| flags.contains(f)).unwrap_or("SPAN");
        assert_eq!(by, wanted, "{options:?}");
        for math in maths(CodecId::SQINT2) {
            check_gemv(gpu, &case, math, None);
            // Few shapes: each is compiled anew.
            let shapes = shares::candidates(matrix.recipe());
            for tuning in shapes
                .into_iter()
                .filter(|t| [256, 1024].contains(&t.workgroup) && t.lanes * 4 == t.workgroup)
            {
                check_gemv(gpu, &case, math, Some(tuning));
            }
        }
    }
}

/// The shape of workgroups that large matrices get.
#[test]
fn large_tables_are_shared_by_strips() {
    let Some(gpu) = gpu() else { return };
    let fast = EncodeOptions { quality: Some(Quality::Fast), ..EncodeOptions::NONE };
    let case = Case::new(codec(CodecId::SQINT2).unwrap(), 16, 2048, 1.0, fast);
    let matrix = case.load(gpu);
    let large = shares::tuning(matrix.recipe(), 8192, 512).unwrap();
    assert_eq!(large.workgroup, gpu.abilities().max_workgroup.min(512));
    assert_eq!(large.workgroup / large.lanes, 4);
    let long = shares::tuning(matrix.recipe(), 8192, 3584).unwrap();
    assert_eq!(long.workgroup, gpu.abilities().max_workgroup.min(1024));
    assert_eq!(long.workgroup / long.lanes, 4);
    // All multiprocessors have something to do.
    let few = shares::tuning(matrix.recipe(), 4096, 512).unwrap();
    assert_eq!(few.workgroup / few.lanes, 2);
    let small = shares::tuning(matrix.recipe(), 512, 512).unwrap();
    assert_eq!(small.workgroup, small.lanes);
}

/// Matrices of one layout in one buffer, whose strips end raggedly.
#[test]
fn strips_with_one_input_are_joined() {
    let Some(gpu) = gpu() else { return };
    let fast = EncodeOptions { quality: Some(Quality::Fast), ..EncodeOptions::NONE };
    let kinds = [
        (CodecId::SQINT2, EncodeOptions::NONE, 2304),
        (CodecId::SQINT2, fast, 2304),
        (CodecId::SQINT2, EncodeOptions::NONE, 300),
        (CodecId::ASTC, fast, 100),
    ];
    for (id, options, cols) in kinds {
        let cases = [33, 16, 7].map(|rows| Case::new(codec(id).unwrap(), rows, cols, 1.0, options));
        let mut bytes = Vec::new();
        let begins = cases.each_ref().map(|case| {
            bytes.resize(bytes.len().next_multiple_of(256), 0);
            bytes.extend_from_slice(case.sample.view().data);
            (bytes.len() - case.sample.view().data.len()) as u64
        });
        bytes.resize(bytes.len().next_multiple_of(256), 0);
        let buffer = gpu.upload(&bytes, &mut |_| {}).unwrap();
        let matrices: Vec<_> = (cases.iter().zip(begins))
            .map(|(case, offset)| {
                let span = Span { offset, ..Span::from(&buffer) };
                GpuMatrix::new(gpu, id, &case.sample.view(), &span).unwrap()
            })
            .collect();
        let places: Vec<_> = matrices.iter().zip([0, 64, 128]).collect();
        for math in maths(id).into_iter().filter(|m| matrices[0].math(gpu, *m) == *m) {
            let (input, mut seen) = inputs(gpu, math, cols, &gaussian(cols, 5));
            rotate(gpu, &input, &cases[0].sample, &matrices[0], &mut seen);
            let from = Fetch::Ready(&input);
            let joined = Joined::new(gpu, from, &places).unwrap();
            let y = gpu.storage(4 * 192).unwrap();
            gpu.submit([&joined.gemv(gpu, from, &y, None).unwrap()]);
            let y = gpu.read_f32(&y, 192).unwrap();
            for (case, (matrix, first)) in cases.iter().zip(&places) {
                let rows = matrix.rows() as usize;
                let (own, rest) = y[*first as usize..][..64].split_at(rows);
                let error = relative_error(own, case, &seen[0]);
                assert!(error <= bound(math), "{id} {rows}x{cols} {math}: {error:e}");
                assert!(rest.iter().all(|v| *v == 0.0));
            }
        }
        // Not with a matrix of another buffer.
        let apart = [(&matrices[0], 0), (&cases[1].load(gpu), 64)];
        let (input, _) = inputs(gpu, Math::F32, cols, &gaussian(cols, 5));
        assert!(Joined::new(gpu, Fetch::Ready(&input), &apart).is_none());
    }
}

const EPS: f32 = 1e-5;

/// Norms and gates of the second of three vectors and the third, in one segment, in
/// several, and with a tail of its own; gates of these sizes come through the
/// activation unchanged, or as zero.
#[test]
fn rotations_make_what_they_rotate() {
    let Some(gpu) = gpu() else { return };
    let trellis = codec(CodecId::SQINT2).unwrap();
    for cols in [100, 1536, 8192, 4500] {
        let case = Case::new(trellis, 16, cols, 1.0, EncodeOptions::NONE);
        let matrix = case.load(gpu);
        let gates = [70.0, 0.0, 128.0, -2000.0];
        let gate: Vec<f32> = (0..3 * cols).map(|i| gates[i % 4]).collect();
        let companions = gaussian(3 * cols, 8);
        for flags in [vec!["NORMED"], vec!["GATED", "SILU"]] {
            let normed = flags == ["NORMED"];
            let sources = if normed { gaussian(3 * cols, 7) } else { gate.clone() };
            let made: Vec<f64> = (cols..3 * cols)
                .map(|i| {
                    let own = &sources[i / cols * cols..][..cols];
                    let squares: f64 = own.iter().map(|v| f64::from(*v).powi(2)).sum();
                    let norm = 1.0 / (squares / cols as f64 + f64::from(EPS)).sqrt();
                    let (v, gain) = (f64::from(sources[i]), |i: usize| f64::from(companions[i]));
                    if normed { v * gain(i % cols) * norm } else { v.max(0.0) * gain(i) }
                })
                .collect();
            let upload = |values: &[f32]| {
                let stride = cols.next_multiple_of(32);
                let rows = values
                    .chunks(cols)
                    .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, stride - cols)));
                gpu.upload(rows.collect::<Vec<f32>>().as_bytes(), &mut |_| {}).unwrap()
            };
            let spans = [Span::from(&upload(&sources)), Span::from(&upload(&companions))];
            let made_of = Made { flags: flags.clone(), spans, eps: EPS };
            for math in maths(CodecId::SQINT2).into_iter().filter(|m| matrix.math(gpu, *m) == *m) {
                let (input, _) = inputs(gpu, math, cols, &vec![0.0; 2 * cols]);
                let source = Source::Made(&made_of, 1);
                gpu.submit(&input.ready_from(gpu, source, [&matrix], 2).unwrap());
                let stride = cols.next_multiple_of(32);
                let mut seen: Vec<Vec<f64>> = made.chunks(cols).map(<[f64]>::to_vec).collect();
                for v in &mut seen {
                    v.resize(stride, 0.0);
                }
                see(gpu, &input, &case.sample, &matrix, &mut seen);
                let about = format!("{cols} {flags:?} {math}");
                let y = gpu.storage(4 * 32).unwrap();
                gpu.submit(&matrix.gemv(gpu, &input, Output::to(&y, 0)).unwrap());
                let error = relative_error(&gpu.read_f32(&y, 16).unwrap(), &case, &seen[0]);
                assert!(error <= bound(math), "{about}: {error:e}");
                // Whole numbers are what was made, rounded.
                for (seen, made) in seen.iter().zip(made.chunks(cols)) {
                    let most = if math == Math::I8 { 2e-2 } else { 1e-5 };
                    let size = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
                    let off: Vec<f64> = seen.iter().zip(made).map(|(a, b)| a - b).collect();
                    assert!(size(&off) <= most * size(made), "{about}: {}", size(&off) / size(made));
                }
                if math == Math::F32 {
                    gpu.submit(&matrix.gemm(gpu, &input, 2, Output::to(&y, 16)).unwrap());
                    let y = gpu.read_f32(&y, 32).unwrap();
                    // It sums one column after the other.
                    let most = bound(math) * (cols as f64 / 1536.0).sqrt().max(1.0);
                    for (y, seen) in y.chunks(16).zip(&seen) {
                        let error = relative_error(y, &case, seen);
                        assert!(error <= most, "{about} gemm: {error:e}");
                    }
                }
            }
        }
    }
}

/// HYBRID's rows of a strip, in one turn and in several.
#[test]
fn rows_of_a_strip_agree_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    for (options, factor) in layouts(CodecId::HYBRID) {
        for cols in [576, 1057] {
            let case = Case::new(codec(CodecId::HYBRID).unwrap(), 33, cols, factor, options);
            for math in maths(CodecId::HYBRID) {
                for (lanes, rows, unroll) in [(4, 4, 1), (2, 2, 2), (64, 4, 1)] {
                    let tuning = Tuning { workgroup: 64, lanes, rows, unroll, neighbours: false };
                    check_gemv(gpu, &case, math, Some(tuning));
                }
            }
        }
    }
}
