//! A stored payload, part by part.

use super::block::{self, BLOCK};
use crate::codec::Encoded;
use crate::simd::multiversion;
use squizd_spec::hybrid_layout::{self, MAPPED, Parts, STRIP, UNIT, UNITS};
use std::ops::Range;

/// A payload of possible length, its contents not checked.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    pub(super) cols: usize,
    pub(super) blocks: usize,
    pub(super) exponent: i32,
    pub(super) scales: &'a [u8],
    pub(super) map: &'a [u8],
    pub(super) starts: &'a [u8],
    pub(super) codes: &'a [u8],
    map_stride: usize,
}

impl<'a> Payload<'a> {
    /// The parts of a tensor whose length its geometry allows; `None` if they
    /// do not fit.
    pub(super) fn of(tensor: &Encoded<'a>) -> Option<Self> {
        let Parts { blocks, strips, map_stride, map, starts, codes } = hybrid_layout::parts(tensor.matrix)?;
        let part = |start: u64, bytes: u64| tensor.data.get(start as usize..(start + bytes) as usize);
        Some(Self {
            cols: tensor.matrix.cols as usize,
            blocks: blocks as usize,
            exponent: i32::from(tensor.params[2].cast_signed()),
            scales: part(0, tensor.matrix.rows * blocks * 4)?,
            map: part(map, strips * map_stride)?,
            starts: part(starts, (strips + 1) * 4)?,
            codes: tensor.data.get(codes as usize..)?,
            map_stride: map_stride as usize,
        })
    }

    /// Where the codes of `strip` begin, in units.
    pub(super) fn start(&self, strip: usize) -> Option<u64> {
        self.starts.get(4 * strip..)?.first_chunk().map(|b| u64::from(u32::from_le_bytes(*b)))
    }

    /// The map of `strip`: a record of rates and offset for every eight blocks.
    pub(super) fn records(&self, strip: usize) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let at = strip * self.map_stride;
        let map = self.map.get(at..at + self.map_stride).unwrap_or_default();
        map.as_chunks::<8>().0.iter().map(|&[a, b, c, d, e, f, g, h]| {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        })
    }

    /// Rate codes of a strip's blocks.
    #[inline(always)]
    pub(super) fn rates(&self, strip: usize) -> impl Iterator<Item = u8> + use<'a> {
        self.records(strip)
            .flat_map(|(rates, _)| (0..MAPPED as u32).map(move |i| (rates >> (4 * i) & 15) as u8))
            .take(self.blocks)
    }

    /// Scale word of a row's block.
    #[inline(always)]
    pub(super) fn word(&self, row: usize, block: usize) -> u32 {
        let at = 4 * (row * self.blocks + block);
        self.scales.get(at..).and_then(|s| s.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// Calls `each` with block, rate code, scale word and codes of every block
    /// of `row`; false if they do not lie within the payload.
    #[inline(always)]
    pub(super) fn blocks(&self, row: usize, mut each: impl FnMut(usize, u8, u32, &'a [u8])) -> bool {
        let strip = row / STRIP as usize;
        let unit = UNIT as usize;
        let bytes = |rate: u8| UNITS.get(usize::from(rate)).map(|units| *units as usize * unit);
        let Some(stride) = self.rates(strip).map(bytes).sum::<Option<usize>>() else { return false };
        let start = self.start(strip).map(|s| s as usize * unit + row % STRIP as usize * stride);
        let Some(mut codes) = start.and_then(|s| self.codes.get(s..s + stride)) else { return false };
        for (block, rate) in self.rates(strip).enumerate() {
            let (own, rest) = codes.split_at(bytes(rate).unwrap_or_default());
            each(block, rate, self.word(row, block), own);
            codes = rest;
        }
        true
    }
}

/// Decodes a block.
#[inline(always)]
fn decode_block(exponent: i32, rate: u8, word: u32, codes: &[u8], out: &mut [f32; BLOCK]) {
    match rate {
        0 => block::decode::<2>(word, exponent, codes, out),
        1 => block::decode::<3>(word, exponent, codes, out),
        2 => block::decode::<4>(word, exponent, codes, out),
        3 => block::decode::<5>(word, exponent, codes, out),
        _ => block::decode_bf16(codes, out),
    }
}

multiversion! {
    /// Decodes a row from its blocks' rates, scale words and codes.
    pub(super) fn decode_row(exponent: i32, rates: &[u8], words: &[u8], codes: &[u8], out: &mut [f32]) = decode_row_lanes;
}

#[inline(always)]
fn decode_row_lanes(exponent: i32, rates: &[u8], words: &[u8], codes: &[u8], out: &mut [f32]) {
    let mut rest = codes;
    let mut values = [0.0; BLOCK];
    let blocks = out.chunks_mut(BLOCK).zip(rates).zip(words.as_chunks::<4>().0);
    for ((out, &rate), word) in blocks {
        let bytes = UNITS.get(usize::from(rate)).map_or(0, |u| (u * UNIT) as usize);
        let (own, after) = rest.split_at(bytes.min(rest.len()));
        decode_block(exponent, rate, u32::from_le_bytes(*word), own, &mut values);
        for (out, v) in out.iter_mut().zip(values) {
            *out = v;
        }
        rest = after;
    }
}

multiversion! {
    /// Decodes rows; false if the payload contradicts itself.
    pub(super) fn decode_rows(payload: &Payload<'_>, rows: Range<usize>, out: &mut [f32]) -> bool = decode_rows_lanes;
}

#[inline(always)]
fn decode_rows_lanes(payload: &Payload<'_>, rows: Range<usize>, out: &mut [f32]) -> bool {
    let mut values = [0.0; BLOCK];
    rows.zip(out.chunks_exact_mut(payload.cols)).all(|(row, out)| {
        payload.blocks(row, |block, rate, word, codes| {
            decode_block(payload.exponent, rate, word, codes, &mut values);
            for (out, v) in out.iter_mut().skip(block * BLOCK).zip(values) {
                *out = v;
            }
        })
    })
}

multiversion! {
    /// Rows times `x`; NaN for those that the payload does not hold.
    pub(super) fn dot_rows(payload: &Payload<'_>, rows: Range<usize>, x: &[f32], y: &mut [f32]) = dot_rows_lanes;
}

#[inline(always)]
fn dot_rows_lanes(payload: &Payload<'_>, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<BLOCK>();
    let mut tail = [0.0; BLOCK];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    let mut values = [0.0; BLOCK];
    for (row, y) in rows.zip(y) {
        let mut sums = [0.0f32; 16];
        let there = payload.blocks(row, |block, rate, word, codes| {
            decode_block(payload.exponent, rate, word, codes, &mut values);
            let x = whole.get(block).unwrap_or(&tail);
            for (v, x) in values.as_chunks::<16>().0.iter().zip(x.as_chunks::<16>().0) {
                for ((sum, v), x) in sums.iter_mut().zip(v).zip(x) {
                    *sum += v * x;
                }
            }
        });
        *y = if there { sums.iter().sum() } else { f32::NAN };
    }
}
