//! From stored tensors to a [`Model`]: what each family needs, checked.

use super::attention::Heads;
use super::linear::Linear;
use super::model::{Experts, Ffn, Layer, Model};
use super::rope::Rope;
use super::weights::{FileWeights, Stored, Weights};
use crate::codec::{self, Encoded};
use crate::model::{ModelConfig, Moe};
use crate::{Error, Result};
use squizd_spec::{Matrix, Params, Part, Role, SquizdRef, canonical_name};
use std::{borrow::Cow, collections::HashSet};

/// What distinguishes the families beyond what [`ModelConfig`] states.
struct Family {
    name: &'static str,
    /// Query, key and value projections have a bias.
    qkv_bias: bool,
    /// Queries and keys are normalised per head.
    qk_norm: bool,
    /// Norms after the attention and feed-forward blocks too; embeddings scaled.
    gemma: bool,
    /// Mixture of experts.
    moe: bool,
}

impl Family {
    const fn plain(name: &'static str) -> Self {
        Self { name, qkv_bias: false, qk_norm: false, gemma: false, moe: false }
    }

    const ALL: &'static [Self] = &[
        Self::plain("llama"),
        Self::plain("mistral"),
        Self { qkv_bias: true, ..Self::plain("qwen2") },
        Self { qk_norm: true, ..Self::plain("qwen3") },
        Self { qk_norm: true, moe: true, ..Self::plain("qwen3moe") },
        Self { gemma: true, ..Self::plain("gemma2") },
        Self { gemma: true, qk_norm: true, ..Self::plain("gemma3") },
        Self::plain("phi3"),
        Self::plain("smollm3"),
    ];

    fn of(config: &ModelConfig) -> Result<&'static Self> {
        Self::ALL.iter().find(|f| f.name == config.family).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|f| f.name).collect();
            Error::refused_unsupported(
                "model-unsupported",
                format!(
                    "model family {:?} is not run by the reference runtime, which knows {}",
                    config.family,
                    known.join(", ")
                ),
            )
        })
    }
}

/// The parameters of plain numbers.
static PLAIN: Params = [0; 32];

/// Largest head: bounds the attention buffers.
const MAX_HEAD_DIM: u32 = 1024;

impl<'w> Model<'w> {
    /// The model of a parsed file, whose hyper-parameters (`metadata.model`)
    /// are `config`.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn of_file(file: &SquizdRef<'w>, config: &ModelConfig) -> Result<Self> {
        Self::new(config, &FileWeights::new(file)?)
    }

    /// Checks the hyper-parameters alone, without any tensor.
    ///
    /// # Errors
    /// As [`Model::new`] for a family, an option or a number out of range.
    pub fn check(config: &ModelConfig) -> Result<()> {
        check_config(config, Family::of(config)?)
    }

    /// Resolves and checks every tensor.
    ///
    /// # Errors
    /// An unsupported [`Error::Refused`] for a family, an option or a codec this runtime
    /// does not run; an invalid one for a hyper-parameter out of range, a
    /// missing tensor, one of the wrong shape, or one the family does not use.
    pub fn new(config: &ModelConfig, weights: &dyn Weights<'w>) -> Result<Self> {
        let family = Family::of(config)?;
        check_config(config, family)?;
        let mut tensors = Resolver { config, weights, used: HashSet::new() };
        let (hidden, vocab) = (u64::from(config.hidden_size), u64::from(config.vocab_size));
        let embedding = tensors.linear(Role::TOKEN_EMBD, None, &[vocab, hidden], Bias::None)?;
        let layers =
            (0..config.num_layers).map(|layer| tensors.layer(layer, family)).collect::<Result<Vec<_>>>()?;
        let output_norm = tensors.vector(Role::OUTPUT_NORM, None, Part::WEIGHT, hidden)?;
        let output = (!config.tie_embeddings)
            .then(|| tensors.linear(Role::OUTPUT, None, &[vocab, hidden], Bias::Optional))
            .transpose()?;
        tensors.refuse_unused(family)?;
        let dim = config.head_dim as usize;
        let scale = config.attn_scale.unwrap_or_else(|| f64::from(config.head_dim).powf(-0.5));
        Ok(Self {
            heads: Heads {
                queries: usize::from(config.num_heads),
                keys: usize::from(config.num_kv_heads),
                dim,
                scale: scale as f32,
                softcap: config.attn_softcap.map(|c| c as f32),
            },
            norm_eps: config.norm_eps as f32,
            embedding,
            layers,
            output_norm,
            output,
            ropes: [Rope::new(config, false)?, Rope::new(config, true)?],
            config: config.clone(),
        })
    }
}

