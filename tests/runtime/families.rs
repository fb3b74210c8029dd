//! Every family the runtime knows, from a Hugging Face checkpoint through
//! `squizd convert` to logits, against transformers' logits
//! (`fixtures/families/make_reference.py`).

use assert_cmd::Command;
use serde_json::{Value, json};
use squizd::{
    eval,
    metadata::Metadata,
    model::ModelConfig,
    runtime::{Model, Session, SessionOptions},
};
use squizd_spec::{FileBytes, Limits, SectionKind, SquizdRef, section_bytes};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Largest logit difference allowed; the bound is 1e-3.
const BOUND: f32 = 5e-5;

#[derive(serde::Deserialize)]
struct Case {
    model: ModelConfig,
    ids: Vec<u32>,
    short_length: usize,
    logits: Vec<f32>,
    short: Vec<f32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/families")
}

/// The checkpoints, by name.
fn checkpoints() -> Vec<String> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap());
    let folders = entries.filter(|e| e.file_type().unwrap().is_dir());
    let mut names: Vec<_> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    names.retain(|n| !n.starts_with("__"));
    names.sort();
    names
}

fn convert(source: &Path, out: &Path) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_squizd"))
        .args(["convert", "--codec", "raw", "-q", "-o"])
        .args([out, source])
        .assert()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { d } else { m.max(d) })
}

#[test]
fn logits_are_those_of_transformers() {
    let names = checkpoints();
    assert_eq!(names.len(), 12);
    let folder = TempDir::new().unwrap();
    for name in &names {
        let case: Case =
            serde_json::from_slice(&fs::read(fixtures().join(format!("{name}.json"))).unwrap()).unwrap();
        let out = folder.path().join(format!("{name}.squizd"));
        convert(&fixtures().join(name), &out).success();

        let bytes = FileBytes::map(&out).unwrap();
        let file = SquizdRef::parse(&bytes, &Limits::DEFAULT).unwrap();
        let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT).unwrap().unwrap();
        let config = Metadata::from_bytes(&metadata).unwrap().model;
        // What the checkpoint says in Hugging Face's words is what the case says in ours.
        let stated = ModelConfig { name: None, tokens: case.model.tokens.clone(), ..config.clone() };
        assert_eq!(stated, case.model, "{name}");

        let model = Model::of_file(&file, &config).unwrap();
        let whole = max_difference(&eval::logits(&model, &case.ids).unwrap(), &case.logits);
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let (start, rest) = case.ids.split_at(case.short_length);
        let short = max_difference(session.forward(start).unwrap(), &case.short);
        for id in rest {
            session.forward(&[*id]).unwrap();
        }
        let last = &case.logits[case.logits.len() - model.vocab_size()..];
        let stepped = max_difference(session.logits_mut(), last);
        println!(
            "{name}: largest logit difference {whole:e}, short prompt {short:e}, token by token {stepped:e}"
        );
        let worst = whole.max(short).max(stepped);
        assert!(worst < BOUND, "{name}: {worst}");
    }
}

/// What `convert` says of a case whose configuration is changed.
fn refusal(folder: &TempDir, case: &str, change: impl FnOnce(&mut Value)) -> String {
    let source = folder.path().join("changed");
    fs::create_dir_all(&source).unwrap();
    fs::copy(fixtures().join(case).join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixtures().join(case).join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    let out = folder.path().join("changed.squizd");
    let done = convert(&source, &out).code(3);
    assert!(!out.exists());
    String::from_utf8(done.get_output().stderr.clone()).unwrap()
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let cases: &[(&str, &str, Value, &[&str])] = &[
        ("llama", "model_type", json!("granite"), &["granite", "LlamaForCausalLM", "qwen3_moe"]),
        (
            "deepseek-llama",
            "rope_scaling",
            json!({ "rope_type": "ntk", "factor": 2.0 }),
            &["`ntk`", "llama3"],
        ),
        (
            "mistral",
            "quantization_config",
            json!({ "quant_method": "fp8" }),
            &["quantized with fp8", "original BF16"],
        ),
        ("gemma3", "use_bidirectional_attention", json!(true), &["use_bidirectional_attention"]),
    ];
    for (case, key, value, parts) in cases {
        let text = refusal(&folder, case, |config| config[*key] = value.clone());
        for part in *parts {
            assert!(text.contains(part), "{case}, {key}: {text:?} lacks {part:?}");
        }
    }
}

/// Converting keeps what the runtime cannot run; running refuses it.
#[test]
fn a_family_that_is_carried_only_is_not_run() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("other");
    fs::create_dir(&source).unwrap();
    fs::copy(fixtures().join("llama/model.safetensors"), source.join("model.safetensors")).unwrap();
    let text = fs::read_to_string(fixtures().join("llama/config.json")).unwrap();
    fs::write(source.join("config.json"), text.replace("\"llama\"", "\"granite\"")).unwrap();
    let out = folder.path().join("other.squizd");
    let squizd = || Command::new(env!("CARGO_BIN_EXE_squizd"));
    squizd()
        .args(["convert", "--codec", "raw", "--allow-unmapped", "-q", "-o"])
        .args([&out, &source])
        .assert()
        .success();
    let target = folder.path().join("logits.safetensors");
    let run = squizd().args(["eval", "logits", "--ids", "1,2", "-o"]).args([&target, &out]).assert().code(3);
    let text = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert!(text.contains("granite") || text.contains("other"), "{text}");
    assert!(!target.exists());
}
