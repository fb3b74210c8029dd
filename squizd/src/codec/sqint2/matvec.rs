//! Stored weights times a vector: `W x = (W R^T) (R x)`.
//!
//! The activation is rotated once, in O(n log n), for all matrices that share
//! it and for all their tasks. In the 8-bit precision the table's signed bytes
//! meet the rotated input's: 16 rows of 4 columns, as a tile stores them, are
//! the operand of one four-byte dot product. Where a level has no kernel for a
//! window length (AVX2 and NEON beyond 8 bits), both precisions use floats.

use super::decode::Parts;
use super::form::{Coding, Form};
use super::levels;
use super::tile::{SIDE, TILE, Trellis, place, values};
use crate::codec::activation::Rotated;
use crate::codec::{Activation, Encoded, Kernel, Precision};
use crate::simd::{Level, level, multiversion};
use std::ops::Range;

/// Columns of the input under one scale.
pub(super) const SCALED: usize = 32;

/// `y[i] = dot(row rows.start + i, x)`; NaN where sizes do not go together.
pub(super) fn rows(tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
    let cols = tensor.matrix.cols as usize;
    let parts = Parts::of(tensor, &rows, y.len(), 1).ok().filter(|_| x.x().len() == cols && cols > 0);
    let Some(parts) = parts else {
        y.fill(f32::NAN);
        return;
    };
    let rotation = parts.form.rotation(cols);
    let rotated = x.rotated(parts.form.rotation_key(), |x| rotation.forward(x));
    let mut y = y.iter_mut();
    match parts.form.coding {
        Coding::Levels => {
            for (row, y) in rows.zip(y) {
                *y = levels::dot(&parts, row, &rotated.floats);
            }
        }
        Coding::Trellis { trellis, .. } => {
            let path = Path::of(level(), x.precision(), trellis);
            for (wanted, tiles) in parts.strips(trellis, rows) {
                let sums = path.strip(parts.form, trellis, tiles, &rotated);
                for (row, y) in wanted.zip(y.by_ref()) {
                    *y = parts.scale(row, 0) * sums[(row % SIDE as u64) as usize];
                }
            }
        }
    }
}

/// The code that multiplies rows of a trellis by inputs in `precision`.
pub(super) fn kernel(trellis: Trellis, precision: Precision, asked: Level) -> Kernel {
    Path::of(asked, precision, trellis).kernel(asked)
}

/// How the products of a strip are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Plain loops over floats or bytes: the references.
    Floats,
    Bytes,
    /// Floats by gathers.
    #[cfg(target_arch = "x86_64")]
    Gather,
    /// Bytes, the table in registers.
    #[cfg(target_arch = "x86_64")]
    Pshufb,
    #[cfg(target_arch = "x86_64")]
    Vbmi,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Path {
    /// The fastest of a level that this CPU supports.
    fn of(level: Level, precision: Precision, trellis: Trellis) -> Self {
        let bytes = precision == Precision::Q8;
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if bytes && super::vbmi::is_supported() => Self::Vbmi,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 if bytes && trellis.window == 8 => Self::Pshufb,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => Self::Gather,
            #[cfg(target_arch = "aarch64")]
            Level::Neon if bytes && trellis.window == 8 => Self::Neon,
            _ if bytes => Self::Bytes,
            _ => Self::Floats,
        }
    }

    /// What it is called where `asked` is the level in use.
    const fn kernel(self, asked: Level) -> Kernel {
        match self {
            Self::Floats | Self::Bytes => Kernel::compiled(asked),
            #[cfg(target_arch = "x86_64")]
            Self::Gather => Kernel::avx2(asked, "gather"),
            #[cfg(target_arch = "x86_64")]
            Self::Pshufb => Kernel::avx2(asked, "pshufb"),
            #[cfg(target_arch = "x86_64")]
            Self::Vbmi => Kernel::with(asked, "vbmi"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Kernel::with(asked, "dotprod"),
        }
    }

    /// Sums of table values times the rotated input, by row of the strip.
    #[allow(unsafe_code, reason = "calls kernels for a level that this CPU supports")]
    fn strip(self, form: Form, trellis: Trellis, tiles: &[u8], x: &Rotated) -> [f32; SIDE] {
        let mut sums = [0.0; SIDE];
        match self {
            Self::Floats => floats(trellis, form.table(), tiles, &x.floats, &mut sums),
            Self::Bytes => bytes(trellis, form.table(), tiles, x, &mut sums),
            // SAFETY: `of` chose it at AVX2 or AVX-512, which have AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Self::Gather => unsafe {
                super::gather::product(trellis, form.floats(), tiles, &x.floats, &mut sums);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Pshufb => unsafe { super::pshufb::product(trellis, form.table(), tiles, x, &mut sums) },
            // SAFETY: `of` chose it at AVX-512 where VBMI is there as well.
            #[cfg(target_arch = "x86_64")]
            Self::Vbmi => unsafe { super::vbmi::product(trellis, form.table(), tiles, x, &mut sums) },
            // SAFETY: `of` chose it at NEON, which has the dot product extension.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { super::neon::product(trellis, form.table(), tiles, x, &mut sums) },
        }
        sums
    }
}

