//! Stored matrices on the device, and the products with them.

mod batch;
mod joined;
mod listed;
mod picked;
mod staged;

pub(super) use joined::{Joined, PART_ALIGN};
pub(super) use picked::Stack;
pub(super) use staged::{Fetch, Made, Staged};

use super::codec::{GpuCodec, Recipe, TABLES, Tensor, escapes, kernels, rotation, tables};
use super::device::Gpu;
use super::input::Input;
use super::math::Math;
use super::pipeline::{Port, Span, read, texels, write};
use super::record::{Step, over_two};
use super::rotation::Rotation;
use super::shares;
use super::texels::{Store, Texels};
use super::tuning::{Tuning, gemv_tuning};
use crate::codec::Encoded;
use crate::{Error, Result};
use squizd_shaders::Options;
use squizd_spec::{CodecId, astc};
use zerocopy::{Immutable, IntoBytes};

/// Invocations of a workgroup of `rows`.
const ROWS_WORKGROUP: u64 = 64;
/// Alignment of bound ranges.
const ALIGN: u64 = 256;

/// `Params` of the shaders (`params.wgsl`).
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Params {
    rows: u32,
    cols: u32,
    units: u32,
    first: u32,
    base: [u32; 4],
    stride: [u32; 4],
    extra: [u32; 4],
    tokens: u32,
    x_stride: u32,
    y_stride: u32,
    factor: f32,
    share: u32,
    expert_rows: u32,
    /// The shader's struct ends at a multiple of 16.
    padding: [u32; 2],
}

/// A run of rows whose planes fit one binding each.
#[derive(Debug)]
struct Piece {
    params: Params,
    spans: Vec<Span>,
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    pub(super) y: &'a wgpu::Buffer,
    /// Where in it, in bytes: a multiple of 256.
    pub(super) offset: u64,
    /// Numbers from one output vector to the next.
    pub(super) stride: u32,
    /// Added to every output vector.
    pub(super) bias: Option<&'a wgpu::Buffer>,
    /// Added to what is there, instead of replacing it.
    pub(super) accumulate: bool,
}

impl<'a> Output<'a> {
    /// Output vectors `stride` apart, and nothing added.
    pub(super) fn to(y: &'a wgpu::Buffer, stride: u32) -> Self {
        Self { y, offset: 0, stride, bias: None, accumulate: false }
    }

    fn apply(self, mut options: Options) -> Options {
        if self.bias.is_some() {
            options = options.flag("BIAS");
        }
        if self.accumulate {
            options = options.flag("ACCUMULATE");
        }
        options
    }

    fn ports(self) -> impl Iterator<Item = (Port, Span)> {
        let y = Span { offset: self.offset, ..Span::from(self.y) };
        std::iter::once((write(6), y)).chain(self.bias.map(|b| (read(7), Span::from(b))))
    }
}

/// A stored matrix whose payload lies in a buffer.
#[derive(Debug)]
pub(super) struct GpuMatrix {
    codec: &'static GpuCodec,
    recipe: Recipe,
    rows: u32,
    cols: u32,
    pieces: Vec<Piece>,
    /// Tables of the codec, bound behind the slots.
    tables: Option<wgpu::Buffer>,
    /// What inputs take before.
    rotation: Option<Rotation>,
    /// The power of two under which weights are halves, once known.
    factor: Option<f32>,
    /// Whether codes and scales are in the range of halves under it.
    direct: bool,
    /// The blocks of the first slot as a texture, which kernels read instead.
    texels: Option<Texels>,
    /// What `gemv` reads instead of the first and the last slot.
    escapes: Option<Span>,
}

impl GpuMatrix {
    /// The matrix of a tensor whose payload lies in `payload` (an offset that
    /// is a multiple of 256, and room up to the next multiple behind it).
    pub(super) fn new(gpu: &Gpu, id: CodecId, tensor: &Encoded<'_>, payload: &Span) -> Result<Self> {
        Self::in_bindings_of(gpu, id, tensor, payload, gpu.abilities().max_binding)
    }

