//! `squizd diff A B`.

use super::Common;
use crate::{Exit, Failure, output};
use serde::Serialize;
use serde_json::Value;
use squizd_spec::{SectionKind, SquizdRef, TensorView};
use std::{collections::BTreeMap, path::PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Reference file
    a: PathBuf,
    /// File to compare with it
    b: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Compare codecs, shapes, digests and metadata only, no values
    #[arg(long)]
    no_values: bool,
}

#[derive(Serialize, Default)]
struct Report {
    identical: bool,
    header: Vec<Change>,
    metadata: Vec<Change>,
    sections: Vec<Change>,
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
    tensors: Vec<TensorChange>,
    same_tensors: usize,
}

#[derive(Serialize, PartialEq)]
struct Change {
    field: String,
    a: Value,
    b: Value,
}

#[derive(Serialize)]
struct TensorChange {
    name: String,
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance: Option<Distance>,
}

/// Numeric distance of decoded values.
#[derive(Serialize, Clone, Copy)]
struct Distance {
    /// Root of the mean squared difference, relative to A's root mean square.
    relative_rms: f64,
    /// Largest absolute difference.
    max_abs: f32,
    /// `10 log10(sum a^2 / sum (a-b)^2)`; absent when the values are equal.
    snr_db: Option<f64>,
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    let (bytes_a, bytes_b) = (super::map(&args.a)?, super::map(&args.b)?);
    let (a, b) = (super::parse(&bytes_a)?, super::parse(&bytes_b)?);
    let report = compare(&a, &b, !args.no_values, common)?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.identical { Exit::Done } else { Exit::Negative })
}

fn compare(a: &SquizdRef<'_>, b: &SquizdRef<'_>, values: bool, common: Common) -> Result<Report, Failure> {
    let mut report = Report {
        header: header_changes(a, b),
        metadata: metadata_changes(a, b)?,
        sections: section_changes(a, b),
        identical: a.bytes() == b.bytes(),
        ..Report::default()
    };
    let others: BTreeMap<&str, TensorView<'_>> = b.tensors().map(|t| (t.desc.name, t)).collect();
    let bar = super::progress::bar(common, a.descs().map(|t| t.elements()).sum(), "comparing");
    for ta in a.tensors() {
        bar.inc(ta.elements());
        let Some(tb) = others.get(ta.desc.name) else {
            report.only_in_a.push(ta.name.to_owned());
            continue;
        };
        match tensor_change(&ta, tb, values)? {
            Some(change) => report.tensors.push(change),
            None => report.same_tensors += 1,
        }
    }
    bar.finish_and_clear();
    let known: std::collections::BTreeSet<&str> = a.descs().map(|t| t.name).collect();
    report.only_in_b = b.descs().filter(|t| !known.contains(t.name)).map(|t| t.name.to_owned()).collect();
    Ok(report)
}

/// Collects the differing ones of `(field, a, b)`.
fn changes(fields: impl IntoIterator<Item = (String, Value, Value)>) -> Vec<Change> {
    fields.into_iter().filter(|(_, a, b)| a != b).map(|(field, a, b)| Change { field, a, b }).collect()
}

fn header_changes(a: &SquizdRef<'_>, b: &SquizdRef<'_>) -> Vec<Change> {
    const DERIVED: [&str; 3] = ["root_digest", "weights_digest", "file_length"];
    let (a, b) = (super::inspect::header_json(a), super::inspect::header_json(b));
    let field = |v: &Value, key: &str| v.get(key).cloned().unwrap_or_default();
    let keys = a
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k.clone())
        .filter(|k| !DERIVED.contains(&k.as_str()));
    changes(keys.map(|k| (k.clone(), field(&a, &k), field(&b, &k))))
}

fn section_changes(a: &SquizdRef<'_>, b: &SquizdRef<'_>) -> Vec<Change> {
    const COMPARED_ELSEWHERE: [SectionKind; 4] =
        [SectionKind::STRINGS, SectionKind::TENSORS, SectionKind::PAYLOAD, SectionKind::METADATA];
    let length = |f: &SquizdRef<'_>, kind| f.entry(kind).map_or(Value::Null, |e| e.length.get().into());
    let data = |f: &SquizdRef<'_>, kind| f.section(kind).map(|s| s.entry.sha256);
    let kinds = SectionKind::ALL.iter().copied().filter(|k| !COMPARED_ELSEWHERE.contains(k));
    kinds
        .filter(|&k| data(a, k) != data(b, k))
        .map(|k| Change { field: k.to_string(), a: length(a, k), b: length(b, k) })
        .collect()
}

