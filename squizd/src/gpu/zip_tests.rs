//! TCA-TBE on the device, bit for bit.

use super::codec::readable;
use super::device::Gpu;
use super::math::Math;
use super::matrix::{GpuMatrix, Output};
use super::pipeline::Span;
use super::sample::{Sample, gaussian};
use super::seen::inputs;
use super::tests::{Case, bound, gpu, relative_error};
use crate::codec::codec;
use squizd_spec::{CodecId, Params, tbe};

/// The words of the matrix that `sample` stores, as looking up its rows gives
/// them.
fn looked_up(gpu: &Gpu, sample: &Sample) -> Vec<u16> {
    let stored = sample.view();
    let readable = readable(sample.id, &stored).unwrap();
    let buffer = gpu.upload(&readable.data, &mut |_| {}).unwrap();
    let tensor = readable.tensor(&stored);
    let matrix = GpuMatrix::new(gpu, readable.id, &tensor, &Span::from(&buffer)).unwrap();
    let (rows, cols) = (sample.matrix.rows as u32, sample.matrix.cols as usize);
    let stride = cols.next_multiple_of(32);
    let ids: Vec<u8> = (0..rows).flat_map(u32::to_le_bytes).collect();
    let ids = gpu.upload(&ids, &mut |_| {}).unwrap();
    let y = gpu.storage(4 * u64::from(rows) * stride as u64).unwrap();
    gpu.submit(&matrix.lookup(gpu, &ids, rows, 1.0, &y, stride as u32).unwrap());
    let y = gpu.read_f32(&y, rows as usize * stride).unwrap();
    y.chunks(stride)
        .flat_map(|row| &row[..cols])
        .map(|v| {
            assert!(v.is_nan() || v.to_bits().trailing_zeros() >= 16, "{v:e}");
            (v.to_bits() >> 16) as u16
        })
        .collect()
}

/// Numbers alike in all their bits; NaNs lose theirs in a product, and where
/// the device flushes them numbers below the normal ones are zeros.
fn same(got: u16, want: u16) -> bool {
    let magnitude = want & 0x7fff;
    let flushed = magnitude < 0x80 && got == want & 0x8000;
    got == want || flushed || magnitude > 0x7f80 && got & 0x7fff > 0x7f80
}

/// Every bit pattern: in order, where superblocks escape as a whole or not at
/// all, and scattered, where exponents are stored as bytes.
#[test]
fn every_bit_pattern_is_looked_up() {
    let Some(gpu) = gpu() else { return };
    let codec = codec(CodecId::TCA_TBE).unwrap();
    for step in [1u32, 40_503] {
        let words: Vec<u16> = (0..65_536).map(|i: u32| i.wrapping_mul(step) as u16).collect();
        for cols in [128, 576, 1000, 1024, 4096, 2944] {
            let words = &words[..words.len() / cols * cols];
            for profile in [tbe::TBE3, tbe::TBE2, tbe::PLAIN] {
                let mut params = Params::default();
                params[0] = profile;
                if profile == tbe::TBE2 {
                    params[1..7].copy_from_slice(&[3, 255, 4, 254, 5, 253]);
                }
                let sample = Sample::of_words(codec, cols as u64, words, params).unwrap();
                let got = looked_up(gpu, &sample);
                assert_eq!(got.len(), words.len());
                for (i, (got, want)) in got.iter().zip(words).enumerate() {
                    assert!(same(*got, *want), "{profile} {cols} {step}, weight {i}: {got:04x} {want:04x}");
                }
            }
        }
    }
}

/// Trained-like weights, a few per cent of which escape.
#[test]
fn ordinary_weights_are_looked_up() {
    let Some(gpu) = gpu() else { return };
    let codec = codec(CodecId::TCA_TBE).unwrap();
    let mut params = Params::default();
    params[0] = tbe::TBE3;
    for (rows, cols) in [(40, 1), (9, 33), (5, 1152), (3, 3000), (2, 8192)] {
        let values = gaussian(rows * cols, 3);
        let words: Vec<u16> = values.iter().map(|v| ((v * 0.02).to_bits() >> 16) as u16).collect();
        let sample = Sample::of_words(codec, cols as u64, &words, params).unwrap();
        assert!(looked_up(gpu, &sample) == words, "{rows}x{cols}");
    }
}

