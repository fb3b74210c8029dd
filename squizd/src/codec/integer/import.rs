//! ggml's 4-bit blocks repacked without loss.
//!
//! | source | block | becomes |
//! |---|---|---|
//! | Q4_0 | f16 d, 16 bytes; `w = d (q - 8)` | plain, g = 32: scale d, offset -8d |
//! | Q4_1 | f16 d, f16 m, 16 bytes; `w = d q + m` | plain, g = 32: scale d, offset m |
//! | Q4_K | f16 d, f16 dmin, 12 bytes, 128 bytes | compact, bias 0, exponent 0 |
//!
//! Each weight decodes to the number that ggml's own dequantization gives;
//! only a zero that ggml makes from a negative d loses its sign. -8d is exact
//! unless it overflows, which is refused. Q2_K and Q3_K do not fit: their groups
//! of 16 have 4-bit scales and mins, or 6-bit scales.

use super::unit::OVERFLOW;
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use squizd_spec::DType;

/// A ggml block type that INT4 takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Q4_0,
    Q4_1,
    Q4K,
}

impl Block {
    /// The block type of a source type that codes of `bits` hold.
    pub(super) fn of(bits: u32, dtype: DType) -> Option<Self> {
        match dtype {
            DType::Q4_0 if bits == 4 => Some(Self::Q4_0),
            DType::Q4_1 if bits == 4 => Some(Self::Q4_1),
            DType::Q4_K if bits == 4 => Some(Self::Q4K),
            _ => None,
        }
    }

    /// Weights and bytes of a block.
    pub(super) const fn size(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q4K => (256, 144),
        }
    }

    /// Repacks blocks: codes, then scales. The index of the first block whose
    /// scales are not finite, or overflow, is an error.
    pub(super) fn repack(self, blocks: &[u8], codes: &mut [u8], scales: &mut [u8]) -> Result<(), usize> {
        let (weights, bytes) = self.size();
        let (code_bytes, scale_bytes) = (weights / 2, if self == Self::Q4K { 16 } else { 4 });
        blocks
            .chunks_exact(bytes)
            .zip(codes.chunks_exact_mut(code_bytes))
            .zip(scales.chunks_exact_mut(scale_bytes))
            .enumerate()
            .try_for_each(|(i, ((block, codes), scales))| {
                let finite = match self {
                    Self::Q4_0 => simple::<2>(block, codes, scales),
                    Self::Q4_1 => simple::<4>(block, codes, scales),
                    Self::Q4K => superblock(block, codes, scales),
                };
                finite.then_some(()).ok_or(i)
            })
    }
}

/// Q4_0 (`HEAD` = 2) and Q4_1 (4): ggml's nibble order is ours.
fn simple<const HEAD: usize>(block: &[u8], codes: &mut [u8], scales: &mut [u8]) -> bool {
    let Some((head, nibbles)) = block.split_first_chunk::<HEAD>() else { return false };
    codes.copy_from_slice(nibbles);
    let (d, rest) = (u16::from_le_bytes([head[0], head[1]]), &head[2..]);
    let offset = match *rest {
        [a, b] => u16::from_le_bytes([a, b]),
        _ => f32_to_f16(-8.0 * f16_to_f32(d)),
    };
    scales.copy_from_slice(&(u32::from(d) | u32::from(offset) << 16).to_le_bytes());
    finite(d) && finite(offset)
}

fn finite(f16_bits: u16) -> bool {
    f16_bits & 0x7fff < OVERFLOW
}

/// Q4_K: eight 6-bit scales and mins in 12 bytes, the last four split over
/// upper bits; 32 bytes hold the low nibbles of one group and the high ones
/// of the next.
fn superblock(block: &[u8], codes: &mut [u8], scales: &mut [u8]) -> bool {
    let Some((head, rest)) = block.split_first_chunk::<4>() else { return false };
    let Some((packed, nibbles)) = rest.split_first_chunk::<12>() else { return false };
    let mut words = u128::from(u32::from_le_bytes(*head));
    for g in 0..8 {
        let (sc, m) = if g < 4 {
            (packed[g] & 63, packed[g + 4] & 63)
        } else {
            (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
        };
        words |= (u128::from(sc) | u128::from(m) << 6) << (32 + 12 * g);
    }
    scales.copy_from_slice(&words.to_le_bytes());
    for (pair, out) in nibbles.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0) {
        let (low, high) = out.split_at_mut(16);
        for j in 0..16 {
            low[j] = pair[j] & 15 | pair[j + 16] << 4;
            high[j] = pair[j] >> 4 | pair[j + 16] & 0xf0;
        }
    }
    finite(u16::from_le_bytes([head[0], head[1]])) && finite(u16::from_le_bytes([head[2], head[3]]))
}
