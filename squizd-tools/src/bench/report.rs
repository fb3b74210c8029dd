//! What a benchmark reports, and the forms it is printed in.

use super::{LlamaModel, Machine, Reading, Summary};
use crate::{Failure, output};
use serde::Serialize;
use std::fmt::Write;

/// What every trial does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Prompt tokens; 0 starts from a single one and measures no prefill.
    pub prompt: usize,
    /// Decoding steps after the first token.
    pub steps: usize,
    /// Positions reserved.
    pub context: usize,
    /// Trials that count; one more warms up.
    pub trials: usize,
    /// Worker threads, of squizd, llama.cpp and the bandwidth measurement.
    pub threads: usize,
}

/// llama.cpp on the same model, trial by trial beside squizd.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LlamaReport {
    /// Quantization it ran.
    pub quantization: String,
    /// Bits of tensor data per weight.
    pub bits_per_weight: f64,
    /// Its bits over squizd's.
    pub bits_ratio: f64,
    /// Version, as it names itself.
    pub version: String,
    /// Prompt tokens per second.
    pub prefill_tok_s: Option<Summary>,
    /// Decoding steps per second.
    pub decode_tok_s: Option<Summary>,
    /// squizd's rate over llama.cpp's, per trial.
    pub prefill_ratio: Option<Summary>,
    /// squizd's rate over llama.cpp's, per trial.
    pub decode_ratio: Option<Summary>,
}

/// What bounds decoding on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Device {
    /// Bytes per second that a kernel reads at most.
    pub read_bandwidth: f64,
    /// Microseconds of a dispatch that waits for the one before.
    pub dispatch_us: f64,
    /// Dispatches of one token.
    pub dispatches_per_token: usize,
}

impl Device {
    /// Tokens per second if dispatches took no longer than empty ones.
    pub fn dispatch_bound(&self) -> f64 {
        1e6 / (self.dispatch_us * self.dispatches_per_token as f64)
    }
}

/// What was measured of one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The file.
    pub file: String,
    /// Model family.
    pub family: String,
    /// Where it was computed: `cpu`, or the adapter.
    pub backend: String,
    /// What bounds decoding there, on a GPU.
    pub device: Option<Device>,
    /// Codec the file was converted with.
    pub codec: String,
    /// Bytes of the file.
    pub disk_bytes: u64,
    /// Weights of all tensors.
    pub weights: u64,
    /// Stored bits over weights, scales and tables included.
    pub bits_per_weight: f64,
    /// Payload bytes that one decoding step reads.
    pub bytes_per_token: u64,
    /// Most resident memory of a process that maps the file and answers once,
    /// mapped pages included; `None` where the system does not count it.
    pub peak_rss_bytes: Option<u64>,
    /// Milliseconds to map, parse and resolve the file, from the page cache.
    pub load_ms: Summary,
    /// Milliseconds from the request to the first token, prompt included.
    pub first_token_ms: Summary,
    /// Prompt tokens per second.
    pub prefill_tok_s: Option<Summary>,
    /// Decoding steps per second.
    pub decode_tok_s: Option<Summary>,
    /// Bytes per second of memory read, once per trial.
    pub read_bandwidth: Summary,
    /// `bytes_per_token` times decoding steps per second over the bandwidth of the
    /// same trial, or on a GPU over the device's. A file that fits a cache can exceed 1.
    pub bandwidth_share: Option<Summary>,
    /// The same model in llama.cpp.
    pub llama_cpp: Option<LlamaReport>,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// squizd's version.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// What every trial did.
    pub workload: Workload,
    /// How bandwidth was measured.
    pub bandwidth: Reading,
    /// Why llama.cpp was not run, where it was not.
    pub llama_cpp_absent: Option<String>,
    /// One entry per file.
    pub models: Vec<Measured>,
}

