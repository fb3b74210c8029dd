//! `squizd convert SOURCE -o OUT`.

mod choose;
mod curve;
mod preflight;
mod report;
mod wish;

pub(super) use preflight::free_bytes;
pub(super) use wish::size;

use super::{Common, interrupt, progress};
use crate::{
    Exit, Failure,
    calibration::CalibrationFile,
    source::{self, MappingOptions, imatrix::Imatrix},
};
use indicatif::ProgressBar;
use squizd::{
    awq::{ScaledCalibration, ScaledSource, Scales},
    calibration::Calibration,
    convert::{Interrupted, Progress},
    plan::{Plan, PlannedTensor},
    source::{TensorInfo, TensorSource},
};
use squizd_spec::shortened;
use std::{path::PathBuf, time::Instant};

#[derive(clap::Args)]
pub(super) struct Args {
    /// GGUF file (any part of a split), safetensors file, or Hugging Face directory
    source: PathBuf,
    /// File to write, or a folder to write into [default: named after the model and codec]
    #[arg(short, long, visible_alias = "outfile", value_name = "OUT")]
    output: Option<PathBuf>,
    /// Codec of weight matrices: int4, int3, int2 (with :fine, :compact or :g32), mxfp4, hybrid:3.6, q8, sqint2,
    /// sqint2:3:max, astc (with :fast or :max), lossless, tca-tbe, tca-tbe:tbe2, zplanes, raw, bf16, f16, f32; a mix by
    /// role and layer: astc-hybrid, sqint2-routed; or auto, which chooses for every tensor
    #[arg(long, visible_alias = "preset", default_value = "int4", value_name = "NAME")]
    codec: String,
    /// Group size of the plain integer layout: 16, 32, 64 or 128 [default: a layout with half a bit of scales]
    #[arg(long, value_name = "N")]
    group_size: Option<u16>,
    /// zstd level of zplanes and lossless, 1 to 22 [default: 3]; pays where values repeat
    #[arg(long, value_name = "N")]
    zstd_level: Option<u8>,
    /// Codec of the tensors whose stored name matches REGEX; repeatable, the last match wins
    #[arg(long = "tensor-type", value_name = "REGEX=CODEC")]
    tensor_types: Vec<String>,
    /// Input statistics from `squizd calibrate`: encoders then weigh errors by what they do to the outputs
    #[arg(long, value_name = "FILE", group = "statistics")]
    calibration: Option<PathBuf>,
    /// The same from llama.cpp's importance matrix, GGUF or the older .dat
    #[arg(long, value_name = "FILE", group = "statistics")]
    imatrix: Option<PathBuf>,
    /// Scale loud input channels before quantizing (AWQ), folded into what produces them
    #[arg(long, requires = "statistics")]
    awq: bool,
    /// Scale every group with this exponent instead of searching it [implies --awq]
    #[arg(long, value_name = "ALPHA", requires = "statistics")]
    awq_alpha: Option<f32>,
    /// Bits per weight of all tensors together: auto stays below, codecs with a rate aim at it
    #[arg(long, value_name = "BITS")]
    target_bpw: Option<f64>,
    /// Size of the file, which auto stays below
    #[arg(long, value_name = "N(M|G)", conflicts_with = "target_bpw", value_parser = wish::size)]
    target_size: Option<u64>,
    /// Codecs that auto chooses from, comma-separated [default: sqint2 and hybrid at several rates, int4, q8, bf16]
    #[arg(long, value_name = "CODECS", value_delimiter = ',')]
    candidates: Vec<String>,
    /// Write the rate-distortion curves of tensors stored as hybrid, each and all together, to this CSV file, and a
    /// picture of them beside it (.svg)
    #[arg(long, value_name = "CSV")]
    rd_curve: Option<PathBuf>,
    /// Convert combinations of model and codec that were measured to be broken (docs/rules.md)
    #[arg(long)]
    force: bool,
    /// Go on with the finished tensors that an interrupted conversion left beside the output, and leave them when
    /// interrupted (docs/resume.md)
    #[arg(long)]
    resume: bool,
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
    let mut recipe = wish::recipe(args)?;
    let options = MappingOptions { allow_unmapped: args.allow_unmapped, text_only: args.text_only };
    let model = source::open(&args.source, options)?;
    for warning in model.warnings() {
        eprintln!("warning: {}", shortened(warning.clone()));
    }
    let target = preflight::target(args.output.as_deref(), &model, &recipe);
    let calibration = args.calibration.as_deref().map(CalibrationFile::open).transpose()?;
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let tensors = model.tensors();
    let coverage = match (&calibration, &imatrix) {
        (Some(c), _) => Some((c.coverage(tensors)?, c.peak_bytes(tensors))),
        (_, Some(i)) => Some((i.coverage(tensors)?, i.peak_bytes(tensors))),
        _ => None,
    };
    if let Some((coverage, _)) = &coverage {
        report::warn_uncalibrated(coverage)?;
    }
    let moments = coverage.map_or(0, |(_, bytes)| bytes);
    let compensated = calibration.as_ref().is_some_and(CalibrationFile::has_hessians);
    let imatrix = imatrix.as_ref().map(|i| i as &dyn Calibration);
    let calibration = calibration.as_ref().map(|c| c as &dyn Calibration).or(imatrix);
    interrupt::watch();
    // What stands in the way of writing is found before hours of searching.
    let first = Plan::choose(&model, &recipe)?;
    if !args.resume && !args.dry_run {
        preflight::refuse_unfinished(&target)?;
    }
    preflight::check(args, &target, &model, &first, moments)?;
    if let Some(budget) = wish::budget(args, &model, &recipe)? {
        let bar = progress::bar(common, model.tensors().len() as u64, "choosing");
        recipe.chosen = choose::codecs(args, &model, &recipe, budget, calibration, &bar)?;
    }
    let unscaled = Plan::choose(&model, &recipe)?;
    choose::refuse_broken(&model, &unscaled, compensated, args.force)?;
    report::warn_requantized(&model, &unscaled);
    let scales = match calibration.zip(wish::alphas(args)) {
        Some((calibration, alphas)) => choose::scales(&model, &unscaled, calibration, &alphas, common)?,
        None => Scales::default(),
    };

