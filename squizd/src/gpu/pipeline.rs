//! Kernels, compiled once for each set of options.
//!
//! The shaders' loops are not bounded a second time by the compiler, which costs
//! a few percent: hence the file's one unsafe block.
#![allow(unsafe_code, reason = "compiling the crate's own shaders without loop counters")]

use super::device::Gpu;
use crate::{Error, Result};
use squizd_shaders::{Options, assemble};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A storage binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port {
    pub(super) binding: u32,
    pub(super) write: bool,
}

/// A port that is read.
pub(super) const fn read(binding: u32) -> Port {
    Port { binding, write: false }
}

/// A port that is written, too.
pub(super) const fn write(binding: u32) -> Port {
    Port { binding, write: true }
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
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !port.write },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
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
        let checks =
            wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
        // SAFETY: `text` is assembled from the crate `squizd-shaders` alone, and
        // every loop there counts up to, or halves down from, a bound fixed
        // before it begins, so none is infinite, whatever the buffers hold. All
        // other checks, those of buffer bounds among them, stay on.
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

    /// Binds `spans` to the kernel's ports, in their order.
    pub(super) fn bind(&self, pipeline: &Pipeline, spans: &[Span]) -> Result<wgpu::BindGroup> {
        if spans.len() != pipeline.ports.len() {
            return Err(self.error(format!("{} buffers for {} ports", spans.len(), pipeline.ports.len())));
        }
        let entries: Vec<_> = pipeline
            .ports
            .iter()
            .zip(spans)
            .map(|(port, span)| wgpu::BindGroupEntry {
                binding: port.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &span.buffer,
                    offset: span.offset,
                    size: std::num::NonZeroU64::new(span.size),
                }),
            })
            .collect();
        self.scoped("binding buffers", || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        })
    }
}
