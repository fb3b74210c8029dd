//! The tokenizer arrays of a GGUF file.

use super::{
    checks::{MAX_MERGES, check_charsmap, check_scores, index_tokens},
    json::{self, AddedToken, Model, Spec},
    pieces::{Kind, PieceModel, Prefix},
    pretokenizer::preparation,
};
use serde_json::{Value, json};
use squizd::{Error, Result};
use std::collections::HashMap;

/// The keys under `tokenizer.ggml.` that decide token ids.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab<'a> {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (unigram).
    pub model: &'a str,
    /// `pre`: name of the word splitter of byte-level BPE.
    pub pre: Option<&'a str>,
    /// `tokens`: spellings; the id is the position.
    pub tokens: Vec<&'a str>,
    /// `scores`: one per token, or empty.
    pub scores: Vec<f32>,
    /// `token_type`: one per token, or empty.
    pub token_types: Vec<i64>,
    /// `merges`: two spellings with a space between.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`.
    pub bos: Option<u64>,
    /// `eos_token_id`.
    pub eos: Option<u64>,
    /// `unknown_token_id`.
    pub unknown: Option<u64>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`.
    pub precompiled_charsmap: Vec<u8>,
    /// `general.name`: Phi-3's special tokens swallow the spaces after them,
    /// which GGUF does not record.
    pub model_name: Option<&'a str>,
}

/// Whether the model wants a beginning-of-sequence token: the file's
/// `add_bos_token`, else the rule of its tokenizer kind.
pub fn adds_bos(vocab: &GgufVocab<'_>) -> bool {
    vocab.add_bos.unwrap_or_else(|| match vocab.model {
        "llama" => true,
        "gpt2" => preparation(vocab.pre.unwrap_or("")).is_some_and(|p| p.add_bos),
        _ => false,
    })
}

/// Builds `tokenizer.json`.
///
/// # Errors
/// Names the key and index of the first entry that is out of bounds, doubled,
/// or refers to a missing token; and an unknown `model` or `pre`.
pub fn build(vocab: &GgufVocab<'_>) -> Result<Vec<u8>> {
    let checked = Checked::new(vocab)?;
    match vocab.model {
        "gpt2" => checked.byte_level(),
        "llama" => checked.sentencepiece(false),
        "t5" => checked.sentencepiece(true),
        other => Err(Error::refused_unsupported(
            "tokenizer-component",
            format!(
                "tokenizer.ggml.model is {other:?}; supported are gpt2 (byte-level BPE), llama (SentencePiece) and t5 (unigram): convert from the Hugging Face checkpoint instead"
            ),
        )),
    }
}

/// A vocabulary whose arrays agree with each other.
struct Checked<'a> {
    vocab: &'a GgufVocab<'a>,
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
    bos: Option<(u32, &'a str)>,
    eos: Option<(u32, &'a str)>,
    unknown: Option<(u32, &'a str)>,
}

fn bad(code: &'static str, key: &str, what: std::fmt::Arguments<'_>) -> Error {
    Error::refused(code, format!("tokenizer.ggml.{key}: {what}"))
}

impl<'a> Checked<'a> {
    fn new(vocab: &'a GgufVocab<'a>) -> Result<Self> {
        let n = vocab.tokens.len();
        let within = |key: &'static str| move |e: Error| e.within(&format!("tokenizer.ggml.{key}"));
        let ids = index_tokens(&vocab.tokens).map_err(within("tokens"))?;
        for (key, len) in [("scores", vocab.scores.len()), ("token_type", vocab.token_types.len())] {
            if len != 0 && len != n {
                return Err(bad("tokenizer-size", key, format_args!("{len} entries for {n} tokens")));
            }
        }
        check_scores(&vocab.scores).map_err(within("scores"))?;
        check_charsmap(&vocab.precompiled_charsmap).map_err(within("precompiled_charsmap"))?;
        if vocab.merges.len() > MAX_MERGES {
            let len = vocab.merges.len();
            return Err(bad(
                "tokenizer-size",
                "merges",
                format_args!("{len} merges, at most {MAX_MERGES} are allowed"),
            ));
        }
        let kinds = if vocab.token_types.is_empty() {
            vec![Kind::Normal; n]
        } else {
            let kind = |(i, &t): (usize, &i64)| {
                Kind::from_number(t).ok_or_else(|| {
                    bad("tokenizer-token", "token_type", format_args!("entry {i} is {t}, allowed 0..=6"))
                })
            };
            vocab.token_types.iter().enumerate().map(kind).collect::<Result<Vec<_>>>()?
        };
        let special = |key: &str, id: Option<u64>| -> Result<Option<(u32, &'a str)>> {
            let Some(id) = id else { return Ok(None) };
            let token = usize::try_from(id).ok().and_then(|i| vocab.tokens.get(i));
            let token = token.ok_or_else(|| {
                bad("tokenizer-special", key, format_args!("id {id} is outside the {n} tokens"))
            })?;
            Ok(Some((id as u32, token)))
        };
        let bos = special("bos_token_id", vocab.bos)?;
        let eos = special("eos_token_id", vocab.eos)?;
        let unknown = special("unknown_token_id", vocab.unknown)?;
        Ok(Self { vocab, kinds, ids, bos, eos, unknown })
    }

    /// GPT-2's kind: bytes as printable characters, ranked merges.
    fn byte_level(&self) -> Result<Vec<u8>> {
        let pre = self.vocab.pre.unwrap_or("");
        let prepared = preparation(pre).ok_or_else(|| {
            Error::refused_unsupported("tokenizer-component", format!(
                "tokenizer.ggml.pre is {pre:?}, a word splitter that this version does not know: convert from the Hugging Face checkpoint, which has a tokenizer.json"
            ))
        })?;
        let model = Model::bpe(&self.vocab.tokens, self.merges()?, None, false, prepared.ignore_merges);
        let mut spec = Spec::new(model, byte_level_decoder());
        spec.normalizer = prepared.normalizer;
        spec.pre_tokenizer = prepared.pre_tokenizer;
        self.finish(spec)
    }

    /// Llama's and T5's kinds: SentencePiece BPE or unigram.
    fn sentencepiece(&self, unigram: bool) -> Result<Vec<u8>> {
        if unigram && self.vocab.scores.is_empty() {
            return Err(bad(
                "tokenizer-score",
                "scores",
                format_args!("missing; a unigram vocabulary needs one per token"),
            ));
        }
        let pieces = PieceModel {
            tokens: self.vocab.tokens.clone(),
            scores: self.vocab.scores.clone(),
            kinds: self.kinds.clone(),
            unigram,
            byte_fallback: !unigram || self.kinds.contains(&Kind::Byte),
            unknown: self.unknown.map(|u| u.0),
            prefix: match self.vocab.add_space_prefix {
                Some(false) => Prefix::None,
                _ => Prefix::EveryPart,
            },
            remove_extra_whitespaces: self.vocab.remove_extra_whitespaces.unwrap_or(unigram),
            charsmap: &self.vocab.precompiled_charsmap,
        };
        let pieces = pieces.checked()?;
        self.finish(pieces.spec()?)
    }

    /// `"a b"` pairs, each part and the whole a token.
    fn merges(&self) -> Result<Vec<(&'a str, &'a str)>> {
        let mut joined = String::new();
        let pair = |(i, &merge): (usize, &&'a str)| {
            // A token may begin with a space, so the separator is the first one after it.
            let at = merge.char_indices().skip(1).find(|c| c.1 == ' ').map_or(merge.len(), |c| c.0);
            let (a, b) = merge.split_at(at);
            let Some(b) = b.strip_prefix(' ').filter(|b| !b.is_empty()) else {
                return Err(bad(
                    "tokenizer-merge",
                    "merges",
                    format_args!("merge {i} is {merge:?}, not two tokens with a space between"),
                ));
            };
            joined.clear();
            joined.push_str(a);
            joined.push_str(b);
            match [a, b, &joined].into_iter().find(|t| !self.ids.contains_key(t)) {
                None => Ok((a, b)),
                Some(missing) => Err(bad(
                    "tokenizer-merge",
                    "merges",
                    format_args!("merge {i} ({merge:?}): {missing:?} is not a token"),
                )),
            }
        };
        self.vocab.merges.iter().enumerate().map(pair).collect()
    }

    /// Added tokens and the template of beginning and end.
    fn finish<'s>(&'s self, mut spec: Spec<'s>) -> Result<Vec<u8>> {
        let phi3 = self.vocab.model_name.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("phi-3") || name.contains("phi3")
        });
        let added =
            (0u32..).zip(self.vocab.tokens.iter().zip(&self.kinds)).filter(|(_, (_, kind))| kind.is_added());
        spec.added_tokens = added
            .map(|(id, (&content, &kind))| AddedToken {
                id,
                content,
                single_word: false,
                lstrip: false,
                rstrip: phi3 && !matches!(content, "<unk>" | "<s>" | "<|endoftext|>"),
                normalized: false,
                special: kind != Kind::UserDefined,
            })
            .collect();
        spec.post_processor = json::template(
            self.bos.filter(|_| adds_bos(self.vocab)),
            self.eos.filter(|_| self.vocab.add_eos == Some(true)),
        );
        spec.to_bytes()
    }
}

fn byte_level_decoder() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
}
