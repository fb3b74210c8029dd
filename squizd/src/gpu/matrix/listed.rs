//! Lists of escapes, which `gemv` reads instead of a matrix's first and last slot.

use super::super::device::Gpu;
use super::super::pipeline::Span;
use super::{GpuMatrix, Piece};
use crate::Result;

/// Where a list of escapes is bound.
pub(super) const LIST: u32 = 3;

impl GpuMatrix {
    /// What a kernel binds of `piece`, and where.
    pub(super) fn bound(&self, piece: &Piece, kernel: &str) -> Vec<(u32, Span)> {
        let mut slots: Vec<_> = (0..).zip(piece.spans.iter().cloned()).collect();
        if let Some(list) = self.escapes.as_ref().filter(|_| kernel == self.codec.gemv) {
            slots.truncate(LIST as usize);
            slots.drain(..1);
            slots.push((LIST, list.clone()));
        }
        slots
    }

    /// Puts the escapes of matrices that are to be joined in one buffer.
    pub(in super::super) fn place_escapes<'m>(
        gpu: &Gpu,
        matrices: impl Iterator<Item = &'m mut Self>,
    ) -> Result<()> {
        let mut lists: Vec<_> = matrices.filter_map(|m| m.escapes.as_mut()).collect();
        let total: u64 = lists.iter().map(|list| list.buffer.size()).sum();
        if lists.len() < 2 || total > gpu.abilities().max_binding {
            return Ok(());
        }
        let all = gpu.storage(total)?;
        let mut offset = 0;
        for list in &mut lists {
            let size = list.buffer.size();
            gpu.copy(&list.buffer, &all, offset, size);
            **list = Span { buffer: all.clone(), offset, size };
            offset += size;
        }
        Ok(())
    }
}
