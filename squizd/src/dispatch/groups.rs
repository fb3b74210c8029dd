//! The table over the matrices of a model, one entry for all that are alike.

use super::{Backend, KernelChoice, Stage, Subject, choose};
use crate::Result;
use crate::codec::codec;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Matrices of one codec and layout, for which the same kernels are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelGroup {
    /// Codec.
    pub codec: String,
    /// Layout; empty for codecs that have one.
    pub layout: String,
    /// Matrices.
    pub tensors: usize,
    /// Their weights.
    pub weights: u64,
    /// Their bytes in the file.
    pub bytes: u64,
    /// What multiplies them with several tokens.
    pub prefill: KernelChoice,
    /// What multiplies them with one token.
    pub decode: KernelChoice,
}

/// The groups of `tensors` (each with its bytes in the file), in the order in
/// which they first come.
///
/// # Errors
/// If there is no kernel for one.
pub fn groups<'a>(
    backends: &[&dyn Backend],
    tensors: impl IntoIterator<Item = (Subject<'a>, u64)>,
) -> Result<Vec<KernelGroup>> {
    let mut groups: Vec<KernelGroup> = Vec::new();
    let mut places = HashMap::new();
    for (tensor, bytes) in tensors {
        let layout = codec(tensor.codec).map_or_else(String::new, |c| c.layout(tensor.params));
        let [prefill, decode] = Stage::ALL.map(|stage| choose(backends, &tensor, stage));
        let key = (tensor.codec, layout, prefill?, decode?);
        let at = *places.entry(key).or_insert_with_key(|(id, layout, prefill, decode)| {
            groups.push(KernelGroup {
                codec: id.to_string(),
                layout: layout.clone(),
                tensors: 0,
                weights: 0,
                bytes: 0,
                prefill: prefill.clone(),
                decode: decode.clone(),
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(at) {
            group.tensors += 1;
            group.weights += tensor.matrix.elements();
            group.bytes += bytes;
        }
    }
    Ok(groups)
}

/// One line for each fallback among the groups, each reason once.
pub fn fallbacks(groups: &[KernelGroup]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for group in groups {
        for choice in [&group.decode, &group.prefill] {
            let Some(why) = &choice.fallback else { continue };
            let line = format!("{} matrices in {} run with a fallback: {why}", group.tensors, group.codec);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}
