//! The INT4 codec: quality, exactness, determinism, checks, hostile bytes.

use super::*;
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::testing::{MemoryRows, Stored, encode, encode_as, gaussian, snr_db};
use proptest::prelude::*;

const GROUPS: [Option<u16>; 5] = [None, Some(16), Some(32), Some(64), Some(128)];

fn stored(rows: u64, cols: u64, values: &[f32], group: Option<u16>) -> Stored {
    encode(CODEC, &MemoryRows::f32(rows, cols, values.to_vec()), group).unwrap()
}

fn bits_per_weight(s: &Stored) -> f64 {
    s.data.len() as f64 * 8.0 / s.matrix.elements() as f64
}

#[test]
fn gaussian_quality_floors() {
    let w = gaussian(512 * 512, 1);
    let floors = [
        (None, 4.5, 23.08),
        (Some(16), 6.0, 25.0),
        (Some(32), 5.0, 23.14),
        (Some(64), 4.5, 21.77),
        (Some(128), 4.25, 20.8),
    ];
    for (group, bits, floor) in floors {
        let s = stored(512, 512, &w, group);
        let measured = snr_db(&w, &s.decode(CODEC));
        assert!((s.stats.snr_db() - measured).abs() < 1e-3, "{group:?}: {} {measured}", s.stats.snr_db());
        assert!(measured > floor, "{group:?}: {measured}");
        assert!((bits_per_weight(&s) - bits).abs() < 1e-9, "{group:?}");
    }
}

#[test]
fn both_biases_and_both_formats_keep_their_quality() {
    let w = gaussian(64 * 512, 2);
    let rows = MemoryRows::f32(64, 512, w.clone());
    for (params, floor) in
        [(compact_params(0, -7), 22.95), (compact_params(32, -7), 23.0), (plain_params(32, 1), 23.1)]
    {
        let s = encode_as(CODEC, &rows, &params).unwrap();
        let measured = snr_db(&w, &s.decode(CODEC));
        assert!(measured > floor, "{params:?}: {measured}");
    }
}

#[test]
fn any_magnitude_keeps_the_quality() {
    let base = gaussian(16 * 256, 3);
    for exponent in [-120, -100, -60, -20, 0, 20, 60, 100, 120] {
        let w: Vec<f32> = base.iter().map(|v| v * 2f32.powi(exponent)).collect();
        for group in GROUPS {
            let s = stored(16, 256, &w, group);
            let measured = snr_db(&w, &s.decode(CODEC));
            assert!(measured > 20.0, "2^{exponent} {group:?}: {measured}");
            assert!((s.stats.snr_db() - measured).abs() < 0.01, "2^{exponent} {group:?}");
        }
    }
}

#[test]
fn rows_of_very_different_size_keep_their_quality() {
    // Each row 2^-0.5 times the one before: 2^-16 over the matrix.
    let base = gaussian(32 * 512, 4);
    let w: Vec<f32> =
        base.iter().enumerate().map(|(i, v)| v * 2f32.powf(-(i as f32 / 512.0).floor() / 2.0)).collect();
    let s = stored(32, 512, &w, None);
    for (w, v) in w.chunks(512).zip(s.decode(CODEC).chunks(512)) {
        assert!(snr_db(w, v) > 21.5);
    }
}

#[test]
fn all_zero_is_exact_and_positive_zero() {
    for group in GROUPS {
        let s = stored(3, 300, &[0.0; 900], group);
        assert!(s.decode(CODEC).iter().all(|v| v.to_bits() == 0), "{group:?}");
        assert_eq!(s.stats.noise.to_bits(), 0);
    }
    // Zero groups beside others.
    let mut w = gaussian(512, 6);
    w[64..96].fill(0.0);
    for group in [None, Some(16), Some(32)] {
        assert!(stored(2, 256, &w, group).decode(CODEC)[64..96].iter().all(|v| *v == 0.0), "{group:?}");
    }
}

