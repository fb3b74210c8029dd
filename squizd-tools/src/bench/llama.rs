//! The same model through llama.cpp, in the same run.
//!
//! Two ways in: `llama-bench` from the PATH, started once a trial; or a Python
//! with llama-cpp-python, a child that holds the model for the whole run and
//! answers when asked (`llama.py`).

use super::report::Workload;
use crate::Failure;
use serde::Deserialize;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// The child's program.
const SCRIPT: &str = include_str!("llama.py");

/// Where llama.cpp is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Llama {
    /// A Python with llama-cpp-python.
    Python(PathBuf),
    /// The `llama-bench` program.
    Bench(PathBuf),
}

/// What llama.cpp made of a GGUF file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LlamaModel {
    /// Quantization it ran.
    pub quantization: String,
    /// Bits of tensor data per weight.
    pub bits_per_weight: f64,
    /// Version, as it names itself.
    pub version: String,
}

/// What llama.cpp measured in one trial; tokens per second.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct LlamaTrial {
    /// Prompt tokens per second.
    pub(super) prefill: Option<f64>,
    /// Decoding steps per second.
    pub(super) decode: Option<f64>,
}

impl Llama {
    /// The given Python, else `llama-bench` if it is on the PATH.
    pub fn find(python: Option<&Path>) -> Option<Self> {
        if let Some(python) = python {
            return Some(Self::Python(python.to_owned()));
        }
        let folders = std::env::var_os("PATH")?;
        let mut files = std::env::split_paths(&folders).map(|f| f.join("llama-bench"));
        files.find(|f| f.is_file()).map(Self::Bench)
    }

    /// Opens `gguf` at `quantization`, or at the one nearest to `bits` per weight.
    ///
    /// # Errors
    /// If llama.cpp cannot be started or cannot open the model.
    pub(super) fn open(
        &self,
        gguf: &Path,
        quantization: Option<&str>,
        bits: f64,
        workload: &Workload,
    ) -> Result<Opened, Failure> {
        match self {
            Self::Bench(program) => {
                if let Some(name) = quantization {
                    return Err(Failure::usage(format!(
                        "--llama-type {name}: llama-bench runs a GGUF as it is; give a file of that type, \
                         or --llama-cpp PYTHON, which quantizes"
                    )));
                }
                let mut opened = Opened::Program {
                    program: program.clone(),
                    gguf: gguf.to_owned(),
                    workload: *workload,
                    model: None,
                };
                // Its description of the model comes with a trial.
                opened.trial()?;
                Ok(opened)
            }
            Self::Python(python) => {
                Served::start(python, gguf, quantization, bits, workload).map(Opened::Served)
            }
        }
    }
}

/// A model that llama.cpp runs.
pub(super) enum Opened {
    Served(Served),
    Program { program: PathBuf, gguf: PathBuf, workload: Workload, model: Option<LlamaModel> },
}

impl Opened {
    /// What runs.
    pub(super) fn model(&self) -> Option<&LlamaModel> {
        match self {
            Self::Served(served) => Some(&served.model),
            Self::Program { model, .. } => model.as_ref(),
        }
    }

    /// One prompt and one answer.
    pub(super) fn trial(&mut self) -> Result<LlamaTrial, Failure> {
        match self {
            Self::Served(served) => served.ask(),
            Self::Program { program, gguf, workload, model } => {
                let mut command = Command::new(&*program);
                command.arg("-m").arg(&*gguf).args(bench_arguments(workload));
                let output = command.stderr(Stdio::null()).output();
                let output =
                    output.map_err(|e| Failure::usage(format!("starting {}: {e}", program.display())))?;
                let (what, trial) = parse_bench(&output.stdout).ok_or_else(|| {
                    Failure::usage(format!(
                        "{} ended with {} and without the results asked for",
                        program.display(),
                        output.status
                    ))
                })?;
                *model = Some(what);
                Ok(trial)
            }
        }
    }
}

fn bench_arguments(w: &Workload) -> Vec<String> {
    let numbers = [("-p", w.prompt), ("-n", w.steps), ("-t", w.threads), ("-r", 1)];
    let mut arguments: Vec<String> =
        numbers.iter().flat_map(|(name, n)| [(*name).to_owned(), n.to_string()]).collect();
    arguments.extend(["-o", "json"].map(String::from));
    arguments
}

