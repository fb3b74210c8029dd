//! `tokenizer.ggml.pre`: which regular expressions split a text into words.
//!
//! GGUF stores only a name; llama.cpp's `llama-vocab.cpp` knows what each one
//! means, in some cases by an approximation that its regex engine needs. Here
//! the expressions are the ones of the models' own `tokenizer.json`, as are the
//! Unicode normalizers, which llama.cpp leaves out.

use super::json::{byte_level, split};
use serde_json::{Value, json};

/// How byte-level BPE prepares a text.
pub(super) struct Preparation {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// A beginning-of-sequence token is added unless the file says otherwise.
    pub(super) add_bos: bool,
}

/// English contractions, then words with one leading mark, digits one at a
/// time or in threes, punctuation with its line ends, line ends, spaces.
macro_rules! gpt4 {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// The same with words that break where lower case turns to upper.
macro_rules! cased {
    ($suffix:literal, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const LLAMA3: &str = gpt4!(r"\p{N}{1,3}");
const QWEN2: &str = gpt4!(r"\p{N}");
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = cased!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}");
const TEKKEN: &str = cased!("", r"\p{N}");
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Cased letters, as the model lists them; escaped, because editors normalise some of them.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\
    \u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\
    \u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\
    \u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\
    \u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\
    \u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\
    \u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\
    \u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\
    \u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\
    \u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\
    \u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\
    \u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\
    \u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\
    \u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";
const DEEPSEEK_CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What `pre` asks for; `None` for a name that is not known.
pub(super) fn preparation(pre: &str) -> Option<Preparation> {
    let nfc = || json!({"type": "NFC"});
    // Split by these expressions in turn, then spell bytes in the alphabet.
    let regexes = |all: &[&str]| {
        let steps = all.iter().map(|r| split(r)).chain([byte_level(false)]);
        json!({"type": "Sequence", "pretokenizers": steps.collect::<Vec<_>>()})
    };
    // Split off digits, then by GPT-2's expression.
    let digits_gpt2 = || {
        let digits = json!({"type": "Digits", "individual_digits": true});
        json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
    };
    let plain = |pre_tokenizer: Value| Preparation {
        normalizer: Value::Null,
        pre_tokenizer,
        ignore_merges: false,
        add_bos: false,
    };

    Some(match pre {
        // Files from before the key existed: llama.cpp's old general rule.
        "" | "default" => plain(regexes(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])),
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "trillion" | "jais"
        | "granite-docling" => plain(byte_level(true)),
        "olmo" | "mpt" => Preparation { normalizer: nfc(), ..plain(byte_level(true)) },
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
            plain(digits_gpt2())
        }
        "command-r" => Preparation { normalizer: nfc(), ..plain(digits_gpt2()) },
        "falcon" => plain(json!({"type": "Sequence", "pretokenizers": [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(true),
            split("[0-9][0-9][0-9]"),
        ]})),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Preparation { ignore_merges: true, add_bos: true, ..plain(regexes(&[LLAMA3])) }
        }
        "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => plain(regexes(&[LLAMA3])),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "megrez" | "hunyuan" | "solar-open" | "grok-2" => {
            Preparation { normalizer: nfc(), ..plain(regexes(&[QWEN2])) }
        }
        "stablelm2" => plain(regexes(&[QWEN2])),
        "qwen35" => Preparation { normalizer: nfc(), ..plain(regexes(&[QWEN35])) },
        "deepseek-llm" => plain(regexes(&[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ])),
        "deepseek-coder" => plain(regexes(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"])),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => plain(regexes(&[
            r"\p{N}{1,3}",
            "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            DEEPSEEK_V3,
        ])),
        "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => plain(regexes(&[GPT_4O])),
        "tekken" => Preparation { ignore_merges: true, add_bos: true, ..plain(regexes(&[TEKKEN])) },
        "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(regexes(&[BAILING])),
        "seed-coder" => plain(regexes(&[SEED_CODER])),
        "exaone-moe" => plain(regexes(&[EXAONE_MOE])),
        _ => return None,
    })
}
