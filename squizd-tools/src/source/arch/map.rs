//! A source's tensors, brought into stored form.

use super::{
    Buffer, Naming, Target,
    assemble::{self, Run},
    name::TensorName,
    shape::{self, Key},
    some_of,
    tables::{GGUF_AUXILIARY, HF_AUXILIARY, HF_PREFIXES},
    verify::{check_dims, check_required, check_shape, names_of, unmapped},
};
use crate::source::{
    config::SourceConfig,
    flaw::bad_name,
    pieces::{MappedTensor, Piece, Reader, Recipe, Walk},
    store::{StoredTensor, TensorStore},
};
use squizd::{Error, Result, source::TensorInfo};
use squizd_spec::{DType, Limits, Part, Role};
use std::collections::BTreeMap;

/// What to do with tensors outside the text model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingOptions {
    /// Carry tensors that no table knows as [`Role::OTHER`].
    pub allow_unmapped: bool,
    /// Leave out vision towers and other parts outside the text model.
    pub text_only: bool,
}

/// The outcome of [`map`].
#[derive(Debug, Default)]
pub struct Mapping {
    /// Stored tensors in file order.
    pub tensors: Vec<MappedTensor>,
    /// The head is the embedding.
    pub tied: bool,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Store index of GGUF's divisors of the rotary frequencies.
    pub rope_factors: Option<usize>,
    /// Store indices of `LongRoPE`'s short and long factors.
    pub longrope_factors: (Option<usize>, Option<usize>),
    /// Source tensors left out on purpose.
    pub dropped: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Source rows collected for one stored tensor.
#[derive(Default)]
struct Collected {
    runs: Vec<(usize, Run)>,
}

enum Class {
    Known(Target, u16, u32),
    Auxiliary(&'static str),
    Unknown,
}

/// Maps every tensor of `store` by the family's tables.
///
/// # Errors
/// Names every tensor that is unknown, missing, of an unexpected shape, or
/// given twice.
pub fn map(
    store: &dyn TensorStore,
    naming: Naming,
    cfg: &SourceConfig,
    options: MappingOptions,
) -> Result<Mapping> {
    let family = cfg.family;
    let tensors = store.tensors();
    let classes: Vec<Class> = tensors.iter().map(|t| classify(cfg, naming, &t.name)).collect();
    let mut out = Mapping { vocab_size: vocab_rows(tensors, &classes, cfg)?, ..Mapping::default() };

    let mut collected: BTreeMap<Key, Collected> = BTreeMap::new();
    let mut unknown: Vec<usize> = Vec::new();
    let mut auxiliary: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let has_joint_latent = |layer| has_latent(&classes, layer);
    for (index, (tensor, class)) in tensors.iter().zip(&classes).enumerate() {
        check_shape(tensor)?;
        match *class {
            Class::Unknown => unknown.push(index),
            Class::Auxiliary(what) => auxiliary.entry(what).or_default().push(index),
            Class::Known(Target::Buffer(b), ..) => out.buffer(b, index, tensor),
            Class::Known(Target::Fused(super::Fused::LatentKey | super::Fused::LatentValue), layer, _)
                if has_joint_latent(layer) =>
            {
                out.dropped.push(tensor.name.clone());
            }
            Class::Known(target, layer, expert) => {
                let plan = assemble::plan(cfg, naming, target, layer, expert, out.vocab_size);
                let Some(plan) = plan else {
                    return Err(Error::refused(
                        "source-unexpected",
                        format!("tensor {} has no place in this {} configuration", tensor.name, family.name),
                    ));
                };
                check_dims(tensor, &plan.dims, family)?;
                for (key, runs) in plan.parts {
                    let slot = collected.entry(key).or_default();
                    slot.runs.extend(runs.into_iter().map(|r| (index, r)));
                }
            }
        }
    }
    if !unknown.is_empty() && !options.allow_unmapped {
        return Err(unmapped(tensors, &unknown, family));
    }

    for (key, slot) in collected {
        let mapped = finish(cfg, naming, tensors, key, slot, out.vocab_size)?;
        out.tensors.push(mapped);
    }
    out.settle_head(store, cfg)?;
    check_required(cfg, naming, &out.tensors, out.tied)?;
    let carried = out.auxiliary(tensors, auxiliary, options);
    if !unknown.is_empty() {
        let names: Vec<&str> = names_of(tensors, &unknown);
        out.warnings.push(format!(
            "{} unmapped tensors are carried raw under their source names: {}",
            names.len(),
            some_of(&names)
        ));
    }
    out.carry(tensors, unknown.into_iter().chain(carried).collect())?;
    Ok(out)
}

fn classify(cfg: &SourceConfig, naming: Naming, name: &str) -> Class {
    let (auxiliary, prefixes) = match naming {
        Naming::Hf => (HF_AUXILIARY, HF_PREFIXES),
        Naming::Gguf => (GGUF_AUXILIARY, &[""][..]),
    };
    if let Some((_, what)) = auxiliary.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Class::Auxiliary(what);
    }
    let layers = u32::from(cfg.model.num_layers);
    for relative in prefixes.iter().filter_map(|p| name.strip_prefix(p)) {
        let parsed = TensorName::parse(relative);
        let in_stack = parsed.template.starts_with("layers.{l}.") || parsed.template.starts_with("blk.{l}.");
        let layer = parsed.layer.unwrap_or(0);
        if in_stack && layer >= layers {
            let is_mtp = layer < layers + u32::from(cfg.mtp_layers);
            return if is_mtp { Class::Auxiliary("multi-token prediction head") } else { Class::Unknown };
        }
        if let Some(target) = cfg.family.target(naming, &parsed.template) {
            return Class::Known(target, layer as u16, parsed.expert.unwrap_or(0));
        }
    }
    Class::Unknown
}

/// Rows of the embedding, which settle the vocabulary size.
fn vocab_rows(tensors: &[StoredTensor], classes: &[Class], cfg: &SourceConfig) -> Result<u64> {
    if cfg.family.is_unknown() {
        return Ok(cfg.model.vocab_size.into());
    }
    let is_embedding =
        |c: &Class| matches!(c, Class::Known(Target::Whole(Role::TOKEN_EMBD, Part::WEIGHT), ..));
    let found = tensors.iter().zip(classes).find(|(_, c)| is_embedding(c));
    let Some((tensor, _)) = found else {
        let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        return Err(Error::refused(
            "source-missing",
            format!(
                "no token embedding for architecture {} among {} tensors: {}",
                cfg.family.name,
                names.len(),
                some_of(&names)
            ),
        ));
    };
    match *tensor.dims.as_slice() {
        [rows, _] if rows > 0 && u32::try_from(rows).is_ok() => Ok(rows),
        _ => Err(Error::refused(
            "source-shape",
            format!(
                "tensor {} has dimensions {:?}; an embedding is [vocab, hidden]",
                tensor.name, tensor.dims
            ),
        )),
    }
}

fn has_latent(classes: &[Class], layer: u16) -> bool {
    let joint = Target::Whole(Role::ATTN_KV_B, Part::WEIGHT);
    classes.iter().any(|c| matches!(c, Class::Known(t, l, _) if *t == joint && *l == layer))
}

/// Orders the rows of one stored tensor and checks that they tile it.
fn finish(
    cfg: &SourceConfig,
    naming: Naming,
    tensors: &[StoredTensor],
    key: Key,
    slot: Collected,
    vocab: u64,
) -> Result<MappedTensor> {
    let name = key.name();
    let dims = shape::dims(cfg, key, vocab).ok_or_else(|| {
        Error::refused(
            "source-unexpected",
            format!("{name} has no place in this {} configuration", cfg.family.name),
        )
    })?;
    let mut pieces: Vec<Piece> = slot
        .runs
        .into_iter()
        .map(|(tensor, r)| Piece { dst: r.dst, len: r.len, tensor, src: r.src, walk: r.walk })
        .collect();
    pieces.sort_by_key(|p| (p.dst, p.tensor));
    let source = |p: &Piece| tensors.get(p.tensor).map_or("?", |t| t.name.as_str());
    let mut end = 0;
    for (i, piece) in pieces.iter().enumerate() {
        if piece.dst < end {
            let before = i.checked_sub(1).and_then(|j| pieces.get(j)).map_or("?", source);
            return Err(Error::refused(
                "source-duplicate",
                format!("{} and {before} are both {name}", source(piece)),
            ));
        }
        if piece.dst > end {
            break;
        }
        end = piece.end();
    }
    let rows = assemble::units(&dims);
    if end != rows {
        let given: Vec<&str> = pieces.iter().map(source).collect();
        return Err(Error::refused(
            "source-missing",
            format!(
                "{name} is incomplete: its source tensors leave rows from {end} of {rows} unfilled; found {}",
                some_of(&given)
            ),
        ));
    }
    let first = pieces.first().and_then(|p| tensors.get(p.tensor));
    let add_one = naming == Naming::Hf && cfg.family.hf_norm_offset && is_gain(key.role);
    let same_type = pieces.iter().all(|p| tensors.get(p.tensor).map(|t| t.dtype) == first.map(|t| t.dtype));
    let in_rows = pieces.iter().all(|p| matches!(p.walk, Walk::Rows { .. }));
    let native = same_type && in_rows && !add_one;
    let experts = match key.role {
        Role::MOE_GATE | Role::MOE_UP | Role::MOE_DOWN => dims.first().copied().unwrap_or(0) as u16,
        _ => 0,
    };
    let info = TensorInfo {
        name,
        source_name: source_names(&pieces, &source),
        role: key.role,
        layer: key.layer(),
        part: key.part,
        experts,
        dtype: if native { first.map_or(DType::F32, |t| t.dtype) } else { DType::F32 },
        dims,
    };
    Ok(MappedTensor { info, recipe: Recipe { pieces, add_one, native } })
}

fn is_gain(role: Role) -> bool {
    matches!(
        role,
        Role::ATTN_NORM
            | Role::ATTN_Q_NORM
            | Role::ATTN_K_NORM
            | Role::ATTN_POST_NORM
            | Role::FFN_NORM
            | Role::FFN_POST_NORM
            | Role::OUTPUT_NORM
    )
}

fn source_names<'a>(pieces: &[Piece], source: &impl Fn(&Piece) -> &'a str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for piece in pieces {
        let name = source(piece);
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    match names.as_slice() {
        [a, .., b] if a != b && pieces.first().map(|p| p.tensor) != pieces.get(2).map(|p| p.tensor) => {
            format!("{a} .. {b}")
        }
        [a, b, ..] => format!("{a}, {b}"),
        [a] => (*a).to_owned(),
        [] => String::new(),
    }
}

impl Mapping {
    fn buffer(&mut self, what: Buffer, index: usize, tensor: &StoredTensor) {
        match what {
            Buffer::Derived => self.dropped.push(tensor.name.clone()),
            Buffer::RopeFactors => self.rope_factors = Some(index),
            Buffer::ShortFactors => self.longrope_factors.0 = Some(index),
            Buffer::LongFactors => self.longrope_factors.1 = Some(index),
        }
    }

