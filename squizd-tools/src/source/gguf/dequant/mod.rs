//! Blocks to f32, bit for bit as the `gguf` package's `quants.py` computes
//! them: every product and difference below is one f32 operation in its order,
//! never fused. (A NaN stays NaN; its payload is the processor's.)
//!
//! Each decoder walks fixed-size blocks with fixed-size inner loops that the
//! compiler vectorises. Rows are whole blocks, so any run of rows is one run
//! of blocks.

mod classic;
mod four_bit;
mod grids;
mod iq_quants;
mod k_quants;
mod one_bit;
mod plain;
#[cfg(test)]
mod vectors;

use squizd_spec::DType;

/// Decodes whole blocks; both slices hold the same number of blocks, what
/// does not pair up is left alone.
pub type Decoder = fn(&[u8], &mut [f32]);

/// The decoder of `dtype`, `None` for types that are only carried.
pub fn decoder(dtype: DType) -> Option<Decoder> {
    Some(match dtype {
        DType::F32 => plain::f32,
        DType::F16 => plain::f16,
        DType::BF16 => plain::bf16,
        DType::I8 => plain::i8,
        DType::Q4_0 => classic::q4_0,
        DType::Q4_1 => classic::q4_1,
        DType::Q5_0 => classic::q5_0,
        DType::Q5_1 => classic::q5_1,
        DType::Q8_0 => classic::q8_0,
        DType::Q2_K => k_quants::q2_k,
        DType::Q3_K => k_quants::q3_k,
        DType::Q4_K => k_quants::q4_k,
        DType::Q5_K => k_quants::q5_k,
        DType::Q6_K => k_quants::q6_k,
        DType::IQ4_NL => four_bit::iq4_nl,
        DType::IQ4_XS => four_bit::iq4_xs,
        DType::MXFP4 => four_bit::mxfp4,
        DType::NVFP4 => four_bit::nvfp4,
        DType::IQ3_S => iq_quants::iq3_s,
        DType::IQ3_XXS => iq_quants::iq3_xxs,
        DType::IQ2_S => iq_quants::iq2_s,
        DType::IQ2_XS => iq_quants::iq2_xs,
        DType::IQ2_XXS => iq_quants::iq2_xxs,
        DType::IQ1_M => one_bit::iq1_m,
        DType::IQ1_S => one_bit::iq1_s,
        DType::TQ1_0 => one_bit::tq1_0,
        DType::TQ2_0 => one_bit::tq2_0,
        _ => return None,
    })
}

/// Calls `decode` with each block of `BYTES` bytes and its `WEIGHTS` outputs.
#[inline(always)]
fn blocks<const BYTES: usize, const WEIGHTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    mut decode: impl FnMut(&[u8; BYTES], &mut [f32; WEIGHTS]),
) {
    for (block, weights) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, weights);
    }
}

/// The little-endian binary16 at `lo, hi`.
///
/// Branch-free, so that loops over it vectorise. Exponent field and mantissa
/// are shifted to f32's places; then normal numbers need the exponent bias
/// raised by 127 - 15 = 112, infinity and NaN by twice that, and a subnormal
/// m * 2^-24 is (2^-14 + m * 2^-24) - 2^-14, which is exact.
#[inline(always)]
fn half(lo: u8, hi: u8) -> f32 {
    const REBIAS: u32 = 112 << 23;
    const TWO_POW_MINUS_14: u32 = 113 << 23;
    let h = u32::from(u16::from_le_bytes([lo, hi]));
    let magnitude = (h & 0x7fff) << 13;
    let exponent = h & 0x7c00;
    let subnormal =
        (f32::from_bits(magnitude + TWO_POW_MINUS_14) - f32::from_bits(TWO_POW_MINUS_14)).to_bits();
    let normal = magnitude + REBIAS;
    let special = magnitude + REBIAS + REBIAS;
    let bits = if exponent == 0 {
        subnormal
    } else if exponent == 0x7c00 {
        special
    } else {
        normal
    };
    f32::from_bits(bits | (h & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_exactly() {
        for h in 0..=u16::MAX {
            let [lo, hi] = h.to_le_bytes();
            let wanted = half::f16::from_bits(h).to_f32();
            if wanted.is_nan() {
                // numpy keeps the payload and does not quiet it.
                let bits = (u32::from(h & 0x8000) << 16) | 0x7f80_0000 | (u32::from(h & 0x3ff) << 13);
                assert_eq!(half(lo, hi).to_bits(), bits);
            } else {
                assert_eq!(half(lo, hi).to_bits(), wanted.to_bits(), "{h:#06x}");
            }
        }
    }
}
