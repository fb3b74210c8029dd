//! Bit equality, whatever the weights, the shape and the payload's state.

use super::{NEAREST, Profile, decode_bf16, params, payload::Payload};
use crate::codec::testing::{MemoryRows, Stored, encode, encode_as, gaussian};
use crate::codec::{Activation, Codec, EncodeOptions, Precision, codec};
use crate::simd::{self, Level};
use proptest::prelude::*;
use squizd_spec::{CodecId, DType, Params, tbe};

fn the_codec() -> &'static dyn Codec {
    codec(CodecId::TCA_TBE).unwrap()
}

fn coded(profile: Profile) -> Params {
    params(super::Coding { profile: profile.wire(), palette: NEAREST })
}

const PROFILES: [Profile; 2] = [Profile::Tbe3, Profile::Tbe2];

/// A BF16 source; its `f32`s are not used.
fn source(rows: u64, cols: u64, words: &[u16]) -> MemoryRows {
    let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let values = words.iter().map(|w| f32::from_bits(u32::from(*w) << 16)).collect();
    MemoryRows::native(rows, cols, DType::BF16, bytes, values)
}

fn decoded(stored: &Stored) -> Vec<u16> {
    let mut out = vec![0x5555; stored.matrix.elements() as usize];
    decode_bf16(&stored.view(), 0..stored.matrix.rows, &mut out).unwrap();
    let floats: Vec<u16> = stored
        .decode(the_codec())
        .iter()
        .map(|v| {
            assert_eq!(v.to_bits() & 0xffff, 0);
            (v.to_bits() >> 16) as u16
        })
        .collect();
    assert_eq!(out, floats, "the two decoders part");
    out
}

/// Words of a trained tensor: normal values around 0.02.
fn weights(count: usize, seed: u64) -> Vec<u16> {
    gaussian(count, seed).iter().map(|v| ((v * 0.02).to_bits() >> 16) as u16).collect()
}

/// Uniform 16-bit words: nearly everything escapes.
fn noise(count: usize, mut state: u64) -> Vec<u16> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 48) as u16
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn all_bit_patterns_survive() {
    // In order (whole superblocks escape or none), and in two shuffles.
    for step in [1u32, 4099, 40_503] {
        let words: Vec<u16> =
            (0..=u32::from(u16::MAX)).map(|i| (i.wrapping_mul(step) & 0xffff) as u16).collect();
        for (rows, cols) in [(64, 1024), (256, 256), (1, 65_536), (65_536, 1), (32, 2048)] {
            for profile in PROFILES {
                let stored = encode_as(the_codec(), &source(rows, cols, &words), &coded(profile)).unwrap();
                assert!(decoded(&stored) == words, "{profile} {rows}x{cols}, step {step}");
                assert_eq!(stored.stats.noise.to_bits(), 0);
            }
        }
    }
}

#[test]
fn weights_cost_what_they_should() {
    let words = weights(512 * 1024, 5);
    for (profile, most) in [(Profile::Tbe3, 11.14), (Profile::Tbe2, 10.74)] {
        let options = EncodeOptions { profile: Some(profile), ..EncodeOptions::default() };
        let rows = source(512, 1024, &words);
        let params = the_codec().plan(&rows, &options.into()).unwrap();
        let stored = encode_as(the_codec(), &rows, &params).unwrap();
        let bpw = stored.data.len() as f64 * 8.0 / words.len() as f64;
        assert!(bpw < most, "{profile}: {bpw}");
        assert!(bpw > 10.5, "{profile}: {bpw} is below the entropy of the weights");
        assert!(decoded(&stored) == words);
    }
}

#[test]
fn what_does_not_shrink_stays_plain() {
    let words = noise(300 * 100, 9);
    let rows = source(300, 100, &words);
    let stored = encode(the_codec(), &rows, None).unwrap();
    assert_eq!(stored.params, Params::default());
    assert_eq!(stored.data.len(), 2 * words.len());
    assert_eq!(decoded(&stored), words);
    let mut y = [0.0; 3];
    let x = [0.0; 100];
    let zero = source(300, 100, &vec![0; 30_000]);
    let plain = encode_as(the_codec(), &zero, &Params::default()).unwrap();
    the_codec().matvec(&plain.view(), &Activation::new(&x, Precision::F32), 7..10, &mut y);
    assert!(y.iter().all(|y| *y == 0.0));
    // Too small for the planes' alignment to pay.
    assert_eq!(encode(the_codec(), &source(2, 64, &weights(128, 1)), None).unwrap().params[0], tbe::PLAIN);
}

