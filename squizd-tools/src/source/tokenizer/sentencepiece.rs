//! `tokenizer.model`: SentencePiece's protobuf (`sentencepiece_model.proto`).

use super::{
    checks::{MAX_TOKENS, check_charsmap, check_scores, index_tokens},
    json::{self, AddedToken},
    pieces::{Kind, PieceModel, Prefix},
    protobuf::{Field, Fields, error},
};
use serde::Deserialize;
use squizd::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// Largest file accepted (Gemma's, the largest known, has 4.7 MB).
const MAX_BYTES: usize = 64 << 20;

/// The parts of `tokenizer_config.json` that change token ids.
#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, ConfigToken>,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    add_eos_token: Option<bool>,
    #[serde(default)]
    add_prefix_space: Option<bool>,
    #[serde(default)]
    legacy: Option<bool>,
}
#[derive(Deserialize)]
struct ConfigToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// Builds `tokenizer.json` from `tokenizer.model`.
///
/// `config` is `tokenizer_config.json`, `added` is `added_tokens.json` (token
/// to id); both may be absent. A token that they give the id of a piece
/// replaces that piece, as transformers does.
///
/// # Errors
/// When a file is malformed (naming byte or index), over a cap, or of a model
/// type other than BPE and unigram; and when an added token leaves a gap.
pub fn from_sentencepiece(model: &[u8], config: Option<&[u8]>, added: Option<&[u8]>) -> Result<Vec<u8>> {
    if model.len() > MAX_BYTES {
        return Err(Error::refused(
            "tokenizer-size",
            format!("tokenizer.model has {} bytes, at most {MAX_BYTES} are allowed", model.len()),
        ));
    }
    let mut config: Config = parse_json("tokenizer_config.json", config)?;
    let more: BTreeMap<String, u32> = parse_json("added_tokens.json", added)?;
    for (content, id) in more {
        config.added_tokens_decoder.entry(id).or_insert(ConfigToken {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        });
    }
    let proto = Proto::parse(model)?;
    proto.build(&config)
}

fn parse_json<T: Default + for<'de> Deserialize<'de>>(name: &str, bytes: Option<&[u8]>) -> Result<T> {
    bytes.map_or_else(
        || Ok(T::default()),
        |b| serde_json::from_slice(b).map_err(|e| Error::refused("tokenizer-json", format!("{name}: {e}"))),
    )
}

/// The message `ModelProto`.
struct Proto<'a> {
    tokens: Vec<&'a str>,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    trainer: Trainer,
    normalizer: Normalizer<'a>,
}

/// `TrainerSpec`, with the defaults of the schema.
struct Trainer {
    /// Field 3: 1 unigram, 2 BPE, 3 word, 4 character.
    model_type: u64,
    /// Field 24.
    whitespace_as_suffix: bool,
    /// Field 35.
    byte_fallback: bool,
    /// Field 41; absent models have -1, which protobuf writes as 2^64 - 1.
    bos: u64,
    /// Field 42.
    eos: u64,
}

/// `NormalizerSpec`, with the defaults of the schema.
struct Normalizer<'a> {
    /// Field 2.
    charsmap: &'a [u8],
    /// Field 3.
    add_dummy_prefix: bool,
    /// Field 4.
    remove_extra_whitespaces: bool,
    /// Field 5.
    escape_whitespaces: bool,
}

