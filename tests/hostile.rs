//! The command line on the hostile corpus, and on paths that are no files:
//! the promised exit code, one line of error, nothing written.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::corpus::{Case, Corpus, Input};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn squizd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_squizd")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs a command; collects what is not as promised.
fn refused(wrong: &mut Vec<String>, case: &Case, args: &[&str], allowed: &[i32]) {
    let out = squizd(args);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let code = out.status.code().unwrap_or(-1);
    let panicked = stderr.contains("panicked");
    let silent = code != 0 && stderr.is_empty() && stdout.is_empty();
    let control = stderr.chars().any(|c| c.is_control() && c != '\n');
    if !allowed.contains(&code) || panicked || silent || control || stderr.len() > 4000 {
        wrong.push(format!("{}: {} exits {code}, allowed {allowed:?}: {stderr}", case.id, args[0]));
    }
}

/// Exit codes that `validate`, `inspect`, `run --verify` may answer.
fn exits(case: &Case) -> [Vec<i32>; 3] {
    let exit = case.expect.exit();
    // Beside the planted violation others may follow from it.
    let any = if case.expect.findings.len() > 1 { vec![1, 3] } else { vec![exit] };
    match case.expect.level.as_str() {
        "parse" => [any, vec![exit], vec![exit]],
        "load" => [vec![0], vec![0], vec![exit]],
        // Inspecting prints the metadata's fields, so it must be JSON at least.
        "metadata" => [any, vec![0, 1], vec![1, 3]],
        // Running does not look for weights that are not finite.
        "numerics" => [any, vec![0], vec![0, 1, 3]],
        _ => [any, vec![0], vec![1, 3]],
    }
}

fn each_half(work: impl Fn(&Case, usize, &mut Vec<String>) + Sync, target: fn(&Case) -> bool) {
    let corpus = Corpus::load().unwrap();
    let cases: Vec<_> = corpus.cases.iter().filter(|c| target(c)).collect();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let halves: Vec<_> = cases.chunks(cases.len().div_ceil(2).max(1)).collect();
        let threads: Vec<_> = halves
            .into_iter()
            .map(|half| {
                scope.spawn(|| {
                    let mut wrong = Vec::new();
                    for (i, case) in half.iter().enumerate() {
                        work(case, i, &mut wrong);
                    }
                    wrong
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn squizd_files() {
    each_half(
        |case, i, wrong| {
            let folder = TempDir::new().unwrap();
            let (path, out) = (folder.path().join("m.squizd"), folder.path().join("o.squizd"));
            fs::write(&path, case.bytes()).unwrap();
            let [validate, inspect, run] = exits(case);
            // A file of no bytes cannot be mapped, of a wrong magic not be recognised as .squizd by convert.
            let loads = case.expect.level == "load";
            refused(wrong, case, &["validate", "--level", "numerics", text(&path)], &validate);
            if loads || i % 3 == 0 {
                refused(wrong, case, &["inspect", text(&path)], &inspect);
            }
            if loads || i % 3 == 1 {
                let prompt = if case.id.contains("template") { "--chat" } else { "--prompt" };
                refused(wrong, case, &["run", text(&path), prompt, "abc", "-n", "1", "--verify"], &run);
            }
            if i % 3 == 2 {
                refused(wrong, case, &["convert", text(&path), "-o", text(&out)], &[1, 3]);
            }
            assert_eq!(files_in(folder.path()), ["m.squizd"], "{}", case.id);
        },
        |case| case.target() == "squizd",
    );
}

#[test]
fn sources() {
    each_half(
        |case, _, wrong| {
            let folder = TempDir::new().unwrap();
            let (model, out) = (folder.path().join("model"), folder.path().join("o.squizd"));
            fs::create_dir(&model).unwrap();
            let put = |name: &str, bytes: &[u8]| fs::write(model.join(name), bytes).unwrap();
            let open = match &case.input {
                Input::Folder(files, open) => {
                    for (name, bytes) in files {
                        put(name, bytes);
                    }
                    model.join(open)
                }
                Input::File(bytes) if case.target() == "safetensors" => {
                    let bases = &Corpus::load().unwrap().bases;
                    let beside = |n: &str| put(n, &bases[&format!("hf/{n}")]);
                    ["config.json", "tokenizer.json", "tokenizer_config.json"].into_iter().for_each(beside);
                    put("model.safetensors", bytes);
                    model.clone()
                }
                Input::File(bytes) => {
                    put("m.gguf", bytes);
                    model.join("m.gguf")
                }
            };
            // A file that does not even begin like its kind is refused as no model.
            let exit = case.expect.exit();
            let allowed: &[i32] = if case.target() == "gguf" { &[1, 3] } else { &[exit] };
            refused(wrong, case, &["convert", text(&open), "-o", text(&out), "-q"], allowed);
            assert_eq!(files_in(folder.path()), ["model"], "{}", case.id);
        },
        |case| !matches!(case.target(), "squizd" | "tokenizer" | "template"),
    );
}

/// Ends within `limit`, or is killed.
fn within(limit: Duration, args: &[&str]) -> Option<i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_squizd"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn pipes_devices_and_folders_are_refused_at_once() {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let out = folder.path().join("o.squizd");
    for path in [text(&fifo), "/dev/zero", "/dev/random", "/dev/null", text(folder.path()), "/proc/self/mem"]
    {
        for args in [
            &["validate", path][..],
            &["validate", "--in-memory", path],
            &["inspect", path],
            &["run", path, "--prompt", "a"],
            &["convert", path, "-o", text(&out)],
        ] {
            let code = within(Duration::from_secs(30), args);
            assert!(matches!(code, Some(1..=3)), "{args:?}: {code:?}");
        }
    }
    assert_eq!(files_in(folder.path()), ["pipe"]);
}
