//! Where payloads lie on the device.

use super::device::Gpu;
use super::pipeline::Span;
use crate::Result;

/// How a model's payloads reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Kernels read the mapped file itself.
    Mapped,
    /// They were copied to the device's memory.
    Uploaded,
}

impl std::fmt::Display for Residency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Mapped => "mapped, no copy",
            Self::Uploaded => "uploaded",
        })
    }
}

/// Puts payloads on the device, one after the other.
pub(super) struct Payloads<'a> {
    gpu: &'a Gpu,
    done: u64,
    /// Hears how many bytes of payload are there.
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Payloads<'a> {
    pub(super) fn new(gpu: &'a Gpu, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { gpu, done: 0, progress }
    }

    pub(super) fn gpu(&self) -> &'a Gpu {
        self.gpu
    }

    pub(super) fn residency(&self) -> Residency {
        Residency::Uploaded
    }

    /// Where `data` lies.
    pub(super) fn place(&mut self, data: &[u8]) -> Result<Span> {
        let (before, progress) = (self.done, &mut *self.progress);
        let buffer = self.gpu.upload(data, &mut |bytes| progress(before + bytes))?;
        self.done += data.len() as u64;
        Ok(Span::from(&buffer))
    }
}
