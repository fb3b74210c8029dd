//! WGSL kernels of the `.squizd` format, exported as text for `wgpu`.
//!
//! Empty until the GPU path lands; the crate exists so that the dependency
//! direction (`squizd` uses `shaders`, never the other way) is fixed.
#![no_std]
