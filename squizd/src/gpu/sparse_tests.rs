//! Sparse products against the CPU's decoders, with random masks.

use super::codec::GPU_CODECS;
use super::device::Gpu;
use super::math::Math;
use super::matrix::{GpuMatrix, Output};
use super::pipeline::Span;
use super::sample::gaussian;
use super::seen::inputs;
use super::sparse::{Axis, Clusters};
use super::tests::{Case, bound, gpu, layouts, maths, relative_error};
use crate::codec::{EncodeOptions, codec};
use squizd_spec::appendix::compat::{CODEC_RULES, Granule};
use squizd_spec::{CodecId, int_layout};

/// What cluster boundaries are multiples of, `None` if the codec excludes them.
fn granule(case: &Case, axis: Axis) -> Option<u32> {
    let rule = CODEC_RULES.iter().find(|r| r.codec == case.sample.id)?;
    let [layout, group, ..] = case.sample.params;
    match if axis == Axis::Rows { rule.rows } else { rule.cols } {
        Granule::Any => Some(1),
        Granule::Multiple(n) => Some(n),
        Granule::Group if layout == int_layout::PLAIN => Some(u32::from(group).max(32)),
        Granule::Group => Some(256),
        Granule::Excluded(_) => None,
    }
}

/// Boundaries of clusters of one to three granules each.
fn boundaries(neurons: u32, granule: u32, seed: u64) -> Vec<u32> {
    let mut all = vec![0];
    for draw in gaussian(neurons as usize, seed) {
        let next = all[all.len() - 1] + granule * (1 + (draw.abs() * 2.0) as u32 % 3);
        if next >= neurons {
            break;
        }
        all.push(next);
    }
    all.push(neurons);
    all
}

/// Masks of all, none, and some clusters.
fn masks(clusters: usize, seed: u64) -> [Vec<u32>; 4] {
    let some = |share: f32, seed| -> Vec<u32> {
        gaussian(clusters, seed).iter().map(|v| u32::from(*v < share)).collect()
    };
    [vec![1; clusters], vec![0; clusters], some(0.0, seed), some(-1.0, seed + 1)]
}

/// Which neurons a mask leaves.
fn active(boundaries: &[u32], mask: &[u32]) -> Vec<bool> {
    let clusters = boundaries.windows(2).zip(mask);
    clusters.flat_map(|(b, m)| vec![*m != 0; (b[1] - b[0]) as usize]).collect()
}

fn check(gpu: &Gpu, case: &Case, matrix: &GpuMatrix, math: Math, axis: Axis) {
    let (rows, cols) = (case.sample.matrix.rows as usize, case.sample.matrix.cols as usize);
    let neurons = if axis == Axis::Rows { rows } else { cols };
    let Some(granule) = granule(case, axis) else { return };
    let boundaries = boundaries(neurons as u32, granule, 11);
    let clusters = Clusters::new(gpu, &boundaries).unwrap();
    let (listed, list) = clusters.list(gpu, matrix, axis).unwrap();
    for mask in masks(boundaries.len() - 1, 12) {
        let active = active(&boundaries, &mask);
        let mut x = gaussian(cols, 5);
        if axis == Axis::Columns {
            for (x, active) in x.iter_mut().zip(&active) {
                *x *= f32::from(*active);
            }
        }
        clusters.set(gpu, &mask);
        let (input, seen) = inputs(gpu, math, cols, &x);
        // Numbers that a kernel must replace.
        let y = gpu.upload(&[0x7f; 4].repeat(rows), &mut |_| {}).unwrap();
        let mut steps = vec![list.clone()];
        steps.extend(matrix.sparse_gemv(gpu, &input, Output::to(&y, 0), &listed).unwrap());
        gpu.submit(&steps);
        let y = gpu.read_f32(&y, rows).unwrap();
        let about = format!("{} {rows}x{cols} {math} {axis:?} {mask:?}", case.sample.id);
        if axis == Axis::Columns {
            let error = relative_error(&y, case, &seen[0]);
            // Without inputs there is no norm to compare with.
            let exact = mask.iter().all(|m| *m == 0) && y.iter().all(|y| *y == 0.0);
            assert!(exact || error <= bound(math), "{about}: {error:e}");
            continue;
        }
        let dense = Case { sample: case.sample.clone(), decoded: case.decoded.clone() }.product(&seen[0]);
        let masked: Vec<f32> = dense
            .iter()
            .zip(&active)
            .zip(&y)
            .map(|((want, active), y)| if *active { *y } else { *want as f32 })
            .collect();
        let error = relative_error(&masked, case, &seen[0]);
        assert!(error <= bound(math), "{about}: {error:e}");
        assert!(y.iter().zip(&active).all(|(y, active)| *active || *y == 0.0), "{about}: {y:?}");
    }
}