/// Refuses hyper-parameters that contradict each other, the family, or what
/// this runtime implements.
fn check_config(config: &ModelConfig, family: &Family) -> Result<()> {
    let invalid = |field: &str, value: &dyn std::fmt::Display, allowed: &str| {
        Err(Error::refused("model-config", format!("model config: {field} is {value}, must be {allowed}")))
    };
    for (field, value) in [
        ("hidden_size", config.hidden_size),
        ("num_layers", config.num_layers.into()),
        ("num_heads", config.num_heads.into()),
        ("num_kv_heads", config.num_kv_heads.into()),
        ("head_dim", config.head_dim),
        ("vocab_size", config.vocab_size),
        ("max_positions", config.max_positions),
    ] {
        if value == 0 {
            return invalid(field, &value, "positive");
        }
    }
    if config.head_dim > MAX_HEAD_DIM {
        return invalid("head_dim", &config.head_dim, "at most 1024");
    }
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        return invalid(
            "num_heads",
            &config.num_heads,
            &format!("a multiple of num_kv_heads {}", config.num_kv_heads),
        );
    }
    if !(config.norm_eps.is_finite() && config.norm_eps >= 0.0) {
        return invalid("norm_eps", &config.norm_eps, "finite and not negative");
    }
    for (field, value) in [
        ("attn_scale", config.attn_scale),
        ("attn_softcap", config.attn_softcap),
        ("logit_softcap", config.logit_softcap),
        ("embedding_scale", config.embedding_scale),
    ] {
        if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
            return invalid(field, &value, "finite and positive");
        }
    }
    if config.sliding_window == Some(0) {
        return invalid("sliding_window", &0, "positive");
    }
    for (field, length) in
        [("local_layers", config.local_layers.len()), ("nope_layers", config.nope_layers.len())]
    {
        if length != 0 && length != usize::from(config.num_layers) {
            return invalid(field, &format!("{length} long"), "empty or one entry per layer");
        }
    }
    if config.mla.is_some() {
        return Err(Error::refused_unsupported(
            "model-unsupported",
            format!(
                "model family {}: multi-head latent attention is not run by the reference runtime",
                config.family
            ),
        ));
    }
    if family.gemma && config.embedding_scale.is_none() {
        return invalid("embedding_scale", &"absent", &format!("present in family {}", family.name));
    }
    match &config.moe {
        Some(moe) if family.moe => check_moe(moe, config),
        Some(_) => Err(Error::refused_unsupported(
            "model-unsupported",
            format!("model family {}: mixture of experts is run for qwen3moe only", config.family),
        )),
        None if family.moe => invalid("moe", &"absent", &format!("present in family {}", family.name)),
        None => Ok(()),
    }
}

fn check_moe(moe: &Moe, config: &ModelConfig) -> Result<()> {
    let unsupported = |what: &str| {
        Err(Error::refused_unsupported(
            "model-unsupported",
            format!("model family {}: {what} is not run by the reference runtime", config.family),
        ))
    };
    if moe.sigmoid_scores {
        return unsupported("sigmoid routing (moe.sigmoid_scores)");
    }
    if moe.shared_ffn_size.is_some_and(|s| s > 0) {
        return unsupported("a shared expert (moe.shared_ffn_size)");
    }
    if moe.groups.is_some() {
        return unsupported("grouped routing (moe.groups)");
    }
    if moe.experts_per_token == 0 || moe.experts_per_token > moe.num_experts {
        return Err(Error::refused(
            "model-config",
            format!(
                "model config: moe.experts_per_token is {}, must be 1 to num_experts {}",
                moe.experts_per_token, moe.num_experts
            ),
        ));
    }
    Ok(())
}

