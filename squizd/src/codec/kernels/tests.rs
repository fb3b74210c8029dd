//! Every level against the reference, over odd shapes.

use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode, encode_as, gaussian};
use crate::codec::{CODECS, Codec};
use squizd_spec::Params;

fn of(id: CodecId) -> &'static dyn Codec {
    CODECS.iter().copied().find(|c| c.id() == id).unwrap()
}

/// Row sums of `|w| |x|`, the scale of rounding errors.
fn magnitudes(decoded: &[f32], x: &[f32]) -> Vec<f32> {
    decoded.chunks(x.len()).map(|r| r.iter().zip(x).map(|(w, x)| (w * x).abs()).sum()).collect()
}

fn at(level: Level, id: CodecId, stored: &Stored, x: &Activation<'_>, range: Range<u64>) -> Vec<f32> {
    let mut y = vec![f32::NAN; (range.end - range.start) as usize];
    let view = stored.view();
    let rows = Rows::of(id, &view, x, &range, &y).unwrap();
    match id {
        CodecId::INT4 => integer_at::<4>(level, Layout::of(4, view.params), x, rows, &mut y),
        CodecId::INT3 => integer_at::<3>(level, Layout::of(3, view.params), x, rows, &mut y),
        CodecId::INT2 => integer_at::<2>(level, Layout::of(2, view.params), x, rows, &mut y),
        CodecId::MXFP4 => mxfp4::at(level, x, rows, &mut y),
        _ => q8_at(level, q8_codec::scale_bytes(view.params), x, rows, &mut y),
    }
    y
}

fn compare(id: CodecId, stored: &Stored) {
    let cols = stored.matrix.cols as usize;
    let x: Vec<f32> = gaussian(cols, 5).iter().enumerate().map(|(i, v)| v * (1.0 + i as f32)).collect();
    let decoded = stored.decode(of(id));
    let scale = magnitudes(&decoded, &x);
    let exact: Vec<f64> = decoded
        .chunks(cols)
        .map(|r| r.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
        .collect();
    for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Q8, 0.03)] {
        let x = Activation::new(&x, precision);
        let reference = at(Level::Scalar, id, stored, &x, 0..stored.matrix.rows);
        for (i, (y, e)) in reference.iter().zip(&exact).enumerate() {
            let error = (f64::from(*y) - e).abs();
            assert!(error <= tolerance * f64::from(scale[i]), "{id} {:?}: {y} {e}", stored.params);
        }
        for level in Level::supported() {
            let y = at(level, id, stored, &x, 0..stored.matrix.rows);
            for (i, (y, r)) in y.iter().zip(&reference).enumerate() {
                assert!(
                    (y - r).abs() <= 1e-5 * scale[i],
                    "{id} {level} {:?} row {i}: {y} {r}",
                    stored.params
                );
            }
            let last = stored.matrix.rows - 1;
            assert_eq!(at(level, id, stored, &x, last..last + 1)[0].to_bits(), y[last as usize].to_bits());
        }
    }
}

const SHAPES: [(u64, u64); 14] = [
    (1, 1),
    (2, 15),
    (3, 31),
    (2, 33),
    (5, 96),
    (3, 128),
    (3, 224),
    (4, 256),
    (3, 300),
    (2, 384),
    (2, 576),
    (9, 448),
    (6, 192),
    (3, 1037),
];

#[test]
fn integer_levels_agree() {
    const HEADS: [[u8; 5]; 11] = [
        [1, 32, 0, 0, 0xf7],
        [1, 32, 0, 32, 0xf7],
        [2, 16, 0, 6, 0xfa],
        [2, 16, 0, 0, 0xfa],
        [0, 16, 0, 0, 0],
        [0, 32, 0, 0, 0],
        [0, 64, 0, 0, 0],
        [0, 128, 0, 0, 0],
        [0, 16, 1, 0, 0],
        [0, 32, 1, 0, 0],
        [0, 128, 1, 0, 0],
    ];
    for (rows, cols) in SHAPES {
        let source = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, cols));
        for id in [CodecId::INT4, CodecId::INT3, CodecId::INT2] {
            for head in HEADS {
                let mut params = Params::default();
                params[..5].copy_from_slice(&head);
                compare(id, &encode_as(of(id), &source, &params).unwrap());
            }
        }
    }
}

