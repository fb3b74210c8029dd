//! Ids to text: the bytes of every token, and a decoder fed one id at a time.

use super::{components::Decoding, model::AddedToken};

/// The bytes of every token, in one allocation.
pub(super) struct PieceTable {
    bytes: Vec<u8>,
    /// End of token i in `bytes`; its start is the end of i - 1.
    ends: Vec<usize>,
    special: Vec<bool>,
    strip_start: bool,
}

impl PieceTable {
    /// Decodes every spelling once.
    pub(super) fn new(spellings: &[String], added: &[AddedToken], decoding: &Decoding) -> Self {
        let mut table = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(spellings.len()),
            special: vec![false; spellings.len()],
            strip_start: decoding.strip_start,
        };
        let mut is_added = vec![false; spellings.len()];
        for t in added {
            if let (Some(a), Some(s)) =
                (is_added.get_mut(t.id as usize), table.special.get_mut(t.id as usize))
            {
                *a = true;
                *s = t.special;
            }
        }
        for (token, added) in spellings.iter().zip(is_added) {
            table.append(token, added, decoding);
            table.ends.push(table.bytes.len());
        }
        table
    }

    fn append(&mut self, token: &str, added: bool, decoding: &Decoding) {
        if decoding.byte_fallback
            && !added
            && let Some(byte) = fallback_byte(token)
        {
            self.bytes.push(byte);
            return;
        }
        if decoding.byte_level && !added {
            let start = self.bytes.len();
            for c in token.chars() {
                let Some(byte) = alphabet_byte(c) else {
                    // Not spelled in the alphabet: the token is its own text.
                    self.bytes.truncate(start);
                    self.bytes.extend_from_slice(token.as_bytes());
                    return;
                };
                self.bytes.push(byte);
            }
            return;
        }
        match &decoding.replace {
            Some((from, to)) => self.bytes.extend_from_slice(token.replace(from, to).as_bytes()),
            None => self.bytes.extend_from_slice(token.as_bytes()),
        }
    }

    /// One past the largest id.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of `id`, and whether it is special; nothing for an id without a token.
    pub(super) fn piece(&self, id: u32) -> (&[u8], bool) {
        let i = id as usize;
        let start = i.checked_sub(1).and_then(|p| self.ends.get(p)).copied().unwrap_or(0);
        let bytes = self.ends.get(i).and_then(|&end| self.bytes.get(start..end)).unwrap_or_default();
        (bytes, self.special.get(i).copied().unwrap_or(false))
    }
}

/// The byte of `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1
/// is itself, the 68 other bytes are U+0100.. in ascending order.
fn alphabet_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Turns ids into text as they come: yields only whole characters, keeping
/// back the bytes of one that is not complete yet.
pub struct StreamDecoder<'a> {
    table: &'a PieceTable,
    skip_special: bool,
    /// The next piece begins the text, and its space is not part of it.
    strip: bool,
    /// A character begun: a proper prefix of valid UTF-8, at most 3 bytes, plus
    /// the piece being appended.
    pending: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(table: &'a PieceTable, skip_special: bool, at_start: bool) -> Self {
        Self { table, skip_special, strip: at_start && table.strip_start, pending: Vec::new() }
    }

    /// Appends to `text` what `id` completes; bytes that can never become
    /// valid UTF-8 appear as U+FFFD.
    pub fn push(&mut self, id: u32, text: &mut String) {
        let (mut bytes, special) = self.table.piece(id);
        if bytes.is_empty() || (special && self.skip_special) {
            return;
        }
        if std::mem::take(&mut self.strip) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let mut incomplete = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                if is_incomplete(chunk.invalid(), chunk_is_last(&self.pending, chunk.invalid())) {
                    incomplete = chunk.invalid().len();
                } else {
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        self.pending.drain(..self.pending.len() - incomplete);
    }

    /// Ends the text: a character left incomplete becomes U+FFFD.
    pub fn finish(self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&self.pending));
    }
}

