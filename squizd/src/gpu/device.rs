//! An opened adapter: its capabilities, its queue, what went wrong on it.

use super::adapter::{ADAPTER_VARIABLE, AdapterSummary, choose, subgroup_sizes};
use super::cooperative;
use super::pipeline::Pipelines;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What an opened adapter can do, as far as kernels care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Smallest and largest subgroup, if subgroup operations are there.
    pub subgroup: Option<(u32, u32)>,
    /// Half-precision arithmetic in shaders.
    pub f16: bool,
    /// Integer dot products that are worth using.
    pub dot8: bool,
    /// Side of cooperative matrices of halves that are summed in f32.
    pub cooperative: Option<u32>,
    /// Textures of ASTC blocks of the HDR profile.
    pub astc_hdr: bool,
    /// Timestamps around passes.
    pub timestamps: bool,
    /// It computes on the CPU.
    pub software: bool,
    /// It has memory of its own.
    pub discrete: bool,
    /// Invocations of a workgroup at most.
    pub max_workgroup: u32,
    /// Bytes that one binding reaches at most.
    pub max_binding: u64,
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
}

impl Abilities {
    /// What hardware is taken to be able to do before it is opened: all of its kind
    /// that takes memory.
    pub fn assumed(adapter: &AdapterSummary) -> Self {
        let metal = adapter.backend == "metal";
        Self {
            subgroup: Some((32, 32)),
            f16: true,
            dot8: !metal,
            cooperative: Some(if metal { 8 } else { 16 }),
            astc_hdr: metal,
            timestamps: true,
            software: adapter.software,
            discrete: adapter.discrete,
            max_workgroup: 1024,
            max_binding: ADDRESSABLE,
            max_buffer: ADDRESSABLE,
        }
    }
}

/// A device and its queue. Failures do not panic: the first one is kept and
/// returned by the next operation that waits.
#[derive(Debug)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) pipelines: Pipelines,
    /// The buffer that was read from last.
    pub(super) staging: Mutex<Option<wgpu::Buffer>>,
    /// Tables that kernels share, by name.
    pub(super) tables: Mutex<HashMap<String, wgpu::Buffer>>,
    summary: AdapterSummary,
    abilities: Abilities,
    failure: Arc<Mutex<Option<String>>>,
}

/// Largest binding that kernels address: byte offsets are `u32`.
const ADDRESSABLE: u64 = 1 << 31;
/// Bytes of immediate data that kernels use.
const IMMEDIATES: u32 = 128;
/// Bytes of workgroup memory that a kernel takes at most.
const WORKGROUP_MEMORY: u32 = 32 << 10;
/// Storage bindings of a kernel, at most.
pub(super) const BINDINGS: u32 = 8;

