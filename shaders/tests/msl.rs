//! The Metal sources of `shaders/msl/`: up to date, accepted by a C++ compiler
//! through `tests/metal/metal_stdlib`, and right where they are run with it.
//! Nothing here says how fast they are on Metal, or that Apple's compiler
//! agrees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "msl_run/harness.rs"]
mod harness;
#[path = "msl_run/stored.rs"]
mod stored;

use harness::{Buffers, Program, bytes, floats, program};
use squizd_shaders::msl::{Checks, generate, shipped};
use std::path::Path;
use stored::{Stored, bf16, int4, q8, random};

#[test]
fn files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("msl");
    let mut expected: Vec<String> = Vec::new();
    for shipped in shipped() {
        let metal = generate(shipped.kernel, &shipped.options, Checks::Restrict).unwrap();
        let name = format!("{}.metal", shipped.stem);
        let found = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(
            found == metal.source,
            "shaders/msl/{name} is out of date: `cargo run -p squizd-shaders --example msl` writes it"
        );
        expected.push(name);
    }
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut found: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_kernel_is_shipped_in_each_form() {
    let all = shipped();
    for kernel in squizd_shaders::KERNELS {
        assert!(all.iter().any(|s| s.stem == kernel.name), "{} has no file", kernel.name);
    }
    for codec in squizd_shaders::variants::CODECS {
        for form in codec.forms {
            let stem = format!("{}_{}", codec.gemv, form.to_lowercase());
            assert!(all.iter().any(|s| s.stem == stem), "{stem} has no file");
        }
    }
}

