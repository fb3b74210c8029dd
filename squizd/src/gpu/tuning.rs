//! How work is spread over workgroups.

use super::device::Abilities;
use super::math::Math;
use serde::Serialize;
use squizd_shaders::Options;

/// Shape of a `gemv` workgroup: see `shaders/gemv.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tuning {
    /// Invocations of a workgroup; never 32, which an Apple compiler miscounts.
    pub workgroup: u32,
    /// Invocations that share rows, a power of two.
    pub lanes: u32,
    /// Rows that they have.
    pub rows: u32,
    /// Units that an invocation has under way; a divisor of 8 if neighbours.
    pub unroll: u32,
    /// Whether those are neighbours, and share what a codec stores for several.
    pub neighbours: bool,
}

impl Tuning {
    /// Rows of a workgroup.
    pub fn rows_per_workgroup(self) -> u64 {
        u64::from(self.workgroup / self.lanes * self.rows)
    }

    /// The same without neighbours: units of a list are none.
    pub(super) fn apart(self) -> Self {
        Self { neighbours: false, unroll: 1, ..self }
    }

    /// The options of the shader. Sums over lanes by subgroup operations only
    /// where lanes and subgroups of every possible size go together.
    pub(super) fn apply(self, options: Options, abilities: Abilities) -> Options {
        let mut options = options
            .with("WG", self.workgroup)
            .with("LANES", self.lanes)
            .with("ROWS", self.rows)
            .with("UNROLL", self.unroll);
        if self.neighbours {
            options = options.flag("NEIGHBOURS");
        }
        match abilities.subgroup {
            Some((min, _)) if self.lanes <= min => options.flag("SUBGROUP").flag("SHUFFLE"),
            Some((_, max)) if self.lanes >= max => options.flag("SUBGROUP"),
            _ => options,
        }
    }
}

/// Invocations below which more of them are worth more than rows that share an input:
/// large devices run as many at once.
const AT_ONCE: u32 = 1 << 17;
/// Units of a row from which on twice as many lanes share it.
const WIDE: u32 = 512;
/// Bytes of a unit of 32 weights of four bits and their scale.
const USUAL: u64 = 18;

/// The tuning for a matrix of `rows` rows of `units` units of `unit` columns, and
/// `bytes` bytes if those are known.
pub(super) fn gemv_tuning(math: Math, unit: u32, bytes: Option<u64>, rows: u32, units: u32) -> Tuning {
    if unit == 32 {
        return blocks(math, bytes, rows, units);
    }
    let workgroup = 64;
    // As many lanes as have something to do, in whole turns where possible.
    let lanes = units.div_ceil(2).next_power_of_two().clamp(8, workgroup);
    let busy = rows / (workgroup / lanes) >= 1024;
    let rows = if busy { most_rows(math) } else { 2 };
    let unroll = if units >= 4 * lanes { 2 } else { 1 };
    Tuning { workgroup, lanes, rows, unroll, neighbours: false }
}

/// Rows that share an input's unit, where they are many.
fn most_rows(math: Math) -> u32 {
    match math {
        Math::F32 | Math::F16 => 4,
        Math::I8 | Math::I24 => 2,
    }
}

/// The same for units of 32. Measured on an H200: a short row is bound by how long one
/// unit takes, so that no lane should have two, nor two rows; a long one by the memory,
/// which likes to be read in long runs, or by arithmetic, of which rows share a part.
/// The fewer the bytes, the more arithmetic there is to them.
fn blocks(math: Math, bytes: Option<u64>, rows: u32, units: u32) -> Tuning {
    let whole = matches!(math, Math::I8 | Math::I24);
    let long = units >= WIDE && (whole || bytes.is_some());
    let bytes = bytes.unwrap_or(USUAL);
    let few = bytes < 16;
    let workgroup = if long && !(few && math == Math::I8) { 128 } else { 64 };
    let lanes = units.next_power_of_two().clamp(8, workgroup);
    let most = match math {
        Math::I8 if long && few => 4,
        Math::I8 if long => 1,
        Math::I24 if long && bytes <= 16 => 4,
        Math::F32 | Math::F16 if bytes < 32 => 4,
        _ => 2,
    };
    let mut own = most;
    while own > 1 && rows.saturating_mul(lanes) / own < AT_ONCE {
        own /= 2;
    }
    Tuning { workgroup, lanes, rows: own, unroll: 1, neighbours: false }
}

impl std::fmt::Display for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workgroup, lanes, rows, unroll, neighbours } = self;
        let neighbours = if *neighbours { " neighbours" } else { "" };
        write!(f, "wg{workgroup} lanes{lanes} rows{rows} unroll{unroll}{neighbours}")
    }
}

/// As [`Tuning`] prints itself.
impl std::str::FromStr for Tuning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usual = gemv_tuning(Math::I8, 32, Some(18), 8192, 896);
        let fits = |t: &Self| {
            let whole = t.lanes.is_power_of_two() && t.workgroup.is_multiple_of(t.lanes);
            whole && t.workgroup != 32 && t.rows * t.unroll <= MOST_UNITS
        };
        parsed(text).filter(fits).ok_or_else(|| format!("{text:?} is no shape such as \"{usual}\""))
    }
}

