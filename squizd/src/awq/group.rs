//! Which tensors must be scaled together.

use crate::{calibration::input_name, model::ModelConfig, source::TensorInfo};
use squizd_spec::{Part, Role};
use std::collections::{BTreeMap, BTreeSet};

/// An input, everything that reads it, and what produces it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// Name of the input.
    pub(super) input: String,
    /// Indices of the tensors whose columns are scaled.
    pub(super) readers: Vec<usize>,
    pub(super) producer: Producer,
}

/// What is divided in turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Producer {
    /// Gain (and bias, if any) of a norm.
    Norm(Vec<usize>),
    /// Rows of the value projection and its bias. Query heads that share a
    /// key/value head share its scales.
    Value { tensors: Vec<usize>, heads: Heads },
    /// Rows of the up projection (expert by expert in a stack) and its bias.
    Up(Vec<usize>),
}

/// How attention output channels come from value channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) dim: usize,
}

/// All that may read a block's norm.
const ATTENTION_READERS: &[Role] = &[
    Role::ATTN_Q,
    Role::ATTN_K,
    Role::ATTN_V,
    Role::ATTN_GATE,
    Role::ATTN_Q_A,
    Role::ATTN_KV_A,
    Role::LINEAR_ATTN_QKV,
    Role::LINEAR_ATTN_GATE,
    Role::LINEAR_ATTN_BETA,
    Role::LINEAR_ATTN_ALPHA,
];
const FFN_READERS: &[Role] = &[
    Role::FFN_GATE,
    Role::FFN_UP,
    Role::MOE_ROUTER,
    Role::MOE_GATE,
    Role::MOE_UP,
    Role::SHARED_GATE,
    Role::SHARED_UP,
    Role::SHARED_ROUTER,
];

/// The groups of a model, layer by layer. Tensors of one input that do not all
/// fit the picture (a width that differs, a missing producer) make none.
pub(super) fn groups(model: &ModelConfig, tensors: &[TensorInfo]) -> Vec<Group> {
    let index: BTreeMap<_, _> =
        tensors.iter().enumerate().map(|(i, t)| ((t.layer, t.role.0, t.part.0), i)).collect();
    let layers: BTreeSet<u16> = tensors.iter().filter_map(|t| t.layer).collect();
    let mut groups = Vec::new();
    for layer in layers {
        let at = Layer { tensors, index: &index, number: layer };
        groups.extend(at.norm(Role::ATTN_NORM, Role::ATTN_Q, ATTENTION_READERS));
        groups.extend(at.value(model));
        let ffn = if at.get(Role::MOE_GATE).is_some() { Role::MOE_GATE } else { Role::FFN_GATE };
        groups.extend(at.norm(Role::FFN_NORM, ffn, FFN_READERS));
        groups.extend(at.up(Role::FFN_UP, Role::FFN_DOWN));
        groups.extend(at.up(Role::MOE_UP, Role::MOE_DOWN));
    }
    groups
}

struct Layer<'a> {
    tensors: &'a [TensorInfo],
    index: &'a BTreeMap<(Option<u16>, u16, u8), usize>,
    number: u16,
}

impl Layer<'_> {
    fn part(&self, role: Role, part: Part) -> Option<(usize, &TensorInfo)> {
        let i = *self.index.get(&(Some(self.number), role.0, part.0))?;
        Some((i, self.tensors.get(i)?))
    }

    fn get(&self, role: Role) -> Option<(usize, &TensorInfo)> {
        self.part(role, Part::WEIGHT)
    }

    /// A module's weight and bias.
    fn module(&self, role: Role) -> Vec<usize> {
        Part::ALL.iter().filter_map(|part| Some(self.part(role, *part)?.0)).collect()
    }

    fn norm(&self, norm: Role, input: Role, roles: &[Role]) -> Option<Group> {
        let width = self.get(norm)?.1.elements();
        let readers: Vec<_> = roles.iter().filter_map(|r| self.get(*r)).collect();
        let fits = !readers.is_empty() && readers.iter().all(|(_, t)| t.cols() == width);
        fits.then_some(())?;
        Some(Group {
            input: input_name(input, Some(self.number))?,
            readers: readers.into_iter().map(|(i, _)| i).collect(),
            producer: Producer::Norm(self.module(norm)),
        })
    }

    fn value(&self, model: &ModelConfig) -> Option<Group> {
        let (output, o) = self.get(Role::ATTN_OUTPUT)?;
        let (_, v) = self.get(Role::ATTN_V)?;
        let heads = Heads {
            queries: usize::from(model.num_heads),
            keys: usize::from(model.num_kv_heads),
            dim: model.head_dim as usize,
        };
        let width = |count: usize| count.checked_mul(heads.dim).map(|n| n as u64);
        let fits = heads.keys > 0
            && heads.queries.is_multiple_of(heads.keys)
            && width(heads.queries) == Some(o.cols())
            && width(heads.keys) == Some(v.rows());
        fits.then_some(())?;
        Some(Group {
            input: input_name(Role::ATTN_OUTPUT, Some(self.number))?,
            readers: vec![output],
            producer: Producer::Value { tensors: self.module(Role::ATTN_V), heads },
        })
    }

    fn up(&self, up: Role, down: Role) -> Option<Group> {
        let (_, producer) = self.get(up)?;
        let (reader, d) = self.get(down)?;
        let sets = u64::from(d.experts.max(1));
        let fits = producer.experts == d.experts && d.cols().checked_mul(sets) == Some(producer.rows());
        fits.then_some(())?;
        Some(Group {
            input: input_name(down, Some(self.number))?,
            readers: vec![reader],
            producer: Producer::Up(self.module(up)),
        })
    }
}
