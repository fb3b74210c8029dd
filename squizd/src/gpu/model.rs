//! A model's weights on the device.

use super::codec::readable;
use super::device::Gpu;
use super::math::Math;
use super::matrix::GpuMatrix;
use super::weights::{Mapping, Payloads, Residency};
use crate::runtime::{Ffn, Layer, Linear, Model};
use crate::{Error, Result};
use std::sync::Arc;

/// A matrix and its bias.
#[derive(Debug)]
pub(super) struct GpuLinear {
    pub(super) matrix: GpuMatrix,
    pub(super) bias: Option<wgpu::Buffer>,
}

/// Which experts a token goes to.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) matrix: GpuMatrix,
    /// Experts of a token.
    pub(super) active: u32,
    pub(super) normalize: bool,
    pub(super) scale: f32,
}

/// One transformer block.
#[derive(Debug)]
pub(super) struct GpuLayer {
    pub(super) attn_norm: wgpu::Buffer,
    pub(super) q: GpuLinear,
    pub(super) k: GpuLinear,
    pub(super) v: GpuLinear,
    pub(super) attn_output: GpuLinear,
    /// Gains of query heads, then of key heads.
    pub(super) qk_norm: Option<wgpu::Buffer>,
    pub(super) attn_post_norm: Option<wgpu::Buffer>,
    pub(super) ffn_norm: wgpu::Buffer,
    pub(super) gate: GpuLinear,
    pub(super) up: GpuLinear,
    pub(super) down: GpuLinear,
    /// Of a mixture of experts, whose `gate`, `up` and `down` are stacks.
    pub(super) router: Option<Router>,
    pub(super) ffn_post_norm: Option<wgpu::Buffer>,
    pub(super) window: Option<u32>,
    pub(super) rope: Option<usize>,
}

/// A [`Model`] whose weights kernels read; any number of sessions share it.
#[derive(Debug)]
pub struct GpuModel<'m, 'w> {
    pub(super) gpu: Arc<Gpu>,
    pub(super) model: &'m Model<'w>,
    pub(super) embedding: GpuMatrix,
    pub(super) layers: Vec<GpuLayer>,
    pub(super) output_norm: wgpu::Buffer,
    pub(super) output: Option<GpuLinear>,
    /// Form of the inputs of one-token products.
    pub(super) math: Math,
    /// Whether any matrix reads inputs' sums.
    pub(super) blocks: bool,
    residency: Residency,
    /// The file's pages as a buffer. Last, so that it is dropped after all that
    /// binds it.
    #[expect(dead_code, reason = "held for its lifetime")]
    mapping: Option<Mapping<'w>>,
}

impl<'m, 'w> GpuModel<'m, 'w> {
    /// Brings the weights of `model` to the device, or lets kernels read them
    /// from `file`, the mapped file they lie in, where the driver can. `math` is the form of inputs
    /// asked for; where a codec's kernels lack it, all take f32. `progress`
    /// hears how many bytes are there.
    ///
    /// # Errors
    /// An unsupported one for a codec without kernels; what the device says if
    /// memory runs out.
    pub fn new(
        gpu: &Arc<Gpu>,
        model: &'m Model<'w>,
        file: Option<&'w [u8]>,
        math: Math,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let (mapping, residency) = match map(gpu, model, file) {
            Ok(mapping) => (Some(mapping), Residency::Mapped),
            Err(why) => (None, Residency::Uploaded(why)),
        };
        let mut payloads = Payloads::new(gpu, mapping.as_ref(), progress);
        let embedding = matrix(&mut payloads, &model.embedding)?;
        let layers = model.layers.iter().map(|l| layer(&mut payloads, l)).collect::<Result<Vec<_>>>()?;
        let output = model.output.as_ref().map(|o| linear(&mut payloads, o)).transpose()?;
        let output_norm = vector(gpu, &model.output_norm)?;
        gpu.wait()?;
        let mut loaded = Self {
            gpu: Arc::clone(gpu),
            model,
            embedding,
            layers,
            output_norm,
            output,
            math,
            blocks: false,
            residency,
            mapping,
        };
        let blocks = loaded.matrices().any(GpuMatrix::blocks);
        let able = loaded.matrices().all(|m| !m.blocks() || m.math(gpu, math) == math);
        loaded.blocks = blocks;
        if !able {
            loaded.math = Math::F32;
        }
        if loaded.math.rounds() && gpu.abilities().cooperative.is_some() {
            GpuMatrix::measure(gpu, loaded.batched())?;
        }
        Ok(loaded)
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'w> {
        self.model
    }

    /// How the weights reached the device.
    pub fn residency(&self) -> &Residency {
        &self.residency
    }

    /// Form of the inputs of one-token products.
    pub fn math(&self) -> Math {
        self.math
    }

    pub(super) fn head(&self) -> &GpuMatrix {
        self.output.as_ref().map_or(&self.embedding, |o| &o.matrix)
    }

    /// Pairs of a head that rotation `rope` turns.
    pub(super) fn pairs(&self, rope: usize) -> usize {
        self.model.ropes.get(rope).map_or(0, |r| r.frequencies(1).inverse.len())
    }

    /// Widest inner width of a feed-forward block, of one expert where there are
    /// experts.
    pub(super) fn ffn_width(&self) -> u32 {
        let width = |layer: &GpuLayer| {
            let experts = layer.router.as_ref().map_or(1, |r| r.matrix.rows().max(1));
            layer.gate.matrix.rows() / experts
        };
        self.layers.iter().map(width).fold(0, u32::max)
    }

