//! What SQINT2's geometry cannot say.

use super::form::{Coding, Form, Scales};
use super::levels;
use crate::codec::check::{padding, payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::CodecId;

/// The first violation. A trellis's tiles have no illegal bits: what lies past a
/// ragged edge takes part in its neighbours' windows.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = payload(CodecId::SQINT2, tensor)?;
    let [scales, codes, ..] = geometry.planes;
    padding(tensor, &geometry)?;
    let form = Form::of(tensor.params);
    if form.scales == Scales::Single {
        let stored = slice(tensor.data, 0, tensor.matrix.rows * scales.row_stride);
        for (i, stored) in stored.as_chunks::<4>().0.iter().enumerate() {
            let scale = f32::from_le_bytes(*stored);
            // A zero's sign would be a second encoding of the same weights.
            if !scale.is_finite() || scale.is_sign_negative() {
                return Err(Violation {
                    offset: 4 * i as u64,
                    code: "sqint2-scale",
                    message: format!("scale {i} is {scale}, must be finite and not negative"),
                });
            }
        }
    }
    if form.coding == Coding::Levels {
        for row in 0..tensor.matrix.rows {
            let start = codes.offset + row * codes.row_stride;
            let stored = slice(tensor.data, start, start + codes.row_stride);
            if let Some((at, byte)) = levels::past_the_end(stored, tensor.matrix.cols as usize) {
                return Err(Violation {
                    offset: start + at as u64,
                    code: "sqint2-tail-code",
                    message: format!(
                        "byte {byte:#04x} holds a code past the row's {} weights, must be 0",
                        tensor.matrix.cols
                    ),
                });
            }
        }
    }
    Ok(())
}
