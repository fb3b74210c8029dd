//! What runs where: this machine's [`Capabilities`], and one table from codec,
//! capability and stage to a kernel.
//!
//! ```text
//!                    Codec::kernel(params, operation, level)     what code there is
//! (codec, params) ─> Backend::kernel(tensor, stage) ─> KernelChoice   or why there is none
//!                    choose: the first of the backends that has one
//! ```
//!
//! The table is not written down: each codec tells what code it has
//! ([`crate::codec::Codec::kernel`]), from the function its own dispatch asks,
//! and each backend names what it makes of that. [`Cpu`] has a row for every
//! codec.

mod caps;
mod cpu;
mod groups;
mod host;
#[cfg(test)]
mod tests;

pub use caps::{Adapter, Capabilities, CpuInfo, adapters};
pub use cpu::Cpu;
pub use groups::{KernelGroup, fallbacks, groups};
pub use host::{MemoryInfo, driver_versions};

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use squizd_spec::{CodecId, Matrix, Params, TensorDesc};
use std::{borrow::Cow, fmt};

/// What part of answering a product belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Several tokens at once: a prompt.
    Prefill,
    /// One token.
    Decode,
}

impl Stage {
    /// Both, in the order in which they happen.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        })
    }
}

/// A stored matrix as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Codec of the payload.
    pub codec: CodecId,
    /// Codec parameters.
    pub params: &'a Params,
    /// Shape.
    pub matrix: Matrix,
}

impl<'a> Subject<'a> {
    /// The matrix of a tensor record; `None` if it has none.
    pub fn of(tensor: &TensorDesc<'a>) -> Option<Self> {
        Matrix::of(&tensor.dims).map(|matrix| Self { codec: tensor.codec, params: tensor.params, matrix })
    }
}

/// A row of the table: the kernel for a tensor and a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelChoice {
    /// The stage.
    pub stage: Stage,
    /// Name of the [`Backend`].
    pub backend: Cow<'static, str>,
    /// Codec, layout, instruction set and method: `int4-fine/avx512-vnni/matvec`.
    pub kernel: String,
    /// Why this one.
    pub reason: String,
    /// What would be faster, and why it is not done; `None` for a kernel made
    /// for the purpose.
    pub fallback: Option<String>,
}

/// Something that multiplies stored matrices.
pub trait Backend: Sync {
    /// `cpu`, `vulkan`, `metal`.
    fn name(&self) -> &'static str;

    /// The kernel for a tensor in a stage, or why there is none.
    fn kernel(&self, tensor: &Subject<'_>, stage: Stage) -> std::result::Result<KernelChoice, String>;
}

/// The first of `backends`, best first, that has a kernel. Why those before it
/// have none is added to its `fallback`.
///
/// # Errors
/// An unsupported [`Error`] if none has.
pub fn choose(backends: &[&dyn Backend], tensor: &Subject<'_>, stage: Stage) -> Result<KernelChoice> {
    let mut refused = Vec::new();
    for backend in backends {
        match backend.kernel(tensor, stage) {
            Ok(mut choice) => {
                refused.extend(choice.fallback.take());
                choice.fallback = (!refused.is_empty()).then(|| refused.join("; "));
                return Ok(choice);
            }
            Err(why) => refused.push(format!("not on {}: {why}", backend.name())),
        }
    }
    Err(Error::unsupported(format!(
        "no kernel for {stage} with codec {}: {}",
        tensor.codec,
        refused.join("; ")
    )))
}
