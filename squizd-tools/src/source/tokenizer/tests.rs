//! Token ids against llama.cpp's, sentencepiece's and tokenizers' own
//! (fixtures/tokenizer/make_vectors.py).

use super::{
    gguf::{GgufVocab, build},
    sentencepiece::from_sentencepiece,
};
use serde::Deserialize;
use squizd::{model::SpecialTokens, text::Tokenizer};
use std::{collections::BTreeMap, path::PathBuf};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tokenizer").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(json: &[u8], vocab_size: usize) -> Tokenizer {
    Tokenizer::from_json(json, &SpecialTokens::default(), vocab_size as u32).unwrap()
}

/// Every text's ids; a failure lists all texts that differ, as pieces.
fn assert_ids(what: &str, tokenizer: &Tokenizer, texts: &[String], ids: &[Vec<u32>]) {
    assert_eq!(texts.len(), ids.len());
    let spell = |ids: &[u32]| {
        ids.iter().map(|&i| tokenizer.id_to_token(i).unwrap_or_default()).collect::<Vec<_>>().join("|")
    };
    let mut wrong = Vec::new();
    for (text, ids) in texts.iter().zip(ids) {
        let ours = tokenizer.encode(text, false).unwrap();
        if ours != *ids {
            wrong.push(format!("{text:?}\n  ours {}\n  want {}", spell(&ours), spell(ids)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{what}: {} of {} texts differ:\n{}",
        wrong.len(),
        texts.len(),
        wrong.join("\n")
    );
}

#[derive(Deserialize)]
struct ByteLevelVectors {
    tokens: Vec<String>,
    token_types: Vec<i64>,
    merges: Vec<String>,
    texts: Vec<String>,
    ids: BTreeMap<String, Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
struct PieceVectors {
    tokens: Vec<String>,
    token_types: Vec<i64>,
    scores: Vec<f32>,
    texts: Vec<String>,
    sentencepiece: Vec<Vec<u32>>,
    decoded: Vec<String>,
    #[serde(default)]
    charsmap: Vec<u8>,
    #[serde(rename = "llama.cpp")]
    llama: Vec<Vec<u32>>,
}

fn strs(v: &[String]) -> Vec<&str> {
    v.iter().map(String::as_str).collect()
}

fn vocab_of<'a>(v: &'a PieceVectors, model: &'a str) -> GgufVocab<'a> {
    GgufVocab {
        model,
        tokens: strs(&v.tokens),
        token_types: v.token_types.clone(),
        scores: v.scores.clone(),
        unknown: Some(0),
        bos: Some(1),
        eos: Some(2),
        ..GgufVocab::default()
    }
}

/// Texts for which the models' own tokenizers, and so ours, part from llama.cpp:
/// it has no Unicode normalizer, and its regular expressions for `gpt-4o` and
/// `tekken` leave out the combining marks of the originals.
fn parts_from_llama_cpp(pre: &str, text: &str) -> bool {
    match pre {
        "qwen2" | "qwen35" | "command-r" | "olmo" => text.contains('\u{301}'),
        "gpt-4o" | "tekken" => text.contains('\u{94d}'),
        _ => false,
    }
}

#[test]
fn byte_level_splits_as_llama_cpp() {
    let v: ByteLevelVectors = serde_json::from_slice(&fixture("byte_level.json")).unwrap();
    assert_eq!(v.ids.len(), 19);
    for (pre, ids) in &v.ids {
        let vocab = GgufVocab {
            model: "gpt2",
            pre: Some(pre),
            tokens: strs(&v.tokens),
            token_types: v.token_types.clone(),
            merges: strs(&v.merges),
            ..GgufVocab::default()
        };
        let tokenizer = load(&build(&vocab).unwrap(), v.tokens.len());
        let both = v.texts.iter().cloned().zip(ids.iter().cloned());
        let (parting, same): (Vec<_>, Vec<_>) = both.partition(|(t, _)| parts_from_llama_cpp(pre, t));
        let (texts, ids): (Vec<_>, Vec<_>) = same.into_iter().unzip();
        assert_ids(pre, &tokenizer, &texts, &ids);
        for (text, ids) in parting {
            assert_ne!(tokenizer.encode(&text, false).unwrap(), ids, "{pre}: {text:?}");
        }
        for text in &v.texts {
            let ids = tokenizer.encode(text, false).unwrap();
            if !text.contains('\u{301}') {
                assert_eq!(tokenizer.decode(&ids, false), *text, "{pre}");
            }
        }
    }
}

/// Normalizers see what llama.cpp does not: composed and decomposed text agree.
#[test]
fn unicode_composes_where_the_model_does() {
    let v: ByteLevelVectors = serde_json::from_slice(&fixture("byte_level.json")).unwrap();
    for (pre, same) in [("qwen2", true), ("olmo", true), ("llama-bpe", false), ("gpt-2", false)] {
        let vocab = GgufVocab {
            model: "gpt2",
            pre: Some(pre),
            tokens: strs(&v.tokens),
            merges: strs(&v.merges),
            ..GgufVocab::default()
        };
        let tokenizer = load(&build(&vocab).unwrap(), v.tokens.len());
        let ids = |t| tokenizer.encode(t, false).unwrap();
        assert_eq!(ids("cafe\u{301}") == ids("caf\u{e9}"), same, "{pre}");
    }
}

#[test]
fn sentencepiece_bpe_from_gguf_as_llama_cpp() {
    let v: PieceVectors = serde_json::from_slice(&fixture("spm_bpe.json")).unwrap();
    let tokenizer = load(&build(&vocab_of(&v, "llama")).unwrap(), v.tokens.len());
    assert_ids("llama.cpp", &tokenizer, &v.texts, &v.llama);
    for (text, decoded) in v.texts.iter().zip(&v.decoded) {
        if !text.contains("<user>") {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true), *decoded, "{text:?}");
        }
    }
}

/// "Legacy" puts a space after an added token too; the other kind leaves a
/// text that begins with a space without a second one. Both are transformers'
/// behaviour, and everywhere else SentencePiece's.
#[test]
fn sentencepiece_models_as_sentencepiece() {
    for (kind, config) in [("bpe", None), ("bpe", Some(&br#"{"legacy": false}"#[..])), ("unigram", None)] {
        let v: PieceVectors = serde_json::from_slice(&fixture(&format!("spm_{kind}.json"))).unwrap();
        let json = from_sentencepiece(&fixture(&format!("spm_{kind}.model")), config, None).unwrap();
        let tokenizer = load(&json, v.tokens.len());
        let both = v.texts.iter().cloned().zip(v.sentencepiece.iter().cloned());
        let (texts, ids): (Vec<_>, Vec<_>) = both
            .filter(|(t, _)| match config {
                None => !t.contains("<user>"),
                Some(_) => !t.starts_with([' ', '▁']),
            })
            .unzip();
        assert!(texts.len() >= 45);
        assert_ids(kind, &tokenizer, &texts, &ids);
    }
}

/// GGUF and `tokenizer.model` of one vocabulary are one tokenizer.
#[test]
fn both_sources_agree() {
    for (kind, model) in [("bpe", "llama"), ("unigram", "t5")] {
        let v: PieceVectors = serde_json::from_slice(&fixture(&format!("spm_{kind}.json"))).unwrap();
        let charsmap = v.charsmap.clone();
        let gguf = build(&GgufVocab {
            add_bos: Some(kind == "bpe"),
            add_eos: Some(kind == "unigram"),
            precompiled_charsmap: charsmap,
            ..vocab_of(&v, model)
        });
        let own = from_sentencepiece(&fixture(&format!("spm_{kind}.model")), None, None).unwrap();
        assert_eq!(String::from_utf8(gguf.unwrap()).unwrap(), String::from_utf8(own).unwrap());
    }
}

/// Changes one thing in a small vocabulary; the error names key and index.
#[test]
fn gguf_errors_name_key_and_index() {
    type Edit = fn(&mut GgufVocab<'_>);
    let small = || GgufVocab {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec!["a", "b", "ab", "<s>"],
        token_types: vec![1, 1, 1, 3],
        merges: vec!["a b"],
        bos: Some(3),
        ..GgufVocab::default()
    };
    assert!(build(&small()).is_ok());
    let cases: &[(Edit, &str)] = &[
        (|v| v.model = "rwkv", "tokenizer.ggml.model is \"rwkv\""),
        (|v| v.pre = Some("martian"), "tokenizer.ggml.pre is \"martian\""),
        (|v| v.tokens.clear(), "tokenizer.ggml.tokens: the vocabulary has 0 tokens"),
        (|v| v.tokens[1] = "a", "tokenizer.ggml.tokens: token 1 \"a\" repeats token 0"),
        (|v| v.tokens[2] = "", "tokenizer.ggml.tokens: token 2 has 0 bytes"),
        (|v| v.merges.push("a"), "tokenizer.ggml.merges: merge 1 is \"a\""),
        (|v| v.merges.push("a "), "tokenizer.ggml.merges: merge 1 is \"a \""),
        (|v| v.merges.push("é"), "tokenizer.ggml.merges: merge 1 is \"é\""),
        (|v| v.merges.push("a c"), "tokenizer.ggml.merges: merge 1 (\"a c\"): \"c\" is not a token"),
        (|v| v.merges.push("b a"), "tokenizer.ggml.merges: merge 1 (\"b a\"): \"ba\" is not a token"),
        (|v| v.token_types[3] = 7, "tokenizer.ggml.token_type: entry 3 is 7, allowed 0..=6"),
        (|v| v.token_types[0] = -1, "tokenizer.ggml.token_type: entry 0 is -1"),
        (|v| v.token_types.truncate(2), "tokenizer.ggml.token_type: 2 entries for 4 tokens"),
        (|v| v.scores = vec![0.0; 5], "tokenizer.ggml.scores: 5 entries for 4 tokens"),
        (|v| v.scores = vec![0.0, f32::NAN, 0.0, 0.0], "tokenizer.ggml.scores: the score of token 1 is NaN"),
        (|v| v.bos = Some(4), "tokenizer.ggml.bos_token_id: id 4 is outside the 4 tokens"),
        (|v| v.eos = Some(u64::MAX), "tokenizer.ggml.eos_token_id: id 18446744073709551615"),
        (|v| v.precompiled_charsmap = vec![0; (4 << 20) + 1], "precompiled_charsmap has 4194305 bytes"),
        (
            |v| (v.model, v.token_types) = ("llama", vec![6, 1, 1, 3]),
            "token 0 is \"a\", but its type is byte",
        ),
        (
            |v| {
                (v.model, v.tokens, v.token_types) =
                    ("llama", vec!["<0x-1>", "b", "ab", "<s>"], vec![6, 1, 1, 3]);
            },
            "token 0 is \"<0x-1>\", but its type is byte",
        ),
        (|v| (v.model, v.scores) = ("t5", vec![0.0; 4]), "names no unknown token"),
        (|v| v.model = "t5", "tokenizer.ggml.scores: missing"),
    ];
    for (edit, expected) in cases {
        let mut vocab = small();
        edit(&mut vocab);
        let Err(error) = build(&vocab) else { panic!("accepted: {expected}") };
        assert!(error.to_string().contains(expected), "{error}\nis not about {expected}");
    }
}

#[test]
fn special_tokens_of_gguf() {
    let mut vocab = GgufVocab {
        model: "gpt2",
        pre: Some("llama-bpe"),
        tokens: vec!["a", "<s>", "<u>", "[PAD]"],
        token_types: vec![1, 3, 4, 5],
        bos: Some(1),
        model_name: Some("Phi-3 mini"),
        ..GgufVocab::default()
    };
    let parse = |v: &GgufVocab<'_>| serde_json::from_slice::<serde_json::Value>(&build(v).unwrap()).unwrap();
    let json = parse(&vocab);
    let added: Vec<_> = json["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (&t["content"], &t["special"], &t["rstrip"]))
        .collect();
    assert_eq!(
        format!("{added:?}"),
        r#"[(String("<s>"), Bool(true), Bool(false)), (String("<u>"), Bool(false), Bool(true))]"#
    );
    // Llama 3 adds BOS unless the file says otherwise.
    assert_eq!(json["post_processor"]["type"], "TemplateProcessing");
    vocab.add_bos = Some(false);
    assert!(parse(&vocab)["post_processor"].is_null());
}

#[test]
fn damaged_sentencepiece_models_never_panic() {
    let good = fixture("spm_unigram.model");
    let vocab_size = 1 << 20;
    let try_bytes = |bytes: &[u8]| {
        if let Ok(json) = from_sentencepiece(bytes, None, None)
            && let Ok(t) = Tokenizer::from_json(&json, &SpecialTokens::default(), vocab_size)
        {
            let _ = t.encode("a <user> é 1\u{fdfa}", false);
        }
    };
    for end in (0..good.len()).step_by(97) {
        try_bytes(&good[..end]);
    }
    // The character map lies near the end.
    for at in (0..good.len()).step_by(61).chain(good.len() - 1200..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        try_bytes(&bytes);
    }
}

#[test]
fn sentencepiece_errors_and_added_tokens() {
    let model = fixture("spm_bpe.model");
    let message =
        |m: &[u8], c: Option<&[u8]>, a: Option<&[u8]>| from_sentencepiece(m, c, a).unwrap_err().to_string();
    assert!(message(b"", None, None).contains("no pieces"));
    assert!(message(b"\x0a\x05", None, None).contains("byte 2: field 1 has 5 bytes, but 0 are left"));
    assert!(message(&model, Some(b"{"), None).starts_with("tokenizer_config.json: EOF"));
    assert!(message(&model, None, Some(br#"{"<x>": 5000}"#)).contains("leaves a gap after"));
    // A repeated piece: the first piece, `<unk>`, once more.
    let doubled = [&model[..], &[0x0a, 7, 0x0a, 5], b"<unk>"].concat();
    assert!(message(&doubled, None, None).contains("\"<unk>\" repeats token 0"));

    let v: PieceVectors = serde_json::from_slice(&fixture("spm_bpe.json")).unwrap();
    let n = v.tokens.len() as u32;
    let config = format!(
        r#"{{"added_tokens_decoder": {{"{n}": {{"content": "<|end|>", "special": true, "rstrip": true}}, "3": {{"content": "<renamed>", "special": false}}}}}}"#
    );
    let json = from_sentencepiece(&model, Some(config.as_bytes()), Some(br#"{"<more>": 99999}"#));
    assert!(json.unwrap_err().to_string().contains("99999"));
    let more = format!(r#"{{"<more>": {}}}"#, n + 1);
    let t = load(
        &from_sentencepiece(&model, Some(config.as_bytes()), Some(more.as_bytes())).unwrap(),
        n as usize + 2,
    );
    let ids = t.encode("<|end|>  <more><renamed><user>", false).unwrap();
    assert_eq!(ids[..3], [n, n + 1, 3]);
    assert!(ids.len() > 4, "<user> is no token any more");
}
