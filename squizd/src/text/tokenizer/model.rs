//! The vocabulary: BPE or unigram, with every reference inside it checked.

use super::{MAX_MERGES, MAX_TOKEN_BYTES, MAX_TOKENS, bad};
use crate::Error;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use squizd_spec::Short;
use std::{borrow::Cow, fmt};
use tokenizers::{
    ModelWrapper,
    models::{
        bpe::{BPE, Vocab},
        unigram::Unigram,
    },
};

type Result<T, E = Error> = std::result::Result<T, E>;

/// An entry of `added_tokens`: recognised in the text before anything else.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

impl AddedToken {
    /// The library's form.
    pub(super) fn into_library(self) -> tokenizers::AddedToken {
        tokenizers::AddedToken {
            content: self.content,
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special: self.special,
        }
    }
}

/// `model` of `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct ModelSpec {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: VocabSpec,
    #[serde(default, deserialize_with = "merges")]
    merges: Vec<(String, String)>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<usize>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
}

/// A map from spelling to id (BPE), or a list of spellings with scores (unigram).
enum VocabSpec {
    Map(Vocab),
    List(Vec<(String, f64)>),
}

/// A model ready to use, and the spelling of every id.
pub(super) struct Vocabulary {
    pub(super) model: ModelWrapper,
    spellings: Vec<String>,
}

impl Vocabulary {
    /// Spelling by id; empty where no token has the id.
    pub(super) fn tokens(&self) -> &[String] {
        &self.spellings
    }
}

impl ModelSpec {
    /// Checks the vocabulary against `vocab_size` and builds the model.
    ///
    /// Added tokens that the vocabulary lacks are put into it under their
    /// declared ids (the library would number them itself); those at or above
    /// `vocab_size` are removed from `added`.
    pub(super) fn build(self, added: &mut Vec<AddedToken>, vocab_size: u32) -> Result<Vocabulary> {
        for (key, value) in [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if value.as_ref().is_some_and(|v| !v.is_empty()) {
                return Err(bad(
                    "tokenizer-component",
                    format_args!("model.{key} is {value:?}: not used by language models"),
                ));
            }
        }
        if self.dropout.is_some_and(|p| p != 0.0) {
            return Err(bad(
                "tokenizer-component",
                format_args!("model.dropout is set: encoding would be random"),
            ));
        }
        added.retain(|t| t.id < vocab_size);
        for t in added.iter() {
            check_spelling(&t.content, t.id)?;
        }
        match (self.kind.as_deref(), self.vocab) {
            (Some("BPE") | None, VocabSpec::Map(mut vocab)) => {
                let spellings = place(&mut vocab, added, vocab_size)?;
                check_merges(&vocab, &self.merges)?;
                if let Some(unk) = &self.unk_token
                    && !vocab.contains_key(unk)
                {
                    return Err(bad(
                        "tokenizer-special",
                        format_args!("model.unk_token {unk:?} is not in the vocabulary"),
                    ));
                }
                let mut builder = BPE::builder()
                    .vocab_and_merges(vocab, self.merges)
                    .fuse_unk(self.fuse_unk.unwrap_or(false))
                    .byte_fallback(self.byte_fallback.unwrap_or(false))
                    .ignore_merges(self.ignore_merges.unwrap_or(false));
                if let Some(unk) = self.unk_token {
                    builder = builder.unk_token(unk);
                }
                let model =
                    builder.build().map_err(|e| bad("tokenizer-component", format_args!("model: {e}")))?;
                Ok(Vocabulary { model: model.into(), spellings })
            }
            (Some("Unigram"), VocabSpec::List(mut list)) => {
                let spellings = place_in_list(&mut list, added, vocab_size)?;
                if self.unk_id.is_none_or(|id| id >= list.len()) {
                    return Err(bad(
                        "tokenizer-special",
                        format_args!("model.unk_id is {:?}, allowed 0..{}", self.unk_id, list.len()),
                    ));
                }
                let model = Unigram::from(list, self.unk_id, self.byte_fallback.unwrap_or(false))
                    .map_err(|e| bad("tokenizer-component", format_args!("model: {e}")))?;
                Ok(Vocabulary { model: model.into(), spellings })
            }
            (Some("BPE" | "Unigram") | None, _) => Err(bad(
                "tokenizer-component",
                format_args!("model.vocab has the wrong form: BPE needs a map, Unigram a list"),
            )),
            (Some(other), _) => Err(bad(
                "tokenizer-component",
                format_args!("model.type is {other:?}, supported are BPE and Unigram"),
            )),
        }
    }
}

/// Orders a BPE vocabulary by id, adding `added`.
fn place(vocab: &mut Vocab, added: &[AddedToken], vocab_size: u32) -> Result<Vec<String>> {
    for t in added {
        let id = *vocab.entry(t.content.clone()).or_insert(t.id);
        if id != t.id {
            return Err(bad(
                "tokenizer-id",
                format_args!("added token {:?} has id {} but the vocabulary gives it {id}", t.content, t.id),
            ));
        }
    }
    let len = vocab.values().max().map_or(0, |&id| id as usize + 1);
    if len > MAX_TOKENS || len > vocab_size as usize {
        return Err(bad(
            "tokenizer-size",
            format_args!(
                "the vocabulary has ids up to {}, but the model has {vocab_size} embedding rows (limit {MAX_TOKENS})",
                len - 1
            ),
        ));
    }
    let mut spellings = vec![String::new(); len];
    for (token, &id) in vocab.iter() {
        check_spelling(token, id)?;
        let Some(slot) = spellings.get_mut(id as usize) else { continue };
        if !slot.is_empty() {
            // The map's order is random: name the pair in a stable order.
            let (a, b) = if slot.as_str() < token.as_str() { (&*slot, token) } else { (token, &*slot) };
            return Err(bad("tokenizer-duplicate", format_args!("tokens {a:?} and {b:?} share id {id}")));
        }
        slot.clone_from(token);
    }
    Ok(spellings)
}

