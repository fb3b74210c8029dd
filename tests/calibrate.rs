//! Calibration through the command line, on the tiny trained model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use assert_cmd::Command;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m")
}

fn squizd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squizd"));
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = squizd(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(args: &[&str], code: i32, says: &str) {
    let run = squizd(args).output().unwrap();
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(code), "{args:?}: {message}");
    assert!(message.contains(says), "{args:?}: {message}");
}

/// The tiny model raw, and the first half of its text.
struct Ready {
    folder: TempDir,
    raw: PathBuf,
    corpus: PathBuf,
}

impl Ready {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let raw = folder.path().join("raw.squizd");
        squizd(&["convert", text(&tiny()), "-o", text(&raw), "--codec", "raw"]).assert().success();
        let corpus = folder.path().join("calib.txt");
        let all = fs::read_to_string(tiny().join("heldout.txt")).unwrap();
        fs::write(&corpus, &all[..all.floor_char_boundary(all.len() / 2)]).unwrap();
        Self { folder, raw, corpus }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calibrate(&self, name: &str, extra: &[&str]) -> (PathBuf, Value) {
        let out = self.path(name);
        let base = [
            "calibrate",
            text(&self.raw),
            "--text",
            text(&self.corpus),
            "-o",
            text(&out),
            "--json",
            "--ctx",
            "128",
        ];
        let summary = json(&[&base[..], extra].concat());
        (out, summary)
    }
}

#[test]
fn calibration_is_the_same_for_any_thread_count_and_bound_into_the_file() {
    let ready = Ready::new();
    let (calib, summary) = ready.calibrate("a.calib", &["--tokens", "2000", "--threads", "2"]);
    let (again, _) = ready.calibrate("b.calib", &["--tokens", "2000", "--threads", "1"]);
    assert!(fs::read(&calib).unwrap() == fs::read(&again).unwrap());
    assert_eq!((&summary["tokens"], &summary["windows"]), (&2000.into(), &16.into()));
    assert_eq!(summary["bytes"], fs::metadata(&calib).unwrap().len());

    let out = ready.path("o.squizd");
    let source = tiny();
    let convert = ["convert", text(&source), "-o", text(&out), "--calibration", text(&calib)];
    squizd(&convert).assert().success();
    let inspect = json(&["inspect", text(&out), "--json", "--metadata"]);
    let digest = summary["sha256"].as_str().unwrap();
    assert_eq!(inspect["metadata"]["provenance"]["calibration"], digest);
    let hash = inspect["header"]["calibration_hash"].as_str().unwrap();
    let bytes: Vec<&str> = (0..8).rev().map(|i| &digest[2 * i..2 * i + 2]).collect();
    assert_eq!(hash, bytes.concat(), "the digest's first 8 bytes, read as a little-endian number");
    squizd(&["validate", "--level", "numerics", text(&out)]).assert().success();
}