#[test]
fn other_types_are_refused_with_a_way_out() {
    let rows = MemoryRows::f32(2, 32, vec![0.5; 64]);
    for message in [
        the_codec().plan(&rows, &EncodeOptions::NONE.into()).unwrap_err().to_string(),
        encode_as(the_codec(), &rows, &coded(Profile::Tbe3)).unwrap_err().to_string(),
    ] {
        assert!(
            message.contains("blk.0.test.weight: its source is F32") && message.contains("lossless"),
            "{message}"
        );
    }
}

#[test]
fn row_ranges_are_parts_of_the_whole() {
    for (rows, cols) in [(9, 1), (7, 31), (5, 576), (4, 1500), (3, 3000)] {
        let mut words = weights(rows * cols, 11);
        for (w, n) in words.iter_mut().zip(noise(rows * cols, 12)) {
            if n % 16 == 0 {
                *w = n;
            }
        }
        for profile in PROFILES {
            let stored =
                encode_as(the_codec(), &source(rows as u64, cols as u64, &words), &coded(profile)).unwrap();
            for start in 0..rows {
                for end in start..=rows {
                    let mut out = vec![0; (end - start) * cols];
                    decode_bf16(&stored.view(), start as u64..end as u64, &mut out).unwrap();
                    assert_eq!(out, words[start * cols..end * cols]);
                }
            }
        }
    }
}

#[test]
fn thread_counts_and_levels_give_the_same_bytes() {
    let (rows, cols) = (700, 1100);
    let mut words = weights(rows * cols, 21);
    for (w, n) in words.iter_mut().zip(noise(rows * cols, 22)) {
        if n < 2000 {
            *w = n;
        }
    }
    let best = simd::level();
    for profile in PROFILES {
        let mut seen: Option<Stored> = None;
        for level in Level::supported() {
            simd::force(level).unwrap();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let stored = pool.install(|| {
                    encode_as(the_codec(), &source(rows as u64, cols as u64, &words), &coded(profile))
                        .unwrap()
                });
                assert!(decoded(&stored) == words, "{level}");
                let first = seen.get_or_insert_with(|| stored.clone());
                assert!(*first == stored, "{profile}, {level}, {threads} threads");
            }
        }
        simd::force(best).unwrap();
    }
}

#[test]
fn large_outputs_stream_around_the_caches_unchanged() {
    let words = weights(4100 * 1056, 31);
    for profile in PROFILES {
        let stored = encode_as(the_codec(), &source(4100, 1056, &words), &coded(profile)).unwrap();
        let mut out = vec![0; words.len() + 1];
        for start in 0..2 {
            let out = &mut out[start..start + words.len()];
            decode_bf16(&stored.view(), 0..4100, out).unwrap();
            assert!(*out == words, "{profile}");
        }
    }
}

#[test]
fn matvec_is_the_dot_product_at_every_level() {
    let best = simd::level();
    for (rows, cols) in [(3, 40), (5, 576), (2, 1024), (3, 2500)] {
        let words = weights(rows * cols, 41);
        let x = gaussian(cols, 42);
        let activation = Activation::new(&x, Precision::F32);
        for profile in PROFILES {
            let stored =
                encode_as(the_codec(), &source(rows as u64, cols as u64, &words), &coded(profile)).unwrap();
            for level in Level::supported() {
                simd::force(level).unwrap();
                let mut y = vec![0.0; rows - 1];
                the_codec().matvec(&stored.view(), &activation, 1..rows as u64, &mut y);
                for (y, row) in y.iter().zip(words.chunks(cols).skip(1)) {
                    let value = |w: u16| f64::from(f32::from_bits(u32::from(w) << 16));
                    let exact: f64 = row.iter().zip(&x).map(|(w, x)| value(*w) * f64::from(*x)).sum();
                    assert!((f64::from(*y) - exact).abs() < 1e-5, "{level} {rows}x{cols}: {y} {exact}");
                }
            }
        }
    }
    simd::force(best).unwrap();
}

