//! Kernels, compiled once for each set of options.
//!
//! The shaders' loops are not bounded a second time by the compiler, nor, through
//! Vulkan, products' indexes into workgroup memory, which costs some percent:
//! hence the file's one unsafe block.
#![allow(unsafe_code, reason = "compiling the crate's own shaders without loop counters")]

use super::device::Gpu;
use crate::{Error, Result};
use squizd_shaders::{Options, assemble};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is bound to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A buffer that is read.
    Read,
    /// A buffer that is written, too.
    Write,
    /// The layers of a texture, which are read.
    Texels,
}

/// A binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port {
    binding: u32,
    kind: Kind,
}

/// A port that is read.
pub(super) const fn read(binding: u32) -> Port {
    Port { binding, kind: Kind::Read }
}

/// A port that is written, too.
pub(super) const fn write(binding: u32) -> Port {
    Port { binding, kind: Kind::Write }
}

/// A port for the layers of a texture.
pub(super) const fn texels(binding: u32) -> Port {
    Port { binding, kind: Kind::Texels }
}

impl Kind {
    fn binding_type(self) -> wgpu::BindingType {
        let storage = |read_only| wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        match self {
            Self::Read => storage(true),
            Self::Write => storage(false),
            Self::Texels => wgpu::BindingType::Texture {
                sample_type: wgpu::TextureSampleType::Float { filterable: false },
                view_dimension: wgpu::TextureViewDimension::D2Array,
                multisampled: false,
            },
        }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) name: &'static str,
    pub(super) compute: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    pub(super) ports: Vec<Port>,
}

type Key = (&'static str, Options, Vec<Port>);

/// Everything compiled so far.
#[derive(Debug, Default)]
pub(super) struct Pipelines(Mutex<HashMap<Key, Arc<Pipeline>>>);

/// A part of a buffer. Offsets are multiples of 256.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    /// Bytes; 0 for the rest of the buffer.
    pub(super) size: u64,
}

impl From<&wgpu::Buffer> for Span {
    fn from(buffer: &wgpu::Buffer) -> Self {
        Self { buffer: buffer.clone(), offset: 0, size: 0 }
    }
}

/// Immediate data of every kernel, at most.
const IMMEDIATE_SIZE: u32 = 128;

/// Whether a kernel indexes arrays of workgroup memory and its own by numbers that
/// its text keeps inside them, whatever buffers hold: invocations' places, turns of
/// loops with constant bounds, and bits of stored words under a mask of a table's
/// size. So do all products; but ASTC's look up what a table of theirs says.
fn stays_within(name: &str) -> bool {
    (name.ends_with("_gemv") || name.ends_with("_gemm")) && !name.starts_with("astc")
}

impl Gpu {
    /// The kernel `name` with `options`, which binds `ports`.
    pub(super) fn pipeline(
        &self,
        name: &'static str,
        options: &Options,
        ports: &[Port],
    ) -> Result<Arc<Pipeline>> {
        let key = (name, options.clone(), ports.to_vec());
        let mut compiled = self.pipelines.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = compiled.get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        let text = assemble(name, options).map_err(|e| Error::unsupported(format!("kernel {name}: {e}")))?;
        let pipeline = self.scoped(&format!("kernel {name}"), || self.compile(name, &text, ports))?;
        let pipeline = Arc::new(pipeline);
        compiled.insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(&self, name: &'static str, text: &str, ports: &[Port]) -> Pipeline {
        let entries: Vec<_> = ports
            .iter()
            .map(|port| wgpu::BindGroupLayoutEntry {
                binding: port.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: port.kind.binding_type(),
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: IMMEDIATE_SIZE,
        });
        let source =
            wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let checks = wgpu::ShaderRuntimeChecks {
            force_loop_bounding: false,
            bounds_checks: !(self.adapter().backend == "vulkan" && stays_within(name)),
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        // SAFETY: `text` is assembled from the crate `squizd-shaders` alone, and
        // every loop there counts up to, or halves down from, a bound fixed
        // before it begins, or clears a bit of some word in each turn, so none is
        // infinite, whatever the buffers hold. Without `bounds_checks` buffers are
        // guarded by the driver still, since `wgpu` opens every Vulkan device with
        // robustBufferAccess, which Vulkan demands of all; and other arrays are
        // indexed inside their bounds, see `stays_within`. All other checks stay on.
        let module = unsafe { self.device.create_shader_module_trusted(source, checks) };
        let compute = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { name, compute, layout, ports: ports.to_vec() }
    }

    /// Binds `layers` to the kernel's texture port, if it has one, and `spans` to
    /// the others, in their order.
    pub(super) fn bind(
        &self,
        pipeline: &Pipeline,
        layers: Option<&wgpu::TextureView>,
        spans: &[Span],
    ) -> Result<wgpu::BindGroup> {
        let (textures, buffers): (Vec<&Port>, Vec<&Port>) =
            pipeline.ports.iter().partition(|p| p.kind == Kind::Texels);
        if textures.len() != layers.iter().len() || buffers.len() != spans.len() {
            return Err(self.error(format!("{} buffers for {} ports", spans.len(), buffers.len())));
        }
        let textures = textures.into_iter().zip(layers).map(|(port, view)| wgpu::BindGroupEntry {
            binding: port.binding,
            resource: wgpu::BindingResource::TextureView(view),
        });
        let buffers = buffers.into_iter().zip(spans).map(|(port, span)| wgpu::BindGroupEntry {
            binding: port.binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &span.buffer,
                offset: span.offset,
                size: std::num::NonZeroU64::new(span.size),
            }),
        });
        let entries: Vec<_> = textures.chain(buffers).collect();
        self.scoped("binding buffers", || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        })
    }
}
