//! What the integer codecs' geometry cannot say: finite scales, and zeros
//! wherever nothing is stored.

use super::codes::{self, BLOCK};
use super::layout::{Layout, SUPERBLOCK};
use super::plain::ScaleFormat;
use crate::codec::check::{finite_scales, padding, payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::{CodecId, Plane};

/// The stable codes of a codec's findings.
struct Findings {
    tail_code: &'static str,
    not_finite: &'static str,
    scale_padding: &'static str,
}

const fn findings(bits: u32) -> Findings {
    match bits {
        2 => Findings {
            tail_code: "int2-tail-code",
            not_finite: "int2-scale-not-finite",
            scale_padding: "int2-scale-padding",
        },
        3 => Findings {
            tail_code: "int3-tail-code",
            not_finite: "int3-scale-not-finite",
            scale_padding: "int3-scale-padding",
        },
        _ => Findings {
            tail_code: "int4-tail-code",
            not_finite: "int4-scale-not-finite",
            scale_padding: "int4-scale-padding",
        },
    }
}

/// The first violation.
pub(super) fn check(bits: u32, id: CodecId, tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = payload(id, tensor)?;
    let [codes, scales, ..] = geometry.planes;
    let cols = tensor.matrix.cols;
    for row in 0..tensor.matrix.rows {
        tail_codes(bits, tensor.data, codes.offset + row * codes.row_stride, cols)?;
    }
    padding(tensor, &geometry)?;
    for row in 0..tensor.matrix.rows {
        let start = scales.offset + row * scales.row_stride;
        row_scales(bits, Layout::of(bits, tensor.params), tensor.data, start, scales, cols)?;
    }
    Ok(())
}

/// Codes past the row's last weight must be 0.
fn tail_codes(bits: u32, data: &[u8], row_start: u64, cols: u64) -> Result<(), Violation> {
    let used = (cols % BLOCK as u64) as usize;
    if used == 0 {
        return Ok(());
    }
    let blocks = cols.div_ceil(BLOCK as u64) as usize;
    for (field_bits, before) in codes::planes(bits, blocks) {
        let width = 4 * field_bits as usize;
        let start = row_start + (before + (blocks - 1) * width) as u64;
        for (j, &byte) in slice(data, start, start + width as u64).iter().enumerate() {
            // Weight j + width f is field f: those below `used` may be anything.
            let fields = used.saturating_sub(j).div_ceil(width);
            let past = u32::from(byte) >> (fields * field_bits as usize);
            if past != 0 {
                return Err(Violation {
                    offset: start + j as u64,
                    code: findings(bits).tail_code,
                    message: format!(
                        "byte {byte:#04x} holds a code past the row's {cols} weights, must be 0"
                    ),
                });
            }
        }
    }
    Ok(())
}

fn row_scales(
    bits: u32,
    layout: Layout,
    data: &[u8],
    start: u64,
    plane: Plane,
    cols: u64,
) -> Result<(), Violation> {
    let code = findings(bits).not_finite;
    let row = slice(data, start, start + plane.row_stride);
    let (group, entry_bits) = match layout {
        Layout::Plain { format, .. } => {
            let size = if format == ScaleFormat::F16 { 2 } else { 4 };
            return finite_scales(code, row, size, start);
        }
        Layout::Compact(_) => (32, 12),
        Layout::Fine(_) => (16, 6),
    };
    for (i, stored) in row.chunks(16).enumerate() {
        let at = start + 16 * i as u64;
        finite_scales(code, stored.get(..4).unwrap_or_default(), 2, at)?;
        let weights = (cols - (i * SUPERBLOCK) as u64).min(SUPERBLOCK as u64);
        let groups = weights.div_ceil(group) as usize;
        unused_bits(findings(bits).scale_padding, stored, groups, 32 + entry_bits * groups, at)?;
    }
    Ok(())
}

/// Bits after the last group's must be 0.
fn unused_bits(
    code: &'static str,
    stored: &[u8],
    groups: usize,
    used: usize,
    start: u64,
) -> Result<(), Violation> {
    for (j, byte) in stored.iter().enumerate().skip(used / 8) {
        let kept = if j == used / 8 { used % 8 } else { 0 };
        if byte >> kept != 0 {
            return Err(Violation {
                offset: start + j as u64,
                code,
                message: format!(
                    "byte {byte:#04x} has bits after the superblock's {groups} groups, must be 0"
                ),
            });
        }
    }
    Ok(())
}
