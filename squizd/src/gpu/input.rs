//! Activations on the device.

use super::cooperative::Halves;
use super::device::Gpu;
use super::math::Math;
use super::matrix::GpuMatrix;
use super::pipeline::{Span, read, write};
use super::record::Step;
use super::rotation::RotationKey;
use crate::Result;
use squizd_shaders::Options;
use std::cell::RefCell;
use zerocopy::{Immutable, IntoBytes};

/// Invocations of a workgroup of `prepare`.
const WORKGROUP: u64 = 64;

/// Values of a tile of the coded form (`input.wgsl`).
const TILE: u64 = 256;

/// Vectors of one width as kernels read them: floats, padded with zeros to a
/// multiple of 32, and what `prepare` makes of them.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) math: Math,
    /// Values of a vector, padding included.
    pub(super) stride: u32,
    /// Vectors.
    pub(super) count: u32,
    /// The floats.
    pub(super) values: wgpu::Buffer,
    /// The form of `math`, blocks of 32 in tiles of eight.
    pub(super) coded: wgpu::Buffer,
    /// Scale and sums of each block of 32.
    pub(super) sums: wgpu::Buffer,
    /// The floats under the rotations that were asked for.
    rotated: RefCell<Vec<(RotationKey, wgpu::Buffer)>>,
    /// The floats, or those under a rotation, as halves.
    halves: RefCell<Vec<(Option<RotationKey>, Halves)>>,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct PrepareParams {
    length: u32,
}

impl Input {
    /// Room for `count` vectors of `width` values.
    pub(super) fn new(gpu: &Gpu, math: Math, width: u32, count: u32) -> Result<Self> {
        let stride = width.next_multiple_of(32);
        let length = u64::from(stride) * u64::from(count);
        Ok(Self {
            math,
            stride,
            count,
            values: gpu.storage(4 * length)?,
            coded: gpu.storage(math.bytes() * length.next_multiple_of(TILE))?,
            sums: gpu.storage(length / 2)?,
            rotated: RefCell::default(),
            halves: RefCell::default(),
        })
    }

    /// Makes, of the floats of the first `count` vectors, what `matrices` take
    /// under their rotations: each rotation once.
    pub(super) fn rotate<'m>(
        &self,
        gpu: &Gpu,
        matrices: impl IntoIterator<Item = &'m GpuMatrix>,
        count: u32,
    ) -> Result<Vec<Step>> {
        let (mut steps, mut done) = (Vec::new(), Vec::new());
        for rotation in matrices.into_iter().filter_map(GpuMatrix::rotation) {
            if done.contains(&rotation.key) {
                continue;
            }
            done.push(rotation.key);
            let buffer = if let Some(buffer) = self.rotated(rotation.key) {
                buffer
            } else {
                let buffer = gpu.storage(4 * u64::from(self.stride) * u64::from(self.count))?;
                self.rotated.borrow_mut().push((rotation.key, buffer.clone()));
                buffer
            };
            steps.extend(rotation.forward(gpu, &self.values, &buffer, self.stride, count)?);
        }
        Ok(steps)
    }

    fn rotated(&self, key: RotationKey) -> Option<wgpu::Buffer> {
        self.rotated.borrow().iter().find(|(k, _)| *k == key).map(|(_, buffer)| buffer.clone())
    }

    /// The floats as `matrix` takes them.
    ///
    /// # Errors
    /// If [`Input::rotate`] was not asked for its rotation.
    pub(super) fn floats(&self, gpu: &Gpu, matrix: &GpuMatrix) -> Result<wgpu::Buffer> {
        let Some(rotation) = matrix.rotation() else { return Ok(self.values.clone()) };
        self.rotated(rotation.key).ok_or_else(|| gpu.error("an input has not been rotated"))
    }

    /// Makes, of the floats of the first `count` vectors, what products of
    /// `matrices` with them read.
    pub(super) fn ready<'m>(
        &self,
        gpu: &Gpu,
        matrices: impl IntoIterator<Item = &'m GpuMatrix> + Clone,
        count: u32,
    ) -> Result<Vec<Step>> {
        let mut steps = self.rotate(gpu, matrices.clone(), count)?;
        steps.extend(self.halve(gpu, matrices, count)?);
        Ok(steps)
    }

    /// Makes halves of what `matrices` take, for their products with the first
    /// `count` vectors by cooperative matrices: of each rotation once.
    pub(super) fn halve<'m>(
        &self,
        gpu: &Gpu,
        matrices: impl IntoIterator<Item = &'m GpuMatrix>,
        count: u32,
    ) -> Result<Vec<Step>> {
        let (mut steps, mut done) = (Vec::new(), Vec::new());
        for matrix in matrices {
            let key = matrix.rotation().map(|r| r.key);
            if !matrix.cooperates(gpu, self.math, count) || done.contains(&key) {
                continue;
            }
            done.push(key);
            let halves = if let Some(halves) = self.halved(key) {
                halves
            } else {
                let halves = Halves::new(gpu, self)?;
                self.halves.borrow_mut().push((key, halves.clone()));
                halves
            };
            steps.push(halves.make(gpu, &self.floats(gpu, matrix)?, self.stride, count)?);
        }
        Ok(steps)
    }

    fn halved(&self, key: Option<RotationKey>) -> Option<Halves> {
        self.halves.borrow().iter().find(|(k, _)| *k == key).map(|(_, halves)| halves.clone())
    }

    /// The halves that `matrix` takes.
    ///
    /// # Errors
    /// If [`Input::halve`] was not asked for them.
    pub(super) fn halves(&self, gpu: &Gpu, matrix: &GpuMatrix) -> Result<Halves> {
        self.halved(matrix.rotation().map(|r| r.key)).ok_or_else(|| gpu.error("an input is not in halves"))
    }

    /// Makes the coded form and the sums from the floats.
    pub(super) fn prepare(&self, gpu: &Gpu) -> Result<Step> {
        let mut options = Options::default().with("WG", WORKGROUP as u32);
        if let Some(flag) = self.math.emitted() {
            options = options.flag(flag);
        }
        let spans = [Span::from(&self.values), Span::from(&self.coded), Span::from(&self.sums)];
        let pipeline = gpu.pipeline("prepare", &options, &[read(0), write(4), write(5)])?;
        let length = self.stride * self.count;
        Step::new(
            gpu,
            &pipeline,
            &spans,
            &PrepareParams { length },
            u64::from(length / 4).div_ceil(WORKGROUP),
        )
    }
}
