//! Eight `f32` lanes with IEEE semantics on every target: each operation is
//! one rounding per lane, nothing is fused or reassociated, so an encoder
//! written with them gives the same bytes at every SIMD level.
//!
//! [`F32x8`] is the portable form and the form in memory; on x86-64 [`Avx`]
//! does the same in one register, where the compiler alone would not.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use std::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// Eight lanes to compute with.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn load(lanes: &F32x8) -> Self;

    fn store(self) -> F32x8;

    fn splat(x: f32) -> Self;

    /// The smaller of each pair (`other` where either is NaN).
    fn min(self, other: Self) -> Self;

    /// The larger of each pair (`other` where either is NaN).
    fn max(self, other: Self) -> Self;

    /// `yes` where `self < other`, else `no`.
    fn select_lt(self, other: Self, yes: Self, no: Self) -> Self;

    fn abs(self) -> Self;

    /// The nearest integer, ties to even, for lanes within 2^22 of zero (a
    /// zero may have either sign).
    fn round(self) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// `1 / self`, and 0 where `self` is so small that the quotient could
    /// overflow (or is 0, or NaN).
    #[inline(always)]
    fn recip_or_zero(self) -> Self {
        Self::splat(1e-30).select_lt(self.abs(), Self::splat(1.0) / self, Self::zero())
    }
}

/// Eight lanes in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(32))]
pub(super) struct F32x8(pub(super) [f32; LANES]);

impl F32x8 {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    fn zip(self, other: Self, op: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = op(self.0[l], other.0[l]);
        }
        Self(out)
    }

    /// The largest lane.
    #[inline(always)]
    pub(super) fn max_lane(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m })
    }

    /// The sum of the lanes in f64, first lane first.
    #[inline(always)]
    pub(super) fn sum_f64(self) -> f64 {
        self.0.into_iter().map(f64::from).sum()
    }
}

macro_rules! lanewise {
    ($($trait:ident $method:ident $op:tt),*) => {$(
        impl $trait for F32x8 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| a $op b)
            }
        }
    )*};
}

lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Lanes for F32x8 {
    #[inline(always)]
    fn load(lanes: &F32x8) -> Self {
        *lanes
    }

    #[inline(always)]
    fn store(self) -> F32x8 {
        self
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn select_lt(self, other: Self, yes: Self, no: Self) -> Self {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = if self.0[l] < other.0[l] { yes.0[l] } else { no.0[l] };
        }
        Self(out)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn round(self) -> Self {
        // 1.5 * 2^23 leaves no fraction bits.
        let magic = Self::splat(12_582_912.0);
        self + magic - magic
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(unsafe_code, reason = "x86 intrinsics")]
    use super::{Add, Div, F32x8, Lanes, Mul, Sub};
    use std::arch::x86_64 as x;

    /// Eight lanes in one register. Used only by functions compiled for AVX2,
    /// which run only where the CPU has it.
    #[derive(Clone, Copy)]
    pub(in crate::codec) struct Avx(x::__m256);

    macro_rules! lanewise {
        ($($trait:ident $method:ident $intrinsic:ident),*) => {$(
            impl $trait for Avx {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    // SAFETY: an `Avx` exists only where AVX2 is available.
                    Self(unsafe { x::$intrinsic(self.0, other.0) })
                }
            }
        )*};
    }

    lanewise!(Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

    impl Lanes for Avx {
        #[inline(always)]
        fn load(lanes: &F32x8) -> Self {
            // SAFETY: the callers run only where AVX2 is available; F32x8 is
            // 32 readable bytes, aligned to 32.
            Self(unsafe { x::_mm256_load_ps(lanes.0.as_ptr()) })
        }

        #[inline(always)]
        fn store(self) -> F32x8 {
            let mut out = F32x8::ZERO;
            // SAFETY: an `Avx` exists only where AVX2 is available; F32x8 is 32
            // writable bytes, aligned to 32.
            unsafe { x::_mm256_store_ps(out.0.as_mut_ptr(), self.0) };
            out
        }

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the callers run only where AVX2 is available.
            Self(unsafe { x::_mm256_set1_ps(value) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_min_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn select_lt(self, other: Self, yes: Self, no: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe {
                x::_mm256_blendv_ps(no.0, yes.0, x::_mm256_cmp_ps::<{ x::_CMP_LT_OQ }>(self.0, other.0))
            })
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_andnot_ps(x::_mm256_set1_ps(-0.0), self.0) })
        }

        #[inline(always)]
        fn round(self) -> Self {
            const NEAREST: i32 = x::_MM_FROUND_TO_NEAREST_INT | x::_MM_FROUND_NO_EXC;
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_round_ps::<NEAREST>(self.0) })
        }
    }
}

/// Defines `$name`, which runs `$body`, generic over lanes, with the lanes of
/// the level in use. Whatever `$body` calls must be inlined into it, so closures
/// that compute with lanes do not belong there: the compiler may leave them
/// outside the code that is compiled for the level.
macro_rules! at_each_level {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::codec::lanes::Avx>($($arg),*)
            }
            match $crate::simd::level() {
                // SAFETY: the level is only ever one this CPU supports, and
                // either has AVX2.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 | $crate::simd::Level::Avx512 => unsafe { avx2($($arg),*) },
                _ => $body::<$crate::codec::lanes::F32x8>($($arg),*),
            }
        }
    };
}
pub(super) use at_each_level;

/// `2^e`, for `-149 <= e <= 127` (beyond: 0 or infinity).
#[inline(always)]
pub(super) fn exp2i(e: i32) -> f32 {
    match e {
        128.. => f32::INFINITY,
        -126..=127 => f32::from_bits(((e + 127) as u32) << 23),
        -149..=-127 => f32::from_bits(1 << (e + 149)),
        _ => 0.0,
    }
}

/// `floor(log2(x))` of a positive finite `x`, at least -126.
#[inline(always)]
pub(super) fn exponent(x: f32) -> i32 {
    ((x.to_bits() >> 23) as i32 & 0xff).max(1) - 127
}
