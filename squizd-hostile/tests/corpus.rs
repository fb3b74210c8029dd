//! Every file of the corpus: refused with the stated code, at the stated byte,
//! naming the stated field; nothing panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd::{
    model::SpecialTokens,
    text::{ChatTemplate, Message, Tokenizer},
};
use squizd_hostile::corpus::{Case, Corpus, Expect, Input};
use squizd_spec::{ErrorKind, Level, Limits, SquizdError, SquizdRef, Tables, structure};
use squizd_tools::source::{
    self, MappingOptions,
    gguf::{self, GgufLimits},
    safetensors,
};
use std::collections::{BTreeMap, BTreeSet};

fn corpus() -> Corpus {
    Corpus::load().unwrap_or_else(|e| panic!("{e}"))
}

/// Collects what is wrong, so that one run shows all of it.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, holds: bool, case: &Case, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(format!("{}: {}", case.id, what()));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{} differences:\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Limit => "limit",
        ErrorKind::Truncated { .. } => "truncated",
        ErrorKind::Io => "io",
    }
}

fn is_expected(e: &SquizdError, expect: &Expect) -> bool {
    expect.code.as_deref() == Some(e.code().0)
        && expect.offset == Some(Some(e.offset()))
        && expect.kind == kind(e.kind())
        && e.to_string().contains(&expect.field)
}

/// Findings as the corpus lists them.
fn listed(findings: &[SquizdError]) -> Vec<String> {
    let set: BTreeSet<_> = findings.iter().map(|e| format!("{}@{}", e.code(), e.offset())).collect();
    set.into_iter().collect()
}

/// Checks of a whole file, which a prefix cannot make.
const BEYOND_PREFIX: [&str; 3] = ["file-truncated", "trailing-data", "padding"];

#[test]
fn squizd_files() {
    let limits = &Limits::DEFAULT;
    let mut wrong = Differences::default();
    for case in corpus().of("squizd") {
        let (bytes, expect) = (case.bytes(), &case.expect);
        let parsed = SquizdRef::parse(bytes, limits);
        let (found, file) = structure(bytes, limits);
        wrong.check(file.is_some() == parsed.is_ok(), case, || "parse and structure differ".into());
        let all = squizd::validate::validate(bytes, limits, Level::Numerics);
        // The reader in Python does not decompress: the one case that it cannot judge.
        let judged = case.id != "squizd/zstd-garbage-block";
        wrong.check(!judged || listed(&all) == expect.findings, case, || {
            format!("the independent reader finds {:?}, this one {:?}", expect.findings, listed(&all))
        });
        if expect.level == "parse" {
            match &parsed {
                Ok(_) => wrong.check(false, case, || "parsed".into()),
                Err(e) => wrong.check(is_expected(e, expect), case, || format!("parse: {e}")),
            }
            wrong.check(found.iter().any(|e| is_expected(e, expect)), case, || {
                format!("structure: {found:?}")
            });
            let code = expect.code.as_deref().unwrap_or_default();
            match Tables::parse_prefix(bytes, limits) {
                Ok(_) => wrong.check(BEYOND_PREFIX.contains(&code), case, || "the prefix parsed".into()),
                Err(e) => wrong.check(is_expected(&e, expect) || BEYOND_PREFIX.contains(&code), case, || {
                    format!("prefix: {e}")
                }),
            }
            continue;
        }
        wrong.check(parsed.is_ok(), case, || format!("does not parse: {:?}", parsed.as_ref().err()));
        let level = match expect.level.as_str() {
            "root" => Level::Structure,
            "hash" | "metadata" => Level::Hash,
            "decode" => Level::Decode,
            _ => Level::Numerics,
        };
        let at_level = squizd::validate::validate(bytes, limits, level);
        if expect.level == "load" {
            wrong.check(at_level.is_empty(), case, || format!("must be valid: {at_level:?}"));
            continue;
        }
        wrong.check(at_level.iter().any(|e| is_expected(e, expect)), case, || {
            format!("{level:?}: {at_level:?}")
        });
        if level > Level::Structure {
            let below = if level == Level::Hash { Level::Structure } else { Level::Hash };
            wrong.check(squizd::validate::validate(bytes, limits, below).is_empty(), case, || {
                format!("found below level {level:?} already")
            });
        }
    }
    wrong.none();
}

/// Compares a refusal of the SDK with what is expected.
fn check_refusal<T>(wrong: &mut Differences, case: &Case, outcome: squizd::Result<T>) {
    let Err(e) = outcome else { return wrong.check(false, case, || "accepted".into()) };
    let expect = &case.expect;
    let code = expect.code.as_deref().is_none_or(|c| e.code().is_some_and(|found| found.0 == c));
    let has_code = e.code().is_some();
    let offset = expect.offset.is_none_or(|at| at == e.offset());
    let unsupported = e.is_unsupported() == (expect.kind == "unsupported");
    let text = e.to_string();
    let brief = text.len() < 2000;
    wrong.check(
        code && has_code && offset && unsupported && brief && text.contains(&expect.field),
        case,
        || format!("{text} (byte {:?}), expected {expect:?}", e.offset()),
    );
}

