//! Foreign file formats, read as [`squizd::source::TensorSource`].
pub mod gguf;
pub mod store;
