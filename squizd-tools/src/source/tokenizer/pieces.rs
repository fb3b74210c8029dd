//! What SentencePiece knows of each piece, and BPE merges from piece scores.

use std::collections::HashSet;

/// Kind of a piece; the numbers are SentencePiece's and GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// From the number; GGUF writes 0 for "undefined", which is treated as normal.
    pub(super) fn from_number(n: i64) -> Option<Self> {
        Some(match n {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether a text is searched for the piece before it is tokenized.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// Whether `token` is `<0x00>` to `<0xFF>`, in the upper case that
/// SentencePiece writes and `tokenizers` looks up.
pub(super) fn is_byte_piece(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))
}

/// The merges that make BPE over ranked pairs behave as SentencePiece's BPE
/// over scored pieces: every way to split a piece into two pieces, pieces in
/// descending score (ties by id), longer left parts first, which is the order
/// of transformers' converter.
///
/// SentencePiece repeatedly joins the neighbours whose concatenation is the
/// best-scored piece, the leftmost first; trained pieces have distinct scores,
/// so ranks by score pick the same piece. Only tokens for which `mergeable`
/// holds are parts or results.
pub(super) fn merges_from_scores<'a>(
    tokens: &[&'a str],
    scores: &[f32],
    mergeable: impl Fn(usize) -> bool,
) -> Vec<(&'a str, &'a str)> {
    let mut order: Vec<(f32, usize, &'a str)> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| mergeable(*id))
        .map(|(id, &token)| (scores.get(id).copied().unwrap_or(0.0), id, token))
        .collect();
    let known: HashSet<&str> = order.iter().map(|t| t.2).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut merges = Vec::new();
    for (_, _, token) in order {
        for (at, _) in token.char_indices().rev().filter(|c| c.0 > 0) {
            let (left, right) = token.split_at(at);
            if known.contains(left) && known.contains(right) {
                merges.push((left, right));
            }
        }
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_pieces_are_upper_case_hex() {
        assert!(is_byte_piece("<0x0A>"));
        for bad in ["<0x0a>", "<0x-1>", "<0xA>", "<0x00A>", "0x0A", "<0xGG>"] {
            assert!(!is_byte_piece(bad), "{bad}");
        }
    }

    #[test]
    fn merges_follow_scores_then_ids() {
        let tokens = ["a", "b", "ab", "ba", "aba", "<x>"];
        let scores = [0.0, 0.0, -2.0, -1.0, -3.0, 0.0];
        let merges = merges_from_scores(&tokens, &scores, |i| i != 5);
        assert_eq!(merges, [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba")]);
        // A piece that may not take part is neither joined nor a result.
        let merges = merges_from_scores(&tokens, &scores, |i| i != 3 && i != 5);
        assert_eq!(merges, [("a", "b"), ("ab", "a")]);
    }
}
