//! SDK of the `.squizd` format.
pub mod codec;
mod error;
pub mod metadata;
pub mod model;
pub mod simd;
pub mod source;
pub mod writer;

pub use error::{Error, Result};
