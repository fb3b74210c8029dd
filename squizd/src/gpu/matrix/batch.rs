//! Products with many vectors.

use super::super::cooperative::{self, Tiling};
use super::super::device::Gpu;
use super::super::input::Input;
use super::super::math::Math;
use super::super::pipeline::{Span, read, write};
use super::super::record::Step;
use super::{GpuMatrix, Output, Params, ROWS_WORKGROUP};
use crate::Result;
use squizd_shaders::Options;

/// Rows and inputs of a tile of the plain `gemm`.
const TILE: u64 = 64;
/// Weights of a word of bit planes.
const WORD: u32 = 32;

impl GpuMatrix {
    /// Options of `gemm`, and the columns of its units: in superblocks of bit planes,
    /// those of a word of each.
    fn batch_options(&self) -> (Options, u32) {
        let options = self.recipe.options.clone().flag("WEIGHTS");
        match options.constant("CLUSTER") {
            Some(_) => (options.flag("WORDS_OF_PLANES").with("VECTORS", WORD / 4), WORD),
            None => (options.with("VECTORS", self.recipe.unit / 4), self.recipe.unit),
        }
    }

    /// The products with the first `count` vectors of `x`, from their floats, in
    /// f32.
    pub(in super::super) fn gemm(
        &self,
        gpu: &Gpu,
        x: &Input,
        count: u32,
        out: Output<'_>,
    ) -> Result<Vec<Step>> {
        let (options, unit) = self.batch_options();
        let units = self.cols.div_ceil(unit);
        let mut tail = vec![(read(4), Span::from(&x.floats(gpu, self)?))];
        tail.extend(out.ports());
        self.steps(gpu, self.codec.gemm, &out.apply(options), &tail, |params| {
            let params = Params { tokens: count, units, x_stride: x.stride, y_stride: out.stride, ..params };
            (params, [u64::from(params.rows).div_ceil(TILE), u64::from(count).div_ceil(TILE), 1])
        })
    }

    /// Whether products with `count` vectors of inputs in this form go by
    /// cooperative matrices.
    pub(in super::super) fn cooperates(&self, gpu: &Gpu, math: Math, count: u32) -> bool {
        count > 1 && math.rounds() && self.factor.is_some() && gpu.abilities().cooperative.is_some()
    }

    /// The workgroups' shape for `count` inputs, by matrices of `side`. Many columns at a
    /// time are not worth it where an invocation has too many weights to decode then
    /// (SQINT2), or takes a row's units in order (bit planes).
    pub(in super::super) fn tiling(&self, side: u32, count: u32) -> Tiling {
        let deep = self.recipe.height().is_none() && self.recipe.options.constant("CLUSTER").is_none();
        Tiling::choose(side, self.rows, count, deep)
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
            Some(side) => self.tiled_gemm(gpu, x, count, out, self.tiling(side, count)),
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
        let (mut options, unit) = self.batch_options();
        let units = self.cols.div_ceil(unit);
        if self.direct {
            options = options.flag("F16");
        }
        let halves = x.halves(gpu, self)?;
        let mut tail = vec![(read(4), Span::from(&halves.values)), (read(5), Span::from(&halves.scales))];
        tail.extend(out.ports());
        let options = tiling.apply(out.apply(options), side, unit);
        self.steps(gpu, self.codec.gemm, &options, &tail, |params| {
            let strides = Params { x_stride: x.stride, y_stride: out.stride, ..params };
            let params = Params { tokens: count, units, factor, ..strides };
            let [x, y] = tiling.grid(side, params.rows, count);
            (params, [x, y, 1])
        })
    }

    /// Raises word `index` of `peaks` to the bits of the largest weight, and the
    /// next one to those of the largest of what integer codecs make weights of.
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
        let peaks = gpu.storage(8 * matrices.len() as u64)?;
        for (index, matrix) in (0..).step_by(2).zip(&matrices) {
            gpu.submit(&matrix.peak(gpu, &peaks, index)?);
        }
        let words = gpu.read(&peaks, 0..8 * matrices.len() as u64)?;
        let words = words.as_chunks::<4>().0.as_chunks::<2>().0;
        for (matrix, [most, extent]) in matrices.iter_mut().zip(words) {
            matrix.factor = cooperative::factor(u32::from_le_bytes(*most));
            let extent = f32::from_le_bytes(*extent);
            let within = |factor| extent * factor <= f32::from(half::f16::MAX);
            matrix.direct =
                matrix.recipe.options.flags.contains(&"SCALED") && matrix.factor.is_some_and(within);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::codec::GPU_CODECS;
    use super::super::super::tests::{Case, gpu, layouts};
    use super::*;
    use crate::codec::{EncodeOptions, codec};
    use squizd_spec::CodecId;

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

    /// Scales far from their weights, which no half holds under the same power.
    #[test]
    fn far_scales_are_found() {
        let Some(gpu) = gpu() else { return };
        let options = EncodeOptions { group_size: Some(32), ..EncodeOptions::NONE };
        let case = Case::new(codec(CodecId::INT4).unwrap(), 2, 256, 1.0, options);
        let geometry = CodecId::INT4.geometry(case.sample.matrix, &case.sample.params).unwrap();
        let [codes, scales] = [0, 1].map(|i| geometry.planes[i].offset as usize);
        let found = [(0.5f32, -3.0f32), (0.0, 1.0), (4096.0, -32752.0)].map(|(scale, offset)| {
            // All codes are 8: weights are 8 scale + offset.
            let mut sample = case.sample.clone();
            sample.data[codes..codes + 2 * 128].fill(0x88);
            let pair = [scale, offset].map(|v| half::f16::from_f32(v).to_le_bytes()).concat();
            sample.data[scales..scales + 2 * 8 * 4].copy_from_slice(&pair.repeat(2 * 8));
            let mut matrix = Case { sample, decoded: Vec::new() }.load(gpu);
            GpuMatrix::measure(gpu, [&mut matrix]).unwrap();
            (matrix.factor, matrix.direct)
        });
        let power = |exponent| Some(2f32.powi(exponent));
        assert_eq!(found, [(power(14), true), (power(14), true), (power(10), false)]);
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
