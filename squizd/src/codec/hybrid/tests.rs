//! HYBRID: budget, quality, exactness, checks, hostile bytes.

use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode_as, encode_guided, encode_with, gaussian, snr_db};
use crate::codec::{Guide, InputMoments};
use crate::simd;
use proptest::prelude::*;

fn request(rate: u16) -> Request<'static> {
    EncodeOptions { rate: Some(rate), ..EncodeOptions::NONE }.into()
}

fn stored(rows: u64, cols: u64, values: &[f32], rate: u16) -> Stored {
    encode_with(CODEC, &MemoryRows::f32(rows, cols, values.to_vec()), &request(rate)).unwrap()
}

fn bits_per_weight(s: &Stored) -> f64 {
    s.data.len() as f64 * 8.0 / s.matrix.elements() as f64
}

/// Rates of all tiles.
fn rates(s: &Stored) -> Vec<u8> {
    let payload = Payload::of(&s.view()).unwrap();
    (0..s.matrix.rows.div_ceil(STRIP) as usize).flat_map(|strip| payload.rates(strip)).collect()
}

/// Columns of very different size: each block of 64 half the one before.
fn uneven(rows: usize, cols: usize) -> Vec<f32> {
    let mut w = gaussian(rows * cols, 20);
    for w in w.chunks_mut(cols) {
        for (i, w) in w.iter_mut().enumerate() {
            *w *= 2f32.powi(-(i as i32 / 64));
        }
    }
    w
}

#[test]
fn the_target_is_met_and_quality_follows() {
    let w = gaussian(512 * 512, 1);
    let floors = [(2520, 11.5), (3000, 13.6), (3516, 17.65), (4000, 19.6), (4516, 23.5), (5516, 29.2)];
    for (rate, floor) in floors {
        let s = stored(512, 512, &w, rate);
        let bits = bits_per_weight(&s);
        assert!(bits <= f64::from(rate) / 1000.0 && bits > f64::from(rate) / 1000.0 - 0.02, "{rate}: {bits}");
        let measured = snr_db(&w, &s.decode(CODEC));
        println!("{rate}: {measured:.3} dB");
        assert!(measured > floor, "{rate}: {measured}");
        assert!((s.stats.snr_db() - measured).abs() < 1e-3, "{rate}: {}", s.stats.snr_db());
    }
    // More than bfloat16 everywhere cannot be spent, less than 2 bits cannot be.
    let s = stored(512, 512, &w, 20_000);
    assert!(rates(&s).iter().all(|r| *r == 4) && s.stats.snr_db() > 50.0);
    assert!(rates(&stored(512, 512, &w, 1000)).iter().all(|r| *r == 0));
}

#[test]
fn unlike_parts_get_unlike_rates() {
    let (rows, cols) = (64, 512);
    let w = uneven(rows, cols);
    let s = stored(64, 512, &w, 3600);
    let rates = rates(&s);
    assert!(rates[0] >= 3 && rates[7] == 0, "{rates:?}");
    let measured = snr_db(&w, &s.decode(CODEC));
    let uniform = encode_with(
        crate::codec::codec(CodecId::INT3).unwrap(),
        &MemoryRows::f32(64, 512, w.clone()),
        &Request::default(),
    )
    .unwrap();
    println!("hybrid {measured:.2} dB, int3 {:.2} dB", uniform.stats.snr_db());
    assert!(measured > uniform.stats.snr_db() + 4.0);
}

#[test]
fn by_variance_is_four_and_two_bits() {
    let options = EncodeOptions { allocation: Some(Allocation::Variance), ..EncodeOptions::NONE };
    let w = uneven(64, 512);
    let s = encode_with(CODEC, &MemoryRows::f32(64, 512, w), &options.into()).unwrap();
    for strip in rates(&s).chunks(8) {
        assert_eq!(strip, [2, 2, 2, 2, 2, 2, 0, 0]);
    }
    let planned = f64::from(u16::from_le_bytes([s.params[0], s.params[1]])) / 1000.0;
    assert!(planned >= bits_per_weight(&s) && planned < bits_per_weight(&s) + 0.01);
    let both = EncodeOptions { rate: Some(3000), ..options };
    assert!(CODEC.nominal(Matrix { rows: 1, cols: 64 }, DType::F32, &both).is_err());
}

