//! The integer codecs: quality, exactness, determinism, checks, hostile bytes.

use super::*;
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::testing::{MemoryRows, Stored, encode, encode_as, encode_with, gaussian, snr_db};
use crate::simd;
use proptest::prelude::*;
use squizd_spec::int_layout;

pub(super) const CODECS: [&dyn Codec; 3] = [INT4, INT3, INT2];
pub(super) const WISHES: [&str; 7] = ["", "compact", "fine", "g16", "g32", "g64", "g128"];

pub(super) fn bits(codec: &dyn Codec) -> u32 {
    match codec.id() {
        CodecId::INT2 => 2,
        CodecId::INT3 => 3,
        _ => 4,
    }
}

pub(super) fn request(wish: &str) -> Request<'static> {
    let mut options = EncodeOptions::NONE;
    if !wish.is_empty() {
        options.set(wish, INT4.options()).unwrap();
    }
    options.into()
}

fn stored(codec: &dyn Codec, rows: u64, cols: u64, values: &[f32], wish: &str) -> Stored {
    encode_with(codec, &MemoryRows::f32(rows, cols, values.to_vec()), &request(wish)).unwrap()
}

/// Every codec with every layout.
fn variants() -> impl Iterator<Item = (&'static dyn Codec, &'static str)> {
    CODECS.into_iter().flat_map(|codec| WISHES.map(|wish| (codec, wish)))
}

#[test]
fn gaussian_quality_floors() {
    let w = gaussian(512 * 512, 1);
    // Bits of scales per weight, and decibels at 4, 3 and 2 bits.
    let floors = [
        ("compact", 0.5, [23.08, 16.75, 10.51]),
        ("fine", 0.5, [23.75, 17.85, 11.56]),
        ("g16", 2.0, [25.0, 18.5, 11.8]),
        ("g32", 1.0, [23.14, 16.75, 10.52]),
        ("g64", 0.5, [21.77, 15.62, 9.85]),
        ("g128", 0.25, [20.8, 14.95, 9.52]),
    ];
    for (wish, overhead, floors) in floors {
        for (codec, floor) in CODECS.into_iter().zip(floors) {
            let s = stored(codec, 512, 512, &w, wish);
            let measured = snr_db(&w, &s.decode(codec));
            let id = codec.id();
            assert!((s.stats.snr_db() - measured).abs() < 1e-3, "{id} {wish}: {}", s.stats.snr_db());
            println!("{id} {wish}: {measured:.3} dB");
            assert!(measured > floor, "{id} {wish}: {measured}");
            let per_weight = s.data.len() as f64 * 8.0 / w.len() as f64;
            assert!((per_weight - f64::from(bits(codec)) - overhead).abs() < 1e-9, "{id} {wish}");
        }
    }
}

#[test]
fn both_biases_and_both_formats_keep_their_quality() {
    let w = gaussian(64 * 512, 2);
    let rows = MemoryRows::f32(64, 512, w.clone());
    for (params, floors) in [
        (compact_params(0, -7), [22.95, 16.7, 10.45]),
        (compact_params(32, -7), [23.0, 16.7, 10.45]),
        (plain_params(32, 1), [23.1, 16.75, 10.5]),
        (fine_params(1, -4), [23.5, 17.6, 11.4]),
        (fine_params(6, -4), [23.7, 17.8, 11.5]),
    ] {
        for (codec, floor) in CODECS.into_iter().zip(floors) {
            let s = encode_as(codec, &rows, &params).unwrap();
            let measured = snr_db(&w, &s.decode(codec));
            assert!(measured > floor, "{} {params:?}: {measured}", codec.id());
        }
    }
}

#[test]
fn any_magnitude_keeps_the_quality() {
    let base = gaussian(16 * 256, 3);
    for exponent in [-120, -60, 0, 60, 120] {
        let w: Vec<f32> = base.iter().map(|v| v * 2f32.powi(exponent)).collect();
        for (codec, wish) in variants() {
            let s = stored(codec, 16, 256, &w, wish);
            let measured = snr_db(&w, &s.decode(codec));
            let floor = [9.0, 14.0, 20.0][bits(codec) as usize - 2];
            assert!(measured > floor, "2^{exponent} {} {wish}: {measured}", codec.id());
            assert!((s.stats.snr_db() - measured).abs() < 0.01, "2^{exponent} {wish}");
        }
    }
}

