//! The reference kernels, in plain loops.

use super::Rows;
use crate::codec::activation::Activation;
use crate::codec::integer::codes::{self, BLOCK};
use crate::codec::integer::{Layout, block_scales};
use crate::codec::q8;

/// Sums `s sum(q x) - (c + b s) sum(x)` over the half blocks of each row,
/// where `dots(block, codes)` is `sum(q x)` of both halves.
fn integer_rows<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
    dots: impl Fn(usize, &[u8; BLOCK]) -> [f32; 2],
) {
    let bias = layout.code_bias();
    let sums = x.sums().as_chunks::<2>().0;
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut total = 0.0;
        let (mut octet, mut minuses) = ([[0.0; 2]; 8], [[0.0; 2]; 8]);
        for (i, sum) in sums.iter().enumerate().take(rows.blocks) {
            if i % 8 == 0 {
                (octet, minuses) = block_scales(layout, scales, i / 8);
            }
            let (s, c) = (octet[i % 8], minuses[i % 8]);
            let dot = dots(i, &codes::unpack::<B>(codes, rows.blocks, i));
            for h in 0..2 {
                total += s[h] * dot[h] - (c[h] + bias * s[h]) * sum[h];
            }
        }
        *y = total;
    }
}

/// Rows of codes of `B` bits times `x`, in floats.
pub(super) fn integer_f32<const B: u32>(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let (blocks, rest) = x.x().as_chunks::<BLOCK>();
    let mut tail = [0.0; BLOCK];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    integer_rows::<B>(layout, x, rows, y, |block, codes| {
        let x = blocks.get(block).unwrap_or(&tail);
        let (mut first, mut second) = ([0.0; 8], [0.0; 8]);
        for j in 0..16 {
            first[j % 8] += f32::from(codes[j]) * x[j];
            second[j % 8] += f32::from(codes[j + 16]) * x[j + 16];
        }
        [first.iter().sum(), second.iter().sum()]
    });
}

/// Rows of codes of `B` bits times `x`, by its 8-bit form.
pub(super) fn integer_q8<const B: u32>(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let q = x.quantized();
    let blocks = q.codes.as_chunks::<BLOCK>().0;
    integer_rows::<B>(layout, x, rows, y, |block, codes| {
        let (Some(x), Some(scale)) = (blocks.get(block), q.scales.get(block)) else { return [0.0; 2] };
        let (mut first, mut second) = (0i32, 0i32);
        for j in 0..16 {
            first += i32::from(codes[j]) * i32::from(x[j]);
            second += i32::from(codes[j + 16]) * i32::from(x[j + 16]);
        }
        [scale * first as f32, scale * second as f32]
    });
}

/// Sums `d sum(q x)` over the blocks of each row.
fn q8_rows(scale_bytes: usize, rows: Rows<'_>, y: &mut [f32], dot: impl Fn(usize, &[u8; 32]) -> f32) {
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let blocks = codes.as_chunks::<32>().0.iter().zip(scales.chunks_exact(scale_bytes));
        *y = blocks.enumerate().map(|(i, (codes, d))| q8::scale(d) * dot(i, codes)).sum();
    }
}

/// Q8 rows times `x`, in floats.
pub(super) fn q8_f32(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let (blocks, rest) = x.x().as_chunks::<32>();
    let mut tail = [0.0; 32];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    q8_rows(scale_bytes, rows, y, |block, codes| {
        let x = blocks.get(block).unwrap_or(&tail);
        let mut sum = [0.0; 8];
        for j in 0..32 {
            sum[j % 8] += f32::from(codes[j].cast_signed()) * x[j];
        }
        sum.iter().sum()
    });
}

/// Q8 rows times `x`, by its 8-bit form.
pub(super) fn q8_q8(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let q = x.quantized();
    let blocks = q.codes.as_chunks::<32>().0;
    q8_rows(scale_bytes, rows, y, |block, codes| {
        let (Some(x), Some(scale)) = (blocks.get(block), q.scales.get(block)) else { return 0.0 };
        let mut sum = 0i32;
        for j in 0..32 {
            sum += i32::from(codes[j].cast_signed()) * i32::from(x[j]);
        }
        scale * sum as f32
    });
}
