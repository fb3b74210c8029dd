//! Our GGUF and safetensors readers against the `gguf` and `safetensors`
//! packages, on the corpus and on thousands of damaged valid files. Where the
//! verdicts differ, this reader is the stricter, for a reason in [`STRICTER`];
//! what it accepts, the packages accept.
//!
//! Needs a Python with both packages (`SQUIZD_PYTHON`); skipped without, unless
//! `SQUIZD_REQUIRE` names `pypi`.

#![cfg(feature = "tools")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::{
    corpus::{Corpus, fixtures},
    mutate::{Random, mutate},
};
use squizd_tools::source::{
    gguf::{self, GgufLimits},
    safetensors,
};
use std::{collections::BTreeMap, path::PathBuf, process::Command};

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("SQUIZD_PYTHON").map(PathBuf::from);
    let found = named.or_else(|| Some(PathBuf::from("/opt/peers/venv/bin/python"))).filter(|p| {
        let import = Command::new(p).args(["-c", "import gguf, safetensors"]).output();
        import.is_ok_and(|o| o.status.success())
    });
    let required = std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "pypi"));
    assert!(
        found.is_some() || !required,
        "SQUIZD_REQUIRE names pypi, but no Python has gguf and safetensors"
    );
    if found.is_none() {
        eprintln!("skipped: no Python with gguf and safetensors");
    }
    found
}

/// Our verdict, as a finding code.
fn ours(name: &str, bytes: &[u8]) -> Result<(), String> {
    let code = |e: squizd::Error| e.code().map_or_else(|| e.to_string(), |c| c.0.to_owned());
    if std::path::Path::new(name).extension().is_some_and(|e| e == "gguf") {
        gguf::contents(bytes, name, &GgufLimits::DEFAULT).map(|_| ()).map_err(code)
    } else {
        safetensors::contents(bytes, name).map(|_| ()).map_err(code)
    }
}

/// Codes that the packages do not check, and why we do.
const STRICTER: [(&str, &str); 14] = [
    ("gguf-alignment", "the package takes any power of two, also over our cap of 1 MiB"),
    ("gguf-array", "arrays of arrays, and empty arrays of unknown type: no model has them"),
    ("gguf-bool", "a bool that is neither 0 nor 1 has two readings"),
    ("gguf-count", "counts over our caps"),
    ("gguf-dims", "dimensions of 0"),
    ("gguf-name", "names that are empty, have control characters or look like paths"),
    ("gguf-overlap", "two tensors in the same bytes"),
    ("gguf-past-end", "numpy's slices of a short file are short, not errors"),
    ("gguf-rank", "rank 0, or over ggml's 4"),
    ("gguf-string", "lengths past the file's end: slices again"),
    ("gguf-utf8", "the package decodes strings only when they are looked at"),
    (
        "safetensors-json",
        "the package keeps the last of two equal keys, and takes other fields and ranks over 8",
    ),
    ("safetensors-name", "names that are empty, overlong, have control characters or look like paths"),
    ("safetensors-shape", "dimensions of 0, also beside one of 2^63"),
];

#[test]
fn readers_agree_or_the_difference_is_explained() {
    let Some(python) = python() else { return };
    let corpus = Corpus::load().unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (target, ending) in [("gguf", "gguf"), ("safetensors", "safetensors")] {
        let cases: Vec<_> = corpus.of(target).filter(|c| c.expect.level == "read").collect();
        for (i, case) in cases.iter().enumerate() {
            files.insert(format!("corpus-{i:04}.{ending}"), case.bytes().to_vec());
        }
        let base = &corpus.bases[&format!("micro.{ending}")];
        files.insert(format!("valid.{ending}"), base.clone());
        let mut random = Random::new(7);
        for i in 0..600 {
            files.insert(format!("damaged-{i:04}.{ending}"), mutate(base, &[], &mut random));
        }
        for (i, length) in (0..base.len()).step_by(41).enumerate() {
            files.insert(format!("cut-{i:04}.{ending}"), base[..length].to_vec());
        }
    }
    for name in ["all_types.gguf", "aligned_64.gguf"] {
        files.insert(name.to_owned(), std::fs::read(fixtures().join("gguf").join(name)).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let script = fixtures().join("../scripts/differential.py");
    let out = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let theirs: BTreeMap<String, String> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(theirs.len(), files.len());

    let (mut agree, mut stricter, mut wrong) = (0, BTreeMap::<String, u32>::new(), Vec::new());
    for (name, bytes) in &files {
        let accepted = theirs[name] == "accept";
        match ours(name, bytes) {
            Ok(()) if accepted => agree += 1,
            Err(_) if !accepted => agree += 1,
            Err(code) if STRICTER.iter().any(|(c, _)| *c == code) => *stricter.entry(code).or_default() += 1,
            Err(code) => wrong.push(format!("{name}: accepted by the package, refused here: {code}")),
            Ok(()) => wrong.push(format!("{name}: accepted here, by the package {}", theirs[name])),
        }
    }
    eprintln!("{} files: {agree} agree, stricter here: {stricter:?}", files.len());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(agree > files.len() / 3, "{agree} of {}", files.len());
}
