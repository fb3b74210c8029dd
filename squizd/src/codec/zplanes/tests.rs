//! The ZPLANES codec: exactness, sizes, determinism, checks, hostile bytes.

use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode, encode_with, gaussian};
use crate::codec::{Precision, half_float::f32_to_bf16};
use crate::simd;
use proptest::prelude::*;

const TYPES: [(DType, CodecId, usize); 4] = [
    (DType::F32, CodecId::RAW_F32, 4),
    (DType::F16, CodecId::RAW_F16, 2),
    (DType::BF16, CodecId::RAW_BF16, 2),
    (DType::I8, CodecId::RAW_I8, 1),
];

/// Values that the type holds exactly, and their bytes.
fn numbers(dtype: DType, count: usize, seed: u64) -> (Vec<f32>, Vec<u8>) {
    let element = Element::of(dtype).unwrap();
    let scale = if dtype == DType::I8 { 20.0 } else { 0.02 };
    let values: Vec<f32> = gaussian(count, seed).iter().map(|v| (v * scale).clamp(-128.0, 127.0)).collect();
    let mut bytes = Vec::new();
    element.store(&values, &mut bytes);
    let mut exact = vec![0.0; count];
    let matrix = Matrix { rows: 1, cols: count as u64 };
    let stored = Encoded { name: "numbers", matrix, params: RAW_PARAMS, data: &bytes };
    codec(element.raw).unwrap().decode(&stored, 0..1, &mut exact).unwrap();
    (exact, bytes)
}

/// A stored tensor and its plain bytes.
fn stored(dtype: DType, rows: u64, cols: u64, seed: u64) -> (Stored, Vec<u8>) {
    let (values, bytes) = numbers(dtype, (rows * cols) as usize, seed);
    let source = MemoryRows::native(rows, cols, dtype, bytes.clone(), values);
    (encode(CODEC, &source, None).unwrap(), bytes)
}

fn unpacked(s: &Stored) -> (CodecId, Vec<u8>) {
    let view = s.view();
    let (raw, bytes) = CODEC.unpack(&view).unwrap().unwrap();
    (raw, bytes.into_owned())
}

#[test]
fn every_type_and_chunk_comes_back_bit_for_bit() {
    for (dtype, raw, size) in TYPES {
        for (rows, cols) in [(1, 4000), (3, 1000), (700, 1000), (2, 300_000), (5000, 64)] {
            let (s, bytes) = stored(dtype, rows, cols, 3);
            assert_eq!(s.params[..2], [zp::CODED, raw.0 as u8]);
            assert!(s.data.len() < bytes.len() && s.stats.noise == 0.0, "{dtype} {rows}x{cols}");
            assert!(unpacked(&s) == (raw, bytes.clone()), "{dtype} {rows}x{cols}");
            // Parts of the rows, across the ends of chunks.
            for range in [0..rows, rows / 3..rows, rows - 1..rows, rows / 2..rows / 2] {
                let width = (range.end - range.start) as usize;
                let mut out = vec![f32::NAN; width * cols as usize];
                CODEC.decode(&s.view(), range.clone(), &mut out).unwrap();
                let plain = plain(&s.view(), rows, &bytes).data.to_vec();
                let mut expected = vec![0.0; out.len()];
                let view = Encoded { params: RAW_PARAMS, data: &plain, ..s.view() };
                codec(raw).unwrap().decode(&view, range, &mut expected).unwrap();
                assert!(out == expected, "{dtype} {rows}x{cols}");
            }
            assert_eq!(bytes.len(), (rows * cols) as usize * size);
        }
    }
}