#[test]
fn divergence_from_the_raw_model_grows_as_bits_shrink() {
    let ready = Ready::new();
    let kld = |file: &Path| {
        let heldout = tiny().join("heldout.txt");
        let args = ["--reference", text(&ready.raw), "--text", text(&heldout), "--bytes", "8000", "--json"];
        json(&[&["eval", "kld", text(file)][..], &args].concat())
    };
    let same = kld(&ready.raw);
    assert!(same["kld"]["max"].as_f64().unwrap() < 1e-9 && same["top1_agreement"] == 1.0);
    let [q8, int4] = ["q8", "int4"].map(|codec| {
        let out = ready.path(codec);
        squizd(&["convert", text(&tiny()), "-o", text(&out), "--codec", codec]).assert().success();
        let result = kld(&out);
        let ppl = json(&[
            "eval",
            "ppl",
            text(&out),
            "--text",
            text(&tiny().join("heldout.txt")),
            "--bytes",
            "8000",
            "--json",
        ]);
        let (a, b) = (result["ppl"].as_f64().unwrap(), ppl["ppl"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-5, "one protocol: {a} {b}");
        assert_eq!(result["tokens"], ppl["tokens"]);
        result["kld"]["mean"].as_f64().unwrap()
    });
    assert!(q8 > 0.0 && int4 > 3.0 * q8, "{q8} {int4}");
}

#[test]
fn kept_logits_stand_for_their_model_on_their_own_text() {
    let ready = Ready::new();
    let (logits, heldout) = (ready.path("logits.safetensors"), tiny().join("heldout.txt"));
    let part = ["--text", text(&heldout), "--bytes"];
    let keep = ["eval", "logits", text(&ready.raw), "-o", text(&logits)];
    squizd(&[&keep[..], &part, &["4000"]].concat()).assert().success();
    let judge = ["eval", "kld", text(&ready.raw), "--reference", text(&logits), "--json"];
    let same = json(&[&judge[..], &part, &["4000"]].concat());
    assert!(same["kld"]["max"].as_f64().unwrap() < 1e-9 && same["top1_agreement"] == 1.0, "{same}");
    squizd(&[&judge[..], &part, &["3000"]].concat()).assert().code(2);
}

#[test]
fn scaling_keeps_the_function_and_helps_the_quantized() {
    let ready = Ready::new();
    let (calib, _) = ready.calibrate("a.calib", &["--tokens", "4000", "--diagonal"]);
    let source = tiny();
    let convert = |name: &str, extra: &[&str]| {
        let out = ready.path(name);
        let base = ["convert", text(&source), "-o", text(&out), "--calibration", text(&calib), "--json"];
        let summary = json(&[&base[..], extra].concat());
        (out, summary)
    };
    let kld = |file: &Path| {
        let heldout = tiny().join("heldout.txt");
        let args = ["--reference", text(&ready.raw), "--text", text(&heldout), "--bytes", "6000", "--json"];
        json(&[&["eval", "kld", text(file)][..], &args].concat())["kld"].clone()
    };
    let (raw, summary) = convert("scaled-raw", &["--codec", "raw", "--awq-alpha", "0.5"]);
    let groups = summary["awq"].as_array().unwrap();
    assert!(!groups.is_empty() && groups.iter().all(|g| g["alpha"] == 0.5));
    let same = kld(&raw);
    assert!(same["max"].as_f64().unwrap() < 1e-6, "{same}");

    let (plain, _) = convert("plain", &["--codec", "int4:g128"]);
    let (scaled, summary) = convert("scaled", &["--codec", "int4:g128", "--awq", "--threads", "2"]);
    let (again, _) = convert("again", &["--codec", "int4:g128", "--awq", "--threads", "1"]);
    assert!(fs::read(&scaled).unwrap() == fs::read(&again).unwrap());
    let [a, b] = [&plain, &scaled].map(|f| kld(f)["mean"].as_f64().unwrap());
    println!("KL divergence {a} without, {b} with scaling");
    assert!(b < a, "{a} {b}");
    let groups = summary["awq"].as_array().unwrap();
    assert!(groups.iter().any(|g| g["error_ratio"].as_f64().unwrap() < 0.99), "{groups:?}");
    let inspect = json(&["inspect", text(&scaled), "--json", "--metadata"]);
    assert_eq!(inspect["metadata"]["provenance"]["recipe"]["awq"], "search");
    for t in
        inspect["tensors"].as_array().unwrap().iter().filter(|t| t["name"].as_str().unwrap().contains("norm"))
    {
        assert!(t["codec"] == "f32" || t["codec"] == "bf16", "{t}");
    }
    squizd(&["validate", "--level", "numerics", text(&scaled)]).assert().success();
}

#[test]
fn auto_stays_below_its_target() {
    let folder = TempDir::new().unwrap();
    let source = tiny();
    let convert = |name: &str, extra: &[&str]| {
        let out = folder.path().join(name);
        let base = ["convert", text(&source), "-o", text(&out), "--json", "--codec", "auto"];
        let list = ["--candidates", "int4:g64,int4,q8,bf16"];
        json(&[&base[..], &list, extra].concat())
    };
    for target in ["5.2", "7.0", "10.5"] {
        let used = convert("bpw", &["--target-bpw", target])["bpw"].as_f64().unwrap();
        let target: f64 = target.parse().unwrap();
        assert!(used <= target && used > target - 0.7, "{used} for {target}");
    }
    for target in [1_000_000u64, 1_200_000] {
        let used = convert("size", &["--target-size", &target.to_string()])["bytes"].as_u64().unwrap();
        assert!(used <= target && used > target / 10 * 9, "{used} for {target}");
    }
    let planned = convert("dry", &["--target-bpw", "7", "--dry-run"]);
    let codecs: std::collections::BTreeSet<_> = planned["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["codec"].as_str().unwrap().to_owned())
        .collect();
    assert!(codecs.contains("q8") && codecs.contains("int4"), "{codecs:?}");
    assert!(!folder.path().join("dry").exists());

    let out = folder.path().join("o");
    let base = ["convert", text(&source), "-o", text(&out), "--codec"];
    refused(&[&base[..], &["auto"]].concat(), 2, "needs --target-bpw or --target-size");
    refused(
        &[&base[..], &["auto", "--target-bpw", "2", "--candidates", "q8"]].concat(),
        2,
        "cheapest candidates need",
    );
    refused(
        &[&base[..], &["auto", "--target-size", "10k"]].concat(),
        2,
        "tables, tokenizer and metadata alone",
    );
    refused(&[&base[..], &["auto", "--target-size", "1X"]].concat(), 2, "must be a number");
    refused(&[&base[..], &["int4", "--target-bpw", "3"]].concat(), 2, "fixed rate");
    refused(&[&base[..], &["q8", "--target-size", "1M"]].concat(), 2, "go with --codec auto");
    refused(&[&base[..], &["int4", "--awq"]].concat(), 2, "--calibration");
    assert!(!out.exists());
}

#[test]
fn wrong_usage_is_said() {
    let ready = Ready::new();
    let (calib, _) = ready.calibrate("a.calib", &["--tokens", "300", "--diagonal"]);
    let (raw, corpus) = (text(&ready.raw), text(&ready.corpus));
    let out = ready.path("o.calib");
    let base = ["calibrate", raw, "--text", corpus, "-o", text(&out)];
    refused(&[&base[..], &["--ctx", "1"]].concat(), 2, "--ctx is 1");
    refused(&[&base[..], &["--tokens", "0"]].concat(), 2, "no tokens");
    refused(&["calibrate", raw, "--text", corpus, "-o", raw], 2, "is the input");
    refused(&["calibrate", raw, "--text", corpus, "-o", corpus], 2, "no calibration file");
    squizd(&[&base[..], &["--dry-run"]].concat()).assert().success();
    assert!(!out.exists(), "a dry run writes nothing");
    let target = ready.path("o.squizd");
    let source = tiny();
    let convert = ["convert", text(&source), "-o", text(&target), "--calibration"];
    refused(&[&convert[..], &[corpus]].concat(), 1, "calib.txt");
    let model = tiny().join("model.safetensors");
    refused(&[&convert[..], &[text(&model)]].concat(), 1, "format");
    squizd(&[&convert[..], &[text(&calib)]].concat()).assert().success();
    let other = tiny().join("../golden/v1/toy-2layer.squizd");
    let kld = ["eval", "kld", raw, "--text", corpus, "--reference"];
    let run = squizd(&[&kld[..], &[text(&other)]].concat()).output().unwrap();
    assert!(!run.status.success());
}

/// Megabytes that a refusal says are needed.
fn needed(args: &[&str]) -> f64 {
    let run = squizd(args).env("SQUIZD_MEMORY", "1k").output().unwrap();
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{args:?}: {message}");
    let line = message.lines().find(|l| l.contains("of memory are needed")).expect(&message);
    assert!(line.contains("0.0 MB are free") && line.contains("--force"), "{line}");
    line.strip_prefix("error: ").unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn two_models_need_the_memory_of_both() {
    let ready = Ready::new();
    let (raw, corpus) = (text(&ready.raw), text(&ready.corpus));
    let int4 = ready.path("int4.squizd");
    squizd(&["convert", text(&tiny()), "-o", text(&int4)]).assert().success();
    let judged = ["--text", corpus, "--bytes", "400", "--ctx", "64"];
    let of = |command: &[&str]| needed(&[&["eval"], command, &judged].concat());
    let (one, other) = (of(&["ppl", raw]), of(&["ppl", text(&int4)]));
    let kld = ["kld", text(&int4), "--reference", raw];
    let both = of(&kld);
    assert!((both - one - other).abs() < 0.2 && other < one, "{one} and {other}, together {both}");

    // Room for one of them.
    let memory = format!("{}M", one + other / 2.0);
    let run = |command: &[&str], extra: &[&str]| {
        let args = [&["eval"], command, &judged, extra].concat();
        squizd(&args).env("SQUIZD_MEMORY", &memory).output().unwrap().status.code()
    };
    assert_eq!(run(&["ppl", raw], &[]), Some(0));
    assert_eq!((run(&kld, &[]), run(&kld, &["--force"])), (Some(2), Some(0)));
}

#[test]
fn calibration_begins_only_with_memory_for_its_sums() {
    let ready = Ready::new();
    let out = ready.path("calibration.safetensors");
    let base = ["calibrate", text(&ready.raw), "--text", text(&ready.corpus), "-o", text(&out)];
    let args = |extra: &[&'static str]| -> Vec<&str> {
        [&base[..], &["--ctx", "128", "--tokens", "600"], extra].concat()
    };
    let (hessians, diagonal) = (needed(&args(&[])), needed(&args(&["--diagonal"])));
    assert!(hessians > diagonal, "{hessians} {diagonal}");
    let memory = format!("{}M", f64::midpoint(hessians, diagonal));
    let run = |extra| squizd(&args(extra)).env("SQUIZD_MEMORY", &memory).output().unwrap();
    let refusal = run(&[]);
    assert_eq!(refusal.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("--diagonal needs far less"));
    assert!(!out.exists());
    assert!(run(&["--diagonal"]).status.success());
    assert!(run(&["--force"]).status.success());
    assert_eq!(
        String::from_utf8_lossy(&squizd(&args(&[])).env("SQUIZD_MEMORY", "much").output().unwrap().stderr)
            .matches("SQUIZD_MEMORY is \"much\"")
            .count(),
        1
    );
}