#[test]
fn equal_values_are_nearly_exact() {
    for value in [1.0f32, -1.0, 0.1, -3.3e-5, 1234.567, -1e30, 1e-30] {
        for group in GROUPS {
            let s = stored(2, 288, &[value; 576], group);
            for v in s.decode(CODEC) {
                assert!((v - value).abs() <= 2e-3 * value.abs(), "{group:?} {value}: {v}");
            }
        }
    }
    // Equal within a group, different between groups.
    let w: Vec<f32> = (0..1024u16).map(|i| 0.5 + f32::from(i / 32) * 0.11).collect();
    for group in [None, Some(16), Some(32)] {
        let measured = snr_db(&w, &stored(2, 512, &w, group).decode(CODEC));
        assert!(measured > 40.0, "{group:?}: {measured}");
    }
}

#[test]
fn all_positive_groups_use_their_own_range() {
    // One-sided weights need offsets of the other sign.
    let w: Vec<f32> = gaussian(64 * 512, 7).iter().map(|v| 5.0 + v).collect();
    let spread = gaussian(64 * 512, 7);
    for group in [None, Some(32)] {
        let decoded = stored(64, 512, &w, group).decode(CODEC);
        let centred: Vec<f32> = decoded.iter().map(|v| v - 5.0).collect();
        let measured = snr_db(&spread, &centred);
        assert!(measured > 20.0, "{group:?}: {measured}");
    }
    // So narrow that only plain offsets resolve them: the plan notices.
    let w: Vec<f32> = spread.iter().map(|v| 1.0 + v * 1e-3).collect();
    let s = stored(64, 512, &w, None);
    assert_eq!(s.params[0], int_layout::PLAIN);
    let centred: Vec<f32> = s.decode(CODEC).iter().map(|v| (v - 1.0) * 1e3).collect();
    assert!(snr_db(&spread, &centred) > 20.0);
}

#[test]
fn planned_parameters() {
    let plan = |scale: f32, group| {
        stored(8, 512, &gaussian(4096, 8).iter().map(|v| v * scale).collect::<Vec<_>>(), group).params
    };
    assert_eq!(plan(1.0, None)[..4], [1, 32, 0, 32]);
    assert_eq!(plan(1.0, Some(64))[..3], [0, 64, 0]);
    // f16 would overflow, or lose its precision.
    assert_eq!(plan(1e5, Some(64))[..3], [0, 64, 1]);
    assert_eq!(plan(1e-7, Some(64))[..3], [0, 64, 1]);
    let rows = MemoryRows::f32(1, 32, vec![0.0; 32]);
    let message = encode(CODEC, &rows, Some(48)).unwrap_err().to_string();
    assert!(message.contains("48") && message.contains("[16, 32, 64, 128]"), "{message}");
}

#[test]
fn not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = gaussian(2000 * 300, 9);
        w[1234 * 300 + 56] = bad;
        w[1999 * 300] = f32::NAN;
        match encode(CODEC, &MemoryRows::f32(2000, 300, w), None) {
            Err(Error::NotFinite { tensor, index, row, col, .. }) => {
                assert_eq!((tensor.as_str(), index, row, col), ("blk.0.test.weight", 370_256, 1234, 56));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_row_beyond_the_planned_range_is_an_error_that_names_it() {
    let mut w = gaussian(4096 * 64, 10);
    w[3001 * 64 + 5] = 1e9;
    let rows = MemoryRows::f32(4096, 64, w);
    // Planned without having seen row 3001.
    let message = encode_as(CODEC, &rows, &compact_params(32, -7)).unwrap_err().to_string();
    assert!(message.contains("row 3001") && message.contains("1000000000"), "{message}");
    let message = encode_as(CODEC, &rows, &plain_params(32, 0)).unwrap_err().to_string();
    assert!(message.contains("row 3001"), "{message}");
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let w = gaussian(700 * 1000, 11);
    let rows = MemoryRows::f32(700, 1000, w);
    for group in [None, Some(16), Some(128)] {
        let expected = encode(CODEC, &rows, group).unwrap();
        for level in simd::Level::supported() {
            simd::force(level).unwrap();
            assert!(encode(CODEC, &rows, group).unwrap() == expected, "{group:?} {level}");
            let decoded = expected.decode(CODEC);
            simd::force(simd::Level::Scalar).unwrap();
            assert!(expected.decode(CODEC) == decoded, "{group:?} {level}");
        }
        simd::force(simd::Level::supported().last().unwrap()).unwrap();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| encode(CODEC, &rows, group).unwrap()) == expected, "{group:?} {threads}");
        }
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    let rows = MemoryRows::f32(65, 777, gaussian(65 * 777, 16));
    for (group, expected) in [(None, 0xd256_8728_935b_1806u64), (Some(32), 0x76f6_a8e1_87b2_0208)] {
        let digest = Sha256::digest(&encode(CODEC, &rows, group).unwrap().data);
        assert_eq!(digest[..8], expected.to_be_bytes(), "{group:?}");
    }
}

