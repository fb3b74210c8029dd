//! ASTC payloads as textures, for adapters that decode them: the blocks are
//! copied, since a compressed texture cannot alias a mapping.
//!
//! Hardware's decoding has not been run by anyone here: no adapter at hand has
//! ASTC HDR. Tests bind texels that the CPU decoded, as halves.

use super::codec::Tensor;
use super::device::{Abilities, Gpu};
use crate::Result;
use squizd_spec::{CodecId, astc};

/// Bytes of a block.
const BLOCK: u32 = 16;

/// What texels are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// The payload's blocks.
    Blocks,
    /// What [`crate::codec::device_texels`] decodes of them, as halves.
    #[cfg(test)]
    Halves,
}

impl Store {
    /// The one for tensors of codec `id` on this device, if any: blocks are legal
    /// in textures of the LDR profile too, but only those of the HDR profile give
    /// 16-bit texels.
    pub(super) fn of(abilities: Abilities, id: CodecId) -> Option<Self> {
        (id == CodecId::ASTC && abilities.astc_hdr).then_some(Self::Blocks)
    }

    fn format(self) -> wgpu::TextureFormat {
        match self {
            Self::Blocks => {
                wgpu::TextureFormat::Astc { block: wgpu::AstcBlock::B6x6, channel: wgpu::AstcChannel::Hdr }
            }
            #[cfg(test)]
            Self::Halves => wgpu::TextureFormat::Rgba16Float,
        }
    }
}

/// A tensor's blocks in the layers of a texture, `across` of them from left to
/// right, each of at most `rows` by `columns` blocks.
#[derive(Debug)]
pub(super) struct Texels {
    pub(super) layers: wgpu::TextureView,
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) across: u32,
}

impl Texels {
    /// The blocks at the start of `payload`, in layers of at most `most` of them
    /// along a side; `None` if the device has no textures of so many layers.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub(super) fn new(
        gpu: &Gpu,
        store: Store,
        tensor: &Tensor<'_>,
        payload: &[u8],
        most: u64,
    ) -> Result<Option<Self>> {
        let limits = gpu.device.limits();
        let most = most.min(u64::from(limits.max_texture_dimension_2d) / astc::SIDE) as u32;
        let blocks = |texels: u64| u32::try_from(texels.div_ceil(astc::SIDE)).ok();
        let (Some(all_rows), Some(all_columns), 1..) =
            (blocks(tensor.matrix.rows), blocks(tensor.matrix.cols), most)
        else {
            return Ok(None);
        };
        // Equal layers, so that little is left over.
        let (down, across) = (all_rows.div_ceil(most), all_columns.div_ceil(most));
        let (rows, columns) = (all_rows.div_ceil(down.max(1)), all_columns.div_ceil(across.max(1)));
        let layers = down.saturating_mul(across);
        if layers > limits.max_texture_array_layers {
            return Ok(None);
        }
        let texels = |blocks: u32| blocks * astc::SIDE as u32;
        let texture = gpu.scoped("making a texture", || {
            gpu.device.create_texture(&wgpu::TextureDescriptor {
                label: Some("astc"),
                size: wgpu::Extent3d {
                    width: texels(columns),
                    height: texels(rows),
                    depth_or_array_layers: layers,
                },
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: store.format(),
                usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
                view_formats: &[],
            })
        })?;
        for layer in 0..layers {
            let (top, left) = (layer / across * rows, layer % across * columns);
            // The last layers may be short, and the last but one all there is.
            let (height, width) =
                (all_rows.saturating_sub(top).min(rows), all_columns.saturating_sub(left).min(columns));
            if height == 0 || width == 0 {
                continue;
            }
            let to = wgpu::TexelCopyTextureInfo {
                texture: &texture,
                mip_level: 0,
                origin: wgpu::Origin3d { x: 0, y: 0, z: layer },
                aspect: wgpu::TextureAspect::All,
            };
            let size =
                wgpu::Extent3d { width: texels(width), height: texels(height), depth_or_array_layers: 1 };
            let first = u64::from(BLOCK) * (u64::from(top) * u64::from(all_columns) + u64::from(left));
            match store {
                Store::Blocks => {
                    let layout = wgpu::TexelCopyBufferLayout {
                        offset: first,
                        bytes_per_row: Some(BLOCK * all_columns),
                        rows_per_image: None,
                    };
                    gpu.scoped("filling a texture", || gpu.queue.write_texture(to, payload, layout, size))?;
                }
                #[cfg(test)]
                Store::Halves => {
                    let blocks = payload.get(first as usize..).unwrap_or_default();
                    let halves = halves(blocks, all_columns as usize, [width as usize, height as usize]);
                    let layout = wgpu::TexelCopyBufferLayout {
                        offset: 0,
                        bytes_per_row: Some(8 * size.width),
                        rows_per_image: None,
                    };
                    gpu.scoped("filling a texture", || gpu.queue.write_texture(to, &halves, layout, size))?;
                }
            }
        }
        let layers = texture.create_view(&wgpu::TextureViewDescriptor {
            dimension: Some(wgpu::TextureViewDimension::D2Array),
            ..Default::default()
        });
        Ok(Some(Self { layers, rows, columns, across }))
    }
}

/// The texels of `size` blocks, whose rows lie `stride` blocks apart: grey and
/// opaque, as hardware returns them.
#[cfg(test)]
fn halves(blocks: &[u8], stride: usize, [width, height]: [usize; 2]) -> Vec<u8> {
    let side = astc::SIDE as usize;
    let mut out = vec![0; width * height * side * side * 8];
    for (y, row) in blocks.as_chunks::<16>().0.chunks(stride).take(height).enumerate() {
        for (x, block) in row.iter().take(width).enumerate() {
            for (i, texel) in crate::codec::device_texels(block).into_iter().enumerate() {
                let at = (y * side + i / side) * width * side + x * side + i % side;
                let grey = half::f16::from_f32(texel);
                let rgba = [grey, grey, grey, half::f16::ONE].map(half::f16::to_le_bytes).concat();
                out[8 * at..][..8].copy_from_slice(&rgba);
            }
        }
    }
    out
}
