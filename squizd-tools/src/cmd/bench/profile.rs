//! `squizd bench profile`: where the time of one token goes on a GPU.

use super::super::{
    Common,
    model::{Compute, Opened},
};
use crate::{Exit, Failure, output};
use squizd::gpu::{Gpu, GpuModel, GpuSession, Math, Profile};
use squizd::runtime::SessionOptions;
use squizd_spec::FileBytes;
use std::{path::PathBuf, sync::Arc, time::Duration};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file
    file: PathBuf,
    /// Tokens before the measured one
    #[arg(short = 'p', long, value_name = "N", default_value_t = 128)]
    n_prompt: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Positions that measuring takes.
const ROOM: usize = 80;
const WARM: Duration = Duration::from_millis(400);
const ROUNDS: u32 = 11;

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    let file = FileBytes::map(&args.file)?;
    let opened = Opened::new(&file, common.quiet)?;
    let model = opened.model()?;
    let options = SessionOptions { context: args.n_prompt + ROOM, ..args.compute.options() };
    let gpu = Arc::new(Gpu::from_env()?);
    let math = Math::for_precision(options.precision, gpu.abilities());
    let placed = GpuModel::new(&gpu, &model, Some(&file), math, &mut |_| {})?;
    let mut session = GpuSession::new(&placed, options)?;
    let vocab = model.vocab_size() as u32;
    let prompt: Vec<u32> = (0..args.n_prompt as u32).map(|i| i * 37 % vocab).collect();
    if !prompt.is_empty() {
        session.forward(&prompt)?;
    }
    let (warm, rounds) = if gpu.abilities().software { (Duration::ZERO, 1) } else { (WARM, ROUNDS) };
    let profile = session.profile(warm, rounds)?;
    if args.json {
        output::json(&profile)?;
    } else {
        output::line(table(&gpu, &profile))?;
    }
    Ok(Exit::Done)
}

fn table(gpu: &Gpu, p: &Profile) -> String {
    let rows = p.kernels.iter().map(|k| {
        let each = k.us / k.dispatches as f64;
        format!("\n| {} | {} | {:.1} | {each:.2} |", k.kernel, k.dispatches, k.us)
    });
    let dispatches: usize = p.kernels.iter().map(|k| k.dispatches).sum();
    format!(
        "One token after {} on {}: {:.1} us from id to id; {dispatches} dispatches take the device {:.1} us, \
         the CPU {:.1} us to record and {:.1} us to submit.\n\n\
         | kernel | dispatches | us less without them | us each |\n|---|---:|---:|---:|{}",
        p.past,
        gpu.adapter(),
        p.token_us,
        p.device_us,
        p.record_us,
        p.submit_us,
        rows.collect::<String>()
    )
}