    /// Drops a head that repeats the embedding, and decides whether the head is tied.
    fn settle_head(&mut self, store: &dyn TensorStore, cfg: &SourceConfig) -> Result<()> {
        let at = |role| self.tensors.iter().position(|t| t.info.role == role);
        let (Some(embedding), Some(head)) = (at(Role::TOKEN_EMBD), at(Role::OUTPUT)) else {
            self.tied = cfg.tied.unwrap_or(true);
            return Ok(());
        };
        let (Some(a), Some(b)) = (self.tensors.get(embedding), self.tensors.get(head)) else { return Ok(()) };
        if identical(&a.reader(store), &b.reader(store))? {
            let removed = self.tensors.remove(head);
            self.dropped.push(removed.info.source_name);
            self.tied = true;
        } else if cfg.tied == Some(true) {
            self.warnings.push(format!(
                "{} differs from the embedding although tie_word_embeddings is true: it is kept and the model marked as untied",
                b.info.source_name
            ));
        }
        Ok(())
    }

    /// Drops or keeps parts outside the text model; returns those to carry.
    fn auxiliary(
        &mut self,
        tensors: &[StoredTensor],
        found: BTreeMap<&str, Vec<usize>>,
        options: MappingOptions,
    ) -> Vec<usize> {
        let mut carried = Vec::new();
        for (what, indices) in found {
            let names = names_of(tensors, &indices);
            let listed = some_of(&names);
            if options.text_only {
                self.warnings.push(format!("{what} left out, {} tensors: {listed}", names.len()));
                self.dropped.extend(names.into_iter().map(str::to_owned));
            } else {
                self.warnings.push(format!(
                    "{what} carried raw under its source names, {} tensors: {listed}; leave it out with --text-only",
                    names.len()
                ));
                carried.extend(indices);
            }
        }
        carried
    }

