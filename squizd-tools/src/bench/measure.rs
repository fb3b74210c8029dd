//! All trials of all files.

use super::{
    Llama, Reading, Summary,
    bandwidth::Bandwidth,
    llama::Opened,
    machine::{forget_peak, peak_bytes},
    open::open,
    report::{Device, LlamaReport, Measured, Workload},
    served::Server,
    trial::{Loaded, Trial, milliseconds, prompt},
};
use crate::Failure;
use squizd::runtime::{Model, Sequence, Sequences, SessionOptions};
use squizd_spec::FileBytes;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

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
    /// What `--backend` is told for that: `cpu`, `gpu` or `auto`.
    fn flag(&self) -> &'static str;

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
    /// Quantizations that llama.cpp must run; otherwise the nearest of each file.
    pub quantizations: &'a [String],
    /// The program that serves each file, where serving is measured too.
    pub server: Option<&'a Path>,
    /// How bandwidth is measured.
    pub reading: Reading,
    /// No trial begins after this; the first one does in any case.
    pub until: Option<Instant>,
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
/// It comes before the bandwidth buffer and the other files, which would count as
/// memory of the model.
fn peak_of(path: &Path, setup: &Setup<'_>) -> Result<Option<u64>, Failure> {
    let counted = forget_peak();
    let bytes = FileBytes::map(path)?;
    let loaded = Loaded::new(&bytes)?;
    let placed = setup.placement.place(&loaded.model, &bytes)?;
    let mut session = placed.sequences().begin(setup.options())?;
    let ids = prompt(loaded.model.vocab_size(), setup.workload.prompt.max(1));
    Trial::run(&mut *session, &ids, setup.workload.steps)?;
    Ok(peak_bytes().filter(|_| counted))
}

impl Setup<'_> {
    fn options(&self) -> SessionOptions {
        SessionOptions { context: self.workload.context, ..self.session }
    }

    /// llama.cpp's models, each quantization once.
    fn open_llama(&self, loaded: &[Loaded<'_>]) -> Result<Vec<Opened>, Failure> {
        let Some((llama, gguf)) = self.llama else { return Ok(Vec::new()) };
        let named = self.quantizations.iter().map(|name| (Some(name.as_str()), 0.0));
        let nearest = loaded.iter().map(|l| (None, l.bits_per_weight));
        let wanted: Vec<_> = if self.quantizations.is_empty() { nearest.collect() } else { named.collect() };
        let mut models: Vec<Opened> = Vec::new();
        for (quantization, bits) in wanted {
            let opened = llama.open(gguf, quantization, bits, &self.workload)?;
            let name = |o: &Opened| o.model().map(|m| m.quantization.clone());
            if models.iter().all(|m| name(m) != name(&opened)) {
                models.push(opened);
            }
        }
        Ok(models)
    }
}

/// A file with what its trials need and gave.
struct Subject<'m, 'w> {
    path: &'m Path,
    loaded: &'m Loaded<'w>,
    session: Box<dyn Sequence + Send + 'm>,
    backend: String,
    device: Option<Device>,
    prompt: Vec<u32>,
    server: Option<Server>,
    samples: Samples,
}