    /// The matrices of which batches of a prompt are multiplied, the router's
    /// left out, by which experts are chosen.
    fn batched(&mut self) -> impl Iterator<Item = &mut GpuMatrix> {
        let layers = self.layers.iter_mut().flat_map(|l| {
            let dense = l.router.is_none().then_some([&mut l.gate, &mut l.up, &mut l.down]);
            let all = [&mut l.q, &mut l.k, &mut l.v, &mut l.attn_output].into_iter();
            all.chain(dense.into_iter().flatten()).map(|l| &mut l.matrix)
        });
        let head = self.output.as_mut().map_or(&mut self.embedding, |o| &mut o.matrix);
        layers.chain([head])
    }

    fn matrices(&self) -> impl Iterator<Item = &GpuMatrix> {
        let layers = self
            .layers
            .iter()
            .flat_map(|l| [&l.q, &l.k, &l.v, &l.attn_output, &l.gate, &l.up, &l.down].map(|l| &l.matrix));
        layers.chain([self.head()])
    }
}

/// The pages of `file` that hold the model's payloads, as a buffer; or why not.
fn map<'w>(
    gpu: &Arc<Gpu>,
    model: &Model<'w>,
    file: Option<&'w [u8]>,
) -> std::result::Result<Mapping<'w>, String> {
    let file = file.ok_or("the weights are not in a mapped file")?;
    let layers = model.layers.iter().flat_map(|l| {
        let ffn = match &l.ffn {
            Ffn::Dense { gate, up, down } => [gate, up, down],
            Ffn::Experts(experts) => [&experts.gate, &experts.up, &experts.down],
        };
        [&l.q, &l.k, &l.v, &l.attn_output].into_iter().chain(ffn)
    });
    let all = std::iter::once(&model.embedding).chain(layers).chain(model.output.as_ref());
    Mapping::new(gpu, file, all.map(|linear| &*linear.payload))
}

fn matrix(payloads: &mut Payloads<'_, '_>, linear: &Linear<'_>) -> Result<GpuMatrix> {
    let tensor = linear.tensor();
    let readable = readable(linear.codec.id(), &tensor)?;
    let span = payloads.place(&readable.data)?;
    GpuMatrix::new(payloads.gpu(), readable.id, &readable.tensor(&tensor), &span)
}

fn linear(payloads: &mut Payloads<'_, '_>, linear: &Linear<'_>) -> Result<GpuLinear> {
    let [linear] = linears(payloads, [linear])?;
    Ok(linear)
}

/// Matrices that lie in one buffer where they can, so that one dispatch takes
/// them all.
fn linears<const N: usize>(
    payloads: &mut Payloads<'_, '_>,
    linears: [&Linear<'_>; N],
) -> Result<[GpuLinear; N]> {
    let spans = payloads.place_together(linears.map(|l| l.tensor().data))?;
    let gpu = payloads.gpu();
    let mut placed = Vec::with_capacity(N);
    for (linear, span) in linears.into_iter().zip(spans) {
        let matrix = GpuMatrix::new(gpu, linear.codec.id(), &linear.tensor(), &span)?;
        let bias = linear.bias.as_ref().map(|b| vector(gpu, b)).transpose()?;
        placed.push(GpuLinear { matrix, bias });
    }
    GpuMatrix::place_escapes(gpu, placed.iter_mut().map(|l| &mut l.matrix))?;
    placed.try_into().map_err(|_| gpu.error("as many matrices as tensors"))
}

/// Floats, zero-padded to whole blocks of 32.
fn vector(gpu: &Gpu, values: &[f32]) -> Result<wgpu::Buffer> {
    let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.resize(values.len().next_multiple_of(32) * 4, 0);
    gpu.upload(&bytes, &mut |_| {})
}

fn layer(payloads: &mut Payloads<'_, '_>, layer: &Layer<'_>) -> Result<GpuLayer> {
    let (gate, up, down, router) = match &layer.ffn {
        Ffn::Dense { gate, up, down } => (gate, up, down, None),
        Ffn::Experts(e) => (&e.gate, &e.up, &e.down, Some(e)),
    };
    let gpu = payloads.gpu();
    let optional = |v: &Option<Vec<f32>>| v.as_ref().map(|v| vector(gpu, v)).transpose();
    let [q, k, v] = linears(payloads, [&layer.q, &layer.k, &layer.v])?;
    let [gate, up] = linears(payloads, [gate, up])?;
    Ok(GpuLayer {
        attn_norm: vector(gpu, &layer.attn_norm)?,
        q,
        k,
        v,
        attn_output: linear(payloads, &layer.attn_output)?,
        qk_norm: layer.qk_norm.as_ref().map(|(q, k)| vector(gpu, &[&q[..], &k[..]].concat())).transpose()?,
        attn_post_norm: optional(&layer.attn_post_norm)?,
        ffn_norm: vector(gpu, &layer.ffn_norm)?,
        gate,
        up,
        down: linear(payloads, down)?,
        router: router
            .map(|e| {
                Ok::<_, Error>(Router {
                    matrix: matrix(payloads, &e.router)?,
                    active: e.active as u32,
                    normalize: e.normalize,
                    scale: e.scale,
                })
            })
            .transpose()?,
        ffn_post_norm: optional(&layer.ffn_post_norm)?,
        window: layer.window.map(|w| u32::try_from(w).unwrap_or(u32::MAX)),
        rope: layer.rope,
    })
}
