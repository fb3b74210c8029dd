//! The MXFP4 codec: quality, exactness, determinism, checks, hostile bytes.

use super::*;
use crate::codec::lanes::F32x8;
use crate::codec::testing::{MemoryRows, Stored, encode, encode_with, gaussian, snr_db};
use crate::codec::{Guide, InputMoments, Precision};
use crate::simd;
use proptest::prelude::*;

fn stored(rows: u64, cols: u64, values: &[f32]) -> Stored {
    encode(CODEC, &MemoryRows::f32(rows, cols, values.to_vec()), None).unwrap()
}

#[test]
fn gaussian_quality_at_any_magnitude() {
    let base = gaussian(256 * 512, 1);
    for exponent in [-120, -100, -60, -20, 0, 20, 60, 100, 120] {
        let w: Vec<f32> = base.iter().map(|v| v * 2f32.powi(exponent)).collect();
        let s = stored(256, 512, &w);
        let measured = snr_db(&w, &s.decode(CODEC));
        assert!(measured > 19.0, "2^{exponent}: {measured}");
        assert!((s.stats.snr_db() - measured).abs() < 1e-3, "2^{exponent}: {}", s.stats.snr_db());
        assert_eq!(s.data.len() * 8 * 4, w.len() * 17);
    }
}

#[test]
fn the_floor_rule_alone_is_worse() {
    // The specification's conversion: scale 2^(floor(log2(max)) - 2).
    let w = gaussian(64 * 512, 2);
    let mut floor = Vec::new();
    for group in w.chunks(GROUP) {
        let peak = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let scale = 2f32.powi(peak.log2().floor() as i32 - 2);
        let nearest = |v: f32| e2m1::nearest(F32x8([v.abs() / scale; 8])).values().0[0];
        floor.extend(group.iter().map(|v| (nearest(*v) * scale).copysign(*v)));
    }
    let (searched, plain) = (snr_db(&w, &stored(64, 512, &w).decode(CODEC)), snr_db(&w, &floor));
    assert!(searched > plain + 0.2, "{searched} {plain}");
}

#[test]
fn the_ends_of_f32_are_kept() {
    for peak in [f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), 1e30, 1e-30, 0.0] {
        let w: Vec<f32> = (0..40i8).map(|i| peak * (f32::from(i) / 20.0 - 1.0)).collect();
        let out = stored(1, 40, &w).decode(CODEC);
        for (o, w) in out.iter().zip(&w) {
            // A quarter of the largest is the widest error: 8 cut to 6. Below
            // 2^-128 the smallest element is the limit.
            let bound = (peak / 4.0).max(2f32.powi(-129));
            assert!((o - w).abs() <= bound && (o * w >= 0.0), "{peak:e}: {w:e} {o:e}");
        }
    }
    let out = stored(2, 33, &[0.0; 66]).decode(CODEC);
    assert!(out.iter().all(|v| v.to_bits() == 0));
    assert_eq!(stored(1, 1, &[-0.0]).decode(CODEC)[0].to_bits(), 0x8000_0000);
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let (rows, cols) = (64, 96);
    // Two experts: the first is fed by even channels, the second by odd ones;
    // the weights of the other channels are larger.
    let mut w = gaussian(rows * cols, 3);
    for (i, w) in w.iter_mut().enumerate() {
        *w *= if i % cols % 2 == i / cols / (rows / 2) { 1.0 } else { 3.0 };
    }
    let importance = |parity: usize| (0..cols).map(|c| if c % 2 == parity { 1e30 } else { 1e24 }).collect();
    let parts: Vec<InputMoments> =
        (0..2).map(|p| InputMoments { importance: importance(p), hessian: Vec::new() }).collect();
    let parts: Vec<&InputMoments> = parts.iter().collect();
    let guide = Guide::new(&parts, rows as u64, cols as u64).unwrap();
    let source = MemoryRows::f32(rows as u64, cols as u64, w.clone());
    let guided = encode_with(CODEC, &source, &Request { guide, ..Request::default() }).unwrap();
    let plain = encode(CODEC, &source, None).unwrap();
    let error = |s: &Stored| {
        let out = s.decode(CODEC);
        let at = |i: usize| f64::from(parts[i / cols / (rows / 2)].importance[i % cols]);
        w.iter().zip(&out).enumerate().map(|(i, (w, o))| at(i) * f64::from(w - o).powi(2)).sum::<f64>()
    };
    assert!(error(&guided) < 0.9 * error(&plain), "{} {}", error(&guided), error(&plain));
    assert!((guided.stats.snr_db() - snr_db(&w, &guided.decode(CODEC))).abs() < 1e-3);
    // Where nothing matters, everything does.
    let zeros = InputMoments { importance: vec![0.0; cols], hessian: Vec::new() };
    let parts = [&zeros];
    let guide = Guide::new(&parts, rows as u64, cols as u64).unwrap();
    assert!(encode_with(CODEC, &source, &Request { guide, ..Request::default() }).unwrap() == plain);
}

