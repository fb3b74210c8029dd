//! Products of batches by the device's cooperative matrices: halves, summed in
//! f32 (`shaders/gemm_coop.wgsl`).
#![allow(unsafe_code, reason = "wgpu's consent to experimental features")]

use super::adapter::subgroup_sizes;
use super::device::Gpu;
use super::input::Input;
use super::math::Math;
use super::pipeline::{Span, read, write};
use super::record::Step;
use crate::Result;
use serde::Serialize;
use squizd_shaders::Options;

/// Invocations of a subgroup that the kernel reckons with.
const SUBGROUP: u32 = 32;
/// Invocations of `halves`.
const WORKGROUP: u32 = 256;

/// Side of the cooperative matrices that kernels can use on an adapter.
pub(super) fn side(adapter: &wgpu::Adapter) -> Option<u32> {
    let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP;
    let info = adapter.get_info();
    let known = subgroup_sizes(&info) == (SUBGROUP, SUBGROUP);
    if !known || !adapter.features().contains(needed) {
        return None;
    }
    let kinds = adapter.cooperative_matrix_properties();
    let room = adapter.limits().max_compute_workgroup_storage_size;
    [16, 8].into_iter().find(|side| {
        Tiling::largest(*side).memory(*side) <= room
            && kinds.iter().any(|kind| {
                [kind.m_size, kind.n_size, kind.k_size] == [*side; 3]
                    && kind.ab_type == wgpu::CooperativeScalarType::F16
                    && kind.cr_type == wgpu::CooperativeScalarType::F32
            })
    })
}

/// What a device is opened with.
pub(super) fn consent(cooperative: bool) -> wgpu::ExperimentalFeatures {
    if !cooperative {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: the one such feature that is asked for is cooperative matrices, and
    // their one user is `gemm_coop.wgsl`, from the crate's own shaders. What they
    // are not checked for is where loads and stores end: there, all are of
    // workgroup memory, at constant distances from tiles that lie within it for
    // every subgroup of 32, as many as the workgroup has; `side` takes adapters
    // of such subgroups only. Control flow around them depends on workgroups
    // and numbers of the dispatch alone.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Shape of a workgroup of the cooperative `gemm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tiling {
    /// Matrices of a subgroup, along rows and along inputs.
    pub frags: [u32; 2],
    /// Subgroups, likewise.
    pub warps: [u32; 2],
    /// Columns at a time.
    pub depth: u32,
}

impl std::fmt::Display for Tiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { frags, warps, depth } = self;
        write!(f, "frags{}x{} warps{}x{} depth{depth}", frags[0], frags[1], warps[0], warps[1])
    }
}

impl Tiling {
    const fn of(frags: [u32; 2], warps: [u32; 2], depth: u32) -> Self {
        Self { frags, warps, depth }
    }

    /// The one of most workgroup memory.
    const fn largest(side: u32) -> Self {
        // Measured on an H200; not on Metal.
        match side {
            16 => Self::of([4, 2], [2, 4], 32),
            _ => Self::of([4, 4], [2, 2], 32),
        }
    }

    /// For matrices of `side`, `rows` rows and `count` inputs: large tiles where
    /// they keep the device busy; small ones, `deep` ones where these are few.
    pub(super) fn choose(side: u32, rows: u32, count: u32, deep: bool) -> Self {
        let busy = |tiling: Self| tiling.workgroups(side, rows, count) >= BUSY;
        let (large, small) = (Self::largest(side), Self::of([2, 2], [2, 2], 32));
        if count > small.tokens(side) && busy(large) {
            large
        } else if side == 8 || !deep || busy(small) {
            small
        } else {
            Self::of([2, 2], [2, 2], 64)
        }
    }

    /// What a search tries.
    pub(super) fn candidates() -> Vec<Self> {
        let shapes = [
            ([4, 4], [2, 2]),
            ([2, 4], [4, 2]),
            ([2, 4], [2, 2]),
            ([4, 2], [2, 2]),
            ([2, 2], [2, 2]),
            ([4, 2], [2, 4]),
            ([4, 4], [2, 1]),
            ([2, 2], [4, 2]),
        ];
        [32, 64].into_iter().flat_map(|depth| shapes.map(|(f, w)| Self::of(f, w, depth))).collect()
    }

    /// Rows of a workgroup.
    fn rows(self, side: u32) -> u32 {
        side * self.frags[0] * self.warps[0]
    }

    /// Inputs of a workgroup.
    fn tokens(self, side: u32) -> u32 {
        side * self.frags[1] * self.warps[1]
    }

    fn workgroups(self, side: u32, rows: u32, count: u32) -> u64 {
        let [x, y] = self.grid(side, rows, count);
        x * y
    }

    /// Workgroups along rows and inputs.
    pub(super) fn grid(self, side: u32, rows: u32, count: u32) -> [u64; 2] {
        [rows.div_ceil(self.rows(side)).into(), count.div_ceil(self.tokens(side)).into()]
    }

    /// Bytes of workgroup memory.
    pub(super) fn memory(self, side: u32) -> u32 {
        let tiles = 2 * (self.rows(side) + self.tokens(side)) * (self.depth + 8) * 2;
        tiles + 4 * self.warps[0] * self.warps[1] * side * side
    }

