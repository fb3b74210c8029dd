//! How work is spread over workgroups where lanes take other than units: the
//! frames `shares` and `strips`.

use super::codec::Recipe;
use super::device::Abilities;
use super::tuning::Tuning;
use squizd_shaders::Options;

/// The widest workgroup where a codec does not say.
const WIDEST: u32 = 256;

/// The tuning for `rows` rows, each of `turns` of what a lane takes at a time;
/// `None` for codecs whose lanes take units.
pub(super) fn tuning(recipe: &Recipe, rows: u32, turns: u32) -> Option<Tuning> {
    if let Some(height) = recipe.height() {
        // Strips are few: a workgroup for each, unless rows are short, or a table is
        // large and better fetched for several strips TOGETHER.
        let widest = recipe.options.constant("WIDEST").unwrap_or(WIDEST);
        let together = recipe.options.constant("TOGETHER").filter(|_| rows >= 4096).unwrap_or(1);
        let lanes = turns.div_ceil(4).next_power_of_two().clamp(8, widest / together);
        let workgroup = if together > 1 { widest } else { lanes.max(64) };
        return Some(Tuning { workgroup, lanes, rows: height, unroll: 1, neighbours: false });
    }
    let lanes = recipe.options.constant("CLUSTER")?;
    // A workgroup fetches the input once: a large one, if there are enough.
    let workgroup = match rows {
        0..2048 => 64,
        2048..4096 => 128,
        _ => WIDEST,
    };
    Some(Tuning { workgroup, lanes, rows: 1, unroll: 1, neighbours: false })
}

/// Tunings to try; none for codecs whose lanes take units.
pub(super) fn candidates(recipe: &Recipe) -> Vec<Tuning> {
    let widest = recipe.options.constant("WIDEST").unwrap_or(WIDEST);
    let workgroups = [64, 128, 256, 512].into_iter().filter(|w| *w <= widest);
    let mut all = Vec::new();
    for workgroup in workgroups {
        if let Some(rows) = recipe.height() {
            let lanes = [8, 16, 32, 64, 128, 256].into_iter().filter(|l| *l <= workgroup);
            all.extend(lanes.map(|lanes| Tuning { workgroup, lanes, rows, unroll: 1, neighbours: false }));
        } else if let Some(lanes) = recipe.options.constant("CLUSTER") {
            all.extend([1, 2, 4].map(|rows| Tuning { workgroup, lanes, rows, unroll: 1, neighbours: false }));
        }
    }
    all
}

/// Sets PREFIX where the lanes that share a superblock are neighbours in one
/// subgroup, whatever size the adapter chooses. `options` are those of a tuning.
pub(super) fn prefix(options: Options, abilities: Abilities) -> Options {
    match (options.constant("CLUSTER"), abilities.subgroup) {
        (Some(cluster), Some((smallest, _)))
            if cluster <= smallest && options.flags.contains(&"SUBGROUP") =>
        {
            options.flag("PREFIX")
        }
        _ => options,
    }
}
