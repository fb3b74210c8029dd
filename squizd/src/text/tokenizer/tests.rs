//! Real tokenizers against the Python library's ids, and hostile ones.

use super::*;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn special(bos: Option<u32>, add_bos: bool) -> SpecialTokens {
    SpecialTokens { bos, add_bos, ..SpecialTokens::default() }
}

#[derive(serde::Deserialize)]
struct Vectors {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

#[test]
fn tiny_qwen3_as_hugging_face() {
    let json = fs::read(fixtures().join("tiny-qwen3-1m/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&json, &special(Some(0), false), 1024).unwrap();
    let v: Vectors =
        serde_json::from_slice(&fs::read(fixtures().join("tokenizer/hf.json")).unwrap()).unwrap();
    assert!(v.texts.len() > 50);
    for ((text, ids), decoded) in v.texts.iter().zip(&v.ids).zip(&v.decoded) {
        assert_eq!(tokenizer.encode(text, true).unwrap(), *ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids, true), *decoded, "{text:?}");
    }
    assert_eq!(tokenizer.vocab_size(), 1024);
}

/// A BPE tokenizer over `<s>`, `a`, `b`, `ab`.
fn small() -> Value {
    json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "model": {
            "type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]],
        },
    })
}

fn load(json: &Value) -> Result<Tokenizer> {
    Tokenizer::from_json(json.to_string().as_bytes(), &special(Some(0), true), 8)
}

