//! Benchmarks of the reference runtime: how long loading takes, how soon the
//! first token comes, how fast prompts and answers go, and what share of the
//! machine's read bandwidth that is.
//!
//! ```text
//! peak memory of each file ── setup ── trial 1 ── trial 2 ── … ── Summary of each number
//!                                         │
//! one trial: memory read once · each file: open, answer, answer through `serve` · llama.cpp answers
//! ```
//!
//! What is compared is measured in turns, so that other load on the machine
//! falls on all of it: judge ratios of one run, not numbers of two.

mod bandwidth;
mod llama;
mod machine;
mod markdown;
mod measure;
mod open;
mod report;
mod served;
mod statistics;
mod trial;

pub use bandwidth::Reading;
pub use llama::{Llama, LlamaModel};
pub use machine::Machine;
pub use measure::{Placed, Placement, Progress, Setup, measure};
pub use open::{Opening, opening, print_openings};
pub use report::{Device, Format, LlamaReport, Measured, Report, Workload};
pub use statistics::{Summary, student_t};
pub use trial::{Loaded, Trial, prompt};
