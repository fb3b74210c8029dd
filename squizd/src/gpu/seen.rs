//! Inputs of kernels under test, and what kernels see of them.

use super::device::Gpu;
use super::input::{Form, Input};
use super::math::Math;
use super::matrix::GpuMatrix;
use super::sample::Sample;
use crate::codec::{DeviceRotation, device_rotation};

/// The inputs on the device, prepared, and as the kernels of their form see
/// them.
pub(super) fn inputs(gpu: &Gpu, math: Math, width: usize, x: &[f32]) -> (Input, Vec<Vec<f64>>) {
    let count = x.len() / width;
    let input = Input::new(gpu, math, width as u32, count as u32).unwrap();
    let stride = input.stride as usize;
    let mut padded = vec![0.0f32; stride * count];
    for (to, from) in padded.chunks_mut(stride).zip(x.chunks(width)) {
        to[..width].copy_from_slice(from);
    }
    let bytes: Vec<u8> = padded.iter().flat_map(|v| v.to_le_bytes()).collect();
    gpu.write(&input.values, &bytes);
    gpu.submit(&[input.prepare(gpu).unwrap()]);
    let seen = match math {
        Math::F32 | Math::F16 => padded.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(),
        Math::I8 | Math::I24 => whole_numbers(gpu, &input.form, padded.len()),
    };
    (input, seen.chunks(stride).map(<[f64]>::to_vec).collect())
}

/// Rotates `input` for `matrix`, and changes what it is seen as to what the
/// kernels then see, under the rotation's inverse.
pub(super) fn rotate(gpu: &Gpu, input: &Input, sample: &Sample, matrix: &GpuMatrix, seen: &mut [Vec<f64>]) {
    gpu.submit(&input.rotate(gpu, [matrix], seen.len() as u32).unwrap());
    see(gpu, input, sample, matrix, seen);
}

/// The same for inputs that have been rotated.
pub(super) fn see(gpu: &Gpu, input: &Input, sample: &Sample, matrix: &GpuMatrix, seen: &mut [Vec<f64>]) {
    let whole = matches!(matrix.math(gpu, input.math), Math::I8 | Math::I24);
    if matrix.rotation().is_none() || !whole {
        return;
    }
    let cols = sample.matrix.cols as usize;
    let form = input.form(gpu, matrix).unwrap();
    let rotated = whole_numbers(gpu, &form, input.stride as usize * seen.len());
    for (seen, rotated) in seen.iter_mut().zip(rotated.chunks(input.stride as usize)) {
        assert!(rotated[cols..].iter().all(|v| *v == 0.0));
        seen[..cols].copy_from_slice(&rotated[..cols]);
        rotate_back(&device_rotation(&sample.params, cols), &mut seen[..cols]);
    }
}

/// `x` becomes `Rᵀ x`.
fn rotate_back(rotation: &DeviceRotation, x: &mut [f64]) {
    let block = 1 << rotation.log_block;
    let hadamard = |x: &mut [f64]| {
        for step in (0..rotation.log_block).map(|log| 1 << log) {
            for i in (0..block).filter(|i| i & step == 0) {
                (x[i], x[i + step]) = (x[i] + x[i + step], x[i] - x[i + step]);
            }
        }
        for v in x.iter_mut() {
            *v *= f64::from(rotation.unit);
        }
    };
    let flip = |x: &mut [f64], signs: &[u32]| {
        for (v, _) in x.iter_mut().zip(signs).filter(|(_, sign)| **sign != 0) {
            *v = -*v;
        }
    };
    if !rotation.tail_signs.is_empty() {
        let start = x.len() - block;
        hadamard(&mut x[start..]);
        flip(&mut x[start..], &rotation.tail_signs);
    }
    x.chunks_exact_mut(block).for_each(hadamard);
    flip(x, &rotation.signs);
}

/// What the bytes of a coded form say: a block's vectors of 16 lie in tiles of
/// eight blocks, those of the high bytes first.
fn whole_numbers(gpu: &Gpu, form: &Form, length: usize) -> Vec<f64> {
    let digits = form.math.bytes() as usize;
    let coded = gpu.read(&form.coded, 0..(digits * length.next_multiple_of(256)) as u64).unwrap();
    let sums = gpu.read_f32(&form.sums, length / 8).unwrap();
    let value = |i: usize| {
        let (block, vector, byte) = (i / 32, i % 32 / 16, i % 16);
        let at = |digit: usize| 16 * (block / 8 * 16 * digits + (2 * digit + vector) * 8 + block % 8) + byte;
        let n = (0..digits).fold(0, |n, d| 256 * n + i32::from(coded[at(d)].cast_signed()));
        f64::from(n) * f64::from(sums[4 * block])
    };
    (0..length).map(value).collect()
}
