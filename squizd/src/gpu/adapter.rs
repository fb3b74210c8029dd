//! Which adapter to use.

use crate::{Error, Result};

/// Names the adapter to use, by a part of its name.
pub const ADAPTER_VARIABLE: &str = "SQUIZD_ADAPTER";

/// An adapter that Vulkan or Metal offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// Its name.
    pub name: String,
    /// `vulkan` or `metal`.
    pub backend: String,
    /// Driver and version.
    pub driver: String,
    /// Whether it computes on the CPU.
    pub software: bool,
    /// Whether it has memory of its own.
    pub discrete: bool,
}

impl AdapterSummary {
    pub(super) fn of(info: &wgpu::AdapterInfo) -> Self {
        Self {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: info.device_type == wgpu::DeviceType::Cpu,
            discrete: info.device_type == wgpu::DeviceType::DiscreteGpu,
        }
    }
}

impl std::fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, backend, driver, .. } = self;
        write!(f, "{name} ({backend}, {driver})")
    }
}

/// Smallest and largest subgroup that kernels may find. Metal tells what all its
/// devices have together; Apple's own have SIMD groups of 32 (Metal Feature Set Tables).
pub(super) fn subgroup_sizes(info: &wgpu::AdapterInfo) -> (u32, u32) {
    if info.backend == wgpu::Backend::Metal && info.name.starts_with("Apple") {
        return (32, 32);
    }
    (info.subgroup_min_size, info.subgroup_max_size)
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL;
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// Every adapter, the best first.
pub(super) fn all() -> Vec<wgpu::Adapter> {
    let instance = instance();
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    // A stable sort: the system's order among equals.
    adapters.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// Every adapter, the best first: discrete before integrated before software.
pub fn adapters() -> Vec<AdapterSummary> {
    all().iter().map(|a| AdapterSummary::of(&a.get_info())).collect()
}

/// The best adapter, or the best whose name contains `wanted` (in any case).
pub(super) fn choose(wanted: Option<&str>) -> Result<wgpu::Adapter> {
    let all = all();
    let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
    let Some(wanted) = wanted else {
        return all
            .into_iter()
            .next()
            .ok_or_else(|| Error::unsupported("no Vulkan or Metal adapter found; use --backend cpu"));
    };
    let lower = wanted.to_lowercase();
    all.into_iter().find(|a| a.get_info().name.to_lowercase().contains(&lower)).ok_or_else(|| {
        Error::unsupported(format!(
            "no adapter's name contains {wanted:?} ({ADAPTER_VARIABLE}); there are: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ))
    })
}

/// The adapter that [`super::Gpu::from_env`] would open.
pub fn preferred() -> Option<AdapterSummary> {
    choose(std::env::var(ADAPTER_VARIABLE).ok().as_deref()).ok().map(|a| AdapterSummary::of(&a.get_info()))
}

/// Whether it is worth looking for an adapter that is no software: on Linux, if
/// a driver has made device files.
pub fn hardware_likely() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let has = |folder: &str, prefix: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(prefix))
    };
    has("/dev/dri", "render") || has("/dev", "nvidia")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apples_subgroups_are_known() {
        let sizes = |name: &str, backend| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::IntegratedGpu, backend);
            name.clone_into(&mut info.name);
            (info.subgroup_min_size, info.subgroup_max_size) = (4, 64);
            subgroup_sizes(&info)
        };
        assert_eq!(sizes("Apple M3 Max", wgpu::Backend::Metal), (32, 32));
        assert_eq!(sizes("AMD Radeon Pro 5500M", wgpu::Backend::Metal), (4, 64));
        assert_eq!(sizes("Apple M1 (Honeykrisp)", wgpu::Backend::Vulkan), (4, 64));
    }
}