#[test]
fn one_row_one_column_and_ragged_blocks_at_any_magnitude() {
    for (rows, cols) in [(1u64, 1u64), (1, 700), (300, 1), (3, 17), (5, 257)] {
        for magnitude in [1e-30f32, 1e30] {
            let w: Vec<f32> = gaussian((rows * cols) as usize, 17).iter().map(|v| v * magnitude).collect();
            for (codec, wish) in variants() {
                let s = stored(codec, rows, cols, &w, wish);
                let measured = snr_db(&w, &s.decode(codec));
                let floor = [7.0, 12.0, 18.0][bits(codec) as usize - 2];
                assert!(measured > floor, "{magnitude} {rows}x{cols} {} {wish}: {measured}", codec.id());
                assert_eq!(codec.check(&s.view()), Ok(()), "{} {wish}", codec.id());
            }
        }
    }
}

#[test]
fn rows_of_very_different_size_keep_their_quality() {
    // Each row 2^-0.5 times the one before: 2^-16 over the matrix.
    let base = gaussian(32 * 512, 4);
    let w: Vec<f32> =
        base.iter().enumerate().map(|(i, v)| v * 2f32.powf(-(i as f32 / 512.0).floor() / 2.0)).collect();
    for (codec, floor) in CODECS.into_iter().zip([21.5, 16.5, 10.5]) {
        let s = stored(codec, 32, 512, &w, "");
        for (w, v) in w.chunks(512).zip(s.decode(codec).chunks(512)) {
            assert!(snr_db(w, v) > floor, "{}", codec.id());
        }
    }
}

#[test]
fn all_zero_is_exact_and_positive_zero() {
    for (codec, wish) in variants() {
        let s = stored(codec, 3, 300, &[0.0; 900], wish);
        assert!(s.decode(codec).iter().all(|v| v.to_bits() == 0), "{} {wish}", codec.id());
        assert_eq!(s.stats.noise.to_bits(), 0);
    }
    // Zero groups beside others.
    let mut w = gaussian(512, 6);
    w[64..96].fill(0.0);
    for codec in CODECS {
        for wish in ["compact", "g16", "g32"] {
            let decoded = stored(codec, 2, 256, &w, wish).decode(codec);
            assert!(decoded[64..96].iter().all(|v| *v == 0.0), "{} {wish}", codec.id());
        }
    }
}

#[test]
fn equal_values_are_nearly_exact() {
    for value in [1.0f32, -1.0, 0.1, -3.3e-5, 1234.567, -1e30, 1e-30] {
        for (codec, wish) in variants() {
            let s = stored(codec, 2, 288, &[value; 576], wish);
            for v in s.decode(codec) {
                assert!((v - value).abs() <= 2e-3 * value.abs(), "{} {wish} {value}: {v}", codec.id());
            }
        }
    }
    // Equal within a group, different between groups.
    let w: Vec<f32> = (0..1024u16).map(|i| 0.5 + f32::from(i / 32) * 0.11).collect();
    for codec in CODECS {
        for wish in ["", "g16", "g32"] {
            let measured = snr_db(&w, &stored(codec, 2, 512, &w, wish).decode(codec));
            assert!(measured > 40.0, "{} {wish}: {measured}", codec.id());
        }
    }
}

#[test]
fn all_positive_groups_use_their_own_range() {
    // One-sided weights need offsets of the other sign.
    let spread = gaussian(64 * 512, 7);
    let w: Vec<f32> = spread.iter().map(|v| 5.0 + v).collect();
    for (codec, floor) in CODECS.into_iter().zip([20.0, 14.0, 8.0]) {
        for wish in ["", "g32"] {
            let decoded = stored(codec, 64, 512, &w, wish).decode(codec);
            let centred: Vec<f32> = decoded.iter().map(|v| v - 5.0).collect();
            let measured = snr_db(&spread, &centred);
            assert!(measured > floor, "{} {wish}: {measured}", codec.id());
        }
    }
    // So narrow that only plain offsets resolve them: the plan notices.
    let w: Vec<f32> = spread.iter().map(|v| 1.0 + v * 1e-3).collect();
    // At 2 bits the codes of the hierarchical layouts resolve them too.
    for (codec, floor) in CODECS.into_iter().zip([20.0, 14.0, 7.0]) {
        let s = stored(codec, 64, 512, &w, "");
        assert!(s.params[0] == int_layout::PLAIN || codec.id() == CodecId::INT2, "{}", codec.id());
        let centred: Vec<f32> = s.decode(codec).iter().map(|v| (v - 1.0) * 1e3).collect();
        assert!(snr_db(&spread, &centred) > floor, "{}", codec.id());
    }
}

