//! Moments read once for all tensors with one input.

use super::{Calibration, input_of};
use crate::{Result, codec::InputMoments, source::TensorInfo};
use squizd_spec::Role;
use std::sync::{Arc, Mutex, PoisonError};

/// Moments that several tensors share.
pub type Moments = Arc<[InputMoments]>;

/// Keeps the moments last asked for, until others are.
pub struct Shared<'a> {
    calibration: &'a dyn Calibration,
    tied: bool,
    last: Mutex<Option<(String, Option<Moments>)>>,
}

impl<'a> Shared<'a> {
    /// Nothing read yet. `tied` says whether the model's embedding is its head.
    pub fn new(calibration: &'a dyn Calibration, tied: bool) -> Self {
        Self { calibration, tied, last: Mutex::default() }
    }

    /// As [`Calibration::moments`]. Drop the last tensor's before asking for
    /// the next, so that only one input's are in memory.
    ///
    /// # Errors
    /// As [`Calibration::moments`].
    pub fn moments(&self, tensor: &TensorInfo) -> Result<Option<Moments>> {
        let Some(mut input) = input_of(tensor) else { return Ok(None) };
        let embedding = tensor.role == Role::TOKEN_EMBD;
        if embedding {
            if !self.tied {
                return Ok(None);
            }
            input.push_str(" of the embedding");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, moments)) = last.as_ref()
            && *name == input
        {
            return Ok(moments.clone());
        }
        // The old ones go before the new ones come.
        *last = None;
        let mut moments = self.calibration.moments(tensor)?;
        if embedding {
            moments.iter_mut().flatten().for_each(soften);
        }
        let moments = moments.map(Moments::from);
        *last = Some((input, moments.clone()));
        Ok(moments)
    }
}

/// Share of a tied embedding's reach that its use as a table has (measured:
/// docs/results/sensitivity.md).
const TABLE: f32 = 0.25;

/// An embedding that is also the head is read in two ways: as a matrix times
/// the head's input, and row by row, where each channel counts the same and no
/// error takes back another. Its moments are the mean of the head's and of
/// equal, independent channels, by the share of each use.
fn soften(moments: &mut InputMoments) {
    let cols = moments.importance.len().max(1);
    let equal = TABLE * moments.importance.iter().sum::<f32>() / cols as f32;
    moments.importance.iter_mut().for_each(|h| *h = (1.0 - TABLE) * *h + equal);
    moments.hessian.iter_mut().for_each(|h| *h *= 1.0 - TABLE);
    moments.hessian.iter_mut().step_by(cols + 1).for_each(|h| *h += equal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{TensorSource, testing::MemorySource};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Calibration for Counted {
        fn moments(&self, _: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Some(vec![InputMoments { importance: vec![1.0, 3.0], hessian: vec![1.0, 0.5, 0.5, 3.0] }]))
        }

        fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
    }

    #[test]
    fn inputs_are_read_once_and_embeddings_only_where_they_are_the_head() {
        let mut source = MemorySource::new(serde_json::json!({}));
        for (role, layer) in [
            (Role::ATTN_Q, Some(0)),
            (Role::ATTN_K, Some(0)),
            (Role::ATTN_V, Some(1)),
            (Role::TOKEN_EMBD, None),
            (Role::OUTPUT, None),
        ] {
            source.add_gaussian(role, layer, &[4, 2]);
        }
        for tied in [true, false] {
            let counted = Counted::default();
            let shared = Shared::new(&counted, tied);
            let moments: Vec<_> = source.tensors().iter().map(|t| shared.moments(t).unwrap()).collect();
            assert_eq!(counted.0.load(Ordering::Relaxed), 3 + usize::from(tied));
            assert_eq!(moments[0], moments[1]);
            assert_eq!(moments[4].as_ref().unwrap()[0].hessian.len(), 4);
            let embedding = moments[3].as_ref().map(|m| m[0].clone());
            let softened =
                InputMoments { importance: vec![1.25, 2.75], hessian: vec![1.25, 0.375, 0.375, 2.75] };
            assert_eq!(embedding, tied.then_some(softened));
        }
    }
}
