//! Of a mixture of experts, a token reads the experts it is routed to and no
//! others: seen in the page tables of this process.
//!
//! A fresh mapping has no page present. A page that is read becomes present, and
//! with it those around it that lie in the page cache, within an aligned window
//! (the kernel's fault-around, 64 KiB). So the pages present after one token must
//! be those of the active experts' rows, rounded to windows, and no others.

use assert_cmd::Command;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use squizd::{
    Result,
    metadata::Metadata,
    runtime::{Model, Observer, Session, SessionOptions},
};
use squizd_spec::{FileBytes, Limits, Role, SectionKind, SquizdRef, TensorView as Stored, section_bytes};
use std::{
    collections::{BTreeMap, BTreeSet},
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
const WINDOW: usize = 64 << 10;

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

/// The addresses of an expert's rows in every plane of a stacked tensor.
fn rows_of(tensor: &Stored<'_>, expert: usize) -> Vec<Range<usize>> {
    let geometry = tensor.geometry().unwrap();
    let rows = tensor.matrix().rows as usize / EXPERTS;
    let base = tensor.data.as_ptr() as usize;
    let planes = geometry.planes[..geometry.plane_count].iter();
    planes
        .map(|plane| {
            assert!(plane.row_stride > 0, "{}: rows are not apart", tensor.codec);
            let start = base + plane.offset as usize + expert * rows * plane.row_stride as usize;
            start..start + rows * plane.row_stride as usize
        })
        .collect()
}

/// Addresses of the pages in the units, of this size, that a range meets.
fn pages(range: &Range<usize>, unit: usize) -> impl Iterator<Item = usize> + use<> {
    (range.start / unit * unit..range.end.next_multiple_of(unit)).step_by(PAGE)
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
        let bytes = FileBytes::map(&path).unwrap();
        let file = SquizdRef::parse(&bytes, &Limits::DEFAULT).unwrap();
        let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT).unwrap().unwrap();
        let config = Metadata::from_bytes(&metadata).unwrap().model;

        // Who runs is seen through another mapping.
        let other = FileBytes::map(&path).unwrap();
        let other_file = SquizdRef::parse(&other, &Limits::DEFAULT).unwrap();
        let other_model = Model::of_file(&other_file, &config).unwrap();
        let mut routed = Routed::default();
        let options = SessionOptions { context: 64, ..SessionOptions::default() };
        Session::new(&other_model, options).unwrap().observe(&[&[5]], &mut routed).unwrap();

        let model = Model::of_file(&file, &config).unwrap();
        Session::new(&model, options).unwrap().forward(&[5]).unwrap();

        let is_stack = |t: &Stored<'_>| [Role::MOE_GATE, Role::MOE_UP, Role::MOE_DOWN].contains(&t.role);
        let stacks: Vec<Stored<'_>> = file.tensors().filter(is_stack).collect();
        assert_eq!(stacks.len(), 3 * LAYERS);
        let (mut read, mut stored) = (0, 0);
        for tensor in &stacks {
            let active = &routed.layers[usize::from(tensor.layer.unwrap())];
            assert_eq!(active.len(), ACTIVE);
            let ranges: Vec<_> = active.iter().flat_map(|e| rows_of(tensor, usize::from(*e))).collect();
            let must: BTreeSet<usize> = ranges.iter().flat_map(|r| pages(r, PAGE)).collect();
            // A window at the tensor's edge may have been read for its neighbour.
            let edges = tensor.data.as_ptr_range();
            let edges = [edges.start as usize, edges.end as usize].map(|at| at..at);
            let may: BTreeSet<usize> = ranges.iter().chain(&edges).flat_map(|r| pages(r, WINDOW)).collect();
            let touched = present(tensor.data);
            let what = format!("{codec}: {}", tensor.name);
            assert!(
                must.is_subset(&touched),
                "{what}: {} pages were not read",
                must.difference(&touched).count()
            );
            let beyond = touched.difference(&may).count();
            assert_eq!(beyond, 0, "{what}: pages of experts that do not run were read");
            read += touched.len() * PAGE;
            stored += tensor.data.len();
        }
        println!(
            "{codec}: {:.1} % of the experts' pages present after one token",
            100.0 * read as f64 / stored as f64
        );
        assert!(read * 2 < stored, "{codec}: {read} of {stored} bytes");

        // The measurement sees what is read: many tokens need every expert.
        let ids: Vec<u32> = (0..63).collect();
        Session::new(&model, options).unwrap().forward(&ids).unwrap();
        let all: BTreeMap<&str, bool> =
            stacks.iter().map(|t| (t.name, present(t.data).len() >= t.data.len() / PAGE)).collect();
        assert!(all.values().all(|whole| *whole), "{codec}: {all:?}");
    }
}
