//! Safetensors checkpoints, single files and sharded with an index.
//!
//! The header is read by our own visitor: the `safetensors` crate accepts
//! repeated keys, names like `../../x` and ranks in the thousands.

mod dtype;
mod header;
mod index;
mod json;
mod limits;
mod store;
#[cfg(test)]
mod tests;

pub use store::{SafetensorsStore, contents, shards};
