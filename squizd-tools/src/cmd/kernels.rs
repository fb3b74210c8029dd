//! The table of kernels in print, and memory.

use crate::{Failure, output};
use squizd::{
    codec::Precision,
    dispatch::{Cpu, KernelGroup, fallbacks},
    runtime::{MemoryNeed, Model, SessionOptions},
};

/// Tells on stderr which of the CPU's kernels for a model are fallbacks.
pub(super) fn tell_fallbacks(model: &Model<'_>, precision: Precision) -> Result<(), Failure> {
    for line in fallbacks(&model.kernels(&[&Cpu::current(precision)])?) {
        eprintln!("note: {line}");
    }
    Ok(())
}

/// One line for each group and stage, then the reasons.
pub(super) fn print(groups: &[KernelGroup]) -> Result<(), Failure> {
    let name = |g: &KernelGroup| {
        if g.layout.is_empty() { g.codec.clone() } else { format!("{} ({})", g.codec, g.layout) }
    };
    let rows = groups.iter().flat_map(|g| {
        [&g.prefill, &g.decode].map(|choice| {
            vec![
                name(g),
                choice.stage.to_string(),
                choice.kernel.clone(),
                choice.fallback.clone().unwrap_or_else(|| "-".to_owned()),
                output::count(g.tensors as u64),
                output::count(g.bytes),
            ]
        })
    });
    output::line(output::table(&["codec", "stage", "kernel", "fallback", "matrices", "bytes"], 4, rows))?;
    output::line("")?;
    let mut told: Vec<String> = Vec::new();
    for choice in groups.iter().flat_map(|g| [&g.prefill, &g.decode]) {
        let line = format!("{} on {}: {}", choice.stage, choice.backend, choice.reason);
        if !told.contains(&line) {
            output::line(&line)?;
            told.push(line);
        }
    }
    Ok(())
}

/// `12.3 MB: weights ..., ...`.
pub(super) fn memory(need: &MemoryNeed, session: &SessionOptions) -> String {
    format!(
        "{}: weights {}, unpacked {}, key/value cache {} ({} positions in {}), buffers {}",
        output::bytes(need.total()),
        output::bytes(need.weights),
        output::bytes(need.unpacked),
        output::bytes(need.kv_cache),
        session.context,
        session.kv,
        output::bytes(need.scratch)
    )
}
