//! A model ready to run: its hyper-parameters and its resolved tensors.

use super::attention::Heads;
use super::linear::Linear;
use super::rope::Rope;
use crate::Result;
use crate::dispatch::{Backend, KernelGroup, groups};
use crate::model::ModelConfig;

/// A decoder-only transformer whose weights are read in place for `'w`.
///
/// Loading resolves for every tensor the codec whose kernels run it (after
/// unpacking, for codecs made for keeping); it checks every tensor the family needs for presence, shape and codec,
/// and that the file holds none the forward pass would ignore.
pub struct Model<'w> {
    pub(crate) config: ModelConfig,
    pub(crate) heads: Heads,
    pub(crate) norm_eps: f32,
    pub(crate) embedding: Linear<'w>,
    pub(crate) layers: Vec<Layer<'w>>,
    pub(crate) output_norm: Vec<f32>,
    /// The head; `None` where it is the embedding.
    pub(crate) output: Option<Linear<'w>>,
    /// Rotation of global and of local layers.
    pub(crate) ropes: [Rope; 2],
}

impl<'w> Model<'w> {
    /// The hyper-parameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokens the model knows; the length of a logits row.
    pub fn vocab_size(&self) -> usize {
        self.embedding.rows()
    }

    /// What multiplies which matrices, on the first of `backends` that can; the
    /// embedding counts where it is the head.
    ///
    /// # Errors
    /// If no backend has a kernel for one.
    pub fn kernels(&self, backends: &[&dyn Backend]) -> Result<Vec<KernelGroup>> {
        let layers = self.layers.iter().flat_map(|layer| {
            let ffn = match &layer.ffn {
                Ffn::Dense { gate, up, down } => vec![gate, up, down],
                Ffn::Experts(e) => vec![&e.router, &e.gate, &e.up, &e.down],
            };
            [&layer.q, &layer.k, &layer.v, &layer.attn_output].into_iter().chain(ffn)
        });
        groups(backends, layers.chain([self.head()]).map(Linear::subject))
    }

    pub(crate) fn hidden(&self) -> usize {
        self.embedding.cols()
    }

    pub(crate) fn head(&self) -> &Linear<'w> {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Values of one position's queries.
    pub(crate) fn query_width(&self) -> usize {
        self.heads.queries * self.heads.dim
    }

    /// Values of one position's keys, and of its values.
    pub(crate) fn key_width(&self) -> usize {
        self.heads.keys * self.heads.dim
    }
}

impl std::fmt::Debug for Model<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One transformer block.
pub(crate) struct Layer<'w> {
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) q: Linear<'w>,
    pub(crate) k: Linear<'w>,
    pub(crate) v: Linear<'w>,
    pub(crate) attn_output: Linear<'w>,
    /// Per-head norms of queries and keys.
    pub(crate) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    /// Norm of the attention block's result (sandwich norms).
    pub(crate) attn_post_norm: Option<Vec<f32>>,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) ffn: Ffn<'w>,
    pub(crate) ffn_post_norm: Option<Vec<f32>>,
    /// Sliding window in tokens.
    pub(crate) window: Option<usize>,
    /// Index into [`Model::ropes`]; `None`: no rotary embedding.
    pub(crate) rope: Option<usize>,
}

/// Feed-forward block.
pub(crate) enum Ffn<'w> {
    Dense { gate: Linear<'w>, up: Linear<'w>, down: Linear<'w> },
    Experts(Experts<'w>),
}

/// Mixture of experts: each token goes to its `active` best experts.
pub(crate) struct Experts<'w> {
    pub(crate) router: Linear<'w>,
    /// `[experts * width, hidden]`.
    pub(crate) gate: Linear<'w>,
    /// `[experts * width, hidden]`.
    pub(crate) up: Linear<'w>,
    /// `[experts * hidden, width]`.
    pub(crate) down: Linear<'w>,
    pub(crate) active: usize,
    /// Feed-forward width of one expert.
    pub(crate) width: usize,
    /// Selected probabilities are divided by their sum.
    pub(crate) normalize: bool,
    /// Factor on the routed sum.
    pub(crate) scale: f32,
}
