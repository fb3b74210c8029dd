//! TCA-TBE on the device, bit for bit.

use super::codec::readable;
use super::device::Gpu;
use super::matrix::GpuMatrix;
use super::pipeline::Span;
use super::sample::Sample;
use super::tests::gpu;
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
        let values = super::sample::gaussian(rows * cols, 3);
        let words: Vec<u16> = values.iter().map(|v| ((v * 0.02).to_bits() >> 16) as u16).collect();
        let sample = Sample::of_words(codec, cols as u64, &words, params).unwrap();
        assert!(looked_up(gpu, &sample) == words, "{rows}x{cols}");
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
