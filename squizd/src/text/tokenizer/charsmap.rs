//! SentencePiece's precompiled character map, checked before the library
//! walks it without bounds checks.
//!
//! ```text
//! u32 size | size bytes: darts-clone double array of u32 | NUL-terminated UTF-8 strings
//! ```
//!
//! A unit holds a label (bits 0..8, bit 31), a leaf flag (bit 8) and an offset
//! (bits 10.., shifted left by 8 if bit 9 is set). From node `p`, whose base is
//! `b = p ^ offset(unit[p])`, byte `c` leads to `b ^ c` if that unit's label is
//! `c`; with the leaf flag, `unit[base] & 0x7fff_ffff` is an offset into the strings.

use super::bad;
use crate::Result;

/// Longest map accepted (nmt_nfkc has 240 KB).
const MAX_BYTES: usize = 8 << 20;

/// A verified map.
pub(super) struct Charsmap {
    bytes: Vec<u8>,
    longest: usize,
}

impl Charsmap {
    /// Decodes and verifies.
    pub(super) fn from_base64(text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(bad(
                "tokenizer-charsmap",
                format_args!(
                    "precompiled_charsmap has {} characters, at most {MAX_BYTES} are allowed",
                    text.len()
                ),
            ));
        }
        let bytes = decode_base64(text).ok_or_else(|| {
            bad("tokenizer-charsmap", format_args!("precompiled_charsmap is not padded standard base64"))
        })?;
        let longest = verify(&bytes).ok_or_else(|| {
            bad(
                "tokenizer-charsmap",
                format_args!("precompiled_charsmap points outside itself, or is truncated"),
            )
        })?;
        Ok(Self { bytes, longest })
    }

    /// The raw map.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the longest replacement.
    pub(super) fn longest_replacement(&self) -> usize {
        self.longest
    }
}

/// Walks every reachable unit; the longest replacement, or `None` if any step
/// leaves the array or the strings.
fn verify(map: &[u8]) -> Option<usize> {
    let (size, rest) = map.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*size) as usize;
    if !size.is_multiple_of(4) {
        return None;
    }
    let (units, strings) = rest.split_at_checked(size)?;
    let units: Vec<u32> = units.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect();
    let strings = std::str::from_utf8(strings).ok()?;
    let offset = |u: u32| ((u >> 10) << ((u & (1 << 9)) >> 6)) as usize;

    let mut longest = 0;
    let mut seen = vec![false; units.len()];
    let mut stack = vec![offset(*units.first()?)];
    while let Some(base) = stack.pop() {
        // The library looks at every child slot, so the whole block must exist.
        if (base | 0xff) >= units.len() {
            return None;
        }
        for c in 1..=0xff_u32 {
            let p = base ^ c as usize;
            let unit = *units.get(p)?;
            if unit & 0x8000_00ff != c || std::mem::replace(seen.get_mut(p)?, true) {
                continue;
            }
            let next = p ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let at = (*units.get(next)? & 0x7fff_ffff) as usize;
                let text = strings.get(at..)?;
                longest = longest.max(text.find('\0').unwrap_or(text.len()));
            }
            stack.push(next);
        }
    }
    Some(longest)
}

/// Standard base64 with padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let (quads, rest) = text.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(quads.len() * 3);
    for (i, quad) in quads.iter().enumerate() {
        let pad = quad.iter().rev().take_while(|&&c| c == b'=').count();
        if pad > 2 || (pad > 0 && i + 1 != quads.len()) {
            return None;
        }
        let mut word = 0u32;
        for &c in &quad[..4 - pad] {
            let v = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(v);
        }
        let [_, a, b, c] = (word << (6 * pad)).to_be_bytes();
        out.extend_from_slice(&[a, b, c][..3 - pad]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vectors() {
        for (text, bytes) in
            [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("+/8=", b"\xfb\xff")]
        {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Zg", "Zg==Zg==", "Z===", "Zm9*", "====", "Zm=v"] {
            assert_eq!(decode_base64(text), None, "{text}");
        }
    }

    /// One rule, `a` to `bc`: root block at 256, leaf value in block 512.
    fn tiny() -> Vec<u8> {
        let mut units = vec![0u32; 768];
        units[0] = 256 << 10;
        let p = 256 ^ usize::from(b'a');
        units[p] = u32::from(b'a') | 1 << 8 | ((p ^ 512) as u32) << 10;
        units[512] = 1 << 31 | 2;
        let mut map = (units.len() as u32 * 4).to_le_bytes().to_vec();
        map.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        map.extend_from_slice(b"x\0bc\0");
        map
    }

    #[test]
    fn accepts_a_valid_map() {
        assert_eq!(verify(&tiny()), Some(2));
        let map = tokenizers::normalizers::Precompiled::from(&tiny()).unwrap();
        assert_eq!(map.normalize_string("a b"), "bc b");
    }

    #[test]
    fn refuses_what_the_library_would_panic_on() {
        let set = |unit: usize, value: u32| {
            let mut m = tiny();
            m[4 + 4 * unit..8 + 4 * unit].copy_from_slice(&value.to_le_bytes());
            m
        };
        assert_eq!(verify(&[]), None);
        assert_eq!(verify(&[0, 0, 0, 0]), None, "no root");
        assert_eq!(verify(&[8, 0, 0, 0, 1, 2]), None, "truncated array");
        assert_eq!(verify(&set(0, 1 << 30)), None, "root block outside");
        assert_eq!(verify(&set(512, 1 << 31 | 0x63)), None, "string offset outside");
        assert_eq!(verify(&set(256 ^ 0x61, 0x61 | 1 << 8 | 0xffff << 10)), None, "child outside");
    }
}
