//! Products with many vectors.

use super::super::cooperative::{self, Tiling};
use super::super::device::Gpu;
use super::super::input::Input;
use super::super::math::Math;
use super::super::pipeline::{Span, read, write};
use super::super::record::Step;
use super::{GpuMatrix, Output, Params, ROWS_WORKGROUP};
use crate::Result;

/// Rows and inputs of a tile of the plain `gemm`.
const TILE: u64 = 64;

impl GpuMatrix {
    /// The products with the first `count` vectors of `x`, from their floats, in
    /// f32.
    pub(in super::super) fn gemm(
        &self,
        gpu: &Gpu,
        x: &Input,
        count: u32,
        out: Output<'_>,
    ) -> Result<Vec<Step>> {
        let options = self.recipe.options.clone().with("VECTORS", self.recipe.unit / 4).flag("WEIGHTS");
        let mut tail = vec![(read(4), Span::from(&x.floats(gpu, self)?))];
        tail.extend(out.ports());
        self.steps(gpu, self.codec.gemm, &out.apply(options), &tail, |params| {
            let params = Params { tokens: count, x_stride: x.stride, y_stride: out.stride, ..params };
            (params, [u64::from(params.rows).div_ceil(TILE), u64::from(count).div_ceil(TILE), 1])
        })
    }

    /// Whether products with `count` vectors of inputs in this form go by
    /// cooperative matrices.
    pub(in super::super) fn cooperates(&self, gpu: &Gpu, math: Math, count: u32) -> bool {
        count > 1 && math.rounds() && self.factor.is_some() && gpu.abilities().cooperative.is_some()
    }

    /// The same products as the input's form allows: by cooperative matrices
    /// from its halves ([`Input::halve`]), else in f32.
    pub(in super::super) fn batch(
        &self,
        gpu: &Gpu,
        x: &Input,
        count: u32,
        out: Output<'_>,
    ) -> Result<Vec<Step>> {
        match gpu.abilities().cooperative.filter(|_| self.cooperates(gpu, x.math, count)) {
            Some(side) => self.tiled_gemm(gpu, x, count, out, Tiling::choose(side, self.rows, count)),
            None => self.gemm(gpu, x, count, out),
        }
    }

    /// The products by cooperative matrices, in workgroups of a shape.
    pub(in super::super) fn tiled_gemm(
        &self,
        gpu: &Gpu,
        x: &Input,
        count: u32,
        out: Output<'_>,
        tiling: Tiling,
    ) -> Result<Vec<Step>> {
        let (Some(side), Some(factor)) = (gpu.abilities().cooperative, self.factor) else {
            return Err(gpu.error("no cooperative matrices"));
        };
        let unit = self.recipe.unit;
        let options = self.recipe.options.clone().with("VECTORS", unit / 4).flag("WEIGHTS");
        let halves = x.halves(gpu, self)?;
        let mut tail = vec![(read(4), Span::from(&halves.values)), (read(5), Span::from(&halves.scales))];
        tail.extend(out.ports());
        let options = tiling.apply(out.apply(options), side, unit);
        self.steps(gpu, self.codec.gemm, &options, &tail, |params| {
            let params = Params { tokens: count, x_stride: x.stride, y_stride: out.stride, factor, ..params };
            let [x, y] = tiling.grid(side, params.rows, count);
            (params, [x, y, 1])
        })
    }

    /// Raises word `index` of `peaks` to the bits of the largest weight.
    pub(in super::super) fn peak(&self, gpu: &Gpu, peaks: &wgpu::Buffer, index: u32) -> Result<Vec<Step>> {
        let options = self.recipe.options.clone().with("VECTORS", self.recipe.unit / 4);
        let options = options.with("WG", ROWS_WORKGROUP as u32).flag("WEIGHTS").flag("PEAK");
        let units = u64::from(self.units());
        self.steps(gpu, self.codec.rows, &options, &[(write(6), Span::from(peaks))], |params| {
            let groups = (units * u64::from(params.rows)).div_ceil(ROWS_WORKGROUP);
            (Params { share: index, ..params }, [groups, 0, 1])
        })
    }

    /// Finds the largest weights of `matrices`, after which they multiply by
    /// cooperative matrices if those are finite.
    pub(in super::super) fn measure<'m>(
        gpu: &Gpu,
        matrices: impl IntoIterator<Item = &'m mut Self>,
    ) -> Result<()> {
        let mut matrices: Vec<_> = matrices.into_iter().collect();
        let peaks = gpu.storage(4 * matrices.len() as u64)?;
        for (index, matrix) in (0..).zip(&matrices) {
            gpu.submit(&matrix.peak(gpu, &peaks, index)?);
        }
        let words = gpu.read(&peaks, 0..4 * matrices.len() as u64)?;
        for (matrix, bits) in matrices.iter_mut().zip(words.as_chunks::<4>().0) {
            matrix.factor = cooperative::factor(u32::from_le_bytes(*bits));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::codec::GPU_CODECS;
    use super::super::super::tests::{Case, gpu, layouts};
    use super::*;
    use crate::codec::codec;

    /// Of whole units; those of a partial one may hold larger weights beyond the
    /// columns. Rotated weights are others than the decoded ones.
    #[test]
    fn the_largest_weight_is_found() {
        let Some(gpu) = gpu() else { return };
        for gpu_codec in GPU_CODECS {
            for (options, factor) in layouts(gpu_codec.id) {
                let cases = [(1, 256), (37, 512), (9, 100)]
                    .map(|(rows, cols)| Case::new(codec(gpu_codec.id).unwrap(), rows, cols, factor, options));
                let mut matrices: Vec<_> = cases.iter().map(|case| case.load(gpu)).collect();
                GpuMatrix::measure(gpu, &mut matrices).unwrap();
                for (matrix, case) in matrices.iter().zip(&cases) {
                    let most = case.decoded.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                    let about = format!("{} {}x{}: {most}", gpu_codec.id, matrix.rows, matrix.cols);
                    let found = matrix.factor.unwrap_or_else(|| panic!("{about}"));
                    if matrix.rotation.is_some() {
                        assert!(found.is_normal(), "{about}");
                    } else if matrix.cols.is_multiple_of(256) {
                        assert_eq!(Some(found), cooperative::factor(most.to_bits()), "{about}");
                        assert!((16384.0..32768.0).contains(&(found * most)), "{about}");
                    } else {
                        assert!(found * most < 32768.0, "{about}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_no_power_of_two() {
        assert_eq!(cooperative::factor(f32::INFINITY.to_bits()), None);
        assert_eq!(cooperative::factor(f32::NAN.to_bits()), None);
        assert_eq!(cooperative::factor(f32::MAX.to_bits()), Some(2f32.powi(-113)));
        // Where the largest is zero, or next to it, any normal power does.
        assert!(cooperative::factor(0).is_some_and(f32::is_normal));
    }
}
