//! Where payloads lie on the device: in the mapped file itself where the driver
//! takes it, else in memory of the device's.
#![allow(unsafe_code, reason = "importing the mapping, whose lifetime the type here watches over")]

use super::device::Gpu;
#[cfg(not(target_vendor = "apple"))]
use super::host_memory as memory;
#[cfg(target_vendor = "apple")]
use super::metal_memory as memory;
use super::pipeline::Span;
use crate::Result;
use std::marker::PhantomData;
use std::sync::Arc;

/// Payloads begin at multiples of this.
const ALIGN: u64 = 256;

/// How a model's payloads reached the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Kernels read the mapped file itself.
    Mapped,
    /// They were copied to the device's memory, because of this.
    Uploaded(String),
}

impl std::fmt::Display for Residency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mapped => f.write_str("mapped, no copy"),
            Self::Uploaded(why) => write!(f, "uploaded ({why})"),
        }
    }
}

/// A part of a mapped file as a buffer. The file's bytes are borrowed for `'w`;
/// dropping this waits for the device and destroys the buffer.
#[derive(Debug)]
pub(super) struct Mapping<'w> {
    gpu: Arc<Gpu>,
    buffer: wgpu::Buffer,
    /// Address and length of the part.
    start: usize,
    length: usize,
    file: PhantomData<&'w [u8]>,
}

impl<'w> Mapping<'w> {
    /// The pages of `file` that hold those of `payloads` that are in it.
    ///
    /// # Errors
    /// Why they cannot be read in place.
    pub(super) fn new<'p>(
        gpu: &Arc<Gpu>,
        file: &'w [u8],
        payloads: impl Iterator<Item = &'p [u8]>,
    ) -> std::result::Result<Self, String> {
        // Reading over the bus with every token would be many times slower, and an H200's
        // driver had no memory for other buffers afterwards.
        if gpu.abilities().discrete {
            return Err("the adapter has memory of its own".to_owned());
        }
        let alignment = alignment(gpu)?;
        let base = file.as_ptr() as usize;
        let (mut from, mut to) = (usize::MAX, 0);
        for payload in payloads {
            let start = payload.as_ptr() as usize;
            let inside = start >= base && start + payload.len() <= base + file.len();
            if !inside || !(start - base).is_multiple_of(256) {
                continue;
            }
            from = from.min(start - base);
            to = to.max(start - base + payload.len());
        }
        if from >= to {
            return Err("no payload lies in the file".to_owned());
        }
        let (from, to) = (from / alignment * alignment, to.next_multiple_of(alignment));
        let part = file.get(from..to).ok_or("the file ends within a page of payload")?;
        if part.len() as u64 > gpu.abilities().max_buffer {
            return Err(format!("{} bytes are more than the adapter's largest buffer", part.len()));
        }
        let buffer = import(gpu, part)?;
        Ok(Self {
            gpu: Arc::clone(gpu),
            buffer,
            start: part.as_ptr() as usize,
            length: part.len(),
            file: PhantomData,
        })
    }

    fn find(&self, data: &[u8]) -> Option<Span> {
        let offset = (data.as_ptr() as usize).checked_sub(self.start)?;
        let inside = offset + data.len() <= self.length && offset.is_multiple_of(256);
        inside.then(|| Span { buffer: self.buffer.clone(), offset: offset as u64, size: data.len() as u64 })
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // Whatever fails here has been reported before, by what waited.
        let _ = self.gpu.wait();
        self.buffer.destroy();
        let _ = self.gpu.wait();
    }
}

fn alignment(gpu: &Gpu) -> std::result::Result<usize, String> {
    memory::alignment(&gpu.device)
        .map(|a| a as usize)
        .ok_or_else(|| "the driver does not import host memory".to_owned())
}

fn import(gpu: &Gpu, part: &[u8]) -> std::result::Result<wgpu::Buffer, String> {
    // SAFETY: only `Mapping::new` calls this, with a part of what it borrows for
    // its own lifetime; its buffer is bound to read-only ports alone (the slots
    // of a codec), and `Mapping::drop` waits for the device and destroys it
    // before the borrow ends. The file does not change: the mapping's owner
    // promises that of every mapped file (`squizd_spec::FileBytes`).
    unsafe { memory::import(&gpu.device, part) }
}

/// Puts payloads on the device, one after the other.
pub(super) struct Payloads<'a, 'w> {
    gpu: &'a Gpu,
    mapping: Option<&'a Mapping<'w>>,
    done: u64,
    /// Hears how many bytes of payload are there.
    progress: &'a mut dyn FnMut(u64),
}

impl<'a, 'w> Payloads<'a, 'w> {
    pub(super) fn new(
        gpu: &'a Gpu,
        mapping: Option<&'a Mapping<'w>>,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self { gpu, mapping, done: 0, progress }
    }

    pub(super) fn gpu(&self) -> &'a Gpu {
        self.gpu
    }

    /// Where `data` lies.
    pub(super) fn place(&mut self, data: &[u8]) -> Result<Span> {
        let [span] = self.place_together([data])?;
        Ok(span)
    }

    /// Where several payloads lie, in one buffer if one can be that large.
    pub(super) fn place_together<const N: usize>(&mut self, payloads: [&[u8]; N]) -> Result<[Span; N]> {
        let size = |data: &[u8]| (data.len() as u64).next_multiple_of(ALIGN);
        let total: u64 = payloads.iter().map(|data| size(data)).sum();
        let room = total <= self.gpu.abilities().max_buffer;
        let mut shared: Option<(wgpu::Buffer, u64)> = None;
        let mut spans = Vec::with_capacity(N);
        for data in payloads {
            let before = self.done;
            self.done += data.len() as u64;
            let progress = &mut *self.progress;
            if let Some(span) = self.mapping.and_then(|m| m.find(data)) {
                progress(self.done);
                spans.push(span);
                continue;
            }
            let (buffer, offset) = match shared.take().filter(|_| room) {
                Some(shared) => shared,
                None => (self.gpu.storage(if room { total } else { size(data) })?, 0),
            };
            self.gpu.fill(&buffer, offset, data, &mut |bytes| progress(before + bytes))?;
            spans.push(Span { buffer: buffer.clone(), offset, size: size(data) });
            shared = Some((buffer, offset + size(data)));
        }
        spans.try_into().map_err(|_| self.gpu.error("as many places as payloads"))
    }
}
