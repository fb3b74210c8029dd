//! The command line on real input: the tiny trained model in `fixtures/`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn tiny() -> PathBuf {
    fixtures().join("tiny-qwen3-1m")
}

fn squizd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squizd"));
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts the tiny model with extra arguments; the output's path.
fn convert(folder: &TempDir, name: &str, extra: &[&str]) -> PathBuf {
    let out = folder.path().join(name);
    squizd(&["convert", text(&tiny()), "-o", text(&out)]).args(extra).assert().success();
    out
}

fn json(args: &[&str]) -> Value {
    let output = squizd(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_preset_converts_validates_and_diffs() {
    let folder = TempDir::new().unwrap();
    let raw = convert(&folder, "raw.squizd", &["--codec", "raw"]);
    for (codec, low, high) in [
        ("int4", 20.0, 26.0),
        ("int4:g16", 20.0, 28.0),
        ("int4:g128", 17.0, 26.0),
        ("mxfp4", 18.0, 21.0),
        ("q8", 40.0, 55.0),
        ("astc:fast", 12.5, 18.0),
        ("astc", 14.2, 19.0),
        ("sqint2:fast", 11.0, 13.0),
        ("sqint2:3", 16.5, 18.5),
        ("sqint2:nf2", 9.0, 10.0),
    ] {
        let out = convert(&folder, &format!("{}.squizd", codec.replace(':', "-")), &["--codec", codec]);
        squizd(&["validate", "--level", "numerics", text(&out)]).assert().success();
        let diff =
            squizd(&["diff", "--json", text(&raw), text(&out)]).assert().code(1).get_output().stdout.clone();
        let diff: Value = serde_json::from_slice(&diff).unwrap();
        let tensors = diff["tensors"].as_array().unwrap();
        assert!(!tensors.is_empty());
        for t in tensors {
            let snr = t["distance"]["snr_db"].as_f64().unwrap();
            assert!((low..high).contains(&snr), "{codec}: {} has {snr} dB", t["name"]);
        }
    }
    squizd(&["diff", text(&raw), text(&raw)]).assert().success();
}

/// The tiny model with its BF16 numbers widened to F32.
fn tiny_in_f32(folder: &TempDir) -> PathBuf {
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    let model = folder.path().join("tiny-f32");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let bytes = fs::read(tiny().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let wide: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, t)| {
            let data = t.data().chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
            (name, t.shape().to_vec(), data)
        })
        .collect();
    let views = wide.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &model.join("model.safetensors")).unwrap();
    model
}

#[test]
fn lossless_presets_keep_every_number_and_shrink() {
    let folder = TempDir::new().unwrap();
    let wide = tiny_in_f32(&folder);
    for (name, source, codec, most) in [
        ("tbe", tiny(), "tca-tbe", 11.6),
        ("planes", tiny(), "zplanes", 11.0),
        ("wide", wide, "zplanes", 11.2),
    ] {
        let raw = folder.path().join(format!("{name}-raw.squizd"));
        squizd(&["convert", text(&source), "-o", text(&raw), "--codec", "raw"]).assert().success();
        let out = folder.path().join(format!("{name}.squizd"));
        let wish = if name == "planes" { "zplanes" } else { "lossless" };
        let args =
            ["convert", text(&source), "-o", text(&out), "--codec", wish, "--zstd-level", "5", "--json"];
        let summary = json(&args);
        assert_eq!(summary["did_not_shrink"], 0, "{name}");
        assert!(summary["bpw"].as_f64().unwrap() < most, "{name}: {}", summary["bpw"]);
        squizd(&["validate", "--level", "numerics", text(&out)]).assert().success();
        let diff = squizd(&["diff", "--json", text(&raw), text(&out)]).output().unwrap().stdout;
        let diff: Value = serde_json::from_slice(&diff).unwrap();
        let tensors = diff["tensors"].as_array().unwrap();
        assert!(
            tensors.len() >= 36 && tensors.iter().all(|t| t["distance"]["max_abs"] == 0.0),
            "{name}: {diff}"
        );
        let inspect = json(&["inspect", text(&out), "--json"]);
        let q = inspect["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.attn_q.weight");
        assert_eq!(q.unwrap()["codec"], codec, "{name}");
    }
    // The runtime decodes such files once and then gives the same text.
    let say = |file: &str| {
        let path = folder.path().join(file);
        let args = ["run", text(&path), "--prompt", "The", "-n", "8", "--temp", "0"];
        let run = squizd(&args).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        run.stdout
    };
    assert_eq!(say("planes.squizd"), say("planes-raw.squizd"));
    let refused =
        squizd(&["convert", text(&tiny()), "--codec", "int4", "--zstd-level", "5"]).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && message.contains("--zstd-level"), "{message}");
}

