//! Commands on the GPU path: any adapter, lavapipe in CI. Without one they skip,
//! which is a failure where `SQUIZD_REQUIRE` names `vulkan`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn squizd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squizd"));
    command.args(args);
    command
}

fn convert(folder: &TempDir, codec: &str) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m");
    let out = folder.path().join(format!("tiny-{codec}.squizd"));
    squizd(&["convert", "--codec", codec, "-q", "-o"]).args([&out, &tiny]).assert().success();
    out
}

/// What the command prints; `None` if there is no adapter.
fn output(command: &mut Command) -> Option<String> {
    let done = command.output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    if done.status.code() == Some(3) && errors.contains("no Vulkan or Metal adapter") {
        let required = std::env::var("SQUIZD_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r == "vulkan"), "vulkan is required: {errors}");
        eprintln!("skipped: no adapter");
        return None;
    }
    assert!(done.status.success(), "{errors}");
    Some(String::from_utf8(done.stdout).unwrap())
}

const KERNELS: [&str; 7] = ["bench", "kernels", "--small", "--codec", "int4", "--shape", "40x288"];

#[test]
fn kernels_are_measured_against_the_ceiling() {
    let Some(text) = output(squizd(&KERNELS).arg("--json")) else { return };
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert!(report["command"].as_str().unwrap().starts_with("squizd bench kernels --small"));
    for ceiling in ["read_gbs", "copy_gbs", "dispatch_us", "submit_us"] {
        assert!(report["ceilings"][ceiling].as_f64().unwrap() > 0.0, "{ceiling}: {report}");
    }
    let (measured, other) = match report["adapter"]["backend"].as_str().unwrap() {
        "metal" => ("metal", "vulkan"),
        _ => ("vulkan", "metal"),
    };
    assert_eq!(report[other], "not measured");
    let results = report[measured].as_array().unwrap();
    let forms: Vec<&str> = results.iter().map(|r| r["math"].as_str().unwrap()).collect();
    assert!(forms.contains(&"f32") && forms.contains(&"i8"), "{forms:?}");
    for result in results {
        assert_eq!((&result["rows"], &result["cols"]), (&40.into(), &288.into()));
        assert!(result["codec"].as_str().unwrap().starts_with("int4"), "{result}");
        let number = |name: &str| result[name].as_f64().unwrap();
        let rate = number("bytes") / number("us") / 1e3;
        assert!((number("gbs") - rate).abs() < 1e-6 * rate, "{result}");
        let ceiling = report["ceilings"]["read_gbs"].as_f64().unwrap();
        assert!((number("share") - rate / ceiling).abs() < 1e-6 * number("share"), "{result}");
    }
}

#[test]
fn kernels_are_printed_as_markdown() {
    let Some(text) = output(&mut squizd(&KERNELS)) else { return };
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("| int4")).collect();
    assert!(rows.len() >= 6, "{text}");
    assert!(text.contains("Command: `squizd bench kernels --small --codec int4 --shape 40x288`"), "{text}");
    assert!(text.contains("Adapter: ") && text.contains("Driver: "), "{text}");
    let header = text.lines().find(|l| l.starts_with("| codec")).unwrap();
    assert!(header.contains("share, Vulkan") && header.contains("share, Metal"));
    for row in rows {
        assert_eq!(row.matches('|').count(), header.matches('|').count(), "{row}");
        assert!(row.contains("not measured") && row.contains('%'), "{row}");
    }
}

#[test]
fn wrong_arguments_are_told_before_anything_is_opened() {
    squizd(&["bench", "kernels", "--shape", "40"]).assert().code(2);
    squizd(&["bench", "kernels", "--json", "--md"]).assert().code(2);
    // Files are still asked for otherwise.
    squizd(&["bench"]).assert().code(2);
}

#[test]
fn a_model_is_judged_as_on_the_cpu() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let text = folder.path().join("text");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog, and then it rests.".repeat(4))
        .unwrap();
    let on = |backend: &str, what: &str| {
        let mut command = squizd(&["eval", what, "--ctx", "48", "--backend", backend, "--json", "--text"]);
        let command = command.arg(&text).arg(&file);
        if what == "kld" {
            command.arg("--reference").arg(&file);
        }
        output(command).map(|text| serde_json::from_str::<Value>(&text).unwrap())
    };
    let Some(gpu) = on("gpu", "ppl") else { return };
    let cpu = on("cpu", "ppl").unwrap();
    assert_eq!(gpu["tokens"], cpu["tokens"]);
    let (a, b) = (gpu["ppl"].as_f64().unwrap(), cpu["ppl"].as_f64().unwrap());
    assert!((a / b - 1.0).abs() < 1e-5, "perplexity {a} on the GPU, {b} on the CPU");
    let same = on("gpu", "kld").unwrap();
    assert!(same["kld"]["max"].as_f64().unwrap() < 1e-9, "{same}");

    let logits = |backend: &str| {
        let target = folder.path().join(format!("{backend}.safetensors"));
        let mut command = squizd(&["eval", "logits", "--ids", "1,2,3,4,5", "--backend", backend, "-o"]);
        output(command.arg(&target).arg(&file)).unwrap();
        let bytes = std::fs::read(target).unwrap();
        let data = bytes.split_at(8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize).1;
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    let (gpu, cpu) = (logits("gpu"), logits("cpu"));
    assert_eq!(gpu.len(), cpu.len());
    let most = gpu.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 2e-4, "{most}");
}

#[test]
fn a_model_runs_and_is_measured_on_the_gpu() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "q8");
    let bench = ["bench", "-p8", "-n4", "-r2", "--bandwidth-buffer=8M", "-o", "json", "--backend"];
    let Some(text) = output(squizd(&bench).arg("gpu").arg(&file)) else { return };
    let report: Value = serde_json::from_str(&text).unwrap();
    let model = &report["models"][0];
    assert_ne!(model["backend"], "cpu");
    assert!(model["decode_tok_s"]["p50"].as_f64().unwrap() > 0.0, "{model}");
    let on_cpu: Value = serde_json::from_str(&output(squizd(&bench).arg("cpu").arg(&file)).unwrap()).unwrap();
    assert_eq!(on_cpu["models"][0]["backend"], "cpu");
    assert!(on_cpu["models"][0]["device"].is_null());
    let device = &model["device"];
    assert!(
        device["read_bandwidth"].as_f64().unwrap() > 0.0 && device["dispatch_us"].as_f64().unwrap() > 0.0
    );
    // Five a layer, and two (`docs/gpu.md`).
    assert_eq!(device["dispatches_per_token"], 5 * 5 + 2);

    // Greedy: ids are picked on the device. Sampled: from logits that come back.
    for temperature in ["0", "0.7"] {
        let run = |backend: &str| {
            let options =
                ["run", "-n", "16", "--precision", "f32", "--kv", "f32", "--ignore-eos", "--seed", "3"];
            let mut command = squizd(&options);
            command.args(["--temp", temperature, "--backend", backend, "-p", "The quick"]).arg(&file);
            output(&mut command).unwrap()
        };
        assert_eq!(run("gpu"), run("cpu"), "temperature {temperature}");
    }
}
