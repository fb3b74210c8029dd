//! SDK of the `.squizd` format.
pub mod codec;
mod error;
pub mod model;
pub mod source;
#[cfg(feature = "text")]
pub mod text;

pub use error::{Error, Result};