/// Batches of inputs that are one in one column and zero elsewhere, whose outputs are
/// the weights: of exponents near each other, far, and in superblocks of many.
#[test]
fn batches_have_every_weight() {
    let Some(gpu) = gpu() else { return };
    let codec = codec(CodecId::TCA_TBE).unwrap();
    let mut params = Params::default();
    params[0] = tbe::TBE3;
    for (rows, cols, powers) in [(70, 1100, 2), (3, 1152, 12), (5, 2080, 60), (2, 100, 200)] {
        let words: Vec<u16> = (0..rows * cols)
            .map(|i: usize| i.wrapping_mul(40_503) as u16)
            .map(|hash| (hash & 0x807f) | ((127 - powers / 2 + (hash >> 8) % powers) << 7))
            .collect();
        let sample = Sample::of_words(codec, cols as u64, &words, params).unwrap();
        let matrix = Case { sample, decoded: Vec::new() }.load(gpu);
        let mut x = vec![0.0; cols * cols];
        (0..cols).for_each(|i| x[i * cols + i] = 1.0);
        let (input, _) = inputs(gpu, Math::F32, cols, &x);
        let y = gpu.storage(4 * (cols * rows) as u64).unwrap();
        gpu.submit(&matrix.gemm(gpu, &input, cols as u32, Output::to(&y, rows as u32)).unwrap());
        let y = gpu.read_f32(&y, cols * rows).unwrap();
        for (i, want) in words.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let got = y[col * rows + row];
            assert_eq!(
                got.to_bits(),
                u32::from(*want) << 16,
                "{rows}x{cols} {powers}: row {row} column {col}"
            );
        }
    }
}

#[test]
fn a_damaged_head_is_refused() {
    let codec = codec(CodecId::TCA_TBE).unwrap();
    let mut params = Params::default();
    params[0] = tbe::TBE3;
    let mut sample = Sample::of_words(codec, 64, &[0x3c00; 128], params).unwrap();
    sample.data[1] ^= 1;
    assert!(readable(sample.id, &sample.view()).is_err());
}

/// Relative error of the product of `values`, rounded down to BF16, in rows of `cols`.
fn product_error(gpu: &Gpu, cols: usize, values: impl Iterator<Item = f32>, x: &[f32]) -> f64 {
    let codec = codec(CodecId::TCA_TBE).unwrap();
    let mut params = Params::default();
    params[0] = tbe::TBE3;
    let words: Vec<u16> = values.map(|v| (v.to_bits() >> 16) as u16).collect();
    let rows = words.len() / cols;
    let decoded = words.iter().map(|w| f32::from_bits(u32::from(*w) << 16)).collect();
    let case = Case { sample: Sample::of_words(codec, cols as u64, &words, params).unwrap(), decoded };
    let matrix = case.load(gpu);
    let (input, seen) = inputs(gpu, Math::F32, cols, x);
    let y = gpu.storage(4 * rows as u64).unwrap();
    gpu.submit(&matrix.gemv(gpu, &input, Output::to(&y, 0)).unwrap());
    relative_error(&gpu.read_f32(&y, rows).unwrap(), &case, &seen[0])
}

/// Products in which only escapes count: a few of them, one lane's many, above and
/// below the window, superblocks without nibbles and without escapes; rows of several
/// runs of superblocks, and of odd lengths.
#[test]
fn every_kind_of_escape_is_in_the_product() {
    let Some(gpu) = gpu() else { return };
    // Every so many columns, by which power of two their weights are larger.
    let kinds =
        [(97, -10), (5, -9), (41, -2), (3, -5), (2, -9), (52, 7), (44, 9), (4, 10), (200, -60), (7, 0)];
    for cols in [1024, 1152, 2100, 34_048] {
        for (step, power) in kinds {
            let rows = if cols > 10_000 { 3 } else { 35 };
            // Within the window of one superblock: from 1 to 2^6.
            let values = gaussian(rows * cols, 11).into_iter().enumerate().map(|(i, v)| {
                let size = (1.0 + v.abs().fract()) * [1f32, 2.0, 8.0, 64.0][i % 4];
                size.copysign(v) * if i % cols % step == 0 { 2f32.powi(power) } else { 1.0 }
            });
            let x = gaussian(cols, 5).into_iter().enumerate();
            let x: Vec<f32> = x.map(|(i, v)| if i % step == 0 { v } else { 0.0 }).collect();
            let error = product_error(gpu, cols, values, &x);
            assert!(error <= bound(Math::F32), "{cols} columns, every {step}th by 2^{power}: {error:e}");
        }
    }
}

/// Superblocks at both ends of the exponents' range, beside zeros and ordinary ones.
#[test]
fn the_ends_of_the_range_are_in_the_product() {
    let Some(gpu) = gpu() else { return };
    for cols in [1000, 3072, 17_408] {
        for (least, scale) in [(-126, 1e6), (-124, 1e6), (121, 1e-12), (115, 1e-12)] {
            let values = gaussian(2 * cols, 21).into_iter().enumerate().map(|(i, v)| {
                let size = (1.0 + v.abs().fract()) * 2f32.powi(least + i as i32 % 7);
                match i % cols / 1024 % 3 {
                    0 => size.copysign(v),
                    1 => 0.0,
                    _ => size.copysign(v) * 2f32.powi(if least < 0 { 8 } else { -8 }),
                }
            });
            let x: Vec<f32> = gaussian(cols, 5).into_iter().map(|v| v * scale).collect();
            let error = product_error(gpu, cols, values, &x);
            assert!(error <= bound(Math::F32), "{cols} columns from 2^{least}: {error:e}");
        }
    }
}
