//! Sixteen unsigned 16-bit lanes with the same integer results on every
//! target: [`U16x16`] is the portable form and the form in memory, on x86-64
//! [`Avx`] does the same in one register.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

/// Lanes of a vector.
pub(super) const WORDS: usize = 16;

/// Sixteen lanes to compute with; sums and differences wrap.
pub(super) trait Words: Copy {
    fn load(lanes: &U16x16) -> Self;

    fn store(self) -> U16x16;

    fn splat(x: u16) -> Self;

    fn plus(self, other: Self) -> Self;

    fn minus(self, other: Self) -> Self;

    fn min(self, other: Self) -> Self;

    /// The magnitude of the difference of lanes below 2^15.
    fn distance(self, other: Self) -> Self;

    /// Shifted left by `bits` below 16.
    fn shifted(self, bits: u32) -> Self;

    /// The upper halves of the products.
    fn high_product(self, other: Self) -> Self;

    /// The least lane.
    fn least(self) -> u16;
}

/// Sixteen lanes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub(super) struct U16x16(pub(super) [u16; WORDS]);

impl U16x16 {
    pub(super) const ZERO: Self = Self([0; WORDS]);

    #[inline(always)]
    fn zip(self, other: Self, op: impl Fn(u16, u16) -> u16) -> Self {
        let mut out = [0; WORDS];
        for l in 0..WORDS {
            out[l] = op(self.0[l], other.0[l]);
        }
        Self(out)
    }
}

impl Words for U16x16 {
    #[inline(always)]
    fn load(lanes: &U16x16) -> Self {
        *lanes
    }

    #[inline(always)]
    fn store(self) -> U16x16 {
        self
    }

    #[inline(always)]
    fn splat(x: u16) -> Self {
        Self([x; WORDS])
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, u16::wrapping_add)
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.zip(other, u16::wrapping_sub)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn distance(self, other: Self) -> Self {
        self.zip(other, u16::abs_diff)
    }

    #[inline(always)]
    fn shifted(self, bits: u32) -> Self {
        Self(self.0.map(|x| x.wrapping_shl(bits)))
    }

    #[inline(always)]
    fn high_product(self, other: Self) -> Self {
        self.zip(other, |a, b| (u32::from(a).wrapping_mul(u32::from(b)) >> 16) as u16)
    }

    #[inline(always)]
    fn least(self) -> u16 {
        self.0.into_iter().fold(u16::MAX, u16::min)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(unsafe_code, reason = "x86 intrinsics")]
    use super::{U16x16, Words};
    use std::arch::x86_64 as x;

    /// Sixteen lanes in one register. Used only by functions compiled for AVX2,
    /// which run only where the CPU has it.
    #[derive(Clone, Copy)]
    pub(in crate::codec::astc) struct Avx(x::__m256i);

    impl Words for Avx {
        #[inline(always)]
        fn load(lanes: &U16x16) -> Self {
            // SAFETY: the callers run only where AVX2 is available; U16x16 is 32
            // readable bytes, aligned to 32.
            Self(unsafe { x::_mm256_load_si256(lanes.0.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self) -> U16x16 {
            let mut out = U16x16::ZERO;
            // SAFETY: an `Avx` exists only where AVX2 is available; U16x16 is 32
            // writable bytes, aligned to 32.
            unsafe { x::_mm256_store_si256(out.0.as_mut_ptr().cast(), self.0) };
            out
        }

        #[inline(always)]
        fn splat(value: u16) -> Self {
            // SAFETY: the callers run only where AVX2 is available.
            Self(unsafe { x::_mm256_set1_epi16(value.cast_signed()) })
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_add_epi16(self.0, other.0) })
        }

        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_sub_epi16(self.0, other.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_min_epu16(self.0, other.0) })
        }

        #[inline(always)]
        fn distance(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_abs_epi16(x::_mm256_sub_epi16(self.0, other.0)) })
        }

        #[inline(always)]
        fn shifted(self, bits: u32) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_sll_epi16(self.0, x::_mm_cvtsi32_si128(bits.cast_signed())) })
        }

        #[inline(always)]
        fn high_product(self, other: Self) -> Self {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            Self(unsafe { x::_mm256_mulhi_epu16(self.0, other.0) })
        }

        #[inline(always)]
        fn least(self) -> u16 {
            // SAFETY: an `Avx` exists only where AVX2 is available.
            unsafe {
                let halves = x::_mm_min_epu16(
                    x::_mm256_castsi256_si128(self.0),
                    x::_mm256_extracti128_si256::<1>(self.0),
                );
                x::_mm_cvtsi128_si32(x::_mm_minpos_epu16(halves)) as u16
            }
        }
    }
}
