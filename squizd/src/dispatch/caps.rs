//! What this machine can do.

use super::host::{self, MemoryInfo};
use crate::simd::{self, Level};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What this machine has, as far as kernels care.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Operating system, as Rust names it.
    pub os: String,
    /// Processor architecture, as Rust names it.
    pub arch: String,
    /// The processor.
    pub cpu: CpuInfo,
    /// Main memory, now.
    pub memory: MemoryInfo,
    /// Whether this build looks for GPUs at all (feature `gpu`); without it
    /// `adapters` is empty and says nothing about the machine.
    pub gpu: bool,
    /// GPUs, the preferred one first.
    pub adapters: Vec<Adapter>,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuInfo {
    /// `GenuineIntel`, `AuthenticAMD`, `Apple`; empty where it is not told.
    pub vendor: String,
    /// The name it is sold under.
    pub brand: String,
    /// Apple's generation: `M3`, `M3 Max`; `None` elsewhere.
    pub chip: Option<String>,
    /// Threads that this process may run at the same time.
    pub threads: usize,
    /// Instruction sets found, of those that kernels ask about.
    pub features: Vec<String>,
    /// Levels ([`simd::Level`]) that kernels can run at here.
    pub levels: Vec<String>,
    /// The level in use.
    pub level: String,
    /// Why it is in use.
    pub level_reason: String,
}

/// A GPU as a graphics interface shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// `vulkan`, `metal`, ...
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    /// PCI vendor id; 0 where there is none.
    pub vendor: u32,
    /// PCI device id; 0 where there is none.
    pub device: u32,
    /// Driver's name.
    pub driver: String,
    /// Driver's version.
    pub driver_info: String,
    /// Features that kernels ask about.
    pub features: Vec<String>,
    /// Limits that kernels ask about, by name.
    pub limits: BTreeMap<String, u64>,
}

impl Capabilities {
    /// Looks at this machine. `adapters` are what a GPU backend found, `None`
    /// in a build without one.
    pub fn probe(adapters: Option<Vec<Adapter>>) -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: CpuInfo::probe(),
            memory: MemoryInfo::probe(),
            gpu: adapters.is_some(),
            adapters: adapters.unwrap_or_default(),
        }
    }
}

/// The GPUs, the preferred one first; `None` in a build without the feature
/// `gpu`.
pub fn adapters() -> Option<Vec<Adapter>> {
    #[cfg(feature = "gpu")]
    return Some(crate::gpu::described());
    #[cfg(not(feature = "gpu"))]
    None
}

impl CpuInfo {
    fn probe() -> Self {
        let (vendor, brand) = host::processor();
        let chip = brand.strip_prefix("Apple ").filter(|_| vendor == "Apple").map(str::to_owned);
        Self {
            vendor,
            brand,
            chip,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: features(),
            levels: Level::supported().map(|l| l.name().to_owned()).collect(),
            level: simd::level().name().to_owned(),
            level_reason: simd::reason().to_owned(),
        }
    }
}

/// The names of those that the CPU has.
macro_rules! detected {
    ($detect:ident: $($name:tt)*) => {
        [$(($name, std::arch::$detect!($name))),*].into_iter().filter(|f| f.1).map(|f| f.0.to_owned()).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    detected!(is_x86_feature_detected:
        "sse4.1" "sse4.2" "ssse3" "popcnt" "lzcnt" "bmi1" "bmi2" "f16c" "fma" "avx" "avx2" "avx512f"
        "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512vbmi" "avx512vbmi2" "avx512bf16" "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<String> {
    detected!(is_aarch64_feature_detected: "neon" "dotprod" "fp16" "bf16" "i8mm" "sve" "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<String> {
    Vec::new()
}
