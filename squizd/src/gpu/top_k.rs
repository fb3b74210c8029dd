//! The likeliest tokens, found on the device.

use super::device::Gpu;
use super::pipeline::{Span, read, write};
use super::record::Step;
use crate::Result;
use crate::runtime::Likely;
use squizd_shaders::Options;

/// Tokens that are looked for, at most.
pub(super) const TOP_MOST: usize = 256;
/// Numbers that a workgroup sorts (`top_k.wgsl`).
const SHARE: u32 = 2048;
/// Its invocations.
const WORKGROUP: u32 = 256;

/// Dispatches that leave the largest of some numbers, sorted.
#[derive(Debug)]
pub(super) struct TopK {
    /// How many are asked for.
    pub(super) kept: usize,
    pub(super) steps: Vec<Step>,
    found: wgpu::Buffer,
    /// How many there are.
    count: u32,
}

impl TopK {
    /// The `k` largest of `count` numbers: at most [`TOP_MOST`].
    pub(super) fn new(gpu: &Gpu, numbers: &wgpu::Buffer, count: u32, k: usize) -> Result<Self> {
        let kept = k.clamp(1, TOP_MOST) as u32;
        let options = Options::default().with("WG", WORKGROUP).with("KEPT", kept);
        let (mut steps, mut from, mut left) = (Vec::new(), numbers.clone(), count);
        loop {
            let shares = left.div_ceil(SHARE).max(1);
            let to = gpu.storage(8 * u64::from(shares * kept))?;
            let options = if steps.is_empty() { options.clone().flag("FIRST") } else { options.clone() };
            let pipeline = gpu.pipeline("top_k", &options, &[read(0), write(1)])?;
            let spans = [Span::from(&from), Span::from(&to)];
            steps.push(Step::in_grid(gpu, &pipeline, &spans, &left, [u64::from(shares), 1, 1])?);
            (from, left) = (to, shares * kept);
            if shares == 1 {
                return Ok(Self { kept: k, steps, found: from, count: count.min(kept) });
            }
        }
    }

    /// What was found, the largest first.
    pub(super) fn read(&self, gpu: &Gpu, top: &mut Vec<Likely>) -> Result<()> {
        let bytes = gpu.read(&self.found, 0..8 * u64::from(self.count))?;
        top.clear();
        top.extend(bytes.as_chunks::<8>().0.iter().map(|pair| {
            let [a, b, c, d, e, f, g, h] = *pair;
            Likely { logit: f32::from_le_bytes([a, b, c, d]), id: u32::from_le_bytes([e, f, g, h]) }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::gaussian;
    use super::super::tests::gpu;
    use super::*;
    use crate::runtime::likeliest_of;

    #[test]
    fn the_device_finds_what_sorting_finds() {
        let Some(gpu) = gpu() else { return };
        for (count, k) in [(1, 1), (7, 40), (2048, 5), (2049, 256), (100_003, 40), (151_936, 256)] {
            let mut numbers = gaussian(count, 11);
            // Equals across shares, zeros of both signs, what is no number.
            let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.5, -f32::NAN];
            for (i, v) in numbers.iter_mut().enumerate().filter(|(i, _)| i % 5 == 0) {
                *v = odd[i / 5 % odd.len()];
            }
            let few = [3.5f32, 0.0, -0.0, f32::NAN, -1.0].repeat(count.div_ceil(5));
            for numbers in [&numbers[..], &few[..count], &vec![f32::NEG_INFINITY; count]] {
                let buffer = gpu.upload(zerocopy::IntoBytes::as_bytes(numbers), &mut |_| {}).unwrap();
                let found = TopK::new(gpu, &buffer, count as u32, k).unwrap();
                gpu.submit(&found.steps);
                let mut top = Vec::new();
                found.read(gpu, &mut top).unwrap();
                let mut want = Vec::new();
                likeliest_of(numbers, k, &mut want);
                let bits = |v: &[Likely]| v.iter().map(|l| (l.id, l.logit.to_bits())).collect::<Vec<_>>();
                assert_eq!(bits(&top), bits(&want), "{k} of {count}");
            }
        }
    }
}