impl Measured {
    /// Adds how llama.cpp did in the same trials.
    pub(super) fn compare(&mut self, model: &LlamaModel, rates: [Vec<[f64; 2]>; 2]) {
        let column = |pairs: &[[f64; 2]], f: fn(&[f64; 2]) -> f64| -> Option<Summary> {
            Summary::of(&pairs.iter().map(f).collect::<Vec<_>>())
        };
        let [prefill, decode] = &rates;
        self.llama_cpp = Some(LlamaReport {
            quantization: model.quantization.clone(),
            bits_per_weight: model.bits_per_weight,
            bits_ratio: model.bits_per_weight / self.bits_per_weight,
            version: model.version.clone(),
            prefill_tok_s: column(prefill, |p| p[1]),
            decode_tok_s: column(decode, |p| p[1]),
            prefill_ratio: column(prefill, |p| p[0] / p[1]),
            decode_ratio: column(decode, |p| p[0] / p[1]),
        });
    }

    /// Every number's name and summary, for the flat forms.
    fn summaries(&self) -> [(&'static str, Option<Summary>); 10] {
        let llama = self.llama_cpp.as_ref();
        [
            ("load_ms", Some(self.load_ms)),
            ("first_token_ms", Some(self.first_token_ms)),
            ("prefill_tok_s", self.prefill_tok_s),
            ("decode_tok_s", self.decode_tok_s),
            ("read_bandwidth", Some(self.read_bandwidth)),
            ("bandwidth_share", self.bandwidth_share),
            ("llama_prefill_tok_s", llama.and_then(|l| l.prefill_tok_s)),
            ("llama_decode_tok_s", llama.and_then(|l| l.decode_tok_s)),
            ("prefill_ratio", llama.and_then(|l| l.prefill_ratio)),
            ("decode_ratio", llama.and_then(|l| l.decode_ratio)),
        ]
    }
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values: a header, a line per file
    Csv,
    /// One JSON document
    Json,
    /// A line of JSON per file
    Jsonl,
    /// Markdown tables
    Md,
}

impl Report {
    /// Prints the report on stdout.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => output::json(self),
            Format::Jsonl => self.models.iter().try_for_each(output::json),
            Format::Csv => output::line(self.csv().trim_end()),
            Format::Md => output::line(self.markdown().trim_end()),
        }
    }

    fn csv(&self) -> String {
        let w = &self.workload;
        let mut out = String::new();
        for (i, model) in self.models.iter().enumerate() {
            let (llama, device) = (model.llama_cpp.as_ref(), model.device);
            let mut fields: Vec<(String, String)> = [
                ("file", quoted(&model.file)),
                ("family", quoted(&model.family)),
                ("backend", quoted(&model.backend)),
                ("codec", quoted(&model.codec)),
                ("device_read_bandwidth", device.map(|d| d.read_bandwidth.to_string()).unwrap_or_default()),
                ("dispatch_us", device.map(|d| d.dispatch_us.to_string()).unwrap_or_default()),
                (
                    "dispatches_per_token",
                    device.map(|d| d.dispatches_per_token.to_string()).unwrap_or_default(),
                ),
                ("disk_bytes", model.disk_bytes.to_string()),
                ("weights", model.weights.to_string()),
                ("bits_per_weight", model.bits_per_weight.to_string()),
                ("bytes_per_token", model.bytes_per_token.to_string()),
                ("peak_rss_bytes", model.peak_rss_bytes.map(|b| b.to_string()).unwrap_or_default()),
                ("prompt", w.prompt.to_string()),
                ("steps", w.steps.to_string()),
                ("threads", w.threads.to_string()),
                ("trials", w.trials.to_string()),
                ("llama_quantization", llama.map(|l| quoted(&l.quantization)).unwrap_or_default()),
                ("llama_bits_per_weight", llama.map(|l| l.bits_per_weight.to_string()).unwrap_or_default()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
            for (name, summary) in model.summaries() {
                let number = |f: fn(&Summary) -> f64| summary.as_ref().map(|s| f(s).to_string());
                let bound =
                    |i: usize| summary.and_then(|s| s.ci95).and_then(|c| c.get(i).map(f64::to_string));
                let columns = [
                    ("mean", number(|s| s.mean)),
                    ("ci95_low", bound(0)),
                    ("ci95_high", bound(1)),
                    ("p50", number(|s| s.p50)),
                    ("p95", number(|s| s.p95)),
                    ("p99", number(|s| s.p99)),
                ];
                fields.extend(
                    columns.map(|(column, value)| (format!("{name}_{column}"), value.unwrap_or_default())),
                );
            }
            let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
            if i == 0 {
                out += &names.join(",");
                out.push('\n');
            }
            out += &values.join(",");
            out.push('\n');
        }
        out
    }

    fn markdown(&self) -> String {
        let mut out = String::new();
        let (m, w, b) = (&self.machine, &self.workload, &self.bandwidth);
        let cache = b.cache_bytes.map_or_else(|| "of unknown size".into(), output::bytes);
        let load = m.load.map_or_else(|| "unknown".into(), |l| format!("{l:.1}"));
        let _ = write!(
            out,
            "squizd {}, {} ({} processors, {}), load average {load} at the start. {} trials of {} prompt tokens and {} \
             steps on {} threads, one more to warm up. Read bandwidth: {} read once per trial by {} threads, \
             last-level cache {cache}. Intervals: 95 % of the mean, Student's t.\n\n",
            self.version,
            m.processor,
            m.processors,
            m.system,
            w.trials,
            w.prompt,
            w.steps,
            w.threads,
            output::bytes(b.buffer_bytes),
            w.threads,
        );
        if let Some(why) = &self.llama_cpp_absent {
            let _ = write!(out, "llama.cpp was not run: {why}.\n\n");
        }
        out += "| file | backend | codec | size | bits/weight | peak memory | load ms | bandwidth GB/s | share |\n\
                |---|---|---|---|---|---|---|---|---|\n";
        for model in &self.models {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {:.3} | {} | {:.2} | {:.1} | {} |",
                name(&model.file),
                model.backend,
                model.codec,
                output::bytes(model.disk_bytes),
                model.bits_per_weight,
                model.peak_rss_bytes.map(output::bytes).unwrap_or_default(),
                model.load_ms.p50,
                model.device.map_or(model.read_bandwidth.p50, |d| d.read_bandwidth) / 1e9,
                model.bandwidth_share.map_or_else(String::new, |s| format!("{:.0} %", 100.0 * s.p50)),
            );
        }
        for model in &self.models {
            let Some(d) = model.device else { continue };
            let _ = write!(
                out,
                "\n{}: {} dispatches a token, {:.2} us each at least: at most {} tok/s.\n",
                name(&model.file),
                d.dispatches_per_token,
                d.dispatch_us,
                short(d.dispatch_bound()),
            );
        }
        out +=
            "\n| file | number | mean | 95 % interval | P50 | P95 | P99 |\n|---|---|---|---|---|---|---|\n";
        for model in &self.models {
            let llama = model.llama_cpp.as_ref();
            let theirs = llama.map_or_else(String::new, |l| {
                format!(
                    "llama.cpp {} ({:.2} bits/weight, {:.2} of ours)",
                    l.quantization, l.bits_per_weight, l.bits_ratio
                )
            });
            let rows = [
                ("first token, ms".to_owned(), Some(model.first_token_ms)),
                ("prefill, tok/s".to_owned(), model.prefill_tok_s),
                ("decode, tok/s".to_owned(), model.decode_tok_s),
                (format!("prefill, {theirs}, tok/s"), llama.and_then(|l| l.prefill_tok_s)),
                (format!("decode, {theirs}, tok/s"), llama.and_then(|l| l.decode_tok_s)),
                ("prefill, squizd over llama.cpp".to_owned(), llama.and_then(|l| l.prefill_ratio)),
                ("decode, squizd over llama.cpp".to_owned(), llama.and_then(|l| l.decode_ratio)),
            ];
            for (what, summary) in rows {
                let Some(s) = summary else { continue };
                let interval =
                    s.ci95.map_or_else(String::new, |[a, b]| format!("{} to {}", short(a), short(b)));
                let _ = writeln!(
                    out,
                    "| {} | {what} | {} | {interval} | {} | {} | {} |",
                    name(&model.file),
                    short(s.mean),
                    short(s.p50),
                    short(s.p95),
                    short(s.p99)
                );
            }
        }
        out
    }
}