impl<'a> Proto<'a> {
    fn parse(file: &'a [u8]) -> Result<Self> {
        let mut proto = Self {
            tokens: Vec::new(),
            scores: Vec::new(),
            kinds: Vec::new(),
            trainer: Trainer {
                model_type: 1,
                whitespace_as_suffix: false,
                byte_fallback: false,
                bos: 1,
                eos: 2,
            },
            normalizer: Normalizer {
                charsmap: &[],
                add_dummy_prefix: true,
                remove_extra_whitespaces: true,
                escape_whitespaces: true,
            },
        };
        let mut fields = Fields::new(file, 0);
        while let Some((number, field, at)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(message)) => proto.piece(message, at)?,
                (2, Field::Bytes(message)) => proto.trainer.read(message, at)?,
                (3, Field::Bytes(message)) => proto.normalizer.read(message, at)?,
                (1..=3, _) => return Err(error(at, format_args!("field {number} is not a message"))),
                _ => {}
            }
        }
        if proto.tokens.is_empty() {
            return Err(error(0, format_args!("no pieces: this is not a SentencePiece model")));
        }
        Ok(proto)
    }

    /// `SentencePiece`: 1 spelling, 2 score, 3 type.
    fn piece(&mut self, message: &'a [u8], at: usize) -> Result<()> {
        let id = self.tokens.len();
        if id == MAX_TOKENS {
            return Err(error(at, format_args!("more than {MAX_TOKENS} pieces")));
        }
        let (mut token, mut score, mut kind) = ("", 0.0, Kind::Normal);
        let mut fields = Fields::new(message, at);
        while let Some((number, field, at)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(bytes)) => {
                    token = std::str::from_utf8(bytes)
                        .map_err(|_| error(at, format_args!("piece {id} is not UTF-8")))?;
                }
                (2, Field::Fixed32(bits)) => score = f32::from_bits(bits),
                (3, Field::Varint(n @ 1..=6)) => {
                    kind = i64::try_from(n).ok().and_then(Kind::from_number).unwrap_or(kind);
                }
                (1..=3, other) => {
                    return Err(error(at, format_args!("piece {id}: field {number} is {other:?}")));
                }
                _ => {}
            }
        }
        self.tokens.push(token);
        self.scores.push(score);
        self.kinds.push(kind);
        Ok(())
    }

    fn build(&self, config: &Config) -> Result<Vec<u8>> {
        let unsupported = |what: &str| {
            Err(Error::refused_unsupported(
                "tokenizer-component",
                format!("tokenizer.model: {what} is not supported"),
            ))
        };
        let unigram = match self.trainer.model_type {
            1 => true,
            2 => false,
            3 => return unsupported("a word model"),
            4 => return unsupported("a character model"),
            _ => return unsupported("this model type"),
        };
        if self.trainer.whitespace_as_suffix {
            return unsupported("treat_whitespace_as_suffix");
        }
        if !self.normalizer.escape_whitespaces {
            return unsupported("escape_whitespaces = false");
        }
        check_scores(&self.scores)?;
        check_charsmap(self.normalizer.charsmap)?;

        let (mut tokens, mut scores, mut kinds) =
            (self.tokens.clone(), self.scores.clone(), self.kinds.clone());
        for (&id, added) in &config.added_tokens_decoder {
            let kind = if added.special { Kind::Control } else { Kind::UserDefined };
            match id as usize {
                i if i < tokens.len() => {
                    if let Some((token, old)) = tokens.get_mut(i).zip(kinds.get_mut(i)) {
                        *token = &added.content;
                        if !matches!(old, Kind::Unknown | Kind::Byte) {
                            *old = kind;
                        }
                    }
                }
                i if i == tokens.len() => {
                    tokens.push(&added.content);
                    scores.push(0.0);
                    kinds.push(kind);
                }
                _ => {
                    return Err(Error::refused(
                        "tokenizer-id",
                        format!(
                            "tokenizer_config.json: added token {:?} has id {id}, which leaves a gap after {} tokens",
                            added.content,
                            tokens.len()
                        ),
                    ));
                }
            }
        }
        let ids = index_tokens(&tokens).map_err(|e| e.within("tokenizer.model"))?;
        let prefix =
            match (self.normalizer.add_dummy_prefix && config.add_prefix_space != Some(false), config.legacy)
            {
                (false, _) => Prefix::None,
                // Unigram tokenizers (T5) never had the legacy treatment of parts.
                (true, Some(false)) => Prefix::Start,
                (true, _) => Prefix::EveryPart,
            };
        let pieces = PieceModel {
            unknown: (0u32..).zip(&kinds).find(|(_, k)| **k == Kind::Unknown).map(|(id, _)| id),
            tokens: tokens.clone(),
            scores,
            kinds: kinds.clone(),
            unigram,
            byte_fallback: self.trainer.byte_fallback,
            prefix,
            remove_extra_whitespaces: self.normalizer.remove_extra_whitespaces,
            charsmap: self.normalizer.charsmap,
        };
        let bos = special(self.trainer.bos, &tokens).filter(|_| config.add_bos_token.unwrap_or(!unigram));
        let eos = special(self.trainer.eos, &tokens).filter(|_| config.add_eos_token.unwrap_or(unigram));
        let pieces = pieces.checked()?;
        let mut spec = pieces.spec()?;
        spec.added_tokens = added_tokens(&tokens, &kinds, config, &ids);
        spec.post_processor = json::template(bos, eos);
        spec.to_bytes()
    }
}

