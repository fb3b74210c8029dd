//! Foreign file formats, read as [`squizd::source::TensorSource`].
pub mod arch;
pub mod config;
pub mod gguf;
pub mod mapped;
pub mod pieces;
pub mod store;
mod tensors;
