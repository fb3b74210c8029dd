//! A list of what the codes of TBE3 do not hold, for kernels that look at codes
//! alone.
//!
//! Such a kernel takes every weight of a superblock with base exponent b for one with
//! exponent b - 1 + code, code 0 (an escape) included, and then adds the differences
//! that are listed. In a superblock that is not [`ordinary`] it counts nothing, and
//! every weight but zeros is listed.
//!
//! Four escapes of a superblock are a quad of words. Each is the weight, in the upper
//! half, and its column in the superblock, 10 bits. Above the first one's are the
//! superblock's number in its run, above the second's and third's the upper and lower
//! half of the exponent of its scale, b + 6: numbers with exponents [`ZERO`] + code
//! times that are the weights. 0 stands for superblocks that are not ordinary.

use super::decode::{Corrupt, bf16};
use super::payload::{Payload, Superblock, nibble_table};
use super::{corrupt, open};
use crate::Result;
use crate::codec::Encoded;
use rayon::prelude::*;
use squizd_spec::tbe;

/// Superblocks of a row whose escapes are listed together.
const RUN: usize = 16;
/// Escapes of a superblock are padded to a multiple of this with some that add nothing.
const QUAD: usize = 4;
/// `ZERO` of `zip.wgsl`: the exponent of code 0.
const ZERO: u8 = 120;
/// Bits that columns take.
const COLUMN_BITS: u32 = 12;

/// Whether exponents b - 1 to b + 6 of a superblock are all of normal numbers.
fn ordinary(base: u8) -> bool {
    (2..=248).contains(&base)
}

/// The list for `tensor`, which is of profile [`tbe::TBE3`]: where the quads of each
/// run of each row begin, counted from the list's beginning, and where the last ones
/// end, padded to a quad; then the quads.
///
/// # Errors
/// If the payload contradicts itself.
pub(crate) fn escapes(tensor: &Encoded<'_>) -> Result<Vec<u32>> {
    let Some(payload) = open(tensor, &(0..0), 0)?.filter(|p| p.profile == tbe::TBE3) else {
        return Ok(Vec::new());
    };
    let rows: Vec<Row> = (0..payload.rows)
        .into_par_iter()
        .with_min_len(16)
        .map(|row| listed(&payload, row))
        .collect::<std::result::Result<_, Corrupt>>()
        .map_err(|at| corrupt(tensor.name, at))?;
    let runs: usize = rows.iter().map(|row| row.ends.len()).sum();
    let mut quads = (runs + 1).div_ceil(QUAD);
    let mut list = vec![quads as u32];
    for row in &rows {
        list.extend(row.ends.iter().map(|end| (quads + end) as u32));
        quads += row.escapes.len() / QUAD;
    }
    list.resize(list.len().next_multiple_of(QUAD), 0);
    list.reserve(QUAD * quads - list.len());
    for row in &rows {
        list.extend_from_slice(&row.escapes);
    }
    Ok(list)
}

/// What is listed of a row.
struct Row {
    /// Quads up to each run's end.
    ends: Vec<usize>,
    escapes: Vec<u32>,
}

fn listed(payload: &Payload<'_>, row: usize) -> std::result::Result<Row, Corrupt> {
    let mut list = Row { ends: Vec::new(), escapes: Vec::new() };
    for first in (0..payload.per_row).step_by(RUN) {
        for s in first..payload.per_row.min(first + RUN) {
            let before = list.escapes.len();
            let block = payload.superblock(row, s).ok_or(Corrupt { row, superblock: s })?;
            add(&block, &mut list.escapes).ok_or(Corrupt { row, superblock: s })?;
            // A number counted as what it is adds nothing, nor does zero where nothing counts.
            let (nothing, scale) = if ordinary(block.base) {
                (u32::from(bf16(0, block.base - 1)) << 16, block.base + (126 - ZERO))
            } else {
                (0, 0)
            };
            list.escapes.resize(list.escapes.len().next_multiple_of(QUAD), nothing);
            for quad in list.escapes.get_mut(before..).unwrap_or_default().as_chunks_mut::<QUAD>().0 {
                quad[0] |= ((s - first) as u32) << COLUMN_BITS;
                quad[1] |= u32::from(scale >> 4) << COLUMN_BITS;
                quad[2] |= u32::from(scale & 15) << COLUMN_BITS;
            }
        }
        list.ends.push(list.escapes.len() / QUAD);
    }
    Ok(list)
}