#[test]
fn q8_levels_agree() {
    for (rows, cols) in SHAPES {
        let source = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, cols));
        for format in [0, 1] {
            let mut params = Params::default();
            params[..2].copy_from_slice(&[32, format]);
            compare(CodecId::Q8, &encode_as(of(CodecId::Q8), &source, &params).unwrap());
        }
    }
}

#[test]
fn mxfp4_levels_agree() {
    for (rows, cols) in SHAPES {
        let source = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, cols));
        compare(CodecId::MXFP4, &encode(of(CodecId::MXFP4), &source, None).unwrap());
    }
}

#[test]
fn mxfp4_scales_of_every_byte_agree() {
    let mut x = vec![0.0; 256];
    x[33] = 1.0;
    for byte in 0..=255u8 {
        let mut params = Params::default();
        params[0] = 32;
        let mut data = vec![0x22; 16 * 8];
        data.resize(256, 0);
        data.extend([byte; 8]);
        let matrix = squizd_spec::Matrix { rows: 1, cols: 256 };
        let stored = Stored { matrix, params, data, stats: crate::codec::EncodeStats::default() };
        for precision in [Precision::F32, Precision::Q8] {
            let x = Activation::new(&x, precision);
            let reference = at(Level::Scalar, CodecId::MXFP4, &stored, &x, 0..1)[0];
            for level in Level::supported() {
                let y = at(level, CodecId::MXFP4, &stored, &x, 0..1)[0];
                assert!(
                    (y.is_nan() && byte == 255) || (y - reference).abs() <= 1e-6 * reference,
                    "{byte} {level}: {y}"
                );
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    // The largest codes, and all q8 codes -128 or 127, against x of one magnitude.
    for sign in [1.0f32, -1.0] {
        let x = vec![sign; 256];
        let q = Activation::new(&x, Precision::Q8);
        let mut params = Params::default();
        let matrix = squizd_spec::Matrix { rows: 1, cols: 256 };
        for (id, bits, group) in
            [(CodecId::INT4, 4, 32), (CodecId::INT4, 4, 16), (CodecId::INT3, 3, 32), (CodecId::INT2, 2, 16)]
        {
            params[..2].copy_from_slice(&[0, group]);
            let mut data = vec![0xff; 32 * bits];
            data.resize(data.len().next_multiple_of(256), 0);
            data.extend(0x0000_3c00u32.to_le_bytes().repeat(256 / usize::from(group)));
            let stored = Stored { matrix, params, data, stats: crate::codec::EncodeStats::default() };
            let expected = sign * ((1 << bits) - 1) as f32 * 256.0;
            for level in Level::supported() {
                let y = at(level, id, &stored, &q, 0..1)[0];
                assert!((y - expected).abs() < 0.1, "{id} {level}: {y}");
            }
        }
        params[..2].copy_from_slice(&[32, 0]);
        let mut data = vec![0x80; 256];
        data.extend(0x3c00u16.to_le_bytes().repeat(8));
        let stored = Stored { matrix, params, data, stats: crate::codec::EncodeStats::default() };
        for level in Level::supported() {
            let y = at(level, CodecId::Q8, &stored, &q, 0..1)[0];
            assert!((y + sign * 128.0 * 256.0).abs() < 1.0, "{level}: {y}");
        }
        for (codes, value) in [(0x77, 6.0), (0xff, -6.0)] {
            params[..2].copy_from_slice(&[32, 0]);
            let mut data = vec![codes; 128];
            data.resize(256, 0);
            data.extend([127; 8]);
            let stored = Stored { params, data, ..stored };
            for level in Level::supported() {
                let y = at(level, CodecId::MXFP4, &stored, &q, 0..1)[0];
                assert!((y - sign * value * 256.0).abs() < 0.1, "{level}: {y}");
            }
        }
    }
}
