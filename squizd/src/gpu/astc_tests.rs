//! Every kind of block that kernels may meet.

use super::codec::Tensor;
use super::device::Gpu;
use super::matrix::GpuMatrix;
use super::pipeline::Span;
use super::sample::Sample;
use super::tests::gpu;
use super::texels::Store;
use crate::codec::{codec, device_tables};
use squizd_spec::{CodecId, Matrix};

/// Pseudo-random words.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u128 {
        let mut word = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u128::from(self.0 >> 32)
        };
        word() | word() << 32 | word() << 64 | word() << 96
    }
}

/// Blocks of every mode with any endpoints, levels and seeds; constants; and
/// such as are not allowed.
fn blocks(count: usize) -> Vec<u128> {
    let tables = device_tables();
    let mut words = Words(7);
    let mut blocks = Vec::new();
    for i in 0..count {
        let word = words.next();
        let (range, partitions) = (i as u32 % 8, (i / 8) as u128 % 4);
        let mode = (range & 1) << 4 | (range >> 1) << 2 | 1 << 8;
        let about = (range as usize * 4 + partitions as usize) * 8;
        let spare = tables[about + 4..about + 8].iter().rev().fold(0, |m, w| m << 32 | u128::from(*w));
        let endpoint_mode = if partitions == 0 { 15 << 13 } else { 63 << 23 };
        let block = word & !0x1fff & !endpoint_mode | u128::from(mode) | partitions << 11;
        let grey = word & 0xffff;
        let constant = 0xffff_ffff_ffff_fdfc | ((grey * 0x1_0001_0001) | (0xffff << 48)) << 64;
        blocks.push(match i % 37 {
            0 => constant,
            1 => constant ^ 1 << (word >> 100 & 127),
            2 => word,
            // Spare bits as they come: allowed only where there are none.
            3 => block,
            _ => block & !spare,
        });
    }
    blocks
}

#[test]
fn every_block_decodes_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let codec = codec(CodecId::ASTC).unwrap();
    let (rows, cols) = (54, 1500);
    let matrix = Matrix { rows, cols };
    let mut params = [0; 32];
    params[0] = squizd_spec::astc::FOOTPRINT;
    let blocks = blocks(9 * 250);
    let mut data: Vec<u8> = blocks.iter().flat_map(|b| b.to_le_bytes()).collect();
    data.resize(data.len().next_multiple_of(256), 0);
    // Scales of 1.
    data.extend([0x00, 0x3c].repeat(rows as usize));
    let sample = Sample { id: CodecId::ASTC, matrix, params, data };
    let mut want = vec![0.0; (rows * cols) as usize];
    codec.decode(&sample.view(), 0..rows, &mut want).unwrap();
    let allowed = want.chunks(6).filter(|w| w.iter().any(|v| *v != 0.0)).count();
    assert!(allowed * 3 > want.len() / 6, "{allowed}");

    let buffer = gpu.upload(&sample.data, &mut |_| {}).unwrap();
    let mut on_gpu = GpuMatrix::new(gpu, sample.id, &sample.view(), &Span::from(&buffer)).unwrap();
    lookups_are(gpu, &on_gpu, &blocks, &want);
    // The same from texels, those that are not allowed decoded by the CPU.
    let tensor = Tensor::new(sample.id, &sample.view()).unwrap();
    on_gpu.sample(gpu, Store::Halves, &tensor, &sample.data, 100).unwrap();
    assert!(on_gpu.recipe().options.flags.contains(&"TEXTURE"));
    lookups_are(gpu, &on_gpu, &blocks, &want);
}

/// Asserts that looked-up rows have the bits of `want`.
fn lookups_are(gpu: &Gpu, on_gpu: &GpuMatrix, blocks: &[u128], want: &[f32]) {
    let (rows, cols) = (u64::from(on_gpu.rows()), on_gpu.cols());
    let ids: Vec<u8> = (0..rows as u32).flat_map(u32::to_le_bytes).collect();
    let ids = gpu.upload(&ids, &mut |_| {}).unwrap();
    let stride = cols.next_multiple_of(32);
    let y = gpu.storage(4 * rows * u64::from(stride)).unwrap();
    gpu.submit(&on_gpu.lookup(gpu, &ids, rows as u32, 1.0, &y, stride).unwrap());
    let got = gpu.read_f32(&y, rows as usize * stride as usize).unwrap();
    for (row, (got, want)) in got.chunks(stride as usize).zip(want.chunks(cols as usize)).enumerate() {
        for (col, (got, want)) in got.iter().zip(want).enumerate() {
            let block = blocks[row / 6 * 250 + col / 6];
            assert!(
                got.to_bits() == want.to_bits() || (*got == 0.0 && *want == 0.0),
                "row {row}, column {col} of block {block:032x}: {got} {want}"
            );
        }
    }
}
