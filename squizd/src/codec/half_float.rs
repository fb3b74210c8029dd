//! Conversions between `f32` and the 16-bit formats as plain lane arithmetic,
//! so that they vectorise and give the same bits everywhere.

/// The value of an IEEE binary16, exactly; NaN payloads keep their bits.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff) << 13;
    // Read as f32 the exponent is 112 too small; the product is exact, also
    // for subnormals. Exponent 31 (infinity, NaN) becomes 255 instead.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let bits = if magnitude >= 0x0f80_0000 { special } else { finite };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

/// The binary16 nearest to `x`, ties to even, overflowing to infinity; NaN
/// becomes a quiet NaN.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 13) & 1;
    // Normal: drop 13 mantissa bits with rounding, move the exponent bias.
    let normal = magnitude.wrapping_add(0x0fff + odd).wrapping_sub(112 << 23) >> 13;
    // Subnormal: adding 0.5 aligns the last place to 2^-24 and rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let small = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let result = if magnitude >= 0x477f_f000 { special } else { small };
    (sign | result) as u16
}

/// The value of a bfloat16.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// The bfloat16 nearest to `x`, ties to even, overflowing to infinity; NaN
/// becomes a quiet NaN.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_half_widens_as_the_half_crate_does_and_returns() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(h), f16::from_bits(h).to_f32());
            if theirs.is_nan() {
                assert!(ours.is_nan());
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{h:#06x}");
                assert_eq!(f32_to_f16(ours), h, "{h:#06x}");
            }
            if !bf16_to_f32(h).is_nan() {
                assert_eq!(f32_to_bf16(bf16_to_f32(h)), h);
            }
        }
    }

    #[test]
    fn narrowing_rounds_as_the_half_crate_does() {
        // Every exponent, with mantissas around the ties of both formats.
        for exponent in 0..=255u32 {
            for mantissa in
                (0..1u32 << 23).step_by(4093).chain([0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x7f_ffff])
            {
                for sign in [0, 1 << 31] {
                    let x = f32::from_bits(sign | exponent << 23 | mantissa);
                    if x.is_nan() {
                        assert!(f16_to_f32(f32_to_f16(x)).is_nan() && bf16_to_f32(f32_to_bf16(x)).is_nan());
                        continue;
                    }
                    assert_eq!(f32_to_f16(x), f16::from_f32(x).to_bits(), "{x:e}");
                    assert_eq!(f32_to_bf16(x), bf16::from_f32(x).to_bits(), "{x:e}");
                }
            }
        }
    }
}