#[test]
fn hybrid_meets_its_rate_and_writes_its_curves() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (out, csv, svg) = (at("h.squizd"), at("rd.csv"), at("rd.svg"));
    let source = tiny();
    let arguments = ["convert", text(&source), "-o", text(&out), "--codec", "hybrid", "--target-bpw", "3.6"];
    let with_curve = [&arguments[..], &["--rd-curve", text(&csv), "--json"]].concat();
    json(&[&with_curve[..], &["--dry-run"]].concat());
    assert!(files_in(folder.path()).is_empty(), "a dry run writes nothing");
    json(&with_curve);
    let inspect = json(&["inspect", text(&out), "--json"]);
    let count =
        |t: &Value| t["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>();
    let tensors: Vec<_> =
        inspect["tensors"].as_array().unwrap().iter().filter(|t| t["codec"] == "hybrid").collect();
    // One row of one tile of a smaller tensor is more than 0.02 bits a weight.
    let large: Vec<_> = tensors.iter().filter(|t| count(t) > 60_000).collect();
    assert!(!large.is_empty());
    for tensor in large {
        let bits = 8.0 * tensor["bytes"].as_f64().unwrap() / count(tensor) as f64;
        assert!((3.58..=3.6).contains(&bits), "{}: {bits}", tensor["name"]);
    }

    let numbers = fs::read_to_string(&csv).unwrap();
    let mut lines = numbers.lines();
    assert_eq!(lines.next(), Some("tensor,bits_per_weight,snr_db"));
    let points: Vec<(&str, f64, f64)> = lines
        .map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            (fields[0], fields[1].parse().unwrap(), fields[2].parse().unwrap_or(f64::INFINITY))
        })
        .collect();
    let names: std::collections::BTreeSet<_> = points.iter().map(|p| p.0).collect();
    assert_eq!(names.len(), tensors.len() + 1, "every tensor, and all together");
    assert!(tensors.iter().all(|t| names.contains(t["name"].as_str().unwrap())));
    let whole: Vec<_> = points.iter().filter(|p| p.0 == "(all)").collect();
    assert!(whole.len() > 30 && whole.is_sorted_by(|a, b| a.1 < b.1 && a.2 <= b.2), "{whole:?}");
    assert!(whole[0].1 < 4.0 && whole[whole.len() - 1].1 > 16.0);
    assert_eq!(fs::read_to_string(&svg).unwrap().matches("<polyline").count(), names.len());

    // What cannot be written is said before anything is.
    for (extra, why) in [
        (vec!["--codec", "int4", "--rd-curve", text(&csv)], "no tensor is stored as hybrid"),
        (vec!["--codec", "hybrid", "--rd-curve", text(&svg)], "name a .csv file"),
        (vec!["--codec", "hybrid", "--rd-curve", "no/such/folder.csv"], "existing folder"),
    ] {
        let other = at("other.squizd");
        let run = squizd(&["convert", text(&tiny()), "-o", text(&other)]).args(extra).output().unwrap();
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.code() == Some(2) && message.contains(why), "{message}");
        assert!(!other.exists());
    }
}

#[test]
fn norms_stay_raw_and_the_plan_is_kept() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("o.squizd");
    let plan = json(&["convert", text(&tiny()), "-o", text(&out), "--dry-run", "--json"]);
    assert!(files_in(folder.path()).is_empty(), "a dry run writes nothing");
    convert(&folder, "o.squizd", &[]);
    let inspect = json(&["inspect", text(&out), "--json"]);
    let (planned, stored) = (plan["tensors"].as_array().unwrap(), inspect["tensors"].as_array().unwrap());
    assert_eq!(planned.len(), stored.len());
    for (p, s) in planned.iter().zip(stored) {
        for key in ["name", "codec", "bytes", "dims"] {
            assert_eq!(p[key], s[key], "{}", p["name"]);
        }
        if s["name"].as_str().unwrap().contains("norm") {
            assert_eq!(s["codec"], "bf16");
        }
    }
    assert!(plan["forecast"]["output_bytes"].as_u64().unwrap() >= fs::metadata(&out).unwrap().len());
}

