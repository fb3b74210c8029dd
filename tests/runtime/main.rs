//! The reference runtime on whole files, made by `squizd convert` from
//! checkpoints.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

#[cfg(target_os = "linux")]
mod experts;
mod families;