#[test]
fn one_beginning_of_sequence_at_most() {
    let t = load(&small()).unwrap();
    assert_eq!(t.encode("abb", true).unwrap(), [0, 3, 2]);
    assert_eq!(t.encode("abb", false).unwrap(), [3, 2]);
    assert_eq!(t.encode("<s>ab", true).unwrap(), [0, 3]);
    assert_eq!(t.encode_chat("<s>ab").unwrap(), [0, 3]);
    assert_eq!(t.encode_chat("ab").unwrap(), [0, 3]);
    assert_eq!(t.encode("", true).unwrap(), [0]);
    let never = Tokenizer::from_json(small().to_string().as_bytes(), &special(Some(0), false), 8).unwrap();
    assert_eq!(never.encode("ab", true).unwrap(), [3]);
    assert_eq!(never.encode_chat("<s>ab").unwrap(), [0, 3]);
    // The file's own post-processor does not add a second one.
    let mut with_template = small();
    with_template["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    });
    assert_eq!(load(&with_template).unwrap().encode("ab", true).unwrap(), [0, 3]);
}

#[test]
fn added_tokens_keep_their_ids_and_need_an_embedding() {
    let mut json = small();
    // 6 leaves a gap after 3; 9 is outside the model's 8 rows.
    json["added_tokens"] = json!([
        {"id": 6, "content": "<gap>", "special": true},
        {"id": 9, "content": "<image>", "special": true},
    ]);
    let t = load(&json).unwrap();
    assert_eq!(t.encode("a<gap>b", false).unwrap(), [1, 6, 2]);
    assert_eq!(t.token_to_id("<image>"), None);
    assert_eq!(t.vocab_size(), 7);
    assert_eq!(t.decode(&[1, 5, 6, 2, 7, u32::MAX], true), "ab");
    assert_eq!(t.decode(&[1, 6, 2], false), "a<gap>b");
}

/// Changes one thing in [`small`]; the error names it.
#[test]
fn refuses_what_is_inconsistent_or_unsupported() {
    type Edit = fn(&mut Value);
    let cases: &[(Edit, &str)] = &[
        (|j| j["model"]["vocab"]["b"] = json!(1), "tokens \"a\" and \"b\" share id 1"),
        (|j| j["model"]["vocab"]["z"] = json!(8), "ids up to 8, but the model has 8 embedding rows"),
        (|j| j["model"]["vocab"]["z"] = json!(4_294_967_295u32), "ids up to 4294967295"),
        (|j| j["model"]["vocab"]["z"] = json!(-1), "invalid value: integer `-1`"),
        (|j| j["model"]["vocab"][""] = json!(4), "token 4 has 0 bytes"),
        (|j| j["model"]["vocab"]["y".repeat(4097)] = json!(4), "token 4 has 4097 bytes"),
        (
            |j| j["model"]["merges"] = json!([["a", "c"]]),
            "merge 0 (\"a\", \"c\"): \"c\" is not in the vocabulary",
        ),
        // The library would copy both parts into a buffer as long as the longest token.
        (|j| j["model"]["merges"] = json!([["a", "b"], ["ab", "ab"]]), "merge 1 (\"ab\", \"ab\"): \"abab\""),
        (|j| j["model"]["merges"] = json!(["a  b"]), "merge \"a  b\" is not two tokens"),
        (|j| j["model"]["merges"] = json!([["a"]]), "invalid length 1"),
        (|j| j["model"]["merges"] = json!([["a", "b", "b"]]), "invalid length 3"),
        (|j| j["model"]["continuing_subword_prefix"] = json!("é"), "continuing_subword_prefix"),
        (|j| j["model"]["dropout"] = json!(0.5), "dropout"),
        (|j| j["model"]["unk_token"] = json!("?"), "unk_token \"?\" is not in the vocabulary"),
        (|j| j["model"]["type"] = json!("WordPiece"), "supported are BPE and Unigram"),
        (|j| j["model"]["type"] = json!("Unigram"), "Unigram a list"),
        (
            |j| j["added_tokens"][0]["id"] = json!(2),
            "added token \"<s>\" has id 2 but the vocabulary gives it 0",
        ),
        (|j| j["added_tokens"][0]["content"] = json!(""), "token 0 has 0 bytes"),
        (
            |j| j["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}),
            "unknown variant `FixedLength`",
        ),
        (
            |j| {
                j["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"});
            },
            "Split",
        ),
        (
            |j| {
                j["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "a".repeat(8193)}, "behavior": "Isolated"});
            },
            "8193 bytes",
        ),
        (
            |j| j["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "points outside itself",
        ),
        (|j| j["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "!"}), "base64"),
        (|j| j["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(65)}), "65 bytes"),
        (
            |j| {
                let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
                j["normalizer"] = json!({"type": "Sequence", "normalizers": vec![double; 40]});
            },
            "a text may grow 1099511627776 times",
        ),
        (
            |j| {
                j["normalizer"] =
                    json!({"type": "Sequence", "normalizers": vec![json!({"type": "Nmt"}); 64]});
            },
            "more than 64 steps",
        ),
        (|j| j["decoder"] = json!({"type": "CTC"}), "unknown variant `CTC`"),
        (
            |j| j["decoder"] = json!({"type": "Strip", "content": "x", "start": 1, "stop": 0}),
            "one leading space",
        ),
    ];
    for (edit, expected) in cases {
        let mut json = small();
        edit(&mut json);
        let Err(error) = load(&json) else { panic!("accepted: {expected}") };
        assert!(error.to_string().contains(expected), "{error}\nis not about {expected}");
    }
    let twice = br#"{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}"#;
    let error = Tokenizer::from_json(twice, &SpecialTokens::default(), 8).err().unwrap();
    assert!(error.to_string().contains("lists \"a\" twice"), "{error}");
    let error =
        Tokenizer::from_json(small().to_string().as_bytes(), &special(Some(8), true), 8).err().unwrap();
    assert!(error.to_string().contains("special token id 8"), "{error}");
    assert!(Tokenizer::from_files(&BTreeMap::new(), &SpecialTokens::default(), 8).is_err());
}

#[test]
fn refuses_inconsistent_unigrams() {
    let unigram =
        |vocab: Value, unk: Value| json!({"model": {"type": "Unigram", "unk_id": unk, "vocab": vocab}});
    let good = json!([["<unk>", 0.0], ["a", -1.0]]);
    assert_eq!(load(&unigram(good.clone(), json!(0))).unwrap().encode("ab", false).unwrap(), [1, 0]);
    for (vocab, unk, expected) in [
        (good.clone(), json!(2), "unk_id is Some(2)"),
        (good, json!(null), "unk_id is None"),
        (json!([["a", 0.0], ["a", 0.0]]), json!(0), "token \"a\" has two ids, 0 and 1"),
        (json!([["a", 0.0], ["", 0.0]]), json!(0), "token 1 has 0 bytes"),
        (json!([["a", null]]), json!(0), "invalid type: null"),
        (json!({"a": 0}), json!(0), "wrong form"),
    ] {
        let error = load(&unigram(vocab, unk)).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Every truncation and many single-byte changes of a real file: an error or a
/// tokenizer that works, never a panic.
#[test]
fn damaged_files_never_panic() {
    let mut json = small();
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
    let good = json.to_string().into_bytes();
    let try_bytes = |bytes: &[u8]| {
        if let Ok(t) = Tokenizer::from_json(bytes, &special(Some(0), true), 8) {
            let ids = t.encode("ab <s> 12é\u{1f600}", true).unwrap_or_default();
            t.decode(&ids, false);
        }
    };
    for end in 0..good.len() {
        try_bytes(&good[..end]);
    }
    for at in 0..good.len() {
        for with in [b'"', b'0', b'9', b'-', b'{', b']', b'a', b'\\', 0xff, good[at] ^ 1, good[at] ^ 32] {
            let mut bytes = good.clone();
            bytes[at] = with;
            try_bytes(&bytes);
        }
    }
}
