//! The feedback of a calibration, in rotated columns.

use super::form::Form;
use super::rotation::Rotation;
use crate::codec::InputMoments;
use crate::codec::ldlq::{Feedback, WIDTH};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

/// What a factor is of: moments by content, and the rotation.
type Key = ([u8; 32], (u64, u8));

/// The factor made last: query, key and value follow one another with the same
/// moments, and so do gate and up.
static LAST: Mutex<Option<(Key, Arc<Feedback>)>> = Mutex::new(None);

/// The feedback of `moments` under the rotation of `form`; `None` if they show
/// no input at all, or are no moments.
pub(super) fn feedback(moments: &InputMoments, form: Form, rotation: &Rotation) -> Option<Arc<Feedback>> {
    let key = (digest(moments), form.rotation_key());
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, factor)) = last().as_ref().filter(|(of, _)| *of == key) {
        return Some(Arc::clone(factor));
    }
    // The old one's memory is returned before the new one is made.
    *last() = None;
    let factor = Arc::new(Feedback::new(rotated(moments, rotation), rotation.cols(), WIDTH)?);
    *last() = Some((key, Arc::clone(&factor)));
    Some(factor)
}

fn digest(moments: &InputMoments) -> [u8; 32] {
    let mut hasher = Sha256::new();
    // The Hessian's diagonal is the importance.
    for chunk in moments.hessian().unwrap_or(&moments.importance).chunks(1024) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

/// `R H R^T`, where H is the importance's diagonal matrix if no more is known.
fn rotated(moments: &InputMoments, rotation: &Rotation) -> Vec<f64> {
    let cols = rotation.cols();
    let mut h = vec![0.0; cols * cols];
    h.par_chunks_mut(cols).enumerate().for_each(|(i, row)| {
        match moments.hessian() {
            Some(h) => {
                for (to, from) in row.iter_mut().zip(&h[i * cols..]) {
                    *to = f64::from(*from);
                }
            }
            None => row[i] = f64::from(moments.importance[i]),
        }
        rotation.forward_f64(row);
    });
    // H is symmetric, so these rows' transpose is R H, and rotating its rows
    // completes R H R^T.
    for i in 0..cols {
        for j in 0..i {
            h.swap(i * cols + j, j * cols + i);
        }
    }
    h.par_chunks_mut(cols).for_each(|row| rotation.forward_f64(row));
    h
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sqint2::form::{Coding, Scales};
    use crate::codec::testing::gaussian;

    #[test]
    fn moments_are_rotated_on_both_sides() {
        let cols = 24;
        let rotation = Rotation::new(cols, 4, 3);
        let a = gaussian(cols * cols, 1);
        let product =
            |i: usize, j: usize| -> f32 { (0..cols).map(|p| a[i * cols + p] * a[j * cols + p]).sum() };
        let hessian: Vec<f32> = (0..cols * cols).map(|at| product(at / cols, at % cols)).collect();
        let importance: Vec<f32> = hessian.iter().step_by(cols + 1).copied().collect();
        let h = rotated(&InputMoments { importance, hessian: hessian.clone() }, &rotation);
        // x^T H y is the same in either basis.
        let (mut x, mut y) = (gaussian(cols, 2), gaussian(cols, 3));
        let form = |x: &[f32], y: &[f32], h: &dyn Fn(usize) -> f64| -> f64 {
            (0..cols * cols).map(|at| f64::from(x[at / cols]) * h(at) * f64::from(y[at % cols])).sum()
        };
        let plain = form(&x, &y, &|at| f64::from(hessian[at]));
        rotation.forward(&mut x);
        rotation.forward(&mut y);
        let turned = form(&x, &y, &|at| h[at]);
        assert!((plain - turned).abs() < 1e-3 * plain.abs().max(1.0), "{plain} {turned}");
    }

    #[test]
    fn other_moments_and_other_rotations_have_other_factors() {
        let cols = 16;
        let moments = |seed| {
            let importance = gaussian(cols, seed).iter().map(|v| v * v).collect();
            InputMoments { importance, hessian: Vec::new() }
        };
        let form = Form::new(cols as u64, Coding::trellis(16, 8), Scales::Byte(1.0));
        let mut other = form;
        other.seed = 1;
        let factor = |seed, form: Form| feedback(&moments(seed), form, &form.rotation(cols)).unwrap();
        let one = factor(1, form);
        assert!(!Arc::ptr_eq(&one, &factor(2, form)));
        assert!(!Arc::ptr_eq(&factor(2, form), &factor(2, other)));
    }
}
