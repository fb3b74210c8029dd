//! A foreign container of named tensors, before any architecture is known.

use squizd::Result;
use squizd_spec::DType;
use std::{borrow::Cow, ops::Range};

/// One tensor as the foreign file names and shapes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name in the file.
    pub name: String,
    /// Element or block type.
    pub dtype: DType,
    /// Type name as the file's format prints it (`Q4_K`, `BF16`, `F8_E4M3`), for messages.
    pub dtype_name: String,
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
    /// Bytes of the tensor's data.
    pub bytes: u64,
}

impl StoredTensor {
    /// Rows of the matrix view.
    pub fn rows(&self) -> u64 {
        self.dims.iter().rev().skip(1).product()
    }

    /// Columns of the matrix view.
    pub fn cols(&self) -> u64 {
        self.dims.last().copied().unwrap_or(0)
    }
}

/// A GGUF file (or its splits), a safetensors file, or a sharded checkpoint.
pub trait TensorStore: Sync + Send {
    /// All tensors, in the file's order.
    fn tensors(&self) -> &[StoredTensor];

    /// Bytes of `rows` (whole rows of the matrix view) of tensor `index`, unchanged.
    fn row_bytes(&self, index: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// Decodes `rows` of tensor `index` into `out`, exactly.
    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()>;

    /// Gives back the mapped pages of these rows.
    fn release(&self, index: usize, rows: Range<u64>);

    /// Weight files: name without directories, and size.
    fn files(&self) -> Vec<squizd::source::SourceFile>;

    /// The weight files' state now, see [`squizd::source::TensorSource::stamp`].
    fn stamp(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// SHA-256 of each weight file, in the order of [`TensorStore::files`].
    /// `stop` is asked about every mebibyte; when it says so, the result is
    /// [`squizd::Error::Cancelled`].
    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        let _ = stop;
        Ok(Vec::new())
    }
}
