//! SDK of the `.squizd` format.
pub mod codec;
mod error;
pub mod eval;
pub mod model;
pub mod runtime;
pub mod simd;
pub mod source;

pub use error::{Error, Result};