#[test]
fn importance_draws_bits() {
    let (rows, cols) = (64u64, 512u64);
    let w = gaussian((rows * cols) as usize, 3);
    let source = MemoryRows::f32(rows, cols, w.clone());
    let importance: Vec<f32> = (0..cols).map(|j| if j / 64 == 5 { 100.0 } else { 1.0 }).collect();
    let moments = InputMoments { importance: importance.clone(), hessian: Vec::new() };
    let parts = [&moments];
    let guide = Guide::new(&parts, rows, cols).unwrap();
    let plain = stored(rows, cols, &w, 3600);
    let guided = encode_with(CODEC, &source, &Request { guide, ..request(3600) }).unwrap();
    assert!(rates(&guided).chunks(8).all(|strip| strip[5] >= 3), "{:?}", rates(&guided));
    let error = |s: &Stored| -> f64 {
        let decoded = s.decode(CODEC);
        let each = w.iter().zip(&decoded).enumerate();
        each.map(|(i, (w, v))| f64::from(importance[i % 512]) * f64::from(w - v).powi(2)).sum()
    };
    assert!(error(&guided) < 0.5 * error(&plain), "{} {}", error(&guided), error(&plain));
    let output = guided.stats.output.unwrap();
    assert!((output.noise - error(&guided)).abs() < 1e-3 * output.noise);
    assert_eq!(plain.stats.output, None);
}

#[test]
fn the_curve_is_what_encoding_gives() {
    let w = uneven(48, 512);
    let rows = MemoryRows::f32(48, 512, w.clone());
    let curve = rd_curve(&rows, &Request::default(), 20).unwrap();
    assert!(curve.len() >= 15 && curve.len() <= 22, "{}", curve.len());
    assert!(curve.is_sorted_by(|a, b| a.bits_per_weight < b.bits_per_weight && a.noise >= b.noise));
    for point in &curve {
        let rate = (point.bits_per_weight * 1000.0).ceil() as u16;
        let s = stored(48, 512, &w, rate);
        assert!(s.stats.snr_db() > point.snr_db() - 0.05, "{rate}: {} {}", s.stats.snr_db(), point.snr_db());
    }
}

#[test]
fn any_magnitude_and_any_shape() {
    for exponent in [-120, -60, 0, 60, 120] {
        for (rows, cols) in [(1, 1), (17, 63), (16, 64), (33, 130), (5, 700)] {
            let w: Vec<f32> = gaussian(rows * cols, 4).iter().map(|v| v * 2f32.powi(exponent)).collect();
            let s = stored(rows as u64, cols as u64, &w, 65_000);
            let measured = snr_db(&w, &s.decode(CODEC));
            assert!(measured > 9.0, "2^{exponent} {rows}x{cols}: {measured}");
            assert!((s.stats.snr_db() - measured).abs() < 0.01);
        }
    }
}

#[test]
fn constant_blocks_and_huge_and_tiny_weights_at_low_rates() {
    for (rows, cols) in [(1u64, 1u64), (1, 300), (300, 1), (17, 65)] {
        for magnitude in [1e-30f32, 1.0, 1e30] {
            let same = vec![-magnitude; (rows * cols) as usize];
            let noise: Vec<f32> =
                gaussian((rows * cols) as usize, 12).iter().map(|v| v * magnitude).collect();
            for w in [same, noise] {
                for rate in [2520, 4516] {
                    let s = stored(rows, cols, &w, rate);
                    let measured = snr_db(&w, &s.decode(CODEC));
                    assert!(measured > 7.0, "{magnitude} {rows}x{cols} {rate}: {measured}");
                    assert_eq!(CODEC.check(&s.view()), Ok(()));
                }
            }
        }
    }
}