/// ggml's blocks of random codes, and what the `gguf` package makes of them.
fn ggml(blocks: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let (mut native, mut values) = (Vec::new(), Vec::new());
    for noise in gaussian(blocks * BLOCK, seed).chunks(BLOCK) {
        let e = (noise[0].to_bits() % 254) as u8;
        let codes: Vec<u8> = noise[1..].iter().map(|v| (v.to_bits() >> 3) as u8).collect();
        let value = |c: u8| 2f32.powi(i32::from(e) - 128) * f32::from(DOUBLED[usize::from(c)]);
        values.extend(codes.iter().map(|b| value(b & 15)).chain(codes.iter().map(|b| value(b >> 4))));
        native.push(e);
        native.extend(codes);
    }
    (native, values)
}

#[test]
fn ggml_blocks_are_taken_over_bit_for_bit() {
    let (native, values) = ggml(12, 4);
    let rows = MemoryRows::native(6, 64, DType::MXFP4, native.clone(), values.clone());
    assert!(CODEC.imports(DType::MXFP4, rows.matrix, &EncodeOptions::NONE));
    assert!(!CODEC.imports(DType::MXFP4, Matrix { rows: 1, cols: 65 }, &EncodeOptions::NONE));
    let s = encode(CODEC, &rows, None).unwrap();
    assert_eq!(s.stats.noise.to_bits(), 0);
    for (i, (v, w)) in s.decode(CODEC).iter().zip(&values).enumerate() {
        assert_eq!(v.to_bits(), w.to_bits(), "{i}: {v:e} {w:e}");
    }
    // Requantizing values of the format is exact as well.
    let again = encode(CODEC, &MemoryRows::f32(6, 64, values), None).unwrap();
    assert_eq!((again.stats.noise.to_bits(), again.decode(CODEC)), (0, s.decode(CODEC)));

    for (scale, code) in [(255, 0), (254, 0x04), (254, 0xc0)] {
        let mut bad = native.clone();
        bad[3 * BLOCK..4 * BLOCK].fill(0);
        (bad[3 * BLOCK], bad[3 * BLOCK + 5]) = (scale, code);
        let rows = MemoryRows::native(6, 64, DType::MXFP4, bad, vec![0.0; 384]);
        let message = encode(CODEC, &rows, None).unwrap_err().to_string();
        assert!(message.contains("row 1, column 32"), "{message}");
    }
}

#[test]
fn not_finite_is_named() {
    let mut w = gaussian(100, 3);
    w[57] = f32::NAN;
    let error = encode(CODEC, &MemoryRows::f32(10, 10, w), None).unwrap_err();
    assert!(matches!(error, Error::NotFinite { index: 57, row: 5, col: 7, .. }), "{error}");
}

