//! A safetensors checkpoint on disk: one file or all shards of an index.

use super::{
    header::{self, Contents},
    index::{self, Shards},
    limits,
};
use crate::source::{
    mapped::MappedFile,
    store::StoredTensor,
    tensors::{Mapped, MappedTensors},
};
use squizd::{Error, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const INDEX_NAME: &str = "model.safetensors.index.json";
const SINGLE_NAME: &str = "model.safetensors";

/// An open safetensors checkpoint.
///
/// ```no_run
/// use squizd_tools::source::{safetensors::SafetensorsStore, store::TensorStore};
/// let checkpoint = SafetensorsStore::open_dir("Qwen3-0.6B".as_ref())?;
/// println!("{} tensors in {} files", checkpoint.tensors().len(), checkpoint.files().len());
/// # Ok::<(), squizd::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsStore {
    metadata: BTreeMap<String, String>,
    tensors: MappedTensors,
}

/// Tensors of a safetensors file in memory, by ascending offset, checked as
/// [`SafetensorsStore::open_file`] checks a file's; `name` is for messages.
///
/// # Errors
/// As [`SafetensorsStore::open_file`].
pub fn contents(bytes: &[u8], name: &str) -> Result<Vec<StoredTensor>> {
    let read = header::read(bytes).map_err(|f| f.in_file(name))?;
    Ok(read.tensors.into_iter().map(|p| p.tensor).collect())
}

/// Names of tensors by the shard that `model.safetensors.index.json` puts
/// them into; `name` is for messages.
///
/// # Errors
/// As [`SafetensorsStore::open_index`].
pub fn shards(text: &[u8], name: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    index::read(text).map_err(|f| f.in_file(name))
}

fn open_one(path: &Path) -> Result<(MappedFile, Contents)> {
    refuse_pickle(path)?;
    let file = MappedFile::open(path)?;
    let contents = header::read(file.contents()?).map_err(|f| f.in_file(path.display()))?;
    file.release(0..contents.data);
    Ok((file, contents))
}

/// PyTorch's own formats run code when they are opened: they are never parsed.
fn refuse_pickle(path: &Path) -> Result<()> {
    let suffix = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if matches!(suffix.as_str(), "bin" | "pt" | "pth" | "ckpt" | "pkl") {
        return Err(Error::refused_unsupported(
            "source-pickle",
            format!(
                "{} is a PyTorch pickle, which can run any code when it is read, so it never is; take the model's \
             .safetensors files, or convert it where you trust it with safetensors' own converter",
                path.display()
            ),
        ));
    }
    Ok(())
}

impl SafetensorsStore {
    /// Opens one file. Of a sharded checkpoint that is only one shard:
    /// [`SafetensorsStore::open_dir`] opens all.
    ///
    /// # Errors
    /// Names file, byte offset or tensor, what was found and what is allowed.
    pub fn open_file(path: &Path) -> Result<Self> {
        let (file, contents) = open_one(path)?;
        let mut tensors = MappedTensors::default();
        tensors.add(file, contents.tensors);
        Ok(Self { metadata: contents.metadata, tensors })
    }

    /// Opens the checkpoint in a folder: `model.safetensors.index.json` with
    /// its shards, else `model.safetensors`, else the only `.safetensors` file.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        let names = file_names(dir)?;
        if names.contains(INDEX_NAME) {
            return Self::open_index(&dir.join(INDEX_NAME));
        }
        if names.contains(SINGLE_NAME) {
            return Self::open_file(&dir.join(SINGLE_NAME));
        }
        let candidates: Vec<&String> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
        match candidates.as_slice() {
            [only] => Self::open_file(&dir.join(only)),
            [] => {
                if let Some(pickle) = names.iter().find(|n| refuse_pickle(Path::new(n)).is_err()) {
                    refuse_pickle(&dir.join(pickle))?;
                }
                Err(Error::refused("source-none", format!("{} holds no .safetensors file", dir.display())))
            }
            [first, .., last] => Err(Error::refused(
                "source-ambiguous",
                format!(
                    "{} holds {} .safetensors files ({first} to {last}) but no {INDEX_NAME}; name the one to convert, or \
                 fetch the index",
                    dir.display(),
                    candidates.len()
                ),
            )),
        }
    }

    /// Opens the shards that an index file names, all beside it.
    pub fn open_index(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        if file.bytes() > limits::INDEX {
            return Err(Error::refused(
                "index-size",
                format!("{} has {} bytes, allowed at most {}", path.display(), file.bytes(), limits::INDEX),
            ));
        }
        let shards = index::read(file.contents()?).map_err(|f| f.in_file(path.display()))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let beside = file_names(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
        if let Some(extra) = index::extra(&shards, &beside) {
            return Err(Error::refused(
                "index-shards",
                format!(
                    "{}: shard {extra} lies beside the index but is not in it; is it left from another download?",
                    path.display()
                ),
            ));
        }
        let (mut metadata, mut tensors) = (None, MappedTensors::default());
        for name in shards.keys() {
            if !beside.contains(name) {
                return Err(Error::refused(
                    "index-shards",
                    format!("{}: shard {name} is missing", path.display()),
                ));
            }
            let (file, contents) = open_one(&dir.join(name))?;
            check_shard(&file, &contents, name, &shards)?;
            tensors.add(file, contents.tensors);
            metadata.get_or_insert(contents.metadata);
        }
        Ok(Self { metadata: metadata.unwrap_or_default(), tensors })
    }

    /// `__metadata__` of the file, or of the first shard.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// A shard holds exactly the tensors that the index puts there.
fn check_shard(file: &MappedFile, contents: &Contents, name: &str, shards: &Shards) -> Result<()> {
    let empty = BTreeSet::new();
    let listed = shards.get(name).unwrap_or(&empty);
    let held: BTreeSet<&str> = contents.tensors.iter().map(|p| p.tensor.name.as_str()).collect();
    if let Some(absent) = listed.iter().find(|t| !held.contains(t.as_str())) {
        return Err(Error::refused(
            "index-tensor",
            format!("{}: tensor {absent}, which the index puts here, is not in it", file.path().display()),
        ));
    }
    let Some(unlisted) = held.iter().find(|t| !listed.contains(**t)) else { return Ok(()) };
    let elsewhere = shards.iter().find(|(_, tensors)| tensors.contains(*unlisted));
    let place = elsewhere.map_or("nowhere".to_owned(), |(shard, _)| format!("into {shard}"));
    Err(Error::refused(
        "index-tensor",
        format!("{} holds tensor {unlisted}, which the index puts {place}", file.path().display()),
    ))
}

/// Names of everything in a folder that is not itself a folder.
fn file_names(dir: &Path) -> Result<BTreeSet<String>> {
    let context = || format!("listing {}", dir.display());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(context()))? {
        let entry = entry.map_err(Error::io(context()))?;
        let is_dir = entry.file_type().map_err(Error::io(context()))?.is_dir();
        if let (false, Ok(name)) = (is_dir, entry.file_name().into_string()) {
            names.insert(name);
        }
    }
    Ok(names)
}

impl Mapped for SafetensorsStore {
    fn mapped(&self) -> &MappedTensors {
        &self.tensors
    }
}
