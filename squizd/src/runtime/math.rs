//! Vector kernels of the forward pass, all in `f32`.

use super::lanes::{LANES, V8, exp, mul_add, multiversion, tanh};
use crate::model::Activation;

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