#[test]
fn same_bytes_for_any_thread_count_and_instruction_set() {
    let folder = TempDir::new().unwrap();
    for codec in ["int4", "int4:g32", "mxfp4", "q8", "sqint2:fast", "astc", "zplanes"] {
        let reference =
            fs::read(convert(&folder, "a.squizd", &["--codec", codec, "--threads", "1"])).unwrap();
        assert!(
            reference
                == fs::read(convert(&folder, "b.squizd", &["--codec", codec, "--threads", "2"])).unwrap()
        );
        for level in ["scalar", "avx2", "avx512", "neon"] {
            let out = folder.path().join("c.squizd");
            let run = squizd(&["convert", text(&tiny()), "-o", text(&out), "--codec", codec])
                .env("SQUIZD_SIMD", level)
                .output()
                .unwrap();
            if run.status.success() {
                assert!(reference == fs::read(&out).unwrap(), "{codec} with {level}");
            } else {
                let message = String::from_utf8_lossy(&run.stderr).into_owned();
                assert!(message.contains(level), "{message}");
                eprintln!("skipped {level}: this CPU lacks it");
            }
        }
    }
}

#[test]
fn the_source_files_are_named_with_their_hashes() {
    use sha2::{Digest, Sha256};
    let folder = TempDir::new().unwrap();
    let out = convert(&folder, "o.squizd", &[]);
    let inspect = json(&["inspect", text(&out), "--json", "--metadata"]);
    let weights = fs::read(tiny().join("model.safetensors")).unwrap();
    let digest = squizd_spec::Hex(&Sha256::digest(&weights)).to_string();
    let expected = serde_json::json!([
        { "name": "model.safetensors", "bytes": weights.len(), "sha256": digest }
    ]);
    assert_eq!(inspect["metadata"]["provenance"]["source"]["files"], expected);
}

#[test]
fn overrides_choose_by_name() {
    let folder = TempDir::new().unwrap();
    let out = convert(
        &folder,
        "o.squizd",
        &[
            "--tensor-type",
            "ffn_down=q8",
            "--tensor-type",
            "blk.0.*=f32",
            "--tensor-type",
            "^token_embd=int4:g64",
        ],
    );
    let inspect = json(&["inspect", text(&out), "--json"]);
    let codec = |name: &str| {
        let tensors = inspect["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["codec"].as_str().unwrap().to_owned()
    };
    assert_eq!(codec("blk.1.ffn_down.weight"), "q8");
    assert_eq!(codec("blk.0.ffn_down.weight"), "f32", "the last match wins");
    assert_eq!(codec("blk.1.ffn_up.weight"), "int4");
    assert_eq!(codec("token_embd.weight"), "int4");
}

#[test]
fn wrong_usage_is_found_before_anything_is_written() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("o.squizd");
    let source = tiny();
    let refused = |args: &[&str], code: i32, says: &str| {
        let run = squizd(args).output().unwrap();
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(says), "{args:?}: {message}");
    };
    let base = ["convert", text(&source), "-o", text(&out)];
    let with = |extra: &[&'static str]| [base.to_vec(), extra.to_vec()].concat();
    refused(&with(&["--codec", "int5"]), 2, "unknown codec \"int5\"");
    refused(&with(&["--group-size", "48"]), 1, "group size is 48");
    refused(&with(&["--tensor-type", "ffn"]), 2, "REGEX=CODEC");
    refused(&with(&["--tensor-type", "(=q8"]), 2, "--tensor-type");
    refused(&with(&["--threads", "0"]), 2, "--threads is 0");
    refused(&["convert", "/nonexistent", "-o", text(&out)], 2, "/nonexistent");
    refused(&["convert", text(&source), "-o", "/nonexistent/x.squizd"], 2, "/nonexistent");
    let inside = source.join("o.squizd");
    refused(&["convert", text(&source), "-o", text(&inside)], 2, "inside the input");
    let foreign = folder.path().join("precious.txt");
    fs::write(&foreign, "do not lose me").unwrap();
    refused(&["convert", text(&source), "-o", text(&foreign)], 2, "not a .squizd file");
    let link = folder.path().join("link.squizd");
    std::os::unix::fs::symlink(&foreign, &link).unwrap();
    refused(&["convert", text(&source), "-o", text(&link)], 2, "not a regular file");
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "do not lose me");
    assert_eq!(files_in(folder.path()), ["link.squizd", "precious.txt"]);
}

#[test]
fn not_a_number_names_tensor_and_place_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let index: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let name = "model.layers.2.mlp.up_proj.weight";
    let start = header + index[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let element = 5 * 128 + 7;
    bytes[start + 2 * element..][..2].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&weights, bytes).unwrap();
    let out = folder.path().join("o.squizd");
    let run = squizd(&["convert", text(&model), "-o", text(&out)]).output().unwrap();
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{message}");
    assert!(message.contains("blk.2.ffn_up.weight") && message.contains("row 5, column 7"), "{message}");
    assert_eq!(files_in(folder.path()), ["model"]);
}

