//! Opening a file: all that lies between its name and a session that could
//! compute the first token.

use super::{
    Summary,
    report::Format,
    trial::{Loaded, milliseconds},
};
use crate::{Failure, output};
use serde::Serialize;
use squizd::{
    dispatch::Cpu,
    runtime::{Run, Session, SessionOptions},
};
use squizd_spec::FileBytes;
use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

/// How long a file takes to open.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opening {
    /// The file.
    pub file: String,
    /// Its bytes.
    pub disk_bytes: u64,
    /// Its tensors.
    pub tensors: usize,
    /// Milliseconds of the first opening of this process.
    pub first_ms: f64,
    /// Milliseconds of the others: map, parse and check the structure, resolve
    /// every tensor, choose kernels, predict memory, reserve the cache.
    pub open_ms: Summary,
}

/// Opens the file `trials` times after a first one.
///
/// # Errors
/// If the file is invalid, the runtime does not run its model, or `trials` is 0.
pub fn opening(path: &Path, options: SessionOptions, trials: usize) -> Result<Opening, Failure> {
    let first_ms = milliseconds(open(path, options)?);
    let times: Vec<f64> =
        (0..trials).map(|_| open(path, options).map(milliseconds)).collect::<Result<_, _>>()?;
    let bytes = FileBytes::map(path)?;
    let loaded = Loaded::new(&bytes)?;
    Ok(Opening {
        file: path.display().to_string(),
        disk_bytes: bytes.len() as u64,
        tensors: loaded.file.tensor_count(),
        first_ms,
        open_ms: Summary::of(&times).ok_or_else(|| Failure::usage("nothing to measure: -r is 0"))?,
    })
}

/// Opens the file once; how long that takes. The tokenizer is not part of it.
pub(super) fn open(path: &Path, options: SessionOptions) -> Result<Duration, Failure> {
    let started = Instant::now();
    let bytes = FileBytes::map(path)?;
    let loaded = Loaded::new(&bytes)?;
    let need = loaded.memory(&Run::generating(options));
    let kernels = loaded.model.kernels(&[&Cpu::current(options.precision)])?;
    let session = Session::new(&loaded.model, options)?;
    let elapsed = started.elapsed();
    black_box((need.total(), kernels.len(), session.remaining()));
    Ok(elapsed)
}

/// Prints openings on stdout.
///
/// # Errors
/// If stdout cannot be written.
pub fn print_openings(openings: &[Opening], format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(&Document { files: openings }),
        Format::Jsonl => openings.iter().try_for_each(output::json),
        Format::Csv => {
            output::line(
                "file,disk_bytes,tensors,first_ms,open_ms_mean,open_ms_p50,open_ms_p95,open_ms_p99",
            )?;
            openings.iter().try_for_each(|o| {
                let s = &o.open_ms;
                let file = super::report::quoted(&o.file);
                output::line(format!(
                    "{file},{},{},{},{},{},{},{}",
                    o.disk_bytes, o.tensors, o.first_ms, s.mean, s.p50, s.p95, s.p99
                ))
            })
        }
        Format::Md => {
            output::line("| file | size | tensors | first ms | open P50 ms | P95 | P99 |")?;
            output::line("|---|---|---|---|---|---|---|")?;
            openings.iter().try_for_each(|o| {
                let (s, size) = (&o.open_ms, output::bytes(o.disk_bytes));
                output::line(format!(
                    "| {} | {size} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
                    super::report::name(&o.file),
                    o.tensors,
                    o.first_ms,
                    s.p50,
                    s.p95,
                    s.p99
                ))
            })
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    files: &'a [Opening],
}
