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
    let all = [Quality::Fast, Quality::Default, Quality::Max];
    let only = std::env::var("Q").ok().map(|q| q.parse::<usize>().unwrap());
    for q in all.into_iter().enumerate().filter(|(i, _)| only.is_none_or(|o| o == *i)).map(|x| x.1) {
        let (stats, s) = run(q);
        println!("{q:?} {:.3} dB {:.2} Mw/s", stats.snr_db(), (m * n) as f64 / s / 1e6);
    }
    let _ = snr_db;
}

#[test]
fn scratch_pairs() {
    let (m, n) = (192, 768);
    let w = gaussian(m * n, 5);
    let rows = MemoryRows::f32(m as u64, n as u64, w.clone());
    let params = params(0, 0);
    let stored = super::super::testing::encode_as(CODEC, &rows, &params).unwrap();
    let mut h = [[0u32; 12]; 12];
    let mut modes = std::collections::BTreeMap::new();
    for b in stored.data[..m / 6 * n / 6 * 16].as_chunks::<16>().0 {
        if let Ok(block::Block::Levels(s)) = block::Block::unpack(b) {
            *modes.entry((s.partitions, s.levels)).or_insert(0) += 1;
            if (s.partitions, s.levels) == (2, 5) {
                let md = &alphabet::modes()[1];
                for e in s.endpoints[..4].as_chunks::<2>().0 {
                    let [a, b] = e.map(|c| md.codes.iter().position(|x| *x == c).unwrap());
                    h[a][b] += 1;
                }
            }
        }
    }
    println!("{modes:?}");
    for r in h { println!("{r:?}"); }
}

#[test]
fn scratch_real() {
    let file = std::env::var("F").unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let st = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (mut sums, mut count) = ([0.0; 3], 0.0);
    let every: usize = std::env::var("E").map_or(1, |e| e.parse().unwrap());
    let mut all = st.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (i, (name, view)) in all.into_iter().enumerate() {
        if view.shape().len() != 2 || i % every != 0 { continue; }
        let (m, n) = (view.shape()[0].min(1536), view.shape()[1]);
        let w: Vec<f32> = view.data().chunks_exact(2).take(m * n).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect();
        let rows = MemoryRows::f32(m as u64, n as u64, w);
        let planned = plan::plan(&rows).unwrap();
        let mut line = format!("{name} {m}x{n} mode {}", planned[1]);
        for (i, (params, q)) in [(params(0, exponent(&planned) as i8), Quality::Default), (params(1, exponent(&planned) as i8), Quality::Default), (planned, Quality::Max)].into_iter().enumerate() {
            if i == 2 && std::env::var("M").is_err() { continue; }
            let sink = super::super::testing::MemoryPayload::sized(&CODEC.id().geometry(rows.matrix, &params).unwrap());
            let (_, stats) = Astc.encode_as(&rows, &params, &sink, q, None).unwrap();
            line += &format!(" {:.2}", stats.snr_db());
            sums[i] += stats.snr_db();
        }
        count += 1.0;
        println!("{line}");
    }
    println!("mean {:?}", sums.map(|s| s / count));
}