#[test]
fn generating_fails_with_a_reason() {
    let empty = squizd_shaders::Options::default();
    for (name, part) in [("no_such", "no kernel"), ("norm", "WG")] {
        let message = generate(name, &empty, Checks::Restrict).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_cpp_compiler_accepts_every_file() {
    // Building the program compiles them all.
    let _ = program();
}

/// An input in one of its forms.
struct X {
    /// What the kernel multiplies, in true size.
    values: Vec<f64>,
    /// Bound at 4 and 5.
    coded: Vec<u8>,
    sums: Vec<u8>,
}

fn prepared(program: &Program, subgroup: u32, x: &[f32], form: &str) -> X {
    let mut buffers = Buffers::from([(0, bytes(x)), (5, vec![0xff; x.len() / 2])]);
    let size = match form {
        "_f16" => 2,
        "_i8" => 1,
        "_i24" => 3,
        _ => 4,
    };
    buffers.insert(4, vec![0xff; x.len().next_multiple_of(256) * size]);
    let grid = [(x.len() as u32 / 4).div_ceil(64), 1, 1];
    let after = program.run(&format!("prepare{form}"), subgroup, grid, &[x.len() as u32], &buffers);
    let mut values: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    for (block, sums) in floats(&after[&5]).chunks(4).enumerate() {
        let scale = f64::from(sums[0]);
        if ["_i8", "_i24"].contains(&form) {
            for i in block * 32..block * 32 + 32 {
                // Vectors of 16 bytes in tiles of eight blocks, high bytes first.
                let at = |digit: usize| {
                    16 * (block / 8 * 16 * size + (2 * digit + i % 32 / 16) * 8 + block % 8) + i % 16
                };
                let n = (0..size).fold(0, |n, d| 256 * n + i32::from(after[&4][at(d)].cast_signed()));
                let rounded = f64::from(n) * scale;
                assert!(
                    (rounded - values[i]).abs() <= 0.5001 * scale,
                    "value {i}: {rounded} for {}",
                    values[i]
                );
                values[i] = rounded;
            }
        }
        for half in 0..2 {
            let at = block * 32 + half * 16;
            let sum: f64 = values[at..at + 16].iter().sum();
            assert!((f64::from(sums[1 + half]) - sum).abs() < 1e-4, "sums of block {block}");
        }
    }
    // Kernels in f32 read the floats in order.
    let coded = if form.is_empty() { bytes(x) } else { after[&4].clone() };
    X { values, coded, sums: after[&5].clone() }
}

/// `Params` of the shaders.
fn params(m: &Stored, tokens: u32, y_stride: u32) -> Vec<u32> {
    let units = m.cols.div_ceil(m.unit) as u32;
    let mut p = vec![m.rows as u32, m.cols as u32, units, 0, 0, 0, 0, 0];
    p.extend([m.strides[0], m.strides[1], 0, 0]);
    p.extend(m.extra);
    p.extend([tokens, m.cols.next_multiple_of(32) as u32, y_stride, 1f32.to_bits(), 1, 0, 0, 0]);
    p
}

fn close(what: &str, m: &Stored, row: usize, x: &[f64], y: f32, bound: f64) {
    let w = &m.weights[row * m.cols..][..m.cols];
    let exact: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut w.iter().copied()) * norm(&mut x[..m.cols].iter().copied()) / (m.cols as f64).sqrt();
    let error = (f64::from(y) - exact).abs() / exact.abs().max(size);
    assert!(error <= bound, "{what}, row {row}: {y} for {exact}, off by {error:.2e}");
}

/// The product with one vector, with subgroups of the sizes that devices have
/// and of one thread.
fn gemv(stem: &str, m: &Stored, form: &str, bound: f64) {
    let Some(program) = program() else { return };
    let mut x = random(5, m.cols);
    x.resize(m.cols.next_multiple_of(32), 0.0);
    for subgroup in [1, 8, 32, 64] {
        let x = prepared(program, subgroup, &x, form);
        let mut buffers = Buffers::from([(4, x.coded), (5, x.sums), (6, bytes(&vec![f32::NAN; m.rows]))]);
        buffers.extend(m.planes.iter().cloned().enumerate().map(|(i, p)| (i as u8, p)));
        let stem = format!("{stem}{form}");
        // One thread group for every so many rows.
        let rows = if ["_i8", "_i24"].contains(&form) { 2 } else { 4 };
        let grid = [(m.rows as u32).div_ceil(rows), 1, 1];
        let after = program.run(&stem, subgroup, grid, &params(m, 1, 0), &buffers);
        for (row, y) in floats(&after[&6]).into_iter().enumerate() {
            close(&format!("{stem}, subgroups of {subgroup}"), m, row, &x.values, y, bound);
        }
    }
}

#[test]
fn int4_gemv() {
    let m = int4(13, 328);
    gemv("fused_int4_gemv", &m, "", 1e-6);
    gemv("fused_int4_gemv", &m, "_i8", 1e-6);
    gemv("fused_int4_gemv", &m, "_i24", 1e-6);
    gemv("fused_int4_gemv", &m, "_f16", 2e-3);
}

#[test]
fn q8_gemv() {
    let m = q8(9, 100);
    gemv("q8_gemv", &m, "", 1e-6);
    gemv("q8_gemv", &m, "_i8", 1e-6);
}

#[test]
fn raw_gemv() {
    gemv("raw_gemv", &bf16(7, 1040), "", 1e-6);
}

#[test]
fn int4_gemm() {
    let Some(program) = program() else { return };
    let (m, n) = (int4(70, 328), 3);
    let stride = m.cols.next_multiple_of(32);
    let mut x = vec![0.0; n * stride];
    for token in 0..n {
        x[token * stride..][..m.cols].copy_from_slice(&random(token as u64, m.cols));
    }
    let mut buffers = Buffers::from([(4, bytes(&x)), (6, bytes(&vec![f32::NAN; n * m.rows]))]);
    buffers.extend(m.planes.iter().cloned().enumerate().map(|(i, p)| (i as u8, p)));
    let numbers = params(&m, n as u32, m.rows as u32);
    let after = program.run("fused_int4_gemm", 32, [2, 1, 1], &numbers, &buffers);
    for (i, y) in floats(&after[&6]).into_iter().enumerate() {
        let x: Vec<f64> = x[i / m.rows * stride..][..stride].iter().map(|v| f64::from(*v)).collect();
        // One invocation sums all columns, here without fused multiplication.
        close("gemm", &m, i % m.rows, &x, y, 3e-6);
    }
}

/// By matrices of a SIMD group: two workgroups of rows, one of inputs whose
/// sizes differ by powers of two that no half holds.
#[test]
fn gemm_by_matrices() {
    let Some(program) = program() else { return };
    for (stem, m) in [("fused_int4_gemm_coop", int4(70, 328)), ("raw_gemm_coop", bf16(67, 120))] {
        let (n, stride) = (5, m.cols.next_multiple_of(32));
        let mut x = vec![0.0; n * stride];
        for token in 0..n {
            let size = [1.0, 1e-12, 1e12, 0.0, 3.0][token];
            let values = random(token as u64, m.cols);
            x[token * stride..].iter_mut().zip(values).for_each(|(x, v)| *x = v * size);
        }
        let halves =
            Buffers::from([(0, bytes(&x)), (4, vec![0xff; 2 * n * stride]), (5, bytes(&vec![f32::NAN; n]))]);
        let halves = program.run("halves", 32, [n as u32, 1, 1], &[stride as u32 / 4], &halves);
        let mut buffers = Buffers::from([
            (4, halves[&4].clone()),
            (5, halves[&5].clone()),
            (6, bytes(&vec![f32::NAN; n * m.rows])),
        ]);
        buffers.extend(m.planes.iter().cloned().enumerate().map(|(i, p)| (i as u8, p)));
        let mut numbers = params(&m, n as u32, m.rows as u32);
        numbers[19] = 64f32.to_bits();
        let after = program.run(stem, 32, [2, 1, 1], &numbers, &buffers);
        for (i, y) in floats(&after[&6]).into_iter().enumerate() {
            let x: Vec<f64> = x[i / m.rows * stride..][..stride].iter().map(|v| f64::from(*v)).collect();
            if x.iter().all(|v| *v == 0.0) {
                assert!(y == 0.0, "{stem}: {y}");
            } else {
                close(stem, &m, i % m.rows, &x, y, 2e-3);
            }
        }
    }
}

#[test]
fn int4_rows() {
    let Some(program) = program() else { return };
    let m = int4(11, 328);
    let stride = m.cols.next_multiple_of(32);
    let ids = [10u32, 0, 10, 7];
    let id_bytes = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
    let mut buffers = Buffers::from([(4, id_bytes), (6, bytes(&vec![f32::NAN; 4 * stride]))]);
    buffers.extend(m.planes.iter().cloned().enumerate().map(|(i, p)| (i as u8, p)));
    let grid = [(stride as u32 / 32 * 4).div_ceil(64), 1, 1];
    let after = program.run("int4_rows", 32, grid, &params(&m, 4, stride as u32), &buffers);
    for (i, y) in floats(&after[&6]).into_iter().enumerate() {
        let (row, col) = (ids[i / stride] as usize, i % stride);
        let exact = if col < m.cols { m.weights[row * m.cols + col] } else { 0.0 };
        assert!(
            (f64::from(y) - exact).abs() <= 1e-6 * exact.abs().max(0.01),
            "{row}, {col}: {y} for {exact}"
        );
    }
}

#[test]
fn lengths_that_lie_reach_no_other_memory() {
    let Some(program) = program() else { return };
    let m = int4(4, 256);
    let mut numbers = params(&m, 1, 0);
    // Units and rows far beyond the planes, whose ends are watched by the
    // operating system here.
    (numbers[0], numbers[2], numbers[8]) = (4, 5000, 1 << 20);
    let mut buffers = Buffers::from([(4, bytes(&[0.0; 256])), (5, bytes(&[0.0; 32])), (6, bytes(&[0.0; 4]))]);
    buffers.extend(m.planes.iter().cloned().enumerate().map(|(i, p)| (i as u8, p)));
    program.run("fused_int4_gemv", 32, [1, 1, 1], &numbers, &buffers);
}

#[test]
fn norm() {
    let Some(program) = program() else { return };
    let (width, stride, n) = (1100usize, 1120, 2);
    let mut x = vec![0.0; stride * n];
    for row in 0..n {
        x[row * stride..][..width].copy_from_slice(&random(row as u64 + 1, width));
    }
    let mut gain = random(9, width);
    gain.resize(stride, 0.0);
    let buffers = Buffers::from([(0, bytes(&x)), (1, bytes(&gain)), (2, bytes(&vec![f32::NAN; stride * n]))]);
    let eps = 1e-5f32;
    let numbers = [width as u32, stride as u32 / 4, 0, eps.to_bits()];
    let after = program.run("norm", 32, [n as u32, 1, 1], &numbers, &buffers);
    for (i, y) in floats(&after[&2]).into_iter().enumerate() {
        let row = &x[i / stride * stride..][..width];
        let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
        let exact = f64::from(x[i]) * f64::from(gain[i % stride]) / (mean + f64::from(eps)).sqrt();
        assert!((f64::from(y) - exact).abs() <= 1e-6 * exact.abs().max(0.1), "{i}: {y} for {exact}");
    }
}

#[test]
fn argmax() {
    let Some(program) = program() else { return };
    let mut x = random(3, 5000);
    // The first of equals counts, also across threads.
    (x[4711], x[777]) = (50.0, 50.0);
    let words = |w: &[u32]| w.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let buffers =
        Buffers::from([(0, bytes(&x)), (1, words(&[9])), (2, words(&[0, 2])), (3, words(&[9, 9, 9, 9]))]);
    let after = program.run("argmax", 32, [1, 1, 1], &[x.len() as u32], &buffers);
    assert_eq!(after[&1], words(&[777]));
    assert_eq!(after[&3], words(&[9, 9, 777, 9]));
}

#[test]
fn attention() {
    let Some(program) = program() else { return };
    // Two query heads to a key head; more positions than threads.
    let (heads, kv, dim, capacity, past) = (4usize, 2usize, 64usize, 160usize, 150usize);
    let (q, k, v) = (random(1, heads * dim), random(2, kv * capacity * dim), random(3, kv * capacity * dim));
    let state = [past as u32, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let out = bytes(&vec![f32::NAN; heads * dim]);
    let buffers = Buffers::from([(0, bytes(&q)), (1, bytes(&k)), (2, bytes(&v)), (3, state), (6, out)]);
    for window in [0, 40] {
        let scale = 0.125f32;
        let stride = (heads * dim) as u32;
        let numbers = [2, dim as u32, capacity as u32, stride, window, scale.to_bits(), 1f32.to_bits()];
        let after = program.run("attention", 32, [heads as u32, 1, 1], &numbers, &buffers);
        let result = floats(&after[&6]);
        let first = if window == 0 { 0 } else { past + 1 - window as usize };
        for head in 0..heads {
            let at = |position: usize, i: usize| (head / 2 * capacity + position) * dim + i;
            let score = |p: usize| -> f64 {
                let products = (0..dim).map(|i| f64::from(q[head * dim + i]) * f64::from(k[at(p, i)]));
                products.sum::<f64>() * f64::from(scale)
            };
            let scores: Vec<f64> = (first..=past).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            for i in 0..dim {
                let terms = scores.iter().zip(first..);
                let exact: f64 = terms.map(|(s, p)| (s - most).exp() / total * f64::from(v[at(p, i)])).sum();
                let y = f64::from(result[head * dim + i]);
                assert!((y - exact).abs() < 1e-6, "head {head}, {i}: {y} for {exact}");
            }
        }
    }
}

/// What docs/metal.md binds, against the weights that the golden file's
/// description lists.
#[test]
fn the_guides_example_is_right() {
    let Some(program) = program() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/v1");
    let file = std::fs::read(golden.join("toy-2layer.squizd")).unwrap();
    let payload = &file[16384..32768];
    let description = std::fs::read(golden.join("toy-2layer.json")).unwrap();
    let description: serde_json::Value = serde_json::from_slice(&description).unwrap();
    let tensor = description["tensors"].as_array().unwrap();
    let tensor = tensor.iter().find(|t| t["name"] == "blk.0.ffn_down.weight").unwrap();
    let weights: Vec<f64> =
        tensor["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();

    let mut x = random(2, 36);
    x.resize(64, 0.0);
    let x = prepared(program, 32, &x, "");
    let buffers = Buffers::from([
        (0, payload[5376..].to_vec()),
        (1, payload[5632..].to_vec()),
        (4, x.coded),
        (5, x.sums),
        (6, bytes(&[f32::NAN; 8])),
    ]);
    let lengths: Vec<usize> = [4, 5, 0, 1, 6].iter().map(|slot| buffers[slot].len()).collect();
    assert_eq!(lengths, [256, 32, 11008, 10752, 32]);
    let numbers = [8, 36, 2, 0, 0, 0, 0, 0, 32, 8, 0, 0, 0x3c80_0000, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let after = program.run("fused_int4_gemv", 32, [2, 1, 1], &numbers, &buffers);
    for (row, y) in floats(&after[&6]).into_iter().enumerate() {
        let exact: f64 = weights[row * 36..][..36].iter().zip(&x.values).map(|(w, x)| w * x).sum();
        assert!((f64::from(y) - exact).abs() <= 1e-6, "row {row}: {y} for {exact}");
    }
}
