//! The index and the pieces of a coded payload.

use super::pieces::{self, Method};
use super::planes::Element;
use crate::codec::Encoded;
use crate::{Error, Result};
use squizd_spec::{ZplanesShape, zp};
use std::ops::Range;

/// Bits of an index entry below the method.
pub(super) const END_BITS: u32 = 56;

/// A coded payload; its length is one that the geometry allows.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    name: &'a str,
    data: &'a [u8],
    rows: u64,
    cols: u64,
    pub(super) element: Element,
    pub(super) shape: ZplanesShape,
}

/// Something wrong with a payload: where, and what.
pub(super) struct Corrupt {
    pub(super) offset: u64,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl<'a> Payload<'a> {
    /// The payload of `tensor`, whose geometry has been checked; the last entry
    /// of the index must be its length.
    pub(super) fn of(tensor: &Encoded<'a>, element: Element) -> std::result::Result<Self, Corrupt> {
        let Encoded { name, matrix, data, .. } = *tensor;
        let shape = ZplanesShape::of(matrix, element.size as u64).ok_or_else(|| Corrupt {
            offset: 0,
            code: "codec-params",
            message: "sizes overflow".to_owned(),
        })?;
        let payload = Self { name, data, rows: matrix.rows, cols: matrix.cols, element, shape };
        let last = shape.chunks * shape.planes;
        let end = last.checked_sub(1).map_or(Ok((Method::Raw, shape.data)), |i| payload.entry(i))?.1;
        if end == data.len() as u64 {
            Ok(payload)
        } else {
            Err(Corrupt {
                offset: last.saturating_sub(1) * zp::ENTRY,
                code: "zplanes-index",
                message: format!("the last piece ends at {end}, the payload at {}", data.len()),
            })
        }
    }

    /// Method and end of piece `i`.
    fn entry(&self, i: u64) -> std::result::Result<(Method, u64), Corrupt> {
        let offset = i * zp::ENTRY;
        let bytes = self.data.get(offset as usize..).and_then(|d| d.first_chunk()).copied();
        let word = u64::from_le_bytes(bytes.unwrap_or([0xff; 8]));
        let method = Method::of((word >> END_BITS) as u8).ok_or_else(|| Corrupt {
            offset,
            code: "zplanes-index",
            message: format!("method is {}, allowed 0 to 2", word >> END_BITS),
        })?;
        Ok((method, word & ((1 << END_BITS) - 1)))
    }

    /// Method and place of piece `i`.
    pub(super) fn place(&self, i: u64) -> std::result::Result<(Method, Range<u64>), Corrupt> {
        let start = i.checked_sub(1).map_or(Ok((Method::Raw, self.shape.data)), |i| self.entry(i))?.1;
        let (method, end) = self.entry(i)?;
        if self.shape.data <= start && start < end && end <= self.data.len() as u64 {
            Ok((method, start..end))
        } else {
            Err(Corrupt {
                offset: i * zp::ENTRY,
                code: "zplanes-index",
                message: format!(
                    "a piece lies at {start}..{end}, pieces at {}..{}",
                    self.shape.data,
                    self.data.len()
                ),
            })
        }
    }

    /// Bytes of a place.
    pub(super) fn bytes(&self, place: &Range<u64>) -> &'a [u8] {
        self.data.get(place.start as usize..place.end as usize).unwrap_or_default()
    }

    /// Rows of a chunk.
    pub(super) fn rows_of(&self, chunk: u64) -> Range<u64> {
        let start = chunk.saturating_mul(self.shape.chunk_rows).min(self.rows);
        start..start.saturating_add(self.shape.chunk_rows).min(self.rows)
    }

    /// Decodes the planes of a chunk into `planes`; returns its elements.
    pub(super) fn chunk(&self, chunk: u64, planes: &mut Vec<u8>) -> std::result::Result<usize, Corrupt> {
        let rows = self.rows_of(chunk);
        let count = ((rows.end - rows.start) * self.cols) as usize;
        planes.resize(count * self.element.size, 0);
        for (p, plane) in (0..).zip(planes.chunks_exact_mut(count.max(1))) {
            let (method, place) = self.place(chunk * self.shape.planes + p)?;
            pieces::decode(method, self.bytes(&place), plane).map_err(|message| Corrupt {
                offset: place.start,
                code: "zplanes-piece",
                message,
            })?;
        }
        Ok(count)
    }

    /// Calls `each` with consecutive parts of `rows` and their plain bytes.
    pub(super) fn rows(
        &self,
        rows: Range<u64>,
        mut each: impl FnMut(Range<u64>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut planes, mut bytes) = (Vec::new(), Vec::new());
        let row_bytes = self.cols as usize * self.element.size;
        let mut start = rows.start;
        while start < rows.end {
            let chunk = start / self.shape.chunk_rows;
            let within = self.rows_of(chunk);
            let end = within.end.min(rows.end);
            let count = self.chunk(chunk, &mut planes).map_err(|c| self.error(&c))?;
            bytes.resize((end - start) as usize * row_bytes, 0);
            let first = ((start - within.start) * self.cols) as usize;
            let elements = first..first + ((end - start) * self.cols) as usize;
            self.element.merge(&planes, count, elements, &mut bytes);
            each(start..end, &bytes)?;
            start = end;
        }
        Ok(())
    }

    pub(super) fn error(&self, corrupt: &Corrupt) -> Error {
        Error::invalid(format!("tensor {}: payload byte {}: {}", self.name, corrupt.offset, corrupt.message))
    }
}
