//! Where the time of one token goes.

use super::record::Step;
use super::session::GpuSession;
use crate::Result;
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// One kernel's part of a token.
#[derive(Clone, Debug, Serialize)]
pub struct KernelShare {
    /// Kernel.
    pub kernel: &'static str,
    /// Its dispatches.
    pub dispatches: usize,
    /// Microseconds by which a token is shorter without them.
    pub us: f64,
}

/// The time of one token.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Positions before it.
    pub past: usize,
    /// Microseconds from one id to the next, each the likeliest.
    pub token_us: f64,
    /// Microseconds of the device, of all dispatches.
    pub device_us: f64,
    /// Microseconds of the CPU: to record the dispatches, and to submit them.
    pub record_us: f64,
    /// The submission's.
    pub submit_us: f64,
    /// The kernels, the longest first.
    pub kernels: Vec<KernelShare>,
}

/// Tokens whose time counts, and times that one is repeated in a pass.
const TOKENS: usize = 64;
const REPEATS: u32 = 16;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl GpuSession<'_, '_, '_> {
    /// Measures the next token after those processed, over `rounds`; clocks are
    /// warmed for `warm` first. A kernel's part is what is left out of the time
    /// when its dispatches are, so that the parts need not sum up to the whole.
    ///
    /// # Errors
    /// If there is no room for 65 more tokens; what went wrong on the device.
    pub fn profile(&mut self, warm: Duration, rounds: u32) -> Result<Profile> {
        let past = self.tokens().len();
        let first = self.likeliest(&[0])?;
        let mut stamps = vec![Instant::now()];
        self.greedy(first, TOKENS, &mut |_| {
            stamps.push(Instant::now());
            ControlFlow::Continue(())
        })?;
        let gaps = stamps.windows(2).filter_map(|w| Some((*w.last()? - *w.first()?).as_secs_f64() * 1e6));
        let token_us = median(gaps.collect());
        self.truncate(past);
        let steps = self.token_steps()?;
        let gpu = self.model().gpu();
        let time =
            |steps: &[Step], warm| Ok::<_, crate::Error>(gpu.time(steps, REPEATS, warm, rounds)? * 1e6);
        let device_us = time(&steps, warm)?;
        let mut kernels: Vec<KernelShare> = Vec::new();
        for step in &steps {
            if let Some(known) = kernels.iter_mut().find(|k| k.kernel == step.kernel()) {
                known.dispatches += 1;
                continue;
            }
            let rest: Vec<Step> = steps.iter().filter(|s| s.kernel() != step.kernel()).cloned().collect();
            let us = device_us - time(&rest, warm / 8)?;
            kernels.push(KernelShare { kernel: step.kernel(), dispatches: 1, us });
        }
        kernels.sort_by(|a, b| b.us.total_cmp(&a.us));
        let (mut records, mut submits) = (Vec::new(), Vec::new());
        for _ in 0..rounds.max(3) {
            let start = Instant::now();
            let commands = gpu.record(&steps).finish();
            let recorded = start.elapsed();
            gpu.queue.submit([commands]);
            records.push(recorded.as_secs_f64() * 1e6);
            submits.push(start.elapsed().saturating_sub(recorded).as_secs_f64() * 1e6);
            gpu.wait()?;
        }
        Ok(Profile {
            past,
            token_us,
            device_us,
            record_us: median(records),
            submit_us: median(submits),
            kernels,
        })
    }
}
