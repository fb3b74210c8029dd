//! What INT4's geometry cannot say: finite scales, and zeros wherever nothing
//! is stored.

use super::compact::SUPERBLOCK;
use super::{Layout, ScaleFormat};
use crate::codec::check::{finite_scales, padding, payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::{CodecId, Plane};

/// The first violation.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = payload(CodecId::INT4, tensor)?;
    let [codes, scales, ..] = geometry.planes;
    let cols = tensor.matrix.cols;
    for row in 0..tensor.matrix.rows {
        tail_codes(tensor.data, codes.offset + row * codes.row_stride, cols)?;
    }
    padding(tensor, &geometry)?;
    for row in 0..tensor.matrix.rows {
        let start = scales.offset + row * scales.row_stride;
        row_scales(Layout::of(tensor.params), tensor.data, start, scales, cols)?;
    }
    Ok(())
}

/// Codes past the row's last weight must be 0.
fn tail_codes(data: &[u8], row_start: u64, cols: u64) -> Result<(), Violation> {
    let used = (cols % 32) as usize;
    if used == 0 {
        return Ok(());
    }
    let start = row_start + cols / 32 * 16;
    for (j, byte) in slice(data, start, start + 16).iter().enumerate() {
        let low = if j < used { 0 } else { byte & 15 };
        let high = if j + 16 < used { 0 } else { byte >> 4 };
        if low | high != 0 {
            return Err(Violation {
                offset: start + j as u64,
                code: "int4-tail-code",
                message: format!("byte {byte:#04x} holds a code past the row's {cols} weights, must be 0"),
            });
        }
    }
    Ok(())
}

fn row_scales(layout: Layout, data: &[u8], start: u64, plane: Plane, cols: u64) -> Result<(), Violation> {
    const CODE: &str = "int4-scale-not-finite";
    let row = slice(data, start, start + plane.row_stride);
    match layout {
        Layout::Plain { format, .. } => {
            let size = if format == ScaleFormat::F16 { 2 } else { 4 };
            finite_scales(CODE, row, size, start)
        }
        Layout::Compact(_) => {
            for (i, stored) in row.chunks(16).enumerate() {
                let at = start + 16 * i as u64;
                finite_scales(CODE, stored.get(..4).unwrap_or_default(), 2, at)?;
                let weights = (cols - (i * SUPERBLOCK) as u64).min(SUPERBLOCK as u64);
                unused_bits(stored, weights.div_ceil(32) as usize, at)?;
            }
            Ok(())
        }
    }
}

/// Bits after the last group's 12 must be 0.
fn unused_bits(stored: &[u8], groups: usize, start: u64) -> Result<(), Violation> {
    let used = 32 + 12 * groups;
    for (j, byte) in stored.iter().enumerate().skip(used / 8) {
        let kept = if j == used / 8 { used % 8 } else { 0 };
        if byte >> kept != 0 {
            return Err(Violation {
                offset: start + j as u64,
                code: "int4-scale-padding",
                message: format!(
                    "byte {byte:#04x} has bits after the superblock's {groups} groups, must be 0"
                ),
            });
        }
    }
    Ok(())
}
