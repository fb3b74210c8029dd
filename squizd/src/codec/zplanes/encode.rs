//! Encoding: chunks in parallel, pieces written in order as they get ready.

use super::payload::END_BITS;
use super::pieces::{Coder, Method};
use super::planes::Element;
use super::{RAW_PARAMS, raw_codec};
use crate::codec::sample::Sample;
use crate::codec::stream::energy;
use crate::codec::{EncodeStats, Encoded, PayloadSink, Rows};
use crate::{Error, Result};
use rayon::prelude::*;
use squizd_spec::{Matrix, ZplanesShape, zp};

/// Whether coding a sample of the rows saves anything.
pub(super) fn shrinks(rows: &dyn Rows, element: Element, level: i32) -> Result<bool> {
    let sample = Sample::read(rows)?;
    let mut buffers = Buffers::new(level)?;
    element.store(&sample.trial, &mut buffers.bytes);
    let coded: usize = buffers.pieces(element)?.iter().map(|(_, piece)| piece.len()).sum();
    Ok(coded < buffers.bytes.len())
}

/// One worker's buffers.
struct Buffers {
    coder: Coder,
    values: Vec<f32>,
    bytes: Vec<u8>,
    planes: Vec<u8>,
}

impl Buffers {
    fn new(level: i32) -> Result<Self> {
        Ok(Self { coder: Coder::new(level)?, values: Vec::new(), bytes: Vec::new(), planes: Vec::new() })
    }

    /// Codes the planes of `bytes`.
    fn pieces(&mut self, element: Element) -> Result<Vec<(Method, Vec<u8>)>> {
        element.split(&self.bytes, &mut self.planes);
        let length = self.planes.len() / element.size;
        self.planes.chunks_exact(length.max(1)).map(|plane| self.coder.encode(plane)).collect()
    }
}

/// A coded chunk.
struct Chunk {
    pieces: Vec<(Method, Vec<u8>)>,
    signal: f64,
}

/// Encodes all rows in the coded profile.
pub(super) fn encode(
    rows: &dyn Rows,
    element: Element,
    level: i32,
    sink: &dyn PayloadSink,
) -> Result<(u64, EncodeStats)> {
    let matrix = rows.matrix();
    let overflow = || Error::unsupported(format!("tensor {}: its sizes overflow", rows.name()));
    let shape = ZplanesShape::of(matrix, element.size as u64).ok_or_else(overflow)?;
    let (mut index, mut end, mut signal) = (Vec::new(), shape.data, 0.0);
    // So many at a time that all threads have work; what is written does not
    // depend on it.
    let batch = 4 * rayon::current_num_threads() as u64;
    for first in (0..shape.chunks).step_by(batch as usize) {
        let chunks: Vec<Result<Chunk>> = (first..(first + batch).min(shape.chunks))
            .into_par_iter()
            .map_init(
                || Buffers::new(level),
                |buffers, chunk| match buffers {
                    Ok(buffers) => code(rows, element, &shape, chunk, buffers),
                    Err(e) => Err(Error::unsupported(e.to_string())),
                },
            )
            .collect();
        for chunk in chunks {
            let chunk = chunk?;
            signal += chunk.signal;
            for (method, piece) in chunk.pieces {
                sink.write_at(end, &piece)?;
                end += piece.len() as u64;
                index.extend((end | (method as u64) << END_BITS).to_le_bytes());
            }
        }
    }
    if !index.is_empty() {
        sink.write_at(0, &index)?;
    }
    debug_assert_eq!(index.len() as u64, shape.chunks * shape.planes * zp::ENTRY);
    Ok((end, EncodeStats::new(signal, 0.0)))
}

/// Reads and codes one chunk.
fn code(
    rows: &dyn Rows,
    element: Element,
    shape: &ZplanesShape,
    chunk: u64,
    buffers: &mut Buffers,
) -> Result<Chunk> {
    let matrix = rows.matrix();
    let start = chunk * shape.chunk_rows;
    let range = start..(start + shape.chunk_rows).min(matrix.rows);
    element.read(rows, range.clone(), &mut buffers.values, &mut buffers.bytes)?;
    let pieces = buffers.pieces(element)?;
    let count = range.end - range.start;
    buffers.values.resize(buffers.bytes.len() / element.size, 0.0);
    let plain = Encoded {
        name: rows.name(),
        matrix: Matrix { rows: count, cols: matrix.cols },
        params: RAW_PARAMS,
        data: &buffers.bytes,
    };
    raw_codec(element)?.decode(&plain, 0..count, &mut buffers.values)?;
    rows.release(range);
    Ok(Chunk { pieces, signal: energy(&buffers.values) })
}
