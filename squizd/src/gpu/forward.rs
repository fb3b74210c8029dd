//! The forward pass as dispatches.

mod attention;
mod buffers;
mod ffn;
mod heads;
mod product;

pub(super) use buffers::{Buffers, LOGIT_ROWS, shared_bytes, shares_of};

use super::device::Gpu;
use super::input::Input;
use super::matrix::{Fetch, GpuMatrix, Made, Output, Staged};
use super::model::{GpuLinear, GpuModel};
use super::pipeline::{Port, Span, read, write};
use super::record::Step;
use super::rotation::Source;
use super::top_k::TopK;
use crate::Result;
use crate::runtime::Frequencies;
use buffers::{SHARES, narrow};
use product::product;
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

/// Invocations of element-wise and per-row kernels.
const WORKGROUP: u32 = 256;
/// Invocations of attention and rotation, for heads up to four times as wide.
const HEAD_WORKGROUP: u32 = 64;

/// Invocations where a single workgroup looks at many numbers.
const WIDEST: u32 = 1024;

/// Builds dispatches over a session's buffers.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) buffers: Buffers,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct NormParams {
    width: u32,
    quads: u32,
    first: u32,
    eps: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct SoftcapParams {
    count: u32,
    cap: f32,
}

impl Forward {
    pub(super) fn new(buffers: Buffers) -> Self {
        Self { buffers }
    }

    /// Tells the kernels of `n` tokens at `past`: their ids (unless the device
    /// has picked them), rotations, and where a picked id goes in the list.
    pub(super) fn tell(
        &self,
        model: &GpuModel<'_, '_>,
        frequencies: &[Frequencies; 2],
        ids: Option<&[u32]>,
        past: usize,
        slot: usize,
        n: usize,
    ) -> Result<()> {
        let gpu = &model.gpu;
        if let Some(ids) = ids {
            gpu.write(&self.buffers.ids, ids.as_bytes());
        }
        let table = |bytes: &mut Vec<u8>, frequencies: &Frequencies| {
            let factor = frequencies.attention_factor;
            for position in past..past + n {
                for frequency in &frequencies.inverse {
                    let (sine, cosine) = libm::sincosf(position as f32 * frequency);
                    bytes.extend_from_slice([cosine * factor, sine * factor].as_bytes());
                }
            }
        };
        // One write: each costs about as much as a few dispatches.
        let mut told = [narrow(past)?, narrow(slot)?].as_bytes().to_vec();
        for (rope, frequencies) in frequencies.iter().enumerate().take(self.buffers.tables()) {
            told.resize(self.buffers.angles(rope, n) as usize, 0);
            table(&mut told, frequencies);
        }
        gpu.write(&self.buffers.told, &told);
        Ok(())
    }