/// Reads `llama-bench -o json`: an array with one entry per test, a prompt's
/// having `n_gen` 0, a generation's `n_prompt` 0.
fn parse_bench(json: &[u8]) -> Option<(LlamaModel, LlamaTrial)> {
    let tests: Vec<Value> = serde_json::from_slice(json).ok()?;
    let rate = |counted: &str, other: &str| {
        let test = tests.iter().find(|t| t[counted].as_u64() > Some(0) && t[other].as_u64() == Some(0))?;
        test["avg_ts"].as_f64()
    };
    let first = tests.first()?;
    let (size, weights) = (first["model_size"].as_f64()?, first["model_n_params"].as_f64()?);
    let model = LlamaModel {
        quantization: first["model_type"].as_str()?.to_owned(),
        bits_per_weight: size * 8.0 / weights,
        version: format!("llama.cpp {}", first["build_commit"].as_str().unwrap_or("of unknown build")),
    };
    let trial = LlamaTrial { prefill: rate("n_prompt", "n_gen"), decode: rate("n_gen", "n_prompt") };
    Some((model, trial))
}

/// The Python child and its model.
pub(super) struct Served {
    model: LlamaModel,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Served {
    fn start(
        python: &Path,
        gguf: &Path,
        quantization: Option<&str>,
        bits: f64,
        workload: &Workload,
    ) -> Result<Self, Failure> {
        let started = Command::new(python)
            .args(["-c", SCRIPT])
            .arg(gguf)
            .arg(quantization.unwrap_or("-"))
            .arg(bits.to_string())
            .args(
                [workload.prompt, workload.steps, workload.context, workload.threads].map(|n| n.to_string()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started
            .map_err(|e| Failure::usage(format!("--llama-cpp: starting {}: {e}", python.display())))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::usage("--llama-cpp: no pipe to the child"));
        };
        let mut served = Self {
            model: LlamaModel { quantization: String::new(), bits_per_weight: 0.0, version: String::new() },
            child,
            input: Some(input),
            output: BufReader::new(output),
        };
        served.model = served.line()?;
        Ok(served)
    }

    /// The child's next line of JSON.
    fn line<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, Failure> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        if let Ok(value) = serde_json::from_str(&line) {
            return Ok(value);
        }
        let why = match read {
            Err(e) => e.to_string(),
            Ok(0) => match self.child.wait() {
                Ok(status) => format!("it ended with {status}; its own message is above"),
                Err(e) => e.to_string(),
            },
            Ok(_) => format!("it said {:?}", line.trim_end()),
        };
        Err(Failure::usage(format!("--llama-cpp: the Python child gave no result: {why}")))
    }

    fn ask(&mut self) -> Result<LlamaTrial, Failure> {
        if let Some(input) = &mut self.input {
            // A child that is gone shows when its answer is read.
            let _ = input.write_all(b"go\n").and_then(|()| input.flush());
        }
        self.line()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The child ends with its input.
        self.input = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_llama_bench_are_read() {
        let text = br#"[
            {"build_commit": "b1a2c3", "model_type": "llama 7B Q4_0", "model_size": 4500, "model_n_params": 8000,
             "n_prompt": 512, "n_gen": 0, "avg_ts": 120.5, "stddev_ts": 1.0},
            {"build_commit": "b1a2c3", "model_type": "llama 7B Q4_0", "model_size": 4500, "model_n_params": 8000,
             "n_prompt": 0, "n_gen": 128, "avg_ts": 33.25}
        ]"#;
        let (model, trial) = parse_bench(text).unwrap();
        assert_eq!(model.quantization, "llama 7B Q4_0");
        assert!((model.bits_per_weight - 4.5).abs() < 1e-12 && model.version.ends_with("b1a2c3"));
        assert_eq!((trial.prefill, trial.decode), (Some(120.5), Some(33.25)));
        for bad in ["", "[]", "{}", r#"[{"model_type": "x"}]"#] {
            assert!(parse_bench(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
