//! What a benchmark reports, and the forms it is printed in.

use super::{LlamaModel, Machine, Reading, Summary, markdown::markdown};
use crate::{Failure, output};
use serde::Serialize;

/// What every trial does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Prompt tokens; 0 starts from a single one and measures no prefill.
    pub prompt: usize,
    /// Decoding steps after the first token.
    pub steps: usize,
    /// Positions reserved.
    pub context: usize,
    /// Trials asked for; one more warms up. How many a number has is in its
    /// summary: a time limit may end them earlier.
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
    /// Milliseconds to open the file, from the page cache: see [`super::Opening`].
    pub load_ms: Summary,
    /// Milliseconds of the prompt's forward pass.
    pub forward_ms: Summary,
    /// Milliseconds from the request to the first token, prompt included, in this
    /// process.
    pub first_token_ms: Summary,
    /// The same for a client of `squizd serve`, from connecting to the first event
    /// of the stream.
    pub served_first_token_ms: Option<Summary>,
    /// What of that is not the forward pass of the prompt, trial by trial.
    pub served_lag_ms: Option<Summary>,
    /// Prompt tokens per second.
    pub prefill_tok_s: Option<Summary>,
    /// Decoding steps per second.
    pub decode_tok_s: Option<Summary>,
    /// Bytes per second of memory read, once per trial.
    pub read_bandwidth: Summary,
    /// `bytes_per_token` times decoding steps per second over the bandwidth of the
    /// same trial, or on a GPU over the device's. A file that fits a cache can exceed 1.
    pub bandwidth_share: Option<Summary>,
    /// The same model in llama.cpp, once for each quantization.
    pub llama_cpp: Vec<LlamaReport>,
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

impl LlamaReport {
    /// How llama.cpp did in the trials of a file of `bits` per weight; `rates` are
    /// squizd's and llama.cpp's of each trial, of the prompt and of decoding.
    pub(super) fn new(model: &LlamaModel, bits: f64, rates: &[Vec<[f64; 2]>; 2]) -> Self {
        let column = |pairs: &[[f64; 2]], f: fn(&[f64; 2]) -> f64| -> Option<Summary> {
            Summary::of(&pairs.iter().map(f).collect::<Vec<_>>())
        };
        let [prefill, decode] = rates;
        Self {
            quantization: model.quantization.clone(),
            bits_per_weight: model.bits_per_weight,
            bits_ratio: model.bits_per_weight / bits,
            version: model.version.clone(),
            prefill_tok_s: column(prefill, |p| p[1]),
            decode_tok_s: column(decode, |p| p[1]),
            prefill_ratio: column(prefill, |p| p[0] / p[1]),
            decode_ratio: column(decode, |p| p[0] / p[1]),
        }
    }
}

impl Measured {
    /// Every number's name and summary, for the flat form.
    fn summaries(&self) -> Vec<(String, Option<Summary>)> {
        let own = [
            ("load_ms", Some(self.load_ms)),
            ("forward_ms", Some(self.forward_ms)),
            ("first_token_ms", Some(self.first_token_ms)),
            ("served_first_token_ms", self.served_first_token_ms),
            ("served_lag_ms", self.served_lag_ms),
            ("prefill_tok_s", self.prefill_tok_s),
            ("decode_tok_s", self.decode_tok_s),
            ("read_bandwidth", Some(self.read_bandwidth)),
            ("bandwidth_share", self.bandwidth_share),
        ];
        let mut all: Vec<_> = own.into_iter().map(|(name, s)| (name.to_owned(), s)).collect();
        for l in &self.llama_cpp {
            let quantization = l.quantization.replace([' ', ',', '"'], "_");
            let theirs = [
                ("prefill_tok_s", l.prefill_tok_s),
                ("decode_tok_s", l.decode_tok_s),
                ("prefill_ratio", l.prefill_ratio),
                ("decode_ratio", l.decode_ratio),
            ];
            all.extend(theirs.map(|(name, s)| (format!("llama_{quantization}_{name}"), s)));
        }
        all
    }

