//! SDK of the `.squizd` format: codecs, planner, writer, validation and the
//! reference runtime. No network, no foreign file formats (those live in
//! `squizd-tools`).
//!
//! ```text
//! write: TensorSource::read -> Plan::choose -> Codec::encode -> Writer::tensor -> rename
//! read:  mmap -> SquizdRef::parse -> TensorView -> Codec::decode | Codec::matvec
//! ```
//!
//! Decode one tensor of a file:
//! ```
//! use squizd::codec::{Encoded, codec};
//! use squizd_spec::{Limits, SquizdRef};
//!
//! let bytes = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
//! let file = SquizdRef::parse(bytes, &Limits::DEFAULT)?;
//! let tensor = file.tensor_named("blk.0.ffn_gate.weight").ok_or("no such tensor")?;
//! let mut row = vec![0.0; tensor.matrix().cols as usize];
//! codec(tensor.codec).ok_or("unknown codec")?.decode(&Encoded::of(&tensor), 0..1, &mut row)?;
//! assert!(row.iter().all(|w| w.is_finite()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
pub mod auto;
pub mod awq;
pub mod calibration;
pub mod codec;
pub mod convert;
pub mod dispatch;
mod error;
pub mod eval;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod metadata;
pub mod model;
pub mod plan;
pub mod rules;
pub mod runtime;
pub mod simd;
pub mod source;
#[cfg(feature = "text")]
pub mod text;
pub mod validate;
pub mod writer;

pub use error::{Error, Result, json_offset};
