//! Foreign file formats, read as [`squizd::source::TensorSource`].
pub mod arch;
pub mod config;
mod flaw;
pub mod gguf;
mod gguf_model;
mod hf_model;
pub mod imatrix;
pub mod mapped;
mod model_path;
pub mod model_source;
pub mod pieces;
#[cfg(test)]
mod real_models;
pub mod safetensors;
pub mod store;
mod tensors;
pub mod tokenizer;

pub use arch::MappingOptions;
pub use model_path::open;
pub use model_source::ModelSource;
