//! Compensated errors.

use super::*;
use crate::codec::testing::{
    MemoryRows, Stored, correlated, encode_guided, encode_with, gaussian, output_error,
};
use crate::codec::{Guide, InputMoments};
use crate::simd;

fn request(rate: u16) -> Request<'static> {
    EncodeOptions { rate: Some(rate), ..EncodeOptions::NONE }.into()
}

/// Rows of `w`, encoded at `rate` with one set of moments for each equal part.
fn encode(w: &[f32], cols: u64, rate: u16, moments: &[&InputMoments]) -> Stored {
    let rows = w.len() as u64 / cols;
    let guide = Guide::new(moments, rows, cols).unwrap_or_default();
    let source = MemoryRows::f32(rows, cols, w.to_vec());
    encode_with(CODEC, &source, &Request { guide, ..request(rate) }).unwrap()
}

fn errors(w: &[f32], s: &Stored) -> Vec<f64> {
    w.iter().zip(s.decode(CODEC)).map(|(w, v)| f64::from(*w) - f64::from(v)).collect()
}

#[test]
fn compensation_lowers_the_output_error_within_the_target() {
    // Blocks of which the last is ragged, a last strip of 2 rows.
    let (rows, cols) = (50, 300);
    let w = gaussian(rows * cols, 2);
    let moments = correlated(cols, 1);
    let exact: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
    let importance = InputMoments { hessian: Vec::new(), ..moments.clone() };
    for rate in [2700, 3600, 4500, 5400] {
        let plain = encode(&w, cols as u64, rate, &[]);
        let weighed = encode(&w, cols as u64, rate, &[&importance]);
        let guided = encode(&w, cols as u64, rate, &[&moments]);
        let [before, between, after] =
            [&plain, &weighed, &guided].map(|s| output_error(&moments, &errors(&w, s)));
        assert!(after < 0.6 * before && after < 0.7 * between, "{rate}: {after} {between} {before}");
        let bits = guided.data.len() as f64 * 8.0 / (rows * cols) as f64;
        let target = f64::from(rate) / 1000.0;
        assert!(bits <= target && bits > target - 0.02, "{rate}: {bits}");
        assert_eq!(CODEC.check(&guided.view()), Ok(()));
        // What the encoder says of it.
        let noise: f64 = errors(&w, &guided).iter().map(|e| e * e).sum();
        assert!((guided.stats.noise - noise).abs() < 1e-3 * noise, "{rate}");
        let output = guided.stats.output.unwrap();
        assert!((output.noise - after).abs() < 0.01 * after, "{rate}: {output:?} {after}");
        let signal = output_error(&moments, &exact);
        assert!((output.signal - signal).abs() < 0.01 * signal, "{rate}: {output:?} {signal}");
    }
}

#[test]
fn blocks_of_bfloat16_take_errors_back_too() {
    let (rows, cols) = (32, 128);
    let w = gaussian(rows * cols, 3);
    let moments = correlated(cols, 4);
    let guided = encode(&w, cols as u64, 11_000, &[&moments]);
    let payload = Payload::of(&guided.view()).unwrap();
    assert!((0..2).all(|strip| payload.rates(strip).any(|r| r == 4) && payload.rates(strip).any(|r| r < 4)));
    let plain = encode(&w, cols as u64, 11_000, &[]);
    let [before, after] = [&plain, &guided].map(|s| output_error(&moments, &errors(&w, s)));
    assert!(after < 0.8 * before, "{after} {before}");
}

#[test]
fn zeros_and_any_magnitude() {
    let moments = correlated(130, 5);
    let zeros = encode(&vec![0.0; 20 * 130], 130, 4000, &[&moments]);
    assert!(zeros.decode(CODEC).iter().all(|v| v.to_bits() == 0));
    assert_eq!(CODEC.check(&zeros.view()), Ok(()));
    for exponent in [-100, -60, 60, 100] {
        let w: Vec<f32> = gaussian(20 * 130, 6).iter().map(|v| v * 2f32.powi(exponent)).collect();
        let [plain, guided] = [&[][..], &[&moments]].map(|m| encode(&w, 130, 3600, m));
        let [before, after] = [&plain, &guided].map(|s| output_error(&moments, &errors(&w, s)));
        assert!(after < 0.7 * before, "2^{exponent}: {after} {before}");
        assert_eq!(CODEC.check(&guided.view()), Ok(()), "2^{exponent}");
    }
}

#[test]
fn each_expert_has_its_own_moments() {
    // Experts of 32 rows, and of 24, which share a strip.
    for rows in [32, 24] {
        let w = gaussian(2 * rows * 96, 8);
        let (a, b) = (correlated(96, 9), correlated(96, 10));
        let both = encode(&w, 96, 3700, &[&a, &b]);
        let swapped = encode(&w, 96, 3700, &[&b, &a]);
        let error = |s: &Stored| {
            let errors = errors(&w, s);
            let (first, second) = errors.split_at(rows * 96);
            output_error(&a, first) + output_error(&b, second)
        };
        assert!(error(&both) < 0.9 * error(&swapped), "{rows}: {} {}", error(&both), error(&swapped));
        assert_eq!(CODEC.check(&both.view()), Ok(()));
    }
}

#[test]
fn impossible_moments_are_read_as_importances() {
    let w = gaussian(4 * 64, 5);
    let mut moments = InputMoments { importance: vec![1.0; 64], hessian: vec![0.0; 64 * 64] };
    moments.hessian.iter_mut().step_by(65).for_each(|h| *h = 1.0);
    (moments.hessian[1], moments.hessian[64]) = (9.0, 9.0);
    let importance = InputMoments { hessian: Vec::new(), ..moments.clone() };
    assert!(encode(&w, 64, 4600, &[&moments]) == encode(&w, 64, 4600, &[&importance]));
}

#[test]
fn a_row_beyond_the_planned_range_is_named() {
    let mut w = gaussian(64 * 64, 6);
    w[33 * 64 + 5] = 1e9;
    let moments = correlated(64, 7);
    let parts = [&moments];
    let guide = Guide::new(&parts, 64, 64).unwrap();
    let request = Request { guide, ..request(2700) };
    let message = encode_guided(CODEC, &MemoryRows::f32(64, 64, w), &params(2700, -50), &request)
        .unwrap_err()
        .to_string();
    assert!(message.contains("row 33"), "{message}");
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let w = gaussian(600 * 500, 11);
    let moments = correlated(500, 12);
    let encode = || encode(&w, 500, 3700, &[&moments]);
    let expected = encode();
    for level in simd::Level::supported() {
        simd::force(level).unwrap();
        assert!(encode() == expected, "{level}");
    }
    simd::force(simd::Level::supported().last().unwrap()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert!(pool.install(encode) == expected);
}