    /// The same with bindings of at most `limit` bytes.
    pub(super) fn in_bindings_of(
        gpu: &Gpu,
        id: CodecId,
        tensor: &Encoded<'_>,
        payload: &Span,
        limit: u64,
    ) -> Result<Self> {
        let (name, data) = (tensor.name, tensor.data);
        let codec = kernels(id, tensor.params)
            .ok_or_else(|| Error::unsupported(format!("tensor {name}: codec {id} has no GPU kernels")))?;
        let escapes = escapes(id, tensor)?.map(|list| {
            if size_of_val(&list[..]) as u64 > gpu.abilities().max_binding {
                return Err(Error::unsupported(format!("tensor {name}: its escapes do not fit a binding")));
            }
            gpu.upload(list.as_bytes(), &mut |_| {}).map(|list| Span::from(&list))
        });
        let escapes = escapes.transpose()?;
        let tensor = Tensor::new(id, tensor)?;
        let mut recipe = (codec.describe)(&tensor)?;
        if let Some(widest) = recipe.options.constant("WIDEST") {
            recipe.options = recipe.options.with("WIDEST", widest.min(gpu.abilities().max_workgroup));
        }
        let too_large = || Error::unsupported(format!("tensor {name}: a side is too large for GPU kernels"));
        let small = |v: u64| u32::try_from(v).ok().filter(|v| *v <= 1 << 30).ok_or_else(too_large);
        let (rows, cols) = (small(tensor.matrix.rows)?, small(tensor.matrix.cols)?);
        let pieces = pieces(&tensor, &recipe, payload, limit).ok_or_else(|| {
            Error::unsupported(format!("tensor {name}: a row does not fit bindings of {limit} bytes"))
        })?;
        let tables = tables(id, tensor.params)
            .map(|(name, make)| gpu.shared(name, || make(tensor.params)))
            .transpose()?;
        let rotation = rotation(id, &tensor).map(|r| Rotation::new(gpu, &r, cols)).transpose()?;
        let mut this = Self {
            codec,
            recipe,
            rows,
            cols,
            pieces,
            tables,
            rotation,
            factor: None,
            direct: false,
            texels: None,
            escapes,
        };
        if let Some(store) = Store::of(gpu.abilities(), id) {
            this.sample(gpu, store, &tensor, data, astc::TEXTURE_BLOCKS)?;
        }
        Ok(this)
    }

    /// Has kernels read the blocks of `tensor` from a texture with layers of at
    /// most `most` of them along a side, if the device has such.
    pub(super) fn sample(
        &mut self,
        gpu: &Gpu,
        store: Store,
        tensor: &Tensor<'_>,
        payload: &[u8],
        most: u64,
    ) -> Result<()> {
        self.texels = Texels::new(gpu, store, tensor, payload, most)?;
        if let Some(Texels { rows, columns, across, .. }) = self.texels {
            let mut options = std::mem::take(&mut self.recipe.options);
            // Texels are alike.
            options.flags.retain(|f| *f != "OFTEN");
            self.recipe.options = options.flag("TEXTURE");
            for piece in &mut self.pieces {
                let [unit, ..] = piece.params.extra;
                piece.params.extra = [unit, rows, columns, across];
            }
            self.tables = None;
        }
        Ok(())
    }

    /// Output width.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Pieces that the matrix is bound in.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The form of the input nearest to `wanted` that the kernels read.
    pub(super) fn math(&self, gpu: &Gpu, wanted: Math) -> Math {
        let able = wanted != Math::F16 || gpu.abilities().f16;
        if able && self.codec.forms.contains(&wanted) { wanted } else { Math::F32 }
    }

    /// Whether rows and units can be left out: where a lane takes whole units, of
    /// columns that are the input's own.
    pub(super) fn skips(&self) -> bool {
        self.recipe.options.constant("SHARE").is_none() && self.rotation.is_none()
    }

    /// Whether products can make their input, and be joined with others of it: it is
    /// read in whole quads, and is no rotated one.
    fn joins(&self) -> bool {
        self.skips() || self.recipe.options.constant("CLUSTER").is_some()
    }

    /// The rotation that inputs take before.
    pub(super) fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// Whether kernels read scales and sums of the inputs' blocks.
    pub(super) fn blocks(&self) -> bool {
        self.recipe.unit == 32
    }

    /// Input width.
    pub(super) fn cols(&self) -> u32 {
        self.cols
    }

    /// Columns of a unit.
    pub(super) fn unit(&self) -> u32 {
        self.recipe.unit
    }

    /// Units of a row.
    pub(super) fn units(&self) -> u32 {
        self.cols.div_ceil(self.recipe.unit)
    }

    /// What lanes of `gemv` take at a time, along a row.
    fn turns(&self) -> u32 {
        self.cols.div_ceil(self.recipe.share())
    }

    /// How the matrix is bound and its kernels are assembled.
    pub(super) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The product with the first vector of `x`; one step per piece.
    pub(super) fn gemv(&self, gpu: &Gpu, x: &Input, out: Output<'_>) -> Result<Vec<Step>> {
        self.gemv_tuned(gpu, x, out, self.tuning(x.math))
    }