/// Differing leaves of the two metadata documents, by JSON pointer.
fn metadata_changes(a: &SquizdRef<'_>, b: &SquizdRef<'_>) -> Result<Vec<Change>, Failure> {
    let leaves = |f: &SquizdRef<'_>| -> Result<BTreeMap<String, Value>, Failure> {
        let mut out = BTreeMap::new();
        flatten("", &super::inspect::metadata(f)?, &mut out);
        Ok(out)
    };
    let (a, b) = (leaves(a)?, leaves(b)?);
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).cloned().collect();
    let get = |m: &BTreeMap<String, Value>, k: &str| m.get(k).cloned().unwrap_or_default();
    Ok(changes(keys.into_iter().map(|k| (k.clone(), get(&a, &k), get(&b, &k)))))
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{path}/{k}"), v, out)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| flatten(&format!("{path}/{i}"), v, out));
        }
        leaf => drop(out.insert(path.to_owned(), leaf.clone())),
    }
}

fn tensor_change(
    a: &TensorView<'_>,
    b: &TensorView<'_>,
    values: bool,
) -> Result<Option<TensorChange>, Failure> {
    let (ja, jb) = (super::inspect::tensor_json(a), super::inspect::tensor_json(b));
    let field = |v: &Value, key: &str| v.get(key).cloned().unwrap_or_default();
    let changes = changes(
        ["role", "layer", "part", "experts", "source_dtype", "dims", "codec", "params", "bytes"]
            .map(|k| (k.to_owned(), field(&ja, k), field(&jb, k))),
    );
    if changes.is_empty() && a.sha256 == b.sha256 {
        return Ok(None);
    }
    let comparable = values && *a.dims == *b.dims;
    let distance = if comparable { Some(distance(a, b)?) } else { None };
    Ok(Some(TensorChange { name: a.name.to_owned(), changes, distance }))
}

fn distance(a: &TensorView<'_>, b: &TensorView<'_>) -> Result<Distance, Failure> {
    let (mut energy, mut error, mut max_abs) = (0.0f64, 0.0f64, 0.0f32);
    super::inspect::for_value_pairs(a, b, |x, y| {
        for (&x, &y) in x.iter().zip(y) {
            let d = f64::from(x) - f64::from(y);
            energy += f64::from(x) * f64::from(x);
            error += d * d;
            max_abs = max_abs.max((x - y).abs());
        }
    })?;
    let relative_rms = if error == 0.0 { 0.0 } else { (error / energy).sqrt() };
    let snr_db = (error > 0.0).then(|| 10.0 * (energy / error).log10());
    Ok(Distance { relative_rms, max_abs, snr_db })
}

fn print(report: &Report) -> Result<(), Failure> {
    if report.identical {
        return output::line("files are identical");
    }
    for (title, list) in
        [("header", &report.header), ("metadata", &report.metadata), ("section", &report.sections)]
    {
        for change in list {
            output::line(format!("{title} {}: {} -> {}", change.field, short(&change.a), short(&change.b)))?;
        }
    }
    for (side, names) in [("A", &report.only_in_a), ("B", &report.only_in_b)] {
        for name in names {
            output::line(format!("only in {side}: {name}"))?;
        }
    }
    let rows = report.tensors.iter().map(|t| {
        let what: Vec<_> =
            t.changes.iter().map(|c| format!("{} {} -> {}", c.field, short(&c.a), short(&c.b))).collect();
        let number = |f: &dyn Fn(&Distance) -> String| t.distance.as_ref().map_or_else(|| "-".into(), f);
        vec![
            t.name.clone(),
            what.join(", "),
            number(&|d| format!("{:.3e}", d.relative_rms)),
            number(&|d| format!("{:.3e}", d.max_abs)),
            number(&|d| output::decibels(d.snr_db.unwrap_or(f64::INFINITY))),
        ]
    });
    if !report.tensors.is_empty() {
        output::line(output::table(&["tensor", "change", "relative rms", "max abs", "SNR"], 2, rows))?;
    }
    output::line(format!("{} tensors are the same, {} differ", report.same_tensors, report.tensors.len()))
}

/// A value cut to a readable length.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}
