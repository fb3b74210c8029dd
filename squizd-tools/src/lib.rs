//! Everything of squizd that touches the outside: foreign sources, the command
//! line, evaluation, the server.

pub mod bench;
pub mod calibration;
pub mod cmd;
mod exit;
mod output;
#[cfg(feature = "serve")]
pub mod serve;
pub mod source;

pub use exit::{Exit, Failure};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