/// Decodes, checks and multiplies: nothing may panic, and what passes the
/// check must decode.
fn probe(stored: &Stored) -> bool {
    let mut out = vec![0; stored.matrix.elements() as usize];
    let decodes = decode_bf16(&stored.view(), 0..stored.matrix.rows, &mut out).is_ok();
    let x = vec![1.0; stored.matrix.cols as usize];
    let mut y = vec![0.0; stored.matrix.rows as usize];
    the_codec().matvec(&stored.view(), &Activation::new(&x, Precision::F32), 0..stored.matrix.rows, &mut y);
    let valid = the_codec().check(&stored.view()).is_ok();
    assert!(decodes || !valid, "a payload that passes the check does not decode");
    valid
}

/// A small payload with escapes on all levels, ragged rows and padding weights.
fn small(profile: Profile) -> (Stored, Vec<u16>) {
    let mut words = weights(3 * 1060, 51);
    for (w, n) in words.iter_mut().zip(noise(3 * 1060, 52)).step_by(40) {
        *w = n;
    }
    (encode_as(the_codec(), &source(3, 1060, &words), &coded(profile)).unwrap(), words)
}

#[test]
fn damage_at_any_byte_is_found_or_is_another_tensor() {
    for profile in PROFILES {
        let (good, words) = small(profile);
        assert!(probe(&good));
        for at in 0..good.data.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad.data[at] ^= flip;
                if probe(&bad) {
                    // Only weights' own bits may change unnoticed.
                    assert_ne!(
                        decoded(&bad),
                        words,
                        "{profile}: byte {at} has no meaning and is not checked"
                    );
                }
            }
        }
    }
}

#[test]
fn truncation_at_any_byte_is_found() {
    for profile in PROFILES {
        let (good, _) = small(profile);
        for length in (0..good.data.len()).step_by(7).chain(good.data.len() - 70..good.data.len()) {
            let mut bad = good.clone();
            bad.data.truncate(length);
            assert!(!probe(&bad), "{profile}: {length} bytes");
            bad.data.resize(good.data.len() + 64, 0);
            probe(&bad);
        }
    }
}

#[test]
fn violations_name_the_place() {
    let (good, _) = small(Profile::Tbe3);
    let geometry = CodecId::TCA_TBE.geometry(good.matrix, &good.params).unwrap();
    let [index, bases, fixed, _] = geometry.planes.map(|p| p.offset as usize);
    let (anchors, stream) = super::payload::tail_starts(&geometry, 3);
    // 1060 weights: 1024, then 36 padded to 64, eight bytes a plane; padding
    // weight 36 is bit 4 of byte 4.
    let tail = fixed + 1408;
    let base = good.data[bases + 5];
    for (at, flip, code, message) in [
        (1, 1, "tca-tbe-head", "head byte 1 is 0x02, must be 0x03"),
        (40, 1, "tca-tbe-head", "head byte 40"),
        (70, 1, "payload-padding", "0x01"),
        (index, 1, "tca-tbe-index", "row 0, superblock 0: its part of the side stream begins at 1"),
        (index + 5, 0x40, "tca-tbe-index", "row 1, superblock 0: its part"),
        (anchors as usize, 2, "tca-tbe-anchor", "anchor is 2, must be 0"),
        (anchors as usize + 4, 2, "payload-padding", "0x02"),
        (bases + 5, base ^ 0xfa, "tca-tbe-base", "row 2, superblock 1: base exponent is 250, at most 249"),
        (tail + 4, 0x10, "tca-tbe-tail", "padding weight 36 must have code 1, its bit of plane 0 is 0"),
        (tail + 24 + 36, 2, "tca-tbe-tail", "padding weight 36 has sign/mantissa byte 0x02"),
        (good.data.len() - 1, 1, "payload-padding", "0x01"),
    ] {
        let mut bad = good.clone();
        bad.data[at] ^= flip;
        let found = the_codec().check(&bad.view()).unwrap_err();
        assert_eq!(found.code, code, "{at}: {found:?}");
        assert!(found.message.contains(message), "{at}: {found:?}");
    }
    // A weight of the first superblock becomes one more escape: its nibbles
    // then reach into the next part, or end in a bit that is not theirs.
    let mut bad = good.clone();
    let coded = |i: &usize| (0..3).any(|plane| good.data[fixed + 128 * plane + i] & 1 == 1);
    let byte = (0..128).find(coded).unwrap();
    for plane in 0..3 {
        bad.data[fixed + 128 * plane + byte] &= !1;
    }
    let found = the_codec().check(&bad.view()).unwrap_err();
    assert!(found.message.contains("superblock 1: its part") || found.code == "tca-tbe-stream", "{found:?}");
    // A last superblock that begins behind the stream.
    let mut bad = good.clone();
    bad.data[index + 10..index + 12].copy_from_slice(&0x7fff_u16.to_le_bytes());
    let error = decode_bf16(&bad.view(), 0..3, &mut vec![0; 3 * 1060]).unwrap_err().to_string();
    assert!(error.contains("row 2, superblock 1"), "{error}");
    assert!(stream < good.data.len() as u64);
}

