//! Importances and compensated errors.

use super::tests::{CODECS, WISHES, bits, request};
use super::*;
use crate::codec::testing::{self, MemoryRows, Stored, correlated, encode_with, gaussian, output_error};
use crate::codec::{Guide, InputMoments};
use crate::simd;

/// The same without what is off the diagonal.
fn diagonal(moments: &InputMoments) -> InputMoments {
    InputMoments { hessian: Vec::new(), ..moments.clone() }
}

struct Source {
    rows: u64,
    cols: u64,
    w: Vec<f32>,
}

impl Source {
    fn new(rows: u64, cols: u64, seed: u64) -> Self {
        Self { rows, cols, w: gaussian((rows * cols) as usize, seed) }
    }

    fn encode(&self, codec: &dyn Codec, wish: &str, moments: Option<&InputMoments>) -> Stored {
        let parts: Vec<_> = moments.into_iter().collect();
        let guide = Guide::new(&parts, self.rows, self.cols).unwrap_or_default();
        let rows = MemoryRows::f32(self.rows, self.cols, self.w.clone());
        encode_with(codec, &rows, &Request { guide, ..request(wish) }).unwrap()
    }

    fn errors(&self, codec: &dyn Codec, s: &Stored) -> Vec<f64> {
        self.w.iter().zip(s.decode(codec)).map(|(w, v)| f64::from(*w) - f64::from(v)).collect()
    }
}

#[test]
fn compensation_lowers_the_output_error() {
    // Two superblocks, the last of 44 columns.
    let source = Source::new(48, 300, 2);
    let moments = correlated(300, 1);
    let exact: Vec<f64> = source.w.iter().map(|w| f64::from(*w)).collect();
    for codec in CODECS {
        for wish in WISHES {
            let plain = source.encode(codec, wish, None);
            let guided = source.encode(codec, wish, Some(&moments));
            let (e, g) = (source.errors(codec, &plain), source.errors(codec, &guided));
            let (before, after) = (output_error(&moments, &e), output_error(&moments, &g));
            assert!(after < 0.6 * before, "{} {wish}: {after} {before}", codec.id());
            assert_eq!(plain.stats.output, None);
            // What the encoder says of it.
            let noise: f64 = g.iter().map(|e| e * e).sum();
            assert!((guided.stats.noise - noise).abs() < 1e-3 * noise, "{} {wish}", codec.id());
            let output = guided.stats.output.unwrap();
            assert!((output.noise - after).abs() < 0.01 * after, "{} {wish}: {output:?} {after}", codec.id());
            let signal = output_error(&moments, &exact);
            assert!((output.signal - signal).abs() < 0.01 * signal, "{output:?} {signal}");
        }
    }
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let source = Source::new(64, 512, 3);
    let moments = InputMoments {
        importance: (0..512).map(|j| if j % 16 < 4 { 30.0 } else { 1.0 }).collect(),
        hessian: Vec::new(),
    };
    for codec in CODECS {
        for wish in WISHES {
            let plain = source.encode(codec, wish, None);
            let guided = source.encode(codec, wish, Some(&moments));
            let before = output_error(&moments, &source.errors(codec, &plain));
            let after = output_error(&moments, &source.errors(codec, &guided));
            assert!(after < 0.95 * before, "{} {wish}: {after} {before}", codec.id());
            let output = guided.stats.output.unwrap();
            assert!((output.noise - after).abs() < 1e-3 * after, "{output:?} {after}");
        }
    }
}

#[test]
fn equal_importances_say_nothing() {
    let source = Source::new(4, 300, 4);
    for value in [0.0, 1.0, 1e-30, 1e30] {
        let moments = InputMoments { importance: vec![value; 300], hessian: Vec::new() };
        for codec in CODECS {
            let (plain, guided) = (source.encode(codec, "", None), source.encode(codec, "", Some(&moments)));
            let (a, b) = (plain.stats.snr_db(), guided.stats.snr_db());
            assert!((a - b).abs() < 0.02, "{value} {}: {a} {b}", codec.id());
        }
    }
}

#[test]
fn impossible_moments_are_read_as_importances() {
    let source = Source::new(4, 64, 5);
    let mut moments = InputMoments { importance: vec![1.0; 64], hessian: vec![0.0; 64 * 64] };
    for i in 0..64 {
        moments.hessian[i * 65] = 1.0;
    }
    (moments.hessian[1], moments.hessian[64]) = (9.0, 9.0);
    let expected = source.encode(INT3, "", Some(&diagonal(&moments)));
    assert!(source.encode(INT3, "", Some(&moments)) == expected);
}

#[test]
fn tiny_and_huge_weights_are_compensated_too() {
    let moments = correlated(300, 6);
    for exponent in [-100, -60, 60, 100] {
        let mut source = Source::new(8, 300, 7);
        source.w.iter_mut().for_each(|w| *w *= 2f32.powi(exponent));
        for codec in CODECS {
            let plain = source.encode(codec, "", None);
            let guided = source.encode(codec, "", Some(&moments));
            let before = output_error(&moments, &source.errors(codec, &plain));
            let after = output_error(&moments, &source.errors(codec, &guided));
            assert!(after < 0.7 * before, "2^{exponent} {} bits: {after} {before}", bits(codec));
        }
    }
}

#[test]
fn each_expert_has_its_own_moments() {
    let source = Source::new(8, 96, 8);
    let (a, b) = (correlated(96, 9), correlated(96, 10));
    let alone = |range: std::ops::Range<usize>, moments: &InputMoments| {
        let part = Source { rows: 4, cols: 96, w: source.w[96 * range.start..96 * range.end].to_vec() };
        let rows = MemoryRows::f32(4, 96, part.w);
        let guide = [moments];
        let guide = Guide::new(&guide, 4, 96).unwrap();
        let params = layout::fine_params(6, -4);
        testing::encode_guided(INT2, &rows, &params, &Request { guide, ..Request::default() }).unwrap()
    };
    let parts = [&a, &b];
    let guide = Guide::new(&parts, 8, 96).unwrap();
    let rows = MemoryRows::f32(8, 96, source.w.clone());
    let params = layout::fine_params(6, -4);
    let both =
        testing::encode_guided(INT2, &rows, &params, &Request { guide, ..Request::default() }).unwrap();
    let decoded = both.decode(INT2);
    assert!(decoded[..384] == alone(0..4, &a).decode(INT2) && decoded[384..] == alone(4..8, &b).decode(INT2));
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let source = Source::new(300, 900, 11);
    let moments = correlated(900, 12);
    for (codec, wish) in [(INT4, "compact"), (INT3, "fine"), (INT2, "g64")] {
        let expected = source.encode(codec, wish, Some(&moments));
        for level in simd::Level::supported() {
            simd::force(level).unwrap();
            assert!(source.encode(codec, wish, Some(&moments)) == expected, "{} {level}", codec.id());
        }
        simd::force(simd::Level::supported().last().unwrap()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.install(|| source.encode(codec, wish, Some(&moments))) == expected, "{}", codec.id());
    }
}
