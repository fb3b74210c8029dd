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
