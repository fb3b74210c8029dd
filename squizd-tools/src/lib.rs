//! Everything of squizd that touches the outside: foreign sources, the command
//! line, evaluation.
pub mod cmd;
mod exit;
mod output;
pub mod source;

pub use exit::{Exit, Failure};
