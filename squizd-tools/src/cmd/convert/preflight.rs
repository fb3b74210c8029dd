//! Everything that can be known to go wrong is found here, before the first byte.

use super::Args;
use crate::{Failure, output};
use squizd::{
    plan::{Plan, Recipe},
    source::TensorSource,
    writer::unfinished,
};
use squizd_spec::layout::{MAGIC, PAGE, TensorRecord};
use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What a conversion will cost.
#[derive(serde::Serialize)]
pub(super) struct Forecast {
    /// Bytes of the output, at most.
    pub(super) output_bytes: u64,
    /// Expected peak resident memory in bytes, mapped source pages included.
    pub(super) peak_memory: u64,
    /// Free bytes on the output's file system.
    pub(super) free_disk: u64,
}

/// Memory that does not depend on the model: code, runtime, thread stacks.
const BASE_MEMORY: u64 = 64 << 20;
/// Per worker thread: a chunk of rows as source pages, as f32, and encoded.
const THREAD_MEMORY: u64 = 24 << 20;

/// The output file: as given, inside a given folder, or named after the model.
pub(super) fn target(given: Option<&Path>, source: &dyn TensorSource, recipe: &Recipe) -> PathBuf {
    let model = source.model();
    let base = model.name.as_deref().unwrap_or(&model.family);
    let plain: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' }).collect();
    let encoding = recipe.label().replace(':', "_").to_uppercase();
    let name = format!("{}-{encoding}.squizd", plain.trim_matches(['.', '-']));
    match given {
        Some(path) if path.is_dir() => path.join(name),
        Some(path) => path.to_owned(),
        None => PathBuf::from(name),
    }
}

/// Checks the output's place and the disk; returns what the conversion costs,
/// with `calibration` bytes of moments in memory.
pub(super) fn check(
    args: &Args,
    target: &Path,
    source: &dyn TensorSource,
    plan: &Plan,
    calibration: u64,
) -> Result<Forecast, Failure> {
    let folder = match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let folder = folder
        .canonicalize()
        .map_err(|e| Failure::usage(format!("output folder {}: {e}; create it first", folder.display())))?;
    refuse_overlap(&args.source, target, &folder)?;
    refuse_foreign(target)?;

    let tables = source.tensors().len() as u64 * (size_of::<TensorRecord>() as u64 + 64);
    let texts: usize = source.tokenizer_files().values().map(Vec::len).sum::<usize>()
        + source.source_files().values().map(String::len).sum::<usize>()
        + source.chat_template().map_or(0, str::len);
    let output_bytes = plan.payload_bytes() + tables + texts as u64 + 3 * PAGE;
    // Work that is gone on with has its space already.
    let begun = unfinished(target).filter(|_| args.resume).map_or(0, |work| work.bytes);
    let free_disk = free_bytes(&folder)?.saturating_add(begun);
    if free_disk < output_bytes {
        return Err(Failure::usage(format!(
            "{} has {} free, the output needs up to {}: free some space or choose another folder",
            folder.display(),
            output::bytes(free_disk),
            output::bytes(output_bytes)
        )));
    }
    let threads = rayon::current_num_threads() as u64;
    let peak_memory = BASE_MEMORY + threads * THREAD_MEMORY + 4 * texts as u64 + 2 * tables + calibration;
    Ok(Forecast { output_bytes, peak_memory, free_disk })
}

/// Work of an interrupted conversion is not thrown away unasked.
pub(super) fn refuse_unfinished(target: &Path) -> Result<(), Failure> {
    let Some(work) = unfinished(target) else { return Ok(()) };
    Err(Failure::usage(format!(
        "{} ({}) holds {} finished tensors of an interrupted conversion: go on with --resume, or begin again by \
         removing it and {}",
        work.part.display(),
        output::bytes(work.bytes),
        work.tensors,
        work.journal.display()
    )))
}

/// The output must be neither the input nor inside it.
fn refuse_overlap(input: &Path, target: &Path, folder: &Path) -> Result<(), Failure> {
    let shown = target.display();
    if let (Ok(a), Ok(b)) = (std::fs::metadata(input), std::fs::metadata(target))
        && (a.dev(), a.ino()) == (b.dev(), b.ino())
    {
        return Err(Failure::usage(format!("output {shown} is the input")));
    }
    if let Ok(root) = input.canonicalize()
        && root.is_dir()
        && folder.starts_with(&root)
    {
        return Err(Failure::usage(format!(
            "output {shown} lies inside the input folder {}: choose another folder",
            input.display()
        )));
    }
    Ok(())
}

/// An existing file is replaced only if it is a .squizd file (or empty).
fn refuse_foreign(target: &Path) -> Result<(), Failure> {
    let Ok(metadata) = std::fs::symlink_metadata(target) else { return Ok(()) };
    if !metadata.is_file() {
        return Err(Failure::usage(format!("output {} exists and is not a regular file", target.display())));
    }
    let mut head = Vec::new();
    std::fs::File::open(target)
        .and_then(|f| f.take(4).read_to_end(&mut head))
        .map_err(|e| Failure::usage(format!("output {} exists and cannot be read: {e}", target.display())))?;
    if head.is_empty() || head == MAGIC {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "output {} exists and is not a .squizd file: remove it yourself, or choose another name",
        target.display()
    )))
}

/// Free bytes on the file system of `folder`.
pub(in crate::cmd) fn free_bytes(folder: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Failure::usage(format!("reading free space of {}: {e}", folder.display())))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