/// Measures files: a run of each for its peak memory, a warm-up, then trials. In
/// a trial memory is read once, each file is opened and answers, then each model
/// of llama.cpp.
///
/// # Errors
/// If a file is invalid or not run by this runtime, if prompt and steps do not
/// fit the context, if llama.cpp or the server fails, or when cancelled.
pub fn measure(
    paths: &[PathBuf],
    setup: &Setup<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Measured>, Failure> {
    let Setup { workload, .. } = setup;
    let peaks = paths.iter().map(|p| peak_of(p, setup)).collect::<Result<Vec<_>, _>>()?;
    let files = paths.iter().map(|p| FileBytes::map(p)).collect::<Result<Vec<_>, _>>()?;
    let loaded = files.iter().map(Loaded::new).collect::<Result<Vec<_>, _>>()?;
    let places = loaded.iter().zip(&files).map(|(l, file)| setup.placement.place(&l.model, file));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let mut subjects = Vec::new();
    for ((path, loaded), placed) in paths.iter().zip(&loaded).zip(&places) {
        let prompt = prompt(loaded.model.vocab_size(), workload.prompt.max(1));
        let server = setup.server.map(|p| Server::start(p, path, setup, &prompt));
        subjects.push(Subject {
            path,
            loaded,
            session: placed.sequences().begin(setup.options())?,
            backend: placed.backend(),
            device: placed.device()?,
            prompt,
            server: server.transpose()?,
            samples: Samples::default(),
        });
    }
    let mut llama = setup.open_llama(&loaded)?;
    let bandwidth = Bandwidth::new(&setup.reading)?;
    bandwidth.pass();
    for subject in &mut subjects {
        Trial::run(&mut *subject.session, &subject.prompt, workload.steps)?;
    }
    for done in 0..workload.trials {
        if progress.is_cancelled() {
            return Err(Failure { exit: crate::Exit::Interrupted, message: "interrupted".into() });
        }
        if done > 0 && setup.until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        trial(&mut subjects, &mut llama, &bandwidth, setup)?;
        progress.trial();
    }
    let measured = subjects.iter().zip(peaks);
    measured.map(|(subject, peak)| subject.measured(&llama, peak)).collect()
}

/// One trial of everything.
fn trial(
    subjects: &mut [Subject<'_, '_>],
    llama: &mut [Opened],
    bandwidth: &Bandwidth,
    setup: &Setup<'_>,
) -> Result<(), Failure> {
    let Workload { prompt, steps, .. } = setup.workload;
    let read = bandwidth.pass();
    for Subject { path, loaded, session, device, prompt: ids, server, samples, .. } in subjects.iter_mut() {
        samples.bandwidth.push(read);
        samples.open.push(milliseconds(open(path, setup.options())?));
        let ours = Trial::run(&mut **session, ids, steps)?;
        samples.forward.push(milliseconds(ours.prefill));
        samples.first_token.push(milliseconds(ours.first_token));
        samples.prefill.push(rate(prompt, ours.prefill));
        samples.decode.push(rate(steps, ours.decode));
        // Weights are read where the model is computed.
        let available = device.map_or(read, |d| d.read_bandwidth);
        let share = |d: f64| d * loaded.bytes_per_token as f64 / available;
        samples.share.extend(rate(steps, ours.decode).map(share));
        if let Some(server) = server {
            let served = server.ask()?;
            samples.served.push(milliseconds(served.first_token));
            samples.served_lag.push(milliseconds(served.first_token) - milliseconds(served.forward));
        }
    }
    let theirs = llama.iter_mut().map(Opened::trial).collect::<Result<Vec<_>, _>>()?;
    for Subject { samples, .. } in subjects {
        samples.llama.push(theirs.iter().map(|t| [t.prefill, t.decode]).collect());
    }
    Ok(())
}

/// Numbers of every trial.
#[derive(Default)]
struct Samples {
    bandwidth: Vec<f64>,
    open: Vec<f64>,
    forward: Vec<f64>,
    first_token: Vec<f64>,
    served: Vec<f64>,
    served_lag: Vec<f64>,
    prefill: Vec<Option<f64>>,
    decode: Vec<Option<f64>>,
    share: Vec<f64>,
    /// Prefill and decode rate of each of llama.cpp's models.
    llama: Vec<Vec<[Option<f64>; 2]>>,
}

impl Subject<'_, '_> {
    fn measured(&self, llama: &[Opened], peak_rss_bytes: Option<u64>) -> Result<Measured, Failure> {
        let Self { path, loaded, samples, .. } = self;
        let none = || Failure::usage("no trial gave a number");
        let rates = |rates: &[Option<f64>]| Summary::of(&rates.iter().flatten().copied().collect::<Vec<_>>());
        let recipe = &loaded.metadata.provenance.recipe;
        let llama = llama.iter().enumerate().filter_map(|(i, opened)| {
            let pairs = |ours: &[Option<f64>], kind: usize| -> Vec<[f64; 2]> {
                let theirs = samples.llama.iter().map(|models| models.get(i)?.get(kind).copied()?);
                ours.iter().zip(theirs).filter_map(|(a, b)| Some([(*a)?, b?])).collect()
            };
            let rates = [pairs(&samples.prefill, 0), pairs(&samples.decode, 1)];
            Some(LlamaReport::new(opened.model()?, loaded.bits_per_weight, &rates))
        });
        Ok(Measured {
            file: path.display().to_string(),
            family: loaded.metadata.model.family.clone(),
            backend: self.backend.clone(),
            device: self.device,
            codec: recipe.get("codec").and_then(|c| c.as_str()).unwrap_or("unknown").to_owned(),
            disk_bytes: loaded.file.bytes().len() as u64,
            weights: loaded.weights,
            bits_per_weight: loaded.bits_per_weight,
            bytes_per_token: loaded.bytes_per_token,
            peak_rss_bytes,
            load_ms: Summary::of(&samples.open).ok_or_else(none)?,
            forward_ms: Summary::of(&samples.forward).ok_or_else(none)?,
            first_token_ms: Summary::of(&samples.first_token).ok_or_else(none)?,
            served_first_token_ms: Summary::of(&samples.served),
            served_lag_ms: Summary::of(&samples.served_lag),
            prefill_tok_s: rates(&samples.prefill),
            decode_tok_s: rates(&samples.decode),
            read_bandwidth: Summary::of(&samples.bandwidth).ok_or_else(none)?,
            bandwidth_share: Summary::of(&samples.share),
            llama_cpp: llama.collect(),
        })
    }
}

/// Tokens per second, if there were any.
fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}
