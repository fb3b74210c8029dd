//! A Hugging Face `tokenizer.json`, checked, and run by the `tokenizers` crate.
//!
//! The JSON is parsed here once, into the few component types that language
//! models use; whatever the library could panic on, loop over or blow up
//! (missing merge parts, unchecked double arrays, growing replacements) is
//! refused first. The file's post-processor is not used: a beginning-of-sequence
//! token is added by this project's one rule, [`SpecialTokens::add_bos`].

mod charsmap;
mod components;
mod model;
mod pieces;
#[cfg(test)]
mod tests;

use crate::{Error, Result, json_offset, model::SpecialTokens};
use components::{Decoder, Normalizer, PreTokenizer};
use model::{AddedToken, ModelSpec};
use pieces::PieceTable;
use std::collections::BTreeMap;

pub use pieces::StreamDecoder;

/// Largest `tokenizer.json` accepted, in bytes (Gemma's, the largest known, has 33 MB).
const MAX_JSON_BYTES: usize = 128 << 20;
/// Most tokens in a vocabulary (the largest known has 262,144).
const MAX_TOKENS: usize = 1 << 21;
/// Longest token, in bytes of its stored spelling.
const MAX_TOKEN_BYTES: usize = 4096;
/// Most merges of a BPE model.
const MAX_MERGES: usize = 1 << 22;
/// Most added tokens.
const MAX_ADDED: usize = 1 << 16;

/// Text to token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: PieceTable,
    bos: Option<u32>,
    add_bos: bool,
}

/// The parts of `tokenizer.json` that decide ids.
#[derive(serde::Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Option<Normalizer>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizer>,
    #[serde(default)]
    decoder: Option<Decoder>,
    model: ModelSpec,
}

impl Tokenizer {
    /// Loads `tokenizer.json` from the files of a tokenizer section.
    ///
    /// `vocab_size` is the number of embedding rows: ids of the base
    /// vocabulary must lie below it, and added tokens at or above it (Gemma 3
    /// 1B lists an image token without an embedding) are not recognised.
    ///
    /// # Errors
    /// Without a `tokenizer.json`, or when it is malformed, over a cap, or
    /// uses a component outside the supported set (named in the message).
    pub fn from_files(
        files: &BTreeMap<String, Vec<u8>>,
        tokens: &SpecialTokens,
        vocab_size: u32,
    ) -> Result<Self> {
        let json = files.get("tokenizer.json").ok_or_else(|| {
            Error::refused_unsupported("tokenizer-missing",
                "the tokenizer section has no tokenizer.json: convert the model again from a source that has a tokenizer",
            )
        })?;
        Self::from_json(json, tokens, vocab_size)
    }

    /// Loads the bytes of a `tokenizer.json`; see [`Tokenizer::from_files`].
    ///
    /// # Errors
    /// As [`Tokenizer::from_files`].
    pub fn from_json(json: &[u8], tokens: &SpecialTokens, vocab_size: u32) -> Result<Self> {
        if json.len() > MAX_JSON_BYTES {
            return Err(bad(
                "tokenizer-size",
                format_args!("{} bytes, at most {MAX_JSON_BYTES} are allowed", json.len()),
            ));
        }
        let file: TokenizerJson = serde_json::from_slice(json)
            .map_err(|e| bad("tokenizer-json", format_args!("{e}")).at(json_offset(json, &e)))?;
        for id in tokens.bos.iter().chain(&tokens.eos) {
            if *id >= vocab_size {
                return Err(Error::refused(
                    "tokenizer-special",
                    format!("special token id {id} is outside the vocabulary of {vocab_size}"),
                ));
            }
        }
        if file.added_tokens.len() > MAX_ADDED {
            return Err(bad(
                "tokenizer-size",
                format_args!(
                    "added_tokens has {} entries, at most {MAX_ADDED} are allowed",
                    file.added_tokens.len()
                ),
            ));
        }
        let normalizer = file.normalizer.map(Normalizer::build).transpose()?;
        let pre_tokenizer = file.pre_tokenizer.map(PreTokenizer::build).transpose()?;
        let decoding = components::decoding(file.decoder)?;

        let mut added = file.added_tokens;
        let vocabulary = file.model.build(&mut added, vocab_size)?;
        let pieces = PieceTable::new(vocabulary.tokens(), &added, &decoding);

        let mut inner = tokenizers::Tokenizer::new(vocabulary.model);
        inner
            .with_normalizer(normalizer)
            .map_err(|e| bad("tokenizer-component", format_args!("normalizer: {e}")))?;
        inner.with_pre_tokenizer(pre_tokenizer);
        inner
            .add_tokens(added.into_iter().map(AddedToken::into_library))
            .map_err(|e| bad("tokenizer-component", format_args!("added_tokens: {e}")))?;
        Ok(Self { inner, pieces, bos: tokens.bos, add_bos: tokens.add_bos })
    }

    /// Ids of `text`; special tokens spelled out in it are recognised.
    ///
    /// With `add_special`, a beginning-of-sequence id is put in front if the
    /// model wants one ([`SpecialTokens::add_bos`]) and the text does not
    /// already begin with it.
    ///
    /// # Errors
    /// When the vocabulary cannot express the text (no byte fallback and no
    /// unknown token).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::invalid(format!("the tokenizer cannot encode the text: {e}")))?;
        let ids = encoding.get_ids();
        let bos = self.bos.filter(|b| add_special && self.add_bos && ids.first() != Some(b));
        Ok(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// Ids of a rendered chat template: as [`Tokenizer::encode`] with specials,
    /// so that a template that writes the beginning-of-sequence token itself
    /// does not get a second one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>> {
        self.encode(rendered, true)
    }

    /// Text of `ids`. Invalid UTF-8 becomes U+FFFD; the space that
    /// SentencePiece puts in front of a text is taken off; with
    /// `skip_special`, special tokens leave no trace. Ids without a token
    /// (padding rows of the embedding) are empty.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special, true);
        let mut text = String::new();
        for &id in ids {
            stream.push(id, &mut text);
        }
        stream.finish(&mut text);
        text
    }

    /// A decoder that is fed one id at a time.
    ///
    /// `at_start`: the ids begin a text (a chat reply), so SentencePiece's
    /// leading space is dropped; pass `false` to continue a prompt's text.
    pub fn stream(&self, skip_special: bool, at_start: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(&self.pieces, skip_special, at_start)
    }

    /// Id of the token spelled `token` in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Spelling of `id` in the vocabulary: what a chat template gets as `bos_token`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Bytes that `id` stands for in a text, not necessarily whole characters;
    /// none for an id without a token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.piece(id).0
    }

    /// One past the largest id that has a token.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
}

/// An error of `tokenizer.json`.
fn bad(code: &'static str, what: std::fmt::Arguments<'_>) -> Error {
    Error::refused(code, format!("tokenizer.json: {what}"))
}
