//! Quality and stored form of whole tensors.

use super::super::testing::{MemoryRows, gaussian, snr_db};
use super::*;

fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
fn scratch_speed() {
    let (m, n) = (192, 768);
    let w = gaussian(m * n, 5);
    let rows = MemoryRows::f32(m as u64, n as u64, w.clone());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let params = params(0, 0);
    let run = |q: Quality| {
        let sink = super::super::testing::MemoryPayload::sized(&CODEC.id().geometry(rows.matrix, &params).unwrap());
        pool.install(|| {
            let t = cpu();
            let (_, stats) = Astc.encode_as(&rows, &params, &sink, q, None).unwrap();
            (stats, cpu() - t)
        })
    };
    run(Quality::Fast);
    for q in [Quality::Fast, Quality::Default, Quality::Max] {
        let (stats, s) = run(q);
        println!("{q:?} {:.3} dB {:.2} Mw/s", stats.snr_db(), (m * n) as f64 / s / 1e6);
    }
    let _ = snr_db;
}