/// ggml's dequantization of one block, as `dequantize_row_*` and the `gguf`
/// package compute it.
fn ggml(dtype: DType, block: &[u8]) -> Vec<f32> {
    let half = |i: usize| f16_to_f32(u16::from_le_bytes([block[i], block[i + 1]]));
    let (d, m) = (half(0), half(2));
    match dtype {
        DType::Q4_0 => {
            let q = |n: u8| (f32::from(n) - 8.0) * d;
            block[2..].iter().map(|b| q(b & 15)).chain(block[2..].iter().map(|b| q(b >> 4))).collect()
        }
        DType::Q4_1 => {
            let q = |n: u8| f32::from(n) * d + m;
            block[4..].iter().map(|b| q(b & 15)).chain(block[4..].iter().map(|b| q(b >> 4))).collect()
        }
        _ => {
            let packed = &block[4..16];
            let mut out = Vec::new();
            for g in 0..8 {
                let (sc, min) = if g < 4 {
                    (packed[g] & 63, packed[g + 4] & 63)
                } else {
                    (
                        (packed[g + 4] & 15) | ((packed[g - 4] >> 6) << 4),
                        (packed[g + 4] >> 4) | ((packed[g] >> 6) << 4),
                    )
                };
                for b in &block[16 + g / 2 * 32..][..32] {
                    let q = if g % 2 == 0 { b & 15 } else { b >> 4 };
                    out.push((d * f32::from(sc)) * f32::from(q) - m * f32::from(min));
                }
            }
            out
        }
    }
}

#[test]
fn ggml_blocks_are_taken_over_bit_for_bit() {
    for (dtype, block_weights, block_bytes, head) in
        [(DType::Q4_0, 32, 18, 1), (DType::Q4_1, 32, 20, 2), (DType::Q4_K, 256, 144, 2)]
    {
        let blocks = 12;
        let mut native = Vec::new();
        for (i, noise) in gaussian(blocks * block_bytes, 12).chunks(block_bytes).enumerate() {
            let scales = noise[..head].iter().map(|v| f32_to_f16(v * 2f32.powi(3 - 2 * i as i32)));
            native.extend(scales.flat_map(u16::to_le_bytes));
            native.extend(noise[2 * head..].iter().map(|v| v.to_bits() as u8));
        }
        let values: Vec<f32> = native.chunks(block_bytes).flat_map(|b| ggml(dtype, b)).collect();
        let cols = 2 * block_weights as u64;
        let rows = MemoryRows::native(blocks as u64 / 2, cols, dtype, native, values.clone());
        let options = EncodeOptions::default();
        assert!(CODEC.imports(dtype, rows.matrix, &options));
        let s = encode(CODEC, &rows, None).unwrap();
        let signal: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        assert!((s.stats.signal - signal).abs() <= 1e-9 * signal && s.stats.noise == 0.0);
        for (v, w) in s.decode(CODEC).iter().zip(&values) {
            // Q4_0's negative scales make negative zeros, which become positive.
            assert_eq!(v.to_bits(), if *w == 0.0 { 0 } else { w.to_bits() }, "{dtype}");
        }
        assert!(!CODEC.imports(dtype, Matrix { rows: 1, cols: cols + 1 }, &options));
        // Another group size is quantized anew.
        assert_eq!(encode(CODEC, &rows, Some(64)).unwrap().params[..2], [0, 64]);
    }
}

#[test]
fn bad_ggml_scales_are_refused() {
    for (dtype, bytes, d) in
        [(DType::Q4_0, 18, 0x7c00u16), (DType::Q4_0, 18, 0x7900), (DType::Q4_1, 20, 0x7e00)]
    {
        let mut native = vec![0; 3 * bytes];
        native[bytes..bytes + 2].copy_from_slice(&d.to_le_bytes());
        let rows = MemoryRows::native(1, 96, dtype, native, vec![0.0; 96]);
        let message = encode(CODEC, &rows, None).unwrap_err().to_string();
        assert!(message.contains("row 0, column 32"), "{message}");
    }
}

