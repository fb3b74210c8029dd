use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode_as, encode_with, gaussian, snr_db};
use crate::codec::{Guide, InputMoments, Precision};
use crate::simd;
use proptest::prelude::*;

fn options(rate: u16, quality: Quality) -> EncodeOptions {
    EncodeOptions { rate: Some(rate), quality: Some(quality), ..EncodeOptions::NONE }
}

/// Encodes `w` at `rate` thousandths of a bit.
fn stored(rows: u64, cols: u64, w: &[f32], rate: u16, quality: Quality) -> Stored {
    let request = options(rate, quality).into();
    encode_with(CODEC, &MemoryRows::f32(rows, cols, w.to_vec()), &request).unwrap()
}

#[test]
fn gaussian_weights_reach_the_bars() {
    for (rate, quality, floor, ceiling) in [
        (2125, Quality::Fast, 11.8, 2.15),
        (2125, Quality::Default, 12.0, 2.15),
        (2125, Quality::Max, 12.15, 2.15),
        (3000, Quality::Fast, 16.9, 3.03),
        (3000, Quality::Default, 17.1, 3.03),
        (4000, Quality::Max, 23.0, 4.03),
    ] {
        let (rows, cols) = (64, 1536);
        let w = gaussian(rows * cols, u64::from(rate));
        let s = stored(rows as u64, cols as u64, &w, rate, quality);
        let snr = snr_db(&w, &s.decode(CODEC));
        assert!((snr - s.stats.snr_db()).abs() < 1e-3, "{snr} {:?}", s.stats);
        assert!(snr >= floor, "{rate} {quality:?}: {snr}");
        let bits = s.data.len() as f64 * 8.0 / (rows * cols) as f64;
        assert!(bits <= ceiling, "{rate}: {bits}");
    }
}

const NF2: EncodeOptions = EncodeOptions { nf2: true, ..EncodeOptions::NONE };

#[test]
fn four_levels_are_the_plain_core() {
    let (rows, cols) = (50, 200);
    let w = gaussian(rows * cols, 2);
    let source = MemoryRows::f32(rows as u64, cols as u64, w.clone());
    let s = encode_with(CODEC, &source, &NF2.into()).unwrap();
    assert_eq!(s.data.len(), 256 + rows * 4 * 16);
    let out = s.decode(CODEC);
    let snr = snr_db(&w, &out);
    assert!(snr > 9.3 && (snr - s.stats.snr_db()).abs() < 1e-3, "{snr}");
    let x = gaussian(cols, 3);
    let mut y = vec![0.0; 13];
    CODEC.matvec(&s.view(), &Activation::new(&x, Precision::F32), 30..43, &mut y);
    for (row, y) in out[30 * cols..].chunks(cols).zip(&y) {
        let expected: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        assert!((f64::from(*y) - expected).abs() < 1e-4, "{y} {expected}");
    }
    let full = correlated(cols);
    let parts = [&full];
    let guide = Guide::new(&parts, rows as u64, cols as u64).unwrap();
    let guided = encode_with(CODEC, &source, &Request { guide, options: NF2 }).unwrap().decode(CODEC);
    let error = |v: &[f32]| output_error(&w, v, &full.hessian, cols);
    assert!(error(&guided) < 0.6 * error(&out), "{} {}", error(&guided), error(&out));
    let mut tail = s.clone();
    tail.data[256 + 3 * 64 + 48 + 8] |= 1;
    let found = CODEC.check(&tail.view()).map_err(|v| (v.offset, v.code));
    assert_eq!(found, Err((256 + 3 * 64 + 48 + 8, "sqint2-tail-code")));
    assert!(CODEC.nominal(s.matrix, DType::F32, &EncodeOptions { rate: Some(2000), ..NF2 }).is_err());
}

#[test]
fn every_rate_adds_quality() {
    let w = gaussian(16 * 512, 3);
    let mut last = 10.0;
    for rate in (2000..=4000).step_by(125) {
        let snr = stored(16, 512, &w, rate, Quality::Fast).stats.snr_db();
        assert!(snr > last + 0.2, "{rate}: {snr} after {last}");
        last = snr;
    }
}

#[test]
fn outliers_in_columns_cost_nothing() {
    let (rows, cols) = (32, 576);
    let mut w = gaussian(rows * cols, 5);
    for row in w.chunks_mut(cols) {
        row[77] *= 30.0;
        row[570] *= 20.0;
    }
    assert!(stored(rows as u64, cols as u64, &w, 2125, Quality::Fast).stats.snr_db() > 11.3);
}

