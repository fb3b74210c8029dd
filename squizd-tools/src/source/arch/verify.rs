//! Refusals: shapes, types, unknown and missing tensors, each by name.

use super::{
    Entry, Family, Naming, Target,
    shape::{self, Key},
    some_of,
};
use crate::source::{config::SourceConfig, pieces::MappedTensor, store::StoredTensor};
use squizd::{Error, Result, source::TensorInfo};
use squizd_spec::{Limits, Part, Role};

/// Names of the tensors at `indices`.
pub(super) fn names_of<'t>(tensors: &'t [StoredTensor], indices: &[usize]) -> Vec<&'t str> {
    indices.iter().filter_map(|&i| tensors.get(i)).map(|t| t.name.as_str()).collect()
}

/// Refuses shapes and types that no model has.
pub(super) fn check_shape(tensor: &StoredTensor) -> Result<()> {
    let limits = Limits::DEFAULT;
    let elements = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let fits = elements.is_some_and(|n| n > 0 && n <= limits.elements);
    if tensor.dims.is_empty() || tensor.dims.len() > 6 || !fits {
        return Err(Error::refused(
            "source-shape",
            format!(
                "tensor {} has dimensions {:?}; 1 to 6 dimensions, none of them 0 and no more than {} elements are allowed",
                tensor.name, tensor.dims, limits.elements
            ),
        ));
    }
    if tensor.dtype_name.starts_with("F8") {
        return Err(Error::refused_unsupported(
            "source-quantized",
            format!(
                "tensor {} is {}: already quantized to 8-bit floats; convert from the original BF16 checkpoint",
                tensor.name, tensor.dtype_name
            ),
        ));
    }
    Ok(())
}

/// Equal up to dimensions of 1, which GGUF drops.
pub(super) fn check_dims(tensor: &StoredTensor, expected: &[u64], family: &Family) -> Result<()> {
    let squeezed = |dims: &[u64]| dims.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    if squeezed(&tensor.dims) == squeezed(expected) {
        return Ok(());
    }
    Err(Error::refused(
        "source-shape",
        format!(
            "tensor {} has dimensions {:?}, the configuration of this {} model calls for {expected:?}",
            tensor.name, tensor.dims, family.name
        ),
    ))
}

/// Suffixes that only quantized checkpoints have, and who writes them.
const QUANTIZER_SUFFIXES: &[(&str, &str)] = &[
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".weight_scale_inv", "block-wise FP8"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale", "compressed-tensors or FP8"),
    (".input_scale", "FP8"),
    (".SCB", "bitsandbytes 8-bit"),
    (".absmax", "bitsandbytes 4-bit"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes 4-bit"),
    ("_blocks", "MXFP4"),
];

pub(super) fn unmapped(tensors: &[StoredTensor], unknown: &[usize], family: &Family) -> Error {
    let names = names_of(tensors, unknown);
    for name in &names {
        if let Some((_, by)) = QUANTIZER_SUFFIXES.iter().find(|(suffix, _)| name.ends_with(suffix)) {
            return Error::refused_unsupported(
                "source-quantized",
                format!(
                    "tensor {name} says that this checkpoint is already quantized ({by}); convert from the original BF16 checkpoint"
                ),
            );
        }
        if name.contains(".lora_A.") || name.contains(".lora_B.") {
            return Error::refused_unsupported(
                "source-adapter",
                format!("tensor {name} belongs to a LoRA adapter; merge it into its base model first"),
            );
        }
    }
    Error::refused_unsupported(
        "source-unknown",
        format!(
            "{} of {} tensors are not known for architecture {}: {}; pass --allow-unmapped to carry them raw",
            names.len(),
            tensors.len(),
            family.name,
            some_of(&names)
        ),
    )
}

/// Every tensor that the configuration calls for is there, and no other weight.
pub(super) fn check_required(
    cfg: &SourceConfig,
    naming: Naming,
    tensors: &[MappedTensor],
    tied: bool,
) -> Result<()> {
    let key_of = |i: &TensorInfo| Key::new(i.role, i.layer.unwrap_or(0), i.part);
    let present: Vec<Key> = tensors.iter().map(|t| key_of(&t.info)).collect();
    let required = shape::required(cfg, tied);
    let missing: Vec<String> = required
        .iter()
        .filter(|k| present.binary_search(k).is_err())
        .map(|k| match source_name(cfg.family, naming, *k) {
            Some(source) => format!("{source} ({})", k.name()),
            None => k.name(),
        })
        .collect();
    if !missing.is_empty() {
        return Err(Error::refused(
            "source-missing",
            format!(
                "{} tensors of this {} model are missing: {}",
                missing.len(),
                cfg.family.name,
                some_of(&missing)
            ),
        ));
    }
    let unexpected: Vec<String> = tensors
        .iter()
        .filter(|t| t.info.part == Part::WEIGHT && required.binary_search(&key_of(&t.info)).is_err())
        .map(|t| format!("{} ({})", t.info.source_name, t.info.name))
        .collect();
    if unexpected.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        "source-unexpected",
        format!(
            "{} tensors have no place in this {} configuration: {}",
            unexpected.len(),
            cfg.family.name,
            some_of(&unexpected)
        ),
    ))
}

/// The usual source name of a stored tensor, for messages.
fn source_name(family: &Family, naming: Naming, key: Key) -> Option<String> {
    let means = |e: &&Entry| match e.target {
        Target::Whole(role, part) => role == key.role && part == key.part,
        Target::Expert(role) => role == key.role,
        _ => false,
    };
    let entry = family.tables(naming).iter().flat_map(|t| t.iter()).find(means)?;
    let name = entry.name.replace("{l}", &key.layer().unwrap_or(0).to_string());
    let is_headless = naming == Naming::Gguf || key.role == Role::OUTPUT;
    Some(if is_headless { name } else { format!("model.{name}") })
}
