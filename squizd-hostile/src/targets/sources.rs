//! Foreign files: what the readers accept is consistent.

use crate::corpus::{Corpus, Input};
use squizd::{model::SpecialTokens, text::Tokenizer};
use squizd_spec::MESSAGE_BYTES;
use squizd_tools::source::{
    config,
    gguf::{self, GgufLimits},
    imatrix::Imatrix,
    safetensors,
    store::StoredTensor,
    tokenizer::sentencepiece::from_sentencepiece,
};

/// Every refusal has a code and a place, and its text stays short.
fn refused(e: &squizd::Error) {
    assert!(e.code().is_some(), "no code: {e}");
    assert!(e.to_string().len() <= 2 * MESSAGE_BYTES + 100, "{} bytes of error", e.to_string().len());
}

fn consistent(tensors: &[StoredTensor], room: usize) {
    let total: u64 = tensors.iter().map(|t| t.bytes).sum();
    assert!(total <= room as u64, "tensors of {total} bytes in a file of {room}");
    for t in tensors {
        let elements = t.dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        assert!(elements.is_some() && t.rows().checked_mul(t.cols()) == elements);
    }
}

/// The GGUF header, and the configuration in it.
pub fn gguf(data: &[u8]) {
    match gguf::contents(data, "m.gguf", &GgufLimits::DEFAULT) {
        Ok((metadata, tensors)) => {
            consistent(&tensors, data.len());
            for carry in [false, true] {
                if let Err(e) = config::gguf::parse(&metadata, carry) {
                    refused(&e);
                }
            }
        }
        Err(e) => refused(&e),
    }
}

/// The safetensors header: accepted tensors tile the data.
pub fn safetensors(data: &[u8]) {
    match safetensors::contents(data, "m.safetensors") {
        Ok(tensors) => {
            consistent(&tensors, data.len());
            let header = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
            let total: u64 = tensors.iter().map(|t| t.bytes).sum();
            assert_eq!(8 + header + total, data.len() as u64, "every byte belongs to a tensor");
        }
        Err(e) => refused(&e),
    }
}

/// The shard index: accepted names stay in the folder.
pub fn index(data: &[u8]) {
    match safetensors::shards(data, "model.safetensors.index.json") {
        Ok(shards) => {
            assert!(!shards.is_empty());
            for name in shards.keys() {
                assert!(!name.contains(['/', '\\', ':', '\0']) && !name.starts_with('.'), "{name:?}");
            }
        }
        Err(e) => refused(&e),
    }
}

/// `config.json`: what is accepted is written and read again unchanged.
pub fn config(data: &[u8]) {
    for carry in [false, true] {
        match config::hf::parse(data, carry) {
            Ok(parsed) => {
                let text = serde_json::to_vec(&parsed.model).expect("a model serializes");
                let again = serde_json::from_slice(&text).expect("and is read again");
                assert!(parsed.model == again, "{}", String::from_utf8_lossy(&text));
                let model = &parsed.model;
                assert!(model.num_heads > 0 && model.num_kv_heads > 0 && model.head_dim > 0);
            }
            Err(e) => refused(&e),
        }
    }
}

/// `tokenizer.model`: what is accepted becomes a `tokenizer.json` that loads.
pub fn sentencepiece(data: &[u8]) {
    match from_sentencepiece(data, None, None) {
        Ok(json) => {
            let tokens = SpecialTokens::default();
            if let Err(e) = Tokenizer::from_json(&json, &tokens, 1 << 20) {
                refused(&e);
            }
        }
        Err(e) => refused(&e),
    }
}

/// An importance matrix of either form. Its reader takes a path: the input
/// goes through a file of this process.
pub fn imatrix(data: &[u8]) {
    let name = format!("squizd-imatrix-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name.replace(['(', ')'], ""));
    std::fs::write(&path, data).expect("the temporary folder is writable");
    let opened = Imatrix::open(&path);
    let outcome = opened.and_then(|m| m.coverage(&[]).map(|c| (c, m.peak_bytes(&[]))));
    std::fs::remove_file(&path).expect("written above");
    match outcome {
        Ok((coverage, peak)) => assert!(coverage.known == 0 && peak == 0),
        Err(e) => refused(&e),
    }
}

/// The matrices of `fixtures/imatrix`, and the corpus's GGUF files.
pub fn imatrices(corpus: &Corpus) -> Vec<Vec<u8>> {
    let folder = crate::corpus::fixtures().join("imatrix");
    let valid = ["small.dat", "small.gguf"].iter().filter_map(|n| std::fs::read(folder.join(n)).ok());
    valid.chain(of(corpus, "gguf")).filter(|b| !b.is_empty()).collect()
}

/// Valid and hostile files of a target of the corpus.
pub fn of(corpus: &Corpus, target: &'static str) -> Vec<Vec<u8>> {
    let base = match target {
        "tokenizer" => "tokenizer".to_owned(),
        other => format!("micro.{other}"),
    };
    let valid = corpus.bases.get(&base).cloned();
    valid.into_iter().chain(corpus.of(target).map(|c| c.bytes().to_vec())).collect()
}

/// Files whose names end so, of a target's folders.
pub fn in_folders(corpus: &Corpus, target: &'static str, ending: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        corpus.bases.iter().filter(|(n, _)| n.ends_with(ending)).map(|(_, b)| b.clone()).collect();
    for case in corpus.of(target) {
        if let Input::Folder(files, _) = &case.input {
            seeds.extend(files.iter().filter(|(n, _)| n.ends_with(ending)).map(|(_, b)| b.clone()));
        }
    }
    seeds
}

/// The SentencePiece models of `fixtures/tokenizer`.
pub fn pieces(_: &Corpus) -> Vec<Vec<u8>> {
    let folder = crate::corpus::fixtures().join("tokenizer");
    ["spm_bpe.model", "spm_unigram.model"].iter().filter_map(|n| std::fs::read(folder.join(n)).ok()).collect()
}
