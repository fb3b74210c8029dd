//! The `.squizd` v1.0 container.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

pub mod appendix;
mod check;
mod codec_id;
pub mod digest;
mod error;
mod ids;
pub mod layout;
mod limits;
#[cfg(feature = "mmap")]
mod mmap;
mod validate;
mod view;

pub use check::section_rules;
pub use codec_id::{CodecId, Geometry, GeometryError, Matrix, Params, PayloadLength, Plane, int_layout};
pub use error::{Code, ErrorKind, Result, SquizdError};
pub use ids::{ArchId, DType, NO_LAYER, Part, Role, SectionKind, canonical_name};
pub use limits::Limits;
#[cfg(feature = "mmap")]
pub use mmap::FileBytes;
pub use validate::{HashJob, Hex, Inspect, Level, MAX_FINDINGS, hash_jobs, structure, validate};
pub use view::{Dims, SectionView, SquizdRef, Tables, TensorDesc, TensorView};
