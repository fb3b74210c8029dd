//! What HYBRID's geometry cannot say: a map and starts that fit each other and
//! the payload, finite numbers, and zeros wherever nothing is stored.

use super::block::BLOCK;
use super::payload::Payload;
use crate::codec::check::{payload, slice};
use crate::codec::integer::codes;
use crate::codec::{Encoded, Violation};
use squizd_spec::CodecId;
use squizd_spec::hybrid_layout::{MAPPED, Parts, STRIP, UNIT, UNITS, parts};

fn violation(offset: u64, code: &'static str, message: String) -> Violation {
    Violation { offset, code, message }
}

/// The first violation.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    payload(CodecId::HYBRID, tensor)?;
    let (Some(parts), Some(stored)) = (parts(tensor.matrix), Payload::of(tensor)) else {
        return Err(violation(0, "payload-length", "the payload is shorter than its parts".into()));
    };
    let Parts { map, starts, codes, strips, map_stride, blocks } = parts;
    padding(tensor.data, tensor.matrix.rows * blocks * 4, map)?;
    padding(tensor.data, map + strips * map_stride, starts)?;
    padding(tensor.data, starts + (strips + 1) * 4, codes)?;
    let mut end = 0;
    for strip in 0..strips {
        start(&stored, &parts, strip, end)?;
        let units = map_record(&stored, &parts, strip)?;
        end += units * (tensor.matrix.rows - strip * STRIP).min(STRIP);
    }
    start(&stored, &parts, strips, end)?;
    if codes + end * UNIT != tensor.data.len() as u64 {
        let message =
            format!("codes end at {}, but the payload at {}", codes + end * UNIT, tensor.data.len());
        return Err(violation(starts + 4 * strips, "hybrid-starts", message));
    }
    for row in 0..tensor.matrix.rows as usize {
        let mut found = None;
        let mut at = codes + stored.start(row / STRIP as usize).unwrap_or(0) * UNIT;
        let stride: u64 = stored.rates(row / STRIP as usize).map(|r| UNITS[usize::from(r)] * UNIT).sum();
        at += stride * (row as u64 % STRIP);
        stored.blocks(row, |block, rate, word, bytes| {
            let weights = (stored.cols - block * BLOCK).min(BLOCK);
            let scale_at = 4 * (row * stored.blocks + block) as u64;
            if found.is_none() {
                found = scale(word, rate, weights, scale_at).or_else(|| tail(rate, word, bytes, weights, at));
            }
            at += bytes.len() as u64;
        });
        if let Some(found) = found {
            return Err(found);
        }
    }
    Ok(())
}

/// Refuses a non-zero byte between parts.
fn padding(data: &[u8], from: u64, to: u64) -> Result<(), Violation> {
    match slice(data, from, to).iter().position(|b| *b != 0) {
        Some(i) => Err(violation(from + i as u64, "payload-padding", "padding byte must be 0".into())),
        None => Ok(()),
    }
}

/// A strip's codes begin where those before end.
fn start(stored: &Payload<'_>, parts: &Parts, strip: u64, end: u64) -> Result<(), Violation> {
    match stored.start(strip as usize) {
        Some(start) if start == end => Ok(()),
        start => Err(violation(
            parts.starts + 4 * strip,
            "hybrid-starts",
            format!("codes of strip {strip} begin at unit {start:?}, must be {end}"),
        )),
    }
}

/// Checks a strip's map and returns the units of one of its rows.
fn map_record(stored: &Payload<'_>, parts: &Parts, strip: u64) -> Result<u64, Violation> {
    let mut offset = 0;
    for (i, (rates, stored_offset)) in stored.records(strip as usize).enumerate() {
        let at = parts.map + strip * parts.map_stride + 8 * i as u64;
        if u64::from(stored_offset) != offset {
            let message = format!("blocks begin at unit {stored_offset} of a row, must be {offset}");
            return Err(violation(at + 4, "hybrid-map", message));
        }
        for b in 0..MAPPED {
            let rate = rates >> (4 * b) & 15;
            let there = i as u64 * MAPPED + b < parts.blocks;
            match UNITS.get(rate as usize) {
                Some(units) if there => offset += units,
                None if there => {
                    let message = format!("rate code is {rate}, allowed 0 to 4");
                    return Err(violation(at + b / 2, "hybrid-map", message));
                }
                _ if rate != 0 => {
                    let message = format!("rate code {rate} after the row's last block, must be 0");
                    return Err(violation(at + b / 2, "hybrid-map", message));
                }
                _ => {}
            }
        }
    }
    Ok(offset)
}

/// Scale words: 0 for bfloat16 and for zeros, and no entries of groups that
/// are not there.
fn scale(word: u32, rate: u8, weights: usize, at: u64) -> Option<Violation> {
    let entries = 6 * weights.div_ceil(16);
    let unused = u64::from(word) >> (8 + entries) != 0;
    let empty = rate == 4 || word.trailing_zeros() >= 8;
    ((empty && word != 0) || unused)
        .then(|| violation(at, "hybrid-scale", format!("scale word {word:#010x} has bits that mean nothing")))
}

/// Codes past the row's end, and of blocks of zeros, are 0; bfloat16s are finite.
fn tail(rate: u8, word: u32, bytes: &[u8], weights: usize, at: u64) -> Option<Violation> {
    if rate == 4 {
        for (i, half) in bytes.as_chunks::<2>().0.iter().enumerate() {
            let value = u16::from_le_bytes(*half);
            let offset = at + 2 * i as u64;
            if i >= weights && value != 0 {
                return Some(violation(offset, "hybrid-tail-code", "a code past the row's end".into()));
            }
            if value & 0x7f80 == 0x7f80 {
                let message = format!("bfloat16 {value:#06x} is not finite");
                return Some(violation(offset, "hybrid-not-finite", message));
            }
        }
        return None;
    }
    let used = if word == 0 { 0 } else { weights };
    (0..2).find_map(|k| {
        let block = match rate {
            0 => codes::unpack::<2>(bytes, 2, k),
            1 => codes::unpack::<3>(bytes, 2, k),
            2 => codes::unpack::<4>(bytes, 2, k),
            _ => codes::unpack::<5>(bytes, 2, k),
        };
        let bad = block.iter().skip(used.saturating_sub(32 * k)).any(|q| *q != 0);
        bad.then(|| {
            violation(
                at,
                "hybrid-tail-code",
                "a code past the row's end, or in a block of zeros, is not 0".into(),
            )
        })
    })
}
