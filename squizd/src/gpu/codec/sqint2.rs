//! SQINT2: strips of trellis-coded tiles, or four levels in plain rows; both
//! under a rotation of the columns.

use super::super::math::Math;
use super::{GpuCodec, Recipe, Slot, Tensor};
use crate::codec::device_table;
use half::f16;
use squizd_shaders::Options;
use squizd_spec::{CodecId, Params, sqint};

pub(super) const TRELLIS: GpuCodec = GpuCodec {
    id: CodecId::SQINT2,
    gemv: "sqint2_gemv",
    gemm: "sqint2_gemm",
    rows: "sqint2_rows",
    forms: &[Math::F16, Math::I8, Math::I24],
    describe: |tensor| Ok(trellis(tensor)),
};

pub(super) const LEVELS: GpuCodec = GpuCodec {
    id: CodecId::SQINT2,
    gemv: "nf2_gemv",
    gemm: "nf2_gemm",
    rows: "nf2_rows",
    forms: &[],
    describe: |tensor| Ok(levels(tensor)),
};

/// Bits of the states that a table of pairs has at most: 16 KiB of workgroup
/// memory.
const PAIR_BITS: u32 = 12;
/// The same of quads or triples, of whose table half is kept: 32 KiB.
const QUAD_BITS: u32 = 14;
/// Columns from which on it pays to fetch that for a strip.
const QUAD_COLUMNS: u64 = 2048;

/// Invocations of their workgroups, where the device has such.
const QUAD_WORKGROUP: u32 = 1024;

/// How far behind the first one's the windows of `count` neighbours of a row lie,
/// if that is the same for all that begin with a multiple of `count`, and states
/// of all their bits have at most `most`.
fn steps(params: &Params, count: u32, most: u32) -> Option<Vec<u32>> {
    let [_, rate, window, ..] = *params;
    let (rate, window) = (u32::from(rate), u32::from(window));
    let from =
        |first: u32| -> Vec<u32> { (0..count).map(|i| rate * (first + i) / 8 - rate * first / 8).collect() };
    let steps = from(0);
    let same = (0..8).step_by(count as usize).all(|first| from(first) == steps);
    let last = steps.last().copied().unwrap_or(0);
    (same && window + last <= most).then_some(steps)
}

fn pairs(params: &Params) -> Option<Vec<u32>> {
    steps(params, 2, PAIR_BITS)
}

fn quads(params: &Params) -> Option<Vec<u32>> {
    steps(params, 4, QUAD_BITS)
}

/// The same of three neighbours of eight, two rows of a quad, whose windows lie
/// equally far apart.
fn triples(params: &Params) -> Option<Vec<u32>> {
    let [_, rate, window, ..] = *params;
    let (rate, window) = (u32::from(rate), u32::from(window));
    let step = rate / 8;
    let even = (0..8).all(|i| rate * i / 8 == step * i);
    (even && window + 2 * step <= QUAD_BITS).then(|| vec![0, step, 2 * step])
}

/// What tells the tables of a tensor from those of others.
pub(super) fn table_name(params: &Params) -> String {
    let [_, _, window, table, ..] = *params;
    format!("sqint2 {window} {table} {:?} {:?} {:?}", pairs(params), quads(params), triples(params))
}

/// Tables, see the shader: the values of all states, f32, or of those of pairs,
/// f16; the same as bytes; half of the bytes of quads, else of triples, if such fit.
pub(super) fn table(params: &Params) -> Vec<u8> {
    let values = device_table(params);
    let value = |state: usize| values.get(state % values.len().max(1)).copied().unwrap_or(0);
    let bytes = |state: usize, steps: &[u32]| {
        steps.iter().rev().fold(0, |word, s| word << 8 | u32::from(value(state >> s).cast_unsigned()))
    };
    let states = |steps: &[u32]| values.len() << steps.last().copied().unwrap_or(0);
    // Exact: whole numbers below 128.
    let half = |v: i8| u32::from(f16::from_f32(f32::from(v)).to_bits());
    let pairs = pairs(params);
    let mut words: Vec<u32> = match pairs.as_deref() {
        Some([_, step]) => {
            (0..values.len() << step).map(|s| half(value(s)) | half(value(s >> step)) << 16).collect()
        }
        _ => values.iter().map(|v| f32::from(*v).to_bits()).collect(),
    };
    let steps = pairs.unwrap_or_else(|| vec![0]);
    words.extend((0..states(&steps)).map(|s| bytes(s, &steps)));
    if let Some(steps) = quads(params).or_else(|| triples(params)) {
        words.extend((0..states(&steps) / 2).map(|s| bytes(s, &steps)));
    }
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Options and numbers of the scales.
fn scales(tensor: &Tensor<'_>) -> (Options, [u32; 4]) {
    let options = Options::default();
    let params = tensor.params;
    let options = if params[6] == sqint::SCALE_F32 { options.flag("WIDE") } else { options };
    let scale = u32::from_le_bytes([params[16], params[17], params[18], params[19]]);
    (options, [scale, 0, 0, 0])
}

fn trellis(tensor: &Tensor<'_>) -> Recipe {
    let (options, extra) = scales(tensor);
    let [_, rate, window, ..] = *tensor.params;
    let (rate, window) = (u32::from(rate), u32::from(window));
    // A lane takes four columns of a strip, 64 weights, whose windows lie in so
    // many words.
    let words = (63 * rate / 8 + window).div_ceil(32);
    let mut options =
        options.with("SHARE", 4).with("HEIGHT", sqint::TILE as u32).with("RATE", rate).with("STREAM", words);
    let span = |steps: &[u32]| window + steps.last().copied().unwrap_or(0);
    options = match pairs(tensor.params) {
        Some(steps) if span(&steps) == PAIR_BITS => {
            options.with("SPAN", PAIR_BITS).flag("PAIRS").with("TOGETHER", 2)
        }
        Some(steps) => options.with("SPAN", span(&steps)).flag("PAIRS"),
        None => options.with("SPAN", window),
    };
    let four = quads(tensor.params).map(|steps| ("QUADS", steps));
    let large = four.or_else(|| triples(tensor.params).map(|steps| ("TRIPLES", steps)));
    if let Some((flag, steps)) = large.filter(|_| tensor.matrix.cols >= QUAD_COLUMNS) {
        options = options.with("QUAD", span(&steps)).flag(flag).flag("OVER_TABLE");
        options = options.with("WIDEST", QUAD_WORKGROUP).with("TOGETHER", 4);
    }
    if rate.is_multiple_of(4) {
        options = options.flag("WHOLE");
    }
    if window == 12 {
        options = options.flag("ODD");
    }
    let tiles = Slot {
        offset: tensor.geometry.planes[1].offset,
        row_stride: tensor.matrix.cols.div_ceil(sqint::TILE) * 4 * u64::from(rate),
        rows_per_run: sqint::TILE,
    };
    Recipe { options, unit: 8, slots: vec![tensor.plane(0), tiles], extra }
}

fn levels(tensor: &Tensor<'_>) -> Recipe {
    let (options, extra) = scales(tensor);
    Recipe { options, unit: 8, slots: vec![tensor.plane(0), tensor.plane(1)], extra }
}
