//! Foreign file formats, read as [`squizd::source::TensorSource`].
pub mod store;
pub mod tokenizer;