#[test]
fn every_bit_pattern_comes_back() {
    let all: Vec<u8> =
        (0..=u16::MAX).chain(std::iter::repeat_n(0, 1 << 16)).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::F16, DType::BF16] {
        let rows = MemoryRows::native(256, 512, dtype, all.clone(), vec![0.0; 1 << 17]);
        let s = encode(CODEC, &rows, None).unwrap();
        assert!(s.params[0] == zp::CODED && unpacked(&s).1 == all, "{dtype}");
    }
    let odd = [0x7fc1_2345u32, 0xff80_0001, 0x8000_0000, 1, 0x7f80_0000, 0x3f80_0000];
    let bytes: Vec<u8> = odd.iter().cycle().take(6000).flat_map(|b| b.to_le_bytes()).collect();
    let s = encode(CODEC, &MemoryRows::native(6, 1000, DType::F32, bytes.clone(), vec![0.0; 6000]), None)
        .unwrap();
    assert!(unpacked(&s).1 == bytes);
}

#[test]
fn values_without_source_bytes_are_kept_too() {
    for (dtype, raw, _) in TYPES {
        let (values, bytes) = numbers(dtype, 300, 8);
        let rows = MemoryRows { dtype, ..MemoryRows::f32(3, 100, values) };
        assert!(unpacked(&encode(CODEC, &rows, None).unwrap()) == (raw, bytes), "{dtype}");
    }
}

/// Bits per symbol of the distribution of `symbols`.
fn entropy(symbols: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0.0f64; 256];
    symbols.for_each(|s| counts[usize::from(s)] += 1.0);
    let n: f64 = counts.iter().sum();
    counts.iter().filter(|c| **c > 0.0).map(|c| -c / n * (c / n).log2()).sum()
}

#[test]
fn bfloat16_needs_its_exponents_entropy_and_eight_bits() {
    let (s, bytes) = stored(DType::BF16, 1024, 1024, 5);
    let bits = s.data.len() as f64 * 8.0 / (1 << 20) as f64;
    let exponents = bytes.as_chunks::<2>().0.iter().map(|b| (u16::from_le_bytes(*b) >> 7) as u8);
    let bound = entropy(exponents) + 8.0;
    assert!(bits < bound + 0.01, "{bits} {bound}");
    // Widened to F32, the zeros cost next to nothing.
    let wide: Vec<u8> = bytes.as_chunks::<2>().0.iter().flat_map(|b| [0, 0, b[0], b[1]]).collect();
    let s =
        encode(CODEC, &MemoryRows::native(1024, 1024, DType::F32, wide, vec![1.0; 1 << 20]), None).unwrap();
    let wide_bits = s.data.len() as f64 * 8.0 / (1 << 20) as f64;
    assert!(wide_bits < bound + 0.02, "{wide_bits} {bound}");
}

#[test]
fn what_does_not_shrink_stays_plain() {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..40_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    for (dtype, raw, size) in TYPES {
        let mut values = vec![0.0; 40_000 / size];
        let view = Encoded {
            name: "noise",
            matrix: Matrix { rows: 10, cols: 4000 / size as u64 },
            params: RAW_PARAMS,
            data: &noise,
        };
        codec(raw).unwrap().decode(&view, 0..10, &mut values).unwrap();
        let rows = MemoryRows::native(10, 4000 / size as u64, dtype, noise.clone(), values);
        let s = encode(CODEC, &rows, None).unwrap();
        assert_eq!((s.params[0], &s.data), (zp::PLAIN, &noise), "{dtype}");
        assert!(unpacked(&s) == (raw, noise.clone()));
        let x = vec![0.5; 4000 / size];
        let (mut ours, mut theirs) = ([0.0; 10], [0.0; 10]);
        let x = Activation::new(&x, Precision::F32);
        CODEC.matvec(&s.view(), &x, 0..10, &mut ours);
        codec(raw).unwrap().matvec(&view, &x, 0..10, &mut theirs);
        assert_eq!(ours.map(f32::to_bits), theirs.map(f32::to_bits), "{dtype}");
    }
}

