//! Every level against decoded weights, and every batch against the whole.

use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode, encode_as, gaussian};
use crate::codec::{CODECS, Codec, codec};
use squizd_spec::{CodecId, Params};

/// Products of all rows with the inputs of `x`.
fn products(codec: &dyn Codec, stored: &Stored, x: &[f32], level: Level) -> Vec<[f32; ROWS]> {
    let cols = stored.matrix.cols as usize;
    let mut inputs = Inputs::default();
    // Used memory must leave no trace.
    inputs.fill(&vec![1.0; 3 * cols + 5], cols + 1);
    inputs.fill(x, cols);
    let mut out = vec![[f32::NAN; ROWS]; x.len() / cols];
    let mut panel = Panel::new(cols, level);
    codec.panel(&stored.view(), 0..stored.matrix.rows, &mut panel).unwrap();
    multiply(&panel, &inputs, &mut out);
    out
}

fn compare(codec: &dyn Codec, stored: &Stored, n: usize) {
    let (rows, cols) = (stored.matrix.rows as usize, stored.matrix.cols as usize);
    let x: Vec<f32> = gaussian(n * cols, 5).iter().enumerate().map(|(i, v)| v * (1 + i % 9) as f32).collect();
    let decoded = stored.decode(codec);
    let mut rounded = x.clone();
    for block in rounded.chunks_mut(cols).flat_map(|x| x.chunks_mut(BLOCK)) {
        let (mut codes, mut scale, mut sums) = ([0; BLOCK], [0.0], [0.0; 2]);
        quantize_lanes(block, &mut codes, &mut scale, &mut sums);
        block.iter_mut().zip(codes).for_each(|(x, q)| *x = scale[0] * f32::from(q));
    }
    for level in Level::supported().filter(|l| codec.has_panels(&stored.params, *l)) {
        let out = products(codec, stored, &x, level);
        for (i, (out, x)) in out.iter().zip(rounded.chunks(cols)).enumerate() {
            for (r, w) in decoded.chunks(cols).enumerate() {
                let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let error = (f64::from(out[r]) - exact).abs();
                assert!(
                    error <= 1e-5 * size,
                    "{} {:?} {level}: row {r} of input {i} is {}, not {exact}",
                    codec.id(),
                    stored.params,
                    out[r]
                );
            }
            assert!(out[rows..].iter().all(|y| *y == 0.0));
        }
        // Any part of the batch, to the bit.
        for (from, to) in [(0, 1), (n / 3, n), (n - 1, n)] {
            let part = products(codec, stored, &x[from * cols..to * cols], level);
            for (a, b) in part.as_flattened().iter().zip(out[from..to].as_flattened()) {
                assert_eq!(a.to_bits(), b.to_bits(), "{} {level}: inputs {from}..{to}", codec.id());
            }
        }
    }
}

const SHAPES: [(u64, u64, usize); 6] =
    [(1, 1, 1), (3, 31, 2), (32, 33, 5), (7, 300, 7), (5, 576, 13), (2, 1037, 3)];

#[test]
fn products_are_those_of_decoded_weights_whatever_the_batch() {
    let mut compared = 0;
    for id in [CodecId::INT4, CodecId::INT3, CodecId::INT2] {
        let codec = codec(id).unwrap();
        for head in [
            [1, 32, 0, 0, 0xf7],
            [1, 32, 0, 32, 0xf7],
            [2, 16, 0, 6, 0xfa],
            [2, 16, 0, 10, 0xfa],
            [2, 16, 0, 0, 0xfa],
            [0, 32, 0, 0, 0],
            [0, 64, 1, 0, 0],
            [0, 128, 0, 0, 0],
        ] {
            let mut params = Params::default();
            params[..5].copy_from_slice(&head);
            assert!(codec.has_panels(&params, Level::Scalar), "{head:?}");
            for (rows, cols, n) in SHAPES {
                let source = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, 3));
                compare(codec, &encode_as(codec, &source, &params).unwrap(), n);
                compared += 1;
            }
        }
    }
    for codec in CODECS {
        for (rows, cols, n) in SHAPES {
            let w = gaussian((rows * cols) as usize, 4);
            let stored = encode(*codec, &MemoryRows::for_codec(*codec, rows, cols, w), None).unwrap();
            if codec.has_panels(&stored.params, Level::Scalar) {
                compare(*codec, &stored, n);
                compared += 1;
            }
        }
    }
    assert!(compared >= 3 * 8 * 6 + 5 * 6, "{compared}");
}

#[test]
fn factors_are_in_the_codes_where_products_take_them_there() {
    for (id, head) in [
        (CodecId::INT4, [2, 16, 0, 6, 0xfa]),
        (CodecId::INT3, [2, 16, 0, 15, 0xfa]),
        (CodecId::INT2, [2, 16, 0, 1, 0xfa]),
    ] {
        let mut params = Params::default();
        params[..5].copy_from_slice(&head);
        let codec = codec(id).unwrap();
        let stored = encode_as(codec, &MemoryRows::f32(9, 576, gaussian(9 * 576, 8)), &params).unwrap();
        let [apart, folded] = [Level::Scalar, Level::Avx512].map(|level| {
            let mut panel = Panel::new(576, level);
            codec.panel(&stored.view(), 0..9, &mut panel).unwrap();
            panel.blocks
        });
        let mut largest = 0;
        for (apart, folded) in apart.iter().zip(&folded) {
            for (w, (codes, products)) in apart.codes.iter().zip(&folded.codes).enumerate() {
                for (r, (codes, products)) in codes.iter().zip(products).enumerate() {
                    let factor = apart.factors[w / 4][r] & 0xffff;
                    largest = largest.max(factor);
                    for (code, product) in codes.iter().zip(products) {
                        assert_eq!(u32::from(*code) * factor, u32::from(*product), "{id} row {r}");
                    }
                }
            }
        }
        assert!(largest > 1, "{id}: {largest}");
    }
}

#[test]
fn groups_of_sixteen_and_scales_beyond_a_byte_are_left_out() {
    for head in [[0, 16, 0, 0, 0], [2, 16, 0, 11, 0]] {
        let mut params = Params::default();
        params[..5].copy_from_slice(&head);
        assert!(!codec(CodecId::INT4).unwrap().has_panels(&params, Level::Avx512), "{head:?}");
    }
}

#[test]
fn sizes_that_do_not_fit_give_no_numbers() {
    let mut inputs = Inputs::default();
    inputs.fill(&[1.0; 128], 64);
    for (cols, n) in [(32, 2), (64, 3)] {
        let mut out = vec![[0.0; ROWS]; n];
        multiply(&Panel::new(cols, Level::Scalar), &inputs, &mut out);
        assert!(out.as_flattened().iter().all(|y| y.is_nan()));
    }
}
