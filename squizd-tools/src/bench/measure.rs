//! All trials of one file.

use super::{
    Llama, Reading, Summary,
    bandwidth::Bandwidth,
    machine::{forget_peak, peak_bytes},
    report::{Device, Measured, Workload},
    trial::{Loaded, Trial, prompt},
};
use crate::Failure;
use squizd::runtime::{Model, Sequences, SessionOptions};
use squizd_spec::FileBytes;
use std::{path::Path, time::Duration};

/// A model where it is computed.
pub trait Placed {
    /// What begins sequences.
    fn sequences(&self) -> &dyn Sequences;

    /// Where that is: `cpu`, or the adapter.
    fn backend(&self) -> String;

    /// What bounds decoding there, measured; `None` on the CPU, whose bandwidth
    /// is measured beside every trial.
    ///
    /// # Errors
    /// What went wrong on the device.
    fn device(&self) -> Result<Option<Device>, Failure>;
}

/// Brings models to where they are computed.
pub trait Placement {
    /// Brings `model`, whose weights lie in `file`, there.
    ///
    /// # Errors
    /// If it cannot be computed there.
    fn place<'m, 'w>(
        &self,
        model: &'m Model<'w>,
        file: &'w FileBytes,
    ) -> Result<Box<dyn Placed + 'm>, Failure>;
}

/// What is the same for every file.
pub struct Setup<'a> {
    /// What every trial does.
    pub workload: Workload,
    /// How squizd computes; its context is the workload's.
    pub session: SessionOptions,
    /// Where it computes.
    pub placement: &'a dyn Placement,
    /// llama.cpp, and the model in GGUF.
    pub llama: Option<(&'a Llama, &'a Path)>,
    /// How bandwidth is measured.
    pub reading: Reading,
    /// Quantization that llama.cpp must run; otherwise the nearest.
    pub quantization: Option<&'a str>,
}

/// Told of every trial, and asked whether to go on.
pub trait Progress {
    /// A trial is done.
    fn trial(&self);
    /// Whether to stop.
    fn is_cancelled(&self) -> bool;
}

/// A first run, from which peak memory is known.
///
/// It comes before the bandwidth buffer, which would count as memory of the
/// model.
///
/// # Errors
/// As [`measure`].
fn peak_of(path: &Path, setup: &Setup<'_>) -> Result<Option<u64>, Failure> {
    let counted = forget_peak();
    let bytes = FileBytes::map(path)?;
    let loaded = Loaded::new(&bytes)?;
    let options = SessionOptions { context: setup.workload.context, ..setup.session };
    let placed = setup.placement.place(&loaded.model, &bytes)?;
    let mut session = placed.sequences().begin(options)?;
    let ids = prompt(loaded.model.vocab_size(), setup.workload.prompt.max(1));
    Trial::run(&mut *session, &ids, setup.workload.steps)?;
    Ok(peak_bytes().filter(|_| counted))
}

/// Measures a file: a run for its peak memory, a warm-up, then the trials, each
/// a pass over memory, a load, an answer of squizd and one of llama.cpp.
///
/// # Errors
/// If the file is invalid or not run by this runtime, if prompt and steps do not
/// fit the context, if llama.cpp fails, or when cancelled.
pub fn measure(path: &Path, setup: &Setup<'_>, progress: &dyn Progress) -> Result<Measured, Failure> {
    let Setup { workload, .. } = setup;
    let peak_rss_bytes = peak_of(path, setup)?;
    let bytes = FileBytes::map(path)?;
    let loaded = Loaded::new(&bytes)?;
    let options = SessionOptions { context: workload.context, ..setup.session };
    let placed = setup.placement.place(&loaded.model, &bytes)?;
    let device = placed.device()?;
    let mut session = placed.sequences().begin(options)?;
    let ids = prompt(loaded.model.vocab_size(), workload.prompt.max(1));
    let mut llama = match setup.llama {
        Some((llama, gguf)) => {
            Some(llama.open(gguf, setup.quantization, loaded.bits_per_weight, workload)?)
        }
        None => None,
    };
    let bandwidth = Bandwidth::new(&setup.reading)?;
    bandwidth.pass();
    Trial::run(&mut *session, &ids, workload.steps)?;

    let mut samples = Samples::default();
    for _ in 0..workload.trials {
        if progress.is_cancelled() {
            return Err(Failure { exit: crate::Exit::Interrupted, message: "interrupted".into() });
        }
        let read = bandwidth.pass();
        samples.bandwidth.push(read);
        samples.load.push(milliseconds(Loaded::time(path)?));
        let ours = Trial::run(&mut *session, &ids, workload.steps)?;
        samples.first_token.push(milliseconds(ours.first_token));
        let prefill = rate(workload.prompt, ours.prefill);
        let decode = rate(workload.steps, ours.decode);
        samples.prefill.extend(prefill);
        samples.decode.extend(decode);
        // Weights are read where the model is computed.
        let available = device.map_or(read, |d| d.read_bandwidth);
        samples.share.extend(decode.map(|d| d * loaded.bytes_per_token as f64 / available));
        if let Some(llama) = &mut llama {
            let theirs = llama.trial()?;
            let pair = |ours: Option<f64>, theirs: Option<f64>| ours.zip(theirs).map(|(a, b)| [a, b]);
            samples.pairs[0].extend(pair(prefill, theirs.prefill));
            samples.pairs[1].extend(pair(decode, theirs.decode));
        }
        progress.trial();
    }

    let none = || Failure::usage("no trial gave a number");
    let recipe = &loaded.metadata.provenance.recipe;
    let mut measured = Measured {
        file: path.display().to_string(),
        family: loaded.metadata.model.family.clone(),
        backend: placed.backend(),
        device,
        codec: recipe.get("codec").and_then(|c| c.as_str()).unwrap_or("unknown").to_owned(),
        disk_bytes: bytes.len() as u64,
        weights: loaded.weights,
        bits_per_weight: loaded.bits_per_weight,
        bytes_per_token: loaded.bytes_per_token,
        peak_rss_bytes,
        load_ms: Summary::of(&samples.load).ok_or_else(none)?,
        first_token_ms: Summary::of(&samples.first_token).ok_or_else(none)?,
        prefill_tok_s: Summary::of(&samples.prefill),
        decode_tok_s: Summary::of(&samples.decode),
        read_bandwidth: Summary::of(&samples.bandwidth).ok_or_else(none)?,
        bandwidth_share: Summary::of(&samples.share),
        llama_cpp: None,
    };
    if let Some(model) = llama.as_ref().and_then(|l| l.model()) {
        measured.compare(model, samples.pairs);
    }
    Ok(measured)
}

/// Numbers of every trial.
#[derive(Default)]
struct Samples {
    bandwidth: Vec<f64>,
    load: Vec<f64>,
    first_token: Vec<f64>,
    prefill: Vec<f64>,
    decode: Vec<f64>,
    share: Vec<f64>,
    /// squizd's and llama.cpp's rate: prefill, decode.
    pairs: [Vec<[f64; 2]>; 2],
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Tokens per second, if there were any.
fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}
