//! SentencePiece vocabularies, from GGUF or `tokenizer.model`: scored pieces,
//! and how they become BPE merges or a unigram model.

use super::{
    checks::MAX_MERGES,
    json::{self, Model, Spec},
};
use squizd::{Error, Result};
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
fn is_byte_piece(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))
}

/// A SentencePiece model: ids are positions in `tokens`.
pub(super) struct PieceModel<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) scores: Vec<f32>,
    pub(super) kinds: Vec<Kind>,
    /// A unigram language model; else BPE.
    pub(super) unigram: bool,
    /// Unknown characters become byte pieces.
    pub(super) byte_fallback: bool,
    pub(super) unknown: Option<u32>,
    pub(super) prefix: Prefix,
    /// Runs of spaces are one, and none stay at the ends.
    pub(super) remove_extra_whitespaces: bool,
    /// SentencePiece's character map, or empty.
    pub(super) charsmap: &'a [u8],
}

/// Where a space is put in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    None,
    /// At its start only, as SentencePiece does.
    Start,
    /// At its start and after every added token, as transformers' "legacy"
    /// Llama tokenizers and llama.cpp do.
    EveryPart,
}

impl PieceModel<'_> {
    /// Checks the pieces and settles their spelling; to be called before [`PieceModel::spec`].
    ///
    /// # Errors
    /// A token of type byte that is no byte.
    pub(super) fn checked(mut self) -> Result<Self> {
        for (i, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            if *kind == Kind::Byte && !is_byte_piece(token) {
                return Err(Error::refused(
                    "tokenizer-byte",
                    format!(
                        "token {i} is {token:?}, but its type is byte: it must be \"<0x00>\" to \"<0xFF>\""
                    ),
                ));
            }
        }
        self.spell_joined_bytes();
        Ok(self)
    }

    /// The tokenizer, still without added tokens.
    ///
    /// # Errors
    /// A unigram model without unknown token; too many merges.
    pub(super) fn spec(&self) -> Result<Spec<'_>> {
        let model = if self.unigram {
            let Some(unk_id) = self.unknown else {
                return Err(Error::refused(
                    "tokenizer-special",
                    "the unigram vocabulary names no unknown token, and needs one",
                ));
            };
            let scores = self.scores.iter().map(|&s| f64::from(s));
            let vocab = self.tokens.iter().copied().zip(scores).collect();
            Model::Unigram { unk_id, vocab, byte_fallback: self.byte_fallback }
        } else {
            let mergeable = |id: usize| self.kinds.get(id) == Some(&Kind::Normal) || self.is_spelled_byte(id);
            let merges = merges_from_scores(&self.tokens, &self.scores, mergeable)?;
            let unknown = self.unknown.and_then(|id| self.tokens.get(id as usize)).copied();
            Model::bpe(&self.tokens, merges, unknown, self.byte_fallback, false)
        };
        let mut spec = Spec::new(model, json::sentencepiece_decoder(self.prefix != Prefix::None));
        let escape = match self.prefix {
            Prefix::None => Some(false),
            Prefix::EveryPart => Some(true),
            Prefix::Start => {
                spec.pre_tokenizer = json::metaspace_at_start();
                None
            }
        };
        spec.normalizer =
            json::sentencepiece_normalizer(self.charsmap, self.remove_extra_whitespaces, escape);
        Ok(spec)
    }

    /// SentencePiece joins characters, whether or not they are pieces; BPE over
    /// tokens joins tokens. The two differ for a character that has only a byte
    /// piece but occurs in a longer piece (Gemma's tab): that byte piece is
    /// spelled as its character.
    fn spell_joined_bytes(&mut self) {
        if self.unigram {
            return;
        }
        let (mut alone, mut joined) = ([false; 128], [false; 128]);
        for (token, kind) in self.tokens.iter().zip(&self.kinds) {
            let flags = match (token.len(), kind) {
                (1, _) => &mut alone,
                (_, Kind::Normal) => &mut joined,
                _ => continue,
            };
            for b in token.bytes() {
                if let Some(flag) = flags.get_mut(usize::from(b)) {
                    *flag = true;
                }
            }
        }
        for (token, kind) in self.tokens.iter_mut().zip(&self.kinds) {
            let byte = token.get(3..5).and_then(|hex| usize::from_str_radix(hex, 16).ok());
            if let (Kind::Byte, Some(b @ 0..128)) = (kind, byte)
                && joined[b]
                && !alone[b]
            {
                *token = &ASCII[b..=b];
            }
        }
    }

    fn is_spelled_byte(&self, id: usize) -> bool {
        self.kinds.get(id) == Some(&Kind::Byte) && self.tokens.get(id).is_some_and(|t| t.len() == 1)
    }
}

/// The 128 ASCII characters.
const ASCII: &str = match std::str::from_utf8(&ASCII_BYTES) {
    Ok(s) => s,
    Err(_) => "",
};

const ASCII_BYTES: [u8; 128] = {
    let mut all = [0; 128];
    let mut i = 0;
    while i < all.len() {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// The merges that make BPE over ranked pairs behave as SentencePiece's BPE
/// over scored pieces: every way to split a piece into two pieces, pieces in
/// descending score (ties by id), longer left parts first, which is the order
/// of transformers' converter.
///
/// SentencePiece repeatedly joins the neighbours whose concatenation is the
/// best-scored piece, the leftmost first; trained pieces have distinct scores,
/// so ranks by score pick the same piece. Only tokens for which `mergeable`
/// holds are parts or results.
fn merges_from_scores<'a>(
    tokens: &[&'a str],
    scores: &[f32],
    mergeable: impl Fn(usize) -> bool,
) -> Result<Vec<(&'a str, &'a str)>> {
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
        if merges.len() > MAX_MERGES {
            return Err(Error::refused(
                "tokenizer-size",
                format!("the pieces have more than {MAX_MERGES} merges"),
            ));
        }
    }
    Ok(merges)
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
        let merges = merges_from_scores(&tokens, &scores, |i| i != 5).unwrap();
        assert_eq!(merges, [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba")]);
        // A piece that may not take part is neither joined nor a result.
        let merges = merges_from_scores(&tokens, &scores, |i| i != 3 && i != 5).unwrap();
        assert_eq!(merges, [("a", "b"), ("ab", "a")]);
    }
}