#[test]
fn every_codec_skips_rows_and_columns() {
    let Some(gpu) = gpu() else { return };
    for gpu_codec in GPU_CODECS {
        let codec = codec(gpu_codec.id).unwrap();
        for (options, factor) in layouts(gpu_codec.id).into_iter().take(2) {
            for (rows, cols) in [(70, 96), (9, 2304)] {
                let case = Case::new(codec, rows, cols, factor, options);
                let matrix = case.load(gpu);
                if !matrix.skips() {
                    continue;
                }
                for math in maths(gpu_codec.id).into_iter().filter(|m| [Math::F32, Math::I8].contains(m)) {
                    check(gpu, &case, &matrix, math, Axis::Rows);
                    check(gpu, &case, &matrix, math, Axis::Columns);
                }
            }
        }
    }
}

/// What the mask leaves out is not read: it may hold anything.
#[test]
fn inactive_bytes_do_not_matter() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols) = (24, 1024);
    let options = EncodeOptions { group_size: Some(32), ..EncodeOptions::NONE };
    let case = Case::new(codec(CodecId::INT4).unwrap(), rows, cols, 1.0, options);
    let planes = case.sample.id.geometry(case.sample.matrix, &case.sample.params).unwrap().planes;
    for axis in [Axis::Rows, Axis::Columns] {
        let neurons = if axis == Axis::Rows { rows } else { cols };
        let boundaries: Vec<u32> = (0..=4).map(|c| (c * neurons / 4) as u32).collect();
        let mask = [0, 1, 0, 1];
        let active = active(&boundaries, &mask);
        let mut spoilt = case.sample.clone();
        for row in 0..rows {
            for unit in 0..cols / 32 {
                let live = if axis == Axis::Rows { active[row] } else { active[32 * unit] };
                for (plane, bytes) in planes.iter().zip([16, 4]).filter(|_| !live) {
                    let at = (plane.offset + plane.row_stride * row as u64) as usize + bytes * unit;
                    // As a scale, it is not a number.
                    spoilt.data[at..at + bytes].fill(0xff);
                }
            }
        }
        let spoilt = Case { sample: spoilt, decoded: case.decoded.clone() };
        let buffer = gpu.upload(&spoilt.sample.data, &mut |_| {}).unwrap();
        let matrix = GpuMatrix::new(gpu, CodecId::INT4, &spoilt.sample.view(), &Span::from(&buffer)).unwrap();
        let clusters = Clusters::new(gpu, &boundaries).unwrap();
        clusters.set(gpu, &mask);
        let (listed, list) = clusters.list(gpu, &matrix, axis).unwrap();
        let mut x = gaussian(cols, 5);
        if axis == Axis::Columns {
            for (x, active) in x.iter_mut().zip(&active) {
                *x *= f32::from(*active);
            }
        }
        let (input, seen) = inputs(gpu, Math::F32, cols, &x);
        let y = gpu.storage(4 * rows as u64).unwrap();
        let mut steps = vec![list];
        steps.extend(matrix.sparse_gemv(gpu, &input, Output::to(&y, 0), &listed).unwrap());
        gpu.submit(&steps);
        let y = gpu.read_f32(&y, rows).unwrap();
        assert!(y.iter().all(|y| y.is_finite()), "{axis:?}: {y:?}");
        for (row, (y, want)) in y.iter().zip(case.product(&seen[0])).enumerate() {
            let want = if axis == Axis::Rows && !active[row] { 0.0 } else { want };
            assert!((f64::from(*y) - want).abs() <= 1e-4, "{axis:?}, row {row}: {y} {want}");
        }
    }
}

#[test]
fn misuse_of_clusters_is_an_error() {
    let Some(gpu) = gpu() else { return };
    assert!(Clusters::new(gpu, &[0]).is_err());
    let case = Case::new(codec(CodecId::Q8).unwrap(), 64, 256, 1.0, EncodeOptions::NONE);
    let buffer = gpu.upload(&case.sample.data, &mut |_| {}).unwrap();
    let matrix =
        GpuMatrix::in_bindings_of(gpu, CodecId::Q8, &case.sample.view(), &Span::from(&buffer), 3072).unwrap();
    assert!(matrix.pieces() > 1);
    let clusters = Clusters::new(gpu, &[0, 64]).unwrap();
    let (listed, _) = clusters.list(gpu, &matrix, Axis::Rows).unwrap();
    let (input, _) = inputs(gpu, Math::F32, 256, &gaussian(256, 5));
    let y = gpu.storage(256).unwrap();
    let error = matrix.sparse_gemv(gpu, &input, Output::to(&y, 0), &listed).unwrap_err();
    assert!(error.to_string().contains("larger than a binding"), "{error}");
    let biased = Output { bias: Some(&y), ..Output::to(&y, 0) };
    assert!(case.load(gpu).sparse_gemv(gpu, &input, biased, &listed).is_err());
}
