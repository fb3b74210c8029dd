//! Decompression of a section stored as one zstd frame (RFC 8878).
//!
//! The frame is walked before anything is decoded: header fields, window, and
//! the chain of blocks up to the last byte, so that the decoder only ever sees
//! one well-delimited frame and a target of the declared size.

use super::{ZSTD_WINDOW, span::Span};
use crate::{ErrorKind, Limits, Result, SquizdError};
use alloc::{format, vec, vec::Vec};
use ruzstd::decoding::FrameDecoder;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Largest block of a frame.
const MAX_BLOCK: u64 = 128 << 10;
/// Expansion below this many bytes is never called a bomb.
const RATIO_FLOOR: u64 = 1 << 20;

/// Decompresses a section's `stored` bytes, which start at absolute offset
/// `base`, to exactly `length` bytes.
///
/// The frame must be the only content of the section; state its content size,
/// equal to `length`; use no dictionary, no content checksum (the section has
/// a SHA-256) and a window of at most [`ZSTD_WINDOW`] and `length`. Sizes and
/// ratio are capped by `limits` before anything is allocated.
pub fn inflate(stored: &[u8], base: u64, length: u64, limits: &Limits) -> Result<Vec<u8>> {
    let span = Span::new(stored, base);
    caps(span, length, limits)?;
    let blocks = frame_header(span, length)?;
    block_chain(span, blocks)?;

    let bad = |message| SquizdError::invalid("zstd-data", base, message);
    let size = usize::try_from(length).map_err(|_| bad(format!("{length} bytes do not fit memory")))?;
    let mut out = vec![0; size];
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW);
    let written =
        decoder.decode_all(stored, &mut out).map_err(|e| bad(format!("zstd frame does not decode: {e}")))?;
    if written != size {
        return Err(bad(format!("zstd frame decodes to {written} bytes, declared {length}")));
    }
    Ok(out)
}

fn caps(span: Span<'_>, length: u64, limits: &Limits) -> Result<()> {
    let limit = |code, message| Err(SquizdError::new(ErrorKind::Limit, code, span.at(0), message));
    if span.len() > limits.section_stored {
        let message = format!("{} stored bytes, allowed {}", span.len(), limits.section_stored);
        return limit("limit-section", message);
    }
    if length > limits.section_inflated {
        let message = format!("{length} decompressed bytes, allowed {}", limits.section_inflated);
        return limit("limit-inflated", message);
    }
    let by_ratio = span.len().saturating_mul(limits.inflate_ratio);
    if length > RATIO_FLOOR.saturating_add(by_ratio) {
        let message = format!(
            "{} stored bytes declare {length}, more than {} to 1 past the first {RATIO_FLOOR} bytes",
            span.len(),
            limits.inflate_ratio
        );
        return limit("limit-inflated", message);
    }
    Ok(())
}

/// Checks the frame header; returns the offset of the first block.
fn frame_header(span: Span<'_>, length: u64) -> Result<u64> {
    let invalid = |code, at, message| Err(SquizdError::invalid(code, span.at(at), message));
    let &[m0, m1, m2, m3, descriptor] = span.record::<[u8; 5]>(0, "zstd frame header")?;
    if [m0, m1, m2, m3] != MAGIC {
        return invalid(
            "zstd-magic",
            0,
            format!("magic is {m0:02x}{m1:02x}{m2:02x}{m3:02x}, must be 28b52ffd"),
        );
    }
    if descriptor & 0b0001_1000 != 0 {
        return invalid("zstd-header", 4, format!("descriptor {descriptor:#04x} sets a reserved bit"));
    }
    if descriptor & 0b100 != 0 {
        return invalid(
            "zstd-header",
            4,
            "frame has a content checksum, the section's SHA-256 stands for it".into(),
        );
    }
    if descriptor & 0b11 != 0 {
        return invalid("zstd-dictionary", 4, "frame names a dictionary, none is allowed".into());
    }
    let single_segment = descriptor & 0b10_0000 != 0;
    let size_at = if single_segment { 5 } else { 6 };
    let size_bytes: u64 = match (descriptor >> 6, single_segment) {
        (0, true) => 1,
        (0, false) => return invalid("zstd-size", 4, "frame does not state its content size".into()),
        (n, _) => 1 << n,
    };
    let raw = span.bytes(size_at, size_bytes, "zstd content size")?;
    let bias = if size_bytes == 2 { 256 } else { 0 };
    let size = raw.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b)).saturating_add(bias);
    if size != length {
        return invalid(
            "zstd-size",
            size_at,
            format!("frame holds {size} bytes, the directory says {length}"),
        );
    }
    let window = if single_segment {
        size
    } else {
        let &[w] = span.record::<[u8; 1]>(5, "zstd window")?;
        let unit = 1u64 << (10 + (w >> 3));
        unit + unit / 8 * u64::from(w & 7)
    };
    if window > ZSTD_WINDOW.min(length) {
        let message = format!("window of {window} bytes, allowed {}", ZSTD_WINDOW.min(length));
        return invalid("zstd-window", if single_segment { size_at } else { 5 }, message);
    }
    Ok(size_at + size_bytes)
}

