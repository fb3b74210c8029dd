//! Eight-lane `f32` arithmetic that the compiler turns into vector
//! instructions, compiled once per instruction set behind [`multiversion`].
//!
//! The bodies are ordinary safe Rust over `[f32; 8]`; what differs between the
//! versions is the instruction set the compiler may use and whether a
//! multiply-add is fused. On x86-64 that is AVX2 with FMA where the CPU has
//! it, else SSE2; on AArch64 NEON is always there and always fuses.
#![allow(unsafe_code, reason = "calling a function compiled for detected CPU features")]

use crate::simd::Level;

/// Lanes of [`V8`].
pub(super) const LANES: usize = 8;

/// Whether the baseline instruction set has a fused multiply-add.
pub(super) const BASELINE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Eight floats.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct V8(pub(super) [f32; LANES]);

impl V8 {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    /// The first eight values of `x`; zero where `x` is shorter.
    #[inline(always)]
    pub(super) fn load(x: &[f32]) -> Self {
        if let Some(lanes) = x.first_chunk::<LANES>() {
            return Self(*lanes);
        }
        let mut lanes = [0.0; LANES];
        for (lane, value) in lanes.iter_mut().zip(x) {
            *lane = *value;
        }
        Self(lanes)
    }

    #[inline(always)]
    pub(super) fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(out)
    }

    /// `self + a * b`, fused where `FMA`.
    #[inline(always)]
    pub(super) fn add_product<const FMA: bool>(self, a: Self, b: Self) -> Self {
        let mut out = self.0;
        for ((acc, x), y) in out.iter_mut().zip(a.0).zip(b.0) {
            *acc = mul_add::<FMA>(x, y, *acc);
        }
        Self(out)
    }

    /// Sum of the lanes, pairwise.
    #[inline(always)]
    pub(super) fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (b + f)) + ((c + g) + (d + h))
    }

    #[inline(always)]
    pub(super) fn max(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        a.max(e).max(b.max(f)).max(c.max(g).max(d.max(h)))
    }
}

/// `a * b + c`, fused where `FMA`.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to about one unit in the last place; 0 below -87.3 (where the result
/// is no longer a normal number), infinity above 88.7.
///
/// With n = round(x log2 e) and r = x - n ln 2 (ln 2 in two parts, so that the
/// product is exact for |n| < 2^8), e^x = 2^n e^r, |r| <= 0.3466, and e^r is
/// its Taylor polynomial of degree 7 (remainder < 0.3466^8/8! = 5.2e-9).
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding this rounds to an integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let shifted = mul_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, clamped));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = mul_add::<FMA>(p, r, c);
    }
    // 2^n in two factors: n = 128 alone would overflow the exponent field.
    let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = k >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    let y = p * scale(half) * scale(k - half);
    if x < -87.3 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        y
    }
}

/// `tanh(x) = 1 - 2 / (e^2x + 1)`: absolute error below 2e-7.
#[inline(always)]
pub(super) fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

/// The instruction set of the functions that [`multiversion`] declares, where
/// `level` is in use.
pub(crate) const fn compiled_for(level: Level) -> Level {
    match level {
        Level::Avx2 | Level::Avx512 => Level::Avx2,
        _ => level,
    }
}

/// Declares `fn name(args)` that runs `body::<FMA>(args)` compiled for the best
/// instruction set of this CPU. `body` must be `#[inline(always)]`.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments, reason = "dispatch")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                if $crate::runtime::lanes::compiled_for($crate::simd::level()) == $crate::simd::Level::Avx2 {
                    // SAFETY: `level` is one this CPU supports, and both of
                    // these have AVX2 and FMA.
                    return unsafe { wide($($arg),*) };
                }
            }
            $body::<{ $crate::runtime::lanes::BASELINE_FMA }>($($arg),*)
        }
    };
}
pub(super) use multiversion;

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these results are exact")]
mod tests {
    use super::*;

    #[test]
    fn exp_matches_f64() {
        let mut worst = 0f64;
        for i in -8_700..8_870 {
            let x = i as f32 * 0.01 + 0.003;
            let exact = (x as f64).exp();
            for y in [exp::<true>(x), exp::<false>(x)] {
                worst = worst.max(((y as f64 - exact) / exact).abs());
            }
        }
        assert!(worst < 2.5e-7, "relative error {worst}");
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(200.0), f32::INFINITY);
        assert_eq!(exp::<true>(0.0), 1.0);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_matches_f64() {
        for i in -2000..2000 {
            let x = i as f32 * 0.01;
            let error = (tanh::<true>(x) as f64 - (x as f64).tanh()).abs();
            assert!(error < 2e-7, "tanh({x}) off by {error}");
        }
        assert_eq!(tanh::<true>(1000.0), 1.0);
        assert_eq!(tanh::<true>(-1000.0), -1.0);
    }
}
