//! Foreign file formats, read as [`squizd::source::TensorSource`].
mod flaw;
pub mod gguf;
pub mod mapped;
pub mod pieces;
pub mod store;
mod tensors;
pub mod tokenizer;
