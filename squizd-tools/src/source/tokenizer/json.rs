//! Writing `tokenizer.json`: the schema of the Hugging Face `tokenizers` library, version 1.0.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};
use squizd::{Error, Result};

/// Everything a `tokenizer.json` holds.
#[derive(Serialize)]
pub(super) struct Spec<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    pub(super) added_tokens: Vec<AddedToken<'a>>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Model<'a>,
}

/// A token cut out of the text before the model sees it.
#[derive(Serialize)]
pub(super) struct AddedToken<'a> {
    pub(super) id: u32,
    pub(super) content: &'a str,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// The vocabulary; ids are positions.
#[derive(Serialize)]
#[serde(tag = "type")]
pub(super) enum Model<'a> {
    /// Byte-pair encoding.
    #[serde(rename = "BPE")]
    Bpe {
        dropout: (),
        unk_token: Option<&'a str>,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        #[serde(serialize_with = "as_map")]
        vocab: &'a [&'a str],
        merges: Vec<(&'a str, &'a str)>,
    },
    /// Unigram language model.
    Unigram { unk_id: u32, vocab: Vec<(&'a str, f64)>, byte_fallback: bool },
}

impl<'a> Model<'a> {
    /// A BPE model over `vocab`; neighbouring unknown characters become one
    /// `unk_token`, or with `byte_fallback` `<0x..>` tokens.
    pub(super) fn bpe(
        vocab: &'a [&'a str],
        merges: Vec<(&'a str, &'a str)>,
        unk_token: Option<&'a str>,
        byte_fallback: bool,
        ignore_merges: bool,
    ) -> Self {
        Self::Bpe {
            dropout: (),
            unk_token,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: unk_token.is_some(),
            byte_fallback,
            ignore_merges,
            vocab,
            merges,
        }
    }
}

fn as_map<S: Serializer>(vocab: &&[&str], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(vocab.len()))?;
    for (id, token) in vocab.iter().enumerate() {
        map.serialize_entry(token, &id)?;
    }
    map.end()
}

impl<'a> Spec<'a> {
    /// A tokenizer without normalizer, splitter or post-processor.
    pub(super) fn new(model: Model<'a>, decoder: Value) -> Self {
        Self {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: Vec::new(),
            normalizer: Value::Null,
            pre_tokenizer: Value::Null,
            post_processor: Value::Null,
            decoder,
            model,
        }
    }

    /// The bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid(format!("tokenizer.json: {e}")))
    }
}

/// Puts `bos` before and `eos` after a text; null when neither is wanted.
pub(super) fn template(bos: Option<(u32, &str)>, eos: Option<(u32, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: Option<(u32, &str)>, type_id: u32| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": type_id}}))
    };
    let around = |name: &str, type_id: u32| {
        let sequence = json!({"Sequence": {"id": name, "type_id": type_id}});
        special(bos, type_id).into_iter().chain([sequence]).chain(special(eos, type_id)).collect::<Vec<_>>()
    };
    let mut tokens = serde_json::Map::new();
    for (id, text) in bos.into_iter().chain(eos) {
        tokens.insert(text.into(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let mut pair = around("A", 0);
    pair.extend(around("B", 1));
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
}

/// A regular-expression split that keeps the matches as words of their own.
pub(super) fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// GPT-2's byte alphabet, with its word-splitting regex or without.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// The decoder of SentencePiece vocabularies.
pub(super) fn sentencepiece_decoder(strip_space: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip_space {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// A space put in front of a text, not of its later parts, and spaces as `▁`.
pub(super) fn metaspace_at_start() -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false})
}

/// SentencePiece's normalizer: its character map, runs of spaces as one and
/// none at the ends, then for `escape` a space in front of every part
/// (`Some(true)`) and spaces as `▁`.
pub(super) fn sentencepiece_normalizer(
    charsmap: &[u8],
    remove_extra_whitespaces: bool,
    escape: Option<bool>,
) -> Value {
    let mut steps = Vec::new();
    if !charsmap.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(charsmap)}));
    }
    if remove_extra_whitespaces {
        steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if escape == Some(true) {
        steps.push(json!({"type": "Prepend", "prepend": "▁"}));
    }
    if escape.is_some() {
        steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
    }
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "normalizers": steps}),
    }
}

/// Standard base64 with padding, the form of `precompiled_charsmap`.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let sextet = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vectors() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xfb\xff", "+/8=")]
        {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn template_names_every_token_it_uses() {
        assert_eq!(template(None, None), Value::Null);
        let t = template(Some((1, "<s>")), None);
        assert_eq!(t["single"][0]["SpecialToken"]["id"], "<s>");
        assert_eq!(t["special_tokens"]["<s>"]["ids"][0], 1);
        assert_eq!(t["pair"].as_array().unwrap().len(), 4);
    }
}