impl Gpu {
    /// Opens the adapter that `SQUIZD_ADAPTER` names, or the best.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn from_env() -> Result<Self> {
        Self::open(std::env::var(ADAPTER_VARIABLE).ok().as_deref())
    }

    /// Opens the best adapter, or the one whose name contains `wanted`.
    ///
    /// # Errors
    /// An unsupported one if there is none, or it lacks what every kernel needs.
    pub fn open(wanted: Option<&str>) -> Result<Self> {
        let adapter = choose(wanted)?;
        let info = adapter.get_info();
        let summary = AdapterSummary::of(&info);
        let useful = wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TEXTURE_COMPRESSION_ASTC
            | wgpu::Features::TEXTURE_COMPRESSION_ASTC_HDR;
        let mut features = (adapter.features() & useful) | wgpu::Features::IMMEDIATES;
        let side = cooperative::side(&adapter);
        if side.is_some() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let limits = adapter.limits();
        let lacks = |what: &str, found: u32, needed: u32| {
            Err(Error::unsupported(format!("adapter {summary}: {what} is {found}, kernels need {needed}")))
        };
        if limits.max_immediate_size < IMMEDIATES {
            return lacks("the size of immediate data", limits.max_immediate_size, IMMEDIATES);
        }
        if limits.max_compute_workgroup_storage_size < WORKGROUP_MEMORY {
            let found = limits.max_compute_workgroup_storage_size;
            return lacks("the size of workgroup memory", found, WORKGROUP_MEMORY);
        }
        if limits.max_storage_buffers_per_shader_stage < BINDINGS {
            let found = limits.max_storage_buffers_per_shader_stage;
            return lacks("the number of storage buffers", found, BINDINGS);
        }
        let abilities = abilities(&info, features, &limits, side);
        let request = wgpu::DeviceDescriptor {
            label: Some("squizd"),
            required_features: features,
            required_limits: limits,
            experimental_features: cooperative::consent(side.is_some()),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = match with_host_memory(&adapter, &request) {
            Some(opened) => opened,
            None => pollster::block_on(adapter.request_device(&request))
                .map_err(|e| Error::unsupported(format!("adapter {summary}: {e}")))?,
        };
        let failure = Arc::new(Mutex::new(None));
        let first = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| note(&first, format!("{e}"))));
        let first = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&first, format!("the device was lost: {message}"));
            }
        });
        let (pipelines, staging, tables) = (Pipelines::default(), Mutex::new(None), Mutex::default());
        Ok(Self { device, queue, pipelines, staging, tables, summary, abilities, failure })
    }

    /// The adapter.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.summary
    }

    /// What it can do.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Bytes of memory that a workgroup may have.
    pub(super) fn workgroup_memory(&self) -> u32 {
        self.device.limits().max_compute_workgroup_storage_size
    }

    /// Nanoseconds of a timestamp's unit.
    pub fn timestamp_period(&self) -> f32 {
        self.queue.get_timestamp_period()
    }

    /// The first failure since the last call, if any.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => Err(self.error(message)),
            None => Ok(()),
        }
    }

    /// An error on this adapter.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::unsupported(format!("adapter {}: {message}", self.summary))
    }

    /// Runs `f`; what fails in it is its error.
    pub(super) fn scoped<T>(&self, what: &str, f: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = f();
        let errors = [validation.pop(), internal.pop(), memory.pop()].map(pollster::block_on);
        match errors.into_iter().flatten().next() {
            Some(e) => Err(self.error(format!("{what}: {e}"))),
            None => Ok(value),
        }
    }

    /// Waits until everything submitted is done.
    ///
    /// # Errors
    /// What failed since the last wait.
    pub fn wait(&self) -> Result<()> {
        let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        waited.map(|_| ()).map_err(|e| self.error(e))
    }
}

/// The device, able to import host memory, where there is such a thing.
fn with_host_memory(
    adapter: &wgpu::Adapter,
    request: &wgpu::DeviceDescriptor<'_>,
) -> Option<(wgpu::Device, wgpu::Queue)> {
    #[cfg(not(target_vendor = "apple"))]
    return super::host_memory::open(adapter, request);
    #[cfg(target_vendor = "apple")]
    {
        let _ = (adapter, request);
        None
    }
}

fn note(first: &Mutex<Option<String>>, message: String) {
    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}

fn abilities(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    cooperative: Option<u32>,
) -> Abilities {
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let sizes = subgroup_sizes(info);
    let usable = features.contains(wgpu::Features::SUBGROUP) && sizes.0 >= 4 && sizes.1 <= 128;
    Abilities {
        subgroup: usable.then_some(sizes),
        f16: features.contains(wgpu::Features::SHADER_F16),
        // Apple's GPUs have the instruction, but slowly; software has none.
        dot8: info.backend == wgpu::Backend::Vulkan && !software,
        cooperative,
        astc_hdr: features.contains(wgpu::Features::TEXTURE_COMPRESSION_ASTC_HDR),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        software,
        discrete: info.device_type == wgpu::DeviceType::DiscreteGpu,
        max_workgroup: limits.max_compute_invocations_per_workgroup,
        max_binding: limits.max_storage_buffer_binding_size.min(ADDRESSABLE),
        max_buffer: limits.max_buffer_size,
    }
}