#[test]
fn magnitudes_do_not_matter() {
    let w = gaussian(32 * 96, 6);
    let plain = stored(32, 96, &w, 2125, Quality::Fast);
    for power in [-99, -40, -1, 40, 99, 120] {
        let factor = 2.0f32.powi(power);
        let scaled: Vec<f32> = w.iter().map(|w| w * factor).collect();
        let s = stored(32, 96, &scaled, 2125, Quality::Fast);
        assert!(s.data[256..] == plain.data[256..], "2^{power}");
        let out = s.decode(CODEC);
        assert!((snr_db(&scaled, &out) - plain.stats.snr_db()).abs() < 1e-2, "2^{power}");
        assert!((s.stats.snr_db() - plain.stats.snr_db()).abs() < 1e-6, "2^{power}");
    }
}

#[test]
fn rows_of_zeros_and_of_any_size_keep_their_own_scale() {
    let mut w = gaussian(48 * 64, 7);
    for (i, row) in w.chunks_mut(64).enumerate() {
        let factor = [1.0, 0.0, 1e-12, 1e12][i % 4];
        for w in row {
            *w *= factor;
        }
    }
    let s = stored(48, 64, &w, 3000, Quality::Fast);
    assert_eq!(Form::of(&s.params).scales, Scales::Single);
    let out = s.decode(CODEC);
    for (i, (w, v)) in w.chunks(64).zip(out.chunks(64)).enumerate() {
        if i % 4 == 1 {
            assert!(v.iter().all(|v| *v == 0.0));
        } else {
            assert!(snr_db(w, v) > 10.0, "row {i}");
        }
    }
}

#[test]
fn a_row_too_large_for_the_planned_scale_is_named() {
    let rows = MemoryRows::f32(
        2,
        32,
        gaussian(64, 8).iter().enumerate().map(|(i, g)| if i < 32 { *g } else { g * 1e6 }).collect(),
    );
    let params = Form::new(32, Coding::trellis(17, 8), Scales::Byte(1e-6)).params();
    let message = encode_as(CODEC, &rows, &params).unwrap_err().to_string();
    assert!(message.contains("row 1") && message.contains("too large"), "{message}");
}

#[test]
fn nothing_that_is_not_finite_is_encoded() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = gaussian(40 * 16, 9);
        w[17 * 16 + 3] = bad;
        let rows = MemoryRows::f32(40, 16, w);
        let message = encode_with(CODEC, &rows, &Request::default()).unwrap_err().to_string();
        assert!(message.contains("17") && message.contains("sqint2"), "{message}");
    }
}

#[test]
fn rates_that_are_not_eighths_from_2_to_4_are_refused() {
    let matrix = Matrix { rows: 4, cols: 64 };
    for rate in [1875, 2100, 4125] {
        let message =
            CODEC.nominal(matrix, DType::F32, &options(rate, Quality::Fast)).unwrap_err().to_string();
        assert!(message.contains("steps of 0.125"), "{message}");
    }
}

#[test]
fn row_ranges_are_parts_of_the_whole() {
    let (rows, cols) = (53, 100);
    let s = stored(rows, cols, &gaussian(5300, 10), 2250, Quality::Default);
    let whole = s.decode(CODEC);
    let x = gaussian(100, 11);
    let x = Activation::new(&x, Precision::F32);
    let mut products = vec![0.0; rows as usize];
    CODEC.matvec(&s.view(), &x, 0..rows, &mut products);
    for range in [0..1, 15..17, 16..32, 7..53, 52..53, 20..20] {
        let mut part = vec![0.0; ((range.end - range.start) * cols) as usize];
        CODEC.decode(&s.view(), range.clone(), &mut part).unwrap();
        assert_eq!(part, whole[(range.start * cols) as usize..(range.end * cols) as usize]);
        let mut y = vec![0.0; (range.end - range.start) as usize];
        CODEC.matvec(&s.view(), &x, range.clone(), &mut y);
        // Other tests may switch the instruction set, which sums in another order.
        for (y, whole) in y.iter().zip(&products[range.start as usize..]) {
            assert!((y - whole).abs() < 1e-4, "{y} {whole}");
        }
    }
}