/// Whether `invalid` reaches the end of `buffer`, so that more bytes may complete it.
fn chunk_is_last(buffer: &[u8], invalid: &[u8]) -> bool {
    buffer.as_ptr_range().end == invalid.as_ptr_range().end
}

/// Whether the invalid bytes at the end of a buffer are a valid beginning.
fn is_incomplete(invalid: &[u8], last: bool) -> bool {
    last && matches!(std::str::from_utf8(invalid), Err(e) if e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tokens: &[&str], special: &[u32], decoding: &Decoding) -> PieceTable {
        let added = special
            .iter()
            .map(|&id| {
                let json = serde_json::json!({"id": id, "content": tokens[id as usize], "special": true});
                serde_json::from_value(json).unwrap()
            })
            .collect::<Vec<_>>();
        PieceTable::new(&tokens.iter().map(|&t| t.to_owned()).collect::<Vec<_>>(), &added, decoding)
    }

    fn spm() -> Decoding {
        Decoding {
            byte_fallback: true,
            replace: Some(("▁".into(), " ".into())),
            strip_start: true,
            ..Decoding::default()
        }
    }

    fn steps(table: &PieceTable, ids: &[u32]) -> Vec<String> {
        let mut stream = StreamDecoder::new(table, true, true);
        let mut out = Vec::new();
        for &id in ids {
            let mut s = String::new();
            stream.push(id, &mut s);
            out.push(s);
        }
        let mut s = String::new();
        stream.finish(&mut s);
        out.push(s);
        out
    }

    #[test]
    fn alphabet_is_the_inverse_of_gpt2s() {
        // The definition: printable bytes are themselves, the others count up from U+0100.
        let mut next = 0x100;
        for byte in 0..=255u8 {
            let c = if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap()
            };
            assert_eq!(alphabet_byte(c), Some(byte), "{byte:#x}");
        }
        assert_eq!(alphabet_byte('\u{144}'), None);
        assert_eq!(alphabet_byte(' '), None);
    }

    #[test]
    fn characters_split_over_tokens() {
        // U+1F600 is F0 9F 98 80.
        let t = table(&["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁a", "<0xFF>", "b"], &[], &spm());
        assert_eq!(steps(&t, &[0, 1, 2, 3, 4]), ["", "", "", "😀", " a", ""]);
        assert_eq!(steps(&t, &[4, 0, 1]), ["a", "", "", "\u{fffd}"]);
        assert_eq!(steps(&t, &[0, 1, 6]), ["", "", "\u{fffd}b", ""]);
        assert_eq!(steps(&t, &[5, 4]), ["\u{fffd}", " a", ""]);
        assert_eq!(steps(&t, &[0, 0, 1, 2, 3]), ["", "\u{fffd}", "", "", "😀", ""]);
    }

    #[test]
    fn leading_space_only_at_the_start() {
        let t = table(&["<s>", "▁Hi", "▁", "<0x20>"], &[0], &spm());
        assert_eq!(steps(&t, &[0, 1, 1]), ["", "Hi", " Hi", ""]);
        assert_eq!(steps(&t, &[2, 1]), ["", " Hi", ""]);
        let mut text = String::new();
        StreamDecoder::new(&t, true, false).push(1, &mut text);
        assert_eq!(text, " Hi");
    }

    #[test]
    fn byte_level_and_special_tokens() {
        let d = Decoding { byte_level: true, ..Decoding::default() };
        let t = table(&["<|im end|>", "Ġhello", "Ã", "©", "a b"], &[0], &d);
        assert_eq!(steps(&t, &[1, 2, 3, 0, 4, 99]), [" hello", "", "é", "", "a b", "", ""]);
        let mut text = String::new();
        StreamDecoder::new(&t, false, true).push(0, &mut text);
        assert_eq!(text, "<|im end|>");
    }

    #[test]
    fn malformed_byte_tokens_are_text() {
        for token in ["<0x-1>", "<0x+1>", "<0x1>", "<0x0AA>", "<0xÀ>"] {
            assert_eq!(fallback_byte(token), None, "{token}");
        }
        assert_eq!(fallback_byte("<0x0a>"), Some(10));
    }
}
