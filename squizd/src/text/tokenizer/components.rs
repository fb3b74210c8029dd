//! Normalizer, pre-tokenizer and decoder: the allowed kinds, and their caps.
//!
//! Kinds outside these enums are refused by name. Regular expressions are
//! capped in length and run with fancy-regex's step limit; a normalizer's
//! worst-case growth is bounded before it is built.

use super::{bad, charsmap::Charsmap};
use crate::Result;
use serde::Deserialize;
use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    normalizers::{
        self as norm, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Strip,
        StripAccents, replace::ReplacePattern,
    },
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        metaspace::{Metaspace, PrependScheme},
        punctuation::Punctuation,
        sequence::Sequence,
        split::{Split, SplitPattern},
        whitespace::{Whitespace, WhitespaceSplit},
    },
};

/// Longest regular expression, in bytes.
const MAX_PATTERN: usize = 8192;
/// Longest replacement or prefix, in bytes.
const MAX_CONTENT: usize = 64;
/// Most steps of a normalizer or pre-tokenizer.
const MAX_STEPS: usize = 64;
/// Largest factor by which a normalizer may grow a text.
const MAX_GROWTH: usize = 4096;
/// Worst growth of a compatibility decomposition, in bytes (U+FDFA: 3 to 33).
const COMPAT_GROWTH: usize = 11;
/// Worst growth of a canonical decomposition, in bytes.
const CANONICAL_GROWTH: usize = 3;

/// A literal or a regular expression.
#[derive(Deserialize)]
pub(super) enum Pattern {
    String(String),
    Regex(String),
}

impl Pattern {
    fn check(&self) -> Result<()> {
        let (Self::String(s) | Self::Regex(s)) = self;
        if s.is_empty() || s.len() > MAX_PATTERN {
            return Err(bad(
                "tokenizer-pattern",
                format_args!("a pattern has {} bytes, allowed 1..={MAX_PATTERN}", s.len()),
            ));
        }
        Ok(())
    }
}

/// Text to text, before splitting.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Nmt,
    Lowercase,
    StripAccents,
    Strip {
        strip_left: bool,
        strip_right: bool,
    },
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Precompiled {
        #[serde(default)]
        precompiled_charsmap: Option<String>,
    },
    Sequence {
        normalizers: Vec<Normalizer>,
    },
}

impl Normalizer {
    /// Checks caps and growth, and builds the library's form.
    pub(super) fn build(self) -> Result<NormalizerWrapper> {
        let (mut steps, mut growth) = (0, 1usize);
        let built = self.convert(&mut steps, &mut growth)?;
        if growth > MAX_GROWTH {
            return Err(bad(
                "tokenizer-growth",
                format_args!("normalizer: a text may grow {growth} times, at most {MAX_GROWTH} is allowed"),
            ));
        }
        Ok(built)
    }

    fn convert(self, steps: &mut usize, growth: &mut usize) -> Result<NormalizerWrapper> {
        count_step(steps)?;
        let mut grow = |factor: usize| *growth = growth.saturating_mul(factor.max(1));
        Ok(match self {
            Self::Nfc => {
                grow(CANONICAL_GROWTH);
                NFC.into()
            }
            Self::Nfd => {
                grow(CANONICAL_GROWTH);
                NFD.into()
            }
            Self::Nfkc => {
                grow(COMPAT_GROWTH);
                NFKC.into()
            }
            Self::Nfkd => {
                grow(COMPAT_GROWTH);
                NFKD.into()
            }
            Self::Nmt => Nmt.into(),
            Self::Lowercase => {
                grow(CANONICAL_GROWTH);
                Lowercase.into()
            }
            Self::StripAccents => StripAccents.into(),
            Self::Strip { strip_left, strip_right } => Strip::new(strip_left, strip_right).into(),
            Self::Prepend { prepend } => {
                check_content(&prepend)?;
                Prepend::new(prepend).into()
            }
            Self::Replace { pattern, content } => {
                pattern.check()?;
                check_content(&content)?;
                let pattern = match pattern {
                    Pattern::String(s) => {
                        grow(content.len().div_ceil(s.len()));
                        ReplacePattern::String(s)
                    }
                    // An empty match may insert the content before every byte.
                    Pattern::Regex(r) => {
                        grow(content.len().saturating_add(1));
                        ReplacePattern::Regex(r)
                    }
                };
                Replace::new(pattern, content)
                    .map_err(|e| bad("tokenizer-pattern", format_args!("normalizer Replace: {e}")))?
                    .into()
            }
            Self::Precompiled { precompiled_charsmap: None } => norm::Sequence::new(Vec::new()).into(),
            Self::Precompiled { precompiled_charsmap: Some(base64) } => {
                let map = Charsmap::from_base64(&base64)?;
                grow(map.longest_replacement());
                let map = Precompiled::from(map.bytes())
                    .map_err(|e| bad("tokenizer-charsmap", format_args!("precompiled_charsmap: {e}")))?;
                map.into()
            }
            Self::Sequence { normalizers } => {
                let built =
                    normalizers.into_iter().map(|n| n.convert(steps, growth)).collect::<Result<Vec<_>>>()?;
                norm::Sequence::new(built).into()
            }
        })
    }
}

/// Text to words.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum PreTokenizer {
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    Metaspace {
        replacement: char,
        #[serde(default)]
        add_prefix_space: Option<bool>,
        #[serde(default)]
        prepend_scheme: Option<PrependScheme>,
        #[serde(default)]
        split: Option<bool>,
    },
    Punctuation {
        #[serde(default = "isolated")]
        behavior: SplitDelimiterBehavior,
    },
    Split {
        pattern: Pattern,
        behavior: SplitDelimiterBehavior,
        #[serde(default)]
        invert: bool,
    },
    Whitespace,
    WhitespaceSplit,
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
}

