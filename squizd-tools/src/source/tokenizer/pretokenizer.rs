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
/// Cased letters, as listed by the model.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What `pre` asks for; `None` for a name that is not known.
pub(super) fn preparation(pre: &str) -> Option<Preparation> {
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let nfc = || json!({"type": "NFC"});
    // Split by these expressions in turn, then spell bytes in the alphabet.
    let regexes = |all: &[&str]| {
        let steps = all.iter().map(|r| split(r)).chain([byte_level(false)]);
        json!({"type": "Sequence", "pretokenizers": steps.collect::<Vec<_>>()})
    };
    // Split off digits, then by GPT-2's expression.
    let digits_gpt2 = || json!({"type": "Sequence", "pretokenizers": [digits(true), byte_level(true)]});
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
            digits(false),
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
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ])),
        "deepseek-coder" => plain(regexes(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"])),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => {
            plain(regexes(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3]))
        }
        "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => plain(regexes(&[GPT_4O])),
        "tekken" => Preparation { ignore_merges: true, add_bos: true, ..plain(regexes(&[TEKKEN])) },
        "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(regexes(&[BAILING])),
        "seed-coder" => plain(regexes(&[SEED_CODER])),
        "exaone-moe" => plain(regexes(&[EXAONE_MOE])),
        _ => return None,
    })
}