#[test]
fn checks_name_code_and_offset() {
    // 3 rows of 40: 32 code bytes each, 2 scales each from 256.
    let base = stored(3, 40, &gaussian(120, 4));
    let violation = |changes: &[(usize, u8)]| {
        let mut s = base.clone();
        for (at, value) in changes {
            s.data[*at] = *value;
        }
        CODEC.check(&s.view()).map_err(|v| (v.offset, v.code))
    };
    assert_eq!(violation(&[(32 + 16 + 8, 0x01)]), Err((56, "mxfp4-tail-code")));
    assert_eq!(violation(&[(32 + 16, 0x80)]), Err((48, "mxfp4-tail-code")));
    assert_eq!(violation(&[(96, 1)]), Err((96, "payload-padding")));
    assert_eq!(violation(&[(256 + 3, 255)]), Err((259, "mxfp4-scale-nan")));
    assert_eq!(violation(&[(256 + 2, 254), (32 + 15, 0xf0)]).map_err(|v| v.1), Err("mxfp4-overflow"));
    let quiet: Vec<_> = (32..48).map(|at| (at, 0xb3)).chain([(256 + 2, 254)]).collect();
    assert_eq!(violation(&quiet), Ok(()));
    let mut s = base.clone();
    s.data.push(0);
    assert_eq!(CODEC.check(&s.view()).unwrap_err().code, "payload-length");
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let rows = MemoryRows::f32(700, 777, gaussian(700 * 777, 5));
    let moments =
        InputMoments { importance: gaussian(777, 6).iter().map(|v| v * v).collect(), hessian: Vec::new() };
    let parts = [&moments];
    let guide = Guide::new(&parts, 700, 777).unwrap();
    for request in [Request::default(), Request { guide, ..Request::default() }] {
        let expected = encode_with(CODEC, &rows, &request).unwrap();
        for level in simd::Level::supported() {
            simd::force(level).unwrap();
            assert!(encode_with(CODEC, &rows, &request).unwrap() == expected, "{level}");
            let decoded = expected.decode(CODEC);
            simd::force(simd::Level::Scalar).unwrap();
            assert!(expected.decode(CODEC) == decoded, "{level}");
        }
        simd::force(simd::Level::supported().last().unwrap()).unwrap();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| encode_with(CODEC, &rows, &request).unwrap()) == expected, "{threads}");
        }
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    let rows = MemoryRows::f32(65, 777, gaussian(65 * 777, 16));
    let digest = Sha256::digest(&encode(CODEC, &rows, None).unwrap().data);
    assert_eq!(digest[..8], 0x76d8_6eb8_980a_184du64.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_round_trips(rows in 1u64..5, cols in 1u64..200, seed: u64, spread in -60i32..60) {
        let mut w = gaussian((rows * cols) as usize, seed);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= 2f32.powi((i as i32 / 37 % 3) * spread / 2);
        }
        let s = stored(rows, cols, &w);
        let decoded = s.decode(CODEC);
        // The floor rule's error is at most a quarter of the group's largest
        // (8 cut to 6), so the sum of squares is bounded by that for all 32.
        for (w, d) in w.chunks(cols as usize).zip(decoded.chunks(cols as usize)) {
            for (w, d) in w.chunks(GROUP).zip(d.chunks(GROUP)) {
                let peak = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let error: f32 = w.iter().zip(d).map(|(w, d)| (w - d) * (w - d)).sum();
                prop_assert!(error <= 32.0 * (peak / 4.0) * (peak / 4.0) * 1.001, "{error} {peak}");
            }
        }
        // Rows decode alone as they do together, and encode again to the same weights.
        let last = ((rows - 1) * cols) as usize;
        let mut alone = vec![0.0; cols as usize];
        CODEC.decode(&s.view(), rows - 1..rows, &mut alone).unwrap();
        prop_assert_eq!(&alone[..], &decoded[last..]);
        let again = stored(rows, cols, &decoded);
        prop_assert!(again.stats.noise == 0.0 && again.decode(CODEC) == decoded);
    }

    #[test]
    fn any_payload_decodes_without_panic(cols in 1u64..100, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut s = stored(2, cols, &gaussian(2 * cols as usize, 15));
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let _ = CODEC.check(&s.view());
        s.decode(CODEC);
        let x = vec![1.0; cols as usize];
        for precision in [Precision::Q8, Precision::F32] {
            CODEC.matvec(&s.view(), &Activation::new(&x, precision), 0..2, &mut [0.0; 2]);
        }
    }
}
