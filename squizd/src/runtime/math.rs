//! Vector and small-matrix kernels of the forward pass, all in `f32`.

use super::lanes::{LANES, V8, exp, mul_add, multiversion, tanh};
use crate::model::Activation;

/// `C[i][j] = a_i . b_j` for `MR x NR` rows of `k` values at once: every loaded
/// vector is used `MR` or `NR` times, and the accumulators stay in registers.
#[inline(always)]
fn dot_block<const FMA: bool, const MR: usize, const NR: usize>(
    a: [&[f32]; MR],
    b: [&[f32]; NR],
) -> [[f32; NR]; MR] {
    let k = a.first().map_or(0, |row| row.len());
    let a = a.map(|row| &row[..k]);
    let b = b.map(|row| &row[..k]);
    let mut acc = [[V8::ZERO; NR]; MR];
    let whole = k - k % LANES;
    let mut at = 0;
    while at < whole {
        let columns = b.map(|row| V8::load(&row[at..at + LANES]));
        for (sums, row) in acc.iter_mut().zip(a) {
            let x = V8::load(&row[at..at + LANES]);
            for (sum, y) in sums.iter_mut().zip(columns) {
                *sum = sum.add_product::<FMA>(x, y);
            }
        }
        at += LANES;
    }
    let mut out = [[0.0; NR]; MR];
    for (i, (row, sums)) in out.iter_mut().zip(acc).enumerate() {
        for (j, (value, sum)) in row.iter_mut().zip(sums).enumerate() {
            *value = sum.sum();
            for (x, y) in a[i][whole..].iter().zip(&b[j][whole..]) {
                *value = mul_add::<FMA>(*x, *y, *value);
            }
        }
    }
    out
}

/// `c[i * stride + j] = row(i) . col(j)` for `m` rows and `n` columns, all of
/// one length.
#[inline(always)]
fn dot_rows<'a, const FMA: bool>(
    m: usize,
    row: impl Fn(usize) -> &'a [f32],
    n: usize,
    col: impl Fn(usize) -> &'a [f32],
    c: &mut [f32],
    stride: usize,
) {
    const MR: usize = 4;
    const NR: usize = 3;
    let mut i = 0;
    while i + MR <= m {
        let a: [_; MR] = std::array::from_fn(|r| row(i + r));
        let mut j = 0;
        while j + NR <= n {
            let b: [_; NR] = std::array::from_fn(|s| col(j + s));
            for (r, sums) in dot_block::<FMA, MR, NR>(a, b).into_iter().enumerate() {
                c[(i + r) * stride + j..][..NR].copy_from_slice(&sums);
            }
            j += NR;
        }
        while j < n {
            for (r, [sum]) in dot_block::<FMA, MR, 1>(a, [col(j)]).into_iter().enumerate() {
                c[(i + r) * stride + j] = sum;
            }
            j += 1;
        }
        i += MR;
    }
    while i < m {
        let mut j = 0;
        while j + MR <= n {
            let b: [_; MR] = std::array::from_fn(|s| col(j + s));
            let [sums] = dot_block::<FMA, 1, MR>([row(i)], b);
            c[i * stride + j..][..MR].copy_from_slice(&sums);
            j += MR;
        }
        while j < n {
            let [[sum]] = dot_block::<FMA, 1, 1>([row(i)], [col(j)]);
            c[i * stride + j] = sum;
            j += 1;
        }
        i += 1;
    }
}

#[inline(always)]
fn gemm_body<const FMA: bool>(w: &[f32], x: &[f32], k: usize, c: &mut [f32], n: usize) {
    let rows = c.len().checked_div(n).unwrap_or(0);
    dot_rows::<FMA>(rows, |i| &w[i * k..][..k], n, |j| &x[j * k..][..k], c, n);
}

multiversion! {
    /// `c[i][j] = w_i . x_j`: `w` is `[rows, k]`, `x` is `[n, k]`, `c` is `[rows, n]`.
    pub(super) fn gemm(w: &[f32], x: &[f32], k: usize, c: &mut [f32], n: usize) = gemm_body;
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let mut acc = [V8::ZERO; 4];
    let mut groups = x.chunks_exact(4 * LANES);
    for group in &mut groups {
        for (sum, part) in acc.iter_mut().zip(group.chunks_exact(LANES)) {
            let v = V8::load(part);
            *sum = sum.add_product::<FMA>(v, v);
        }
    }
    let [a, b, c, d] = acc;
    let mut square = a.zip(b, |p, q| p + q).zip(c.zip(d, |p, q| p + q), |p, q| p + q).sum();
    for v in groups.remainder() {
        square = mul_add::<FMA>(*v, *v, square);
    }
    let scale = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for ((y, v), g) in out.iter_mut().zip(x).zip(gain) {
        *y = *v * scale * *g;
    }
}

multiversion! {
    /// RMS norm: `out = x * gain / sqrt(mean(x^2) + eps)` (arXiv 1910.07467).
    pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body;
}