/// Appends `added` to a unigram list, whose ids are positions.
fn place_in_list(
    list: &mut Vec<(String, f64)>,
    added: &mut [AddedToken],
    vocab_size: u32,
) -> Result<Vec<String>> {
    added.sort_by_key(|t| t.id);
    for t in added.iter() {
        let id = t.id as usize;
        match list.get(id) {
            Some((spelling, _)) if *spelling == t.content => {}
            Some((spelling, _)) => {
                return Err(bad(
                    "tokenizer-id",
                    format_args!(
                        "added token {:?} has id {id}, where the vocabulary has {spelling:?}",
                        t.content
                    ),
                ));
            }
            // Added tokens are cut out of the text before the model sees it,
            // so their score only has to be finite.
            None if id == list.len() => list.push((t.content.clone(), 0.0)),
            None => {
                return Err(bad(
                    "tokenizer-id",
                    format_args!(
                        "added token {:?} has id {id}, which leaves a gap after {} tokens",
                        t.content,
                        list.len()
                    ),
                ));
            }
        }
    }
    if list.len() > vocab_size as usize {
        return Err(bad(
            "tokenizer-size",
            format_args!(
                "the vocabulary has {} tokens, but the model has {vocab_size} embedding rows",
                list.len()
            ),
        ));
    }
    let mut seen = Vocab::default();
    for (id, (token, score)) in list.iter().enumerate() {
        check_spelling(token, id as u32)?;
        if !score.is_finite() {
            return Err(bad("tokenizer-score", format_args!("token {id} {token:?} has score {score}")));
        }
        if let Some(first) = seen.insert(token.clone(), id as u32) {
            return Err(bad(
                "tokenizer-duplicate",
                format_args!("token {token:?} has two ids, {first} and {id}"),
            ));
        }
    }
    Ok(list.iter().map(|(token, _)| token.clone()).collect())
}

fn check_spelling(token: &str, id: u32) -> Result<()> {
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(bad(
            "tokenizer-token",
            format_args!("token {id} has {} bytes, allowed 1..={MAX_TOKEN_BYTES}", token.len()),
        ));
    }
    Ok(())
}

/// Both parts of a merge, and their concatenation, must be tokens: the library
/// copies parts into a buffer of the longest token's size.
fn check_merges(vocab: &Vocab, merges: &[(String, String)]) -> Result<()> {
    let mut joined = String::new();
    for (i, (a, b)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(a);
        joined.push_str(b);
        if let Some(missing) = [a, b, &joined].into_iter().find(|t| !vocab.contains_key(*t)) {
            return Err(bad(
                "tokenizer-merge",
                format_args!("merge {i} ({a:?}, {b:?}): {missing:?} is not in the vocabulary"),
            ));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for VocabSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = VocabSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id or a list of [token, score]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabSpec, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    if vocab.len() == MAX_TOKENS {
                        return Err(A::Error::custom(format!("vocab has more than {MAX_TOKENS} tokens")));
                    }
                    if vocab.contains_key(&token) {
                        return Err(A::Error::custom(format!("vocab lists {:?} twice", Short(&token))));
                    }
                    vocab.insert(token, id);
                }
                Ok(VocabSpec::Map(vocab))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VocabSpec, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = seq.next_element::<(String, f64)>()? {
                    if list.len() == MAX_TOKENS {
                        return Err(A::Error::custom(format!("vocab has more than {MAX_TOKENS} tokens")));
                    }
                    list.push(entry);
                }
                Ok(VocabSpec::List(list))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// One merge, `["a", "b"]` or the older `"a b"`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, [\"a\", \"b\"] or \"a b\"")
            }

            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Merge, E> {
                match s.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(Merge(a.into(), b.into())),
                    _ => Err(E::custom(format!(
                        "merge {:?} is not two tokens with one space between",
                        Short(s)
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut part =
                    || seq.next_element::<Cow<'de, str>>()?.ok_or_else(|| A::Error::invalid_length(1, &"2"));
                let merge = Merge(part()?.into_owned(), part()?.into_owned());
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::invalid_length(3, &"2"));
                }
                Ok(merge)
            }
        }
        deserializer.deserialize_any(V)
    }
}

fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct V;
    impl<'de> Visitor<'de> for V {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of merges")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut merges = Vec::new();
            while let Some(Merge(a, b)) = seq.next_element()? {
                if merges.len() == MAX_MERGES {
                    return Err(A::Error::custom(format!("more than {MAX_MERGES} merges")));
                }
                merges.push((a, b));
            }
            Ok(merges)
        }
    }
    deserializer.deserialize_seq(V)
}
