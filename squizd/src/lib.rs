//! SDK of the `.squizd` format.
pub mod codec;
pub mod convert;
mod error;
pub mod eval;
pub mod metadata;
pub mod model;
pub mod plan;
pub mod runtime;
pub mod simd;
pub mod source;
#[cfg(feature = "text")]
pub mod text;
pub mod validate;
pub mod writer;

pub use error::{Error, Result};
