//! Foreign file formats, read as [`squizd::source::TensorSource`].
pub mod arch;
pub mod config;
pub mod pieces;
pub mod store;