    /// The least ratio to llama.cpp over its quantizations, by the median of the
    /// trials: prefill, decode.
    pub(super) fn least_ratios(&self) -> [Option<f64>; 2] {
        let least = |ratio: fn(&LlamaReport) -> Option<Summary>| {
            self.llama_cpp.iter().filter_map(ratio).map(|s| s.p50).min_by(f64::total_cmp)
        };
        [least(|l| l.prefill_ratio), least(|l| l.decode_ratio)]
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
            Format::Md => output::line(markdown(self).trim_end()),
        }
    }

    fn csv(&self) -> String {
        let w = &self.workload;
        let mut out = String::new();
        for (i, model) in self.models.iter().enumerate() {
            let device = model.device;
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
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
            for l in &model.llama_cpp {
                let name = format!("llama_{}_bits_per_weight", l.quantization.replace([' ', ',', '"'], "_"));
                fields.push((name, l.bits_per_weight.to_string()));
            }
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
}

/// The last part of a path.
pub(super) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A field of RFC 4180.
pub(super) fn quoted(text: &str) -> String {
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
        let theirs = |name: &str, bits| LlamaModel {
            quantization: name.into(),
            bits_per_weight: bits,
            version: "x".into(),
        };
        Measured {
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
            forward_ms: summary(11.0),
            first_token_ms: summary(12.0),
            served_first_token_ms: Some(summary(13.0)),
            served_lag_ms: Some(summary(2.0)),
            prefill_tok_s: Some(summary(1000.0)),
            decode_tok_s: None,
            read_bandwidth: summary(1e10),
            bandwidth_share: None,
            llama_cpp: vec![
                LlamaReport::new(&theirs("Q4_0", 5.0), 4.0, &[vec![[30.0, 10.0], [20.0, 10.0]], vec![]]),
                LlamaReport::new(
                    &theirs("llama Q4_K", 6.0),
                    4.0,
                    &[vec![[30.0, 20.0], [20.0, 20.0]], vec![]],
                ),
            ],
        }
    }

    #[test]
    fn comparisons_are_by_trial() {
        let measured = measured();
        let llama = &measured.llama_cpp[0];
        assert!((llama.bits_ratio - 1.25).abs() < 1e-12);
        let ratio = llama.prefill_ratio.unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.n), (2.0, 3.0, 2));
        assert_eq!((llama.prefill_tok_s.unwrap().mean, llama.decode_ratio), (10.0, None));
        // Of the medians 2.5 and 1.25.
        assert_eq!(measured.least_ratios(), [Some(1.25), None]);
    }

    #[test]
    fn flat_forms_have_every_column_for_every_file() {
        let report = Report {
            version: "0",
            machine: Machine::this(),
            workload: Workload { prompt: 4, steps: 0, context: 5, trials: 30, threads: 1 },
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
        for column in
            ["llama_Q4_0_bits_per_weight", "llama_llama_Q4_K_prefill_ratio_p50", "served_lag_ms_p99"]
        {
            assert!(lines[0].split(',').any(|c| c == column), "{column}");
        }
        assert_eq!(lines[0].split(',').count() + 1, lines[1].split(',').count());
        let text = markdown(&report);
        for part in [
            "it is not there",
            "2 trials (of 30 asked for; time was up)",
            "| a,b.squizd | first token, ms | 15.00 |",
            "| a,b.squizd | of that not its forward pass, ms | 2.500 |",
            "| Q4_0, 5.00 bits/weight (x) | prefill, tok/s | 10.00 |",
            "| a,b.squizd | 4.000 | Q4_0 | 1.25 | 2.500 | -",
            "| a,b.squizd | 4.000 | the fastest of these | | 1.250 | |  | |",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains("decode, tok/s") && !text.contains("dispatches"));
        let mut on_gpu = report;
        on_gpu.models[0].device =
            Some(Device { read_bandwidth: 3e12, dispatch_us: 2.0, dispatches_per_token: 250 });
        let text = markdown(&on_gpu);
        assert!(
            text.contains("a,b.squizd: 250 dispatches a token, 2.00 us each at least: at most 2000 tok/s")
        );
        assert!(text.contains("| 3000.0 |"), "{text}");
        assert_eq!(on_gpu.csv().lines().next(), Some(lines[0]));
    }
}
