//! The rotation under which SQINT2 stores weights, on the device.
//!
//! `W x = (W Rᵀ) (R x)`: inputs are rotated once for all matrices that share
//! them, looked-up rows are rotated back.

use super::device::Gpu;
use super::input::Coded;
use super::matrix::Made;
use super::pipeline::{Span, read, write};
use super::record::Step;
use crate::Result;
use crate::codec::DeviceRotation;
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

/// Columns that a workgroup holds: the 16 KiB of memory that every GPU has.
const SPACE: u32 = 4096;
const WORKGROUP: u32 = 256;

/// Tells rotations of one width apart.
pub(super) type RotationKey = (u64, u8);

/// What is rotated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// Floats.
    Floats(&'a wgpu::Buffer),
    /// What is made of others, from the vector of that number on.
    Made(&'a Made, u32),
}

/// A rotation of vectors of `cols` values.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    pub(super) key: RotationKey,
    cols: u32,
    /// Columns of a Hadamard matrix.
    block: u32,
    /// block^-1/2.
    unit: f32,
    signs: wgpu::Buffer,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct RotateParams {
    cols: u32,
    stride: u32,
    unit: f32,
    eps: f32,
    first: u32,
}

impl Rotation {
    pub(super) fn new(gpu: &Gpu, rotation: &DeviceRotation, cols: u32) -> Result<Self> {
        let DeviceRotation { seed, log_block, unit, .. } = *rotation;
        let signs = gpu.shared(format!("rotation {seed} {log_block} {cols}"), || {
            let words = |bits: &[u32]| -> Vec<u32> {
                bits.chunks(32).map(|c| c.iter().rev().fold(0, |word, sign| word << 1 | sign >> 31)).collect()
            };
            [words(&rotation.signs), words(&rotation.tail_signs)].concat().as_bytes().to_vec()
        })?;
        Ok(Self { key: (seed, log_block), cols, block: 1 << log_block, unit, signs })
    }

    /// `to = R from` for `count` vectors `stride` apart, zero-padded, with its
    /// coded form if that has buffers.
    pub(super) fn forward(
        &self,
        gpu: &Gpu,
        from: Source<'_>,
        to: &Coded,
        stride: u32,
        count: u32,
    ) -> Result<Vec<Step>> {
        let mut steps = Vec::with_capacity(3);
        let (whole, tail) = self.parts();
        let flags: &[_] = if whole { &["MAIN", "TAIL"] } else { &["MAIN"] };
        let coded = to.form.is_some() && !tail;
        steps.push(self.step(gpu, flags, Some(from), to, coded, [stride, count])?);
        if tail {
            steps.push(self.step(gpu, &["TAIL"], None, to, false, [stride, count])?);
            // The tail may begin within a block of 32.
            steps.extend(to.prepare(gpu, stride * count)?);
        }
        Ok(steps)
    }

    /// `y = Rᵀ y` for `count` vectors `stride` apart.
    pub(super) fn inverse(&self, gpu: &Gpu, y: &wgpu::Buffer, stride: u32, count: u32) -> Result<Vec<Step>> {
        let mut steps = Vec::with_capacity(2);
        let y = Coded { values: y.clone(), form: None };
        let (whole, tail) = self.parts();
        if tail {
            steps.push(self.step(gpu, &["TAIL", "INVERSE"], None, &y, false, [stride, count])?);
        }
        let flags: &[_] = if whole { &["MAIN", "TAIL", "INVERSE"] } else { &["MAIN", "INVERSE"] };
        steps.push(self.step(gpu, flags, None, &y, false, [stride, count])?);
        Ok(steps)
    }

    /// Whether one dispatch does blocks and tail, and whether the tail takes one
    /// of its own.
    fn parts(&self) -> (bool, bool) {
        let ragged = !self.cols.is_multiple_of(self.block);
        (ragged && self.cols <= SPACE, ragged && self.cols > SPACE)
    }

    fn step(
        &self,
        gpu: &Gpu,
        flags: &[&'static str],
        from: Option<Source<'_>>,
        y: &Coded,
        coded: bool,
        [stride, count]: [u32; 2],
    ) -> Result<Step> {
        let log = self.block.trailing_zeros();
        let main = flags.contains(&"MAIN");
        let held = if main { self.cols } else { self.block };
        // No less than a workgroup's worth, so that few variants are compiled.
        let space = held.next_power_of_two().clamp(WORKGROUP, SPACE);
        let mut options = Options::default().with("WG", WORKGROUP).with("LOG", log).with("BLOCK", self.block);
        options = options.with("SPACE", space);
        options = flags.iter().fold(options, |o, f| o.flag(f));
        if log % 2 == 1 {
            options = options.flag("ODD");
        }
        let (mut ports, mut spans) =
            (vec![write(1), read(2)], vec![Span::from(&y.values), Span::from(&self.signs)]);
        let (mut eps, mut first) = (0.0, 0);
        match from {
            Some(Source::Floats(from)) => {
                ports.push(read(0));
                spans.push(Span::from(from));
            }
            Some(Source::Made(made, number)) => {
                options = made.flags.iter().fold(options, |o, f| o.flag(f));
                ports.extend([read(0), read(3)]);
                spans.extend(made.spans.iter().cloned());
                (eps, first) = (made.eps, number);
            }
            None => options = options.flag("IN_PLACE"),
        }
        if let Some(form) = y.form.as_ref().filter(|_| coded) {
            options = form.math.emitted().iter().fold(options.flag("EMIT"), |o, f| o.flag(f));
            ports.extend([write(4), write(5)]);
            spans.extend([Span::from(&form.coded), Span::from(&form.sums)]);
        }
        let pipeline = gpu.pipeline("rotate", &options, &ports)?;
        let params = RotateParams { cols: self.cols, stride, unit: self.unit, eps, first };
        let segments = if main { self.cols.div_ceil(space) } else { 1 };
        Step::in_grid(gpu, &pipeline, &spans, &params, [u64::from(segments), u64::from(count), 1])
    }
}
