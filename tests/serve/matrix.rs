//! From end to end for every codec: convert, load, serve, stream. The text is
//! that of `squizd run` on the same file.

use crate::server::{Server, reason, reference, squizd, text, tiny};
use serde_json::json;
use squizd::codec::CODECS;
use squizd_spec::{FileBytes, Limits, SquizdRef};
use std::{collections::BTreeSet, path::Path};
use tempfile::TempDir;

/// Presets and mixes of `convert --codec`; together they use every codec that
/// takes the tiny model's BF16 weights, in every layout.
const PRESETS: &[&str] = &[
    "raw",
    "f32",
    "f16",
    "lossless",
    "tca-tbe",
    "tca-tbe:tbe2",
    "zplanes",
    "q8",
    "int4",
    "int4:compact",
    "int4:g32",
    "int3",
    "int3:fine",
    "int3:g64",
    "int2",
    "int2:fine",
    "int2:g16",
    "mxfp4",
    "hybrid:3.6",
    "sqint2:fast",
    "sqint2:3",
    "sqint2:nf2",
    "astc:fast",
    "astc-hybrid",
    "sqint2-routed",
];

/// A codec for each tensor of a layer. Any codecs go together in one file: what
/// excludes one another (docs/squizd_format_spec.md, compatibility) are codecs
/// and the sparsity appendix, which `convert` does not write.
const BY_ROLE: &[&str] = &[
    "attn_q=int4",
    "attn_k=int3",
    "attn_v=int2",
    "attn_output=mxfp4",
    "ffn_gate=hybrid:3.6",
    "ffn_up=sqint2:fast",
    "ffn_down=astc:fast",
    "blk.0.attn_q=tca-tbe",
    "blk.0.attn_k=zplanes",
    "blk.0.ffn_up=int4:g16",
];

/// Converts the tiny model, streams an answer, and compares its text.
fn end_to_end(folder: &TempDir, arguments: &[&str]) -> BTreeSet<String> {
    let file = folder.path().join("tiny.squizd");
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    squizd(&[&["convert", "-q", "--force", "-o", &path(&file), &path(&tiny())], arguments].concat());
    let (prompt, _) = reference().swap_remove(0);
    let exact = ["--precision", "f32", "--kv", "f32"];
    let run = ["run", &path(&file), "--prompt", &prompt, "-n", "12", "--no-echo", "--ignore-eos"];
    let expected = squizd(&[&run[..], &exact].concat());

    let server = Server::serve(&file, &["--parallel", "1", "--ctx-size", "128"], &[]);
    let chunks = server.stream(
        "/v1/completions",
        json!({ "prompt": prompt }),
        json!({ "max_tokens": 12, "ignore_eos": true }),
    );
    assert_eq!(
        (text(&chunks), reason(&chunks)),
        (expected.trim_end_matches('\n').into(), "length"),
        "{arguments:?}"
    );
    drop(server);

    let bytes = FileBytes::map(&file).unwrap();
    let parsed = SquizdRef::parse(&bytes, &Limits::DEFAULT).unwrap();
    let codecs: BTreeSet<_> = parsed.descs().map(|t| t.codec).collect();
    let flags = codecs.iter().fold(0, |all, c| all | c.flag());
    assert_eq!(parsed.header().flags.get(), flags, "{arguments:?}");
    codecs.iter().map(ToString::to_string).collect()
}

#[test]
fn every_codec_serves_what_the_reference_says() {
    let folder = TempDir::new().unwrap();
    let mut seen = BTreeSet::new();
    for preset in PRESETS {
        seen.extend(end_to_end(&folder, &["--codec", preset]));
    }
    // 8-bit integers are carried where a source has them; this one has none.
    let all: BTreeSet<String> = CODECS.iter().map(|c| c.id().to_string()).collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert_eq!(missing, ["i8"]);
}

#[test]
fn codecs_mixed_in_one_file_serve() {
    let folder = TempDir::new().unwrap();
    let mut arguments = vec!["--codec", "q8"];
    for choice in BY_ROLE {
        arguments.extend(["--tensor-type", choice]);
    }
    let seen = end_to_end(&folder, &arguments);
    assert!(seen.len() >= 10, "{seen:?}");
}
