//! What calibration says of a tensor's inputs, for encoders that can use it.

use std::ops::Range;

/// Second moments of one linear layer's input, from calibration.
///
/// With inputs `x`, the expected squared error of the layer's output is
/// `tr(E H E^T)` for the weight error `E` and `H = E[x x^T]`. Encoders weigh
/// errors by `H`'s diagonal (importance) or compensate rounding errors with all
/// of `H` (LDLQ, GPTQ).
#[derive(Clone, Debug, PartialEq)]
pub struct InputMoments {
    /// Mean square of each input channel, `[cols]`; all finite, none negative.
    pub importance: Vec<f32>,
    /// All of `H`, row-major `[cols, cols]`, symmetric; empty where only the
    /// diagonal is known.
    pub hessian: Vec<f32>,
}

impl InputMoments {
    /// `H`, if all of it is known.
    pub fn hessian(&self) -> Option<&[f32]> {
        (!self.hessian.is_empty()).then_some(&self.hessian)
    }
}

/// Input moments of a tensor's rows: one set for all, or one for each of the
/// equal parts of an expert stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guide<'a> {
    parts: &'a [&'a InputMoments],
    rows_per_part: u64,
}

impl<'a> Guide<'a> {
    /// Nothing is known.
    pub const NONE: Guide<'static> = Guide { parts: &[], rows_per_part: 0 };

    /// `parts.len()` equal parts of `rows` rows of `cols` columns in order.
    /// `None` where the sizes do not go together.
    pub fn new(parts: &'a [&'a InputMoments], rows: u64, cols: u64) -> Option<Self> {
        let count = parts.len() as u64;
        let square = cols.checked_mul(cols)?;
        let fits = |p: &&InputMoments| {
            p.importance.len() as u64 == cols && (p.hessian.is_empty() || p.hessian.len() as u64 == square)
        };
        (count > 0 && rows.is_multiple_of(count) && parts.iter().all(fits))
            .then(|| Self { parts, rows_per_part: (rows / count).max(1) })
    }

    /// Whether anything is known.
    pub fn is_some(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The moments that belong to `row`.
    pub fn at(&self, row: u64) -> Option<&'a InputMoments> {
        let part = row.checked_div(self.rows_per_part)?;
        self.parts.get(usize::try_from(part).ok()?).copied()
    }

    /// `rows` cut where the moments change.
    pub fn split(self, rows: Range<u64>) -> impl Iterator<Item = (Range<u64>, Option<&'a InputMoments>)> {
        let mut start = rows.start;
        std::iter::from_fn(move || {
            if start >= rows.end {
                return None;
            }
            let boundary =
                start.checked_div(self.rows_per_part).map_or(rows.end, |p| (p + 1) * self.rows_per_part);
            let range = start..boundary.min(rows.end);
            start = range.end;
            Some((range.clone(), self.at(range.start)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(cols: usize, value: f32) -> InputMoments {
        InputMoments { importance: vec![value; cols], hessian: Vec::new() }
    }

    #[test]
    fn parts_cut_ranges_where_experts_end() {
        let (a, b) = (moments(3, 1.0), moments(3, 2.0));
        let parts = [&a, &b];
        let guide = Guide::new(&parts, 8, 3).unwrap();
        let cut: Vec<_> = guide.split(2..7).map(|(r, m)| (r, m.unwrap().importance[0] as i32)).collect();
        assert_eq!(cut, [(2..4, 1), (4..7, 2)]);
        assert!(guide.at(8).is_none());
        let none: Vec<_> = Guide::NONE.split(2..7).collect();
        assert_eq!(none, [(2..7, None)]);
    }

    #[test]
    fn sizes_must_go_together() {
        let a = moments(3, 1.0);
        assert!(Guide::new(&[&a], 8, 4).is_none());
        assert!(Guide::new(&[&a, &a, &a], 8, 3).is_none());
        let bad = InputMoments { hessian: vec![0.0; 8], ..moments(3, 1.0) };
        assert!(Guide::new(&[&bad], 8, 3).is_none());
    }
}
