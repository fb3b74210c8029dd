//! What holds for every codec.

use super::testing::{MemoryRows, encode, gaussian};
use super::{Activation, CODECS, Codec, Precision, codec};
use squizd_spec::{CodecId, DType};

#[test]
fn every_id_has_exactly_one_codec_in_wire_order() {
    let ids: Vec<_> = CODECS.iter().map(|c| c.id()).collect();
    assert_eq!(ids, CodecId::ALL);
}

#[test]
fn raw_passes_bits_through() {
    let odd = [0x7fc1_2345u32, 0xff80_0001, 0x8000_0000, 1, 0x7f80_0000, 0x3f80_0000];
    let bits: Vec<f32> = odd.iter().map(|b| f32::from_bits(*b)).collect();
    let bytes: Vec<u8> = odd.iter().flat_map(|b| b.to_le_bytes()).collect();
    let rows = MemoryRows::native(2, 3, DType::F32, bytes.clone(), bits);
    let stored = encode(codec(CodecId::RAW_F32).unwrap(), &rows, None).unwrap();
    assert_eq!(stored.data, bytes);
    assert_eq!(stored.stats.noise.to_bits(), 0);
    let out = stored.decode(codec(CodecId::RAW_F32).unwrap());
    assert_eq!(out.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), odd);
    for (id, dtype) in [(CodecId::RAW_F16, DType::F16), (CodecId::RAW_BF16, DType::BF16)] {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let rows = MemoryRows::native(256, 256, dtype, bytes.clone(), vec![0.0; 1 << 16]);
        assert_eq!(encode(codec(id).unwrap(), &rows, None).unwrap().data, bytes);
    }
}

#[test]
fn raw_narrowing_rounds_and_reports_its_error() {
    let values = gaussian(33 * 7, 3);
    let rows = MemoryRows::f32(7, 33, values.clone());
    for (id, floor) in [(CodecId::RAW_BF16, 50.0), (CodecId::RAW_F16, 68.0)] {
        let c = codec(id).unwrap();
        let stored = encode(c, &rows, None).unwrap();
        let out = stored.decode(c);
        let measured = super::testing::snr_db(&values, &out);
        assert!((measured - stored.stats.snr_db()).abs() < 1e-6);
        assert!(measured > floor, "{id}: {measured}");
    }
}

#[test]
fn raw_refuses_what_would_become_infinite_and_names_it() {
    let mut values = vec![1.0; 12];
    values[7] = 70000.0;
    let rows = MemoryRows::f32(3, 4, values);
    let message = encode(codec(CodecId::RAW_F16).unwrap(), &rows, None).unwrap_err().to_string();
    assert!(message.contains("row 1 holds weights up to 70000, too large"), "{message}");
}

/// `y` by the definition, in f64.
fn reference(w: &[f32], x: &[f32]) -> Vec<f64> {
    w.chunks(x.len()).map(|r| r.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()).collect()
}

fn check_matvec(codec: &dyn Codec, rows: u64, cols: u64, precision: Precision, tolerance: f64) {
    let w = gaussian((rows * cols) as usize, rows * 1000 + cols);
    let x = gaussian(cols as usize, 77);
    let stored = encode(codec, &MemoryRows::for_codec(codec, rows, cols, w), None).unwrap();
    let decoded = stored.decode(codec);
    let expected = reference(&decoded, &x);
    let mut y = vec![0.0; rows as usize];
    codec.matvec(&stored.view(), &Activation::new(&x, precision), 0..rows, &mut y);
    let scale = (cols as f64).sqrt() * decoded.iter().fold(1e-9, |m: f64, v| m.max(f64::from(v.abs())));
    for (y, e) in y.iter().zip(&expected) {
        assert!((f64::from(*y) - e).abs() <= tolerance * scale, "{} {rows}x{cols}: {y} {e}", codec.id());
    }
}

#[test]
fn matvec_agrees_with_decode() {
    for codec in CODECS {
        for (rows, cols) in [(1, 1), (3, 31), (5, 32), (7, 257), (4, 576), (9, 1000)] {
            check_matvec(*codec, rows, cols, Precision::F32, 2e-6);
        }
    }
}

#[test]
fn mismatched_matvec_sizes_give_nan() {
    for codec in CODECS {
        let stored = encode(*codec, &MemoryRows::for_codec(*codec, 2, 64, vec![1.0; 128]), None).unwrap();
        let x = [1.0; 64];
        for (width, rows) in [(63, 0..2), (64, 1..3), (64, 0..1), (64, u64::MAX - 2..u64::MAX)] {
            let mut y = [0.0; 2];
            codec.matvec(&stored.view(), &Activation::new(&x[..width], Precision::F32), rows, &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{}", codec.id());
        }
    }
}

#[test]
fn every_truncation_is_an_error_and_no_byte_panics() {
    for codec in CODECS {
        let stored = encode(*codec, &MemoryRows::for_codec(*codec, 3, 37, gaussian(111, 4)), None).unwrap();
        let mut out = [0.0; 111];
        for length in 0..stored.data.len() {
            let mut view = stored.view();
            view.data = &stored.data[..length];
            assert!(codec.decode(&view, 0..3, &mut out).is_err(), "{} {length}", codec.id());
        }
        for at in 0..stored.data.len() {
            for bit in 0..8 {
                let mut changed = stored.clone();
                changed.data[at] ^= 1 << bit;
                let _ = codec.check(&changed.view());
                let _ = codec.decode(&changed.view(), 0..3, &mut out);
            }
        }
    }
}

#[test]
fn bad_parameters_are_errors_that_name_the_tensor() {
    for codec in CODECS {
        let mut stored = encode(*codec, &MemoryRows::for_codec(*codec, 1, 32, vec![1.0; 32]), None).unwrap();
        stored.params[31] = 1;
        let message = codec.decode(&stored.view(), 0..1, &mut [0.0; 32]).unwrap_err().to_string();
        assert!(message.contains("blk.0.test.weight"), "{message}");
        assert_eq!(codec.check(&stored.view()).unwrap_err().code, "codec-params", "{}", codec.id());
    }
}

#[test]
fn empty_matrices_encode_to_nothing() {
    for codec in CODECS {
        for (rows, cols) in [(0, 32), (3, 0), (0, 0)] {
            let stored =
                encode(*codec, &MemoryRows::for_codec(*codec, rows, cols, Vec::new()), None).unwrap();
            assert!(stored.decode(*codec).is_empty(), "{} {rows}x{cols}", codec.id());
        }
    }
}
