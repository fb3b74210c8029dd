//! Everything of squizd that touches the outside.
pub mod source;
