//! Quality and stored form of whole tensors.

use super::super::testing::{MemoryRows, Stored, encode, encode_as, encode_with, gaussian, golden, snr_db};
use super::super::{Guide, InputMoments};
use super::block::Block;
use super::*;
use crate::simd;
use proptest::prelude::*;

fn rows(m: usize, n: usize, values: &[f32]) -> MemoryRows {
    MemoryRows::f32(m as u64, n as u64, values.to_vec())
}

fn with_quality(m: usize, n: usize, values: &[f32], quality: Quality) -> Stored {
    let options = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE };
    encode_with(CODEC, &rows(m, n, values), &options.into()).unwrap()
}

#[test]
fn gaussian_quality_by_preset() {
    let w = gaussian(120 * 480, 5);
    for (quality, floor) in [(Quality::Fast, 13.2), (Quality::Default, 14.85), (Quality::Max, 14.95)] {
        let s = with_quality(120, 480, &w, quality);
        let measured = snr_db(&w, &s.decode(CODEC));
        assert!(measured > floor, "{quality:?}: {measured}");
        assert!((measured - s.stats.snr_db()).abs() < 1e-3);
        assert_eq!(s.params[1], astc::ROW);
    }
}

#[test]
fn any_magnitude() {
    let base = gaussian(12 * 96, 1);
    for exponent in [-120, -100, -60, -14, 0, 15, 60, 100, 120] {
        let w: Vec<f32> = base.iter().map(|v| v * 2f32.powi(exponent)).collect();
        let s = encode(CODEC, &rows(12, 96, &w), None).unwrap();
        let shifted: Vec<f32> = s.decode(CODEC).iter().map(|v| v * 2f32.powi(-exponent)).collect();
        let measured = snr_db(&base, &shifted);
        assert!(measured > 14.0, "2^{exponent}: {measured}");
    }
}

#[test]
fn loud_columns_get_scales_of_their_own() {
    let (m, n) = (240, 96);
    let mut w = gaussian(m * n, 2);
    for (i, w) in w.iter_mut().enumerate() {
        *w *= match i % n {
            7 => 0.0,
            x if x % 7 == 3 => 30.0,
            x if x % 7 == 5 => 0.02,
            _ => 1.0,
        };
    }
    let s = encode(CODEC, &rows(m, n, &w), None).unwrap();
    assert_eq!(s.params[1], astc::RANK_1);
    let plain = encode_as(CODEC, &rows(m, n, &w), &params(astc::ROW, s.params[2].cast_signed())).unwrap();
    let [with, without] = [&s, &plain].map(|s| snr_db(&w, &s.decode(CODEC)));
    assert!(with > 14.5 && with > without + 1.0, "{with} {without}");
}

#[test]
fn zeros_stay_zeros() {
    let (m, n) = (150, 40);
    let mut w = gaussian(m * n, 3);
    for (i, w) in w.iter_mut().enumerate() {
        let (y, x) = (i / n, i % n);
        if y == 17 || x == 5 || (60..72).contains(&y) && (12..24).contains(&x) {
            *w = 0.0;
        }
    }
    let rank_1 = encode_as(CODEC, &rows(m, n, &w), &params(astc::RANK_1, -2)).unwrap().decode(CODEC);
    for (i, v) in rank_1.iter().enumerate() {
        let (y, x) = (i / n, i % n);
        if y == 17 || x == 5 || (60..72).contains(&y) && (12..24).contains(&x) {
            assert_eq!(v.abs().to_bits(), 0, "{y} {x}");
        }
    }
    let all = encode(CODEC, &rows(m, n, &vec![0.0; m * n]), None).unwrap();
    assert!(all.stats.noise == 0.0 && all.decode(CODEC).iter().all(|v| *v == 0.0));
}

#[test]
fn outliers_in_a_row_are_not_clipped_away() {
    let (m, n) = (24, 600);
    let mut w = gaussian(m * n, 4);
    for i in 0..20 {
        w[i * 707] *= 25.0;
    }
    let measured = snr_db(&w, &encode(CODEC, &rows(m, n, &w), None).unwrap().decode(CODEC));
    // 46% of the energy lies in the outliers, one in 720 weights.
    assert!(measured > 11.5, "{measured}");
}

