//! Snapshots of the command line on the hand-assembled golden file, and what
//! needs a model that runs.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use assert_cmd::Command;
use std::path::Path;
use tempfile::TempDir;

#[test]
fn snapshots() {
    trycmd::TestCases::new()
        .register_bin("squizd", std::path::Path::new(env!("CARGO_BIN_EXE_squizd")))
        .case("../tests/cli/*.md");
}

#[test]
fn what_runs_a_model_asks_for_memory_first() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tiny.squizd");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m");
    let squizd = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_squizd"));
        command.args(args).arg(&file).env("SQUIZD_MEMORY", "500k");
        command
    };
    squizd(&["convert", "-q", "-o"]).arg(tiny).assert().success();
    let run = ["run", "--backend", "cpu", "-p", "In those days", "-n", "2", "--no-echo"];
    for args in [&run[..], &["serve", "--backend", "cpu", "--port", "0"]] {
        let refused = squizd(args).assert().code(2);
        let message = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(
            message.contains("of memory are needed (weights ") && message.contains("0.5 MB are free"),
            "{message}"
        );
    }
    let done = squizd(&[&run[..], &["--force"]].concat()).assert().success();
    assert!(done.get_output().stdout.len() > 2);
}

#[cfg(feature = "gpu")]
#[test]
fn a_device_is_explained_with_its_memory() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tiny.squizd");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m");
    let squizd = || Command::new(env!("CARGO_BIN_EXE_squizd"));
    squizd().args(["convert", "-q", "-o"]).args([&file, &tiny]).assert().success();
    let explain = ["run", "--explain", "--backend", "gpu", "--ctx-size", "64"];
    let done = squizd().args(explain).arg(&file).env("SQUIZD_ADAPTER", "llvmpipe").output().unwrap();
    let (text, message) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if !done.status.success() {
        let required =
            std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "vulkan"));
        assert!(!required, "SQUIZD_REQUIRE names vulkan, but: {message}");
        eprintln!("skipped: {message}");
        return;
    }
    let device = text.lines().last().unwrap();
    assert!(
        device.starts_with("device llvmpipe") && device.contains("it shares the machine's memory; needed "),
        "{device}"
    );
    assert!(device.contains("key/value cache"), "{device}");
}
