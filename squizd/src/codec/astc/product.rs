//! Stored blocks times a vector: `y_i = r_i sum_j v_ij (c_j x_j)`.
//!
//! The column scales go into the input once; a block then adds 36 products of
//! palette values and inputs to 36 sums, which are added up by rows at the end.
//! AVX-512 finds 16 palette values in one permutation of two registers.

use super::decode::{TILE, block_row, strips};
use super::expand::{Expanded, PADDED, Tables, expand};
use super::{SIDE, Scales, TEXELS};
use crate::codec::stream::checked_geometry;
use crate::codec::{Activation, Encoded, Kernel};
use crate::simd::{Level, level, multiversion};
use squizd_spec::{CodecId, astc};
use std::ops::Range;

/// Rows of blocks whose sums are held at a time.
const STRIPS: usize = 8;
/// Floats behind the input that whole registers may load.
const MARGIN: usize = 16;

/// Sums of a block's texels, in its order.
type Sums = [f32; PADDED];

/// `y[i] = dot(row rows.start + i, x)`; NaN where sizes do not go together.
pub(super) fn rows(tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
    let cols = tensor.matrix.cols;
    let Ok(geometry) = checked_geometry(CodecId::ASTC, tensor, &rows, y.len(), 1) else {
        return y.fill(f32::NAN);
    };
    if x.x().len() as u64 != cols {
        return y.fill(f32::NAN);
    }
    let scales = Scales::of(tensor, &geometry);
    let (level, mut y) = (level(), y.iter_mut());
    let mut expanded = [Expanded::ZERO; TILE];
    let side = astc::SIDE;
    let mut start = rows.start;
    while start < rows.end {
        let group = start..rows.end.min((start / side + STRIPS as u64) * side);
        start = group.end;
        let mut sums = [[0.0; PADDED]; STRIPS];
        for (tile, x) in x.x().chunks(TILE * SIDE).enumerate() {
            let mut scaled = [0.0; TILE * SIDE + MARGIN];
            scales.columns(tile * TILE * SIDE, &mut scaled[..x.len()]);
            for (c, x) in scaled.iter_mut().zip(x) {
                *c *= x;
            }
            for (sums, (block_row_, _)) in sums.iter_mut().zip(strips(group.clone())) {
                let blocks = block_row(tensor, block_row_).get(tile * TILE..).unwrap_or_default();
                products(level, blocks.get(..TILE).unwrap_or(blocks), &scaled, &mut expanded, sums);
            }
        }
        for (sums, (block_row_, wanted)) in sums.iter().zip(strips(group)) {
            let first = block_row_ * side;
            for (row, y) in wanted.zip(&mut y) {
                let sums = sums.as_chunks::<SIDE>().0.get((row - first) as usize);
                *y = scales.row(row) * sums.map_or(f32::NAN, |s| s.iter().sum());
            }
        }
    }
}

/// The code that multiplies rows.
pub(super) const fn kernel(asked: Level) -> Kernel {
    match asked {
        Level::Avx512 => Kernel::with(asked, "permute"),
        _ => Kernel::compiled(asked),
    }
}

/// Adds the products of up to [`TILE`] blocks with `x`, six values a block and
/// [`MARGIN`] more, to `sums`; `tile` is room for the expanded blocks.
#[allow(unsafe_code, reason = "calls a kernel for a level that this CPU supports")]
fn products(
    level: Level,
    blocks: &[[u8; 16]],
    x: &[f32; TILE * SIDE + MARGIN],
    tile: &mut [Expanded; TILE],
    sums: &mut Sums,
) {
    match level {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::products(blocks, x, tile, sums) },
        _ => generic(blocks, x, tile, sums),
    }
}

multiversion! {
    fn generic(blocks: &[[u8; 16]], x: &[f32], tile: &mut [Expanded; TILE], sums: &mut Sums) = generic_lanes;
}

