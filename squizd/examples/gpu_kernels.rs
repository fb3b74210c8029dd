//! Measures the GPU kernels against the device's own ceilings.
//!
//! ```text
//! cargo build --release -p squizd --features gpu --example gpu_kernels
//! target/release/examples/gpu_kernels [--json] [--small] [--tune] [--sparse] [--codec NAME]... [--shape ROWSxCOLS]...
//! ```
//! `SQUIZD_ADAPTER` picks an adapter by a part of its name. The binary needs the
//! Vulkan loader (`libvulkan.so.1`) and a driver, nothing else.

use squizd::gpu::Gpu;
use squizd::gpu::bench::{self, KernelResult};
use std::collections::BTreeMap;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut plan = bench::Plan::full();
    let mut shapes = Vec::new();
    let mut json = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => json = true,
            "--small" => plan = bench::Plan { tune: plan.tune, sparse: plan.sparse, ..bench::Plan::small() },
            "--tune" => plan.tune = true,
            "--sparse" => plan.sparse = true,
            "--codec" => plan.codecs.push(value()?),
            "--shape" => {
                let text = value()?;
                let (rows, cols) = text.split_once('x').ok_or("a shape is ROWSxCOLS")?;
                shapes.push((rows.parse()?, cols.parse()?));
            }
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    if !shapes.is_empty() {
        plan.shapes = shapes;
    }
    let gpu = Gpu::from_env()?;
    let ceilings = bench::ceilings(&gpu, &plan)?;
    if !json {
        println!("{}: {:?}", gpu.adapter(), gpu.abilities());
        println!(
            "read {:.0} GB/s, copy {:.0} GB/s, dispatch {:.2} us, submit and wait {:.1} us\n",
            ceilings.read_gbs, ceilings.copy_gbs, ceilings.dispatch_us, ceilings.submit_us
        );
        println!("| codec | input | rows x cols | us | GB/s | share | Gweights/s | workgroups |");
        println!("|---|---|---|---|---|---|---|---|");
    }
    let results = bench::kernels(&gpu, &plan, &ceilings, &mut |r| {
        if !json {
            println!(
                "| {} | {} | {} x {} | {:.2} | {:.0} | {:.1}% | {:.0} | {} |",
                r.codec,
                r.math,
                r.rows,
                r.cols,
                r.us,
                r.gbs,
                100.0 * r.share,
                r.gweights,
                r.tuning
            );
        }
    })?;
    if !json && plan.tune {
        println!("\nThe table of squizd/src/gpu/tuning.rs, each of the largest matrix:\n");
        let mut best: BTreeMap<(&str, &str), &KernelResult> = BTreeMap::new();
        for r in results.iter().filter(|r| r.tuned.is_some()) {
            let kept = best.entry((&r.codec, &r.math)).or_insert(r);
            if r.rows * r.cols > kept.rows * kept.cols {
                *kept = r;
            }
        }
        for line in best.values().filter_map(|r| r.tuned.as_deref()) {
            println!("{line}");
        }
    }
    if json {
        let all = serde_json::json!({ "schema_version": 1, "ceilings": ceilings, "kernels": results });
        println!("{all:#}");
    }
    Ok(())
}
