//! The `.squizd` v1.0 container.
#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

pub mod appendix;
mod codec_id;
mod error;
mod ids;
pub mod layout;
mod limits;

pub use codec_id::{CodecId, Geometry, GeometryError, Matrix, Params, PayloadLength, Plane, int_layout};
pub use error::{Code, ErrorKind, Result, SquizdError};
pub use ids::{ArchId, DType, NO_LAYER, Part, Role, SectionKind, canonical_name};
pub use limits::Limits;
