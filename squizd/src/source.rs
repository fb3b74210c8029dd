//! Where weights come from: the seam between foreign file formats
//! (`squizd-tools`) and the planner and writer here.

use crate::{Result, model::ModelConfig};
use squizd_spec::{DType, Part, Role};
use std::{borrow::Cow, collections::BTreeMap, ops::Range};

/// A tensor in stored form: canonical name and role, Hugging Face row order,
/// fused projections already split, experts already stacked.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Stored name ([`squizd_spec::canonical_name`], or the source name for
    /// [`Role::OTHER`]).
    pub name: String,
    /// Name(s) in the source, for messages.
    pub source_name: String,
    /// What the tensor does.
    pub role: Role,
    /// Layer, if the role is per layer.
    pub layer: Option<u16>,
    /// Weight or bias.
    pub part: Part,
    /// Stacked experts, 0 for none.
    pub experts: u16,
    /// Element type in the source.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
}

impl TensorInfo {
    /// Rows of the matrix view: product of all dimensions but the last.
    pub fn rows(&self) -> u64 {
        self.dims.iter().rev().skip(1).product()
    }

    /// Columns of the matrix view: the last dimension.
    pub fn cols(&self) -> u64 {
        self.dims.last().copied().unwrap_or(0)
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A model about to be converted.
///
/// Rows are asked for in ranges, so that tensors larger than memory and remote
/// ranges work. Implementations are cheap to call from several threads.
pub trait TensorSource: Sync {
    /// Normalised hyper-parameters.
    fn model(&self) -> &ModelConfig;

    /// Tensors in file order: embedding, layers in execution order, final norm, head.
    fn tensors(&self) -> &[TensorInfo];

    /// Decodes rows `rows` of tensor `index` into `out` (`rows.len() * cols`
    /// values), exactly.
    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()>;

    /// The source bytes of `rows`, in the source's own encoding
    /// ([`TensorInfo::dtype`]): plain numbers, or whole ggml blocks per row.
    /// `None` where the stored form is not a plain selection of source rows
    /// (for instance Gemma's `w + 1`).
    fn read_native(&self, index: usize, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>>;

    /// Tells the source that these rows will not be read again soon, so that
    /// mapped pages can be given back.
    fn release(&self, index: usize, rows: Range<u64>) {
        let _ = (index, rows);
    }

    /// Files for the tokenizer section by name: always `tokenizer.json` where
    /// the model has a tokenizer (built from GGUF's arrays or from
    /// `tokenizer.model` if the source has none), plus the source's own files
    /// verbatim.
    fn tokenizer_files(&self) -> &BTreeMap<String, Vec<u8>>;

    /// Chat template text, if any.
    fn chat_template(&self) -> Option<&str>;

    /// Small source files kept verbatim in the metadata (`config.json`,
    /// `generation_config.json`), and for GGUF its key-value pairs as one JSON
    /// text under `gguf.json` (without tokenizer arrays).
    fn source_files(&self) -> &BTreeMap<String, String>;

    /// Where the weights came from.
    fn provenance(&self) -> &SourceProvenance;

    /// The weight files' state at this moment: names, sizes, times, inodes. Two
    /// equal stamps mean that nothing wrote to the files in between. Empty
    /// where the source cannot change.
    ///
    /// # Errors
    /// If a file can no longer be looked at.
    fn stamp(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// SHA-256 of each of the provenance's weight files, in their order; empty
    /// where the source cannot tell. Reads all of them, so it is asked for
    /// once, beside the encoding; `stop` says whether to give up.
    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        let _ = stop;
        Ok(Vec::new())
    }
}

/// Origin of a conversion; nothing machine- or time-dependent.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceProvenance {
    /// `gguf`, `safetensors` or `hf`.
    pub format: String,
    /// Repository, if known (`org/name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Revision, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Licence, if the source states one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Weight files: name (no directories) and size in bytes.
    #[serde(default)]
    pub files: Vec<SourceFile>,
}

/// One source file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceFile {
    /// File name without directories.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hex SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

#[cfg(test)]
pub(crate) mod testing;
