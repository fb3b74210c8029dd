//! How work is spread over workgroups where lanes take other than units: the
//! frames `shares` and `strips`.

use super::codec::Recipe;
use super::device::Abilities;
use super::tuning::Tuning;
use squizd_shaders::Options;

/// The widest workgroup where a codec does not say.
const WIDEST: u32 = 256;

/// Lanes that share a strip at most.
const MOST_LANES: u32 = 512;
/// Workgroups that a matrix has at least before strips share one: a large device's
/// multiprocessors.
const SPREAD: u32 = 128;

/// Shares of a matrix from which on there are enough for two rows a lane, which share
/// an input (measured on an H200; four rows took longer).
const BUSY: u64 = 1 << 20;

/// The tuning for `rows` rows, each of `turns` of what a lane takes at a time;
/// `None` for codecs whose lanes take units.
pub(super) fn tuning(recipe: &Recipe, rows: u32, turns: u32) -> Option<Tuning> {
    if let Some(height) = recipe.height() {
        // Strips are few: a workgroup for each, unless rows are short, or a table is
        // large and better fetched for several strips TOGETHER.
        let widest = recipe.options.constant("WIDEST").unwrap_or(WIDEST);
        let most = recipe.options.constant("TOGETHER").unwrap_or(1);
        let together = 1 << (rows.div_ceil(height) / SPREAD).clamp(1, most).ilog2();
        let lanes = turns.div_ceil(4).next_power_of_two().clamp(8, MOST_LANES.min(widest / together));
        let workgroup = (lanes * together).max(64);
        return Some(Tuning { workgroup, lanes, rows: height, unroll: 1, neighbours: false });
    }
    let cluster = recipe.options.constant("CLUSTER")?;
    // Two superblocks of a row at a time where it has two. Rows share an input, unless
    // that leaves too few lanes with something to do.
    let lanes = if turns > cluster { 2 * cluster } else { cluster };
    let busy = u64::from(rows) * u64::from(turns) >= BUSY;
    let rows = if busy { 2 } else { 1 };
    Some(Tuning { workgroup: 64, lanes, rows, unroll: 1, neighbours: false })
}

/// Tunings to try; none for codecs whose lanes take units.
pub(super) fn candidates(recipe: &Recipe) -> Vec<Tuning> {
    let widest = recipe.options.constant("WIDEST").unwrap_or(WIDEST);
    let workgroups = [64, 128, 256, 512, 1024].into_iter().filter(|w| *w <= widest);
    let mut all = Vec::new();
    for workgroup in workgroups {
        if let Some(rows) = recipe.height() {
            let lanes = [8, 16, 32, 64, 128, 256].into_iter().filter(|l| *l <= workgroup);
            all.extend(lanes.map(|lanes| Tuning { workgroup, lanes, rows, unroll: 1, neighbours: false }));
        } else if let Some(cluster) = recipe.options.constant("CLUSTER").filter(|_| workgroup <= 128) {
            let lanes = [1, 2, 4].map(|splits| splits * cluster).into_iter().filter(|l| *l <= workgroup);
            let of =
                |lanes| [1, 2, 4].map(|rows| Tuning { workgroup, lanes, rows, unroll: 1, neighbours: false });
            all.extend(lanes.flat_map(of));
        }
    }
    all
}

/// Sets PREFIX where the lanes that share a superblock are neighbours in one
/// subgroup of 32, and FOLD where all subgroups have a SIZE, and strips of 16 rows
/// lanes of several. `options` are those of a tuning.
pub(super) fn in_subgroups(options: Options, abilities: Abilities) -> Options {
    let has = |flag| options.flags.contains(&flag);
    let clusters = options.constant("CLUSTER").is_some() && has("SUBGROUP");
    let strips = options.constant("HEIGHT") == Some(16) && has("SUBGROUP") && !has("SHUFFLE");
    match abilities.subgroup {
        Some((32, 32)) if clusters => options.flag("PREFIX"),
        Some((least, most)) if strips && least == most => options.flag("FOLD").with("SIZE", least),
        _ => options,
    }
}