#[test]
fn foreign_files() {
    let mut wrong = Differences::default();
    let all = corpus();
    for case in &all.cases {
        match (case.target(), case.expect.level.as_str()) {
            ("gguf", "read") => {
                check_refusal(&mut wrong, case, gguf::contents(case.bytes(), "m.gguf", &GgufLimits::DEFAULT));
            }
            ("safetensors", _) => {
                check_refusal(&mut wrong, case, safetensors::contents(case.bytes(), "m.safetensors"));
            }
            _ => {}
        }
    }
    wrong.none();
}

/// Opened as `convert` opens them, from a folder on disk.
#[test]
fn models_on_disk() {
    let mut wrong = Differences::default();
    let open = |path: &std::path::Path| source::open(path, MappingOptions::default()).map(|_| ());
    for case in &corpus().cases {
        let folder = tempfile::tempdir().unwrap();
        match &case.input {
            Input::Folder(files, name) => {
                for (name, bytes) in files {
                    std::fs::write(folder.path().join(name), bytes).unwrap();
                }
                check_refusal(&mut wrong, case, open(&folder.path().join(name)));
            }
            Input::File(bytes) if case.target() == "gguf" => {
                let path = folder.path().join("m.gguf");
                std::fs::write(&path, bytes).unwrap();
                if case.expect.level == "open" {
                    check_refusal(&mut wrong, case, open(&path));
                } else {
                    wrong.check(open(&path).is_err(), case, || "opened".into());
                }
            }
            Input::File(_) => {}
        }
    }
    wrong.none();
}

#[test]
fn tokenizers_and_templates() {
    let mut wrong = Differences::default();
    let tokens = SpecialTokens { bos: Some(1), eos: vec![2], ..SpecialTokens::default() };
    for case in &corpus().cases {
        match case.target() {
            "tokenizer" => check_refusal(&mut wrong, case, Tokenizer::from_json(case.bytes(), &tokens, 16)),
            "template" => {
                let text = std::str::from_utf8(case.bytes()).unwrap();
                let rendered = ChatTemplate::new(text, "<s>", "</s>")
                    .and_then(|t| t.render(&[Message::new("user", "hello")], true));
                check_refusal(&mut wrong, case, rendered);
            }
            _ => {}
        }
    }
    wrong.none();
}

/// The files that the corpus is made from are valid, so that each refusal is
/// the planted violation's.
#[test]
fn bases_are_valid() {
    let all = corpus();
    for (name, bytes) in &all.bases {
        if bytes.starts_with(b"SQZD") {
            let findings = squizd::validate::validate(bytes, &Limits::DEFAULT, Level::Numerics);
            assert!(findings.is_empty(), "{name}: {findings:?}");
        }
    }
    assert!(gguf::contents(&all.bases["micro.gguf"], "m", &GgufLimits::DEFAULT).is_ok());
    assert!(safetensors::contents(&all.bases["micro.safetensors"], "m").is_ok());
    let tokens = SpecialTokens::default();
    assert!(Tokenizer::from_json(&all.bases["tokenizer"], &tokens, 16).is_ok());
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in all.bases.iter().filter_map(|(n, b)| n.strip_prefix("hf/").map(|n| (n, b))) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    source::open(folder.path(), MappingOptions::default()).map(|_| ()).unwrap();
}

/// The corpus is as large as promised, and its codes are explained.
#[test]
fn breadth() {
    let all = corpus();
    assert!(all.cases.len() >= 900, "{} cases", all.cases.len());
    let classes: BTreeSet<u32> = all.cases.iter().map(|c| c.class).collect();
    assert!(classes.len() >= 90, "{} numbers of the list", classes.len());
    let codes: BTreeSet<&str> = all.cases.iter().filter_map(|c| c.expect.code.as_deref()).collect();
    assert!(codes.len() >= 200, "{} finding codes", codes.len());
    let findings = include_str!("../../docs/findings.md");
    for code in &codes {
        assert!(findings.contains(&format!("`{code}`")), "docs/findings.md lacks `{code}`");
    }
    let mut by_bytes: BTreeMap<Vec<u8>, &str> = BTreeMap::new();
    for case in &all.cases {
        let key = match &case.input {
            Input::File(bytes) => [case.target().as_bytes(), bytes].concat(),
            Input::Folder(files, open) => {
                files.iter().flat_map(|(n, b)| [n.as_bytes(), &[0], b].concat()).chain(open.bytes()).collect()
            }
        };
        if let Some(other) = by_bytes.insert(key, &case.id) {
            panic!("{} and {other} are the same file", case.id);
        }
    }
}

/// First arguments of `call` in `source` that look like finding codes.
fn codes_of<'a>(source: &'a str, call: &str) -> Vec<&'a str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    code.match_indices(call)
        .filter_map(|(at, _)| code[at + call.len()..].trim_start().strip_prefix('"')?.split('"').next())
        .filter(|c| {
            c.contains('-') && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
        .collect()
}

#[test]
fn every_code_of_sdk_and_sources_is_explained() {
    let findings = include_str!("../../docs/findings.md");
    let root = squizd_hostile::corpus::fixtures().join("..");
    let mut folders = vec![root.join("squizd/src"), root.join("squizd-tools/src")];
    let mut seen = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for call in
                    ["refused(", "refused_unsupported(", "bad(", "invalid(", "unsupported(", "fail(", "code:"]
                {
                    for code in codes_of(&source, call) {
                        assert!(findings.contains(&format!("`{code}`")), "{code} of {}", path.display());
                        seen.insert(code.to_owned());
                    }
                }
            }
        }
    }
    assert!(seen.len() > 80, "only {} codes found", seen.len());
}
