//! What SQINT2's geometry cannot say.

use super::form::{Form, Scales};
use crate::codec::check::{padding, payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::CodecId;

/// The first violation.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = payload(CodecId::SQINT2, tensor)?;
    padding(tensor, &geometry)?;
    let Form { scales, .. } = Form::of(tensor.params);
    if scales != Scales::Single {
        return Ok(());
    }
    let end = tensor.matrix.rows * geometry.planes[0].row_stride;
    for (row, stored) in slice(tensor.data, 0, end).as_chunks::<4>().0.iter().enumerate() {
        let scale = f32::from_le_bytes(*stored);
        // A zero's sign would be a second encoding of the same row.
        if !scale.is_finite() || scale.is_sign_negative() {
            return Err(Violation {
                offset: 4 * row as u64,
                code: "sqint2-scale",
                message: format!("scale of row {row} is {scale}, must be finite and not negative"),
            });
        }
    }
    Ok(())
}