    fn effective(&self, math: Math) -> Math {
        if self.codec.forms.contains(&math) { math } else { Math::F32 }
    }

    /// The shape of the workgroups for inputs prepared as `math`.
    pub(super) fn tuning(&self, math: Math) -> Tuning {
        let tuning = self.tuning_of(math, self.rows);
        if self.recipe.options.constant("STRIP").is_none() || tuning.rows == 1 {
            return tuning;
        }
        // Rows of a strip share most of what a unit needs.
        Tuning { workgroup: 64, lanes: 64, rows: 4, ..tuning }
    }

    fn tuning_of(&self, math: Math, rows: u32) -> Tuning {
        shares::tuning(&self.recipe, rows, self.turns()).unwrap_or_else(|| self.by_units(math, rows))
    }

    /// The same of `rows` rows whose lanes take units.
    fn by_units(&self, math: Math, rows: u32) -> Tuning {
        let math = self.effective(math);
        let tuning = gemv_tuning(math, self.recipe.unit, self.unit_bytes(), rows, self.units());
        // Inputs and places for several rows, where codes alone take that many operations.
        if self.codec.id == CodecId::MXFP4 && math == Math::I8 && tuning.lanes > 64 {
            return Tuning { workgroup: 128, lanes: 64, rows: 2, unroll: 2, ..tuning };
        }
        tuning
    }

    /// Bytes of a unit, where rows lie by themselves.
    fn unit_bytes(&self) -> Option<u64> {
        let slots = &self.recipe.slots;
        let by_rows = slots.iter().all(|slot| slot.row_stride > 0 && slot.rows_per_run == 1);
        by_rows
            .then(|| slots.iter().map(|slot| slot.row_stride).sum::<u64>() / u64::from(self.units().max(1)))
    }

    /// The same as `tuning` says.
    pub(super) fn gemv_tuned(
        &self,
        gpu: &Gpu,
        x: &Input,
        out: Output<'_>,
        tuning: Tuning,
    ) -> Result<Vec<Step>> {
        let (options, tail) = self.gemv_parts(gpu, x, out, tuning)?;
        let options = Self::in_strips(options, tuning);
        self.steps(gpu, self.codec.gemv, &options, &tail, |params| {
            let params = Params { share: 1, units: self.turns(), ..params };
            (params, [u64::from(params.rows).div_ceil(tuning.rows_per_workgroup()), 0, 1])
        })
    }

    /// `options`, with rows of an invocation in one strip where they begin at
    /// multiples of their count.
    fn in_strips(options: Options, tuning: Tuning) -> Options {
        let strip = options.constant("STRIP");
        if strip.is_some_and(|s| s.is_multiple_of(tuning.rows)) { options.flag("STRIPS") } else { options }
    }

    /// Whether kernels read the coded form of an input of form `math`. Codecs without
    /// it read its floats, and so do those without blocks in f32.
    fn coded(&self, math: Math) -> bool {
        self.effective(math) == math && (self.blocks() || math != Math::F32)
    }

    /// Options of `gemv` for inputs of form `math`.
    fn gemv_options(&self, gpu: &Gpu, math: Math, out: Output<'_>, tuning: Tuning) -> Options {
        let of = self.effective(math);
        let mut options = self.recipe.options_for(of).with("VECTORS", self.recipe.unit / 4);
        if self.blocks() {
            options = options.flag("BLOCKS");
        }
        if let Some(flag) = math.flag().filter(|_| self.coded(math)) {
            options = options.flag(flag);
        }
        shares::in_subgroups(tuning.apply(out.apply(options), gpu.abilities()), gpu.abilities())
    }

    /// Options and bindings of `gemv` behind the slots.
    fn gemv_parts(
        &self,
        gpu: &Gpu,
        x: &Input,
        out: Output<'_>,
        tuning: Tuning,
    ) -> Result<(Options, Vec<(Port, Span)>)> {
        let coded = self.coded(x.math);
        let mut options = self.gemv_options(gpu, x.math, out, tuning);
        if coded {
            options = options.flag("TILED");
        }
        let form = if coded { x.form(gpu, self)? } else { x.form.clone() };
        let values = if coded { form.coded } else { x.floats(gpu, self)? };
        let mut tail = vec![(read(4), Span::from(&values))];
        if coded || self.blocks() {
            tail.push((read(5), Span::from(&form.sums)));
        }
        tail.extend(out.ports());
        Ok((options, tail))
    }