    let source = ScaledSource::new(&model, &scales);
    let scaled = calibration.map(|c| ScaledCalibration::new(c, &scales));
    let calibration = scaled.as_ref().map(|c| c as &dyn Calibration);
    let plan = if scales.is_empty() { unscaled } else { Plan::choose(&source, &recipe)? };
    let forecast = preflight::check(args, &target, &source, &plan, moments)?;
    let curves = args.rd_curve.as_deref().map(|csv| curve::Files::new(csv, &target, &plan)).transpose()?;
    if args.dry_run {
        report::plan(&source, &plan, &forecast, &target, args.json)?;
        return Ok(Exit::Done);
    }
    let started = Instant::now();
    let bar = Bar::new(common, &source);
    let interrupted = if args.resume { Interrupted::Resume } else { Interrupted::Refuse };
    let outcome = squizd::convert::convert(&source, &plan, &recipe, calibration, &target, interrupted, &bar);
    bar.0.finish_and_clear();
    let outcome = outcome.map_err(|e| report::interrupted(e, &target, plan.tensors.len()))?;
    let elapsed = started.elapsed();
    if let Some(files) = curves {
        let bar = Bar::new(common, &source);
        let curves = squizd::convert::rd_curves(&source, &plan, calibration, curve::POINTS, &bar);
        bar.0.finish_and_clear();
        files.write(&curves?)?;
    }
    let done = report::Done { outcome: &outcome, elapsed, scales: &scales.groups };
    report::summary(&source, &plan, &done, &target, args.json)?;
    Ok(Exit::Done)
}

/// Progress over weights; watches for interruption.
struct Bar(ProgressBar);

impl Bar {
    fn new(common: Common, source: &dyn TensorSource) -> Self {
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
