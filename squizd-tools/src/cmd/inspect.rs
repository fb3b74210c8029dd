//! `squizd inspect FILE`.

mod tensor;

pub(super) use tensor::for_value_pairs;

use super::{
    kernels,
    model::{Cache, default_context, kernel_groups},
};
use crate::{Exit, Failure, output};
use serde_json::json;
use squizd::{
    codec::Precision,
    dispatch::Cpu,
    metadata::Metadata,
    rules::{Judged, Rule, broken},
    runtime::{MemoryNeed, Run, SessionOptions},
};
use squizd_spec::{Hex, Limits, SectionKind, SquizdRef, TensorDesc, layout::flags};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// File to look into
    file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Statistics and histogram of one tensor's decoded values
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Also print the metadata section
    #[arg(long)]
    metadata: bool,
    /// Show which kernel would run which matrices on this machine
    #[arg(long, conflicts_with_all = ["tensor", "metadata"])]
    kernels: bool,
    /// Positions for which memory is predicted [default: what the model was trained for, at most
    /// 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx_size: Option<u32>,
    /// Key/value cache for which memory is predicted
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    kv: Cache,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let bytes = super::map(&args.file)?;
    let file = super::parse(&bytes)?;
    if let Some(name) = &args.tensor {
        return tensor::run(&file, name, args.json);
    }
    let metadata = metadata(&file)?;
    if args.json {
        let mut document = json!({
            "file": args.file.display().to_string(),
            "header": header_json(&file),
            "sections": sections_json(&file),
            "warnings": warnings(&file, &metadata).iter().map(|r| json!({ "rule": r.id, "measured": r.measured })).collect::<Vec<_>>(),
            "memory": memory(args, &file, &metadata).map(|(need, session)| json!({
                "context": session.context,
                "kv": session.kv.to_string(),
                "total": need.total(),
                "need": need,
            })),
            "tensors": file.descs().map(|t| tensor_json(&t)).collect::<Vec<_>>(),
        });
        if let Some(fields) = document.as_object_mut() {
            if args.kernels {
                fields.insert(
                    "kernels".into(),
                    json!(kernel_groups(&file, tied(&metadata), &Cpu::current(Precision::Q8))?),
                );
            }
            if args.metadata {
                fields.insert("metadata".into(), metadata);
            }
        }
        output::json(&document)?;
        return Ok(Exit::Done);
    }
    if args.metadata {
        let text = serde_json::to_string_pretty(&metadata).map_err(|e| Failure::usage(e.to_string()))?;
        output::line(text)?;
        return Ok(Exit::Done);
    }
    if args.kernels {
        kernels::print(&kernel_groups(&file, tied(&metadata), &Cpu::current(Precision::Q8))?)?;
        return Ok(Exit::Done);
    }
    print_header(&file, &metadata, memory(args, &file, &metadata))?;
    for rule in warnings(&file, &metadata) {
        output::line(format!("warning      {} ({})\n", rule.measured, rule.id))?;
    }
    print_sections(&file)?;
    print_tensors(&file)?;
    Ok(Exit::Done)
}

pub(super) fn metadata(file: &SquizdRef<'_>) -> Result<serde_json::Value, Failure> {
    let bytes = squizd_spec::section_bytes(file, SectionKind::METADATA, &Limits::DEFAULT)?;
    serde_json::from_slice(&bytes.unwrap_or_default())
        .map_err(|e| Failure { exit: Exit::Negative, message: format!("metadata section is not JSON: {e}") })
}