/// Whether a projection has a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bias {
    None,
    Optional,
    Required,
}

type Key = (Role, Option<u16>, Part);

/// Finds tensors, checks them, and remembers which were used.
struct Resolver<'a, 'w> {
    config: &'a ModelConfig,
    weights: &'a dyn Weights<'w>,
    used: HashSet<Key>,
}

impl<'w> Resolver<'_, 'w> {
    fn layer(&mut self, layer: u16, family: &Family) -> Result<Layer<'w>> {
        let config = self.config;
        let at = Some(layer);
        let (hidden, dim) = (u64::from(config.hidden_size), u64::from(config.head_dim));
        let q = u64::from(config.num_heads) * dim;
        let kv = u64::from(config.num_kv_heads) * dim;
        let bias = if family.qkv_bias { Bias::Required } else { Bias::Optional };
        let norm_if = |this: &mut Self, needed: bool, role: Role, length: u64| {
            needed.then(|| this.vector(role, at, Part::WEIGHT, length)).transpose()
        };
        let attn_post_norm = norm_if(self, family.gemma, Role::ATTN_POST_NORM, hidden)?;
        let ffn_post_norm = norm_if(self, family.gemma, Role::FFN_POST_NORM, hidden)?;
        let q_norm = norm_if(self, family.qk_norm, Role::ATTN_Q_NORM, dim)?;
        let k_norm = norm_if(self, family.qk_norm, Role::ATTN_K_NORM, dim)?;
        let index = usize::from(layer);
        let local = config.is_local(index);
        Ok(Layer {
            attn_norm: self.vector(Role::ATTN_NORM, at, Part::WEIGHT, hidden)?,
            q: self.linear(Role::ATTN_Q, at, &[q, hidden], bias)?,
            k: self.linear(Role::ATTN_K, at, &[kv, hidden], bias)?,
            v: self.linear(Role::ATTN_V, at, &[kv, hidden], bias)?,
            attn_output: self.linear(Role::ATTN_OUTPUT, at, &[hidden, q], Bias::Optional)?,
            qk_norm: q_norm.zip(k_norm),
            attn_post_norm,
            ffn_norm: self.vector(Role::FFN_NORM, at, Part::WEIGHT, hidden)?,
            ffn: self.ffn(layer, hidden)?,
            ffn_post_norm,
            window: config.sliding_window.filter(|_| local).map(|w| w as usize),
            rope: config.uses_rope(index).then_some(usize::from(local)),
        })
    }

    fn ffn(&mut self, layer: u16, hidden: u64) -> Result<Ffn<'w>> {
        let at = Some(layer);
        match &self.config.moe {
            Some(moe) if layer >= moe.leading_dense_layers => {
                let (n, width) = (u64::from(moe.num_experts), u64::from(moe.expert_ffn_size));
                Ok(Ffn::Experts(Experts {
                    router: self.linear(Role::MOE_ROUTER, at, &[n, hidden], Bias::None)?,
                    gate: self.linear(Role::MOE_GATE, at, &[n, width, hidden], Bias::None)?,
                    up: self.linear(Role::MOE_UP, at, &[n, width, hidden], Bias::None)?,
                    down: self.linear(Role::MOE_DOWN, at, &[n, hidden, width], Bias::None)?,
                    active: usize::from(moe.experts_per_token),
                    width: moe.expert_ffn_size as usize,
                    normalize: moe.normalize_weights,
                    scale: moe.routed_scale.unwrap_or(1.0) as f32,
                }))
            }
            _ => {
                let width = u64::from(self.config.ffn_size);
                Ok(Ffn::Dense {
                    gate: self.linear(Role::FFN_GATE, at, &[width, hidden], Bias::Optional)?,
                    up: self.linear(Role::FFN_UP, at, &[width, hidden], Bias::Optional)?,
                    down: self.linear(Role::FFN_DOWN, at, &[hidden, width], Bias::Optional)?,
                })
            }
        }
    }

    fn get(&mut self, key: Key) -> Option<Stored<'w>> {
        let found = self.weights.get(key.0, key.1, key.2);
        if found.is_some() {
            self.used.insert(key);
        }
        found
    }

    /// The tensor's matrix, with codec, checked against `dims`.
    fn matrix(&mut self, (role, layer, part): Key, dims: &[u64]) -> Result<Linear<'w>> {
        let family = &self.config.family;
        let stored = self.get((role, layer, part)).ok_or_else(|| {
            Error::refused(
                "model-tensor",
                format!("tensor {} is missing; family {family} needs it", canonical_name(role, layer, part)),
            )
        })?;
        let family = &self.config.family;
        let name = stored.name;
        let shaped = (stored.dims == dims).then(|| Matrix::of(dims)).flatten();
        let Some(matrix) = shaped.filter(|m| m.elements() > 0) else {
            return Err(Error::refused(
                "model-tensor",
                format!(
                    "tensor {name}: its shape is {:?}, family {family} with this model config needs {dims:?}",
                    stored.dims
                ),
            ));
        };
        let codec = codec::codec(stored.codec).ok_or_else(|| {
            Error::refused_unsupported(
                "tensor-codec",
                format!("tensor {name}: codec {} has no decoder in this build", stored.codec),
            )
        })?;
        let length = stored.data.len() as u64;
        match stored.codec.geometry(matrix, stored.params) {
            Ok(geometry) if geometry.length.allows(length) => {}
            _ => {
                return Err(Error::refused(
                    "tensor-length",
                    format!(
                        "tensor {name}: {length} payload bytes do not fit codec {} and shape {dims:?}",
                        stored.codec
                    ),
                ));
            }
        }
        let tensor = Encoded { name, matrix, params: stored.params, data: stored.data };
        let (codec, params, payload) = match codec.unpack(&tensor)? {
            None => (codec, stored.params, Cow::Borrowed(stored.data)),
            Some((raw, numbers)) => {
                let codec = codec::codec(raw).ok_or_else(|| {
                    Error::unsupported(format!("tensor {name}: codec {raw} has no decoder in this build"))
                })?;
                (codec, &PLAIN, numbers)
            }
        };
        let stored = (stored.codec, stored.params, length);
        Ok(Linear { codec, name, matrix, params, payload, bias: None, stored })
    }

    fn linear(&mut self, role: Role, layer: Option<u16>, dims: &[u64], bias: Bias) -> Result<Linear<'w>> {
        let mut linear = self.matrix((role, layer, Part::WEIGHT), dims)?;
        let present = || self.weights.get(role, layer, Part::BIAS).is_some();
        if bias == Bias::Required || bias == Bias::Optional && present() {
            let rows = dims.first().copied().unwrap_or(0);
            linear.bias = Some(self.vector(role, layer, Part::BIAS, rows)?);
        }
        Ok(linear)
    }

    /// A one-dimensional tensor, decoded.
    fn vector(&mut self, role: Role, layer: Option<u16>, part: Part, length: u64) -> Result<Vec<f32>> {
        let matrix = self.matrix((role, layer, part), &[length])?;
        let mut values = vec![0.0; length as usize];
        matrix.decode(0..1, &mut values)?;
        Ok(values)
    }

    /// Refuses a model with tensors that no part of the forward pass reads:
    /// running without them would be silently wrong.
    fn refuse_unused(&self, family: &Family) -> Result<()> {
        for &role in Role::ALL {
            for &part in Part::ALL {
                let layers = 0..=self.config.num_layers;
                for layer in std::iter::once(None).chain(layers.map(Some)) {
                    let key = (role, layer, part);
                    if self.used.contains(&key) {
                        continue;
                    }
                    if let Some(stored) = self.weights.get(role, layer, part) {
                        let tied = role == Role::OUTPUT && self.config.tie_embeddings;
                        let why = if tied {
                            "but the model config says that the head is the embedding".to_owned()
                        } else {
                            format!("but family {} has no use for it", family.name)
                        };
                        return Err(Error::refused_unsupported(
                            "model-tensor",
                            format!(
                                "tensor {} is in the file, {why}: the model is not run without it",
                                stored.name
                            ),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