#[inline(always)]
fn generic_lanes(blocks: &[[u8; 16]], x: &[f32], tile: &mut [Expanded; TILE], sums: &mut Sums) {
    let tables = Tables::get();
    // All are expanded before their products: what one stores, a later one loads.
    for (block, stored) in tile.iter_mut().zip(blocks) {
        expand(tables, stored, block);
    }
    for (block, x) in tile.iter().zip(x.as_chunks::<SIDE>().0).take(blocks.len()) {
        let values: [f32; TEXELS] = std::array::from_fn(|i| block.value(i));
        for (i, (sum, v)) in sums.iter_mut().zip(values).enumerate() {
            *sum += v * x[i % SIDE];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(unsafe_code, reason = "x86 intrinsics")]
    use super::{Expanded, MARGIN, PADDED, SIDE, Sums, TEXELS, TILE, Tables, expand};
    use std::arch::x86_64 as x;

    /// Input of each texel; texels past the last are zeroed by a mask.
    const COLUMNS: [i32; PADDED] = {
        let mut columns = [0; PADDED];
        let mut i = 0;
        while i < TEXELS {
            columns[i] = (i % SIDE) as i32;
            i += 1;
        }
        columns
    };

    /// Adds the products of `blocks`, expanded in `tile`, with `inputs` to `sums`.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ and VL, and FMA.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn products(
        blocks: &[[u8; 16]],
        inputs: &[f32],
        tile: &mut [Expanded; TILE],
        sums: &mut Sums,
    ) {
        const THIRD: u16 = (1 << (TEXELS - 32)) - 1;
        assert!(blocks.len() <= TILE && inputs.len() >= blocks.len() * SIDE + MARGIN);
        let tables = Tables::get();
        // SAFETY: 48 words.
        let columns = [0, 16, 32].map(|at| unsafe { x::_mm512_loadu_si512(COLUMNS.as_ptr().add(at).cast()) });
        let mut acc = [x::_mm512_setzero_ps(); 3];
        for (block, stored) in tile.iter_mut().zip(blocks) {
            expand(tables, stored, block);
        }
        for (b, block) in tile.iter().enumerate().take(blocks.len()) {
            // SAFETY: 16 inputs from the block's first lie within the margin
            // by the assertion; palettes are 32 floats, levels and maps 48 bytes.
            unsafe {
                let x = x::_mm512_loadu_ps(inputs.as_ptr().add(b * SIDE));
                let palette: *const f32 = block.palette.as_ptr().cast();
                let (low, high) = (x::_mm512_load_ps(palette), x::_mm512_load_ps(palette.add(16)));
                for (i, (acc, columns)) in acc.iter_mut().zip(columns).enumerate() {
                    let levels = x::_mm_load_si128(block.levels.as_ptr().add(16 * i).cast());
                    let map = x::_mm_loadu_si128(block.map.as_ptr().add(16 * i).cast());
                    let indices = x::_mm512_cvtepu8_epi32(x::_mm_or_si128(levels, map));
                    let values = x::_mm512_permutex2var_ps(low, indices, high);
                    let used = if i == 2 { THIRD } else { u16::MAX };
                    let x = x::_mm512_maskz_permutexvar_ps(used, columns, x);
                    *acc = x::_mm512_fmadd_ps(values, x, *acc);
                }
            }
        }
        for (sums, acc) in sums.as_chunks_mut::<16>().0.iter_mut().zip(acc) {
            // SAFETY: 16 floats.
            unsafe {
                x::_mm512_storeu_ps(
                    sums.as_mut_ptr(),
                    x::_mm512_add_ps(x::_mm512_loadu_ps(sums.as_ptr()), acc),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CODEC, block};
    use super::*;
    use crate::codec::testing::{MemoryRows, encode_with, gaussian};
    use crate::codec::{EncodeOptions, Precision, Quality};

    #[test]
    fn levels_agree_over_ragged_shapes() {
        for quality in [Quality::Fast, Quality::Default, Quality::Max] {
            for (rows, cols) in [(1, 1), (6, 6), (7, 35), (13, 100), (12, 241)] {
                let options = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE };
                let source = MemoryRows::f32(rows, cols, gaussian((rows * cols) as usize, cols));
                let stored = encode_with(CODEC, &source, &options.into()).unwrap();
                let x = gaussian(cols as usize, 5);
                let decoded = stored.decode(CODEC);
                for precision in [Precision::F32, Precision::Q8] {
                    let x = Activation::new(&x, precision);
                    for (start, end) in [(0, rows), (rows / 2, rows), (rows - 1, rows)] {
                        let mut y = vec![f32::NAN; (end - start) as usize];
                        rows_of(&stored.view(), &x, start..end, &mut y);
                        for (y, w) in y.iter().zip(decoded.chunks(cols as usize).skip(start as usize)) {
                            let exact: f64 =
                                w.iter().zip(x.x()).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                            assert!((f64::from(*y) - exact).abs() < 1e-4, "{rows} x {cols}: {y} {exact}");
                        }
                    }
                }
            }
        }
    }

    fn rows_of(tensor: &Encoded<'_>, x: &Activation<'_>, range: Range<u64>, y: &mut [f32]) {
        rows(tensor, x, range, y);
    }

    #[test]
    fn levels_agree_on_every_mode() {
        use proptest::{strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};
        let mut runner = TestRunner::deterministic();
        let blocks: Vec<[u8; 16]> = (0..200)
            .map(|_| {
                block::Block::Levels(block::tests::symbols().new_tree(&mut runner).unwrap().current()).pack()
            })
            .collect();
        for count in [1, 5, 15, 16] {
            for blocks in blocks.chunks_exact(count) {
                let mut x = [0.0; TILE * SIDE + MARGIN];
                x.copy_from_slice(&gaussian(TILE * SIDE + MARGIN, 3));
                let sums = |level| {
                    let mut sums = [0.25; PADDED];
                    products(level, blocks, &x, &mut [Expanded::ZERO; TILE], &mut sums);
                    sums
                };
                let reference = sums(Level::Scalar);
                for level in Level::supported() {
                    let got = sums(level);
                    for (a, b) in reference[..TEXELS].iter().zip(&got) {
                        assert!((a - b).abs() < 1e-4, "{level} {count}: {a} {b}");
                    }
                }
            }
        }
    }
}
