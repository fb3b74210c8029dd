//! GGUF v2 and v3, single files and splits.
mod value;

pub use value::{Array, GgufMetadata, Strings, Value};
