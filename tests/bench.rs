//! `squizd bench` on the tiny trained model: the command, few trials.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn squizd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squizd"));
    command.args(args).env_remove("PATH");
    command
}

fn convert(folder: &TempDir, codec: &str) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m");
    let out = folder.path().join(format!("tiny-{codec}.squizd"));
    squizd(&["convert", "--codec", codec, "-q", "-o"]).args([&out, &tiny]).assert().success();
    out
}

const FEW: [&str; 4] = ["bench", "-p8", "-r3", "--bandwidth-buffer=8M"];

fn output(args: &[&str], files: &[&Path]) -> String {
    let done = squizd(&FEW).args(args).args(files).assert().success();
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

#[test]
fn numbers_are_those_of_the_files() {
    let folder = TempDir::new().unwrap();
    let files = [convert(&folder, "raw"), convert(&folder, "int4")];
    let paths = [files[0].as_path(), files[1].as_path()];
    let report: Value =
        serde_json::from_str(&output(&["-n", "4", "-o", "json", "--threads", "2"], &paths)).unwrap();
    assert_eq!(report["schema_version"], 1);
    let workload = &report["workload"];
    assert_eq!(
        (&workload["trials"], &workload["threads"], &workload["context"]),
        (&3.into(), &2.into(), &12.into())
    );
    assert_eq!(report["bandwidth"]["buffer_bytes"], 8_000_000);
    assert!(report["llama_cpp_absent"].as_str().unwrap().contains("llama-bench"));
    let models = report["models"].as_array().unwrap();
    for (model, (file, codec)) in models.iter().zip(files.iter().zip(["raw", "int4"])) {
        assert_eq!((model["file"].as_str(), model["codec"].as_str()), (file.to_str(), Some(codec)));
        assert_eq!(model["disk_bytes"], std::fs::metadata(file).unwrap().len());
        let inspect = squizd(&["inspect", "--json"]).arg(file).assert().success().get_output().stdout.clone();
        let inspect: Value = serde_json::from_slice(&inspect).unwrap();
        let payload: u64 =
            inspect["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
        // The embedding is the head: a step reads everything.
        assert_eq!(model["bytes_per_token"], payload);
        let bits = payload as f64 * 8.0 / model["weights"].as_f64().unwrap();
        assert!((model["bits_per_weight"].as_f64().unwrap() - bits).abs() < 1e-9);
        for key in [
            "load_ms",
            "forward_ms",
            "first_token_ms",
            "prefill_tok_s",
            "decode_tok_s",
            "read_bandwidth",
            "bandwidth_share",
        ] {
            let s = &model[key];
            let value = |name: &str| s[name].as_f64().unwrap_or_else(|| panic!("{key} {name}: {s}"));
            assert_eq!(s["n"], 3, "{key}");
            assert!(
                value("min") > 0.0 && value("min") <= value("p50") && value("p50") <= value("p99"),
                "{key}: {s}"
            );
            let interval = s["ci95"].as_array().unwrap();
            assert!(
                interval[0].as_f64().unwrap() <= value("mean")
                    && value("mean") <= interval[1].as_f64().unwrap()
            );
        }
        assert!(model["served_first_token_ms"].is_null() && model["llama_cpp"] == Value::Array(vec![]));
        // The first token needs the whole prompt.
        let prefill_ms = 8.0 / model["prefill_tok_s"]["max"].as_f64().unwrap() * 1e3;
        assert!(model["first_token_ms"]["min"].as_f64().unwrap() >= prefill_ms);
        if cfg!(target_os = "linux") && !model["peak_rss_bytes"].is_null() {
            assert!(model["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
        }
    }
    assert!(models[1]["bits_per_weight"].as_f64() < models[0]["bits_per_weight"].as_f64());
}

#[test]
fn every_form_has_every_file() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let twice = [file.as_path(), &file];
    let csv = output(&["-n", "4", "-o", "csv"], &twice);
    let columns: Vec<usize> = csv.lines().map(|l| l.split(',').count()).collect();
    assert!(columns.len() == 3 && columns[0] > 60 && columns.iter().all(|c| *c == columns[0]), "{columns:?}");
    let lines = output(&["-n", "4", "-o", "jsonl"], &twice);
    assert_eq!(
        lines.lines().filter(|l| serde_json::from_str::<Value>(l).unwrap()["codec"] == "int4").count(),
        2
    );
    let md = output(&["-n", "0"], &twice);
    assert_eq!(md.matches("first token, ms").count(), 2);
    assert!(!md.contains("decode, tok/s"), "{md}");
}

/// A stand-in that answers as `llama-bench -o json` does.
#[cfg(unix)]
#[test]
fn llama_bench_is_run_beside() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let program = folder.path().join("llama-bench");
    let test = |p: u32, n: u32, rate: f64| {
        format!(
            r#"{{"build_commit":"abc","model_type":"qwen3 Q4_0","model_size":500,"model_n_params":800,"n_prompt":{p},"n_gen":{n},"avg_ts":{rate}}}"#
        )
    };
    let script =
        format!("#!/bin/sh\necho \"$@\" >> \"$0.log\"\necho '[{},{}]'\n", test(8, 0, 2.0), test(0, 4, 0.5));
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let done = squizd(&FEW)
        .args(["-n", "4", "-o", "json", "--threads", "1", "--gguf", "model.gguf"])
        .arg(&file)
        .env("PATH", folder.path())
        .assert()
        .success();
    let report: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let model = &report["models"][0];
    let llama = &model["llama_cpp"][0];
    assert_eq!((&llama["quantization"], &llama["bits_per_weight"]), (&"qwen3 Q4_0".into(), &5.0.into()));
    assert_eq!((&llama["prefill_tok_s"]["mean"], &llama["decode_tok_s"]["mean"]), (&2.0.into(), &0.5.into()));
    let ratio = llama["decode_ratio"]["max"].as_f64().unwrap();
    assert!((ratio - 2.0 * model["decode_tok_s"]["max"].as_f64().unwrap()).abs() < 1e-6 * ratio);
    let log = std::fs::read_to_string(folder.path().join("llama-bench.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "once to see the model, once a trial");
    assert!(log.lines().all(|l| l == "-m model.gguf -p 8 -n 4 -t 1 -r 1 -o json"), "{log}");
}

#[cfg(feature = "serve")]
#[test]
fn a_client_of_the_server_waits_for_the_forward_pass() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let json = output(&["-n", "1", "--through-server", "--threads", "2", "-o", "json"], &[&file]);
    let report: Value = serde_json::from_str(&json).unwrap();
    let model = &report["models"][0];
    let number =
        |key: &str, of: &str| model[key][of].as_f64().unwrap_or_else(|| panic!("{key} {of}: {model}"));
    assert_eq!(model["served_lag_ms"]["n"], 3);
    assert!(number("served_lag_ms", "min") >= 0.0);
    assert!(number("served_lag_ms", "max") < number("served_first_token_ms", "max"));
    let md = output(&["-n", "1", "--through-server"], &[&file]);
    assert!(
        md.contains("first token through `serve`, ms") && md.contains("of that not its forward pass"),
        "{md}"
    );
}

#[test]
fn opening_alone_is_measured() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let twice = [file.as_path(), &file];
    let report: Value = serde_json::from_str(&output(&["--open-only", "-o", "json"], &twice)).unwrap();
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for one in files {
        assert_eq!(one["disk_bytes"], std::fs::metadata(&file).unwrap().len());
        assert!(one["tensors"].as_u64().unwrap() > 10 && one["first_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(one["open_ms"]["n"], 3);
    }
    let csv = output(&["--open-only", "-o", "csv"], &twice);
    assert!(csv.lines().count() == 3 && csv.lines().all(|l| l.split(',').count() == 8), "{csv}");
    assert_eq!(output(&["--open-only", "-o", "jsonl"], &twice).lines().count(), 2);
    assert_eq!(output(&["--open-only"], &twice).matches("| tiny-int4.squizd |").count(), 2);
}

#[test]
fn a_time_limit_ends_the_trials() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    let report: Value =
        serde_json::from_str(&output(&["-n", "1", "--time-limit", "0", "-o", "json"], &[&file])).unwrap();
    assert_eq!(
        (&report["workload"]["trials"], &report["models"][0]["decode_tok_s"]["n"]),
        (&3.into(), &1.into())
    );
    assert!(output(&["-n", "1", "--time-limit", "0"], &[&file]).contains("1 trials (of 3 asked for"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = convert(&folder, "int4");
    for (args, part) in [
        (&["-n", "4", "-r", "0"][..], "nothing to measure"),
        (&["-n", "0", "-p", "0"], "nothing to measure"),
        (&["-p", "8", "-n", "4", "--ctx-size", "11"], "--ctx-size is 11, -p and -n need 12"),
        (&["--bandwidth-buffer", "99999999G"], "--bandwidth-buffer"),
        (&["--gguf", "x.gguf", "--llama-cpp", "/does/not/exist"], "/does/not/exist"),
        (&["--llama-cpp", "/does/not/exist"], "--gguf"),
        (&["--open-only", "-r", "0"], "nothing to measure"),
        (&["--open-only", "--time-limit", "3"], "--time-limit"),
    ] {
        let done = squizd(&["bench"]).args(args).arg(&file).assert().code(2);
        let text = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(text.contains(part), "{args:?}: {text}");
    }
}