#[test]
fn planned_parameters() {
    let plan = |codec, scale: f32, wish| {
        let w: Vec<f32> = gaussian(4096, 8).iter().map(|v| v * scale).collect();
        stored(codec, 8, 512, &w, wish).params
    };
    assert_eq!(plan(INT4, 1.0, "")[..4], [2, 16, 0, 6]);
    assert_eq!(plan(INT4, 1.0, "compact")[..4], [1, 32, 0, 32]);
    assert_eq!(plan(INT3, 1.0, "")[..4], [2, 16, 0, 6]);
    assert_eq!(plan(INT2, 1.0, "")[..4], [2, 16, 0, 6]);
    assert_eq!(plan(INT2, 1.0, "compact")[..3], [1, 32, 0]);
    assert_eq!(plan(INT2, 1.0, "plain")[..3], [0, 32, 0]);
    assert_eq!(plan(INT4, 1.0, "g64")[..3], [0, 64, 0]);
    // f16 would overflow, or lose its precision.
    assert_eq!(plan(INT4, 1e5, "g64")[..3], [0, 64, 1]);
    assert_eq!(plan(INT4, 1e-7, "g64")[..3], [0, 64, 1]);
    let rows = MemoryRows::f32(1, 32, vec![0.0; 32]);
    let message = encode(INT3, &rows, Some(48)).unwrap_err().to_string();
    assert!(message.contains("int3 group size is 48") && message.contains("[16, 32, 64, 128]"), "{message}");
    let options =
        EncodeOptions { group_size: Some(32), layout: Some(IntegerLayout::Fine), ..EncodeOptions::NONE };
    let message = encode_with(INT3, &rows, &options.into()).unwrap_err().to_string();
    assert!(message.contains("fine has no group size"), "{message}");
}