    /// `y[t] = factor W[ids[t]]` for `count` ids, `y_stride` (a multiple of 32)
    /// apart and zero beyond the columns.
    pub(super) fn lookup(
        &self,
        gpu: &Gpu,
        ids: &wgpu::Buffer,
        count: u32,
        factor: f32,
        y: &wgpu::Buffer,
        y_stride: u32,
    ) -> Result<Vec<Step>> {
        let options = self
            .recipe
            .options
            .clone()
            .with("VECTORS", self.recipe.unit / 4)
            .with("WG", ROWS_WORKGROUP as u32)
            .flag("WEIGHTS");
        let tail = [(read(4), Span::from(ids)), (write(6), Span::from(y))];
        let units = u64::from(y_stride / self.recipe.unit);
        let mut steps = self.steps(gpu, self.codec.rows, &options, &tail, |params| {
            let params = Params { tokens: count, y_stride, factor, ..params };
            (params, [(units * u64::from(count)).div_ceil(ROWS_WORKGROUP), 0, 1])
        })?;
        if let Some(rotation) = &self.rotation {
            steps.extend(rotation.inverse(gpu, y, y_stride, count)?);
        }
        Ok(steps)
    }

    /// A step for each piece; `grid` completes its parameters and says how many
    /// workgroups it takes (0 along y: numbered along both).
    fn steps(
        &self,
        gpu: &Gpu,
        name: &'static str,
        options: &Options,
        tail: &[(Port, Span)],
        grid: impl Fn(Params) -> (Params, [u64; 3]),
    ) -> Result<Vec<Step>> {
        let bound: Vec<_> = self.pieces.iter().map(|piece| self.bound(piece, name)).collect();
        let mut ports: Vec<_> = bound.iter().take(1).flatten().map(|(i, _)| read(*i)).collect();
        let layers = self.texels.as_ref().map(|t| &t.layers);
        // The texture stands in for the first slot.
        let replaced = layers.iter().len();
        ports.iter_mut().take(replaced).for_each(|port| *port = texels(0));
        let tables = self.tables.as_ref().map(|t| (read(TABLES), Span::from(t)));
        let tail: Vec<_> = tables.iter().chain(tail).collect();
        ports.extend(tail.iter().map(|(port, _)| *port));
        let pipeline = gpu.pipeline(name, options, &ports)?;
        self.pieces
            .iter()
            .zip(bound)
            .map(|(piece, bound)| {
                let mut spans: Vec<_> = bound.into_iter().skip(replaced).map(|(_, span)| span).collect();
                spans.extend(tail.iter().map(|(_, span)| span.clone()));
                let (params, [x, y, z]) =
                    grid(Params { cols: self.cols, units: self.units(), ..piece.params });
                let [x, y] = if y == 0 { over_two(x) } else { [x, y] };
                Step::sampling(gpu, &pipeline, layers, &spans, &params, [x, y, z])
            })
            .collect()
    }
}

/// Runs of rows whose planes fit bindings of `limit` bytes; `None` if a row
/// does not.
fn pieces(tensor: &Tensor<'_>, recipe: &Recipe, payload: &Span, limit: u64) -> Option<Vec<Piece>> {
    let rows = tensor.matrix.rows;
    // A range begins up to 255 bytes before its first row.
    let room = limit.checked_sub(2 * ALIGN)?;
    let mut step = rows;
    let mut unit = 1;
    for slot in &recipe.slots {
        if let Some(runs) = room.checked_div(slot.row_stride) {
            step = step.min(runs.saturating_mul(slot.rows_per_run));
            unit = unit.max(slot.rows_per_run);
        } else if tensor.length.checked_sub(slot.offset)? > room {
            return None;
        }
    }
    if step < rows {
        step = step / unit * unit;
    }
    if step == 0 {
        return None;
    }
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < rows {
        let count = step.min(rows - first);
        let mut params =
            Params { rows: count as u32, first: first as u32, extra: recipe.extra, ..Params::default() };
        let mut spans = Vec::new();
        for (i, slot) in recipe.slots.iter().enumerate() {
            let (start, end) = if slot.row_stride > 0 {
                let at = |row: u64| slot.offset + row / slot.rows_per_run * slot.row_stride;
                (at(first), at((first + count).next_multiple_of(slot.rows_per_run)))
            } else {
                (slot.offset, tensor.length)
            };
            let from = start / ALIGN * ALIGN;
            *params.base.get_mut(i)? = (start - from) as u32;
            *params.stride.get_mut(i)? = u32::try_from(slot.row_stride).ok()?;
            spans.push(Span {
                buffer: payload.buffer.clone(),
                offset: payload.offset + from,
                size: (end - from).max(1).next_multiple_of(ALIGN),
            });
        }
        pieces.push(Piece { params, spans });
        first += count;
    }
    Some(pieces)
}
