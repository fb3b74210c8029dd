//! Collecting input moments by running a model over a text.

use crate::{
    Error, Result,
    model::ModelConfig,
    runtime::{InputShape, Model, Observer, Session, SessionOptions, gram::Gram},
};
use squizd_spec::Role;
use std::collections::BTreeMap;

/// How much is collected of each input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The mean square of each channel.
    Importance,
    /// All of `E[x x^T]`.
    Hessian,
}

/// What was collected of one input, or of one expert's.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// Inputs seen.
    pub count: u64,
    /// Mean square of each channel.
    pub importance: Vec<f32>,
    /// The rows of the upper triangle of `E[x x^T]`, one behind the other;
    /// empty with [`Detail::Importance`].
    pub triangle: Vec<f32>,
}

/// Receives what was collected, layer by layer in the order of [`Model::inputs`].
pub trait CollectedSink: Send {
    /// One input: one entry, or one for each expert.
    fn input(&mut self, shape: &InputShape, collected: &[Collected]) -> Result<()>;

    /// A window has passed a layer.
    fn window_done(&mut self) -> Result<()>;
}

/// Bytes of packed inputs for each channel.
const PACKED: u64 = 4 * crate::runtime::gram::CHUNK as u64;

/// How the session that collects computes: windows of up to `longest` tokens pass
/// a layer whole.
pub fn session_options(longest: usize) -> SessionOptions {
    SessionOptions { context: longest, batch: longest, ..SessionOptions::default() }
}

/// Bytes of memory that collecting takes beyond the model: the running sums of
/// the largest layer, and the residual streams of `tokens` tokens.
pub fn memory(config: &ModelConfig, detail: Detail, tokens: usize) -> u64 {
    let sums = |width: u64| match detail {
        Detail::Importance => 8 * width,
        // The sums in f64, the finished triangle in f32, inputs packed for one sum.
        Detail::Hessian => (6 * width).saturating_mul(width + 16) + PACKED * width,
    };
    let hidden = u64::from(config.hidden_size);
    let attended = u64::from(config.num_heads) * u64::from(config.head_dim);
    // A layer is dense or one of experts.
    let dense = sums(hidden).saturating_add(sums(config.ffn_size.into()));
    let experts = config.moe.as_ref().map_or(0, |moe| {
        let each = sums(hidden).saturating_add(sums(moe.expert_ffn_size.into()));
        each.saturating_mul(moe.num_experts.into())
    });
    let layer = sums(hidden).saturating_add(sums(attended)).saturating_add(dense.max(experts));
    layer.saturating_add((4 * tokens as u64).saturating_mul(hidden))
}

/// Runs `model` over independent `windows` of ids and hands `sink` the moments
/// of every linear layer's input.
///
/// # Errors
/// If a window is empty or holds an id outside the vocabulary, an activation is
/// not finite, or the sink stops.
pub fn collect(
    model: &Model<'_>,
    windows: &[&[u32]],
    detail: Detail,
    sink: &mut dyn CollectedSink,
) -> Result<()> {
    let longest = windows.iter().map(|w| w.len()).max().unwrap_or(0).max(1);
    let mut collector = Collector { inputs: model.inputs(), detail, sums: BTreeMap::new(), sink };
    Session::new(model, session_options(longest))?.observe(windows, &mut collector)
}

/// Running sums of the layer being passed.
struct Collector<'a> {
    inputs: Vec<InputShape>,
    detail: Detail,
    sums: BTreeMap<(Role, u16), Sums>,
    sink: &'a mut dyn CollectedSink,
}

enum Sums {
    Squares(Vec<f64>, u64),
    Products(Gram),
}

impl Sums {
    fn new(detail: Detail, width: usize) -> Self {
        match detail {
            Detail::Importance => Self::Squares(vec![0.0; width], 0),
            Detail::Hessian => Self::Products(Gram::new(width)),
        }
    }

    fn add(&mut self, x: &[f32]) {
        match self {
            Self::Products(gram) => gram.add(x),
            Self::Squares(sums, count) => {
                for row in x.chunks_exact(sums.len()) {
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum += f64::from(*x) * f64::from(*x);
                    }
                    *count += 1;
                }
            }
        }
    }

    fn finish(&self) -> Collected {
        match self {
            Self::Squares(sums, count) => {
                let factor = 1.0 / (*count).max(1) as f64;
                let importance = sums.iter().map(|s| (s * factor) as f32).collect();
                Collected { count: *count, importance, triangle: Vec::new() }
            }
            Self::Products(gram) => {
                let triangle = gram.mean();
                let mut rest = &triangle[..];
                let mut importance = Vec::new();
                for length in (1..=super::triangle_side(triangle.len()).unwrap_or(0)).rev() {
                    importance.extend(rest.first());
                    rest = &rest[length..];
                }
                Collected { count: gram.count(), importance, triangle }
            }
        }
    }
}

impl Observer for Collector<'_> {
    fn input(&mut self, role: Role, expert: u16, x: &[f32], width: usize) {
        self.sums.entry((role, expert)).or_insert_with(|| Sums::new(self.detail, width)).add(x);
    }

    fn window_done(&mut self) -> Result<()> {
        self.sink.window_done()
    }

    fn layer_done(&mut self, layer: Option<u16>) -> Result<()> {
        for shape in self.inputs.iter().filter(|i| i.layer == layer) {
            let collected: Vec<_> = (0..shape.experts.max(1))
                .map(|expert| {
                    // An expert that no token chose has no sums.
                    let sums = self.sums.remove(&(shape.role, expert));
                    sums.unwrap_or_else(|| Sums::new(self.detail, shape.width)).finish()
                })
                .collect();
            let finite = |c: &Collected| c.importance.iter().chain(&c.triangle).all(|v| v.is_finite());
            if !collected.iter().all(finite) {
                let name = super::input_name(shape.role, shape.layer).unwrap_or_default();
                return Err(Error::invalid(format!(
                    "{name}: the activations overflow on this text; the model does not run in 32-bit floats"
                )));
            }
            self.sink.input(shape, &collected)?;
        }
        self.sums.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