fn special<'a>(id: u64, tokens: &[&'a str]) -> Option<(u32, &'a str)> {
    let id = u32::try_from(id).ok()?;
    Some((id, tokens.get(id as usize)?))
}

/// Every piece that is cut out of the text, with the flags of the configuration.
fn added_tokens<'a>(
    tokens: &[&'a str],
    kinds: &[Kind],
    config: &Config,
    ids: &HashMap<&str, u32>,
) -> Vec<AddedToken<'a>> {
    let mut added: Vec<AddedToken<'a>> = Vec::new();
    for (&content, &kind) in tokens.iter().zip(kinds) {
        let Some(&id) = ids.get(content) else { continue };
        let flags = config.added_tokens_decoder.get(&id);
        if kind.is_added() || flags.is_some() {
            added.push(AddedToken {
                id,
                content,
                single_word: flags.is_some_and(|f| f.single_word),
                lstrip: flags.is_some_and(|f| f.lstrip),
                rstrip: flags.is_some_and(|f| f.rstrip),
                normalized: flags.is_some_and(|f| f.normalized),
                special: flags.map_or(kind != Kind::UserDefined, |f| f.special),
            });
        }
    }
    added
}

/// Stores `value`; false where the field's type was not understood.
fn set<T>(place: &mut T, value: Option<T>) -> bool {
    value.map(|v| *place = v).is_some()
}

fn number(field: Field<'_>) -> Option<u64> {
    match field {
        Field::Varint(v) => Some(v),
        _ => None,
    }
}

fn flag(field: Field<'_>) -> Option<bool> {
    number(field).map(|v| v != 0)
}

impl Trainer {
    fn read(&mut self, message: &[u8], at: usize) -> Result<()> {
        let mut fields = Fields::new(message, at);
        while let Some((field, value, at)) = fields.next()? {
            let understood = match field {
                3 => set(&mut self.model_type, number(value)),
                24 => set(&mut self.whitespace_as_suffix, flag(value)),
                35 => set(&mut self.byte_fallback, flag(value)),
                41 => set(&mut self.bos, number(value)),
                42 => set(&mut self.eos, number(value)),
                _ => true,
            };
            if !understood {
                return Err(error(at, format_args!("trainer_spec field {field} is not a number")));
            }
        }
        Ok(())
    }
}

impl<'a> Normalizer<'a> {
    fn read(&mut self, message: &'a [u8], at: usize) -> Result<()> {
        let mut fields = Fields::new(message, at);
        while let Some((field, value, at)) = fields.next()? {
            let understood = match (field, value) {
                (2, Field::Bytes(map)) => set(&mut self.charsmap, Some(map)),
                (2, _) => false,
                (3, _) => set(&mut self.add_dummy_prefix, flag(value)),
                (4, _) => set(&mut self.remove_extra_whitespaces, flag(value)),
                (5, _) => set(&mut self.escape_whitespaces, flag(value)),
                _ => true,
            };
            if !understood {
                return Err(error(at, format_args!("normalizer_spec field {field} has the wrong type")));
            }
        }
        Ok(())
    }
}
