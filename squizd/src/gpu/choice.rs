//! The device's rows of the table of kernels (`crate::dispatch`).

use super::adapter::all;
use super::codec::{GpuCodec, serving};
use super::device::{Abilities, Gpu};
use super::math::Math;
use super::texels::Store;
use crate::codec::{Precision, codec};
use crate::dispatch::{Adapter, Backend, KernelChoice, Stage, Subject};
use std::collections::BTreeMap;

/// Kernels of an opened device.
#[derive(Clone, Copy, Debug)]
pub struct GpuKernels {
    abilities: Abilities,
    metal: bool,
    math: Math,
}

impl GpuKernels {
    /// Those of `gpu`; products of one token read their input in `precision`.
    pub fn of(gpu: &Gpu, precision: Precision) -> Self {
        let abilities = gpu.abilities();
        Self {
            abilities,
            metal: gpu.adapter().backend == "metal",
            math: Math::for_precision(precision, abilities),
        }
    }

    fn math(&self, kernels: &GpuCodec) -> Math {
        if kernels.forms.contains(&self.math) { self.math } else { Math::F32 }
    }
}

impl Backend for GpuKernels {
    fn name(&self) -> &'static str {
        if self.metal { "metal" } else { "vulkan" }
    }

    fn kernel(&self, tensor: &Subject<'_>, stage: Stage) -> Result<KernelChoice, String> {
        let (kernels, id, params) =
            serving(tensor).ok_or_else(|| format!("codec {} has no kernels", tensor.codec))?;
        let family = match codec(id).map(|c| c.layout(&params)) {
            Some(layout) if !layout.is_empty() => format!("{id}-{layout}"),
            _ => id.to_string(),
        };
        let sampled = Store::of(self.abilities, id).is_some();
        let (kernel, reason) = match stage {
            Stage::Prefill if self.math.rounds() && self.abilities.cooperative.is_some() => (
                format!("{family}/{}/f16", kernels.gemm),
                "tiles are decoded to halves for cooperative matrices",
            ),
            Stage::Prefill => {
                (format!("{family}/{}/f32", kernels.gemm), "tiles are decoded for 64 inputs at a time")
            }
            Stage::Decode => (
                format!("{family}/{}/{}", kernels.gemv, self.math(kernels)),
                if sampled {
                    "samples an ASTC 6x6 HDR texture, a copy of the stored blocks"
                } else if (id, &params) == (tensor.codec, tensor.params) {
                    "reads the stored blocks in place"
                } else {
                    "reads what loading made of the stored blocks"
                },
            ),
        };
        let kernel = if sampled { format!("{kernel}/texture") } else { kernel };
        let fallback = self.abilities.software.then(|| "the adapter computes on the CPU".to_owned());
        Ok(KernelChoice { stage, backend: self.name().into(), kernel, reason: reason.to_owned(), fallback })
    }
}

/// Every adapter, the preferred one first, with what kernels ask about.
pub(crate) fn described() -> Vec<Adapter> {
    let useful = [
        ("subgroup", wgpu::Features::SUBGROUP),
        ("shader-f16", wgpu::Features::SHADER_F16),
        ("timestamp-query", wgpu::Features::TIMESTAMP_QUERY),
        ("immediates", wgpu::Features::IMMEDIATES),
        ("texture-astc", wgpu::Features::TEXTURE_COMPRESSION_ASTC),
        ("texture-astc-hdr", wgpu::Features::TEXTURE_COMPRESSION_ASTC_HDR),
        ("cooperative-matrix", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ];
    let describe = |adapter: &wgpu::Adapter| {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "cpu",
            wgpu::DeviceType::Other => "other",
        };
        Adapter {
            name: info.name,
            backend: info.backend.to_string(),
            kind: kind.to_owned(),
            vendor: info.vendor,
            device: info.device,
            driver: info.driver,
            driver_info: info.driver_info,
            features: useful
                .into_iter()
                .filter(|(_, f)| features.contains(*f))
                .map(|(name, _)| name.to_owned())
                .collect(),
            limits: BTreeMap::from([
                ("max-buffer".to_owned(), limits.max_buffer_size),
                ("max-storage-binding".to_owned(), limits.max_storage_buffer_binding_size),
                ("max-immediates".to_owned(), limits.max_immediate_size.into()),
                ("subgroup-min".to_owned(), info.subgroup_min_size.into()),
                ("subgroup-max".to_owned(), info.subgroup_max_size.into()),
            ]),
        }
    };
    all().iter().map(describe).collect()
}
