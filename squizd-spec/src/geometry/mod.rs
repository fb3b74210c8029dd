//! Payload geometry of codecs that need more than one function for it.

pub mod astc;
