//! GGUF v2 and v3, single files and splits.
//!
//! [`GgufFile`] is the model on disk, [`GgufMetadata`] its key-value pairs,
//! [`dequant`] the blocks' arithmetic.

mod data;
pub mod dequant;
mod file;
mod limits;
mod parse;
mod split;
mod types;
mod value;

pub use file::{GgufFile, contents};
pub use limits::GgufLimits;
pub use types::{GgmlType, TYPES, ggml_type};
pub use value::{Array, GgufMetadata, Strings, Value};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod tests;
