use super::*;
use crate::codec::testing::{MemoryRows, Stored, encode_as, gaussian, snr_db};

/// Encodes `w` at `rate` eighths with windows of `window` bits.
fn stored(rows: u64, cols: u64, w: &[f32], rate: u8, window: u32) -> Stored {
    let rows = MemoryRows::f32(rows, cols, w.to_vec());
    let sample = Sample::read(&rows).unwrap();
    let form = Form::new(cols, rate, window, plan_scales(&sample.trial, sample.trial_cols));
    encode_as(CODEC, &rows, &form.params()).unwrap()
}

#[test]
fn gaussian_weights_reach_the_bars() {
    for (rate, window, floor, ceiling) in [
        (17, 8, 11.8, 2.15),
        (17, 10, 12.0, 2.15),
        (17, 12, 12.15, 2.15),
        (24, 10, 17.1, 3.03),
        (32, 12, 23.0, 4.03),
    ] {
        let (rows, cols) = (64, 1536);
        let w = gaussian(rows * cols, u64::from(rate));
        let start = std::time::Instant::now();
        let s = stored(rows as u64, cols as u64, &w, rate, window);
        let time = start.elapsed();
        let start = std::time::Instant::now();
        let out = s.decode(CODEC);
        let decode = start.elapsed();
        let snr = snr_db(&w, &out);
        println!("{rate} {window}: {snr:.3} dB encode {:.2} Mw/s decode {:.1}", (rows * cols) as f64 / time.as_secs_f64() / 1e6, (rows * cols) as f64 / decode.as_secs_f64() / 1e6);
        assert!((snr - s.stats.snr_db()).abs() < 1e-3, "{snr} {:?}", s.stats);
        assert!(snr >= floor, "{rate} {window}: {snr}");
        assert!(s.data.len() as f64 * 8.0 / ((rows * cols) as f64) <= ceiling);
    }
}