    /// The options of the shader, of units of `unit` columns.
    pub(super) fn apply(self, options: Options, side: u32, unit: u32) -> Options {
        let invocations = SUBGROUP * self.warps[0] * self.warps[1];
        let options = options
            .with("FRAGS_R", self.frags[0])
            .with("FRAGS_T", self.frags[1])
            .with("WARPS_R", self.warps[0])
            .with("WARPS_T", self.warps[1])
            .with("DEPTH", self.depth)
            .with("TURNS", self.depth / side)
            .with("UNITS", (self.rows(side) * self.depth / unit).div_ceil(invocations))
            .with("X_QUADS", self.tokens(side) * self.depth / 4 / invocations)
            .flag("COOP");
        if side == 8 { options.flag("EIGHT") } else { options }
    }
}

/// Workgroups that keep a device busy.
const BUSY: u64 = 96;

impl Math {
    /// Whether products of batches may round inputs and weights to halves.
    pub(super) const fn rounds(self) -> bool {
        matches!(self, Self::I8 | Self::F16)
    }
}

/// Vectors as halves, each under a power of two of its own.
#[derive(Clone, Debug)]
pub(super) struct Halves {
    pub(super) values: wgpu::Buffer,
    /// What takes the powers of two off again.
    pub(super) scales: wgpu::Buffer,
}

impl Halves {
    /// Room for the vectors of `input`.
    pub(super) fn new(gpu: &Gpu, input: &Input) -> Result<Self> {
        let count = u64::from(input.count);
        Ok(Self {
            values: gpu.storage(2 * u64::from(input.stride) * count)?,
            scales: gpu.storage(4 * count)?,
        })
    }

    /// Makes them of the first `count` vectors of `floats`, `stride` apart.
    pub(super) fn make(&self, gpu: &Gpu, floats: &wgpu::Buffer, stride: u32, count: u32) -> Result<Step> {
        let options = Options::default().with("WG", WORKGROUP);
        let pipeline = gpu.pipeline("halves", &options, &[read(0), write(4), write(5)])?;
        let spans = [Span::from(floats), Span::from(&self.values), Span::from(&self.scales)];
        Step::in_grid(gpu, &pipeline, &spans, &(stride / 4), [u64::from(count), 1, 1])
    }
}

/// The power of two that brings a largest weight of these bits to 2^14 and more,
/// below 2^15; `None` if it is not finite.
pub(super) fn factor(peak: u32) -> Option<f32> {
    let exponent = (peak >> 23).max(15);
    (exponent < 255).then(|| f32::from_bits((268 - exponent) << 23))
}

#[cfg(test)]
mod tests {
    use super::super::sample::gaussian;
    use super::super::tests::gpu;
    use super::*;

    #[test]
    fn halves_keep_eleven_bits_of_any_size() {
        let Some(gpu) = gpu() else { return };
        let (width, sizes) = (1100usize, [1.0f32, 1e-30, 1e30, 0.0, 7e4]);
        let input = Input::new(gpu, Math::F16, width as u32, sizes.len() as u32).unwrap();
        let stride = input.stride as usize;
        let mut x = vec![0.0; stride * sizes.len()];
        for (i, (row, size)) in x.chunks_mut(stride).zip(sizes).enumerate() {
            let values = gaussian(width, i as u64 + 1);
            row.iter_mut().zip(values).for_each(|(x, v)| *x = v * size);
        }
        gpu.write(&input.values, zerocopy::IntoBytes::as_bytes(&x[..]));
        let halves = Halves::new(gpu, &input).unwrap();
        let count = sizes.len() as u32;
        gpu.submit(&[halves.make(gpu, &input.values, input.stride, count).unwrap()]);
        let scales = gpu.read_f32(&halves.scales, sizes.len()).unwrap();
        let bytes = gpu.read(&halves.values, 0..2 * x.len() as u64).unwrap();
        for (i, bits) in bytes.as_chunks::<2>().0.iter().enumerate() {
            let kept = f64::from(half::f16::from_le_bytes(*bits)) * f64::from(scales[i / stride]);
            // The second and the third of every four have changed places.
            let x = f64::from(x[i / 4 * 4 + [0, 2, 1, 3][i % 4]]);
            // To nearest, or (as lavapipe does) towards zero.
            assert!(
                (kept - x).abs() <= x.abs() / 1024.0 + f64::from(scales[i / stride]) * 6e-8,
                "{kept} for {x}"
            );
        }
    }

    #[test]
    fn a_workgroup_shares_its_tiles_evenly() {
        for side in [8, 16] {
            for tiling in Tiling::candidates() {
                let invocations = SUBGROUP * tiling.warps[0] * tiling.warps[1];
                let about = format!("{side}: {tiling}");
                assert!(invocations != SUBGROUP, "{about}");
                assert_eq!(tiling.tokens(side) * tiling.depth / 4 % invocations, 0, "{about}");
                assert_eq!(tiling.depth % side, 0, "{about}");
            }
            for (rows, count) in [(1, 2), (4096, 64), (4096, 512), (28_672, 512), (1 << 20, 5)] {
                let deep = count == 64;
                let chosen = Tiling::choose(side, rows, count, deep);
                assert!(chosen.memory(side) <= 48 << 10, "{chosen}");
                let [x, y] = chosen.grid(side, rows, count);
                assert!(x * u64::from(chosen.rows(side)) >= u64::from(rows));
                assert!(y * u64::from(chosen.tokens(side)) >= u64::from(count));
            }
        }
    }
}