#[test]
fn levels_are_taken_and_checked() {
    let (values, bytes) = numbers(DType::F32, 20_000, 9);
    // Rows that repeat: zstd finds them at any level.
    let repeated: Vec<u8> = bytes[..16_000].repeat(5);
    let rows = MemoryRows::native(20, 1000, DType::F32, repeated.clone(), values[..4000].repeat(5));
    let with = |level| {
        let options = EncodeOptions { level: Some(level), ..EncodeOptions::NONE };
        encode_with(CODEC, &rows, &options.into())
    };
    for level in [1, 3, 19, 22] {
        let s = with(level).unwrap();
        assert!(s.data.len() * 3 < repeated.len() && unpacked(&s).1 == repeated, "{level}");
    }
    for level in [0, 23] {
        let message = with(level).unwrap_err().to_string();
        assert!(message.contains(&format!("level is {level}, allowed 1 to 22")), "{message}");
    }
    assert!(CODEC.accepts_dtype(DType::Q4_K).unwrap_err().contains("source is Q4_K"));
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let (values, bytes) = numbers(DType::BF16, 1200 * 1000, 11);
    let rows = MemoryRows::native(1200, 1000, DType::BF16, bytes, values);
    let expected = encode(CODEC, &rows, None).unwrap();
    for level in simd::Level::supported() {
        simd::force(level).unwrap();
        assert!(encode(CODEC, &rows, None).unwrap() == expected, "{level}");
    }
    simd::force(simd::Level::supported().last().unwrap()).unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| encode(CODEC, &rows, None).unwrap()) == expected, "{threads}");
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    use sha2::{Digest, Sha256};
    let values: Vec<f32> =
        gaussian(65 * 777, 16).iter().map(|v| f32::from_bits(u32::from(f32_to_bf16(*v)) << 16)).collect();
    let rows = MemoryRows { dtype: DType::BF16, ..MemoryRows::f32(65, 777, values) };
    let digest = Sha256::digest(&encode(CODEC, &rows, None).unwrap().data);
    assert_eq!(digest[..8], 0x8995_ce72_d291_9b6bu64.to_be_bytes());
}

#[test]
fn checks_name_code_and_offset() {
    // Two planes: the exponents entropy-coded from 64 on, then 3000 plain bytes.
    let (base, _) = stored(DType::BF16, 3, 1000, 4);
    let first = base.data.len() - 3000;
    assert_eq!((base.data[7], base.data[15]), (2, 0));
    let violation = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut s = base.clone();
        change(&mut s.data);
        CODEC.check(&s.view()).map_err(|v| (v.offset, v.code))
    };
    assert_eq!(violation(&|_| ()), Ok(()));
    assert_eq!(violation(&|d| d[7] = 3), Err((0, "zplanes-index")));
    assert_eq!(violation(&|d| d[15] = 9), Err((8, "zplanes-index")));
    assert_eq!(violation(&|d| d[8] ^= 1), Err((8, "zplanes-index")));
    assert_eq!(violation(&|d| d[0..7].fill(0)), Err((0, "zplanes-index")));
    assert_eq!(violation(&|d| d[6] = 1), Err((0, "zplanes-index")));
    assert_eq!(violation(&|d| d[20] = 1), Err((20, "payload-padding")));
    // A symbol fewer in the set, and another end of the words.
    assert_eq!(
        violation(&|d| d[64 + 15] ^= d[64 + 15] & d[64 + 15].wrapping_neg()),
        Err((64, "zplanes-piece"))
    );
    assert_eq!(violation(&|d| d[first - 1] ^= 1).map_err(|v| v.1), Err("zplanes-piece"));
    // Plain bytes that claim to be something else.
    assert_eq!(violation(&|d| d[15] = 1), Err((first as u64, "zplanes-piece")));
    assert_eq!(violation(&|d| d[15] = 2), Err((first as u64, "zplanes-piece")));
    assert_eq!(violation(&|d| d.truncate(60)), Err((0, "payload-length")));
}