#[test]
fn unused_bits_of_the_side_stream_must_be_zero() {
    // Seven weights escape.
    let mut words = vec![0x3f80; 1024];
    for (i, w) in words.iter_mut().step_by(100).take(7).enumerate() {
        *w = 0x3f80 - (7 << 7) - ((i as u16) << 7);
    }
    for profile in PROFILES {
        let good = encode_as(the_codec(), &source(1, 1024, &words), &coded(profile)).unwrap();
        let payload = Payload::parse(&good.view()).unwrap();
        // Both use 28 bits: seven nibbles, or seven codes on each of two
        // levels, which seven bytes follow.
        assert_eq!(payload.stream.len(), if profile == Profile::Tbe3 { 4 } else { 11 });
        let geometry = CodecId::TCA_TBE.geometry(good.matrix, &good.params).unwrap();
        let at = super::payload::tail_starts(&geometry, 1).1 + 3;
        let mut bad = good.clone();
        bad.data[at as usize] |= 0x10;
        let found = the_codec().check(&bad.view()).unwrap_err();
        assert_eq!((found.code, found.offset), ("tca-tbe-stream", at));
    }
}

#[test]
fn escapes_too_far_for_nibbles_are_bytes() {
    let mut words = vec![0x3f80; 2048];
    // Exponents 127 make the window 121 to 127; nibbles reach from 109 to 131.
    (words[5], words[9], words[1500]) = (0x3f80 - (9 << 7), 0x3f80 + (4 << 7), 0x7f80);
    let stored = encode_as(the_codec(), &source(2, 1024, &words), &coded(Profile::Tbe3)).unwrap();
    let payload = Payload::parse(&stored.view()).unwrap();
    assert!(payload.start(0).unwrap().1);
    assert_eq!(payload.start(1).unwrap(), (1, false));
    assert_eq!(payload.stream.len(), 2);
    assert_eq!(decoded(&stored), words);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_weights_of_any_shape_return(
        rows in 1u64..6, cols in 1u64..2200, seed: u64, escapes in 0u16..=u16::MAX,
    ) {
        let count = (rows * cols) as usize;
        let mut words = weights(count, seed);
        for ((w, n), pick) in words.iter_mut().zip(noise(count, seed)).zip(noise(count, !seed)) {
            if pick < escapes {
                *w = n;
            }
        }
        for profile in PROFILES {
            let stored = encode_as(the_codec(), &source(rows, cols, &words), &coded(profile)).unwrap();
            prop_assert_eq!(decoded(&stored), words.clone());
        }
        let planned = encode(the_codec(), &source(rows, cols, &words), None).unwrap();
        prop_assert_eq!(decoded(&planned), words);
    }

    #[test]
    fn any_payload_is_harmless(
        rows in 1u64..3, cols in 1u64..1200, seed: u64, profile in 0usize..2, head: bool,
    ) {
        let params = coded(PROFILES[profile]);
        let words = weights((rows * cols) as usize, seed);
        let mut stored = encode_as(the_codec(), &source(rows, cols, &words), &params).unwrap();
        let from = if head { 0 } else { 256 };
        for (b, n) in stored.data.iter_mut().skip(from).zip(noise(1 << 16, seed)) {
            *b = n as u8;
        }
        probe(&stored);
    }
}
