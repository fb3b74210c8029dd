//! Commands recorded by other threads before they are wanted.
//!
//! Every token's dispatches are the same, and a small model's take the CPU
//! longer to record than the device to run. What differs, position and rotation,
//! lies in buffers that are written before each submission.

use super::device::Gpu;
use super::record::Step;
use std::sync::mpsc;
use std::thread::Scope;

/// Threads that record.
const THREADS: usize = 3;
/// Recorded commands that wait, at most.
const WAITING: usize = 4;

/// Commands that run the same dispatches, as many as are asked for.
#[derive(Debug)]
pub(super) struct Ahead {
    recorded: mpsc::Receiver<wgpu::CommandBuffer>,
}

impl Ahead {
    /// Begins to record `steps`, until the result is dropped.
    pub(super) fn new<'s, 'e>(scope: &'s Scope<'s, 'e>, gpu: &'e Gpu, steps: &'e [Step]) -> Self {
        let (sender, recorded) = mpsc::sync_channel(WAITING);
        for _ in 0..THREADS {
            let sender = sender.clone();
            scope.spawn(move || while sender.send(gpu.record(steps).finish()).is_ok() {});
        }
        Self { recorded }
    }

    /// The next commands; `None` if no thread records any more.
    pub(super) fn next(&self) -> Option<wgpu::CommandBuffer> {
        self.recorded.recv().ok()
    }
}
