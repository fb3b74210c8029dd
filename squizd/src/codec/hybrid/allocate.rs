//! Rates of tiles under a budget.
//!
//! A tile (16 rows by 64 columns) at rate `r` costs `units(r)` per row and
//! makes an error `e(r)`. Of the five points (cost, error) only those on the
//! lower convex hull can be optimal for any exchange rate between bits and
//! error; the hull's steps of all tiles, taken in order of error saved per unit,
//! are the Lagrangian solutions for all budgets, so one sort gives both the
//! allocation and the whole rate-distortion curve. The step that no longer fits
//! is passed over for later ones that do, which is all that remains of the
//! budget's discreteness.

use squizd_spec::hybrid_layout::UNITS;

/// Rates.
pub(super) const RATES: usize = UNITS.len();

/// A tile's errors at each rate, and its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    pub(super) errors: [f64; RATES],
    pub(super) rows: u64,
}

/// One step on a tile's hull.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Error saved per unit.
    slope: f64,
    tile: u32,
    from: u8,
    to: u8,
}

impl Step {
    fn cost(&self, tile: &Tile) -> u64 {
        (UNITS[usize::from(self.to)] - UNITS[usize::from(self.from)]) * tile.rows
    }

    fn saved(&self, tile: &Tile) -> f64 {
        tile.errors[usize::from(self.from)] - tile.errors[usize::from(self.to)]
    }
}

/// The steps of all tiles, the most worthwhile first; ties in order of tiles.
fn steps(tiles: &[Tile]) -> Vec<Step> {
    let mut steps = Vec::with_capacity(2 * tiles.len());
    for (index, tile) in tiles.iter().enumerate() {
        let slope = |from: usize, to: usize| {
            (tile.errors[from] - tile.errors[to]) / ((UNITS[to] - UNITS[from]) * tile.rows.max(1)) as f64
        };
        let mut from = 0;
        while from + 1 < RATES {
            // The next point of the hull: the steepest way down, the farthest of equals.
            let to = (from + 1..RATES)
                .fold(from + 1, |best, to| if slope(from, to) >= slope(from, best) { to } else { best });
            if slope(from, to) <= 0.0 {
                break;
            }
            steps.push(Step { slope: slope(from, to), tile: index as u32, from: from as u8, to: to as u8 });
            from = to;
        }
    }
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope));
    steps
}

/// The rate of each tile that makes the least error in at most `budget` units,
/// two bits everywhere if that is more.
pub(super) fn least_error(tiles: &[Tile], budget: u64) -> Vec<u8> {
    let mut rates = vec![0; tiles.len()];
    let mut left = budget.saturating_sub(tiles.iter().map(|t| UNITS[0] * t.rows).sum());
    for step in steps(tiles) {
        let index = step.tile as usize;
        let (Some(tile), Some(rate)) = (tiles.get(index), rates.get_mut(index)) else { continue };
        // A tile whose earlier step did not fit stays where it is.
        if *rate == step.from && step.cost(tile) <= left {
            *rate = step.to;
            left -= step.cost(tile);
        }
    }
    rates
}

/// The source documents' rule: 4 bits for the `share` of tiles with the
/// largest `variances`, 2 bits for the others.
pub(super) fn by_variance(variances: &[f64], share: f64) -> Vec<u8> {
    let mut order: Vec<usize> = (0..variances.len()).collect();
    order.sort_by(|a, b| variances[*b].total_cmp(&variances[*a]));
    let mut rates = vec![0; variances.len()];
    for index in order.into_iter().take((variances.len() as f64 * share).round() as usize) {
        rates[index] = 2;
    }
    rates
}

/// Units and error after every step, from two bits everywhere on.
pub(super) fn curve(tiles: &[Tile]) -> impl Iterator<Item = (u64, f64)> {
    let start = (
        tiles.iter().map(|t| UNITS[0] * t.rows).sum::<u64>(),
        tiles.iter().map(|t| t.errors[0]).sum::<f64>(),
    );
    let taken = steps(tiles).into_iter().scan(start, |(units, error), step| {
        let tile = tiles.get(step.tile as usize)?;
        *units += step.cost(tile);
        *error -= step.saved(tile);
        Some((*units, *error))
    });
    std::iter::once(start).chain(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(scale: f64) -> Tile {
        Tile { errors: [64.0, 16.0, 4.0, 1.0, 0.0].map(|e| e * scale), rows: 16 }
    }

    #[test]
    fn the_budget_is_used_up_and_not_exceeded() {
        let tiles: Vec<_> = (1..100).map(|i| tile(f64::from(i * i))).collect();
        for budget in [0, 99 * 16 * 2, 99 * 16 * 2 + 15, 4000, 5000, 7777, 99 * 16 * 16, u64::MAX] {
            let rates = least_error(&tiles, budget);
            let units: u64 = rates.iter().map(|r| UNITS[usize::from(*r)] * 16).sum();
            assert!(units <= budget.max(99 * 32));
            assert!(units + 16 > budget.min(99 * 256), "{budget}: {units}");
            // Larger errors never get fewer bits.
            assert!(rates.is_sorted(), "{rates:?}");
        }
    }

    #[test]
    fn an_exhaustive_search_finds_nothing_better_at_the_hull() {
        let tiles = [tile(1.0), tile(3.0), Tile { errors: [50.0, 49.0, 2.0, 1.9, 0.0], rows: 3 }];
        for (budget, error) in curve(&tiles) {
            let mut best = f64::MAX;
            for code in 0..RATES.pow(3) {
                let rates = [code % 5, code / 5 % 5, code / 25];
                let of = |f: &dyn Fn(&Tile, usize) -> f64| -> f64 {
                    tiles.iter().zip(rates).map(|(t, r)| f(t, r)).sum()
                };
                if of(&|t, r| (UNITS[r] * t.rows) as f64) <= budget as f64 {
                    best = best.min(of(&|t, r| t.errors[r]));
                }
            }
            assert!((error - best).abs() < 1e-9, "{budget}: {error} {best}");
            let rates = least_error(&tiles, budget);
            let reached: f64 = tiles.iter().zip(&rates).map(|(t, r)| t.errors[usize::from(*r)]).sum();
            assert!((reached - best).abs() < 1e-9);
        }
    }

    #[test]
    fn nothing_is_spent_on_what_saves_nothing() {
        let tiles = [Tile { errors: [0.0; RATES], rows: 16 }, tile(1.0)];
        assert_eq!(least_error(&tiles, u64::MAX), [0, 4]);
    }

    #[test]
    fn variance_picks_its_share() {
        assert_eq!(by_variance(&[1.0, 4.0, 2.0, 3.0], 0.75), [0, 2, 2, 2]);
        assert_eq!(by_variance(&[], 0.75), [0; 0]);
    }
}