    /// Appends source tensors unchanged as [`Role::OTHER`], by name.
    fn carry(&mut self, tensors: &[StoredTensor], mut indices: Vec<usize>) -> Result<()> {
        indices.sort_by_key(|&i| tensors.get(i).map(|t| t.name.as_str()));
        let taken: std::collections::HashSet<String> =
            self.tensors.iter().map(|t| t.info.name.clone()).collect();
        for (index, tensor) in indices.into_iter().filter_map(|i| tensors.get(i).map(|t| (i, t))) {
            if let Some(what) = bad_name(&tensor.name, Limits::DEFAULT.name.into()) {
                return Err(Error::refused(
                    "source-name",
                    format!("unmapped tensor cannot be stored: its name {what}"),
                ));
            }
            if taken.contains(&tensor.name) {
                return Err(Error::refused(
                    "source-duplicate",
                    format!("unmapped tensor {} has the stored name of a mapped one", tensor.name),
                ));
            }
            let info = TensorInfo {
                name: tensor.name.clone(),
                source_name: tensor.name.clone(),
                role: Role::OTHER,
                layer: None,
                part: Part::WEIGHT,
                experts: 0,
                dtype: tensor.dtype,
                dims: tensor.dims.clone(),
            };
            let len = assemble::units(&tensor.dims);
            let piece = Piece { dst: 0, len, tensor: index, src: 0, walk: Walk::Rows { stride: 1 } };
            let recipe = Recipe { pieces: vec![piece], add_one: false, native: true };
            self.tensors.push(MappedTensor { info, recipe });
        }
        Ok(())
    }
}

/// Whether two tensors hold the same bytes, read in windows of about 1 MiB.
fn identical(a: &Reader<'_>, b: &Reader<'_>) -> Result<bool> {
    if a.info.dims != b.info.dims || a.info.dtype != b.info.dtype {
        return Ok(false);
    }
    let rows = a.info.rows();
    let step = (1u64 << 18).checked_div(a.info.cols()).unwrap_or(1).max(1);
    let mut start = 0;
    while start < rows {
        let window = start..rows.min(start + step);
        let same = match (a.read_native(window.clone())?, b.read_native(window.clone())?) {
            (Some(x), Some(y)) => x == y,
            _ => false,
        };
        a.release(&window);
        b.release(&window);
        if !same {
            return Ok(false);
        }
        start = window.end;
    }
    Ok(true)
}