#[inline(always)]
fn rms_norm_in_place_body<const FMA: bool>(x: &mut [f32], gain: &[f32], eps: f32) {
    let mut acc = V8::ZERO;
    let mut groups = x.chunks_exact(LANES);
    for group in &mut groups {
        let v = V8::load(group);
        acc = acc.add_product::<FMA>(v, v);
    }
    let square = groups.remainder().iter().fold(acc.sum(), |s, v| mul_add::<FMA>(*v, *v, s));
    let scale = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for (v, g) in x.iter_mut().zip(gain) {
        *v *= scale * *g;
    }
}

multiversion! {
    /// [`rms_norm`] onto its own input, for short vectors (one head).
    pub(super) fn rms_norm_in_place(x: &mut [f32], gain: &[f32], eps: f32) = rms_norm_in_place_body;
}

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += *b;
    }
}

/// `x *= factor`.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    for v in x {
        *v *= factor;
    }
}

/// `x += factor * y`.
pub(super) fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += factor * *b;
    }
}

#[inline(always)]
fn silu_gate<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<FMA>(-*g)) * *u;
    }
}

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, times `up`.
#[inline(always)]
fn gelu_tanh_gate<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for (g, u) in gate.iter_mut().zip(up) {
        let x = *g;
        let inner = SQRT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x);
        *g = 0.5 * x * (1.0 + tanh::<FMA>(inner)) * *u;
    }
}

multiversion! {
    fn silu_gate_wide(gate: &mut [f32], up: &[f32]) = silu_gate;
}
multiversion! {
    fn gelu_tanh_gate_wide(gate: &mut [f32], up: &[f32]) = gelu_tanh_gate;
}

/// `gate = activation(gate) * up`.
pub(super) fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => silu_gate_wide(gate, up),
        Activation::GeluTanh => gelu_tanh_gate_wide(gate, up),
        Activation::Gelu => {
            for (g, u) in gate.iter_mut().zip(up) {
                let x = *g;
                *g = 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)) * *u;
            }
        }
    }
}

#[inline(always)]
fn softcap_body<const FMA: bool>(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for v in x {
        *v = cap * tanh::<FMA>(*v * inverse);
    }
}

multiversion! {
    /// `cap * tanh(x / cap)`.
    pub(super) fn softcap(x: &mut [f32], cap: f32) = softcap_body;
}

/// Softmax of a short vector (router scores), in place.
pub(super) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = libm::expf(*v - max);
        sum += *v;
    }
    for v in x {
        *v /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic values in [-1, 1).
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn gemm_of_every_ragged_shape_matches_f64() {
        for (rows, n, k) in [(1, 1, 1), (4, 3, 8), (5, 4, 17), (9, 7, 64), (3, 2, 7), (8, 1, 40)] {
            let (w, x) = (values(rows * k, 1), values(n * k, 2));
            let (mut wide, mut plain) = (vec![0.0; rows * n], vec![0.0; rows * n]);
            gemm(&w, &x, k, &mut wide, n);
            gemm_body::<false>(&w, &x, k, &mut plain, n);
            for i in 0..rows {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|p| w[i * k + p] as f64 * x[j * k + p] as f64).sum();
                    for c in [&wide, &plain] {
                        assert!((c[i * n + j] as f64 - exact).abs() < 1e-5, "{rows}x{n}x{k} at {i},{j}");
                    }
                }
            }
        }
    }

    #[test]
    fn norms_match_f64() {
        for n in [1, 7, 32, 100] {
            let (x, gain) = (values(n, 3), values(n, 4));
            let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / n as f64;
            let mut out = vec![0.0; n];
            rms_norm(&x, &gain, 1e-6, &mut out);
            let mut in_place = x.clone();
            rms_norm_in_place(&mut in_place, &gain, 1e-6);
            for i in 0..n {
                let exact = x[i] as f64 * gain[i] as f64 / (mean + 1e-6).sqrt();
                assert!((out[i] as f64 - exact).abs() < 1e-6);
                assert!((in_place[i] as f64 - exact).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn gates_match_f64() {
        let x: Vec<f32> = values(64, 5).iter().map(|v| v * 8.0).collect();
        let up = values(64, 6);
        let check = |activation, exact: &dyn Fn(f64) -> f64| {
            let mut gate = x.clone();
            gated(activation, &mut gate, &up);
            for i in 0..x.len() {
                let want = exact(x[i] as f64) * up[i] as f64;
                assert!((gate[i] as f64 - want).abs() < 2e-6, "{activation:?}({}) = {}", x[i], gate[i]);
            }
        };
        check(Activation::Silu, &|v| v / (1.0 + (-v).exp()));
        check(Activation::Gelu, &|v| 0.5 * v * (1.0 + libm::erf(v * std::f64::consts::FRAC_1_SQRT_2)));
        check(Activation::GeluTanh, &|v| {
            0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v.powi(3))).tanh())
        });
    }
}