#[test]
fn importance_buys_precision() {
    let (m, n) = (60, 96);
    let w = gaussian(m * n, 6);
    let importance: Vec<f32> = (0..n).map(|j| if j % 6 == 2 { 1e20 } else { 1e18 }).collect();
    let moments = InputMoments { importance: importance.clone(), hessian: Vec::new() };
    let parts = [&moments];
    let guide = Guide::new(&parts, m as u64, n as u64).unwrap();
    let request = Request { options: EncodeOptions::NONE, guide };
    let guided = encode_with(CODEC, &rows(m, n, &w), &request).unwrap().decode(CODEC);
    let plain = encode(CODEC, &rows(m, n, &w), None).unwrap().decode(CODEC);
    let weighted = |v: &[f32]| -> f64 {
        w.iter()
            .zip(v)
            .enumerate()
            .map(|(i, (w, v))| f64::from(w - v).powi(2) * f64::from(importance[i % n]))
            .sum()
    };
    assert!(weighted(&guided) < 0.6 * weighted(&plain), "{} {}", weighted(&guided), weighted(&plain));
    // Nothing matters: as if nothing were known.
    let moments = InputMoments { importance: vec![0.0; n], hessian: Vec::new() };
    let parts = [&moments];
    let guide = Guide::new(&parts, m as u64, n as u64).unwrap();
    let request = Request { options: EncodeOptions::NONE, guide };
    assert_eq!(encode_with(CODEC, &rows(m, n, &w), &request).unwrap().decode(CODEC), plain);
}

