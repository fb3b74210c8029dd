//! The machine's read bandwidth, measured.

use super::machine;
use crate::Failure;
use rayon::prelude::*;
use serde::Serialize;
use std::{hint::black_box, time::Instant};

/// Smallest and largest buffer by default.
const BUFFER: std::ops::RangeInclusive<u64> = 256 << 20..=2 << 30;
/// The buffer in multiples of the last-level cache.
const CACHES: u64 = 4;
/// Bytes of one task, and the numbers in it.
const TASK: usize = 1 << 20;

/// How bandwidth is measured: so much memory is read from end to end by all
/// threads of the current pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Bytes read by a pass.
    pub buffer_bytes: u64,
    /// Bytes of the last-level cache, where the system says.
    pub cache_bytes: Option<u64>,
}

impl Reading {
    /// A pass over `bytes`; by default four times the last-level cache (64 MiB
    /// where that is not known), 256 MiB to 2 GiB.
    pub fn of(bytes: Option<u64>) -> Self {
        let cache_bytes = machine::cache_bytes();
        let wanted = CACHES * cache_bytes.unwrap_or(64 << 20);
        Self {
            buffer_bytes: bytes.unwrap_or(wanted.clamp(*BUFFER.start(), *BUFFER.end())) / 8 * 8,
            cache_bytes,
        }
    }
}

/// The memory to be read.
pub(super) struct Bandwidth(Vec<u64>);

impl Bandwidth {
    /// Fills the buffer.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub(super) fn new(reading: &Reading) -> Result<Self, Failure> {
        let count = (reading.buffer_bytes / 8) as usize;
        let mut buffer = Vec::new();
        if count == 0 || buffer.try_reserve_exact(count).is_err() {
            return Err(Failure::usage(format!(
                "a buffer of {} bytes to measure the read bandwidth cannot be had; set --bandwidth-buffer",
                reading.buffer_bytes
            )));
        }
        // Written, so that every page is there and none is the shared zero page.
        buffer.resize(count, 0x5a5a_5a5a_5a5a_5a5a);
        Ok(Self(buffer))
    }

    /// Reads everything once; bytes per second.
    pub(super) fn pass(&self) -> f64 {
        let started = Instant::now();
        let sum = self.0.par_chunks(TASK / 8).map(sum).reduce(|| 0, u64::wrapping_add);
        black_box(sum);
        (8 * self.0.len()) as f64 / started.elapsed().as_secs_f64()
    }
}

/// The sum of all numbers in eight independent lanes, one cache line a step.
fn sum(numbers: &[u64]) -> u64 {
    let (lines, rest) = numbers.as_chunks::<8>();
    let mut lanes = [0u64; 8];
    for line in lines {
        for (lane, x) in lanes.iter_mut().zip(line) {
            *lane = lane.wrapping_add(*x);
        }
    }
    lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read() {
        let numbers: Vec<u64> = (0..1003).collect();
        assert_eq!(sum(&numbers), 1002 * 1003 / 2);
        let reading = Reading::of(Some((3 << 20) + 25));
        assert_eq!(reading.buffer_bytes, (3 << 20) + 24);
        let b = Bandwidth::new(&reading).unwrap();
        assert_eq!(b.0.len(), (3 << 17) + 3);
        assert!(b.pass() > 0.0);
    }

    #[test]
    fn impossible_buffers_are_refused() {
        for bytes in [0, 7, u64::MAX] {
            assert!(
                Bandwidth::new(&Reading::of(Some(bytes)))
                    .err()
                    .unwrap()
                    .message
                    .contains("--bandwidth-buffer")
            );
        }
    }
}
