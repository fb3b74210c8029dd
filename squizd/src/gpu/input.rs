//! Activations on the device.

use super::cooperative::Halves;
use super::device::Gpu;
use super::math::Math;
use super::matrix::GpuMatrix;
use super::pipeline::{Span, read, write};
use super::record::Step;
use super::rotation::{Rotation, RotationKey, Source};
use crate::Result;
use squizd_shaders::Options;
use std::cell::RefCell;
use zerocopy::{Immutable, IntoBytes};

/// Invocations of a workgroup of `prepare`.
const WORKGROUP: u64 = 64;

/// Values of a tile of the coded form (`input.wgsl`).
const TILE: u64 = 256;

/// Floats, padded with zeros to a multiple of 32, and where their coded form goes.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    pub(super) values: wgpu::Buffer,
    pub(super) form: Option<Form>,
}

/// A coded form of floats.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) math: Math,
    /// Blocks of 32 in tiles of eight.
    pub(super) coded: wgpu::Buffer,
    /// Scale and sums of each block of 32.
    pub(super) sums: wgpu::Buffer,
}

impl Form {
    /// Room for that of `length` floats.
    fn new(gpu: &Gpu, math: Math, length: u64) -> Result<Self> {
        let coded = gpu.storage(math.bytes() * length.next_multiple_of(TILE))?;
        Ok(Self { math, coded, sums: gpu.storage(length / 2)? })
    }
}

impl Coded {
    /// Makes the coded form, if it is wanted, of `length` floats.
    pub(super) fn prepare(&self, gpu: &Gpu, length: u32) -> Result<Option<Step>> {
        let Some(form) = &self.form else { return Ok(None) };
        prepare(gpu, &self.values, form, length).map(Some)
    }
}

/// Makes the coded form and the sums of `length` floats.
fn prepare(gpu: &Gpu, values: &wgpu::Buffer, form: &Form, length: u32) -> Result<Step> {
    let mut options = Options::default().with("WG", WORKGROUP as u32);
    if let Some(flag) = form.math.emitted() {
        options = options.flag(flag);
    }
    let spans = [Span::from(values), Span::from(&form.coded), Span::from(&form.sums)];
    let pipeline = gpu.pipeline("prepare", &options, &[read(0), write(4), write(5)])?;
    let workgroups = u64::from(length / 4).div_ceil(WORKGROUP);
    Step::new(gpu, &pipeline, &spans, &PrepareParams { length }, workgroups)
}

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
    /// The form of `math`.
    pub(super) form: Form,
    /// The same under the rotations that were asked for.
    rotated: RefCell<Vec<(RotationKey, Coded)>>,
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
            form: Form::new(gpu, math, length)?,
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
        self.rotate_from(gpu, Source::Floats(&self.values), matrices, count)
    }

    /// The same of `count` vectors of `source`, which stand in for the floats.
    pub(super) fn rotate_from<'m>(
        &self,
        gpu: &Gpu,
        source: Source<'_>,
        matrices: impl IntoIterator<Item = &'m GpuMatrix>,
        count: u32,
    ) -> Result<Vec<Step>> {
        let (mut steps, mut done) = (Vec::new(), Vec::new());
        for rotation in matrices.into_iter().filter_map(GpuMatrix::rotation) {
            if done.contains(&rotation.key) {
                continue;
            }
            done.push(rotation.key);
            let to = if let Some(to) = self.rotated(rotation.key) {
                to
            } else {
                let length = u64::from(self.stride) * u64::from(self.count);
                // Without a form of their own, kernels read floats.
                let coded = self.math != Math::F32;
                let form = coded.then(|| Form::new(gpu, self.math, length)).transpose()?;
                let to = Coded { values: gpu.storage(4 * length)?, form };
                self.rotated.borrow_mut().push((rotation.key, to.clone()));
                to
            };
            steps.extend(rotation.forward(gpu, source, &to, self.stride, count)?);
        }
        Ok(steps)
    }

    fn rotated(&self, key: RotationKey) -> Option<Coded> {
        self.rotated.borrow().iter().find(|(k, _)| *k == key).map(|(_, to)| to.clone())
    }

    /// What [`Input::rotate`] made for `matrix`.
    fn rotated_for(&self, gpu: &Gpu, rotation: &Rotation) -> Result<Coded> {
        self.rotated(rotation.key).ok_or_else(|| gpu.error("an input has not been rotated"))
    }

    /// The coded form as `matrix` takes it.
    ///
    /// # Errors
    /// If [`Input::rotate`] was not asked for its rotation.
    pub(super) fn form(&self, gpu: &Gpu, matrix: &GpuMatrix) -> Result<Form> {
        let Some(rotation) = matrix.rotation() else { return Ok(self.form.clone()) };
        let form = self.rotated_for(gpu, rotation)?.form;
        form.ok_or_else(|| gpu.error("a rotated input has no coded form"))
    }

    /// The floats as `matrix` takes them.
    ///
    /// # Errors
    /// If [`Input::rotate`] was not asked for its rotation.
    pub(super) fn floats(&self, gpu: &Gpu, matrix: &GpuMatrix) -> Result<wgpu::Buffer> {
        let Some(rotation) = matrix.rotation() else { return Ok(self.values.clone()) };
        Ok(self.rotated_for(gpu, rotation)?.values)
    }

    /// Makes, of the floats of the first `count` vectors, what products of
    /// `matrices` with them read.
    pub(super) fn ready<'m>(
        &self,
        gpu: &Gpu,
        matrices: impl IntoIterator<Item = &'m GpuMatrix> + Clone,
        count: u32,
    ) -> Result<Vec<Step>> {
        self.ready_from(gpu, Source::Floats(&self.values), matrices, count)
    }

    /// The same of `count` vectors of `source`, if all `matrices` rotate their inputs.
    pub(super) fn ready_from<'m>(
        &self,
        gpu: &Gpu,
        source: Source<'_>,
        matrices: impl IntoIterator<Item = &'m GpuMatrix> + Clone,
        count: u32,
    ) -> Result<Vec<Step>> {
        let mut steps = self.rotate_from(gpu, source, matrices.clone(), count)?;
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
        prepare(gpu, &self.values, &self.form, self.stride * self.count)
    }
}