#[test]
fn experts_that_share_a_strip_keep_their_own_importances() {
    // Two experts of 24 rows: the second strip belongs to both.
    let w = gaussian(48 * 256, 13);
    let loud = |block: usize| InputMoments {
        importance: (0..256).map(|j| if j / 64 == block { 100.0 } else { 1.0 }).collect(),
        hessian: Vec::new(),
    };
    let (a, b) = (loud(0), loud(3));
    let parts = [&a, &b];
    let guide = Guide::new(&parts, 48, 256).unwrap();
    let rows = MemoryRows::f32(48, 256, w.clone());
    let s = encode_with(CODEC, &rows, &Request { guide, ..request(3600) }).unwrap();
    let rates = rates(&s);
    assert!(rates[0] > rates[3] && rates[11] > rates[8], "{rates:?}");
    let decoded = s.decode(CODEC);
    let errors = w.iter().zip(&decoded).enumerate().map(|(i, (w, v))| {
        let moments = if i / 256 < 24 { &a } else { &b };
        f64::from(moments.importance[i % 256]) * f64::from(w - v).powi(2)
    });
    let (noise, expected) = (s.stats.output.unwrap().noise, errors.sum::<f64>());
    assert!((noise - expected).abs() < 1e-3 * expected, "{noise} {expected}");
}

#[test]
fn not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut w = gaussian(40 * 100, 14);
        w[33 * 100 + 7] = bad;
        let error = encode_with(CODEC, &MemoryRows::f32(40, 100, w), &request(3600)).unwrap_err();
        assert!(matches!(error, Error::NotFinite { row: 33, col: 7, index: 3307, .. }), "{error}");
    }
}

#[test]
fn zeros_are_exact_and_positive() {
    let mut w = gaussian(32 * 256, 5);
    for w in w.chunks_mut(256) {
        w[64..128].fill(0.0);
    }
    let decoded = stored(32, 256, &w, 3500).decode(CODEC);
    for v in decoded.chunks(256) {
        assert!(v[64..128].iter().all(|v| v.to_bits() == 0));
    }
    assert!(stored(20, 100, &[0.0; 2000], 4000).decode(CODEC).iter().all(|v| v.to_bits() == 0));
}

#[test]
fn a_row_beyond_the_planned_range_is_named() {
    let mut w = gaussian(4096 * 64, 6);
    w[3001 * 64 + 5] = 1e9;
    let rows = MemoryRows::f32(4096, 64, w.clone());
    let message = encode_as(CODEC, &rows, &params(2500, -50)).unwrap_err().to_string();
    assert!(message.contains("row 3001"), "{message}");
    w[3001 * 64 + 5] = f32::NAN;
    let rows = MemoryRows::f32(4096, 64, w);
    let error = encode_as(CODEC, &rows, &params(2500, -50)).unwrap_err();
    assert!(matches!(error, Error::NotFinite { row: 3001, col: 5, .. }), "{error}");
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let rows = MemoryRows::f32(600, 500, gaussian(300_000, 7));
    let moments =
        InputMoments { importance: (0..500).map(|i| 1.0 + i as f32).collect(), hessian: Vec::new() };
    let parts = [&moments];
    let guide = Guide::new(&parts, 600, 500).unwrap();
    let encode =
        || encode_guided(CODEC, &rows, &params(3700, -60), &Request { guide, ..request(3700) }).unwrap();
    let expected = encode();
    for level in simd::Level::supported() {
        simd::force(level).unwrap();
        assert!(encode() == expected, "{level}");
    }
    simd::force(simd::Level::supported().last().unwrap()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert!(pool.install(encode) == expected);
}

#[test]
fn matvec_at_every_rate() {
    let w = uneven(40, 512);
    let x = gaussian(512, 8);
    for rate in [2520, 3300, 4700, 9000] {
        let s = stored(40, 512, &w, rate);
        let decoded = s.decode(CODEC);
        let mut y = [0.0; 30];
        CODEC.matvec(&s.view(), &Activation::new(&x, Precision::F32), 5..35, &mut y);
        for (y, v) in y.iter().zip(decoded.chunks(512).skip(5)) {
            let exact: f64 = v.iter().zip(&x).map(|(v, x)| f64::from(*v) * f64::from(*x)).sum();
            assert!((f64::from(*y) - exact).abs() < 1e-4, "{rate}: {y} {exact}");
        }
    }
}

#[test]
fn the_golden_payload_decodes_as_written() {
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|b| u8::from_str_radix(str::from_utf8(b).unwrap(), 16).unwrap())
            .collect()
    };
    let text = include_str!("../../../../fixtures/golden/v1/hybrid.json");
    let about: serde_json::Value = serde_json::from_str(text).unwrap();
    let hex = |key: &str| bytes(about[key].as_str().unwrap());
    let s = Stored {
        matrix: Matrix { rows: about["rows"].as_u64().unwrap(), cols: about["cols"].as_u64().unwrap() },
        params: hex("params").try_into().unwrap(),
        data: hex("payload"),
        stats: EncodeStats::default(),
    };
    assert_eq!(CODEC.check(&s.view()), Ok(()));
    let values = about["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32);
    assert!(s.decode(CODEC).into_iter().map(f32::to_bits).eq(values.map(f32::to_bits)));
}