    /// Every layer over `n` tokens; a single one looks at the positions before it
    /// in so many `shares`.
    pub(super) fn layers(&self, model: &GpuModel<'_, '_>, n: usize, shares: u32) -> Result<Vec<Step>> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let factor = model.model.config.embedding_scale.map_or(1.0, |f| f as f32);
        let count = narrow(n)?;
        let mut steps = model.embedding.lookup(gpu, &b.ids, count, factor, &b.x, b.normed.stride)?;
        for (i, layer) in model.layers.iter().enumerate() {
            self.attention_block(model, layer, i, [count, shares], &mut steps)?;
            self.ffn_block(model, layer, count, &mut steps)?;
        }
        Ok(steps)
    }

    /// Adds the product with an input that is ready, or made by it, to the residual
    /// stream, normalised first where there is a gain.
    fn residual(
        &self,
        model: &GpuModel<'_, '_>,
        linear: &GpuLinear,
        from: Fetch<'_>,
        gain: Option<&wgpu::Buffer>,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let b = &self.buffers;
        let Some(gain) = gain else {
            let out = Output { accumulate: true, ..Output::to(&b.x, b.normed.stride) };
            steps.extend(product(&model.gpu, linear, from, n, out)?);
            return Ok(());
        };
        steps.extend(product(&model.gpu, linear, from, n, Output::to(&b.block, b.normed.stride))?);
        steps.push(self.norm(model, &b.block, gain, NormTo::Onto(&b.x), 0, n)?);
        Ok(())
    }

    /// How the product of `matrices` with the norm of one token's residual stream
    /// makes it, if that is better than a dispatch.
    fn staged_norm(
        &self,
        model: &GpuModel<'_, '_>,
        gain: &wgpu::Buffer,
        matrices: &[&GpuMatrix],
        n: u32,
    ) -> Option<Staged> {
        (n == 1 && GpuMatrix::stage(model.math, matrices))
            .then(|| Staged { made: self.normed(model, gain), math: model.math })
    }

    /// The norm of the residual stream, to be made where it is read.
    fn normed(&self, model: &GpuModel<'_, '_>, gain: &wgpu::Buffer) -> Made {
        Made {
            flags: vec!["NORMED"],
            spans: [Span::from(&self.buffers.x), Span::from(gain)],
            eps: model.model.norm_eps,
        }
    }

    /// Makes `input`, as products of `matrices` read it, of the norms of `n` vectors of
    /// the residual stream from number `first` on: where all are rotated, on the way.
    fn norm_for(
        &self,
        model: &GpuModel<'_, '_>,
        gain: &wgpu::Buffer,
        input: &Input,
        matrices: &[&GpuMatrix],
        [first, n]: [u32; 2],
    ) -> Result<Vec<Step>> {
        let matrices = matrices.iter().copied();
        if matrices.clone().all(|m| m.rotation().is_some()) {
            let made = self.normed(model, gain);
            return input.ready_from(&model.gpu, Source::Made(&made, first), matrices, n);
        }
        let to = NormTo::Input(input, n == 1 && model.blocks);
        let mut steps = vec![self.norm(model, &self.buffers.x, gain, to, first, n)?];
        steps.extend(input.ready(&model.gpu, matrices, n)?);
        Ok(steps)
    }

    /// Logits of `count` of the tokens just processed, from the one numbered
    /// `first` on.
    pub(super) fn logits(&self, model: &GpuModel<'_, '_>, first: usize, count: usize) -> Result<Vec<Step>> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let (first, count) = (narrow(first)?, narrow(count)?);
        let vocab = narrow(model.model.vocab_size())?;
        let bias = model.output.as_ref().and_then(|o| o.bias.as_ref());
        let out = Output { bias, ..Output::to(&b.logits, vocab) };
        let alone = if first == 0 { count } else { 0 };
        let mut steps = Vec::new();
        if let Some(staged) = self.staged_norm(model, &model.output_norm, &[model.head()], alone) {
            steps.extend(model.head().staged_gemv(gpu, &staged, out)?);
        } else {
            let read = [first, count];
            steps.extend(self.norm_for(model, &model.output_norm, &b.last, &[model.head()], read)?);
            steps.extend(match count {
                1 => model.head().gemv(gpu, &b.last, out)?,
                _ => model.head().batch(gpu, &b.last, count, out)?,
            });
        }
        if let Some(cap) = model.model.config.logit_softcap {
            let options = Options::default().with("WG", WORKGROUP);
            let params = SoftcapParams { count: vocab * count, cap: cap as f32 };
            let pipeline = gpu.pipeline("softcap", &options, &[write(0)])?;
            let workgroups = u64::from(params.count.div_ceil(WORKGROUP));
            steps.push(Step::new(gpu, &pipeline, &[Span::from(&b.logits)], &params, workgroups)?);
        }
        Ok(steps)
    }

    /// Picks the likeliest token: the next one's id, and onto the list.
    pub(super) fn argmax(&self, model: &GpuModel<'_, '_>) -> Result<Vec<Step>> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let options = Options::default().with("WG", WORKGROUP);
        let vocab = narrow(model.model.vocab_size())?;
        let tail = [(write(1), Span::from(&b.ids)), (read(2), b.state()), (write(3), Span::from(&b.list))];
        let last = |from: &wgpu::Buffer, options: &Options, count: u32| {
            let ports: Vec<_> = std::iter::once((read(0), Span::from(from))).chain(tail.clone()).collect();
            step(gpu, "argmax", options, &ports, &count, [1, 1, 1])
        };
        if vocab <= SHARES * WORKGROUP {
            let widest = 1 << gpu.abilities().max_workgroup.min(WIDEST).ilog2();
            return Ok(vec![last(&b.logits, &options.with("WG", widest), vocab)?]);
        }
        let ports = [(read(0), Span::from(&b.logits)), (write(4), Span::from(&b.candidates))];
        let first = options.clone().flag("FIRST");
        let first = step(gpu, "argmax", &first, &ports, &vocab, [u64::from(SHARES), 1, 1])?;
        Ok(vec![first, last(&b.candidates, &options.flag("SECOND"), SHARES)?])
    }

    /// Finds the `k` likeliest tokens.
    pub(super) fn top(&self, model: &GpuModel<'_, '_>, k: usize) -> Result<TopK> {
        TopK::new(&model.gpu, &self.buffers.logits, narrow(model.model.vocab_size())?, k)
    }

    /// Logits of `rows` positions.
    pub(super) fn read_logits(&self, model: &GpuModel<'_, '_>, rows: usize) -> Result<Vec<f32>> {
        model.gpu.read_f32(&self.buffers.logits, rows * model.model.vocab_size())
    }

    fn norm(
        &self,
        model: &GpuModel<'_, '_>,
        x: &wgpu::Buffer,
        gain: &wgpu::Buffer,
        to: NormTo<'_>,
        first: u32,
        n: u32,
    ) -> Result<Step> {
        // A row is read at once where a workgroup can.
        let quads = self.buffers.normed.stride / 4;
        let widest = 1 << model.gpu.abilities().max_workgroup.min(WIDEST).ilog2();
        let mut options =
            Options::default().with("WG", quads.next_power_of_two().clamp(WORKGROUP, widest.max(WORKGROUP)));
        let mut ports = vec![(read(0), Span::from(x)), (read(1), Span::from(gain))];
        match to {
            NormTo::Onto(out) => {
                options = options.flag("ONTO");
                ports.push((write(2), Span::from(out)));
            }
            NormTo::Input(input, emit) => {
                ports.push((write(2), Span::from(&input.values)));
                if emit {
                    options = emit_to(input, options, &mut ports);
                }
            }
        }
        let width = narrow(model.model.hidden())?;
        let params = NormParams { width, quads, first, eps: model.model.norm_eps };
        step(&model.gpu, "norm", &options, &ports, &params, [u64::from(n), 1, 1])
    }
}

/// Where a norm's result goes.
#[derive(Clone, Copy)]
enum NormTo<'a> {
    /// Into an input, with its coded form if the flag is set.
    Input(&'a Input, bool),
    /// Onto a buffer.
    Onto(&'a wgpu::Buffer),
}

/// The options and ports with which a kernel writes an input's coded form.
fn emit_to(input: &Input, options: Options, ports: &mut Vec<(Port, Span)>) -> Options {
    ports.extend([(write(4), Span::from(&input.form.coded)), (write(5), Span::from(&input.form.sums))]);
    let options = options.flag("EMIT");
    match input.math.emitted() {
        Some(flag) => options.flag(flag),
        None => options,
    }
}

fn step(
    gpu: &Gpu,
    name: &'static str,
    options: &Options,
    bound: &[(Port, Span)],
    params: &(impl IntoBytes + Immutable),
    grid: [u64; 3],
) -> Result<Step> {
    let (ports, spans): (Vec<_>, Vec<_>) = bound.iter().cloned().unzip();
    let pipeline = gpu.pipeline(name, options, &ports)?;
    Step::in_grid(gpu, &pipeline, &spans, params, grid)
}