multiversion! {
    fn floats(trellis: Trellis, table: &[i8], tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) = floats_lanes;
}

#[inline(always)]
fn floats_lanes(trellis: Trellis, table: &[i8], tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) {
    let mut coded = [0; TILE];
    for (tile, x) in tiles.chunks_exact(trellis.bytes()).zip(x.as_chunks::<SIDE>().0) {
        values(tile, trellis, table, &mut coded);
        for (t, value) in coded.iter().enumerate() {
            let (r, c) = place(t);
            sums[r] += f32::from(*value) * x[c];
        }
    }
}

multiversion! {
    fn bytes(trellis: Trellis, table: &[i8], tiles: &[u8], x: &Rotated, sums: &mut [f32; SIDE]) = bytes_lanes;
}

#[inline(always)]
fn bytes_lanes(trellis: Trellis, table: &[i8], tiles: &[u8], x: &Rotated, sums: &mut [f32; SIDE]) {
    let mut coded = [0; TILE];
    let blocks = x.codes.as_chunks::<SCALED>().0.iter().zip(&x.scales);
    for (tiles, (codes, scale)) in tiles.chunks(2 * trellis.bytes()).zip(blocks) {
        let mut dots = [0i32; SIDE];
        for (tile, codes) in tiles.chunks_exact(trellis.bytes()).zip(codes.as_chunks::<SIDE>().0) {
            values(tile, trellis, table, &mut coded);
            for (t, value) in coded.iter().enumerate() {
                let (r, c) = place(t);
                dots[r] += i32::from(*value) * i32::from(codes[c]);
            }
        }
        for (sum, dot) in sums.iter_mut().zip(dots) {
            *sum += scale * dot as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::gaussian;

    #[test]
    fn kernels_agree_at_every_rate_window_and_width() {
        for window in [8, 10, 12] {
            for rate in 16..=32 {
                let form = Form::new(576, Coding::trellis(rate, window), super::super::form::Scales::Single);
                let Coding::Trellis { trellis, .. } = form.coding else { continue };
                for tiles in [1, 2, 5] {
                    let mut state = u32::from(rate) * 77 + tiles as u32;
                    let stored: Vec<u8> = (0..tiles * trellis.bytes())
                        .map(|_| {
                            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            (state >> 24) as u8
                        })
                        .collect();
                    let cols = tiles * SIDE;
                    let x = gaussian(cols, 3);
                    for (precision, reference) in
                        [(Precision::F32, Path::Floats), (Precision::Q8, Path::Bytes)]
                    {
                        let x = Activation::new(&x, precision);
                        let x = x.rotated((0, 0), |_| ());
                        let expected = reference.strip(form, trellis, &stored, &x);
                        for level in Level::supported() {
                            let path = Path::of(level, precision, trellis);
                            let got = path.strip(form, trellis, &stored, &x);
                            // A kernel of floats stands in for bytes here and there.
                            let exact =
                                [Path::Floats, Path::Bytes].map(|k| k.strip(form, trellis, &stored, &x));
                            let close =
                                |a: &[f32; SIDE]| a.iter().zip(&got).all(|(a, b)| (a - b).abs() <= 2e-3);
                            assert!(
                                close(&expected) || close(&exact[0]),
                                "{path:?} {window} {rate} {tiles}: {got:?} {expected:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_are_close_to_floats() {
        let form = Form::new(256, Coding::trellis(17, 8), super::super::form::Scales::Single);
        let Coding::Trellis { trellis, .. } = form.coding else { panic!("trellis") };
        let stored: Vec<u8> = (0..16 * trellis.bytes()).map(|i| ((i * i * 31) >> 3) as u8).collect();
        let x = gaussian(256, 8);
        let x = Activation::new(&x, Precision::Q8);
        let x = x.rotated((0, 0), |_| ());
        let [a, b] = [Path::Floats, Path::Bytes].map(|k| k.strip(form, trellis, &stored, &x));
        // 36 sqrt(256) is the size of a sum.
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.01 * 576.0), "{a:?} {b:?}");
    }
}
