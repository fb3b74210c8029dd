//! Checks of stored payloads that several codecs share.

use super::{Encoded, Violation};
use squizd_spec::{CodecId, Geometry, Plane};

/// Geometry of a stored tensor whose payload has the right length.
pub(super) fn payload(id: CodecId, tensor: &Encoded<'_>) -> Result<Geometry, Violation> {
    let Encoded { matrix, params, data, .. } = *tensor;
    let geometry = id.geometry(matrix, params).map_err(|e| Violation {
        offset: 0,
        code: "codec-params",
        message: format!("{id} parameters: {e:?}"),
    })?;
    if geometry.length.allows(data.len() as u64) {
        Ok(geometry)
    } else {
        Err(Violation {
            offset: 0,
            code: "payload-length",
            message: format!("payload is {} bytes, must be {}", data.len(), geometry.length.max()),
        })
    }
}

/// Refuses a non-zero byte between planes.
pub(super) fn padding(tensor: &Encoded<'_>, geometry: &Geometry) -> Result<(), Violation> {
    let end = |p: &Plane| p.offset + p.row_stride * tensor.matrix.rows;
    let planes = geometry.planes.iter().take(geometry.plane_count);
    for (plane, next) in planes.clone().zip(planes.skip(1)) {
        let (start, bytes) = (end(plane), slice(tensor.data, end(plane), next.offset));
        if let Some((i, b)) = bytes.iter().enumerate().find(|(_, b)| **b != 0) {
            return Err(Violation {
                offset: start + i as u64,
                code: "payload-padding",
                message: format!("padding byte is {b:#04x}, must be 0"),
            });
        }
    }
    Ok(())
}

/// `data[start..end]`, empty where it does not exist.
pub(super) fn slice(data: &[u8], start: u64, end: u64) -> &[u8] {
    data.get(start as usize..end as usize).unwrap_or_default()
}

/// Refuses scales that are not finite: `size` is 2 (f16) or 4 (f32) bytes, of
/// which `bytes`, at `offset` of the payload, holds a whole number.
pub(super) fn finite_scales(
    code: &'static str,
    bytes: &[u8],
    size: usize,
    offset: u64,
) -> Result<(), Violation> {
    for (i, scale) in bytes.chunks_exact(size).enumerate() {
        let special = match *scale {
            [_, high] => high & 0x7c == 0x7c,
            [.., c, d] => d & 0x7f == 0x7f && c & 0x80 == 0x80,
            _ => false,
        };
        if special {
            return Err(Violation {
                offset: offset + (i * size) as u64,
                code,
                message: format!("scale bytes {scale:02x?} are not finite"),
            });
        }
    }
    Ok(())
}