#[test]
fn frames_of_other_forms_are_refused() {
    use zstd::bulk::Compressor;
    let plane = vec![7u8; 3000];
    let frame = zstd::bulk::compress(&plane, 3).unwrap();
    let verdict = |piece: &[u8]| {
        let mut out = vec![0; 3000];
        pieces::check(pieces::Method::Zstd, piece, 3000)
            .and_then(|()| pieces::decode(pieces::Method::Zstd, piece, &mut out))
    };
    assert_eq!(verdict(&frame), Ok(()));
    let refused = |piece: &[u8], why: &str| {
        let message = verdict(piece).unwrap_err();
        assert!(message.contains(why), "{message}");
    };
    refused(&[&frame[..], &frame].concat(), "bytes follow");
    refused(&[&frame[..], &[0]].concat(), "bytes follow");
    refused(&zstd::bulk::compress(&plane[..2999], 3).unwrap(), "does not state its 3000 bytes");
    let mut checked = Compressor::new(3).unwrap();
    checked.include_checksum(true).unwrap();
    refused(&checked.compress(&plane).unwrap(), "has a checksum");
    let mut unsized_frame = Compressor::new(3).unwrap();
    unsized_frame.include_contentsize(false).unwrap();
    refused(&unsized_frame.compress(&plane).unwrap(), "does not state");
    refused(&plane, "fewer than the 3000 plain ones");
    refused(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], "reserved bit");
    for length in 0..frame.len() {
        assert!(verdict(&frame[..length]).is_err());
    }
}

#[test]
fn bombs_are_refused_before_memory_is_taken() {
    // 2^44 weights in two bytes a chunk and plane: the smallest payload.
    let matrix = Matrix { rows: 1 << 14, cols: 1 << 30 };
    let params = params(zp::CODED, Element::of(DType::F32).unwrap());
    let shape = squizd_spec::ZplanesShape::of(matrix, 4).unwrap();
    let mut data = Vec::new();
    for i in 1..=shape.chunks * 4 {
        data.extend((shape.data + i).to_le_bytes());
    }
    data.resize((shape.data + shape.chunks * 4) as usize, 0);
    let bomb = Encoded { name: "bomb", matrix, params: &params, data: &data };
    let message = CODEC.unpack(&bomb).unwrap_err().to_string();
    assert!(message.contains("would unpack to 70368744177664"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_numbers_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..3000), kind in 0usize..4, mask: u8, cols in 1u64..200) {
        let (dtype, raw, size) = TYPES[kind];
        let row = cols as usize * size;
        let rows = (bytes.len() / row) as u64;
        let bytes: Vec<u8> = bytes[..rows as usize * row].iter().map(|b| b & mask).collect();
        let source = MemoryRows::native(rows.max(1), cols, dtype, if rows == 0 { vec![0; row] } else { bytes.clone() }, vec![0.0; (rows.max(1) * cols) as usize]);
        let params = params(zp::CODED, Element::of(dtype).unwrap());
        let s = crate::codec::testing::encode_as(CODEC, &source, &params).unwrap();
        prop_assert_eq!(unpacked(&s), (raw, if rows == 0 { vec![0; row] } else { bytes }));
    }

    #[test]
    fn any_payload_decodes_without_panic(kind in 0usize..4, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let (mut s, _) = stored(TYPES[kind].0, 2, 300, 15);
        for (at, value) in flips {
            let at = at.index(s.data.len());
            s.data[at] = value;
        }
        let mut out = vec![0.0; 600];
        let decoded = CODEC.decode(&s.view(), 0..2, &mut out);
        prop_assert!(CODEC.check(&s.view()).is_err() || decoded.is_ok());
        prop_assert_eq!(CODEC.unpack(&s.view()).is_ok(), decoded.is_ok());
        CODEC.matvec(&s.view(), &Activation::new(&[1.0; 300], Precision::F32), 0..2, &mut [0.0; 2]);
    }
}
