//! The multiple-choice knapsack by convex hulls.
//!
//! Of each item's options only those on the lower convex hull of cost over
//! bytes can be best for some price of a byte. Going from every item's cheapest
//! option along the hulls in the order of the cost saved per byte is optimal
//! for every budget that the path hits exactly; a last pass spends what is left
//! on steps that still fit.

/// One way to store one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// What it takes of the budget.
    pub(super) bytes: u64,
    /// What it costs in quality, not negative.
    pub(super) cost: f64,
}

/// Indices of the options on the lower hull: bytes ascending, cost descending,
/// savings per byte descending.
fn lower_hull(options: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..options.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&options[*a], &options[*b]);
        a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost))
    });
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        let new = options[i];
        if hull.last().is_some_and(|last| options[*last].cost <= new.cost) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            if saving(options[a], options[b]) > saving(options[b], new) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// Cost saved per byte by going from `a` to the dearer `b`.
fn saving(a: Choice, b: Choice) -> f64 {
    (a.cost - b.cost) / (b.bytes - a.bytes).max(1) as f64
}

/// The option of each item, together within `budget`; `None` if even the
/// cheapest are not. Every item needs an option.
pub(super) fn solve(items: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|o| lower_hull(o)).collect();
    let mut at = vec![0usize; items.len()];
    let mut used = 0u64;
    for (options, hull) in items.iter().zip(&hulls) {
        used = used.checked_add(options.get(*hull.first()?)?.bytes)?;
    }
    if used > budget {
        return None;
    }
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (item, (options, hull)) in items.iter().zip(&hulls).enumerate() {
        for (step, pair) in hull.windows(2).enumerate() {
            if let [a, b] = *pair {
                steps.push((saving(options[a], options[b]), item, step));
            }
        }
    }
    // On a hull later steps save less, so that steps of one item keep their order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    for (_, item, step) in steps {
        let (options, hull) = (&items[item], &hulls[item]);
        let grown = used - options[hull[at[item]]].bytes + options[hull[step + 1]].bytes;
        // A step that does not fit may be jumped over by none of its item's
        // later ones, which are larger still.
        if at[item] == step && grown <= budget {
            at[item] = step + 1;
            used = grown;
        }
    }
    Some(at.iter().zip(&hulls).map(|(at, hull)| hull[*at]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choice(bytes: u64, cost: f64) -> Choice {
        Choice { bytes, cost }
    }

    #[test]
    fn hulls_leave_out_what_no_price_prefers() {
        let options =
            [choice(4, 1.0), choice(1, 8.0), choice(2, 7.0), choice(3, 2.0), choice(3, 3.0), choice(9, 1.0)];
        assert_eq!(lower_hull(&options), [1, 3, 0]);
        assert_eq!(lower_hull(&[choice(5, 1.0)]), [0]);
        assert!(lower_hull(&[]).is_empty());
    }

    #[test]
    fn budgets_are_kept() {
        let items =
            vec![vec![choice(2, 5.0), choice(4, 1.0)], vec![choice(3, 6.0), choice(6, 4.0), choice(10, 0.0)]];
        assert_eq!(solve(&items, 4), None);
        assert_eq!(solve(&items, 5), Some(vec![0, 0]));
        assert_eq!(solve(&items, 7), Some(vec![1, 0]));
        assert_eq!(solve(&items, 13), Some(vec![1, 0]), "the middle option is above the hull");
        assert_eq!(solve(&items, 14), Some(vec![1, 2]));
        assert_eq!(solve(&[], 0), Some(vec![]));
        assert_eq!(solve(&[vec![]], 9), None);
    }

    proptest! {
        /// Within the budget, never worse than all-cheapest, and no single step
        /// up a hull still fits.
        #[test]
        fn picks_are_feasible_and_maximal(
            items in prop::collection::vec(prop::collection::vec((1u64..50, 0u32..100), 1..6), 1..7),
            budget in 0u64..250,
        ) {
            let items: Vec<Vec<Choice>> =
                items.iter().map(|o| o.iter().map(|(b, c)| choice(*b, f64::from(*c))).collect()).collect();
            let least: u64 = items.iter().map(|o| o.iter().map(|c| c.bytes).min().unwrap()).sum();
            let Some(picks) = solve(&items, budget) else {
                prop_assert!(least > budget);
                return Ok(());
            };
            let used: u64 = items.iter().zip(&picks).map(|(o, p)| o[*p].bytes).sum();
            prop_assert!(used <= budget && least <= budget);
            for (options, pick) in items.iter().zip(&picks) {
                let hull = lower_hull(options);
                let at = hull.iter().position(|h| h == pick).unwrap();
                if let Some(next) = hull.get(at + 1) {
                    prop_assert!(used - options[*pick].bytes + options[*next].bytes > budget);
                }
            }
        }
    }
}
