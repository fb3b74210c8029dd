//! Products that skip the bytes of inactive clusters of neurons.
//!
//! A feed-forward layer's neurons lie in clusters (section 12 of the format),
//! of which a mask says who takes part in a token. `ffn_gate` and `ffn_up` skip
//! the rows of the others, whose outputs are zero; `ffn_down` skips units of
//! columns none of which takes part, and what it multiplies is zero there, for
//! gating made it of those zeros. The mask is given, by whatever predicts it.

use super::device::Gpu;
use super::input::Input;
use super::matrix::{GpuMatrix, Output};
use super::pipeline::{Span, read, write};
use super::record::Step;
use crate::{Error, Result};
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

/// Invocations of a workgroup that lists.
const WORKGROUP: u64 = 64;

/// Along which side of a matrix its neurons lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// `ffn_gate`, `ffn_up`.
    Rows,
    /// `ffn_down`.
    Columns,
}

impl Axis {
    /// The flag of the frame.
    pub(super) const fn flag(self) -> &'static str {
        match self {
            Self::Rows => "LISTED_ROWS",
            Self::Columns => "LISTED_UNITS",
        }
    }
}

/// The clusters of a layer, and a mask of them.
#[derive(Debug)]
pub(super) struct Clusters {
    boundaries: wgpu::Buffer,
    mask: wgpu::Buffer,
    count: u32,
}

/// `Active` of the shader.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct ActiveParams {
    items: u32,
    width: u32,
    clusters: u32,
}

impl Clusters {
    /// Clusters that begin at `boundaries`, the last of which is the number of
    /// neurons.
    ///
    /// # Errors
    /// If there is none, or the device has no memory for them.
    pub(super) fn new(gpu: &Gpu, boundaries: &[u32]) -> Result<Self> {
        let count = u32::try_from(boundaries.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if count == 0 || count == u32::MAX {
            return Err(Error::invalid(format!("{} boundaries of clusters", boundaries.len())));
        }
        let bytes: Vec<u8> = boundaries.iter().flat_map(|b| b.to_le_bytes()).collect();
        Ok(Self {
            boundaries: gpu.upload(&bytes, &mut |_| {})?,
            mask: gpu.storage(4 * u64::from(count))?,
            count,
        })
    }

    /// Sets the mask: a word for each cluster, not 0 for active ones.
    pub(super) fn set(&self, gpu: &Gpu, mask: &[u32]) {
        let mask = mask.get(..self.count as usize).unwrap_or(mask);
        gpu.write(&self.mask, mask.as_bytes());
    }

    /// What of `matrix` the mask leaves, and the step that finds out.
    ///
    /// # Errors
    /// As for other steps.
    pub(super) fn list(&self, gpu: &Gpu, matrix: &GpuMatrix, axis: Axis) -> Result<(Listed, Step)> {
        let (items, width) = match axis {
            Axis::Rows => (matrix.rows(), 1),
            Axis::Columns => (matrix.units(), matrix.unit()),
        };
        let items_buffer = gpu.storage(4 * (u64::from(items) + 1))?;
        let options = Options::default().with("WG", WORKGROUP as u32);
        let pipeline = gpu.pipeline("active", &options, &[read(0), read(1), write(2)])?;
        let spans = [Span::from(&self.boundaries), Span::from(&self.mask), Span::from(&items_buffer)];
        let params = ActiveParams { items, width, clusters: self.count };
        let step = Step::new(gpu, &pipeline, &spans, &params, u64::from(items).div_ceil(WORKGROUP))?;
        Ok((Listed { axis, items: items_buffer }, step))
    }
}

/// The rows or units of a matrix that take part.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) axis: Axis,
    /// How many, then which, then the others.
    pub(super) items: wgpu::Buffer,
}

impl GpuMatrix {
    /// The product with the first vector of `x` over what is listed: other rows
    /// are zero, other units are not read.
    ///
    /// # Errors
    /// As for other products; an unsupported one if the matrix needs more than
    /// one binding, or there is a bias.
    pub(super) fn sparse_gemv(
        &self,
        gpu: &Gpu,
        x: &Input,
        out: Output<'_>,
        listed: &Listed,
    ) -> Result<Vec<Step>> {
        if out.bias.is_some() {
            return Err(gpu.error("sparse products with a bias have no kernel"));
        }
        self.listed_gemv(gpu, x, out, listed.axis.flag(), &listed.items)
    }
}