fn yes() -> bool {
    true
}

fn isolated() -> SplitDelimiterBehavior {
    SplitDelimiterBehavior::Isolated
}

impl PreTokenizer {
    /// Checks caps, and builds the library's form.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper> {
        self.convert(&mut 0)
    }

    fn convert(self, steps: &mut usize) -> Result<PreTokenizerWrapper> {
        count_step(steps)?;
        Ok(match self {
            Self::ByteLevel { add_prefix_space, use_regex } => {
                ByteLevel::new(add_prefix_space, true, use_regex).into()
            }
            Self::Digits { individual_digits } => Digits::new(individual_digits).into(),
            Self::Metaspace { replacement, add_prefix_space, prepend_scheme, split } => {
                let scheme = scheme(add_prefix_space, prepend_scheme);
                Metaspace::new(replacement, scheme, split.unwrap_or(true)).into()
            }
            Self::Punctuation { behavior } => Punctuation::new(behavior).into(),
            Self::Split { pattern, behavior, invert } => {
                pattern.check()?;
                let pattern = match pattern {
                    Pattern::String(s) => SplitPattern::String(s),
                    Pattern::Regex(r) => SplitPattern::Regex(r),
                };
                Split::new(pattern, behavior, invert)
                    .map_err(|e| bad("tokenizer-pattern", format_args!("pre_tokenizer Split: {e}")))?
                    .into()
            }
            Self::Whitespace => Whitespace.into(),
            Self::WhitespaceSplit => WhitespaceSplit.into(),
            Self::Sequence { pretokenizers } => {
                let built =
                    pretokenizers.into_iter().map(|p| p.convert(steps)).collect::<Result<Vec<_>>>()?;
                Sequence::new(built).into()
            }
        })
    }
}

/// `prepend_scheme` replaced `add_prefix_space`; the older key still means "never" when false.
fn scheme(add_prefix_space: Option<bool>, prepend_scheme: Option<PrependScheme>) -> PrependScheme {
    match (add_prefix_space, prepend_scheme) {
        (Some(false), _) => PrependScheme::Never,
        (_, Some(scheme)) => scheme,
        _ => PrependScheme::Always,
    }
}

/// Tokens to text: only the kinds whose effect is a map from one token to its
/// bytes, so that streaming is exact.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    ByteLevel,
    ByteFallback,
    Fuse,
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    Metaspace {
        replacement: char,
        #[serde(default)]
        add_prefix_space: Option<bool>,
        #[serde(default)]
        prepend_scheme: Option<PrependScheme>,
    },
    Sequence {
        decoders: Vec<Decoder>,
    },
}

/// How a token's spelling becomes bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoding {
    /// The spelling is GPT-2's alphabet of 256 printable characters.
    pub(super) byte_level: bool,
    /// `<0x0A>` stands for one byte.
    pub(super) byte_fallback: bool,
    /// This string stands for that one.
    pub(super) replace: Option<(String, String)>,
    /// One space at the start of a text is not part of it.
    pub(super) strip_start: bool,
}

/// Flattens a decoder.
pub(super) fn decoding(decoder: Option<Decoder>) -> Result<Decoding> {
    let mut flat = Decoding::default();
    if let Some(decoder) = decoder {
        flatten(decoder, &mut flat, &mut 0)?;
    }
    Ok(flat)
}

fn flatten(decoder: Decoder, flat: &mut Decoding, steps: &mut usize) -> Result<()> {
    count_step(steps)?;
    match decoder {
        Decoder::ByteLevel => flat.byte_level = true,
        Decoder::ByteFallback => flat.byte_fallback = true,
        Decoder::Fuse => {}
        Decoder::Replace { pattern: Pattern::String(pattern), content } => {
            check_content(&pattern)?;
            check_content(&content)?;
            if flat.replace.is_some() || pattern.is_empty() {
                return Err(bad(
                    "tokenizer-component",
                    format_args!("decoder: more than one Replace, or one of nothing"),
                ));
            }
            flat.replace = Some((pattern, content));
        }
        Decoder::Replace { pattern: Pattern::Regex(r), .. } => {
            return Err(bad(
                "tokenizer-component",
                format_args!("decoder Replace: regex {r:?} is not supported, only a string"),
            ));
        }
        Decoder::Strip { content: ' ', start, stop: 0 } if start <= 1 => flat.strip_start |= start == 1,
        Decoder::Strip { content, start, stop } => {
            return Err(bad(
                "tokenizer-component",
                format_args!(
                    "decoder Strip of {content:?}, start {start}, stop {stop}: only one leading space is supported"
                ),
            ));
        }
        Decoder::Metaspace { replacement, add_prefix_space, prepend_scheme } => {
            flat.replace = Some((replacement.to_string(), " ".into()));
            flat.strip_start |= scheme(add_prefix_space, prepend_scheme) != PrependScheme::Never;
        }
        Decoder::Sequence { decoders } => {
            for d in decoders {
                flatten(d, flat, steps)?;
            }
        }
    }
    Ok(())
}

fn count_step(steps: &mut usize) -> Result<()> {
    *steps += 1;
    if *steps > MAX_STEPS {
        return Err(bad("tokenizer-component", format_args!("a component has more than {MAX_STEPS} steps")));
    }
    Ok(())
}

fn check_content(content: &str) -> Result<()> {
    if content.len() > MAX_CONTENT {
        return Err(bad(
            "tokenizer-growth",
            format_args!("a replacement has {} bytes, at most {MAX_CONTENT} are allowed", content.len()),
        ));
    }
    Ok(())
}
