//! A GGUF model on disk: one file or all parts of a split one.

use super::{
    data,
    limits::GgufLimits,
    parse,
    split::{self, PartName},
    value::GgufMetadata,
};
use crate::source::{
    flaw::Flaw,
    mapped::MappedFile,
    store::StoredTensor,
    tensors::{Mapped, MappedTensors, Placed},
};
use squizd::{Error, Result};
use std::{collections::BTreeMap, path::Path};

/// An open GGUF model.
///
/// ```no_run
/// use squizd_tools::source::{gguf::GgufFile, store::TensorStore};
/// let model = GgufFile::open("model.gguf".as_ref())?;
/// println!("{:?}, {} tensors", model.metadata().str("general.architecture")?, model.tensors().len());
/// # Ok::<(), squizd::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufFile {
    metadata: GgufMetadata,
    tensors: MappedTensors,
}

/// One part, read and checked by itself.
struct Part {
    file: MappedFile,
    metadata: GgufMetadata,
    tensors: Vec<Placed>,
}

/// Reads and checks the header of one file, of which `bytes` are all.
fn read(
    bytes: &[u8],
    shown: &str,
    limits: &GgufLimits,
) -> std::result::Result<(GgufMetadata, Vec<Placed>, u64), Flaw> {
    let header = parse::header(bytes, limits)?;
    let alignment = data::alignment(&header.pairs, limits)?;
    let tensors = data::place(&header.infos, header.end, alignment, bytes.len() as u64)?;
    let metadata = GgufMetadata::new(shown.to_owned(), header.pairs).map_err(|(key, byte)| {
        Flaw::invalid("gguf-key-duplicate", byte, format!("a second metadata key `{key}`"))
    })?;
    Ok((metadata, tensors, header.end))
}

/// Metadata and tensors of a GGUF file (or one part of a split one) in memory,
/// checked as [`GgufFile::open`] checks a file's; `name` is for messages.
///
/// # Errors
/// As [`GgufFile::open`].
pub fn contents(bytes: &[u8], name: &str, limits: &GgufLimits) -> Result<(GgufMetadata, Vec<StoredTensor>)> {
    let (metadata, placed, _) = read(bytes, name, limits).map_err(|f| f.in_file(name))?;
    Ok((metadata, placed.into_iter().map(|p| p.tensor).collect()))
}

impl Part {
    fn open(path: &Path, limits: &GgufLimits) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let shown = path.display().to_string();
        let (metadata, tensors, end) =
            read(file.contents()?, &shown, limits).map_err(|f| f.in_file(&shown))?;
        file.release(0..end);
        Ok(Self { file, metadata, tensors })
    }
}

impl GgufFile {
    /// Opens `path` under the default limits; any part of a split model opens
    /// all of it.
    ///
    /// # Errors
    /// Names file, byte offset, field, what was found and what is allowed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &GgufLimits::DEFAULT)
    }

    /// As [`GgufFile::open`], under other limits.
    pub fn open_with(path: &Path, limits: &GgufLimits) -> Result<Self> {
        let opened = Part::open(path, limits)?;
        match (split::declared_count(&opened.metadata)?, PartName::of(path)) {
            (1, None) => Self::join(vec![opened], limits),
            (1, Some(name)) if name.count == 1 => Self::join(vec![opened], limits),
            (_, Some(name)) => Self::open_split(opened, &name, limits),
            (count, None) => Err(Error::refused(
                "gguf-split",
                format!(
                    "{} is one part of a model split into {count}; name its parts STEM-00001-of-{count:05}.gguf and so on, \
                 as they were published",
                    path.display()
                ),
            )),
        }
    }

    fn open_split(opened: Part, name: &PartName, limits: &GgufLimits) -> Result<Self> {
        let path = opened.file.path().to_owned();
        if name.count > limits.parts {
            return Err(Error::refused(
                "gguf-split",
                format!("{}: {} parts, allowed at most {}", path.display(), name.count, limits.parts),
            ));
        }
        split::check_part(&opened.metadata, &path, name.number, name.count, None)?;
        let mut opened = Some(opened);
        let mut parts: Vec<Part> = Vec::with_capacity(name.count as usize);
        for number in 0..name.count {
            let sibling = name.sibling(number);
            let part = match opened.take_if(|_| number == name.number) {
                Some(part) => part,
                None => Part::open(&sibling, limits)?,
            };
            let first = parts.first().map(|p| &p.metadata);
            split::check_part(&part.metadata, &sibling, number, name.count, first)?;
            parts.push(part);
        }
        Self::join(parts, limits)
    }

    /// One store from parts in order; the first has the metadata.
    fn join(parts: Vec<Part>, limits: &GgufLimits) -> Result<Self> {
        let total: u64 = parts.iter().map(|p| p.tensors.len() as u64).sum();
        if total > limits.tensors {
            return Err(Error::refused(
                "gguf-count",
                format!("{total} tensors in all parts, allowed at most {}", limits.tensors),
            ));
        }
        let mut metadata = None;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut joined = MappedTensors::default();
        for (number, part) in parts.into_iter().enumerate() {
            for Placed { tensor, .. } in &part.tensors {
                if let Some(other) = seen.insert(tensor.name.clone(), number) {
                    return Err(Error::refused(
                        "gguf-tensor-duplicate",
                        format!(
                            "{}: tensor {} is also in part {}",
                            part.file.path().display(),
                            tensor.name,
                            other + 1
                        ),
                    ));
                }
            }
            joined.add(part.file, part.tensors);
            metadata.get_or_insert(part.metadata);
        }
        let metadata = metadata.unwrap_or_default();
        if metadata.u64("split.tensors.count")?.is_some_and(|n| n != total) {
            return Err(
                metadata.mismatch("split.tensors.count", &format!("{total}, the tensors in all parts"))
            );
        }
        Ok(Self { metadata, tensors: joined })
    }

    /// The key-value pairs (of the first part).
    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }
}

impl Mapped for GgufFile {
    fn mapped(&self) -> &MappedTensors {
        &self.tensors
    }
}
