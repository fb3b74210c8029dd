//! Moments read once for all tensors with one input.

use super::{Calibration, input_of};
use crate::{Result, codec::InputMoments, source::TensorInfo};
use std::sync::{Arc, Mutex, PoisonError};

/// Moments that several tensors share.
pub type Moments = Arc<[InputMoments]>;

/// Keeps the moments last asked for, until others are.
pub struct Shared<'a> {
    calibration: &'a dyn Calibration,
    last: Mutex<Option<(String, Option<Moments>)>>,
}

impl<'a> Shared<'a> {
    /// Nothing read yet.
    pub fn new(calibration: &'a dyn Calibration) -> Self {
        Self { calibration, last: Mutex::default() }
    }

    /// As [`Calibration::moments`]. Drop the last tensor's before asking for
    /// the next, so that only one input's are in memory.
    ///
    /// # Errors
    /// As [`Calibration::moments`].
    pub fn moments(&self, tensor: &TensorInfo) -> Result<Option<Moments>> {
        let Some(input) = input_of(tensor) else { return Ok(None) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, moments)) = last.as_ref()
            && *name == input
        {
            return Ok(moments.clone());
        }
        // The old ones go before the new ones come.
        *last = None;
        let moments = self.calibration.moments(tensor)?.map(Moments::from);
        *last = Some((input, moments.clone()));
        Ok(moments)
    }
}
