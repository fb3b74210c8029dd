//! `squizd calibrate FILE --text TEXT -o OUT`.

use super::{
    Common,
    convert::free_bytes,
    interrupt,
    model::{Opened, check_memory, read_text},
    progress,
};
use crate::{
    Exit, Failure,
    calibration::{CalibrationFile, CalibrationWriter, Layout, Origin},
    output,
};
use serde_json::json;
use squizd::{
    Error,
    calibration::{Detail, collect, memory, session_options},
    runtime::{MemoryNeed, Run},
};
use squizd_spec::{Hex, digest::sha256};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file, best of raw weights
    file: PathBuf,
    /// UTF-8 text like what the model will be used for; broad rather than long
    #[arg(long)]
    text: PathBuf,
    /// File to write (safetensors, see docs/calibration.md)
    #[arg(short, long, visible_alias = "outfile", value_name = "OUT")]
    output: PathBuf,
    /// Window in tokens; each begins afresh
    #[arg(long, default_value_t = 512)]
    ctx: usize,
    /// Use only the first N tokens [default: all]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Collect the channels' importance only, not all of the Hessians
    #[arg(long)]
    diagonal: bool,
    /// Show what would be collected, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin even if it needs more memory than is free
    #[arg(long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    if args.ctx < 2 {
        return Err(Failure::usage(format!("--ctx is {}, must be at least 2", args.ctx)));
    }
    refuse_foreign(&args.output, &args.file)?;
    let text = read_text(&args.text)?;
    let mapped = super::map(&args.file)?;
    let opened = Opened::new(&mapped, false)?;
    let config = &opened.metadata.model;
    let mut ids = opened.tokenizer()?.encode(&text, false)?;
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    if ids.is_empty() {
        return Err(Failure::usage(format!("{} gives no tokens to calibrate with", args.text.display())));
    }
    let bos = config.tokens.bos.filter(|_| config.tokens.add_bos);
    let windows: Vec<Vec<u32>> = ids
        .chunks(args.ctx - usize::from(bos.is_some()))
        .map(|c| bos.into_iter().chain(c.iter().copied()).collect())
        .collect();
    let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();

    let detail = if args.diagonal { Detail::Importance } else { Detail::Hessian };
    // What is wrong with the model comes before what it would need.
    opened.check()?;
    let longest = windows.iter().map(|w| w.len()).max().unwrap_or(1);
    let run = Run::generating(session_options(longest));
    let peak = memory(config, detail, windows.iter().map(|w| w.len()).sum());
    let sums = MemoryNeed { scratch: peak, ..MemoryNeed::default() };
    check_memory(&opened.memory(&run).and(sums), args.force || args.dry_run).map_err(|mut failure| {
        if detail == Detail::Hessian {
            failure.message += "; --diagonal needs far less";
        }
        failure
    })?;
    let model = opened.model()?;
    let inputs = model.inputs();
    let origin = Origin {
        model: config.name.clone().unwrap_or_default(),
        family: config.family.clone(),
        weights_digest: Hex(&opened.weights_digest()).to_string(),
        text_sha256: Hex(&sha256(text.as_bytes())).to_string(),
        tokens: ids.len() as u64,
        ctx: args.ctx as u64,
    };
    let layout = Layout::new(&inputs, detail, &origin)?;
    let widest = inputs.iter().map(|i| i.width).max().unwrap_or(0);
    if detail == Detail::Hessian && ids.len() < widest {
        eprintln!(
            "warning: {} tokens cannot fill the Hessians of {widest} channels: take more text, or --diagonal",
            ids.len()
        );
    }
    forecast(args, layout.length, peak)?;
    if args.dry_run {
        return Ok(Exit::Done);
    }

    interrupt::watch();
    let steps = windows.len() as u64 * (u64::from(config.num_layers) + 1);
    let bar = progress::bar(common, steps, "calibrating");
    let mut window_done = || {
        bar.inc(1);
        if interrupt::requested() { Err(Error::Cancelled) } else { Ok(()) }
    };
    let mut writer = CalibrationWriter::create(&args.output, &layout, inputs, detail, &mut window_done)?;
    let collected = collect(&model, &windows, detail, &mut writer);
    bar.finish_and_clear();
    collected?;
    let digest = Hex(&writer.finish()?).to_string();
    if args.json {
        output::json(&json!({
            "output": args.output.display().to_string(),
            "bytes": layout.length,
            "sha256": digest,
            "inputs": model.inputs().len(),
            "tokens": ids.len(),
            "windows": windows.len(),
            "hessians": detail == Detail::Hessian,
        }))?;
    } else {
        output::line(format!(
            "{}: {} inputs over {} tokens, {}; SHA-256 {digest}",
            args.output.display(),
            model.inputs().len(),
            output::count(ids.len() as u64),
            output::bytes(layout.length)
        ))?;
    }
    Ok(Exit::Done)
}

/// Says what it will take, and refuses what the disk cannot hold.
fn forecast(args: &Args, length: u64, memory: u64) -> Result<(), Failure> {
    let folder = match args.output.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let folder = folder
        .canonicalize()
        .map_err(|e| Failure::usage(format!("output folder {}: {e}; create it first", folder.display())))?;
    let free = free_bytes(&folder)?;
    eprintln!(
        "calibration needs about {} of memory beside the model and {} of {} free on disk",
        output::bytes(memory),
        output::bytes(length),
        output::bytes(free)
    );
    if free < length {
        return Err(Failure::usage(format!(
            "{} has too little room: free some, or take --diagonal",
            folder.display()
        )));
    }
    Ok(())
}

/// An existing output is replaced only if it is a calibration file.
fn refuse_foreign(target: &Path, input: &Path) -> Result<(), Failure> {
    let Ok(existing) = std::fs::symlink_metadata(target) else { return Ok(()) };
    if std::fs::metadata(input).is_ok_and(|m| (m.dev(), m.ino()) == (existing.dev(), existing.ino())) {
        return Err(Failure::usage(format!("output {} is the input", target.display())));
    }
    if existing.is_file() && existing.len() > 0 && CalibrationFile::open(target).is_err() {
        return Err(Failure::usage(format!(
            "output {} exists and is no calibration file: remove it yourself, or choose another name",
            target.display()
        )));
    }
    Ok(())
}