fn parsed(text: &str) -> Option<Tuning> {
    let words: Vec<_> = text.split_whitespace().collect();
    let ([workgroup, lanes, rows, unroll] | [workgroup, lanes, rows, unroll, "neighbours"]) = words[..]
    else {
        return None;
    };
    let number = |word: &str, name| word.strip_prefix(name)?.parse().ok().filter(|n| (1..=1024).contains(n));
    let unroll: u32 = number(unroll, "unroll")?;
    let neighbours = words.len() == 5;
    (!neighbours || 8 % unroll == 0).then_some(Tuning {
        workgroup: number(workgroup, "wg")?,
        lanes: number(lanes, "lanes")?,
        rows: number(rows, "rows")?,
        unroll,
        neighbours,
    })
}

/// Units that an invocation has under way at most, of all its rows.
const MOST_UNITS: u32 = 16;
/// Rounds of [`climb`]: each tries every value of every side once.
const ROUNDS: usize = 2;

/// A search from `start` along one side of the shape at a time, keeping the
/// best: `time` says how long a tuning takes, `None` if it cannot be.
pub(super) fn climb<E>(
    start: Tuning,
    mut time: impl FnMut(Tuning) -> Result<f64, E>,
) -> Result<(Tuning, f64), E> {
    let mut tried = vec![start];
    let mut best = (start, time(start)?);
    for _ in 0..ROUNDS {
        let before = best.0;
        for side in [by_rows, by_unroll, by_lanes] {
            // Few registers: few units under way.
            for tuning in side(best.0).into_iter().filter(|t| t.unroll * t.rows <= MOST_UNITS) {
                if !tried.contains(&tuning) {
                    tried.push(tuning);
                    let seconds = time(tuning)?;
                    if seconds < best.1 {
                        best = (tuning, seconds);
                    }
                }
            }
        }
        if best.0 == before {
            break;
        }
    }
    Ok(best)
}

fn by_rows(t: Tuning) -> Vec<Tuning> {
    [1, 2, 4, 8].map(|rows| Tuning { rows, ..t }).to_vec()
}

fn by_unroll(t: Tuning) -> Vec<Tuning> {
    [(1, false), (2, false), (4, false), (2, true), (4, true), (8, true)]
        .map(|(unroll, neighbours)| Tuning { unroll, neighbours, ..t })
        .to_vec()
}

fn by_lanes(t: Tuning) -> Vec<Tuning> {
    [(64, 16), (64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 32), (256, 64), (256, 256)]
        .map(|(workgroup, lanes)| Tuning { workgroup, lanes, ..t })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_rows_take_one_turn_and_long_ones_long_runs() {
        let of = |bytes, math, rows, units| {
            let t = gemv_tuning(math, 32, Some(bytes), rows, units);
            (t.workgroup, t.lanes, t.rows)
        };
        let shape = |math, rows, units| of(18, math, rows, units);
        // Columns: 576, 1536, 4096, 28672.
        assert_eq!(shape(Math::I8, 1536, 18), (64, 32, 1));
        assert_eq!(shape(Math::F16, 576, 48), (64, 64, 1));
        assert_eq!(shape(Math::I8, 4096, 128), (64, 64, 2));
        assert_eq!(shape(Math::I8, 8192, 896), (128, 128, 1));
        assert_eq!(shape(Math::I24, 8192, 896), (128, 128, 2));
        assert_eq!(shape(Math::F32, 8192, 896), (128, 128, 4));
        assert_eq!(shape(Math::F16, 4096, 128), (64, 64, 2));
        assert_eq!(shape(Math::I8, 7, 1), (64, 8, 1));
        // Units of fewer and of more bytes: INT2, INT3, Q8.
        assert_eq!(of(12, Math::I8, 8192, 896), (64, 64, 4));
        assert_eq!(of(14, Math::I24, 8192, 896), (128, 128, 4));
        assert_eq!(of(34, Math::F16, 8192, 896), (128, 128, 2));
        assert_eq!(of(34, Math::I8, 8192, 896), (128, 128, 1));
    }

    #[test]
    fn tunings_are_read_as_they_are_printed() {
        let tuning = Tuning { workgroup: 128, lanes: 32, rows: 3, unroll: 2, neighbours: true };
        for tuning in [tuning, Tuning { neighbours: false, ..tuning }] {
            assert_eq!(tuning.to_string().parse(), Ok(tuning));
        }
        for wrong in [
            "",
            "wg64",
            "wg32 lanes32 rows1 unroll1",
            "wg64 lanes24 rows1 unroll1",
            "wg64 lanes64 rows8 unroll8",
        ] {
            assert!(wrong.parse::<Tuning>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_climb_finds_the_best_shape() {
        let best = Tuning { workgroup: 256, lanes: 64, rows: 2, unroll: 8, neighbours: true };
        let off = |a: u32, b: u32| f64::from(a.max(b)) / f64::from(a.min(b));
        let time = |t: Tuning| {
            assert!(t.unroll * t.rows <= MOST_UNITS && t.lanes <= t.workgroup, "{t}");
            let apart = if t.neighbours == best.neighbours { 0.0 } else { 1.0 };
            Ok::<_, ()>(
                off(t.workgroup, best.workgroup)
                    + off(t.lanes, best.lanes)
                    + off(t.rows, best.rows)
                    + off(t.unroll, best.unroll)
                    + apart,
            )
        };
        let start = gemv_tuning(Math::I8, 32, Some(18), 8192, 896);
        assert_eq!(climb(start, time), Ok((best, 4.0)));
    }
}
