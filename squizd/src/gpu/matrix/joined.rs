//! Matrices that multiply one input, in one dispatch.

use super::super::device::{BINDINGS, Gpu};
use super::super::pipeline::{Span, read};
use super::super::record::{Step, over_two};
use super::super::tuning::Tuning;
use super::listed::LIST;
use super::{Fetch, GpuMatrix, Output, Params, TABLES};
use crate::Result;
use zerocopy::{Immutable, IntoBytes};

/// Outputs of a part begin at multiples of this many numbers, so that each can
/// be bound by itself.
pub(in super::super) const PART_ALIGN: u32 = 64;

/// `Part` of `part.wgsl`.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Part {
    workgroups: u32,
    rows: u32,
    y: u32,
    /// The shader's struct aligns vectors to 16.
    padding: u32,
    base: [u32; 4],
    extra: [u32; 4],
}

/// Matrices of one codec, layout and width whose payloads lie in one buffer.
#[derive(Debug)]
pub(in super::super) struct Joined<'a> {
    matrices: Vec<&'a GpuMatrix>,
    tuning: Tuning,
    /// Of each slot, the range that covers every matrix's, and where it is bound.
    spans: Vec<(u32, Span)>,
    parts: Vec<Part>,
    workgroups: u64,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows to {}", self.rows, self.y)
    }
}

impl<'a> Joined<'a> {
    /// Joins `matrices` for inputs as of `from`, each with where its outputs begin;
    /// `None` if they do not go together.
    pub(in super::super) fn new(
        gpu: &Gpu,
        from: Fetch<'_>,
        matrices: &[(&'a GpuMatrix, u32)],
    ) -> Option<Self> {
        let (first, _) = matrices.first()?;
        let whole = first.pieces.first()?;
        // Lanes of the frames take units, superblocks or strips, of an input that all read.
        let strips = first.recipe.height().is_some();
        let key = |m: &GpuMatrix| m.rotation.as_ref().map(|r| r.key);
        let alike = matrices.iter().all(|(m, _)| {
            (m.joins() || strips)
                && key(m) == key(first)
                && m.tables == first.tables
                && m.texels.is_none()
                && m.codec.id == first.codec.id
                && m.cols == first.cols
                && m.recipe.unit == first.recipe.unit
                && m.recipe.options == first.recipe.options
                && (m.escapes.is_some() || m.recipe.slots.iter().all(|s| s.row_stride > 0))
                && m.pieces.len() == 1
                && m.pieces.iter().all(|p| p.params.stride == whole.params.stride)
        });
        let of = |m: &GpuMatrix| m.pieces.first().map(|piece| m.bound(piece, m.codec.gemv));
        let bound = matrices.iter().map(|(m, _)| of(m)).collect::<Option<Vec<_>>>()?;
        let slots: Vec<u32> = bound.first()?.iter().map(|(slot, _)| *slot).collect();
        // Inputs, sums, outputs, biases and parts are bound besides.
        if !alike || slots.len() + first.tables.iter().len() + 5 > BINDINGS as usize {
            return None;
        }
        let rows = matrices.iter().map(|(m, _)| m.rows).sum();
        let tuning = match from {
            Fetch::Ready(x) => first.tuning_of(x.math, rows),
            Fetch::Staged(_) => first.staged_tuning(rows),
        };
        let mut parts = Vec::new();
        for (matrix, y) in matrices {
            let workgroups = u64::from(matrix.rows).div_ceil(tuning.rows_per_workgroup());
            parts.push(Part {
                workgroups: u32::try_from(workgroups).ok()?,
                rows: matrix.rows,
                y: *y,
                extra: matrix.recipe.extra,
                ..Part::default()
            });
        }
        let mut spans = Vec::new();
        for (i, slot) in slots.into_iter().enumerate() {
            let bound: Vec<_> = bound.iter().filter_map(|b| b.get(i).map(|(_, span)| span)).collect();
            let start = bound.iter().map(|s| s.offset).min()?;
            let end = bound.iter().map(|s| s.offset + s.size).max()?;
            let buffer = bound.first()?.buffer.clone();
            let size = end - start;
            if bound.iter().any(|s| s.buffer != buffer) || size > gpu.abilities().max_binding {
                return None;
            }
            for ((part, span), (matrix, _)) in parts.iter_mut().zip(&bound).zip(matrices) {
                let offset = u32::try_from(span.offset - start).ok()?;
                if matrix.escapes.is_some() && slot == LIST {
                    part.extra[1] = offset / 4;
                } else {
                    let within = matrix.pieces.first()?.params.base.get(slot as usize)?;
                    *part.base.get_mut(slot as usize)? = offset + within;
                }
            }
            spans.push((slot, Span { buffer, offset: start, size }));
        }
        let workgroups = parts.iter().map(|p| u64::from(p.workgroups)).sum();
        Some(Self { matrices: matrices.iter().map(|(m, _)| *m).collect(), tuning, spans, parts, workgroups })
    }

    /// The products with the first vector of what it was joined for, each to its
    /// place in `y`. `bias`, if any, lies as the outputs do.
    pub(in super::super) fn gemv(
        &self,
        gpu: &Gpu,
        from: Fetch<'_>,
        y: &wgpu::Buffer,
        bias: Option<&wgpu::Buffer>,
    ) -> Result<Step> {
        let first = self.matrices.first().ok_or_else(|| gpu.error("no matrices to join"))?;
        let out = Output { bias, ..Output::to(y, 0) };
        let (options, tail) = match from {
            Fetch::Ready(x) => first.gemv_parts(gpu, x, out, self.tuning)?,
            Fetch::Staged(staged) => first.staged_parts(gpu, staged, out, self.tuning),
        };
        let options = options.flag("JOINED").with("PARTS", self.parts.len() as u32);
        let mut ports: Vec<_> = self.spans.iter().map(|(slot, _)| read(*slot)).collect();
        let mut spans: Vec<_> = self.spans.iter().map(|(_, span)| span.clone()).collect();
        if let Some(tables) = &first.tables {
            ports.push(read(TABLES));
            spans.push(Span::from(tables));
        }
        let table = gpu.upload(self.parts.as_bytes(), &mut |_| {})?;
        for (port, span) in tail.into_iter().chain([(read(8), Span::from(&table))]) {
            ports.push(port);
            spans.push(span);
        }
        let pipeline = gpu.pipeline(first.codec.gemv, &options, &ports)?;
        let params = Params {
            cols: first.cols,
            units: first.turns(),
            share: 1,
            factor: from.eps(),
            stride: first.pieces.first().map(|p| p.params.stride).unwrap_or_default(),
            ..Params::default()
        };
        let [grid_x, grid_y] = over_two(self.workgroups);
        Step::in_grid(gpu, &pipeline, &spans, &params, [grid_x, grid_y, 1])
    }
}
