//! Buffers: made, filled, read back.

use super::device::Gpu;
use crate::Result;
use std::ops::Range;
use std::sync::{PoisonError, mpsc};
use std::time::Duration;

/// Time for a callback to be called once its work is done.
pub(super) const CALLBACK: Duration = Duration::from_mins(1);
/// Bytes that go to the device at a time.
const CHUNK: usize = 32 << 20;

impl Gpu {
    /// A buffer of `size` zero bytes, rounded up to 256, that kernels read and
    /// write.
    pub(super) fn storage(&self, size: u64) -> Result<wgpu::Buffer> {
        let size = size.max(1).next_multiple_of(256);
        if size > self.abilities().max_buffer {
            let most = self.abilities().max_buffer;
            return Err(self.error(format!("a buffer of {size} bytes; the largest has {most}")));
        }
        self.scoped(&format!("a buffer of {size} bytes"), || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        })
    }

    /// A buffer of `bytes`, zero-padded to a multiple of 256. `progress` hears
    /// how many have gone to the device.
    pub(super) fn upload(&self, bytes: &[u8], progress: &mut dyn FnMut(u64)) -> Result<wgpu::Buffer> {
        let buffer = self.storage(bytes.len() as u64)?;
        self.fill(&buffer, 0, bytes, progress)?;
        Ok(buffer)
    }

    /// Writes `bytes` to a buffer from `offset` on, a multiple of four.
    pub(super) fn fill(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: &[u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut done = 0;
        for chunk in bytes.chunks(CHUNK) {
            let whole = chunk.len() / 4 * 4;
            let (words, rest) = chunk.split_at(whole);
            self.queue.write_buffer(buffer, offset + done, words);
            if !rest.is_empty() {
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                self.queue.write_buffer(buffer, offset + done + whole as u64, &word);
            }
            done += chunk.len() as u64;
            if bytes.len() > CHUNK {
                // Staging memory is freed before more of it is taken.
                self.queue.submit([]);
                self.wait()?;
            }
            progress(done);
        }
        Ok(())
    }

    /// Copies the first `bytes` bytes of `from` to `to`, from `offset` on.
    pub(super) fn copy(&self, from: &wgpu::Buffer, to: &wgpu::Buffer, offset: u64, bytes: u64) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, 0, to, offset, bytes);
        self.queue.submit([encoder.finish()]);
    }

    /// The table `name`, which `make` makes the first time.
    pub(super) fn shared(&self, name: String, make: impl FnOnce() -> Vec<u8>) -> Result<wgpu::Buffer> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&name) {
            return Ok(table.clone());
        }
        let table = self.upload(&make(), &mut |_| {})?;
        tables.insert(name, table.clone());
        Ok(table)
    }

    /// Writes `bytes`, a multiple of four of them, to the beginning of a buffer.
    pub(super) fn write(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        self.queue.write_buffer(buffer, 0, bytes);
    }

    /// Bytes of a buffer, a multiple of four of them, after everything
    /// submitted.
    pub(super) fn read(&self, buffer: &wgpu::Buffer, range: Range<u64>) -> Result<Vec<u8>> {
        let size = range.end.saturating_sub(range.start);
        let staging = self.staging(size)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, range.start, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, ..size, move |result| {
            // The receiver lives until this has been called.
            let _ = sender.send(result);
        });
        self.wait()?;
        // Another thread's wait may be the one that calls back, after this one's.
        match receiver.recv_timeout(CALLBACK) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(self.error(e)),
            Err(e) => return Err(self.error(format!("reading back: {e}"))),
        }
        let bytes = staging.get_mapped_range(..size).map_err(|e| self.error(e))?.to_vec();
        staging.unmap();
        *self.staging.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging);
        Ok(bytes)
    }

    /// A buffer of at least `size` bytes to read from: the one used last, if it
    /// is free and large enough.
    fn staging(&self, size: u64) -> Result<wgpu::Buffer> {
        let kept = self.staging.lock().unwrap_or_else(PoisonError::into_inner).take();
        match kept.filter(|b| b.size() >= size) {
            Some(buffer) => Ok(buffer),
            None => self.read_buffer(size),
        }
    }

    /// A new buffer of at least `size` bytes that the CPU reads from.
    pub(super) fn read_buffer(&self, size: u64) -> Result<wgpu::Buffer> {
        self.scoped("a buffer to read from", || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size.next_power_of_two().max(256),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    /// Floats from the beginning of a buffer.
    pub(super) fn read_f32(&self, buffer: &wgpu::Buffer, count: usize) -> Result<Vec<f32>> {
        let bytes = self.read(buffer, 0..4 * count as u64)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