#[test]
fn matvec_agrees_with_decode_at_every_level_rate_and_window() {
    for level in simd::Level::supported() {
        for (rate, quality) in (2000..=4000)
            .step_by(125)
            .zip([Quality::Fast, Quality::Default, Quality::Max].into_iter().cycle())
        {
            let (rows, cols) = (35, 93);
            let w = gaussian(rows * cols, u64::from(rate));
            let s = stored(rows as u64, cols as u64, &w, rate, quality);
            let out = s.decode(CODEC);
            let x = gaussian(cols, 12);
            for precision in [Precision::F32, Precision::Q8] {
                let mut y = vec![0.0; rows];
                simd::force(level).unwrap();
                CODEC.matvec(&s.view(), &Activation::new(&x, precision), 0..rows as u64, &mut y);
                for (row, y) in out.chunks(cols).zip(&y) {
                    let products = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (expected, size): (f64, f64) =
                        products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                    let tolerance = if precision == Precision::F32 { 1e-4 } else { 8e-3 * size };
                    assert!(
                        (f64::from(*y) - expected).abs() < tolerance,
                        "{level} {rate} {quality:?} {precision:?}: {y} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn tensors_that_share_an_input_rotate_it_once_and_others_are_right_all_the_same() {
    let w = gaussian(16 * 64, 13);
    let s = stored(16, 64, &w, 2125, Quality::Fast);
    let mut other = Form::of(&s.params);
    other.seed ^= 1;
    let t = encode_as(CODEC, &MemoryRows::f32(16, 64, w), &other.params()).unwrap();
    let x = gaussian(64, 14);
    let shared = Activation::new(&x, Precision::F32);
    for stored in [&s, &t, &s] {
        let (mut y, mut z) = ([0.0; 16], [0.0; 16]);
        CODEC.matvec(&stored.view(), &shared, 0..16, &mut y);
        CODEC.matvec(&stored.view(), &Activation::new(&x, Precision::F32), 0..16, &mut z);
        assert_eq!(y.map(f32::to_bits), z.map(f32::to_bits));
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_instructions() {
    let (rows, cols) = (300, 1030);
    let rows = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, 15));
    let moments = correlated(cols as usize);
    let parts = [&moments];
    let request =
        Request { guide: Guide::new(&parts, 300, cols).unwrap(), ..options(2125, Quality::Fast).into() };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| encode_with(CODEC, &rows, &request)).unwrap()
    };
    simd::force(simd::Level::Scalar).unwrap();
    let expected = run(1);
    for level in simd::Level::supported() {
        simd::force(level).unwrap();
        assert!(run(3) == expected, "{level}");
    }
}

/// Moments of inputs that are a running mean, some channels much larger.
fn correlated(cols: usize) -> InputMoments {
    let samples = 2 * cols;
    let mut x = gaussian(cols * samples, 16);
    for x in x.chunks_mut(cols) {
        for j in 1..cols {
            x[j] = 0.9 * x[j - 1] + 0.4 * x[j];
        }
        x.iter_mut().step_by(37).for_each(|x| *x *= 5.0);
    }
    let mut hessian = vec![0.0; cols * cols];
    for x in x.chunks(cols) {
        for (h, a) in hessian.chunks_mut(cols).zip(x) {
            h.iter_mut().zip(x).for_each(|(h, b)| *h += a * b);
        }
    }
    InputMoments { importance: hessian.iter().step_by(cols + 1).copied().collect(), hessian }
}

/// `tr(E H E^T)`.
fn output_error(w: &[f32], v: &[f32], h: &[f32], cols: usize) -> f64 {
    let mut sum = 0.0;
    for (w, v) in w.chunks(cols).zip(v.chunks(cols)) {
        let e: Vec<f64> = w.iter().zip(v).map(|(w, v)| f64::from(w - v)).collect();
        for (h, a) in h.chunks(cols).zip(&e) {
            sum += a * h.iter().zip(&e).map(|(h, b)| f64::from(*h) * b).sum::<f64>();
        }
    }
    sum
}

#[test]
fn calibration_lowers_the_output_error() {
    let (rows, cols) = (32, 200);
    let w = gaussian(rows * cols, 17);
    let source = MemoryRows::f32(rows as u64, cols as u64, w.clone());
    let full = correlated(cols);
    let diagonal = InputMoments { hessian: Vec::new(), ..full.clone() };
    for rate in [2125, 3000] {
        let error = |moments: Option<&InputMoments>| {
            let parts: Vec<_> = moments.into_iter().collect();
            let guide = Guide::new(&parts, rows as u64, cols as u64).unwrap_or_default();
            let request = Request { guide, ..options(rate, Quality::Fast).into() };
            let s = encode_with(CODEC, &source, &request).unwrap();
            let out = s.decode(CODEC);
            assert!((snr_db(&w, &out) - s.stats.snr_db()).abs() < 1e-3);
            output_error(&w, &out, &full.hessian, cols)
        };
        let (plain, some, all) = (error(None), error(Some(&diagonal)), error(Some(&full)));
        println!("{rate}: {plain:.4e} {some:.4e} {all:.4e} ratios {:.3} {:.3}", some / plain, all / plain);
        assert!(some < 0.9 * plain, "{rate}: {some} {plain}");
        assert!(all < 0.4 * plain, "{rate}: {all} {plain}");
    }
}

#[test]
fn experts_are_compensated_for_their_own_inputs() {
    // Two experts of 20 rows: the second begins inside a strip.
    let (rows, cols) = (40, 64);
    let w = gaussian(rows * cols, 18);
    let source = MemoryRows::f32(rows as u64, cols as u64, w.clone());
    let full = correlated(cols);
    let flat = InputMoments { importance: vec![1.0; cols], hessian: Vec::new() };
    let run = |parts: &[&InputMoments]| {
        let guide = Guide::new(parts, rows as u64, cols as u64).unwrap();
        encode_with(CODEC, &source, &Request { guide, ..options(2125, Quality::Fast).into() })
            .unwrap()
            .decode(CODEC)
    };
    let (one, two, mixed) = (run(&[&full]), run(&[&flat]), run(&[&full, &flat]));
    assert_eq!(mixed[..32 * cols], one[..32 * cols]);
    assert_eq!(mixed[32 * cols..], two[32 * cols..]);
}

#[test]
fn checks_name_code_and_offset() {
    let s = stored(20, 40, &gaussian(800, 19), 2125, Quality::Fast);
    let violation = |s: &Stored| CODEC.check(&s.view()).map_err(|v| (v.offset, v.code));
    let mut padded = s.clone();
    padded.data[21] = 1;
    assert_eq!(violation(&padded), Err((21, "payload-padding")));
    padded.data.push(0);
    assert_eq!(violation(&padded), Err((0, "payload-length")));
    let rows = MemoryRows::f32(20, 40, gaussian(800, 20));
    let single =
        encode_as(CODEC, &rows, &Form::new(40, Coding::trellis(17, 8), Scales::Single).params()).unwrap();
    for (bad, good) in [(f32::NAN, false), (f32::INFINITY, false), (-0.0, false), (-1.0, false), (0.0, true)]
    {
        let mut s = single.clone();
        s.data[12..16].copy_from_slice(&bad.to_le_bytes());
        let expected = if good { Ok(()) } else { Err((12, "sqint2-scale")) };
        assert_eq!(violation(&s), expected, "{bad}");
    }
    let mut params = s.clone();
    params.params[1] = 33;
    assert_eq!(violation(&params), Err((0, "codec-params")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_rate_and_magnitude_round_trips(
        rows in 1u64..40, cols in 1u64..80, rate in 16u16..=32, power in -100i32..100, seed: u64,
    ) {
        let factor = 2.0f32.powi(power);
        let w: Vec<f32> = gaussian((rows * cols) as usize, seed).iter().map(|g| g * factor).collect();
        let s = stored(rows, cols, &w, rate * 125, Quality::Fast);
        let out = s.decode(CODEC);
        prop_assert!(out.iter().all(|v| v.is_finite()));
        // The reported error is the error made.
        let noise: f64 = w.iter().zip(&out).map(|(w, v)| (f64::from(*w) - f64::from(*v)).powi(2)).sum();
        prop_assert!((noise - s.stats.noise).abs() <= 1e-4 * s.stats.signal, "{noise} {:?}", s.stats);
    }

    #[test]
    fn any_payload_is_harmless(
        rows in 1u64..20, cols in 1u64..40, rate in 16u8..=32, window in 0usize..3, seed: u64,
    ) {
        let params = Form::new(cols, Coding::trellis(rate, [8, 10, 12][window]), Scales::Byte(1.0)).params();
        let matrix = Matrix { rows, cols };
        let length = CodecId::SQINT2.geometry(matrix, &params).unwrap().length.max() as usize;
        let data: Vec<u8> = gaussian(length, seed).iter().map(|g| g.to_bits() as u8).collect();
        let s = Stored { matrix, params, data, stats: EncodeStats::default() };
        prop_assert!(s.decode(CODEC).iter().all(|v| v.is_finite()));
        let x = vec![1.0; cols as usize];
        let mut y = vec![0.0; rows as usize];
        CODEC.matvec(&s.view(), &Activation::new(&x, Precision::F32), 0..rows, &mut y);
        prop_assert!(y.iter().all(|v| v.is_finite()));
    }
}