/// The last part of a path.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A number for people: four significant digits, no exponent.
fn short(x: f64) -> String {
    let digits = if x == 0.0 { 0 } else { (3 - x.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{x:.*}", digits as usize)
}

/// A field of RFC 4180.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(x: f64) -> Summary {
        Summary::of(&[x, x * 1.5]).unwrap()
    }

    fn measured() -> Measured {
        let mut measured = Measured {
            file: "models/a,b.squizd".into(),
            family: "qwen3".into(),
            backend: "cpu".into(),
            device: None,
            codec: "int4".into(),
            disk_bytes: 1000,
            weights: 2000,
            bits_per_weight: 4.0,
            bytes_per_token: 900,
            peak_rss_bytes: Some(5_000_000),
            load_ms: summary(0.5),
            first_token_ms: summary(12.0),
            prefill_tok_s: Some(summary(1000.0)),
            decode_tok_s: None,
            read_bandwidth: summary(1e10),
            bandwidth_share: None,
            llama_cpp: None,
        };
        let theirs = LlamaModel { quantization: "Q4_0".into(), bits_per_weight: 5.0, version: "x".into() };
        measured.compare(&theirs, [vec![[30.0, 10.0], [20.0, 10.0]], vec![]]);
        measured
    }

    #[test]
    fn comparisons_are_by_trial() {
        let llama = measured().llama_cpp.unwrap();
        assert!((llama.bits_ratio - 1.25).abs() < 1e-12);
        let ratio = llama.prefill_ratio.unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.n), (2.0, 3.0, 2));
        assert_eq!((llama.prefill_tok_s.unwrap().mean, llama.decode_ratio), (10.0, None));
    }

    #[test]
    fn flat_forms_have_every_column_for_every_file() {
        let report = Report {
            version: "0",
            machine: Machine::this(),
            workload: Workload { prompt: 4, steps: 0, context: 5, trials: 2, threads: 1 },
            bandwidth: Reading { buffer_bytes: 1 << 20, cache_bytes: None },
            llama_cpp_absent: Some("it is not there".into()),
            models: vec![measured(), measured()],
        };
        let csv = report.csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].starts_with("file,family,backend,codec,")
                && lines[1].starts_with("\"models/a,b.squizd\",qwen3,cpu,")
        );
        assert_eq!(lines[0].split(',').count() + 1, lines[1].split(',').count());
        let text = report.markdown();
        assert!(
            text.contains("it is not there") && text.contains("| a,b.squizd | first token, ms | 15.00 |"),
            "{text}"
        );
        assert!(text.contains("llama.cpp Q4_0 (5.00 bits/weight, 1.25 of ours)"), "{text}");
        assert!(!text.contains("decode, tok/s") && !text.contains("dispatches"));
        let mut on_gpu = report;
        on_gpu.models[0].device =
            Some(Device { read_bandwidth: 3e12, dispatch_us: 2.0, dispatches_per_token: 250 });
        let text = on_gpu.markdown();
        assert!(
            text.contains("a,b.squizd: 250 dispatches a token, 2.00 us each at least: at most 2000 tok/s")
        );
        assert!(text.contains("| 3000.0 |"), "{text}");
        assert_eq!(on_gpu.csv().lines().next(), Some(lines[0]));
    }

    #[test]
    fn numbers_for_people() {
        let texts = [0.0, 0.012_345, 1.234_56, 123.456, 12345.6].map(short);
        assert_eq!(texts, ["0", "0.01235", "1.235", "123.5", "12346"]);
    }
}
