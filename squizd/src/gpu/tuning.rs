//! How work is spread over workgroups.

use super::device::Abilities;
use super::math::Math;
use squizd_shaders::Options;

/// Shape of a `gemv` workgroup: see `shaders/gemv.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Invocations of a workgroup; never 32, which an Apple compiler miscounts.
    pub workgroup: u32,
    /// Invocations that share rows, a power of two.
    pub lanes: u32,
    /// Rows that they have.
    pub rows: u32,
    /// Units that an invocation has under way.
    pub unroll: u32,
}

impl Tuning {
    /// Rows of a workgroup.
    pub fn rows_per_workgroup(self) -> u64 {
        u64::from(self.workgroup / self.lanes * self.rows)
    }

    /// The options of the shader. Sums over lanes by subgroup operations only
    /// where lanes and subgroups of every possible size go together.
    pub(super) fn apply(self, options: Options, abilities: Abilities) -> Options {
        let options = options
            .with("WG", self.workgroup)
            .with("LANES", self.lanes)
            .with("ROWS", self.rows)
            .with("UNROLL", self.unroll);
        match abilities.subgroup {
            Some((min, _)) if self.lanes <= min => options.flag("SUBGROUP").flag("SHUFFLE"),
            Some((_, max)) if self.lanes >= max => options.flag("SUBGROUP"),
            _ => options,
        }
    }
}

/// The tuning for a matrix of `rows` rows of `units` units.
pub(super) fn gemv_tuning(math: Math, unit: u32, rows: u32, units: u32) -> Tuning {
    let workgroup = 64;
    // As many lanes as have something to do, in whole turns where possible.
    let lanes = units.div_ceil(2).next_power_of_two().clamp(8, workgroup);
    let wide = match math {
        Math::F32 | Math::F16 => 4,
        Math::I8 | Math::I24 => 2,
    };
    let busy = rows / (workgroup / lanes) >= 1024;
    let rows = if busy { wide } else { wide.min(2) };
    let unroll = if unit == 8 && units >= 4 * lanes { 2 } else { 1 };
    Tuning { workgroup, lanes, rows, unroll }
}

impl std::fmt::Display for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workgroup, lanes, rows, unroll } = self;
        write!(f, "wg{workgroup} lanes{lanes} rows{rows} unroll{unroll}")
    }
}

/// Tunings to try, the one given first.
pub(super) fn candidates(chosen: Tuning) -> Vec<Tuning> {
    let mut all = vec![chosen];
    for workgroup in [64, 128, 256] {
        for lanes in [16, 32, 64, 128, 256].into_iter().filter(|l| *l <= workgroup) {
            for rows in [1, 2, 4, 8] {
                for unroll in [1, 2, 4].into_iter().filter(|u| u * rows <= 8) {
                    all.push(Tuning { workgroup, lanes, rows, unroll });
                }
            }
        }
    }
    all
}