/// Lists what there is of `block`; `None` if its part of the side stream ends too soon.
fn add(block: &Superblock<'_>, list: &mut Vec<u32>) -> Option<()> {
    let Superblock { width, base, .. } = *block;
    let (low, rest) = block.planes.split_at_checked(width)?;
    let (middle, high) = rest.split_at_checked(width)?;
    let words = |plane| <[u8]>::as_chunks::<4>(plane).0.iter().map(|w| u32::from_le_bytes(*w));
    let ordinary = ordinary(base);
    let table = nibble_table(base);
    let mut number = 0;
    for (q, ((low, middle), high)) in words(low).zip(words(middle)).zip(words(high)).enumerate() {
        let mut bits = if ordinary { !(low | middle | high) } else { u32::MAX };
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let code = (low >> bit & 1) | (middle >> bit & 1) << 1 | (high >> bit & 1) << 2;
            let exponent = if code > 0 {
                base.wrapping_add(code as u8 - 1)
            } else {
                let exponent = if block.nibbles {
                    let pair = block.stream.get(number / 2)?;
                    *table.get(usize::from(pair >> (number % 2 * 4) & 15))?
                } else {
                    *block.stream.get(number)?
                };
                number += 1;
                exponent
            };
            let at = bit as usize % 8 * width + 4 * q + bit as usize / 8;
            let weight = bf16(*block.signs.get(at)?, exponent);
            let counts = if ordinary { exponent != base - 1 } else { weight & 0x7fff != 0 };
            if at < block.weights && counts {
                list.push(u32::from(weight) << 16 | at as u32);
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::SUPERBLOCK;
    use super::*;
    use crate::codec::tca_tbe::{CODEC, decode_bf16};
    use crate::codec::testing::{MemoryRows, encode_as, gaussian};
    use squizd_spec::{DType, Params};

    /// The weights as a kernel takes them from codes and list, in f64.
    fn rebuilt(payload: &Payload<'_>, list: &[u32]) -> Vec<f64> {
        let per_row = payload.per_row.div_ceil(RUN);
        let float = |bits: u32| f64::from(f32::from_bits(bits));
        let mut all = Vec::new();
        for row in 0..payload.rows {
            let mut weights = Vec::new();
            for s in 0..payload.per_row {
                let block = payload.superblock(row, s).unwrap();
                let bit = |plane: usize, at: usize| {
                    let byte = block.planes[plane * block.width + at % block.width];
                    u32::from(byte >> (at / block.width) & 1)
                };
                weights.extend((0..block.weights).map(|at| {
                    let code = bit(0, at) | bit(1, at) << 1 | bit(2, at) << 2;
                    let exponent = u32::from(block.base).wrapping_sub(1).wrapping_add(code) & 255;
                    let counted = float(u32::from(bf16(block.signs[at], exponent as u8)) << 16);
                    if ordinary(block.base) { counted } else { 0.0 }
                }));
            }
            for run in 0..per_row {
                let ends = list[row * per_row + run] as usize..list[row * per_row + run + 1] as usize;
                for quad in list.as_chunks::<QUAD>().0.iter().take(ends.end).skip(ends.start) {
                    let [number, high, low, _] = quad.map(|word| word >> COLUMN_BITS & 15);
                    let scale = float((high << 4 | low) << 23);
                    for escape in quad {
                        let s = run * RUN + number as usize;
                        let counted = scale * float(escape & 0x807f_0000 | u32::from(ZERO) << 23);
                        let listed = float(escape & 0xffff_0000);
                        // What adds nothing is padding.
                        if (listed - counted).abs() > 0.0 {
                            let weight = &mut weights[s * SUPERBLOCK + (escape & 1023) as usize];
                            assert!((*weight - counted).abs() <= 0.0, "{weight:e} {counted:e}");
                            *weight = listed;
                        }
                    }
                }
            }
            all.extend(weights);
        }
        all
    }

    /// Escapes as nibbles and as bytes, in rows of several runs and in partial
    /// superblocks, exponents at both ends, and whole superblocks of zeros.
    #[test]
    fn codes_and_list_are_the_weights() {
        let mut params = Params::default();
        params[0] = tbe::TBE3;
        for (rows, cols) in [(3, 40), (2, 1100), (2, 17_500)] {
            for (small, size) in [(0.02, 1.0), (1e-20, 1e-18), (1.0, 3e37)] {
                let values = gaussian(rows * cols, 5).into_iter().enumerate().map(|(i, v)| match i % 3000 {
                    0..1024 if rows == 2 => 0.0,
                    1200..2300 if i % 50 == 0 => v * small,
                    2300.. => v * size * f32::from_bits(1 << 23),
                    _ => v * size,
                });
                let words: Vec<u16> = values.map(|v| (v.to_bits() >> 16) as u16).collect();
                let values = words.iter().map(|w| f32::from_bits(u32::from(*w) << 16)).collect();
                let native = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                let source = MemoryRows::native(rows as u64, cols as u64, DType::BF16, native, values);
                let stored = encode_as(CODEC, &source, &params).unwrap();
                let mut decoded = vec![0; words.len()];
                decode_bf16(&stored.view(), 0..rows as u64, &mut decoded).unwrap();
                let view = stored.view();
                let payload = open(&view, &(0..0), 0).unwrap().unwrap();
                let list = escapes(&view).unwrap();
                for (i, (got, want)) in rebuilt(&payload, &list).iter().zip(&decoded).enumerate() {
                    let want = f64::from(f32::from_bits(u32::from(*want) << 16));
                    assert!((got - want).abs() <= 0.0, "{rows}x{cols} {size:e} {i}: {got:e} {want:e}");
                }
            }
        }
    }

    #[test]
    fn a_side_stream_that_ends_too_soon_is_refused() {
        let mut params = Params::default();
        params[0] = tbe::TBE3;
        let values: Vec<f32> = (0..64).map(|i| f32::from_bits((0x3f80_0000 - (i % 40)) << 16)).collect();
        let source = MemoryRows::for_codec(CODEC, 1, 64, values);
        let mut stored = encode_as(CODEC, &source, &params).unwrap();
        assert!(escapes(&stored.view()).is_ok());
        // The index says that the part begins far behind.
        stored.data[256] = 0xff;
        assert!(escapes(&stored.view()).is_err());
    }
}
