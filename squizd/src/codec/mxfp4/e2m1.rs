//! The numbers of MXFP4 (OCP Microscaling v1.0, 5.3.3 and 5.4.1): elements
//! of sign, two exponent bits, one mantissa bit; a power of two for each 32.
//!
//! Kernels work with doubled elements, which are integers, and halved scales:
//! every product of a scale and an element is the same real number either way
//! and is rounded once, so nothing changes.

use crate::codec::lanes::Lanes;

/// Twice the value of each code, as bytes; code 8 is -0.
pub(in crate::codec) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The scale byte that means NaN.
pub(super) const NAN_SCALE: u8 = 255;

/// Half the scale of a stored byte: `2^(s - 128)`; NaN for 255.
#[inline(always)]
pub(in crate::codec) fn half_scale(s: u8) -> f32 {
    let bits = match s {
        // Subnormal: 2^-128 and 2^-127.
        0 | 1 => 0x0020_0000 << s,
        NAN_SCALE => 0x7fc0_0000,
        _ => (u32::from(s) - 1) << 23,
    };
    f32::from_bits(bits)
}

/// Twice the value of a code of 4 bits, -0 for code 8.
#[inline(always)]
pub(super) fn doubled(code: u8) -> f32 {
    let m = code & 7;
    let magnitude = m + u8::from(m > 4) + u8::from(m > 5) + 3 * u8::from(m > 6);
    f32::from_bits(f32::from(magnitude).to_bits() | u32::from(code >> 3) << 31)
}

/// What makes doubled elements unsigned.
pub(super) const RAISE: u8 = 12;

/// Twice the value of a code of 4 bits, plus [`RAISE`].
#[inline(always)]
pub(super) fn raised(code: u8) -> u8 {
    let m = code & 7;
    let magnitude = m + u8::from(m > 4) + u8::from(m > 5) + 3 * u8::from(m > 6);
    if code > 7 { RAISE - magnitude } else { RAISE + magnitude }
}

/// Non-negative numbers rounded to elements: to nearest, ties to the even
/// mantissa, beyond 6 to 6.
#[derive(Clone, Copy)]
pub(super) struct Rounded<V> {
    /// Multiples of `step`.
    steps: V,
    /// What lies between the elements around the number.
    step: V,
}

/// Rounds the lanes of `t`, none of them negative.
#[inline(always)]
pub(super) fn nearest<V: Lanes>(t: V) -> Rounded<V> {
    let t = t.min(V::splat(6.0));
    let [half, one, two, four] = [0.5, 1.0, 2.0, 4.0].map(V::splat);
    let step = t.select_lt(two, half, t.select_lt(four, one, two));
    let per_one = t.select_lt(two, two, t.select_lt(four, one, half));
    Rounded { steps: (t * per_one).round(), step }
}

impl<V: Lanes> Rounded<V> {
    /// The elements.
    #[inline(always)]
    pub(super) fn values(self) -> V {
        self.steps * self.step
    }

    /// Their codes, as numbers: multiples of 1/2 below 2 are the codes 0 to 4
    /// (2 included), then come 2, 3, 4 as 4 to 6, then 4 and 6 as 6 and 7.
    #[inline(always)]
    pub(super) fn codes(self) -> V {
        let [one, two, four] = [1.0, 2.0, 4.0].map(V::splat);
        self.steps + self.step.select_lt(one, V::zero(), self.step.select_lt(two, two, four))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::lanes::F32x8;

    /// Values by the definition: exponent bias 1, subnormals at exponent 0.
    fn defined(code: u8) -> f32 {
        let (exponent, mantissa) = (code >> 1 & 3, f32::from(code & 1));
        let magnitude = match exponent {
            0 => mantissa / 2.0,
            e => (1.0 + mantissa / 2.0) * f32::from(1u8 << e) / 2.0,
        };
        if code & 8 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn codes_have_their_values() {
        for code in 0..16 {
            assert_eq!((doubled(code) / 2.0).to_bits(), defined(code).to_bits(), "{code}");
            assert_eq!(i32::from(DOUBLED[usize::from(code)]), (defined(code) * 2.0) as i32, "{code}");
        }
        for s in 0..=254u8 {
            assert_eq!(half_scale(s).to_bits(), (2f64.powi(i32::from(s) - 128) as f32).to_bits(), "{s}");
        }
        assert!(half_scale(255).is_nan());
    }

    fn rounded(t: f32) -> (u8, f32) {
        let rounded = nearest(F32x8([t; 8]));
        (rounded.codes().0[0] as u8, rounded.values().0[0])
    }

    #[test]
    fn rounding_is_to_nearest_ties_to_even_and_saturates() {
        for i in 0..=4096u16 {
            let t = f32::from(i) / 512.0;
            let best = (0..8).min_by(|a, b| {
                let error = |c: u8| (defined(c) - t).abs();
                // The even code of two that are as near.
                error(*a).total_cmp(&error(*b)).then((a % 2).cmp(&(b % 2)))
            });
            let (code, value) = rounded(t);
            assert_eq!(Some(code), best, "{t}");
            assert_eq!(value.to_bits(), defined(code).to_bits(), "{t}");
        }
        assert_eq!(rounded(f32::MAX), (7, 6.0));
    }
}
