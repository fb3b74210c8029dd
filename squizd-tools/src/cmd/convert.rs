//! `squizd convert SOURCE -o OUT`.

mod preflight;
mod report;

pub(super) use preflight::free_bytes;

use super::{Common, interrupt, progress};
use crate::{
    Exit, Failure,
    calibration::CalibrationFile,
    source::{self, MappingOptions, ModelSource},
};
use indicatif::ProgressBar;
use regex::Regex;
use squizd::{
    calibration::Calibration,
    convert::Progress,
    plan::{CodecChoice, Plan, PlannedTensor, Recipe},
    source::{TensorInfo, TensorSource},
};
use std::{path::PathBuf, time::Instant};

#[derive(clap::Args)]
pub(super) struct Args {
    /// GGUF file (any part of a split), safetensors file, or Hugging Face directory
    source: PathBuf,
    /// File to write, or a folder to write into [default: named after the model and codec]
    #[arg(short, long, visible_alias = "outfile", value_name = "OUT")]
    output: Option<PathBuf>,
    /// Codec of weight matrices: int4, int3, int2 (with :fine, :compact or :g32), mxfp4, hybrid:3.6, q8, lossless, tca-tbe, tca-tbe:tbe2, raw, bf16, f16, f32
    #[arg(long, visible_alias = "preset", default_value = "int4", value_name = "NAME")]
    codec: String,
    /// Group size of the plain integer layout: 16, 32, 64 or 128 [default: a layout with half a bit of scales]
    #[arg(long, value_name = "N")]
    group_size: Option<u16>,
    /// Codec of the tensors whose stored name matches REGEX; repeatable, the last match wins
    #[arg(long = "tensor-type", value_name = "REGEX=CODEC")]
    tensor_types: Vec<String>,
    /// Input statistics from `squizd calibrate`: encoders then weigh errors by what they do to the outputs
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print plan or summary as JSON
    #[arg(long)]
    json: bool,
    /// Carry tensors without a known role raw, instead of refusing the model
    #[arg(long)]
    allow_unmapped: bool,
    /// Leave out vision towers and other non-text parts
    #[arg(long)]
    text_only: bool,
    /// Re-encode tensors that the source already quantized, at a loss
    #[arg(long)]
    allow_requantize: bool,
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    let recipe = recipe(args)?;
    let options = MappingOptions { allow_unmapped: args.allow_unmapped, text_only: args.text_only };
    let source = source::open(&args.source, options)?;
    for warning in source.warnings() {
        eprintln!("warning: {warning}");
    }
    let plan = Plan::choose(&source, &recipe)?;
    let target = preflight::target(args.output.as_deref(), &source, &recipe);
    let calibration = args.calibration.as_deref().map(CalibrationFile::open).transpose()?;
    let moments = calibration.as_ref().map_or(0, |c| c.peak_bytes(source.tensors()));
    if let Some(calibration) = &calibration {
        report::warn_uncalibrated(&calibration.coverage(source.tensors())?)?;
    }
    let forecast = preflight::check(&args.source, &target, &source, &plan, moments)?;
    report::warn_requantized(&source, &plan);
    if args.dry_run {
        report::plan(&source, &plan, &forecast, &target, args.json)?;
        return Ok(Exit::Done);
    }
    let started = Instant::now();
    let bar = Bar::new(common, &source);
    let calibration = calibration.as_ref().map(|c| c as &dyn Calibration);
    let outcome = squizd::convert::convert(&source, &plan, &recipe, calibration, &target, &bar);
    bar.0.finish_and_clear();
    report::summary(&source, &plan, &outcome?, &target, started.elapsed(), args.json)?;
    Ok(Exit::Done)
}

fn recipe(args: &Args) -> Result<Recipe, Failure> {
    let mut default: CodecChoice = args.codec.parse().map_err(|e| Failure::usage(format!("--codec: {e}")))?;
    if let Some(group) = args.group_size {
        default.options.group_size = Some(group);
    }
    let mut recipe = Recipe::new(default);
    recipe.allow_requantize = args.allow_requantize;
    for text in &args.tensor_types {
        let wrong = |why: String| Failure::usage(format!("--tensor-type {text:?}: {why}"));
        let (pattern, codec) = text.rsplit_once('=').ok_or_else(|| wrong("must be REGEX=CODEC".into()))?;
        let pattern = Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
        recipe.overrides.push((pattern, codec.parse().map_err(|e| wrong(format!("{e}")))?));
    }
    Ok(recipe)
}

/// Progress over weights; watches for interruption.
struct Bar(ProgressBar);

impl Bar {
    fn new(common: Common, source: &ModelSource) -> Self {
        interrupt::watch();
        Self(progress::bar(common, source.tensors().iter().map(TensorInfo::elements).sum(), "encoding"))
    }
}

impl Progress for Bar {
    fn tensor(&self, info: &TensorInfo, planned: &PlannedTensor) {
        self.0.set_message(format!("{} ({})", info.name, planned.codec));
    }

    fn advance(&self, weights: u64) {
        self.0.inc(weights);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested()
    }
}