/// The first violation after `change` to a valid payload.
fn violation(rows: u64, cols: u64, group: Option<u16>, change: impl Fn(&mut Vec<u8>)) -> (u64, &'static str) {
    let mut s = stored(rows, cols, &gaussian((rows * cols) as usize, 13), group);
    change(&mut s.data);
    let v = CODEC.check(&s.view()).unwrap_err();
    (v.offset, v.code)
}

#[test]
fn checks_name_code_and_offset() {
    // 3 rows of 70: codes 3 * 48 = 144 bytes, scales from 256.
    assert_eq!(violation(3, 70, None, |d| d[48 + 32 + 6] |= 1), (86, "int4-tail-code"));
    assert_eq!(violation(3, 70, None, |d| d[48 + 32 + 5] |= 0x10), (85, "int4-tail-code"));
    assert_eq!(violation(3, 70, Some(64), |d| d[144] = 9), (144, "payload-padding"));
    assert_eq!(violation(3, 70, Some(64), |d| d[255] = 1), (255, "payload-padding"));
    // Compact rows have 12 bytes: d, dmin, three 12-bit entries, 28 bits of nothing.
    assert_eq!(violation(3, 70, None, |d| d[256 + 12 + 3] = 0x7c), (256 + 12 + 2, "int4-scale-not-finite"));
    assert_eq!(violation(3, 70, None, |d| d[256 + 12 + 8] |= 0x10), (256 + 12 + 8, "int4-scale-padding"));
    assert_eq!(violation(3, 70, None, |d| d[256 + 12 + 11] |= 0x80), (256 + 12 + 11, "int4-scale-padding"));
    // Plain pairs of two f16.
    assert_eq!(violation(3, 70, Some(64), |d| d[256 + 8 + 5] = 0xfc), (256 + 8 + 4, "int4-scale-not-finite"));
    assert_eq!(violation(3, 70, Some(64), |d| d.truncate(200)), (0, "payload-length"));
}

#[test]
fn wrong_sizes_are_errors() {
    let s = stored(3, 70, &gaussian(210, 14), None);
    for length in 0..s.data.len() {
        let view = Encoded { data: &s.data[..length], ..s.view() };
        let message = CODEC.decode(&view, 0..3, &mut [0.0; 210]).unwrap_err().to_string();
        assert!(message.contains(&format!("payload is {length} bytes")), "{message}");
    }
    for (rows, len) in [(0..4, 280), (2..4, 140), (0..3, 209), (0..2, 210)] {
        assert!(CODEC.decode(&s.view(), rows, &mut vec![0.0; len]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_round_trips(rows in 1u64..6, cols in 1u64..700, group in 0usize..5, seed: u64, spread in -30i32..30) {
        let mut w = gaussian((rows * cols) as usize, seed);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= 2f32.powi((i as i32 / 97 % 3) * spread / 3);
        }
        let s = stored(rows, cols, &w, GROUPS[group]);
        let decoded = s.decode(CODEC);
        let measured = snr_db(&w, &decoded);
        // Groups of mixed magnitudes are the worst case; 30,000 cases gave more than 13 dB.
        prop_assert!(measured > 10.0, "{measured}");
        prop_assert!(s.stats.noise == 0.0 || (s.stats.snr_db() - measured).abs() < 0.01);
        // Rows decode alone as they do together.
        let last = (rows - 1) * cols;
        let mut alone = vec![0.0; cols as usize];
        CODEC.decode(&s.view(), rows - 1..rows, &mut alone).unwrap();
        prop_assert_eq!(&alone[..], &decoded[last as usize..]);
    }

    #[test]
    fn any_payload_decodes_without_panic(cols in 1u64..300, group in 0usize..5, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut s = stored(2, cols, &gaussian(2 * cols as usize, 15), GROUPS[group]);
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let _ = CODEC.check(&s.view());
        s.decode(CODEC);
        let x = vec![1.0; cols as usize];
        for precision in [crate::codec::Precision::Q8, crate::codec::Precision::F32] {
            CODEC.matvec(&s.view(), &Activation::new(&x, precision), 0..2, &mut [0.0; 2]);
        }
    }
}
