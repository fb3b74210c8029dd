//! Trained models: the one in fixtures, the shared one, SmolLM2 as GGUF.

use super::{ModelSource, open};
use crate::source::arch::MappingOptions;
use squizd::{model::RopeScaling, source::TensorSource};
use squizd_spec::{DType, Part, Role};
use std::path::{Path, PathBuf};

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn opened(path: &Path) -> ModelSource {
    open(path, MappingOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A model outside the repository; `None` (with a message) where it is absent
/// and `SQUIZD_REQUIRE` does not name `kind`.
fn elsewhere(kind: &str, what: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    let required = std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == kind));
    assert!(found.is_some() || !required, "SQUIZD_REQUIRE names {kind}, but {what} is not there");
    if found.is_none() {
        eprintln!("skipped: {what} is not there");
    }
    found
}

/// The first `count` decoded values of a tensor.
fn first_values(source: &ModelSource, name: &str, count: usize) -> Vec<f32> {
    let index = source.tensors().iter().position(|t| t.name == name).unwrap();
    let mut row = vec![0.0; source.tensors()[index].cols() as usize];
    source.read_f32(index, 0..1, &mut row).unwrap();
    row.truncate(count);
    row
}

#[test]
fn tiny_qwen3() {
    let dir = manifest().join("../fixtures/tiny-qwen3-1m");
    let source = opened(&dir);
    let m = source.model();
    assert_eq!((m.family.as_str(), m.num_layers, m.hidden_size, m.head_dim), ("qwen3", 5, 128, 32));
    assert_eq!((m.vocab_size, m.tie_embeddings, m.rope.theta.to_bits()), (1024, true, 10000.0f64.to_bits()));
    assert_eq!((m.tokens.bos, m.tokens.eos.as_slice(), m.tokens.add_bos), (Some(0), &[0u32][..], true));
    assert_eq!(source.tensors().len(), 2 + 5 * 11);
    assert!(source.tensors().iter().all(|t| t.dtype == DType::BF16 && t.role != Role::OTHER));
    assert!(source.warnings().is_empty() && source.dropped().is_empty());
    assert!(source.chat_template().unwrap().contains("<|im_start|>"));
    let files: Vec<&String> = source.tokenizer_files().keys().collect();
    assert_eq!(files, ["tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(source.source_files().keys().collect::<Vec<_>>(), ["config.json", "generation_config.json"]);
    assert_eq!(source.provenance().format, "hf");
    let bytes = std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert_eq!(source.provenance().files[0].bytes, bytes);

    let file = opened(&dir.join("model.safetensors"));
    assert_eq!((file.model(), file.tensors()), (source.model(), source.tensors()));
    assert_eq!(file.provenance().format, "safetensors");
    for (index, t) in source.tensors().iter().enumerate() {
        let rows = t.rows();
        let native = source.read_native(index, 0..rows).unwrap().unwrap();
        let mut values = vec![0.0; t.elements() as usize];
        source.read_f32(index, 0..rows, &mut values).unwrap();
        let widened =
            native.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16));
        assert!(values.iter().zip(widened).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", t.name);
        source.release(index, 0..rows);
    }
}

#[test]
fn natural_qwen3_in_shards() {
    let found =
        manifest().ancestors().map(|d| d.join("shared/models/natural-qwen3-28m")).find(|d| d.is_dir());
    let Some(dir) = elsewhere("shared", "shared/models/natural-qwen3-28m", found) else { return };
    let source = opened(&dir);
    assert_eq!(source.model().family, "qwen3");
    assert!(!source.model().tokens.add_bos && source.model().tie_embeddings);
    assert_eq!(source.provenance().files.len(), 5);
    let shard = opened(&dir.join("model-00002-of-00005.safetensors"));
    assert_eq!(shard.tensors(), source.tensors());
    let index = opened(&dir.join("model.safetensors.index.json"));
    assert_eq!(index.tensors(), source.tensors());
}

#[test]
fn smollm2_gguf() {
    let found = std::env::var_os("SQUIZD_SMOLLM2").map(PathBuf::from).filter(|p| p.is_file());
    let Some(path) = elsewhere("pypi", "SmolLM2-135M-Instruct (SQUIZD_SMOLLM2)", found) else { return };
    let source = opened(&path);
    let m = source.model();
    assert_eq!((m.family.as_str(), m.num_layers, m.hidden_size), ("llama", 30, 576));
    assert_eq!((m.num_heads, m.num_kv_heads, m.head_dim, m.vocab_size), (9, 3, 64, 49152));
    assert!(m.tie_embeddings && m.rope.scaling.is_none());
    assert_eq!((m.rope.theta.to_bits(), m.norm_eps.to_bits()), (100_000.0f64.to_bits(), 1e-5f64.to_bits()));
    assert_eq!(m.tokens.eos, [2]);
    assert_eq!(source.tensors().len(), 2 + 30 * 9);
    let tokenizer =
        squizd::text::Tokenizer::from_files(source.tokenizer_files(), &m.tokens, m.vocab_size).unwrap();
    let vectors = std::fs::read(manifest().join("../fixtures/tokenizer/smollm2.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_slice(&vectors).unwrap();
    for (text, ids) in vectors["texts"].as_array().unwrap().iter().zip(vectors["ids"].as_array().unwrap()) {
        let ours = tokenizer.encode(text.as_str().unwrap(), false).unwrap();
        assert_eq!(serde_json::json!(ours), *ids, "{text}");
    }
    assert!(source.source_files()["gguf.json"].contains("\"general.architecture\":\"llama\""));
    assert!(!source.source_files()["gguf.json"].contains("tokenizer.ggml.tokens"));
    assert!(source.chat_template().is_some());
    assert_eq!(source.provenance().format, "gguf");
    // Query rows are moved whole: quantized blocks stay as they are.
    let q = source
        .tensors()
        .iter()
        .position(|t| (t.role, t.layer, t.part) == (Role::ATTN_Q, Some(3), Part::WEIGHT));
    let q = q.unwrap();
    let rows = source.tensors()[q].rows();
    assert!(source.tensors()[q].dtype.is_quantized());
    let all = source.read_native(q, 0..rows).unwrap().unwrap().into_owned();
    let row_bytes = all.len() / rows as usize;
    let file = crate::source::gguf::GgufFile::open(&path).unwrap();
    let store: &dyn crate::source::store::TensorStore = &file;
    let permuted = store.tensors().iter().position(|t| t.name == "blk.3.attn_q.weight").unwrap();
    for (row, bytes) in (0..rows).zip(all.chunks_exact(row_bytes)) {
        // Row (head, half p, pair i) was written at (head, pair i, half p).
        let (head, p, i) = (row / 64, row % 64 / 32, row % 32);
        let at = head * 64 + 2 * i + p;
        assert_eq!(&*store.row_bytes(permuted, at..at + 1).unwrap(), bytes, "row {row}");
    }
    assert!(first_values(&source, "token_embd.weight", 8).iter().any(|v| *v != 0.0));
}

/// GGUF's rope factor tensors become metadata, with the shape checked.
#[test]
fn rope_factors_leave_the_tensors() {
    let json = std::fs::read(manifest().join("../fixtures/arch/checkpoints.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let by_name = |model: &str| {
        fixture["checkpoints"].as_array().unwrap().iter().find(|c| c["model"] == model).unwrap().clone()
    };
    let phi = super::arch::source_of(&by_name("Phi-4-mini"), |name, col| match name {
        "rope_factors_short.weight" => 1.0,
        "rope_factors_long.weight" => 1.0 + col as f32 / 4.0,
        _ => 0.0,
    });
    let hf = super::config::hf::parse(&serde_json::to_vec(&by_name("Phi-4-mini")["config"]).unwrap(), false)
        .unwrap();
    assert_eq!(phi.model().rope, hf.model.rope);
    let llama = super::arch::source_of(&by_name("Llama-3.2-3B"), |_, col| 1.0 + col as f32 / 10.0);
    let Some(RopeScaling::Factors { factors }) = &llama.model().rope.scaling else { panic!("no factors") };
    assert_eq!((factors.len(), factors[1].to_bits()), (64, 1.1f64.to_bits()));
    assert!(llama.tensors().iter().all(|t| !t.name.contains("rope")));
}
