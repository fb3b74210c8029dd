//! Tokenizers, chat templates, metadata: programs and tables from strangers.

use crate::corpus::Corpus;
use squizd::{
    metadata::Metadata,
    model::SpecialTokens,
    text::{ChatTemplate, Message, RenderOptions, Tokenizer},
};
use squizd_spec::{Limits, SectionKind, SquizdRef, section_bytes};
use std::time::{Duration, Instant};

const VOCABULARY: u32 = 4096;
/// What a tokenizer is tried on: scripts, bytes, its own special tokens.
const TEXT: &str = "abc the  de\tth <s>\u{e9}\u{4e2d}\u{1f980}\u{0}\u{301} <|im_end|>\n";

/// `tokenizer.json`: what loads encodes and decodes within its vocabulary.
pub fn tokenizer(data: &[u8]) {
    let tokens = SpecialTokens { bos: Some(1), eos: vec![2], add_bos: true, ..SpecialTokens::default() };
    match Tokenizer::from_json(data, &tokens, VOCABULARY) {
        Ok(t) => {
            if let Ok(ids) = t.encode(TEXT, true) {
                assert!(ids.iter().all(|id| *id < VOCABULARY));
                let _ = t.decode(&ids, false);
            }
            let all: Vec<u32> = (0..64).chain([VOCABULARY - 1, VOCABULARY, u32::MAX]).collect();
            let _ = t.decode(&all, true);
        }
        Err(e) => assert!(e.code().is_some(), "no code: {e}"),
    }
}

/// A chat template ends in bounded time with a bounded text or an error.
pub fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let started = Instant::now();
    let rendered = ChatTemplate::new(source, "<s>", "</s>").and_then(|t| {
        let messages = [
            Message::new("system", "You are brief."),
            Message::new("user", "a {{ b }} 'c' \"d\""),
            Message::new("assistant", "")
                .with("tool_calls", serde_json::json!([{"name": "f", "arguments": {"x": 1}}])),
        ];
        let options = RenderOptions {
            add_generation_prompt: true,
            tools: vec![serde_json::json!({"type": "function", "function": {"name": "f"}})],
            ..RenderOptions::default()
        };
        t.render_with(&messages, &options)
    });
    match rendered {
        Ok(text) => assert!(text.len() <= 32 << 20),
        // "Engine failed" is a panic of the engine, kept within its thread.
        Err(e) => {
            let text = e.to_string();
            assert!(text.starts_with("chat template") && !text.contains("engine failed"), "{text}");
        }
    }
    assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
}

/// The metadata section: what is read has one form, which is read the same.
pub fn metadata(data: &[u8]) {
    let Ok(read) = Metadata::from_bytes(data) else { return };
    let Ok(form) = read.to_bytes() else { return };
    let again = Metadata::from_bytes(&form).expect("its own form is read");
    assert!(again.to_bytes().expect("and written") == form, "the form is not stable");
}

/// The published templates, and the hostile ones.
pub fn templates(corpus: &Corpus) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = corpus.of("template").map(|c| c.bytes().to_vec()).collect();
    let folder = crate::corpus::fixtures().join("chat/templates");
    let mut names: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    names.sort();
    seeds.extend(names.iter().filter_map(|p| std::fs::read(p).ok()));
    seeds
}

/// Metadata sections of the corpus's files.
pub fn metadata_seeds(corpus: &Corpus) -> Vec<Vec<u8>> {
    let limits = &Limits::DEFAULT;
    let mut seeds = Vec::new();
    for bytes in super::container::files(corpus) {
        let Ok(file) = SquizdRef::parse(&bytes, limits) else { continue };
        seeds.extend(
            section_bytes(&file, SectionKind::METADATA, limits)
                .ok()
                .flatten()
                .map(std::borrow::Cow::into_owned),
        );
    }
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}
