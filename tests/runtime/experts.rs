//! Of a mixture of experts, a token reads the experts it is routed to and no
//! others: seen in the page tables of this process.
//!
//! The file is copied into fresh memory, all but the experts that do not run.
//! The system gives such memory its pages when they are touched, one by one, so
//! that a page which is there after a token, and was not before, was read. The
//! logits are those of the whole file.

use assert_cmd::Command;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use squizd::{
    Result,
    metadata::Metadata,
    model::ModelConfig,
    runtime::{Model, Observer, Session, SessionOptions},
};
use squizd_spec::{Limits, Role, SectionKind, SquizdRef, TensorDesc, section_bytes};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};
use tempfile::TempDir;

const LAYERS: usize = 2;
const EXPERTS: usize = 16;
const ACTIVE: usize = 2;
const HIDDEN: usize = 256;
const WIDTH: usize = 512;
const PAGE: usize = 4096;
/// More than the allocator ever takes from memory used before.
const FRESH: usize = 64 << 20;

/// A Qwen3-MoE checkpoint of random BF16 numbers.
fn checkpoint(folder: &Path) {
    let config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "intermediate_size": WIDTH, "moe_intermediate_size": WIDTH, "num_experts": EXPERTS,
        "num_experts_per_tok": ACTIVE, "norm_topk_prob": true, "vocab_size": 64, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 1,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![64, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, dims: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), dims.to_vec()));
        };
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(norm, &[HIDDEN]);
        }
        for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
            add(norm, &[32]);
        }
        for (name, rows) in [("self_attn.q_proj", 128), ("self_attn.k_proj", 64), ("self_attn.v_proj", 64)] {
            add(name, &[rows, HIDDEN]);
        }
        add("self_attn.o_proj", &[HIDDEN, 128]);
        add("mlp.gate", &[EXPERTS, HIDDEN]);
        for expert in 0..EXPERTS {
            add(&format!("mlp.experts.{expert}.gate_proj"), &[WIDTH, HIDDEN]);
            add(&format!("mlp.experts.{expert}.up_proj"), &[WIDTH, HIDDEN]);
            add(&format!("mlp.experts.{expert}.down_proj"), &[HIDDEN, WIDTH]);
        }
    }
    let mut state = 1u32;
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dims)| {
            let count = dims.iter().product::<usize>();
            let values = (0..count).flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Sign and mantissa at random, magnitude 1/16 to 1/8.
                ((state >> 16) as u16 & 0x807f | 123 << 7).to_le_bytes()
            });
            values.collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, dims), data)| {
        (name.as_str(), TensorView::new(Dtype::BF16, dims.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Which experts ran, by layer.
#[derive(Default)]
struct Routed {
    now: BTreeSet<u16>,
    layers: Vec<BTreeSet<u16>>,
}

impl Observer for Routed {
    fn input(&mut self, role: Role, expert: u16, _: &[f32], _: usize) {
        if role == Role::MOE_GATE {
            self.now.insert(expert);
        }
    }

    fn layer_done(&mut self, _: Option<u16>) -> Result<()> {
        self.layers.push(std::mem::take(&mut self.now));
        Ok(())
    }
}

/// Addresses of the pages of `bytes` that are present in this process.
fn present(bytes: &[u8]) -> BTreeSet<usize> {
    let start = bytes.as_ptr() as usize / PAGE;
    let end = (bytes.as_ptr() as usize + bytes.len()).div_ceil(PAGE);
    let mut map = fs::File::open("/proc/self/pagemap").unwrap();
    map.seek(SeekFrom::Start(8 * start as u64)).unwrap();
    let mut entries = vec![0; 8 * (end - start)];
    map.read_exact(&mut entries).unwrap();
    // The highest bit of an entry says that the page is present.
    (start..end)
        .zip(entries.chunks_exact(8))
        .filter(|(_, e)| e[7] & 0x80 != 0)
        .map(|(page, _)| page * PAGE)
        .collect()
}

/// Where in the file an expert's rows lie: a range for every plane.
fn rows_of(tensor: &TensorDesc<'_>, expert: usize) -> Vec<Range<usize>> {
    let geometry = tensor.geometry().unwrap();
    let rows = tensor.matrix().rows as usize / EXPERTS;
    let planes = geometry.planes[..geometry.plane_count].iter();
    planes
        .map(|plane| {
            assert!(plane.row_stride > 0, "{}: rows are not apart", tensor.codec);
            let stride = plane.row_stride as usize;
            let start = tensor.offset as usize + plane.offset as usize + expert * rows * stride;
            start..start + rows * stride
        })
        .collect()
}

fn config_of(bytes: &[u8]) -> ModelConfig {
    let file = SquizdRef::parse(bytes, &Limits::DEFAULT).unwrap();
    let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT).unwrap().unwrap();
    Metadata::from_bytes(&metadata).unwrap().model
}

#[test]
fn only_active_experts_are_read() {
    let (folder, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    checkpoint(folder.path());
    for codec in ["raw", "q8", "int4", "mxfp4"] {
        let path = out.path().join("moe.squizd");
        Command::new(env!("CARGO_BIN_EXE_squizd"))
            .args(["convert", "--codec", codec, "-q", "-o"])
            .args([path.as_path(), folder.path()])
            .assert()
            .success();
        let whole = fs::read(&path).unwrap();
        let file = SquizdRef::parse(&whole, &Limits::DEFAULT).unwrap();
        let config = config_of(&whole);
        let model = Model::of_file(&file, &config).unwrap();
        let mut routed = Routed::default();
        let options = SessionOptions { context: 64, ..SessionOptions::default() };
        Session::new(&model, options).unwrap().observe(&[&[5]], &mut routed).unwrap();
        let expected = Session::new(&model, options).unwrap().forward(&[5]).unwrap().to_vec();

        let is_stack = |t: &TensorDesc<'_>| [Role::MOE_GATE, Role::MOE_UP, Role::MOE_DOWN].contains(&t.role);
        let stacks: Vec<TensorDesc<'_>> = file.descs().filter(is_stack).collect();
        assert_eq!(stacks.len(), 3 * LAYERS);
        let mut idle = Vec::new();
        for tensor in &stacks {
            let active = &routed.layers[usize::from(tensor.layer.unwrap())];
            assert_eq!(active.len(), ACTIVE);
            let others = (0..EXPERTS).filter(|e| !active.contains(&(*e as u16)));
            idle.extend(others.flat_map(|e| rows_of(tensor, e)));
        }
        idle.sort_by_key(|r| r.start);
        let mut bytes = vec![0u8; FRESH];
        let mut copied = 0;
        for range in &idle {
            bytes[copied..range.start].copy_from_slice(&whole[copied..range.start]);
            copied = range.end;
        }
        bytes[copied..whole.len()].copy_from_slice(&whole[copied..]);
        let bytes = &bytes[..whole.len()];

        // Pages of nothing but idle experts.
        let base = bytes.as_ptr() as usize;
        let pages = |r: &Range<usize>| (base + r.start).next_multiple_of(PAGE)..(base + r.end) / PAGE * PAGE;
        let idle: BTreeSet<usize> = idle.iter().flat_map(|r| pages(r).step_by(PAGE)).collect();
        let absent: BTreeSet<usize> = idle.difference(&present(bytes)).copied().collect();
        if absent.len() * 10 < idle.len() * 9 {
            eprintln!("skipped: the system gives memory its pages in large groups");
            return;
        }
        let file = SquizdRef::parse(bytes, &Limits::DEFAULT).unwrap();
        let model = Model::of_file(&file, &config).unwrap();
        let mut session = Session::new(&model, options).unwrap();
        assert_eq!(session.forward(&[5]).unwrap(), expected, "{codec}");
        let read = absent.intersection(&present(bytes)).count();
        assert_eq!(read, 0, "{codec}: pages of experts that do not run were read");
        println!(
            "{codec}: none of {} pages of idle experts, {} KiB, was read",
            absent.len(),
            absent.len() * 4
        );

        // What is read is seen: many tokens need every expert.
        let ids: Vec<u32> = (0..63).collect();
        Session::new(&model, options).unwrap().forward(&ids).unwrap();
        let read = absent.intersection(&present(bytes)).count();
        assert!(read * 10 > absent.len() * 9, "{codec}: {read} of {} pages are seen", absent.len());
    }
}