/// Follows the block headers from `at`: the last block must end the section.
fn block_chain(span: Span<'_>, mut at: u64) -> Result<()> {
    loop {
        let &[a, b, c] = span.record::<[u8; 3]>(at, "zstd block header")?;
        let header = u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16;
        let size = header >> 3;
        let (kind, stored) = match header >> 1 & 3 {
            0 => ("raw", size),
            1 => ("run-length", 1),
            2 => ("compressed", size),
            _ => return Err(SquizdError::invalid("zstd-block", span.at(at), "reserved block type")),
        };
        if size > MAX_BLOCK {
            let message = format!("{kind} block of {size} bytes, allowed {MAX_BLOCK}");
            return Err(SquizdError::invalid("zstd-block", span.at(at), message));
        }
        span.bytes(at + 3, stored, "zstd block")?;
        at += 3 + stored;
        if header & 1 == 1 {
            return span.ends_at(at, "the zstd frame");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::String, vec::Vec};

    const BASE: u64 = 4096;

    /// `content` in raw blocks of a single-segment frame with a 4-byte size.
    fn stored(content: &[u8]) -> Vec<u8> {
        let mut v = MAGIC.to_vec();
        v.push(0b1010_0000);
        v.extend_from_slice(&(content.len() as u32).to_le_bytes());
        let mut chunks = content.chunks(1000).peekable();
        while let Some(chunk) = chunks.next() {
            let header = (chunk.len() as u32) << 3 | u32::from(chunks.peek().is_none());
            v.extend_from_slice(&header.to_le_bytes()[..3]);
            v.extend_from_slice(chunk);
        }
        v
    }

    /// 64 repetitions of `squizd ` as written by `zstd -19 --no-check` 1.5.
    const COMPRESSED: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xc0, 0x00, 0x75, 0x00, 0x00, 0x38, 0x73, 0x71, 0x75, 0x69, 0x7a, 0x64,
        0x20, 0x01, 0x00, 0xb6, 0x52, 0x8b, 0x11,
    ];

    fn run(bytes: &[u8], length: u64) -> Result<Vec<u8>> {
        inflate(bytes, BASE, length, &Limits::DEFAULT)
    }

    fn refused(bytes: &[u8], length: u64) -> (&'static str, u64) {
        let e = run(bytes, length).unwrap_err();
        (e.code().0, e.offset())
    }

    #[test]
    fn raw_blocks_come_back() {
        let content: Vec<u8> = (0..2500u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(run(&stored(&content), 2500).unwrap(), content);
    }

    #[test]
    fn compressed_blocks_come_back() {
        assert_eq!(run(COMPRESSED, 448).unwrap(), "squizd ".repeat(64).into_bytes());
    }

    #[test]
    fn header_fields_are_checked_in_place() {
        let good = stored(b"abc");
        let with = |at: usize, value: u8| {
            let mut b = good.clone();
            b[at] = value;
            b
        };
        assert_eq!(refused(&with(0, 0x50), 3), ("zstd-magic", BASE));
        assert_eq!(refused(&with(4, 0b1010_1000), 3), ("zstd-header", BASE + 4));
        assert_eq!(refused(&with(4, 0b1010_0100), 3), ("zstd-header", BASE + 4));
        assert_eq!(refused(&with(4, 0b1010_0001), 3), ("zstd-dictionary", BASE + 4));
        assert_eq!(refused(&with(4, 0b0000_0000), 3), ("zstd-size", BASE + 4));
        assert_eq!(refused(&good, 4), ("zstd-size", BASE + 5));
        assert_eq!(refused(&with(9, 0x1f), 3), ("zstd-block", BASE + 9));
    }

    #[test]
    fn windows_are_capped_by_the_content() {
        // No single segment: window descriptor 0 = 1 KiB for 3 bytes of content.
        let mut b = MAGIC.to_vec();
        b.extend_from_slice(&[0b1000_0000, 0, 3, 0, 0, 0, 3 << 3 | 1, 0, 0]);
        b.extend_from_slice(b"abc");
        assert_eq!(refused(&b, 3), ("zstd-window", BASE + 5));
        let large = ZSTD_WINDOW + 1;
        let mut b = MAGIC.to_vec();
        b.push(0b1010_0000);
        b.extend_from_slice(&(large as u32).to_le_bytes());
        b.resize(1 << 16, 0);
        assert_eq!(refused(&b, large), ("zstd-window", BASE + 5));
    }

    /// One byte, repeated, in run-length blocks of these sizes.
    fn repeated(sizes: &[u32]) -> Vec<u8> {
        let mut v = MAGIC.to_vec();
        v.push(0b1010_0000);
        v.extend_from_slice(&sizes.iter().sum::<u32>().to_le_bytes());
        for (i, size) in sizes.iter().enumerate() {
            let header = size << 3 | 1 << 1 | u32::from(i + 1 == sizes.len());
            v.extend_from_slice(&header.to_le_bytes()[..3]);
            v.push(7);
        }
        v
    }

    #[test]
    fn limits_are_inclusive() {
        let bytes = stored(b"abc");
        let exact = Limits {
            section_stored: bytes.len() as u64,
            section_inflated: 3,
            inflate_ratio: 0,
            ..Limits::DEFAULT
        };
        let code = |limits: Limits| inflate(&bytes, BASE, 3, &limits).err().map(|e| e.code().0);
        assert_eq!(code(exact), None);
        let less = exact.section_stored - 1;
        assert_eq!(code(Limits { section_stored: less, ..exact }), Some("limit-section"));
        assert_eq!(code(Limits { section_inflated: 2, ..exact }), Some("limit-inflated"));
        assert_eq!(code(Limits { section_inflated: 1, ..exact }), Some("limit-inflated"));
    }

    #[test]
    fn one_mebibyte_is_never_a_bomb() {
        let limits = Limits { inflate_ratio: 0, ..Limits::DEFAULT };
        let mut sizes = [MAX_BLOCK as u32; 9];
        let content = inflate(&repeated(&sizes[..8]), BASE, RATIO_FLOOR, &limits).unwrap();
        assert!(content.len() == 1 << 20 && content.iter().all(|b| *b == 7));
        sizes[8] = 1;
        let e = inflate(&repeated(&sizes), BASE, RATIO_FLOOR + 1, &limits).unwrap_err();
        assert_eq!((e.kind(), e.code().0), (ErrorKind::Limit, "limit-inflated"));
    }

    #[test]
    fn blocks_have_any_size_up_to_the_largest() {
        let content: Vec<u8> = (0..70_000u32).map(|i| (i * 7) as u8).collect();
        for size in [20_000, 70_000] {
            let mut v = MAGIC.to_vec();
            v.push(0b1010_0000);
            v.extend_from_slice(&(size as u32).to_le_bytes());
            v.extend_from_slice(&((size as u32) << 3 | 1).to_le_bytes()[..3]);
            v.extend_from_slice(&content[..size]);
            assert!(run(&v, size as u64).unwrap() == content[..size], "{size}");
        }
        let larger = MAX_BLOCK as u32 + 1;
        assert_eq!(refused(&repeated(&[larger]), larger.into()), ("zstd-block", BASE + 9));
    }

    #[test]
    fn windows_have_eighths() {
        // Descriptor 3: 1 KiB and three eighths of it.
        let with = |length: usize| {
            let mut v = MAGIC.to_vec();
            v.extend_from_slice(&[0b1000_0000, 3]);
            v.extend_from_slice(&(length as u32).to_le_bytes());
            v.extend_from_slice(&((length as u32) << 3 | 1).to_le_bytes()[..3]);
            v.resize(v.len() + length, 5);
            v
        };
        assert_eq!(run(&with(1408), 1408).unwrap(), [5; 1408]);
        assert_eq!(refused(&with(1407), 1407), ("zstd-window", BASE + 5));
    }

    #[test]
    fn second_frames_and_trailing_bytes_are_refused() {
        let one = stored(b"abc");
        let end = BASE + one.len() as u64;
        for tail in [&one[..], &[0], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]] {
            assert_eq!(refused(&[&one[..], tail].concat(), 3), ("appendix-trailing", end));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for n in 0..COMPRESSED.len() {
            assert_eq!(refused(&COMPRESSED[..n], 448).0, "appendix-truncated", "{n} bytes");
        }
    }

    #[test]
    fn flipped_bytes_decode_to_the_declared_size_or_are_refused() {
        for i in 0..COMPRESSED.len() {
            for bit in 0..8 {
                let mut b = COMPRESSED.to_vec();
                b[i] ^= 1 << bit;
                assert!(run(&b, 448).map_or(true, |v| v.len() == 448));
            }
        }
    }

    #[test]
    fn bombs_are_refused_before_allocation() {
        // 1 GiB of zeros as run-length blocks: 4 bytes per 128 KiB.
        let mut b = MAGIC.to_vec();
        b.extend_from_slice(&[0b1000_0000, 13 << 3]);
        b.extend_from_slice(&(1u32 << 29).to_le_bytes());
        for i in 0..4096u32 {
            let header = (MAX_BLOCK as u32) << 3 | 1 << 1 | u32::from(i == 4095);
            b.extend_from_slice(&header.to_le_bytes()[..3]);
            b.push(0);
        }
        let e = run(&b, 1 << 29).unwrap_err();
        assert_eq!((e.kind(), e.code().0), (ErrorKind::Limit, "limit-inflated"));
        assert_eq!(run(&b, (1 << 29) + 1).unwrap_err().code().0, "limit-inflated");
        let tight = Limits { section_stored: 10, ..Limits::DEFAULT };
        assert_eq!(inflate(&b, 0, 3, &tight).unwrap_err().code().0, "limit-section");
    }

    #[test]
    fn a_frame_that_decodes_short_or_long_is_refused() {
        for size in [2u8, 4] {
            let mut b = stored(b"abc");
            b[5] = size;
            let e = run(&b, u64::from(size)).unwrap_err();
            assert_eq!((e.code().0, e.offset()), ("zstd-data", BASE), "{}", String::from(e.message()));
        }
    }
}