/// The first violation after `change` to a valid payload of 20 x 100.
fn violation(change: impl Fn(&mut Vec<u8>)) -> (u64, &'static str) {
    // The second block is so small that the first becomes bfloat16 before it
    // gets a third bit.
    let mut w = gaussian(2000, 10);
    for w in w.chunks_mut(100) {
        w[64..].iter_mut().for_each(|w| *w *= 2f32.powi(-30));
    }
    let mut s = stored(20, 100, &w, 14_700);
    // Scales 160 bytes, map from 256 (16 bytes), starts from 512 (12 bytes), codes from 768.
    assert_eq!(rates(&s), [4, 0, 4, 0]);
    change(&mut s.data);
    let v = CODEC.check(&s.view()).unwrap_err();
    (v.offset, v.code)
}

#[test]
fn checks_name_code_and_offset() {
    assert_eq!(violation(|d| d[160] = 1), (160, "payload-padding"));
    assert_eq!(violation(|d| d[272] = 1), (272, "payload-padding"));
    assert_eq!(violation(|d| d[256] = 5), (256, "hybrid-map"));
    assert_eq!(violation(|d| d[257] = 1), (257, "hybrid-map"));
    assert_eq!(violation(|d| d[260] = 1), (260, "hybrid-map"));
    assert_eq!(violation(|d| d[512] = 1), (512, "hybrid-starts"));
    assert_eq!(violation(|d| d[516] ^= 1), (516, "hybrid-starts"));
    assert_eq!(violation(|d| d.truncate(d.len() - 8)), (520, "hybrid-starts"));
    // Row 0: 128 bytes of bfloat16, 16 of 2-bit codes for 36 weights.
    assert_eq!(violation(|d| d[0] = 1), (0, "hybrid-scale"));
    assert_eq!(violation(|d| d[7] |= 0x80), (4, "hybrid-scale"));
    assert_eq!(violation(|d| d[768 + 3] = 0x7f), (768 + 2, "hybrid-not-finite"));
    assert_eq!(violation(|d| d[768 + 128 + 8 + 4] = 1), (768 + 128, "hybrid-tail-code"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_meets_its_budget(rows in 1u64..40, cols in 1u64..300, rate in 1u16..20_000, seed: u64) {
        let w = gaussian((rows * cols) as usize, seed);
        let s = stored(rows, cols, &w, rate);
        let decoded = s.decode(CODEC);
        let parts = parts(s.matrix).unwrap();
        let least = parts.codes + rows * parts.blocks * 16;
        prop_assert!(s.data.len() as u64 <= (rows * cols * u64::from(rate) / 8000).max(least));
        prop_assert!((s.stats.snr_db() - snr_db(&w, &decoded)).abs() < 0.01);
        let mut alone = vec![0.0; cols as usize];
        CODEC.decode(&s.view(), rows - 1..rows, &mut alone).unwrap();
        prop_assert_eq!(&alone[..], &decoded[((rows - 1) * cols) as usize..]);
    }

    #[test]
    fn any_payload_decodes_without_panic(
        cols in 1u64..200,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut s = stored(18, cols, &gaussian(18 * cols as usize, 9), 6000);
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let _ = CODEC.check(&s.view());
        let _ = CODEC.decode(&s.view(), 0..18, &mut vec![0.0; 18 * cols as usize]);
        let x = vec![1.0; cols as usize];
        CODEC.matvec(&s.view(), &Activation::new(&x, Precision::Q8), 0..18, &mut [0.0; 18]);
    }
}
