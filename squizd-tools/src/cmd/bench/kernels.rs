//! `squizd bench kernels`: the GPU kernels against what the device's memory
//! gives.

use crate::{Exit, Failure, bench::Device, output};
use serde_json::{Value, json};
use squizd::gpu::bench::{Ceilings, GemmResult, KernelResult, Plan, ceilings, gemms, kernels};
use squizd::gpu::{AdapterSummary, Gpu, GpuModel, GpuSession, Math, Tuning};
use squizd::runtime::SessionOptions;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print as JSON
    #[arg(long, conflicts_with = "md")]
    json: bool,
    /// Print as Markdown, the default
    #[arg(long)]
    md: bool,
    /// Codec to measure, or one of its layouts (int4:fine); repeatable [default: all that have kernels]
    #[arg(long, value_name = "NAME")]
    codec: Vec<String>,
    /// Form of the input to measure: f32, f16, i8, i24; repeatable [default: all that the kernels read]
    #[arg(long, value_name = "FORM")]
    input: Vec<Math>,
    /// Shape to measure; repeatable [default: 4096x4096 to 8192x28672, and small models' widths]
    #[arg(long, value_name = "ROWSxCOLS", value_parser = shape)]
    shape: Vec<(u64, u64)>,
    /// Shape of workgroups to measure instead of the built-in rule's, as reports show it; repeatable
    #[arg(long, value_name = "SHAPE", conflicts_with = "tune")]
    workgroups: Vec<Tuning>,
    /// Search for the best shape of workgroups, and report it
    #[arg(long)]
    tune: bool,
    /// Measure products that skip half of the clusters of neurons, too
    #[arg(long)]
    sparse: bool,
    /// Measure products with 64 and 512 vectors instead, and how far those of
    /// cooperative matrices are from those in f32; with --tune, all shapes of workgroups
    #[arg(long, conflicts_with_all = ["sparse", "apart", "input", "workgroups"])]
    gemm: bool,
    /// Let no product wait for the one before it: what a kernel makes of memory, without the start of a dispatch
    #[arg(long)]
    apart: bool,
    /// Only see whether everything runs: little data, one round
    #[arg(long)]
    small: bool,
}

/// `ROWSxCOLS`, both at least 1.
fn shape(text: &str) -> Result<(u64, u64), String> {
    let side = |side: &str| side.parse::<u64>().ok().filter(|n| (1..=1 << 24).contains(n));
    text.split_once('x')
        .and_then(|(rows, cols)| Some((side(rows)?, side(cols)?)))
        .ok_or_else(|| "a shape is ROWSxCOLS, such as 4096x4096".to_owned())
}

impl Args {
    fn plan(&self) -> Plan {
        let mut plan = if self.small { Plan::small() } else { Plan::full() };
        plan.codecs.clone_from(&self.codec);
        plan.inputs.clone_from(&self.input);
        plan.workgroups.clone_from(&self.workgroups);
        plan.tune = self.tune;
        plan.sparse = self.sparse;
        plan.apart = self.apart;
        if !self.shape.is_empty() {
            plan.shapes.clone_from(&self.shape);
        }
        plan
    }
}

/// How a path that this machine does not have is shown.
const NOT_MEASURED: &str = "not measured";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let plan = args.plan();
    let gpu = Gpu::from_env()?;
    let limits = ceilings(&gpu, &plan)?;
    if args.gemm {
        return run_gemms(args, &gpu, &plan, &limits);
    }
    if args.json {
        let results = kernels(&gpu, &plan, &limits, &mut |_| ())?;
        output::json(&document(&gpu, &limits, &results))?;
        return Ok(Exit::Done);
    }
    output::line(format!("{}{GEMV_HEAD}", head(&gpu, &limits)))?;
    let metal = is_metal(gpu.adapter());
    let mut printed = Ok(());
    kernels(&gpu, &plan, &limits, &mut |result| {
        if printed.is_ok() {
            printed = output::line(row(result, metal));
        }
    })?;
    printed?;
    Ok(Exit::Done)
}

fn run_gemms(args: &Args, gpu: &Gpu, plan: &Plan, limits: &Ceilings) -> Result<Exit, Failure> {
    if args.json {
        let results = gemms(gpu, plan, &mut |_| ())?;
        output::json(&document(gpu, limits, &results))?;
        return Ok(Exit::Done);
    }
    output::line(format!("{}{GEMM_HEAD}", head(gpu, limits)))?;
    let mut printed = Ok(());
    gemms(gpu, plan, &mut |result| {
        if printed.is_ok() {
            printed = output::line(gemm_row(result));
        }
    })?;
    printed?;
    Ok(Exit::Done)
}

const GEMM_HEAD: &str = "Error: of the results of cooperative matrices, against the f32 kernel's.\n\n\
     | codec | kernel | numbers | rows x cols | batch | us | TFLOP/s | error | workgroups |\n\
     |---|---|---|---:|---:|---:|---:|---:|---|";

