//! One word that comes back from the device, without waiting for what was
//! submitted after it.

use super::device::Gpu;
use super::memory::CALLBACK;
use super::record::Step;
use crate::Result;
use std::sync::mpsc;

/// A word on its way.
#[derive(Debug)]
pub(super) struct Pick {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: mpsc::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl Gpu {
    /// Submits `steps`, after which the word at byte `at` of `from` comes back in
    /// `staging`, a buffer of [`Gpu::word`]'s, or a new one.
    pub(super) fn submit_for_word<'s>(
        &self,
        steps: impl IntoIterator<Item = &'s Step>,
        from: &wgpu::Buffer,
        at: u64,
        staging: Option<wgpu::Buffer>,
    ) -> Result<Pick> {
        let staging = match staging {
            Some(staging) => staging,
            None => self.read_buffer(4)?,
        };
        let mut encoder = self.record(steps);
        encoder.copy_buffer_to_buffer(from, at, &staging, 0, 4);
        let submission = self.queue.submit([encoder.finish()]);
        let (sender, mapped) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, ..4, move |result| {
            // A word that nobody waits for any more is dropped.
            let _ = sender.send(result);
        });
        Ok(Pick { staging, submission, mapped })
    }

    /// Waits for a word; its buffer can be used again.
    pub(super) fn word(&self, pick: Pick) -> Result<(u32, wgpu::Buffer)> {
        let Pick { staging, submission, mapped } = pick;
        let waited =
            self.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None });
        self.check()?;
        waited.map_err(|e| self.error(e))?;
        // Another thread's wait may be the one that calls back, after this one's.
        match mapped.recv_timeout(CALLBACK) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(self.error(e)),
            Err(e) => return Err(self.error(format!("reading back: {e}"))),
        }
        let word = {
            let bytes = staging.get_mapped_range(..4).map_err(|e| self.error(e))?;
            bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        staging.unmap();
        Ok((word, staging))
    }
}