#[test]
fn killed_midway_leaves_the_old_file() {
    let folder = TempDir::new().unwrap();
    let out = convert(&folder, "o.squizd", &["--codec", "raw"]);
    let old = fs::read(&out).unwrap();
    for delay in [1, 5, 10, 20, 40] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_squizd"))
            .args(["convert", text(&tiny()), "-o", text(&out), "--codec", "int4", "--resume"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        let now = fs::read(&out).unwrap();
        squizd(&["validate", text(&out)]).assert().success();
        assert!(finished || now == old || now.len() != old.len(), "neither the old nor a new file");
    }
    // What the killed ones left is taken over.
    convert(&folder, "o.squizd", &["--codec", "int4", "--resume"]);
    assert_eq!(files_in(folder.path()), ["o.squizd"]);
}

#[test]
fn interrupted_cleans_up_and_exits_130() {
    let folder = TempDir::new().unwrap();
    let source = big_enough_to_interrupt(folder.path());
    let out = folder.path().join("o.squizd");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_squizd"))
        .args(["convert", text(&source), "-o", text(&out)])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let part = folder.path().join("o.squizd.part");
    let started = Instant::now();
    while !part.exists() && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(files_in(folder.path()), ["model"]);
}

/// The tiny model with a vocabulary grown by zero rows to some 100 MB.
fn big_enough_to_interrupt(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(tiny().join(name), model.join(name)).unwrap();
    }
    let rows = 400_000u64;
    let mut config: Value = serde_json::from_slice(&fs::read(tiny().join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = rows.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(tiny().join("model.safetensors")).unwrap();
    let at = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let index: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..at]).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, entry) in index.iter().filter(|(n, _)| *n != "__metadata__") {
        let range: Vec<usize> =
            entry["data_offsets"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
        let mut tensor = bytes[at + range[0]..at + range[1]].to_vec();
        let mut entry = entry.clone();
        if name == "model.embed_tokens.weight" {
            tensor.resize((rows * 128 * 2) as usize, 0);
            entry["shape"] = serde_json::json!([rows, 128]);
        }
        entry["data_offsets"] = serde_json::json!([data.len(), data.len() + tensor.len()]);
        data.extend(tensor);
        header.insert(name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let file = [&(text.len() as u64).to_le_bytes()[..], &text, &data].concat();
    fs::write(model.join("model.safetensors"), file).unwrap();
    model
}

#[test]
fn the_runtime_speaks_as_the_reference_does() {
    let folder = TempDir::new().unwrap();
    let raw = convert(&folder, "raw.squizd", &["--codec", "raw"]);
    let reference: Value = serde_json::from_slice(&fs::read(tiny().join("reference.json")).unwrap()).unwrap();
    let prompts = reference["prompts"].as_array().unwrap();
    for (prompt, expected) in prompts.iter().zip(reference["greedy_32"].as_array().unwrap()) {
        let run = squizd(&[
            "run",
            text(&raw),
            "--prompt",
            prompt.as_str().unwrap(),
            "-n",
            "32",
            "--precision",
            "f32",
            "--kv",
            "f32",
        ])
        .output()
        .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let spoken = String::from_utf8(run.stdout).unwrap();
        assert_eq!(spoken.trim_end(), expected.as_str().unwrap().trim_end());
    }
}

#[test]
fn logits_agree_with_transformers() {
    let folder = TempDir::new().unwrap();
    let raw = convert(&folder, "raw.squizd", &["--codec", "raw"]);
    let reference = fs::read(tiny().join("reference_logits.safetensors")).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&reference).unwrap();
    for i in 0..4 {
        let ids = reference.tensor(&format!("ids.{i}")).unwrap();
        let logits = reference.tensor(&format!("logits.{i}")).unwrap();
        let ids: Vec<String> =
            ids.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()).to_string()).collect();
        let out = folder.path().join("logits.safetensors");
        squizd(&["eval", "logits", text(&raw), "--ids", &ids.join(","), "-o", text(&out)]).assert().success();
        let bytes = fs::read(&out).unwrap();
        let ours = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ours = floats(ours.tensor("logits").unwrap().data());
        let theirs = floats(logits.data());
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "prompt {i}: max abs error {worst}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn perplexity_of_raw_and_int4() {
    let folder = TempDir::new().unwrap();
    let heldout = tiny().join("heldout.txt");
    let score = |codec: &str| {
        let out = convert(&folder, &format!("{codec}.squizd"), &["--codec", codec]);
        let result = json(&["eval", "ppl", text(&out), "--text", text(&heldout), "--ctx", "256", "--json"]);
        result["ppl"].as_f64().unwrap()
    };
    let raw = score("raw");
    assert!((raw / 17.632 - 1.0).abs() < 0.005, "raw perplexity {raw}");
    let int4 = score("int4");
    assert!(int4 / raw < 1.15 && int4 > raw * 0.99, "int4 perplexity {int4}, raw {raw}");
}