#[test]
fn experts_that_do_not_end_with_a_strip_keep_their_own_importance() {
    let (m, n) = (16, 36);
    let w = gaussian(m * n, 7);
    let part = |loud: usize| InputMoments {
        importance: (0..n).map(|j| if j % 2 == loud { 1.0 } else { 1e-4 }).collect(),
        hessian: Vec::new(),
    };
    let (a, b) = (part(0), part(1));
    let parts = [&a, &b];
    let guide = Guide::new(&parts, m as u64, n as u64).unwrap();
    let request = Request { options: EncodeOptions::NONE, guide };
    let decoded = encode_with(CODEC, &rows(m, n, &w), &request).unwrap().decode(CODEC);
    for (rows, loud) in [(0..8, 0), (8..16, 1)] {
        let noise = |parity: usize| -> f64 {
            rows.clone()
                .flat_map(|y| (0..n).map(move |x| (y, x)))
                .filter(|(_, x)| x % 2 == parity)
                .map(|(y, x)| f64::from(w[y * n + x] - decoded[y * n + x]).powi(2))
                .sum()
        };
        assert!(2.0 * noise(loud) < noise(1 - loud), "{loud}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_instruction_set() {
    let (m, n) = (150, 230);
    let w = gaussian(m * n, 8);
    let rows = rows(m, n, &w);
    for quality in [Quality::Fast, Quality::Default, Quality::Max] {
        let options = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE };
        let mut first: Option<Stored> = None;
        for level in simd::Level::supported() {
            simd::force(level).unwrap();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                // Rank-1, whose statistics are summed over the rows.
                let params = params(astc::RANK_1, -2);
                let request = options.into();
                let stored = pool
                    .install(|| super::super::testing::encode_guided(CODEC, &rows, &params, &request))
                    .unwrap();
                assert!(
                    first.get_or_insert_with(|| stored.clone()) == &stored,
                    "{quality:?} {level} {threads}"
                );
            }
        }
        simd::force(simd::Level::supported().last().unwrap()).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut w = gaussian(600 * 30, 9);
    w[17 * 30 + 4] = f32::NAN;
    let message = encode(CODEC, &rows(600, 30, &w), None).unwrap_err().to_string();
    assert!(message.contains("row 17, column 4"), "{message}");
    w[17 * 30 + 4] = 1e30;
    let message = encode_as(CODEC, &rows(600, 30, &w), &params(0, -2)).unwrap_err().to_string();
    assert!(message.contains("row 17 holds weights up to 1000000"), "{message}");
}

#[test]
fn textures_begin_where_their_offsets_say() {
    let (m, n) = (13, 16_390);
    let w = gaussian(m * n, 10);
    let s = with_quality(m, n, &w, Quality::Fast);
    let textures: Vec<_> = astc::textures(s.matrix).collect();
    assert_eq!(textures.len(), 2);
    let decoded = s.decode(CODEC);
    let stored: [u8; 16] = s.data[textures[1].offset(s.matrix) as usize..][..16].try_into().unwrap();
    let values = Block::unpack(&stored).unwrap().texels().map(strip::value);
    let r = f16_to_f32(u16::from_le_bytes(
        s.data[(3 * 2732 * 16usize).next_multiple_of(256)..][..2].try_into().unwrap(),
    ));
    for x in 0..6 {
        let expected = r * exp2i(exponent(&s.params)) * values[x];
        assert_eq!(decoded[16_380 + x].to_bits(), expected.to_bits());
    }
}

/// The first violation after `change` to a valid payload of 7 rows of 13.
fn violation(mode: u8, change: impl Fn(&mut Vec<u8>)) -> (u64, &'static str) {
    let rows = rows(7, 13, &gaussian(91, 11));
    let mut s = encode_as(CODEC, &rows, &params(mode, -2)).unwrap();
    change(&mut s.data);
    let v = CODEC.check(&s.view()).unwrap_err();
    // Decoding gives zeros or whatever the block says, never a panic.
    s.data.resize(CODEC.id().geometry(s.matrix, &s.params).unwrap().length.max() as usize, 0);
    s.decode(CODEC);
    (v.offset, v.code)
}

#[test]
fn checks_name_code_and_offset() {
    // Blocks 6 * 16 bytes, row scales from 256, column scales from 512.
    let put = |d: &mut Vec<u8>, at: usize, bytes: &[u8]| d[at..at + bytes.len()].copy_from_slice(bytes);
    assert_eq!(violation(1, |d| put(d, 32, &[0; 16])), (32, "astc-block"));
    // An endpoint mode other than luminance, in one and in two partitions.
    assert_eq!(violation(1, |d| put(d, 16, &[0x18, 0x21])), (16, "astc-block"));
    assert_eq!(violation(1, |d| put(d, 16, &[0x18, 0x09, 0x80, 0x1f])), (16, "astc-block"));
    // Six levels in two partitions.
    assert_eq!(violation(1, |d| put(d, 16, &[0x0c, 0x09, 0, 0])), (16, "astc-block"));
    let two_levels = [vec![0x04, 0x01], vec![0; 14]].concat();
    assert_eq!(violation(1, |d| put(d, 0, &[&two_levels[..5], &[1]].concat())), (0, "astc-spare-bits"));
    let grey = Block::Constant(7).pack();
    assert_eq!(violation(0, |d| put(d, 80, &[&grey[..8], &[9][..]].concat())), (80, "astc-constant"));
    assert_eq!(violation(0, |d| put(d, 80, &[grey[0], grey[1] | 2])), (80, "astc-constant"));
    assert_eq!(violation(0, |d| put(d, 80, &[grey[0], grey[1], 0])), (80, "astc-constant"));
    assert_eq!(violation(0, |d| d[96] = 1), (96, "payload-padding"));
    assert_eq!(violation(1, |d| d[256 + 14] = 1), (256 + 14, "payload-padding"));
    assert_eq!(violation(0, |d| d[256 + 3] = 0x7c), (256 + 2, "astc-scale"));
    assert_eq!(violation(1, |d| d[512 + 25] = 0x80), (512 + 24, "astc-scale"));
    assert_eq!(violation(1, |d| d.truncate(537)), (0, "payload-length"));
}

#[test]
fn blocks_that_are_not_allowed_decode_to_zeros() {
    let mut s = encode(CODEC, &rows(6, 12, &gaussian(72, 12)), None).unwrap();
    s.data[..16].fill(0xff);
    let decoded = s.decode(CODEC);
    for row in decoded.chunks(12) {
        assert!(row[..6].iter().all(|v| *v == 0.0) && row[6..].iter().any(|v| *v != 0.0));
    }
}

#[test]
fn golden_payloads_decode_to_their_weights() {
    let files = [
        (
            &include_bytes!("../../../../fixtures/golden/v1/astc-rank1.bin")[..],
            include_str!("../../../../fixtures/golden/v1/astc-rank1.json"),
        ),
        (
            &include_bytes!("../../../../fixtures/golden/v1/astc-row.bin")[..],
            include_str!("../../../../fixtures/golden/v1/astc-row.json"),
        ),
    ];
    for (payload, about) in files {
        let (matrix, params, bytes) = golden(about, "f32");
        let stored = Encoded { name: "golden", matrix, params: &params, data: payload };
        assert_eq!(CODEC.check(&stored), Ok(()));
        let mut out = vec![f32::NAN; bytes.len() / 4];
        CODEC.decode(&stored, 0..matrix.rows, &mut out).unwrap();
        for (i, (o, v)) in out.iter().zip(bytes.as_chunks().0).enumerate() {
            assert_eq!(o.to_bits(), u32::from_le_bytes(*v), "weight {i}: {o:e} {:e}", f32::from_le_bytes(*v));
        }
    }
}

/// Blocks of every mode with what ARM's astcenc decodes them to: 16 bytes, then
/// 36 f16 ([`oracle`] writes and checks it).
#[test]
fn blocks_decode_as_in_astcenc() {
    let fixture = include_bytes!("../../../../fixtures/astc/astcenc.bin");
    let mut blocks = 0;
    for record in fixture.as_chunks::<88>().0 {
        let (stored, texels) = record.split_first_chunk().unwrap();
        let block = Block::unpack(stored).unwrap();
        for (texel, f16) in block.texels().into_iter().zip(texels.as_chunks().0) {
            let expected = f16_to_f32(u16::from_le_bytes(*f16));
            assert_eq!((texel as f32 / 65536.0).to_bits(), expected.to_bits(), "{block:?}");
        }
        blocks += 1;
    }
    assert!(blocks >= 300);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_round_trips(m in 1usize..20, n in 1usize..80, rank_1: bool, fast: bool, seed: u64, spread in 0i32..20) {
        let mut w = gaussian(m * n, seed);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= 2f32.powi((i as i32 % 5 - i as i32 / n as i32 % 3) * spread / 4);
        }
        let quality = if fast { Quality::Fast } else { Quality::Default };
        let options = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE };
        let rows = rows(m, n, &w);
        let mut params = CODEC.plan(&rows, &options.into()).unwrap();
        params[1] = u8::from(rank_1);
        let s = super::super::testing::encode_guided(CODEC, &rows, &params, &options.into()).unwrap();
        let decoded = s.decode(CODEC);
        // Row scales are refitted, so that no row is worse than zeros.
        for (w, v) in w.chunks(n).zip(decoded.chunks(n)) {
            prop_assert!(snr_db(w, v) > -0.001, "{w:?} {v:?}");
        }
        let noise: f64 = w.iter().zip(&decoded).map(|(w, v)| (f64::from(*w) - f64::from(*v)).powi(2)).sum();
        prop_assert!((s.stats.noise - noise).abs() <= 1e-4 * s.stats.signal);
        for start in 0..m {
            let mut part = vec![0.0; (m - start).min(8) * n];
            CODEC.decode(&s.view(), start as u64..(start + part.len() / n) as u64, &mut part).unwrap();
            prop_assert_eq!(&part[..], &decoded[start * n..start * n + part.len()]);
        }
    }

    #[test]
    fn any_payload_decodes_without_panic(n in 1usize..40, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut s = encode(CODEC, &rows(7, n, &gaussian(7 * n, 13)), None).unwrap();
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let _ = CODEC.check(&s.view());
        s.decode(CODEC);
        let x = vec![1.0; n];
        CODEC.matvec(&s.view(), &Activation::new(&x, crate::codec::Precision::F32), 0..7, &mut [0.0; 7]);
    }
}