fn gemm_row(r: &GemmResult) -> String {
    let error = r.error.map_or_else(String::new, |e| format!("{e:.1e}"));
    let tiling = r.tiling.map_or_else(String::new, |t| t.to_string());
    format!(
        "| {} | {} | {} | {} x {} | {} | {:.1} | {:.1} | {error} | {tiling} |",
        r.codec, r.kernel, r.math, r.rows, r.cols, r.batch, r.us, r.tflops
    )
}

/// What bounds decoding on a model's device.
pub(super) fn device(model: &GpuModel<'_, '_>) -> Result<Device, Failure> {
    let gpu = model.gpu();
    // Software is slow enough to be measured with little.
    let plan = if gpu.abilities().software { Plan::small() } else { Plan::full() };
    let limits = ceilings(gpu, &plan)?;
    let options = SessionOptions { context: 16, ..SessionOptions::default() };
    Ok(Device {
        read_bandwidth: limits.read_gbs * 1e9,
        dispatch_us: limits.dispatch_us,
        dispatches_per_token: GpuSession::new(model, options)?.dispatches_per_token()?,
    })
}

/// The command as it was given.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("squizd".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn is_metal(adapter: &AdapterSummary) -> bool {
    adapter.backend == "metal"
}

/// What was measured on which path, and the other path's absence.
fn document(gpu: &Gpu, limits: &Ceilings, results: &impl serde::Serialize) -> Value {
    let adapter = gpu.adapter();
    let (measured, other) = if is_metal(adapter) { ("metal", "vulkan") } else { ("vulkan", "metal") };
    let abilities = gpu.abilities();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "command": command(),
        "adapter": {
            "name": adapter.name,
            "backend": adapter.backend,
            "driver": adapter.driver,
            "software": adapter.software,
            "subgroup": abilities.subgroup,
            "f16": abilities.f16,
            "dot8": abilities.dot8,
            "cooperative": abilities.cooperative,
            "timestamps": abilities.timestamps,
        },
        "ceilings": limits,
        measured: results,
        other: NOT_MEASURED,
    })
}

/// Everything above the rows.
fn head(gpu: &Gpu, limits: &Ceilings) -> String {
    let (adapter, abilities) = (gpu.adapter(), gpu.abilities());
    let columns = |value: String| {
        if is_metal(adapter) {
            format!("{NOT_MEASURED} | {value}")
        } else {
            format!("{value} | {NOT_MEASURED}")
        }
    };
    let yes = |able: bool| if able { "yes" } else { "no" };
    let subgroup = abilities
        .subgroup
        .map_or_else(|| "none".to_owned(), |(min, max)| format!("{min} to {max} invocations"));
    format!(
        "# GPU kernels\n\n\
         Command: `{}`  \n\
         Version: {}  \n\
         Adapter: {} ({})  \n\
         Driver: {}  \n\
         Subgroups: {subgroup}; f16: {}; integer dot products: {}; cooperative matrices: {}; timestamps: {}\n\n\
         | ceiling | Vulkan | Metal |\n|---|---:|---:|\n\
         | read, GB/s | {} |\n\
         | copy, GB/s | {} |\n\
         | dependent dispatch, us | {} |\n\
         | submit and wait, us | {} |\n\n\
",
        command(),
        env!("CARGO_PKG_VERSION"),
        adapter.name,
        adapter.backend,
        adapter.driver,
        yes(abilities.f16),
        yes(abilities.dot8),
        abilities.cooperative.map_or_else(|| "no".to_owned(), |side| format!("{side} x {side}")),
        yes(abilities.timestamps),
        columns(format!("{:.1}", limits.read_gbs)),
        columns(format!("{:.1}", limits.copy_gbs)),
        columns(format!("{:.2}", limits.dispatch_us)),
        columns(format!("{:.1}", limits.submit_us)),
    )
}

const GEMV_HEAD: &str = "Share: of the read ceiling.\n\n\
     | codec | kernel | input | rows x cols | us | GB/s | Gweights/s | workgroups | share, Vulkan | share, Metal |\n\
     |---|---|---|---:|---:|---:|---:|---|---:|---:|";

fn row(r: &KernelResult, metal: bool) -> String {
    let share = format!("{:.1}%", 100.0 * r.share);
    let shares =
        if metal { format!("{NOT_MEASURED} | {share}") } else { format!("{share} | {NOT_MEASURED}") };
    format!(
        "| {} | {} | {} | {} x {} | {:.2} | {:.1} | {:.1} | {} | {shares} |",
        r.codec, r.kernel, r.math, r.rows, r.cols, r.us, r.gbs, r.gweights, r.tuning
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_rows_and_columns() {
        assert_eq!(shape("12x34"), Ok((12, 34)));
        for wrong in ["12", "x", "0x1", "1x0", "1x2x3", "-1x2", "1x99999999999"] {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
    }
}