/// Whether the embedding is the head too.
fn tied(metadata: &serde_json::Value) -> bool {
    metadata.pointer("/model/tie_embeddings").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// Memory that generating needs, if the file says what model it is.
fn memory(
    args: &Args,
    file: &SquizdRef<'_>,
    metadata: &serde_json::Value,
) -> Option<(MemoryNeed, SessionOptions)> {
    let Metadata { model, .. } = serde_json::from_value(metadata.clone()).ok()?;
    let context = args.ctx_size.map_or_else(|| default_context(&model), |n| n as usize);
    let session = SessionOptions { context, kv: args.kv.into(), ..SessionOptions::default() };
    Some((MemoryNeed::of_file(file, &model, &Run::generating(session)), session))
}

/// The measured-to-be-broken combinations that the file is one of.
fn warnings(file: &SquizdRef<'_>, metadata: &serde_json::Value) -> Vec<&'static Rule> {
    let Ok(Metadata { model, .. }) = serde_json::from_value(metadata.clone()) else { return Vec::new() };
    let judged = file.descs().map(|t| Judged {
        codec: t.codec,
        role: t.role,
        layer: t.layer,
        part: t.part,
        elements: t.elements(),
    });
    broken(&model, judged, file.header().calibration_hash.get() != 0)
}

fn flag_names(bits: u32) -> Vec<&'static str> {
    flags::NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

fn version(file: &SquizdRef<'_>) -> String {
    let v = file.header().version.get();
    format!("{}.{}", v >> 8, v & 0xff)
}

pub(super) fn header_json(file: &SquizdRef<'_>) -> serde_json::Value {
    let h = file.header();
    json!({
        "version": version(file),
        "flags": flag_names(h.flags.get()),
        "arch": file.arch().to_string(),
        "num_layers": h.num_layers.get(),
        "hidden_dim": h.hidden_dim.get(),
        "num_heads": h.num_heads.get(),
        "vocab_size": h.vocab_size.get(),
        "compression_bpw": h.compression_bpw.get(),
        "sparsity_ratio": h.sparsity_ratio.get(),
        "calibration_hash": format!("{:016x}", h.calibration_hash.get()),
        "file_length": h.file_length.get(),
        "root_digest": Hex(&h.root_digest).to_string(),
        "weights_digest": Hex(&file.weights_digest()).to_string(),
    })
}

fn sections_json(file: &SquizdRef<'_>) -> Vec<serde_json::Value> {
    let section = |e: &squizd_spec::layout::SectionEntry| {
        json!({
            "kind": SectionKind(e.kind.get()).to_string(),
            "offset": e.offset.get(),
            "stored_length": e.stored_length.get(),
            "length": e.length.get(),
            "sha256": Hex(&e.sha256).to_string(),
        })
    };
    file.directory().iter().map(section).collect()
}

pub(super) fn tensor_json(t: &TensorDesc<'_>) -> serde_json::Value {
    json!({
        "name": t.name,
        "role": t.role.to_string(),
        "layer": t.layer,
        "part": t.part.to_string(),
        "experts": t.experts,
        "source_dtype": t.source_dtype.to_string(),
        "dims": &*t.dims,
        "codec": t.codec.to_string(),
        "params": Hex(t.params).to_string(),
        "offset": t.offset,
        "bytes": t.length,
        "bpw": t.bits_per_weight(),
        "sha256": Hex(t.sha256).to_string(),
    })
}

fn print_header(
    file: &SquizdRef<'_>,
    metadata: &serde_json::Value,
    memory: Option<(MemoryNeed, SessionOptions)>,
) -> Result<(), Failure> {
    let h = file.header();
    let text = |pointer: &str| metadata.pointer(pointer).and_then(|v| v.as_str()).unwrap_or("-").to_owned();
    let weights: u64 = file.descs().map(|t| t.elements()).sum();
    let flags = flag_names(h.flags.get());
    let rows = [
        ("format", format!(".squizd {} ({})", version(file), text("/format/spec"))),
        ("model", format!("{} ({}, {})", text("/model/name"), file.arch(), text("/model/family"))),
        (
            "shape",
            format!(
                "{} layers, hidden {}, {} heads, vocabulary {}",
                h.num_layers, h.hidden_dim, h.num_heads, h.vocab_size
            ),
        ),
        ("weights", format!("{} in {} tensors", output::count(weights), file.tensor_count())),
        (
            "size",
            format!(
                "{}; {:.4} bits per weight (payload), {:.4} (whole file)",
                output::bytes(h.file_length.get()),
                h.compression_bpw.get(),
                h.file_length.get() as f64 * 8.0 / weights.max(1) as f64
            ),
        ),
        ("memory", memory.map_or_else(|| "-".into(), |(need, session)| kernels::memory(&need, &session))),
        ("flags", if flags.is_empty() { "none".into() } else { flags.join(" ") }),
        ("source", format!("{} {}", text("/provenance/source/format"), text("/provenance/source/repo"))),
        ("written by", text("/format/tool")),
        ("root digest", Hex(&h.root_digest).to_string()),
    ];
    for (name, value) in rows {
        output::line(format!("{name:<12} {value}"))?;
    }
    output::line("")
}

fn print_sections(file: &SquizdRef<'_>) -> Result<(), Failure> {
    let rows = file.directory().iter().map(|e| {
        vec![
            SectionKind(e.kind.get()).to_string(),
            e.offset.to_string(),
            output::count(e.stored_length.get()),
            output::count(e.length.get()),
        ]
    });
    output::line(output::table(&["section", "offset", "stored bytes", "bytes"], 1, rows))?;
    output::line("")
}

fn print_tensors(file: &SquizdRef<'_>) -> Result<(), Failure> {
    let rows = file.descs().map(|t| {
        vec![
            t.name.to_owned(),
            t.codec.to_string(),
            t.source_dtype.to_string(),
            output::dims(&t.dims),
            t.offset.to_string(),
            output::count(t.length),
            format!("{:.3}", t.bits_per_weight()),
        ]
    });
    output::line(output::table(&["tensor", "codec", "from", "shape", "offset", "bytes", "bpw"], 3, rows))
}
