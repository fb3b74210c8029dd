//! A report for people: Markdown tables.

use super::{Summary, report::Measured, report::Report, report::name};
use crate::output;
use std::fmt::Write;

/// The report, ready to be a part of a document.
pub(super) fn markdown(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    out += "| file | backend | codec | size | bits/weight | peak memory | load ms | bandwidth GB/s | share |\n\
            |---|---|---|---|---|---|---|---|---|\n";
    for model in &report.models {
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
    for model in &report.models {
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
    out += "\n| file | number | mean | 95 % interval | P50 | P95 | P99 |\n|---|---|---|---|---|---|---|\n";
    for model in &report.models {
        let rows = [
            ("load, ms", Some(model.load_ms)),
            ("forward pass of the prompt, ms", Some(model.forward_ms)),
            ("first token, ms", Some(model.first_token_ms)),
            ("first token through `serve`, ms", model.served_first_token_ms),
            ("of that not its forward pass, ms", model.served_lag_ms),
            ("prefill, tok/s", model.prefill_tok_s),
            ("decode, tok/s", model.decode_tok_s),
        ];
        for (what, summary) in rows {
            row(&mut out, &[name(&model.file), what], summary);
        }
    }
    comparison(&report.models, &mut out);
    out
}

fn head(report: &Report, out: &mut String) {
    let Report { machine: m, workload: w, bandwidth: b, .. } = report;
    let cache = b.cache_bytes.map_or_else(|| "of unknown size".into(), output::bytes);
    let load = m.load.map_or_else(|| "unknown".into(), |l| format!("{l:.1}"));
    let done = report.models.first().map_or(w.trials, |m| m.first_token_ms.n);
    let limited =
        if done < w.trials { format!(" (of {} asked for; time was up)", w.trials) } else { String::new() };
    let _ = write!(
        out,
        "squizd {}, {} ({} processors, {}), load average {load} at the start. {done} trials{limited} of {} prompt \
         tokens and {} steps on {} threads, one more to warm up; everything in this section takes turns in each. Read \
         bandwidth: {} read once per trial by {} threads, last-level cache {cache}. Intervals: 95 % of the mean, \
         Student's t.\n\n",
        report.version,
        m.processor,
        m.processors,
        m.system,
        w.prompt,
        w.steps,
        w.threads,
        output::bytes(b.buffer_bytes),
        w.threads,
    );
    if let Some(why) = &report.llama_cpp_absent {
        let _ = write!(out, "llama.cpp was not run: {why}.\n\n");
    }
}

/// llama.cpp's rates, and squizd's over them.
fn comparison(models: &[Measured], out: &mut String) {
    let Some(first) = models.first().filter(|m| !m.llama_cpp.is_empty()) else { return };
    *out +=
        "\n| llama.cpp | number | mean | 95 % interval | P50 | P95 | P99 |\n|---|---|---|---|---|---|---|\n";
    for l in &first.llama_cpp {
        let label = format!("{}, {:.2} bits/weight ({})", l.quantization, l.bits_per_weight, l.version);
        row(out, &[&label, "prefill, tok/s"], l.prefill_tok_s);
        row(out, &[&label, "decode, tok/s"], l.decode_tok_s);
    }
    *out += "\nsquizd's rate over llama.cpp's, trial by trial:\n\n\
             | file | bits/weight | llama.cpp | its bits over ours | prefill: P50 | 95 % interval of the mean | decode: P50 | \
             95 % interval of the mean |\n|---|---|---|---|---|---|---|---|\n";
    for model in models {
        let file = name(&model.file);
        for l in &model.llama_cpp {
            let [prefill, decode] = [l.prefill_ratio, l.decode_ratio].map(|ratio| {
                ratio.map_or_else(|| " | ".to_owned(), |s| format!("{} | {}", short(s.p50), interval(&s)))
            });
            let _ = writeln!(
                out,
                "| {file} | {:.3} | {} | {:.2} | {prefill} | {decode} |",
                model.bits_per_weight, l.quantization, l.bits_ratio
            );
        }
        if model.llama_cpp.len() > 1 {
            let [prefill, decode] = model.least_ratios().map(|r| r.map_or_else(String::new, short));
            let _ = writeln!(
                out,
                "| {file} | {:.3} | the fastest of these | | {prefill} | | {decode} | |",
                model.bits_per_weight
            );
        }
    }
}

/// A line of a number's summary, if there is one.
fn row(out: &mut String, labels: &[&str], summary: Option<Summary>) {
    let Some(s) = summary else { return };
    let _ = writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} |",
        labels.join(" | "),
        short(s.mean),
        interval(&s),
        short(s.p50),
        short(s.p95),
        short(s.p99)
    );
}

fn interval(s: &Summary) -> String {
    s.ci95.map_or_else(String::new, |[a, b]| format!("{} to {}", short(a), short(b)))
}

/// A number for people: four significant digits, no exponent.
fn short(x: f64) -> String {
    let digits = if x == 0.0 { 0 } else { (3 - x.abs().log10().floor() as i32).clamp(0, 6) };
    format!("{x:.*}", digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let texts = [0.0, 0.012_345, 1.234_56, 123.456, 12345.6].map(short);
        assert_eq!(texts, ["0", "0.01235", "1.235", "123.5", "12346"]);
    }
}
