//! What squizd must refuse, and how it is attacked.
//!
//! - [`corpus`]: the files of `fixtures/hostile`, each with the finding that
//!   every reader must report.
//! - [`targets`]: the bodies of the fuzz targets, run by `cargo test` on seeds,
//!   regressions and random mutations, and by libFuzzer from `fuzz/`. They
//!   panic where an invariant does not hold.
//! - [`mutate`], [`seal`], [`canonical`]: random damage; digests made right
//!   again behind it; the one encoding of a file's contents.
//!
//! Test code: it panics, by design, where the product must not.
#![allow(clippy::missing_panics_doc, reason = "a target reports a broken promise by panicking")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

pub mod canonical;
pub mod corpus;
#[cfg(feature = "tools")]
pub mod memory;
pub mod mutate;
pub mod seal;
pub mod targets;

use squizd_spec::{Inspect, Result, TensorView};

/// Takes every payload as it is.
pub struct NoCodecs;

impl Inspect for NoCodecs {
    fn decode(&self, _: &TensorView<'_>) -> Result<()> {
        Ok(())
    }
    fn numerics(&self, _: &TensorView<'_>) -> Result<()> {
        Ok(())
    }
}
