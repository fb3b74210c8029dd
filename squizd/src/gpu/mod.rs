//! The GPU path: kernels of `squizd-shaders` through `wgpu`, Vulkan or Metal.
//!
//! ```text
//! Gpu::from_env ── adapter, limits, abilities, first failure
//!   └ pipeline(name, options)      WGSL put together, compiled once
//! GpuMatrix ── payload bytes bound as stored, in pieces that fit bindings
//!   └ gemv, gemm, lookup           → Step: kernel + buffers + numbers
//! Gpu::submit(steps)               one submission
//! ```
//!
//! See `docs/gpu.md` for the contract between a codec and the frames.

mod adapter;
#[cfg(test)]
mod astc_tests;
pub mod bench;
mod choice;
mod codec;
mod cooperative;
mod device;
mod forward;
#[cfg(not(target_vendor = "apple"))]
mod host_memory;
mod input;
mod math;
mod matrix;
mod memory;
#[cfg(target_vendor = "apple")]
mod metal_memory;
mod model;
mod need;
mod pick;
mod pipeline;
mod profile;
mod record;
mod rotation;
mod sample;
#[cfg(test)]
mod seen;
mod session;
#[cfg(test)]
mod session_tests;
mod shares;
mod sparse;
#[cfg(test)]
mod sparse_tests;
#[cfg(test)]
mod staged_tests;
#[cfg(test)]
mod strip_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod texel_tests;
mod texels;
mod top_k;
mod tuning;
mod weights;
#[cfg(test)]
mod zip_tests;

pub use adapter::{ADAPTER_VARIABLE, AdapterSummary, adapters, hardware_likely, preferred};
pub use choice::GpuKernels;
pub(crate) use choice::described;
pub use cooperative::Tiling;
pub use device::{Abilities, Gpu};
pub use math::Math;
pub use model::GpuModel;
pub use need::device_need;
pub use profile::{KernelShare, Profile};
pub use session::GpuSession;
pub use tuning::Tuning;
pub use weights::Residency;
