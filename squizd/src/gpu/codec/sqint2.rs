//! SQINT2: strips of trellis-coded tiles, or four levels in plain rows; both
//! under a rotation of the columns.

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
    forms: &[],
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

/// How far apart the windows of two neighbours of a row lie, if that is the same
/// for all that begin with an even number, and a table of pairs is small enough.
fn pair_step(params: &Params) -> Option<u32> {
    let [_, rate, window, ..] = *params;
    let (rate, window) = (u32::from(rate), u32::from(window));
    let step = |i: u32| rate * (i + 1) / 8 - rate * i / 8;
    let same = [2, 4, 6].iter().all(|i| step(*i) == step(0));
    (same && window + step(0) <= PAIR_BITS).then(|| step(0))
}

/// What tells the table of a tensor from those of others.
pub(super) fn table_name(params: &Params) -> String {
    let [_, _, window, table, ..] = *params;
    format!("sqint2 {window} {table} {:?}", pair_step(params))
}

/// The values of all states, f32, or of those of both windows of pairs, f16.
pub(super) fn table(params: &Params) -> Vec<u8> {
    let values = device_table(params);
    let word = |words: Vec<u32>| words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let Some(step) = pair_step(params) else {
        return word(values.iter().map(|v| f32::from(*v).to_bits()).collect());
    };
    let value = |state: usize| {
        // Exact: whole numbers below 128.
        let value = values.get(state % values.len().max(1)).copied().unwrap_or(0);
        u32::from(f16::from_f32(f32::from(value)).to_bits())
    };
    word((0..values.len() << step).map(|s| value(s) | value(s >> step) << 16).collect())
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
    options = match pair_step(tensor.params) {
        Some(step) => options.with("SPAN", window + step).flag("PAIRS"),
        None => options.with("SPAN", window),
    };
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
