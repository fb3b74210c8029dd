//! The `.squizd` v1.0 container: layout, zero-copy parser and validator.
//!
//! Bytes only: no float mathematics, no codecs, no I/O but an optional mapping.
//! This is the crate for runtimes that read `.squizd` files; the written
//! specification is `docs/squizd_format_spec.md`.
//!
//! ```text
//! 0        256          ...            16 KiB multiple              end
//! | header | directory | strings | tensors | payload | appendices | tokenizer | metadata |
//!            64 B each   names     152 B     256-byte-aligned tensors   JSON
//!                                  each      padded to 16 KiB
//! ```
//!
//! - [`SquizdRef::parse`] checks every structural rule without touching the
//!   payload; the views it hands out borrow from the input and are in bounds.
//! - [`Tables::parse_prefix`] does the same with the front of a remote file.
//! - [`structure`], [`hash_jobs`] and [`validate()`] report every finding.
//!
//! ```
//! use squizd_spec::{Limits, SquizdRef};
//!
//! let bytes = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
//! let file = SquizdRef::parse(bytes, &Limits::DEFAULT)?;
//! for tensor in file.tensors() {
//!     println!("{} {:?} {} {} bytes", tensor.name, tensor.dims, tensor.codec, tensor.data.len());
//! }
//! assert_eq!(file.tensor_count(), 21);
//! # Ok::<(), squizd_spec::SquizdError>(())
//! ```
//!
//! # Features
//! - `std` (default): needed by `mmap`; without it the crate is `no_std + alloc`.
//! - `mmap` (default): [`FileBytes`], the crate's only unsafe code.
//! - `zstd` (default): decompresses the tokenizer section, in pure Rust.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

pub mod appendix;
mod check;
mod codec_id;
mod contents;
pub mod digest;
mod error;
mod geometry;
mod ids;
pub mod layout;
mod limits;
#[cfg(feature = "mmap")]
mod mmap;
mod validate;
mod view;

pub use check::section_rules;
pub use codec_id::{CodecId, Geometry, GeometryError, Matrix, Params, PayloadLength, Plane};
pub use contents::{contents, section_bytes};
pub use error::{Code, ErrorKind, MESSAGE_BYTES, Result, Short, SquizdError, shortened};
pub use geometry::{ZplanesShape, astc, hybrid_layout, int_layout, sqint, tbe, zp};
pub use ids::{ArchId, DType, NO_LAYER, Part, Role, SectionKind, canonical_name};
pub use limits::Limits;
#[cfg(feature = "mmap")]
pub use mmap::FileBytes;
pub use validate::{HashJob, Hex, Inspect, Level, MAX_FINDINGS, hash_jobs, structure, validate};
pub use view::{Dims, SectionView, SquizdRef, Tables, TensorDesc, TensorView};