#[test]
fn not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = gaussian(2000 * 300, 9);
        w[1234 * 300 + 56] = bad;
        w[1999 * 300] = f32::NAN;
        let rows = MemoryRows::f32(2000, 300, w);
        for (codec, wish) in [(INT4, "compact"), (INT3, "fine"), (INT2, "g32")] {
            match encode_with(codec, &rows, &request(wish)) {
                Err(Error::NotFinite { tensor, index, row, col, .. }) => {
                    assert_eq!((tensor.as_str(), index, row, col), ("blk.0.test.weight", 370_256, 1234, 56));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_row_beyond_the_planned_range_is_an_error_that_names_it() {
    let mut w = gaussian(4096 * 64, 10);
    w[3001 * 64 + 5] = 1e9;
    let rows = MemoryRows::f32(4096, 64, w);
    // Planned without having seen row 3001.
    for codec in CODECS {
        for params in [compact_params(32, -7), fine_params(6, -4), plain_params(32, 0)] {
            let message = encode_as(codec, &rows, &params).unwrap_err().to_string();
            assert!(message.contains("row 3001") && message.contains("1000000000"), "{message}");
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let w = gaussian(300 * 1000, 11);
    let rows = MemoryRows::f32(300, 1000, w);
    for (codec, wishes) in CODECS.into_iter().zip([["compact", "g16"], ["fine", "g128"], ["fine", "compact"]])
    {
        for wish in wishes {
            let name = codec.id();
            let encode = || encode_with(codec, &rows, &request(wish)).unwrap();
            let expected = encode();
            for level in simd::Level::supported() {
                simd::force(level).unwrap();
                assert!(encode() == expected, "{name} {wish} {level}");
                let decoded = expected.decode(codec);
                simd::force(simd::Level::Scalar).unwrap();
                assert!(expected.decode(codec) == decoded, "{name} {wish} {level}");
            }
            simd::force(simd::Level::supported().last().unwrap()).unwrap();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert!(pool.install(encode) == expected, "{name} {wish} {threads}");
            }
        }
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    let rows = MemoryRows::f32(65, 777, gaussian(65 * 777, 16));
    let digest = |codec: &dyn Codec, wish| {
        let digest = Sha256::digest(&encode_with(codec, &rows, &request(wish)).unwrap().data);
        digest[..8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    assert_eq!(
        [digest(INT4, "compact"), digest(INT4, "g32")],
        [0xd256_8728_935b_1806, 0x76f6_a8e1_87b2_0208]
    );
    let expected = [0x9f21_bdca_6171_e722, 0x6450_68d2_896f_c394, 0x074c_fd90_f086_a367];
    assert_eq!([digest(INT4, ""), digest(INT3, ""), digest(INT2, "")], expected);
}

#[test]
fn golden_payloads_decode_as_written() {
    #[derive(serde::Deserialize)]
    struct Golden {
        case: String,
        codec: u16,
        rows: u64,
        cols: u64,
        params: String,
        payload: String,
        values: Vec<f32>,
    }
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|b| u8::from_str_radix(str::from_utf8(b).unwrap(), 16).unwrap())
            .collect()
    };
    let text = include_str!("../../../../fixtures/golden/v1/integer.json");
    let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let codec = crate::codec::codec(CodecId(case.codec)).unwrap();
        let stored = Stored {
            matrix: Matrix { rows: case.rows, cols: case.cols },
            params: bytes(&case.params).try_into().unwrap(),
            data: bytes(&case.payload),
            stats: EncodeStats::default(),
        };
        assert_eq!(codec.check(&stored.view()), Ok(()), "{}", case.case);
        let decoded: Vec<u32> = stored.decode(codec).into_iter().map(f32::to_bits).collect();
        let values: Vec<u32> = case.values.into_iter().map(f32::to_bits).collect();
        assert!(decoded == values, "{}", case.case);
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
        assert!(INT4.imports(dtype, rows.matrix, &options));
        let s = encode(INT4, &rows, None).unwrap();
        let signal: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        assert!((s.stats.signal - signal).abs() <= 1e-9 * signal && s.stats.noise == 0.0);
        for (v, w) in s.decode(INT4).iter().zip(&values) {
            // Q4_0's negative scales make negative zeros, which become positive.
            assert_eq!(v.to_bits(), if *w == 0.0 { 0 } else { w.to_bits() }, "{dtype}");
        }
        assert!(!INT4.imports(dtype, Matrix { rows: 1, cols: cols + 1 }, &options));
        // Another group size is quantized anew.
        assert_eq!(encode(INT4, &rows, Some(64)).unwrap().params[..2], [0, 64]);
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
        let message = encode(INT4, &rows, None).unwrap_err().to_string();
        assert!(message.contains("row 0, column 32"), "{message}");
    }
}

/// The first violation after `change` to a valid payload.
fn violation(codec: &dyn Codec, cols: u64, wish: &str, change: impl Fn(&mut Vec<u8>)) -> (u64, &'static str) {
    let mut s = stored(codec, 3, cols, &gaussian(3 * cols as usize, 13), wish);
    change(&mut s.data);
    let v = codec.check(&s.view()).unwrap_err();
    (v.offset, v.code)
}

#[test]
fn checks_name_code_and_offset() {
    let int4 = |wish, change: &dyn Fn(&mut Vec<u8>)| violation(INT4, 70, wish, change);
    // 3 rows of 70: codes 3 * 48 = 144 bytes, scales from 256.
    assert_eq!(int4("compact", &|d| d[48 + 32 + 6] |= 1), (86, "int4-tail-code"));
    assert_eq!(int4("compact", &|d| d[48 + 32 + 5] |= 0x10), (85, "int4-tail-code"));
    assert_eq!(int4("g64", &|d| d[144] = 9), (144, "payload-padding"));
    assert_eq!(int4("g64", &|d| d[255] = 1), (255, "payload-padding"));
    // Compact rows have 12 bytes: d, dmin, three 12-bit entries, 28 bits of nothing.
    assert_eq!(int4("compact", &|d| d[256 + 12 + 3] = 0x7c), (256 + 12 + 2, "int4-scale-not-finite"));
    assert_eq!(int4("compact", &|d| d[256 + 12 + 8] |= 0x10), (256 + 12 + 8, "int4-scale-padding"));
    assert_eq!(int4("compact", &|d| d[256 + 12 + 11] |= 0x80), (256 + 12 + 11, "int4-scale-padding"));
    // Plain pairs of two f16.
    assert_eq!(int4("g64", &|d| d[256 + 8 + 5] = 0xfc), (256 + 8 + 4, "int4-scale-not-finite"));
    assert_eq!(int4("g64", &|d| d.truncate(200)), (0, "payload-length"));
    // INT3: rows of 24 bytes of low parts, 12 of high ones. Weight 6 of the
    // last block is field 0 of its low byte 6 and bit 1 of its high byte 2.
    let int3 = |change: &dyn Fn(&mut Vec<u8>)| violation(INT3, 70, "fine", change);
    assert_eq!(int3(&|d| d[36 + 16 + 6] |= 1), (36 + 16 + 6, "int3-tail-code"));
    assert_eq!(int3(&|d| d[36 + 16] |= 4), (36 + 16, "int3-tail-code"));
    assert_eq!(int3(&|d| d[36 + 32 + 2] |= 2), (36 + 32 + 2, "int3-tail-code"));
    // Five groups of 16: 62 bits of 64.
    assert_eq!(int3(&|d| d[256 + 7] |= 0x40), (256 + 7, "int3-scale-padding"));
    assert_eq!(int3(&|d| d[256 + 1] = 0x7c), (256, "int3-scale-not-finite"));
    let int2 = |change: &dyn Fn(&mut Vec<u8>)| violation(INT2, 70, "fine", change);
    assert_eq!(int2(&|d| d[24 + 16 + 7] |= 0x40), (24 + 16 + 7, "int2-tail-code"));
    assert_eq!(int2(&|d| d[256 + 7] |= 0x80), (256 + 7, "int2-scale-padding"));
    assert_eq!(int2(&|d| d[256 + 3] = 0xfc), (256 + 2, "int2-scale-not-finite"));
}

#[test]
fn wrong_sizes_are_errors() {
    for codec in CODECS {
        let s = stored(codec, 3, 70, &gaussian(210, 14), "");
        for length in 0..s.data.len() {
            let view = Encoded { data: &s.data[..length], ..s.view() };
            let message = codec.decode(&view, 0..3, &mut [0.0; 210]).unwrap_err().to_string();
            assert!(message.contains(&format!("payload is {length} bytes")), "{message}");
        }
        for (rows, len) in [(0..4, 280), (2..4, 140), (0..3, 209), (0..2, 210)] {
            assert!(codec.decode(&s.view(), rows, &mut vec![0.0; len]).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_shape_round_trips(
        codec in 0usize..3,
        rows in 1u64..6,
        cols in 1u64..700,
        wish in 0usize..7,
        seed: u64,
        spread in -30i32..30,
    ) {
        let codec = CODECS[codec];
        let mut w = gaussian((rows * cols) as usize, seed);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= 2f32.powi((i as i32 / 97 % 3) * spread / 3);
        }
        let s = stored(codec, rows, cols, &w, WISHES[wish]);
        let decoded = s.decode(codec);
        // Nothing is worse than giving every weight its group's mean.
        let measured = snr_db(&w, &decoded);
        prop_assert!(measured > 0.0, "{measured}");
        prop_assert!(s.stats.noise == 0.0 || (s.stats.snr_db() - measured).abs() < 0.01);
        // Rows decode alone as they do together.
        let last = (rows - 1) * cols;
        let mut alone = vec![0.0; cols as usize];
        codec.decode(&s.view(), rows - 1..rows, &mut alone).unwrap();
        prop_assert_eq!(&alone[..], &decoded[last as usize..]);
    }

    #[test]
    fn any_payload_decodes_without_panic(
        codec in 0usize..3,
        cols in 1u64..300,
        wish in 0usize..7,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let codec = CODECS[codec];
        let mut s = stored(codec, 2, cols, &gaussian(2 * cols as usize, 15), WISHES[wish]);
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let _ = codec.check(&s.view());
        s.decode(codec);
        let x = vec![1.0; cols as usize];
        for precision in [crate::codec::Precision::Q8, crate::codec::Precision::F32] {
            codec.matvec(&s.view(), &Activation::new(&x, precision), 0..2, &mut [0.0; 2]);
        }
    }
}
