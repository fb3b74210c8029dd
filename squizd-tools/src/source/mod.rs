//! Foreign file formats, read as [`squizd::source::TensorSource`].
mod flaw;
pub mod gguf;
pub mod mapped;
pub mod open;
pub mod pieces;
pub mod safetensors;
pub mod store;
mod tensors;
pub mod tokenizer;
